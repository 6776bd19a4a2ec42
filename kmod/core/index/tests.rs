// SPDX-License-Identifier: GPL-2.0

//! The index against a model, its memory use, and its limits.

mod check;

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::OnceLock;
use std::vec::Vec;

/// Segments as an overlay would keep them.
struct Segments(Vec<OnceLock<Vec<Node>>>);

impl Directory for Segments {
    fn segment(&self, n: usize) -> Option<&[Node]> {
        Some(self.0.get(n)?.get()?)
    }
}

/// An index with its writer, which grows on demand, and the same as a map of single chunks.
struct Pair {
    index: Index<Segments>,
    writer: IndexWriter,
    model: BTreeMap<u64, u64>,
    grown: usize,
}

impl Pair {
    fn new(segments: usize) -> Self {
        Self {
            index: Index::new(Segments((0..segments).map(|_| OnceLock::new()).collect())),
            writer: IndexWriter::new(),
            model: BTreeMap::new(),
            grown: 0,
        }
    }

    fn grow(&mut self) {
        let nodes = (0..SEGMENT_NODES).map(|_| Node::new()).collect();
        let slot = &self.index.directory().0[self.writer.segments()];
        assert!(slot.set(nodes).is_ok());
        self.index.add_segment(&mut self.writer).unwrap();
        self.grown += 1;
    }

    /// Does a change, adding memory whenever it is refused for want of it.
    fn change<T>(
        &mut self,
        change: impl Fn(&Index<Segments>, &mut IndexWriter) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        loop {
            let before = (
                self.index.len(),
                self.writer.runs(),
                self.writer.used_nodes(),
            );
            match change(&self.index, &mut self.writer) {
                Err(error) => {
                    let after = (
                        self.index.len(),
                        self.writer.runs(),
                        self.writer.used_nodes(),
                    );
                    assert_eq!(before, after, "a refused change has changed something");
                    if error != IndexError::NeedNodes {
                        return Err(error);
                    }
                    assert!(self.writer.free_nodes() < IndexWriter::ENOUGH_NODES);
                    self.grow();
                }
                done => return done,
            }
        }
    }

    fn insert(&mut self, run: Run) {
        let chunks = run.origin..run.end();
        let exists = self.model.range(chunks).next().is_some();
        let done = self.change(|index, writer| index.insert_run(writer, run));
        if exists {
            assert_eq!(done, Err(IndexError::Exists));
        } else {
            assert_eq!(done, Ok(()));
            for n in 0..run.len {
                self.model.insert(run.origin + n, run.cow + n);
            }
        }
    }

    fn remove(&mut self, origin: u64, len: u64) {
        let gone: Vec<u64> = self
            .model
            .range(origin..origin.saturating_add(len))
            .map(|(chunk, _)| *chunk)
            .collect();
        let done = self.change(|index, writer| index.remove_run(writer, origin, len));
        assert_eq!(done, Ok(gone.len() as u64));
        for chunk in gone {
            self.model.remove(&chunk);
        }
    }

    /// The answer must be right for every chunk that it covers, and go up to the next border.
    fn probe(&self, chunk: u64) {
        let next = self.model.range(chunk..).next();
        match self.index.lookup(chunk).unwrap() {
            Extent::Unmapped { len } => {
                assert_eq!(len, next.map_or(u64::MAX, |(next, _)| next - chunk));
                assert_ne!(len, 0);
            }
            Extent::Mapped { cow, len } => {
                assert!((1..=Run::MAX_LEN).contains(&len));
                for n in 0..len {
                    assert_eq!(self.model.get(&(chunk + n)), Some(&(cow + n)));
                }
            }
        }
        let run = self.index.next_run(chunk).unwrap();
        assert_eq!(
            run.map(|run| (run.origin, run.cow)),
            next.map(|(origin, cow)| (*origin, *cow))
        );
    }

