// SPDX-License-Identifier: GPL-2.0-or-later

//! The exception index: lookup and insert, from a thousand to ten million exceptions.

#![allow(missing_docs)]

use criterion::criterion_group;
use criterion::criterion_main;
use criterion::measurement::WallTime;
use criterion::BatchSize;
use criterion::BenchmarkGroup;
use criterion::BenchmarkId;
use criterion::Criterion;
use criterion::Throughput;
use holey_core::format::Exception;
use holey_core::index::Directory;
use holey_core::index::Index;
use holey_core::index::IndexError;
use holey_core::index::IndexWriter;
use holey_core::index::Node;
use holey_core::index::SEGMENT_NODES;
use std::hint::black_box;
use std::sync::OnceLock;
use std::time::Duration;

const SIZES: [u64; 5] = [1_000, 10_000, 100_000, 1_000_000, 10_000_000];
/// Lookups or inserts measured at a time.
const BATCH: u64 = 1000;
/// Room for ten million single exceptions and more.
const MAX_SEGMENTS: usize = 1 << 14;
/// A prime near 2^32 divided by the golden ratio.
const STEP: u64 = 2_654_435_761;

struct Segments(Vec<OnceLock<Vec<Node>>>);

impl Directory for Segments {
    fn segment(&self, n: usize) -> Option<&[Node]> {
        Some(self.0.get(n)?.get()?)
    }
}

struct Filled {
    index: Index<Segments>,
    writer: IndexWriter,
}

impl Filled {
    fn new() -> Self {
        let segments = (0..MAX_SEGMENTS).map(|_| OnceLock::new()).collect();
        Self {
            index: Index::new(Segments(segments)),
            writer: IndexWriter::new(),
        }
    }

    fn insert(&mut self, origin: u64, cow: u64) {
        let exception = Exception { origin, cow };
        loop {
            match self.index.insert(&mut self.writer, exception) {
                Ok(()) => return,
                Err(IndexError::NeedNodes) => self.grow(),
                Err(why) => panic!("{origin}: {why}"),
            }
        }
    }

    fn grow(&mut self) {
        let nodes = (0..SEGMENT_NODES).map(|_| Node::new()).collect();
        let at = self.writer.segments();
        let room = self.index.directory().0.get(at).expect("room for nodes");
        assert!(room.set(nodes).is_ok());
        self.index.add_segment(&mut self.writer).expect("a segment");
    }

    /// Every fourth chunk of the origin, in no order.
    fn scattered(count: u64) -> Self {
        let mut filled = Self::new();
        for n in 0..count {
            filled.insert(scattered(n, count), n + 2);
        }
        filled
    }

    /// Consecutive chunks in runs.
    fn runs(count: u64) -> Self {
        let mut filled = Self::new();
        for n in 0..count {
            // A gap in the COW device now and then ends a run there, as areas do.
            filled.insert(n, n + n / 256 + 2);
        }
        filled
    }
}

fn scattered(n: u64, count: u64) -> u64 {
    n * STEP % count * 4
}

/// Short, as there are many sizes to measure.
fn batches<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group
        .throughput(Throughput::Elements(BATCH))
        .measurement_time(Duration::from_secs(2))
        .warm_up_time(Duration::from_secs(1));
    group
}

fn lookup(c: &mut Criterion) {
    let mut group = batches(c, "index/lookup");
    for size in SIZES {
        for (name, filled, stride) in [
            ("scattered", Filled::scattered(size), 4),
            ("runs", Filled::runs(size), 1),
        ] {
            let mut at = 0;
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter(|| {
                    for _ in 0..BATCH {
                        at = (at + STEP) % (size * stride);
                        let _ = black_box(filled.index.lookup(black_box(at)));
                    }
                });
            });
        }
    }
    group.finish();
}

/// Inserts into an index of that size, that are taken out again unmeasured.
fn insert(c: &mut Criterion) {
    let mut group = batches(c, "index/insert");
    for size in SIZES {
        let mut filled = Filled::scattered(size);
        let places: Vec<_> = (0..BATCH)
            .map(|n| scattered(n * (size / BATCH), size) + 2)
            .collect();
        group.bench_function(BenchmarkId::new("scattered", size), |b| {
            b.iter_custom(|rounds| {
                let mut took = Duration::ZERO;
                for _ in 0..rounds {
                    let begun = std::time::Instant::now();
                    for (n, &place) in places.iter().enumerate() {
                        filled.insert(place, size * 2 + 2 * n as u64);
                    }
                    took += begun.elapsed();
                    for &place in &places {
                        let removed = filled.index.remove(&mut filled.writer, place);
                        assert_eq!(removed, Ok(true));
                    }
                }
                took
            });
        });
    }
    group.finish();
}

/// From nothing: what an activation does.
fn build(c: &mut Criterion) {
    let mut group = c.benchmark_group("index/build");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(5));
    for size in [100_000, 1_000_000] {
        group.throughput(Throughput::Elements(size));
        for (name, build) in [
            ("scattered", Filled::scattered as fn(u64) -> Filled),
            ("runs", Filled::runs),
        ] {
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter_batched(|| size, build, BatchSize::PerIteration);
            });
        }
    }
    group.finish();
}

criterion_group!(benches, lookup, insert, build);
criterion_main!(benches);
