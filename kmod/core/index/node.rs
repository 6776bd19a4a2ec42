// SPDX-License-Identifier: GPL-2.0

//! A node: 256 words that are leaf, inner node or free, one after the other, for ever.
//!
//! ```text
//! word      0        1     2     3 ...
//! leaf    | header | base      | offset * 101 | COW low * 101 | COW high, length - 1 * 51 |
//! inner   | header | - | - | - | (key low, key high) * 84 | child * 84                     |
//! free    | any    | next free | any ...
//! ```
//!
//! Every access is bounds-checked and relaxed: what a racing reader makes of a half-written node is
//! nonsense but harmless, and the sequence counter has it thrown away.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;

/// Pairs of words of a node.
const PAIRS: usize = 128;

/// The node number that names no node.
pub(super) const NIL: u32 = u32::MAX;

/// One KiB of the index's memory, see [`super::Directory`].
///
/// A node made by [`Node::new`] is all zero bytes.
#[repr(C, align(64))]
pub struct Node {
    pairs: [Pair; PAIRS],
}

/// The low and the high half of 64 bits.
pub(super) type Pair = [AtomicU32; 2];

/// The 64 bits of a pair.
#[inline]
pub(super) fn wide([low, high]: &Pair) -> u64 {
    u64::from(low.load(Relaxed)) | (u64::from(high.load(Relaxed)) << 32)
}

impl Node {
    /// A node that has never been used.
    pub const fn new() -> Self {
        Self {
            pairs: [const { [const { AtomicU32::new(0) }; 2] }; PAIRS],
        }
    }

    /// Word `at`; 0 behind the end.
    #[inline]
    pub(super) fn get(&self, at: usize) -> u32 {
        match self.pairs.as_flattened().get(at) {
            Some(word) => word.load(Relaxed),
            None => 0,
        }
    }

    /// Stores word `at`; nothing happens behind the end.
    #[inline]
    pub(super) fn set(&self, at: usize, value: u32) {
        if let Some(word) = self.pairs.as_flattened().get(at) {
            word.store(value, Relaxed);
        }
    }

    /// The 64 bits in word `at` and the next one.
    #[inline]
    pub(super) fn get_wide(&self, at: usize) -> u64 {
        u64::from(self.get(at)) | (u64::from(self.get(at + 1)) << 32)
    }

    /// Stores 64 bits in word `at` and the next one.
    pub(super) fn set_wide(&self, at: usize, value: u64) {
        self.set(at, value as u32);
        self.set(at + 1, (value >> 32) as u32);
    }

    /// The `len` words from word `from` on; none if there are fewer.
    #[inline]
    pub(super) fn words(&self, from: usize, len: usize) -> &[AtomicU32] {
        let words = self.pairs.as_flattened();
        words.get(from..from.saturating_add(len)).unwrap_or(&[])
    }

    /// The `len` pairs from pair `from` on; none if there are fewer.
    #[inline]
    pub(super) fn pairs(&self, from: usize, len: usize) -> &[Pair] {
        let pairs = &self.pairs;
        pairs.get(from..from.saturating_add(len)).unwrap_or(&[])
    }

    /// Moves `len` words from word `from` on to word `to`; the two may overlap.
    pub(super) fn shift(&self, from: usize, to: usize, len: usize) {
        let pairs = self.words(from, len).iter().zip(self.words(to, len));
        let copy = |(from, to): (&AtomicU32, &AtomicU32)| to.store(from.load(Relaxed), Relaxed);
        if from < to {
            pairs.rev().for_each(copy);
        } else {
            pairs.for_each(copy);
        }
    }

    /// Moves the `len` words from word `at` on up by one.
    #[inline]
    pub(super) fn open(&self, at: usize, len: usize) {
        let mut carried = 0;
        let mut put = |word: &AtomicU32| {
            let old = word.load(Relaxed);
            word.store(carried, Relaxed);
            carried = old;
        };
        // Four at a time: the loop would cost as much as what it does.
        let mut fours = self.words(at, len + 1).chunks_exact(4);
        for four in fours.by_ref() {
            if let [a, b, c, d] = four {
                put(a);
                put(b);
                put(c);
                put(d);
            }
        }
        fours.remainder().iter().for_each(put);
    }

    /// As [`Self::shift`], but what is moved begins with the upper half of word `from` and ends with
    /// the lower half of word `from + len`.
    pub(super) fn shift_by_half(&self, from: usize, to: usize, len: usize) {
        let halves = self.words(from, len).iter().zip(self.words(from + 1, len));
        let pairs = halves.zip(self.words(to, len));
        let copy = |((low, high), to): ((&AtomicU32, &AtomicU32), &AtomicU32)| {
            to.store(
                (low.load(Relaxed) >> 16) | (high.load(Relaxed) << 16),
                Relaxed,
            );
        };
        if from < to {
            pairs.rev().for_each(copy);
        } else {
            pairs.for_each(copy);
        }
    }

    /// How far the node is above the leaves; 0 is a leaf.
    #[inline]
    pub(super) fn level(&self) -> usize {
        (self.get(0) >> 16) as usize
    }

    /// How many entries or children the node has.
    #[inline]
    pub(super) fn count(&self) -> usize {
        (self.get(0) & 0xffff) as usize
    }

    /// Stores level and count; both are small.
    pub(super) fn set_header(&self, level: usize, count: usize) {
        self.set(0, ((level as u32) << 16) | (count as u32 & 0xffff));
    }

    /// The node behind this one on the free list.
    pub(super) fn next_free(&self) -> u32 {
        self.get(1)
    }

    /// Links the node into the free list.
    pub(super) fn set_next_free(&self, id: u32) {
        self.set(1, id);
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}