    fn check(&self) {
        self.index.check(&self.writer);
        assert_eq!(self.index.len(), self.model.len() as u64);
        let mut expected = self.model.iter();
        for run in self.index.runs(&self.writer) {
            for n in 0..run.len {
                let (origin, cow) = expected.next().expect("a run too many");
                assert_eq!((run.origin + n, run.cow + n), (*origin, *cow));
            }
        }
        assert_eq!(expected.next(), None);
    }

    fn bytes(&self) -> f64 {
        f64::from(self.writer.used_nodes()) * core::mem::size_of::<Node>() as f64
    }
}

/// A generator of numbers that look random and are the same each time.
struct Mix(u64);

impl Mix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

fn one(origin: u64, cow: u64) -> Run {
    Run {
        origin,
        cow,
        len: 1,
    }
}

#[test]
fn node_is_one_kib() {
    assert_eq!(core::mem::size_of::<Node>(), 1024);
}

#[test]
fn empty_index() {
    let pair = Pair::new(1);
    assert_eq!(pair.index.lookup(0), Ok(Extent::Unmapped { len: u64::MAX }));
    assert_eq!(pair.index.next_run(0), Ok(None));
    assert!(pair.index.is_empty());
    pair.check();
}

#[test]
fn refuses_what_it_cannot_hold() {
    let mut pair = Pair::new(1);
    pair.grow();
    let Pair { index, writer, .. } = &mut pair;
    for run in [
        Run {
            origin: 0,
            cow: 2,
            len: 0,
        },
        Run {
            origin: 0,
            cow: 2,
            len: 257,
        },
        Run {
            origin: u64::MAX,
            cow: 2,
            len: 1,
        },
        Run {
            origin: u64::MAX - 3,
            cow: 2,
            len: 4,
        },
        Run {
            origin: 0,
            cow: MAX_COW_CHUNKS,
            len: 1,
        },
        Run {
            origin: 0,
            cow: MAX_COW_CHUNKS - 1,
            len: 2,
        },
        Run {
            origin: 0,
            cow: u64::MAX,
            len: 2,
        },
    ] {
        assert_eq!(
            index.insert_run(writer, run),
            Err(IndexError::Range),
            "{run:?}"
        );
    }
    pair.insert(one(u64::MAX - 1, MAX_COW_CHUNKS - 1));
    pair.probe(u64::MAX - 1);
    pair.probe(u64::MAX);
    pair.probe(0);
    pair.check();
    let Pair { index, writer, .. } = &mut pair;
    assert_eq!(index.add_segment(writer), Err(IndexError::NeedNodes));
}

/// Segments that can get lost.
struct Fickle(Segments, AtomicBool);

impl Directory for Fickle {
    fn segment(&self, n: usize) -> Option<&[Node]> {
        let lost = self.1.load(Relaxed);
        self.0.segment(n).filter(|_| !lost)
    }
}

/// A directory that breaks its promise is an error, not a hang and not a wrong answer.
#[test]
fn lost_segments() {
    let pair = Pair::new(4);
    let index = Index::new(Fickle(pair.index.directory, AtomicBool::new(false)));
    let mut writer = IndexWriter::new();
    assert_eq!(index.add_segment(&mut writer), Err(IndexError::NeedNodes));
    let nodes = (0..SEGMENT_NODES).map(|_| Node::new()).collect();
    assert!(index.directory().0 .0[0].set(nodes).is_ok());
    assert_eq!(index.add_segment(&mut writer), Ok(()));
    assert_eq!(index.insert_run(&mut writer, one(1, 2)), Ok(()));
    index.directory().1.store(true, Relaxed);
    assert_eq!(index.lookup(1), Err(IndexError::Damaged));
    assert_eq!(index.next_run(0), Err(IndexError::Damaged));
    let inserted = index.insert_run(&mut writer, one(3, 7));
    assert_eq!(inserted, Err(IndexError::Damaged));
    assert_eq!(index.remove(&mut writer, 1), Err(IndexError::Damaged));
    assert_eq!(index.runs(&writer).next(), None);
    index.directory().1.store(false, Relaxed);
    assert_eq!(index.lookup(1), Ok(Extent::Mapped { cow: 2, len: 1 }));
    index.check(&writer);
}

