// SPDX-License-Identifier: GPL-2.0

//! Inner nodes: children, and the key from which on each of them is the right one.

use super::node::wide;
use super::node::Node;

/// Children that an inner node holds.
pub(super) const CAPACITY: usize = 84;

/// First pair of the keys.
const KEY: usize = 2;
/// First word of the children.
const CHILD: usize = 2 * (KEY + CAPACITY);

/// A node seen as an inner node.
///
/// Child `at` holds the chunks from `key(at)` up to, not including, `key(at + 1)`, and no run
/// crosses that border. The first child holds all that is below `key(1)`, whatever `key(0)` says.
#[derive(Clone, Copy)]
pub(super) struct Inner<'a>(pub(super) &'a Node);

impl Inner<'_> {
    /// How many children there are.
    #[inline]
    pub(super) fn count(self) -> usize {
        self.0.count().min(CAPACITY)
    }

    /// Whether no child can be added.
    pub(super) fn is_full(self) -> bool {
        self.count() >= CAPACITY
    }

    /// The border below child `at`.
    #[inline]
    pub(super) fn key(self, at: usize) -> u64 {
        self.0.get_wide(2 * (KEY + at))
    }

    /// Moves the border below child `at`.
    pub(super) fn set_key(self, at: usize, key: u64) {
        self.0.set_wide(2 * (KEY + at), key);
    }

    /// Child `at`.
    #[inline]
    pub(super) fn child(self, at: usize) -> u32 {
        self.0.get(CHILD + at)
    }

    /// Which child holds `chunk`.
    #[inline]
    pub(super) fn find(self, chunk: u64) -> usize {
        let borders = self.0.pairs(KEY + 1, self.count().saturating_sub(1));
        borders.partition_point(|border| wide(border) <= chunk)
    }

    /// Makes the node an inner node with two children.
    pub(super) fn init(self, level: usize, left: u32, key: u64, right: u32) {
        self.0.set_header(level, 0);
        self.put(0, 0, left);
        self.put(1, key, right);
        self.0.set_header(level, 2);
    }

    /// Stores a child and the border below it.
    fn put(self, at: usize, key: u64, child: u32) {
        self.set_key(at, key);
        self.0.set(CHILD + at, child);
    }

    /// Moves the children from `from` on so that the first of them is at `to`.
    fn shift(self, from: usize, to: usize) {
        let len = self.count().saturating_sub(from);
        self.0.shift(2 * (KEY + from), 2 * (KEY + to), 2 * len);
        self.0.shift(CHILD + from, CHILD + to, len);
    }

    /// Adds a child at place `at`. There is room for it.
    pub(super) fn insert(self, at: usize, key: u64, child: u32) {
        let count = self.count();
        self.shift(at, at + 1);
        self.put(at, key, child);
        self.0.set_header(self.0.level(), count + 1);
    }

    /// Takes child `at` out. What it held, its neighbour now holds.
    pub(super) fn remove(self, at: usize) {
        let count = self.count();
        self.shift(at + 1, at);
        self.0.set_header(self.0.level(), count.saturating_sub(1));
    }

    /// Moves the children from `at` on to `right`, which becomes an inner node.
    pub(super) fn split_off(self, at: usize, right: Inner<'_>) {
        let count = self.count();
        for from in at..count {
            right.put(from - at, self.key(from), self.child(from));
        }
        right.0.set_header(self.0.level(), count.saturating_sub(at));
        self.0.set_header(self.0.level(), at.min(count));
    }
}
