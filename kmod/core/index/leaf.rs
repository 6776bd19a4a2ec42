// SPDX-License-Identifier: GPL-2.0

//! Leaves: runs of exceptions, ten bytes each.

use super::node::Node;
use super::Run;
use core::sync::atomic::Ordering::Relaxed;

/// Runs that a leaf holds.
pub(super) const CAPACITY: usize = 101;

/// First of the two words of the base.
const BASE: usize = 1;
/// First word of the offsets: where a run starts, counted from the leaf's base.
const OFFSET: usize = 3;
/// First word of the low halves of the COW chunks.
const COW_LOW: usize = OFFSET + CAPACITY;
/// First word of the 16-bit rests: bits 32 to 39 of the COW chunk above the length less one.
const REST: usize = COW_LOW + CAPACITY;

/// One change of a leaf: the runs `at..at + remove` give way to `runs()`.
#[derive(Clone, Copy)]
pub(super) struct Edit {
    /// Position of the first run that changes.
    pub(super) at: usize,
    /// How many runs go.
    pub(super) remove: usize,
    runs: [Run; 3],
    count: usize,
}

impl Edit {
    /// Removes runs.
    pub(super) fn new(at: usize, remove: usize) -> Self {
        Self {
            at,
            remove,
            runs: [Run::EMPTY; 3],
            count: 0,
        }
    }

    /// Adds a run behind those already added. At most three fit; empty ones are left out.
    pub(super) fn push(&mut self, run: Run) {
        if run.len == 0 {
            return;
        }
        if let Some(slot) = self.runs.get_mut(self.count) {
            *slot = run;
            self.count += 1;
        }
    }

    /// Adds a run of any length up to three times [`Run::MAX_LEN`], cut into as few as possible.
    pub(super) fn push_cut(&mut self, run: Run) {
        let mut rest = run;
        for _ in 0..3 {
            let (piece, more) = rest.split(Run::MAX_LEN);
            self.push(piece);
            rest = more;
        }
    }

    /// The runs that come.
    pub(super) fn runs(&self) -> &[Run] {
        self.runs.get(..self.count).unwrap_or(&[])
    }

    /// The same change behind `by` runs that were put before it.
    pub(super) fn moved_up(mut self, by: usize) -> Self {
        self.at = self.at.saturating_add(by);
        self
    }

    /// The same change after `by` runs before it have moved to another leaf.
    pub(super) fn moved_down(mut self, by: usize) -> Self {
        self.at = self.at.saturating_sub(by);
        self
    }
}

/// A node seen as a leaf.
#[derive(Clone, Copy)]
pub(super) struct Leaf<'a>(pub(super) &'a Node);