#[test]
fn joins_runs() {
    let mut pair = Pair::new(1);
    pair.insert(one(10, 100));
    pair.insert(one(12, 102));
    assert_eq!(pair.writer.runs(), 2);
    pair.insert(one(11, 101));
    assert_eq!(pair.writer.runs(), 1);
    pair.insert(one(9, 99));
    pair.insert(one(13, 103));
    assert_eq!(pair.writer.runs(), 1);
    pair.insert(one(14, 200));
    assert_eq!(pair.writer.runs(), 2);
    assert_eq!(
        pair.index.lookup(10),
        Ok(Extent::Mapped { cow: 100, len: 4 })
    );
    pair.check();
}

/// One that grows, upwards or downwards, is cut into as few runs as can be.
#[test]
fn long_runs_are_dense() {
    for step in [1, 7, 256] {
        for down in [false, true] {
            let mut pair = Pair::new(100);
            let total = 7 * 256 * 16;
            for n in (0..total).step_by(step) {
                let n = if down { total - n - step } else { n } as u64;
                pair.insert(Run {
                    origin: 1000 + n,
                    cow: 2 + n,
                    len: step as u64,
                });
            }
            pair.check();
            let least = total as u64 / Run::MAX_LEN;
            assert!(
                pair.writer.runs() <= least + 3,
                "{} runs",
                pair.writer.runs()
            );
        }
    }
}

/// A run may grow over a border that the chunks behind it have left.
#[test]
fn grows_over_a_border() {
    let mut pair = Pair::new(10);
    for n in 0..200 {
        pair.insert(one(n * 1000, 2 + n * 2));
    }
    for n in 0..199 {
        pair.remove(n * 1000 + 1, 999);
        if n % 3 == 0 {
            pair.remove((n + 1) * 1000, 1);
        }
        for part in 0..4 {
            let origin = n * 1000 + 800 + part * 90;
            pair.insert(Run {
                origin,
                cow: 10_000 + origin,
                len: 90,
            });
        }
        pair.check();
        pair.probe(n * 1000 + 999);
        pair.probe(n * 1000 + 1001);
    }
}

#[test]
fn keys_far_apart() {
    let mut pair = Pair::new(1000);
    let mut mix = Mix(1);
    for n in 0..3000 {
        pair.insert(one(mix.next() >> (mix.below(8) * 8 + 1), 2 + n * 2));
    }
    pair.check();
    let chunks: Vec<u64> = pair.model.keys().copied().collect();
    for chunk in &chunks {
        pair.probe(*chunk);
        pair.probe(chunk.saturating_sub(1));
        pair.probe(chunk + 1);
    }
    for chunk in chunks {
        pair.remove(chunk, 1);
    }
    pair.check();
    assert_eq!(pair.writer.used_nodes(), 0);
}

