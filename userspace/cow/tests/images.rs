// SPDX-License-Identifier: GPL-2.0-or-later

//! From two images to a store and back.

mod common;

use common::chunk;
use common::diff;
use common::pattern;
use common::Cached;
use common::Failing;
use common::Power;
use common::CHUNK;
use dmholey_cow::apply;
use dmholey_cow::disk::Access;
use dmholey_cow::disk::Device;
use dmholey_cow::format::ChunkSize;
use dmholey_cow::output::Output;
use dmholey_cow::progress::Silent;
use dmholey_cow::writer::Ground;
use dmholey_cow::Kind;
use dmholey_cow::MemDisk;
use dmholey_cow::Progress;
use dmholey_cow::Store;
use dmholey_cow::Writer;
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;

fn store(bytes: Vec<u8>) -> Store<MemDisk> {
    Store::open(MemDisk::new(bytes)).unwrap()
}

fn apply_to(image: &[u8], old: &[u8]) -> Vec<u8> {
    let target = MemDisk::new(old.to_vec());
    apply::apply(&mut store(image.to_vec()), &target, &Silent).unwrap();
    target.into_bytes()
}

#[test]
fn equal_images_differ_in_nothing() {
    let old = pattern(100 * CHUNK, 1);
    let image = diff(&old, &old);
    assert_eq!(store(image).survey().unwrap().exceptions, 0);
}

#[test]
fn one_byte_costs_one_chunk() {
    let old = pattern(1000 * CHUNK, 1);
    let mut new = old.clone();
    new[123 * CHUNK + 17] ^= 1;
    let store = store(diff(&old, &new));
    let entries: Vec<_> = store.entries().map(|e| e.unwrap()).collect();
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].origin, entries[0].cow), (123, 2));
}

#[test]
fn images_larger_than_a_segment_keep_their_order() {
    let len = (9 << 20) + 5000;
    let (old, new) = (pattern(len, 1), pattern(len, 2));
    let image = diff(&old, &new);
    let survey = store(image.clone()).survey().unwrap();
    assert!(survey.sorted);
    assert_eq!(survey.exceptions, len.div_ceil(CHUNK) as u64);
    assert_eq!(apply_to(&image, &old), new);
}

#[test]
fn a_partial_last_chunk_is_filled_up_and_cut_off_again() {
    for len in [1, 511, 512, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 700] {
        let (old, new) = (vec![0; len], pattern(len, 3));
        let image = diff(&old, &new);
        let tail = len % CHUNK;
        if tail != 0 {
            let last = &image[image.len() - CHUNK..];
            assert!(last[tail..].iter().all(|&b| b == 0));
        }
        assert_eq!(apply_to(&image, &old), new);
    }
}

#[test]
fn different_sizes_are_refused_with_the_way_out() {
    let writer = Writer::create(MemDisk::default(), chunk(), Ground::Zero).unwrap();
    let (old, new) = (MemDisk::new(vec![0; 8192]), MemDisk::new(vec![0; 4096]));
    let error = dmholey_cow::diff::diff(&old, &new, None, writer, &Silent).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("truncate -s 8192"), "{error}");
}

#[test]
fn a_target_that_is_too_small_is_not_written() {
    let (old, new) = (pattern(10 * CHUNK, 1), pattern(10 * CHUNK, 2));
    let image = diff(&old, &new);
    let small = MemDisk::new(old[..9 * CHUNK].to_vec());
    let error = apply::apply(&mut store(image), &small, &Silent).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert_eq!(small.into_bytes(), old[..9 * CHUNK]);
}

#[test]
fn an_invalidated_store_is_not_applied() {
    let old = pattern(CHUNK, 1);
    let mut image = diff(&old, &pattern(CHUNK, 2));
    image[4] = 0;
    let target = MemDisk::new(old.clone());
    let error = apply::apply(&mut store(image), &target, &Silent).unwrap_err();
    assert_eq!(error.kind(), Kind::Store);
    assert_eq!(target.into_bytes(), old);
}

/// Stops after some steps.
struct StopAfter(std::sync::atomic::AtomicU64);

impl Progress for StopAfter {
    fn update(&self, _done: u64, _total: u64) {
        let left = self.0.load(std::sync::atomic::Ordering::SeqCst);
        self.0
            .store(left.saturating_sub(1), std::sync::atomic::Ordering::SeqCst);
    }

    fn stop(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::SeqCst) == 0
    }
}

