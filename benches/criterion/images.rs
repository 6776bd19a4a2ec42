// SPDX-License-Identifier: GPL-2.0-or-later

//! Comparing and applying images, beside the programs that people use for it: `cmp`, `dd`,
//! `rsync --inplace`.

#![allow(missing_docs)]

use criterion::criterion_group;
use criterion::criterion_main;
use criterion::measurement::WallTime;
use criterion::BatchSize;
use criterion::BenchmarkGroup;
use criterion::Criterion;
use criterion::Throughput;
use dmholey_cow::apply::apply;
use dmholey_cow::diff::diff;
use dmholey_cow::disk::Access;
use dmholey_cow::format::ChunkSize;
use dmholey_cow::output::Output;
use dmholey_cow::progress::Silent;
use dmholey_cow::Device;
use dmholey_cow::Store;
use dmholey_cow::Writer;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const IMAGE: usize = 128 << 20;
const CHUNK: usize = 4096;
/// Of so many chunks, one differs between the two images.
const ONE_IN: usize = 50;

struct Images {
    folder: TempDir,
}

impl Images {
    /// An old image, a copy of it, and a new one of which some chunks in no order differ.
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut bytes = vec![0; IMAGE];
        let mut state = 1_u64;
        for word in bytes.chunks_exact_mut(8) {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            word.copy_from_slice(&(state >> 16).to_le_bytes());
        }
        let images = Self { folder };
        std::fs::write(images.path("old"), &bytes).expect("the old image");
        std::fs::write(images.path("same"), &bytes).expect("a copy of it");
        for chunk in bytes.chunks_exact_mut(CHUNK).step_by(ONE_IN) {
            chunk.fill(0x5a);
        }
        std::fs::write(images.path("new"), &bytes).expect("the new image");
        images.diff("new");
        images
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn open(&self, name: &str, access: Access) -> Device {
        Device::open(&self.path(name), access).expect("an image")
    }

    /// Writes the difference from the old image to that one.
    fn diff(&self, name: &str) {
        let (output, disk, ground) = Output::create(&self.path("cow"), true).expect("an output");
        let chunk = ChunkSize::new(8).expect("a chunk size");
        let writer = Writer::create(disk, chunk, ground).expect("a store");
        let (old, new) = (
            self.open("old", Access::Read),
            self.open(name, Access::Read),
        );
        diff(&old, &new, None, writer, &Silent).expect("a difference");
        output.commit().expect("the store's name");
    }

    fn apply(&self) {
        let mut store = Store::open(self.open("cow", Access::Read)).expect("a store");
        let target = self.open("target", Access::Write);
        apply(&mut store, &target, &Silent).expect("the new image");
    }

    /// Makes the target the old image again, with nothing left to be written back.
    fn reset(&self) {
        std::fs::copy(self.path("old"), self.path("target")).expect("the old image");
        File::open(self.path("target"))
            .and_then(|file| file.sync_all())
            .expect("a sync");
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let status = Command::new(program)
            .args(arguments)
            .current_dir(self.folder.path())
            .status();
        assert!(status.is_ok_and(|status| status.success()), "{program}");
    }

    /// Whether the target is the new image: a benchmark that does nothing would be quick.
    fn is_new(&self) -> bool {
        let read = |path: &Path| {
            let mut bytes = vec![0; IMAGE];
            File::open(path)
                .and_then(|file| file.read_exact_at(&mut bytes, 0))
                .expect("an image");
            bytes
        };
        read(&self.path("target")) == read(&self.path("new"))
    }
}

/// Few rounds, each of which goes through a whole image.
fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group
        .throughput(Throughput::Bytes(IMAGE as u64))
        .sample_size(10)
        .measurement_time(Duration::from_secs(5));
    group
}

fn compare(c: &mut Criterion) {
    let images = Images::new();
    let mut group = group(c, "images/compare");
    group.bench_function("dmholey", |b| b.iter(|| images.diff("same")));
    group.bench_function("cmp", |b| b.iter(|| images.run("cmp", &["old", "same"])));
    group.finish();
}

fn update(c: &mut Criterion) {
    let images = Images::new();
    let mut group = group(c, "images/update");
    let dd = [
        "if=new",
        "of=target",
        "bs=1M",
        "conv=notrunc,fsync",
        "status=none",
    ];
    let rsync = [
        "--inplace",
        "--no-whole-file",
        "--ignore-times",
        "--fsync",
        "new",
        "target",
    ];
    let dmholey = || images.apply();
    let dd = || images.run("dd", &dd);
    let rsync = || images.run("rsync", &rsync);
    let ways: [(&str, &dyn Fn()); 3] = [("dmholey", &dmholey), ("dd", &dd), ("rsync", &rsync)];
    for (name, way) in ways {
        group.bench_function(name, |b| {
            b.iter_batched(|| images.reset(), |()| way(), BatchSize::PerIteration);
        });
        assert!(images.is_new(), "{name} has not made the new image");
    }
    group.finish();
}

criterion_group!(benches, compare, update);
criterion_main!(benches);