#[test]
fn removing_all_gives_all_back() {
    let mut mix = Mix(7);
    for pattern in 0..4 {
        let mut pair = Pair::new(1000);
        for n in 0..20_000 {
            pair.insert(one(mix.below(1 << 30), 2 + n * 2));
        }
        pair.check();
        let mut chunks: Vec<u64> = pair.model.keys().copied().collect();
        match pattern {
            0 => {}
            1 => chunks.reverse(),
            2 => chunks.sort_by_key(|chunk| chunk.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            _ => pair.remove(0, u64::MAX),
        }
        for (n, chunk) in chunks.into_iter().enumerate() {
            pair.remove(chunk, 1);
            if n % 5000 == 0 {
                pair.check();
            }
        }
        pair.check();
        assert_eq!(pair.writer.used_nodes(), 0);
        pair.insert(one(5, 5));
        pair.index.clear(&mut pair.writer);
        pair.model.clear();
        pair.check();
        assert_eq!(pair.writer.used_nodes(), 0);
    }
}

/// Bytes of nodes per run after `count` inserts of runs of `len` chunks that never join.
fn fill(count: u64, mut origin: impl FnMut(u64) -> u64, len: u64) -> f64 {
    let mut pair = Pair::new(4096);
    for n in 0..count {
        let run = Run {
            origin: origin(n) * 300,
            cow: 2 + n * 300,
            len,
        };
        let _ = pair.change(|index, writer| index.insert_run(writer, run));
    }
    pair.index.check(&pair.writer);
    pair.bytes() / pair.writer.runs() as f64
}

/// Half of the 32 bytes that a node of a hash table would take, or less.
#[test]
fn memory_use() {
    let count = 60_000;
    for len in [1, 256] {
        let mut mix = Mix(3);
        let scattered = fill(count, |_| mix.below(1 << 30), len);
        let up = fill(count, |n| n, len);
        let down = fill(count, |n| count - n, len);
        let mut mix = Mix(4);
        let mut at = 0;
        let clustered = fill(
            count,
            |n| {
                if n % 50 == 0 {
                    at = mix.below(1 << 30);
                }
                at += 1;
                at
            },
            len,
        );
        std::println!("bytes a run of {len}: scattered {scattered:.2}, ascending {up:.2}, descending {down:.2}, clustered {clustered:.2}");
        assert!(scattered <= 16.0);
        assert!(up <= 10.5);
        assert!(down <= 10.5);
        assert!(clustered <= 16.0);
    }
}

#[test]
fn versions_tell_of_changes() {
    let mut pair = Pair::new(10);
    pair.insert(one(7, 2));
    let (found, version) = pair.index.lookup_versioned(5).unwrap();
    assert_eq!(found, Extent::Unmapped { len: 2 });
    assert!(pair.index.is_at(version));
    // Refused, hence no change.
    pair.insert(one(7, 3));
    assert!(pair.index.is_at(version));
    pair.insert(one(100, 4));
    assert!(!pair.index.is_at(version));
    let (_, version) = pair.index.lookup_versioned(5).unwrap();
    pair.remove(7, 1);
    assert!(!pair.index.is_at(version));
}

/// Leaves that were filled in order do not fall apart when random inserts follow.
#[test]
fn memory_use_after_loading() {
    let mut pair = Pair::new(4096);
    let mut mix = Mix(5);
    for n in 0..100_000 {
        let run = one(n * 1000, 2 + n * 2);
        pair.change(|index, writer| index.insert_run(writer, run))
            .unwrap();
    }
    let mut worst: f64 = 0.0;
    for n in 0..200_000 {
        let run = one(mix.below(100_000_000), 1_000_000 + n * 2);
        let _ = pair.change(|index, writer| index.insert_run(writer, run));
        if n % 1000 == 0 {
            worst = worst.max(pair.bytes() / pair.writer.runs() as f64);
        }
    }
    pair.index.check(&pair.writer);
    std::println!("bytes a run at worst, random after ordered: {worst:.2}");
    assert!(worst <= 16.0);
}

/// One change of the index.
#[derive(Clone, Debug)]
enum Op {
    Insert { origin: u64, cow: u64, len: u64 },
    Follow { back: u64, len: u64 },
    Remove { origin: u64, len: u64 },
    Probe { chunk: u64 },
    Clear,
}

fn ops(range: u64) -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (0..range, 0..range, 1u64..=256).prop_map(|(origin, cow, len)| Op::Insert { origin, cow, len }),
        12 => (0..range, 0..range).prop_map(|(origin, cow)| Op::Insert { origin, cow, len: 1 }),
        8 => (0..300u64, 1u64..40).prop_map(|(back, len)| Op::Follow { back, len }),
        3 => (0..range, 1u64..=600).prop_map(|(origin, len)| Op::Remove { origin, len }),
        6 => (0..range).prop_map(|origin| Op::Remove { origin, len: 1 }),
        1 => (0..range, 0..range).prop_map(|(origin, len)| Op::Remove { origin, len: len / 4 }),
        12 => (0..range + 600).prop_map(|chunk| Op::Probe { chunk }),
    ];
    prop::collection::vec(prop_oneof![400 => op, 1 => Just(Op::Clear)], 1..1500)
}