#[test]
fn applying_can_be_stopped_and_done_again() {
    let (old, new) = (pattern(2000 * CHUNK, 1), pattern(2000 * CHUNK, 2));
    let image = diff(&old, &new);
    let target = MemDisk::new(old);
    let error = apply::apply(&mut store(image.clone()), &target, &StopAfter(3.into())).unwrap_err();
    assert_eq!(error.kind(), Kind::Interrupted);
    assert_ne!(target.to_bytes(), new);
    apply::apply(&mut store(image), &target, &Silent).unwrap();
    assert_eq!(target.into_bytes(), new);
}

#[test]
fn applying_survives_a_cut_at_every_write() {
    let old = pattern(900 * CHUNK, 1);
    let mut new = old.clone();
    for n in (0..900).step_by(3) {
        new[n * CHUNK] ^= 0xff;
    }
    let image = diff(&old, &new);
    for writes in (0..301).step_by(7) {
        let target = Failing::after(old.clone(), writes);
        let result = apply::apply(&mut store(image.clone()), &target, &Silent);
        assert_eq!(result.is_ok(), writes >= 300);
        let target = target.inner;
        apply::apply(&mut store(image.clone()), &target, &Silent).unwrap();
        assert!(target.into_bytes() == new);
    }
}

#[test]
fn a_store_cut_at_any_write_is_none() {
    let (old, new) = (pattern(700 * CHUNK, 1), pattern(700 * CHUNK, 2));
    let before = diff(&new, &old);
    for writes in 1..20 {
        let disk = Failing::after(before.clone(), writes);
        let result = Writer::create(disk, chunk(), Ground::Used).and_then(|writer| {
            let (old, new) = (MemDisk::new(old.clone()), MemDisk::new(new.clone()));
            dmholey_cow::diff::diff(&old, &new, None, writer, &Silent)
        });
        if let Ok((disk, _)) = result {
            assert_eq!(apply_to(&disk.inner.into_bytes(), &old), new);
            assert!(writes > 3);
            return;
        }
    }
    panic!("never finished");
}

#[test]
fn a_merge_leaves_an_empty_store() {
    let (old, new) = (pattern(600 * CHUNK, 1), pattern(600 * CHUNK, 2));
    let mut store = store(diff(&old, &new));
    let target = MemDisk::new(old);
    let merged = apply::merge(&mut store, &target, &Silent).unwrap();
    assert_eq!(merged.exceptions, 600);
    assert!(target.into_bytes() == new);
    assert_eq!(store.survey().unwrap().exceptions, 0);
    let report = dmholey_cow::check::check(store.into_disk(), None).unwrap();
    assert_eq!(report.problems, 0);
}

/// A disk, and a store with some of its chunks in no order, which the list has more than one area for.
fn scattered(count: u64) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let old = pattern(400 * CHUNK + 700, 1);
    let mut new = old.clone();
    let changed = pattern(old.len(), 2);
    let mut numbers: Vec<u64> = (0..401).collect();
    numbers.sort_unstable_by_key(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    numbers.truncate(count as usize);
    numbers.sort_unstable();
    for &n in &numbers {
        let end = new.len().min((n as usize + 1) * CHUNK);
        let range = n as usize * CHUNK..end;
        new[range.clone()].copy_from_slice(&changed[range]);
    }
    let image = diff(&old, &new);
    (old, new, image)
}

/// What is left in the list, over what is in the disk, is the new content.
fn is_whole(image: &[u8], disk: &[u8], new: &[u8]) -> bool {
    apply_to(image, disk) == new
}

/// Merges while the power is cut again and again. Returns how often something was lost.
fn merge_with_cuts(count: u64, batch: u64, steps: u64, seed: u64, lies: bool) -> u64 {
    let (mut disk, new, mut image) = scattered(count);
    let (mut lost, mut cuts) = (0, 0);
    loop {
        // Each time a little longer, so that there is an end.
        let power = Power::for_steps(steps + 5 * cuts);
        let mut store = Store::open(Cached::new(&power, image)).unwrap();
        let mut target = Cached::new(&power, disk);
        target.lies = lies;
        let merged = apply::merge_by(&mut store, &target, batch * CHUNK as u64, &Silent);
        cuts += 1;
        let done = merged.is_ok();
        image = store.into_disk().cut(seed + 3 * cuts);
        disk = target.cut(seed + 7 * cuts);
        lost += u64::from(!is_whole(&image, &disk, &new));
        if done {
            assert_eq!(self::store(image).survey().unwrap().exceptions, 0);
            return lost;
        }
    }
}

