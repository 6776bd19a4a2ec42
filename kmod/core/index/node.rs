// SPDX-License-Identifier: GPL-2.0

//! A node: 256 words that are leaf, inner node or free, one after the other, for ever.
//!
//! ```text
//! word      0        1     2     3 ...
//! leaf    | header | base      | offset * 101 | COW low * 101 | COW high, length - 1 * 51 |
//! inner   | header | - | - | - | key low * 84 | key high * 84 | child * 84                |
//! free    | any    | next free | any ...
//! ```
//!
//! Every access is bounds-checked and relaxed: what a racing reader makes of a half-written node is
//! nonsense but harmless, and the sequence counter has it thrown away.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;

/// Words of a node.
const WORDS: usize = 256;

/// The node number that names no node.
pub(super) const NIL: u32 = u32::MAX;

/// One KiB of the index's memory, see [`super::Directory`].
///
/// A node made by [`Node::new`] is all zero bytes.
#[repr(C, align(64))]
pub struct Node {
    words: [AtomicU32; WORDS],
}

impl Node {
    /// A node that has never been used.
    pub const fn new() -> Self {
        Self {
            words: [const { AtomicU32::new(0) }; WORDS],
        }
    }

    /// Word `at`; 0 behind the end.
    #[inline]
    pub(super) fn get(&self, at: usize) -> u32 {
        match self.words.get(at) {
            Some(word) => word.load(Relaxed),
            None => 0,
        }
    }

    /// Stores word `at`; nothing happens behind the end.
    #[inline]
    pub(super) fn set(&self, at: usize, value: u32) {
        if let Some(word) = self.words.get(at) {
            word.store(value, Relaxed);
        }
    }

    /// The 64 bits whose halves are words `low` and `high`.
    #[inline]
    pub(super) fn get_wide(&self, low: usize, high: usize) -> u64 {
        u64::from(self.get(low)) | (u64::from(self.get(high)) << 32)
    }

    /// Stores 64 bits in words `low` and `high`.
    pub(super) fn set_wide(&self, low: usize, high: usize, value: u64) {
        self.set(low, value as u32);
        self.set(high, (value >> 32) as u32);
    }

    /// Moves `len` words from word `from` on to word `to`; the two may overlap.
    pub(super) fn shift(&self, from: usize, to: usize, len: usize) {
        let words = |at: usize| self.words.get(at..at.saturating_add(len));
        let (Some(source), Some(target)) = (words(from), words(to)) else {
            return;
        };
        let pairs = source.iter().zip(target);
        let copy = |(from, to): (&AtomicU32, &AtomicU32)| to.store(from.load(Relaxed), Relaxed);
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