impl Leaf<'_> {
    /// Makes the node an empty leaf.
    pub(super) fn init(self) {
        self.0.set_header(0, 0);
    }

    /// How many runs there are.
    #[inline]
    pub(super) fn count(self) -> usize {
        self.0.count().min(CAPACITY)
    }

    /// No run of the leaf starts below.
    #[inline]
    fn base(self) -> u64 {
        self.0.get_wide(BASE)
    }

    /// Where run `at` starts.
    #[inline]
    pub(super) fn key(self, at: usize) -> u64 {
        self.base().wrapping_add(u64::from(self.0.get(OFFSET + at)))
    }

    /// Run `at`.
    #[inline]
    pub(super) fn run(self, at: usize) -> Run {
        let rest = self.rest(at);
        Run {
            origin: self.key(at),
            cow: u64::from(self.0.get(COW_LOW + at)) | (u64::from(rest >> 8) << 32),
            len: u64::from(rest & 0xff) + 1,
        }
    }

    /// How many runs start at `chunk` or below.
    #[inline]
    pub(super) fn upper_bound(self, chunk: u64) -> usize {
        let Some(offset) = chunk.checked_sub(self.base()) else {
            return 0;
        };
        let offset = u32::try_from(offset).unwrap_or(u32::MAX);
        let offsets = self.0.words(OFFSET, self.count());
        offsets.partition_point(|start| start.load(Relaxed) <= offset)
    }

    /// The two bytes of run `at` that are not in a word of their own.
    #[inline]
    fn rest(self, at: usize) -> u16 {
        let word = self.0.get(REST + at / 2);
        if at & 1 == 0 {
            word as u16
        } else {
            (word >> 16) as u16
        }
    }

    /// Stores the two bytes of run `at` that are not in a word of their own.
    fn set_rest(self, at: usize, rest: u16) {
        let word = self.0.get(REST + at / 2);
        let word = if at & 1 == 0 {
            word & 0xffff_0000 | u32::from(rest)
        } else {
            (word & 0x0000_ffff) | (u32::from(rest) << 16)
        };
        self.0.set(REST + at / 2, word);
    }

    /// Stores run `at`, which is known to fit the base.
    fn put(self, at: usize, run: Run) {
        self.0
            .set(OFFSET + at, run.origin.wrapping_sub(self.base()) as u32);
        self.0.set(COW_LOW + at, run.cow as u32);
        let high = ((run.cow >> 32) & 0xff) as u16;
        let less_one = (run.len.wrapping_sub(1) & 0xff) as u16;
        self.set_rest(at, (high << 8) | less_one);
    }

    /// Copies run `from` of this leaf to place `to` of a leaf with the same base.
    fn copy(self, from: usize, other: Leaf<'_>, to: usize) {
        other.0.set(OFFSET + to, self.0.get(OFFSET + from));
        other.0.set(COW_LOW + to, self.0.get(COW_LOW + from));
        other.set_rest(to, self.rest(from));
    }

    /// Where the first and the last run start once `edit` is done; `None` if no run is left.
    fn span(self, edit: &Edit) -> Option<(u64, u64)> {
        let count = self.count();
        let behind = edit.at + edit.remove;
        let (new_first, new_last) = (edit.runs().first(), edit.runs().last());
        let first = match new_first {
            _ if edit.at > 0 => self.key(0),
            Some(run) => run.origin,
            None if behind < count => self.key(behind),
            None => return None,
        };
        let last = match new_last {
            _ if behind < count => self.key(count - 1),
            Some(run) => run.origin,
            None => self.key(edit.at.saturating_sub(1)),
        };
        Some((first, last))
    }

    /// Whether `edit` leaves a leaf that is not too long and not too wide.
    pub(super) fn fits(self, edit: &Edit) -> bool {
        self.is_short(edit) && self.is_narrow(edit)
    }

    /// Whether there is room for what `edit` adds.
    fn is_short(self, edit: &Edit) -> bool {
        self.count() + edit.runs().len() <= CAPACITY + edit.remove
    }

    /// Whether all runs that `edit` leaves can be counted from one base.
    pub(super) fn is_narrow(self, edit: &Edit) -> bool {
        match self.span(edit) {
            Some((first, last)) => is_narrow(first, last),
            None => true,
        }
    }

    /// Whether `edit` leaves the leaf empty.
    pub(super) fn empties(self, edit: &Edit) -> bool {
        edit.runs().is_empty() && edit.remove >= self.count()
    }

    /// Does an edit that fits.
    pub(super) fn apply(self, edit: &Edit) {
        let count = self.count();
        let behind = edit.at + edit.remove;
        if let Some((first, last)) = self.span(edit) {
            self.widen(first, last);
        }
        let new_behind = edit.at + edit.runs().len();
        self.shift(behind, new_behind);
        for (at, run) in edit.runs().iter().enumerate() {
            self.put(edit.at + at, *run);
        }
        self.0
            .set_header(0, new_behind + count.saturating_sub(behind));
    }

    /// Whether there is room for one more run, and it can be counted from the leaf's base.
    #[inline]
    pub(super) fn takes(self, run: Run) -> bool {
        let (count, base) = (self.count(), self.base());
        count != 0 && count < CAPACITY && run.origin >= base && is_narrow(base, run.origin)
    }

    /// Puts a run that [`Self::takes`] allows at place `at`.
    #[inline]
    pub(super) fn insert(self, at: usize, run: Run) {
        let count = self.count();
        let behind = count.saturating_sub(at);
        self.0.open(OFFSET + at, behind);
        self.0.open(COW_LOW + at, behind);
        self.open_rests(at, count);
        self.put(at, run);
        self.0.set_header(0, count + 1);
    }

    /// Moves the rests from `at` on, of `count`, up by one.
    #[inline]
    fn open_rests(self, at: usize, count: usize) {
        let Some((first, others)) = self
            .0
            .words(REST + at / 2, count / 2 + 1 - at / 2)
            .split_first()
        else {
            return;
        };
        let old = first.load(Relaxed);
        // An odd one leaves the lower half of its word where it is.
        let kept = if at & 1 == 1 { old & 0xffff } else { old << 16 };
        first.store(kept, Relaxed);
        let mut carried = old >> 16;
        for word in others {
            let old = word.load(Relaxed);
            word.store((old << 16) | carried, Relaxed);
            carried = old >> 16;
        }
    }

    /// Takes over `len` runs of `other`, from `from` on, which stand before all runs here if
    /// `below`, else behind them. There is room for them, and they are near enough.
    pub(super) fn take_over(self, other: Leaf<'_>, from: usize, len: usize, below: bool) {
        let count = self.count();
        let at = if below { 0 } else { count };
        self.rebase(self.key(0).min(other.key(from)));
        self.shift(at, at + len);
        for n in 0..len {
            self.put(at + n, other.run(from + n));
        }
        self.0.set_header(0, count + len);
    }

    /// Moves the runs from `from` on so that the first of them is at `to`.
    fn shift(self, from: usize, to: usize) {
        let Some(len) = self.count().checked_sub(from).filter(|_| from != to) else {
            return;
        };
        self.0.shift(OFFSET + from, OFFSET + to, len);
        self.0.shift(COW_LOW + from, COW_LOW + to, len);
        self.shift_rests(from, to, len);
    }

    /// Does for [`Self::rest`] what [`Self::shift`] does, two at a time where two come into one word.
    fn shift_rests(self, from: usize, to: usize, len: usize) {
        let end = to + len;
        // Those in the middle are the two halves of words.
        let (first, last) = (to.next_multiple_of(2).min(end), (end & !1).max(to));
        let source = |at: usize| at.wrapping_sub(to).wrapping_add(from);
        let one = |at: usize| self.set_rest(at, self.rest(source(at)));
        let words = || {
            let (source, target) = (source(first), REST + first / 2);
            let len = last.saturating_sub(first) / 2;
            if source & 1 == 0 {
                self.0.shift(REST + source / 2, target, len);
            } else {
                self.0.shift_by_half(REST + source / 2, target, len);
            }
        };
        if from < to {
            (last..end).for_each(one);
            words();
            (to..first).for_each(one);
        } else {
            (to..first).for_each(one);
            words();
            (last..end).for_each(one);
        }
    }

    /// Chooses a base for runs that start from `first` to `last`.
    fn widen(self, first: u64, last: u64) {
        let base = self.base();
        if self.count() == 0 || first < base || !is_narrow(base, last) {
            self.rebase(first);
        }
    }

    /// Counts all offsets from a new base. Runs that are about to go may get a wrong one.
    fn rebase(self, base: u64) {
        let delta = self.base().wrapping_sub(base) as u32;
        for at in 0..self.count() {
            let offset = self.0.get(OFFSET + at).wrapping_add(delta);
            self.0.set(OFFSET + at, offset);
        }
        self.0.set_wide(BASE, base);
    }

    /// Moves the runs from `at` on to `right`, which becomes a leaf.
    pub(super) fn split_off(self, at: usize, right: Leaf<'_>) {
        let count = self.count();
        right.0.set_wide(BASE, self.base());
        for from in at..count {
            self.copy(from, right, from - at);
        }
        right.0.set_header(0, count.saturating_sub(at));
        self.0.set_header(0, at.min(count));
        if at < count {
            right.rebase(right.key(0));
        }
    }
}

