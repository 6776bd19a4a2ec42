// SPDX-License-Identifier: GPL-2.0-or-later

//! Areas and merge plans: what is done for every entry of a store.

#![allow(missing_docs)]

use criterion::criterion_group;
use criterion::criterion_main;
use criterion::BatchSize;
use criterion::BenchmarkId;
use criterion::Criterion;
use criterion::Throughput;
use holey_core::area::AreaImage;
use holey_core::format::Bounds;
use holey_core::format::ChunkSize;
use holey_core::format::Exception;
use holey_core::format::Layout;
use holey_core::merge::Window;
use holey_core::sort::places_for;
use holey_core::sort::sort_by_origin;
use std::hint::black_box;

/// A prime near 2^32 divided by the golden ratio.
const STEP: u64 = 2_654_435_761;

fn layout(sectors: u32) -> Layout {
    Layout::new(ChunkSize::new(sectors).expect("a chunk size"))
}

/// Entries of consecutive data chunks, for every fourth chunk of the origin, in no order.
fn scattered(layout: Layout, count: u64) -> Vec<Exception> {
    let mut cow = layout.first_data();
    let entry = |n| {
        let entry = Exception {
            origin: n * STEP % count * 4,
            cow: layout.skip_metadata(cow),
        };
        cow = entry.cow + 1;
        entry
    };
    (0..count).map(entry).collect()
}

/// The same for consecutive chunks of the origin.
fn runs(layout: Layout, count: u64) -> Vec<Exception> {
    let mut entries = scattered(layout, count);
    for (origin, entry) in (0..).zip(&mut entries) {
        entry.origin = origin;
    }
    entries
}

/// An area is read, and every entry of it checked.
fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("area/decode");
    for sectors in [8, 128] {
        let layout = layout(sectors);
        let entries = scattered(layout, layout.entries());
        let bytes: Vec<u8> = entries.iter().flat_map(Exception::encode).collect();
        let bounds = Bounds::new(layout.chunk(), 1 << 40, 1 << 40).expect("bounds");
        let mut area = AreaImage::new(layout, vec![0; bytes.len()]);
        group.throughput(Throughput::Elements(layout.entries()));
        group.bench_function(BenchmarkId::from_parameter(layout.entries()), |b| {
            b.iter(|| {
                area.load(0, black_box(&bytes), usize::MAX);
                (0..area.filled())
                    .filter_map(|slot| area.entry(slot))
                    .filter(|&entry| layout.check(entry, bounds).is_ok())
                    .count()
            });
        });
    }
    group.finish();
}

/// A window of a merge is sorted and joined into runs.
fn plan(c: &mut Criterion) {
    let mut group = c.benchmark_group("merge/plan");
    let layout = layout(8);
    for count in [256, 4096, 65536] {
        group.throughput(Throughput::Elements(count));
        for (name, entries) in [
            ("scattered", scattered(layout, count)),
            ("runs", runs(layout, count)),
        ] {
            let mut places = vec![0; places_for(entries.len())];
            group.bench_function(BenchmarkId::new(name, count), |b| {
                b.iter_batched_ref(
                    || (entries.clone(), entries.clone()),
                    |(entries, scratch)| {
                        sort_by_origin(entries, scratch, &mut places);
                        Window::new(entries).runs(256).count()
                    },
                    BatchSize::LargeInput,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, decode, plan);
criterion_main!(benches);