/// An exception leaves the list only when its content is durable in the disk; and without the flush this would be seen.
#[test]
fn power_cuts_lose_nothing_of_a_merge() {
    let mut seen = 0;
    for seed in 0..24 {
        let (batch, steps) = (1 + seed * 13 % 100, 3 + seed * 7 % 90);
        let count = 1 + seed * 29 % 400;
        assert_eq!(merge_with_cuts(count, batch, steps, seed, false), 0);
        seen += merge_with_cuts(count, batch, steps, seed, true);
    }
    assert!(seen > 20, "{seen}");
}

/// Who goes on does what is left, and a batch of what was done.
#[test]
fn a_merge_that_was_interrupted_goes_on() {
    let (old, new, image) = scattered(350);
    let (power, disk) = (Power::for_steps(u64::MAX), MemDisk::new(image));
    let target = Cached::new(&power, old);
    let mut done = 0;
    for stop in [2, 30, 10_000] {
        let mut store = Store::open(&disk).unwrap();
        let left = store.survey().unwrap().exceptions;
        let batch = 50 * CHUNK as u64;
        match apply::merge_by(&mut store, &target, batch, &StopAfter(stop.into())) {
            Ok(merged) => {
                assert_eq!(merged.exceptions, left);
                assert!(left <= 250, "{left}");
                done += 1;
            }
            Err(error) => assert_eq!(error.kind(), Kind::Interrupted),
        }
    }
    assert_eq!(done, 1);
    assert!(target.cut(8) == new);
}

#[test]
fn files_keep_their_holes() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let size = 64 << 20;
    for name in ["old", "new"] {
        let file = fs::File::create(path(name)).unwrap();
        file.set_len(size).unwrap();
    }
    let new = fs::File::options().write(true).open(path("new")).unwrap();
    new.write_all_at(b"change", 40 << 20).unwrap();
    let open = |name: &str| Device::open(&path(name), Access::Read).unwrap();
    let (output, disk, ground) = Output::create(&path("x.cow"), false).unwrap();
    assert_eq!(ground, Ground::Zero);
    assert!(!path("x.cow").exists());
    let writer = Writer::create(disk, ChunkSize::new(128).unwrap(), ground).unwrap();
    let (_, found) =
        dmholey_cow::diff::diff(&open("old"), &open("new"), None, writer, &Silent).unwrap();
    output.commit().unwrap();
    assert_eq!(found.written.exceptions, 1);
    assert_eq!(found.skipped_bytes, size - (4 << 20));
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 3);

    let mut store = Store::open(open("x.cow")).unwrap();
    let target = Device::open(&path("old"), Access::Write).unwrap();
    apply::apply(&mut store, &target, &Silent).unwrap();
    assert!(fs::read(path("old")).unwrap() == fs::read(path("new")).unwrap());
    assert!(fs::metadata(path("old")).unwrap().blocks() < 2048);

    let copy = dmholey_cow::copy::private(&store, None, &Silent).unwrap();
    assert!(fs::read(copy.path()).unwrap() == fs::read(path("x.cow")).unwrap());
}

#[test]
fn an_abandoned_output_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.cow");
    drop(Output::create(&path, false).unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    fs::write(&path, b"mine").unwrap();
    assert_eq!(
        Output::create(&path, false).unwrap_err().kind(),
        Kind::Refused
    );
    let (output, _, _) = Output::create(&path, true).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    output.commit().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"");
}

#[test]
fn two_writers_of_one_file_exclude_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    fs::write(&path, [0; 4096]).unwrap();
    let first = Device::open(&path, Access::Write).unwrap();
    let second = Device::open(&path, Access::Write).unwrap_err();
    assert_eq!(second.kind(), Kind::Refused);
    drop(first);
    Device::open(&path, Access::Write).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn old_and_difference_make_new(
        len in 1usize..(600 * CHUNK),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 1usize..9000), 0..40),
    ) {
        let old = pattern(len, 1);
        let mut new = old.clone();
        for (at, value, count) in edits {
            let at = at.index(len);
            let end = len.min(at + count);
            new[at..end].fill(value);
        }
        let image = diff(&old, &new);
        prop_assert!(apply_to(&image, &old) == new);
        // Once more changes nothing.
        prop_assert!(apply_to(&image, &new) == new);
        let report = dmholey_cow::check::check(MemDisk::new(image), Some(len as u64)).unwrap();
        prop_assert_eq!(report.findings, vec![]);
    }
}