/// Where a leaf ends, for whoever is the only one to change it.
pub(super) struct Tail<'a> {
    leaf: Leaf<'a>,
    count: usize,
    base: u64,
    last: Run,
}

impl<'a> Leaf<'a> {
    /// The leaf's end, if it has runs.
    pub(super) fn tail(self) -> Option<Tail<'a>> {
        let count = self.count();
        Some(Tail {
            leaf: self,
            count,
            base: self.base(),
            last: self.run(count.checked_sub(1)?),
        })
    }
}

impl Tail<'_> {
    /// Whether a run can simply be put behind the others.
    #[inline]
    pub(super) fn takes(&self, run: Run) -> bool {
        run.is_storable()
            && self.count < CAPACITY
            && self.last.end() <= run.origin
            && is_narrow(self.base, run.origin)
            && (self.last.len == Run::MAX_LEN || !self.last.continues_with(run))
    }

    /// Puts a run behind the others that [`Self::takes`] allows.
    #[inline]
    pub(super) fn push(&mut self, run: Run) {
        self.leaf.put(self.count, run);
        self.count += 1;
        self.last = run;
        self.leaf.0.set_header(0, self.count);
    }
}

/// Whether `last` can be counted from a base `first`.
pub(super) fn is_narrow(first: u64, last: u64) -> bool {
    last.wrapping_sub(first) <= u64::from(u32::MAX)
}