/// Runs `ops`, and checks everything now and then and at the end.
fn run(ops: Vec<Op>, scale: u64) {
    let mut pair = Pair::new(2000);
    let mut last = 0;
    for (n, op) in ops.into_iter().enumerate() {
        match op {
            Op::Insert { origin, cow, len } => {
                last = origin * scale;
                pair.insert(Run {
                    origin: last,
                    cow,
                    len,
                });
            }
            // Extends what was there, upwards or downwards, on both devices.
            Op::Follow { back, len } => {
                if let Some((origin, cow)) =
                    pair.model.range(..=last.saturating_add(back)).next_back()
                {
                    let (origin, cow) = (*origin, *cow);
                    pair.insert(Run {
                        origin: origin + 1,
                        cow: cow + 1,
                        len,
                    });
                    if origin >= len && cow >= len {
                        pair.insert(Run {
                            origin: origin - len,
                            cow: cow - len,
                            len,
                        });
                    }
                }
            }
            Op::Remove { origin, len } => pair.remove(origin * scale, len.saturating_mul(scale)),
            Op::Probe { chunk } => pair.probe(chunk * scale),
            Op::Clear => {
                pair.index.clear(&mut pair.writer);
                pair.model.clear();
            }
        }
        if n % 400 == 0 {
            pair.check();
        }
    }
    pair.check();
    let chunks: Vec<u64> = pair.model.keys().copied().collect();
    for chunk in chunks.iter().step_by(chunks.len() / 300 + 1) {
        pair.probe(*chunk);
        pair.probe(chunk + 1);
        pair.probe(chunk.saturating_sub(1));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn like_a_map_dense(ops in ops(2_000)) {
        run(ops, 1);
    }

    #[test]
    fn like_a_map_sparse(ops in ops(100_000)) {
        run(ops, 1);
    }

    #[test]
    fn like_a_map_far_apart(ops in ops(5_000)) {
        run(ops, 1 << 33);
    }

    /// Most runs come in order; some join their predecessor, some are before or over others.
    #[test]
    fn inserter_like_a_map(
        steps in prop::collection::vec((-300i64..1000, 1u64..=256, any::<bool>()), 0..1200),
        scale in prop_oneof![Just(1i64), Just(1 << 26)],
    ) {
        let mut pair = Pair::new(2000);
        let mut last = one(1000, 2);
        let mut runs = Vec::new();
        for (gap, len, joins) in steps {
            let gap = if joins { 0 } else { gap };
            let origin = last.end().saturating_add_signed(gap * scale);
            last = Run { origin, cow: last.cow + last.len + u64::from(!joins), len };
            runs.push(last);
        }
        let mut rest = &runs[..];
        while let Some((run, behind)) = rest.split_first() {
            let mut inserter = pair.index.inserter(&mut pair.writer);
            let mut done = inserter.insert_run(*run);
            let mut inserted = 0;
            for next in behind {
                if done.is_err() {
                    break;
                }
                inserted += 1;
                done = inserter.insert_run(*next);
            }
            inserted += usize::from(done.is_ok());
            for run in &rest[..inserted] {
                for n in 0..run.len {
                    prop_assert_eq!(pair.model.insert(run.origin + n, run.cow + n), None);
                }
            }
            rest = &rest[inserted..];
            match done {
                Ok(()) => {}
                Err(IndexError::NeedNodes) => pair.grow(),
                Err(error) => {
                    prop_assert_eq!(error, IndexError::Exists);
                    prop_assert!(pair.model.range(rest[0].origin..rest[0].end()).next().is_some());
                    rest = &rest[1..];
                }
            }
        }
        pair.check();
    }
}
