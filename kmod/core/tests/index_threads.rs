// SPDX-License-Identifier: GPL-2.0

//! The exception index under readers that take no lock.
//!
//! One thread changes the index, two look things up. Some chunks, once inserted, are never removed:
//! they must be found at any time, at the right place, and no unmapped extent may reach over them.

use holey_core::index::Directory;
use holey_core::index::Extent;
use holey_core::index::Index;
use holey_core::index::IndexError;
use holey_core::index::IndexWriter;
use holey_core::index::Node;
use holey_core::index::Run;
use holey_core::index::SEGMENT_NODES;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::OnceLock;
use std::thread;

/// Chunks that stay.
const KEPT: u64 = 60_000;

struct Segments(Vec<OnceLock<Vec<Node>>>);

impl Directory for Segments {
    fn segment(&self, n: usize) -> Option<&[Node]> {
        Some(self.0.get(n)?.get()?)
    }
}

/// A permutation-like spread of numbers, the same each time.
fn mix(n: u64) -> u64 {
    let z = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The `n`th chunk that stays: multiples of 8, in a mixed order, without repetition.
fn kept(n: u64) -> u64 {
    (n.wrapping_mul(40_503) % (1 << 16)) * 8
}

/// Where a chunk lives whenever it is mapped. In the lower half chunks are consecutive on both
/// devices, so that runs are joined and cut all the time; in the upper half they never are.
fn place(chunk: u64) -> u64 {
    if chunk < 1 << 18 {
        2 + chunk
    } else {
        1_000_000 + (mix(chunk) % (1 << 32)) * 2
    }
}

/// Does a change, with more memory if it takes that.
fn change<T>(
    index: &Index<Segments>,
    writer: &mut IndexWriter,
    change: impl Fn(&mut IndexWriter) -> Result<T, IndexError>,
) -> Result<T, IndexError> {
    match change(writer) {
        Err(IndexError::NeedNodes) => {
            let nodes = (0..SEGMENT_NODES).map(|_| Node::new()).collect();
            let slot = &index.directory().0[writer.segments()];
            assert!(slot.set(nodes).is_ok());
            index.add_segment(writer)?;
            change(writer)
        }
        done => done,
    }
}

/// Inserts the chunks that stay, and between them inserts and removes others.
fn write(index: &Index<Segments>, published: &AtomicU64) {
    let mut writer = IndexWriter::new();
    for n in 0..KEPT {
        let run = Run {
            origin: kept(n),
            cow: place(kept(n)),
            len: 1,
        };
        let done = change(index, &mut writer, |writer| index.insert_run(writer, run));
        assert_eq!(done, Ok(()));
        published.store(n + 1, Ordering::Release);
        for k in 0..4 {
            let near = kept(mix(n * 4 + k) % KEPT);
            let chunk = near + 1 + mix(n + k) % 7;
            let run = Run {
                origin: chunk,
                cow: place(chunk),
                len: 1,
            };
            let done = change(index, &mut writer, |writer| index.insert_run(writer, run));
            if done == Err(IndexError::Exists) {
                // From the chunk to the next one that stays.
                let len = 8 - chunk % 8;
                let done = change(index, &mut writer, |writer| {
                    index.remove_run(writer, chunk, len)
                });
                assert!(matches!(done, Ok(1..=7)));
            } else {
                assert_eq!(done, Ok(()));
            }
        }
    }
    assert_eq!(
        index.len(),
        index.runs(&writer).map(|run| run.len).sum::<u64>()
    );
}

/// Looks up chunks that stay, their neighbours, and whatever is near; returns how often.
fn read(index: &Index<Segments>, published: &AtomicU64, done: &AtomicBool, seed: u64) -> u64 {
    let mut count = 0;
    while !done.load(Ordering::Acquire) {
        let n = published.load(Ordering::Acquire);
        if n == 0 {
            continue;
        }
        count += 1;
        let chunk = kept(mix(seed + count) % n);
        match index.lookup(chunk).unwrap() {
            Extent::Mapped { cow, len } => {
                assert_eq!(cow, place(chunk));
                assert!((1..=Run::MAX_LEN).contains(&len));
            }
            Extent::Unmapped { .. } => panic!("chunk {chunk} is lost"),
        }
        let before = mix(count) % 40;
        let other = chunk.saturating_sub(before);
        match index.lookup(other).unwrap() {
            Extent::Mapped { cow, .. } => assert_eq!(cow, place(other)),
            Extent::Unmapped { len } => assert!(len <= before, "{len} chunks reach over {chunk}"),
        }
        let run = index.next_run(other).unwrap().unwrap();
        assert!(run.origin <= chunk && run.cow == place(run.origin));
    }
    count
}

#[test]
fn readers_always_find_what_stays() {
    let index = Index::new(Segments((0..2000).map(|_| OnceLock::new()).collect()));
    let (published, done) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let readers: Vec<_> = [1 << 32, 2 << 32]
            .into_iter()
            .map(|seed| {
                let (index, published, done) = (&index, &published, &done);
                scope.spawn(move || read(index, published, done, seed))
            })
            .collect();
        let writer = scope.spawn(|| write(&index, &published));
        let written = writer.join();
        done.store(true, Ordering::Release);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
        written.unwrap();
    });
}
