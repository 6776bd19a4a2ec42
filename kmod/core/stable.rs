// SPDX-License-Identifier: GPL-2.0

//! Which chunks of a shared volume its writer may overwrite, and which it has asked for.
//!
//! A chunk is *stable* once every copier has kept what it holds: until the next epoch it may be
//! overwritten without asking. There is one bit for that, which writes look at without a lock, and
//! one that says that the chunk was asked for, so that nobody asks twice.
//!
//! Whoever writes one chunk after the other is not kept waiting for each: what such a writer asks
//! for reaches further and further ahead. A *marker* stands where the next request is due, so that
//! writes that find all stable have to compare one number only.

use core::ops::Deref;
use core::ops::DerefMut;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;

/// Bits in a word.
const BITS: u64 = u64::BITS as u64;
/// A marker that no write meets.
const NOWHERE: u64 = u64::MAX;
/// How far ahead a writer's second request in a row reaches, in chunks.
const FIRST_WINDOW: u64 = 16;
/// Chunks in one range, at most.
pub const LONGEST: u64 = 1 << 16;

/// Consecutive chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The first one.
    pub first: u64,
    /// How many.
    pub len: u64,
}

impl Range {
    /// The chunk behind the last one.
    pub const fn end(self) -> u64 {
        self.first.saturating_add(self.len)
    }

    /// The range, in pieces of up to `len` chunks.
    pub fn slices(self, len: u64) -> impl Iterator<Item = Self> {
        let len = len.max(1);
        (0..self.len.div_ceil(len)).map(move |n| Self {
            first: self.first.saturating_add(n * len),
            len: len.min(self.len - n * len),
        })
    }
}

/// One bit for each chunk. Bits may be looked at while they are changed.
pub struct Bits<W> {
    words: W,
}

impl<W: Deref<Target = [AtomicU64]>> Bits<W> {
    /// How many words so many bits need.
    pub const fn words_for(bits: u64) -> u64 {
        bits.div_ceil(BITS)
    }

    /// Bits in memory that the caller has set to zero. Those behind its end are never set.
    pub const fn new(words: W) -> Self {
        Self { words }
    }

    /// Whether a bit is set.
    pub fn is_set(&self, bit: u64) -> bool {
        self.word(bit)
            .is_some_and(|word| word.load(Ordering::Acquire) & (1 << (bit % BITS)) != 0)
    }

    /// Whether all bits from `first` to before `end` are set.
    pub fn all_set(&self, first: u64, end: u64) -> bool {
        self.first_clear(first, end).is_none()
    }

    /// The first bit from `first` to before `end` that is not set.
    pub fn first_clear(&self, first: u64, end: u64) -> Option<u64> {
        let mut bit = first;
        while bit < end {
            let within = bit % BITS;
            let word = self
                .word(bit)
                .map_or(0, |word| word.load(Ordering::Acquire));
            let set = u64::from((!(word >> within)).trailing_zeros()).min(BITS - within);
            bit = bit.saturating_add(set);
            if within + set < BITS {
                break;
            }
        }
        (bit < end).then_some(bit)
    }

    /// Sets the bits of a range. Returns how many were not set before.
    pub fn set(&self, range: Range) -> u64 {
        let mut fresh = 0;
        let mut bit = range.first;
        while bit < range.end() {
            let Some(word) = self.word(bit) else {
                break;
            };
            let within = bit % BITS;
            let len = (range.end() - bit).min(BITS - within);
            let mask = (u64::MAX >> (BITS - len)) << within;
            let before = word.fetch_or(mask, Ordering::Release);
            fresh += u64::from((mask & !before).count_ones());
            bit += len;
        }
        fresh
    }

    /// Clears all bits.
    pub fn clear(&self) {
        for word in self.words.iter() {
            word.store(0, Ordering::Release);
        }
    }

    fn word(&self, bit: u64) -> Option<&AtomicU64> {
        self.words.get(usize::try_from(bit / BITS).ok()?)
    }
}

/// What is known of each chunk of the volume.
pub struct Chunks<W> {
    /// It may be overwritten.
    pub stable: Bits<W>,
    /// Its copiers were asked to keep it.
    pub asked: Bits<W>,
}

/// What a writer asks its copiers for.
///
/// `R` is memory for ranges that were not fetched yet; when it is full, whoever asks has to ask
/// again later.
pub struct Requests<R> {
    ring: R,
    head: usize,
    len: usize,
    chunks: u64,
    /// The longest way ahead, in chunks.
    most_ahead: u64,
    /// Behind the last write that had to ask.
    next: u64,
    /// How far ahead was asked, and behind which chunk that ends.
    window: u64,
    until: u64,
}

impl<R: DerefMut<Target = [Range]>> Requests<R> {
    /// Nothing is asked for on a volume of `chunks` chunks.
    pub fn new(ring: R, chunks: u64, most_ahead: u64) -> Self {
        Self {
            ring,
            head: 0,
            len: 0,
            chunks,
            most_ahead,
            next: NOWHERE,
            window: 0,
            until: 0,
        }
    }

    /// Forgets all that was asked for. The caller clears the bits.
    pub fn clear(&mut self) {
        (self.head, self.len) = (0, 0);
        (self.next, self.window, self.until) = (NOWHERE, 0, 0);
    }

    /// Whether there is something to fetch.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A write to `first` to before `end` has to wait: asks for what of it is neither stable nor
    /// asked for. False if there was not room for all of it.
    pub fn want<W>(&mut self, chunks: &Chunks<W>, first: u64, end: u64) -> bool
    where
        W: Deref<Target = [AtomicU64]>,
    {
        if !self.ask(chunks, first, end) {
            return false;
        }
        // In a row: it goes on where the last one ended that had to ask, or others have come as far
        // without asking.
        let in_a_row =
            first == self.next || self.window != 0 && (self.next..=self.until).contains(&first);
        if in_a_row {
            self.reach(chunks, end);
        } else if self.window != 0
            && self.next.saturating_sub(self.window) <= first
            && end <= self.next
        {
            // One of those before, which asks again.
            return true;
        } else {
            self.window = 0;
            self.until = end;
        }
        self.next = end;
        true
    }

    /// A write to before `end` has met the marker: asks for what comes behind what was asked for.
    pub fn advance<W>(&mut self, chunks: &Chunks<W>, end: u64)
    where
        W: Deref<Target = [AtomicU64]>,
    {
        if self.window != 0 {
            self.next = end;
            self.reach(chunks, end);
        }
    }

    /// Where the next request ahead is due.
    pub fn marker(&self) -> u64 {
        if self.window == 0 || self.until >= self.chunks {
            NOWHERE
        } else {
            self.until.saturating_sub(self.window / 2)
        }
    }

    /// Takes up to as many ranges as `accept` takes, oldest first. Returns how many.
    pub fn fetch(&mut self, mut accept: impl FnMut(Range) -> bool) -> usize {
        let mut count = 0;
        while self.len != 0 {
            let Some(&range) = self.ring.get(self.head) else {
                break;
            };
            if !accept(range) {
                break;
            }
            self.head = self.place(1);
            self.len -= 1;
            count += 1;
        }
        count
    }

    /// Asks for what lies ahead of a write that ends before `end`.
    fn reach<W>(&mut self, chunks: &Chunks<W>, end: u64)
    where
        W: Deref<Target = [AtomicU64]>,
    {
        self.window = (self.window * 2).max(FIRST_WINDOW).min(self.most_ahead);
        let from = self.until.max(end).min(self.chunks);
        let until = end.saturating_add(self.window).min(self.chunks);
        // If there is no room they are asked for when they are written to.
        if until > from && self.ask(chunks, from, until) {
            self.until = until;
        }
    }

    fn ask<W>(&mut self, chunks: &Chunks<W>, first: u64, end: u64) -> bool
    where
        W: Deref<Target = [AtomicU64]>,
    {
        let end = end.min(self.chunks);
        let missing = |bit| !chunks.stable.is_set(bit) && !chunks.asked.is_set(bit);
        let mut bit = first;
        while bit < end {
            if !missing(bit) {
                bit += 1;
                continue;
            }
            let mut range = Range { first: bit, len: 1 };
            while range.len < LONGEST && range.end() < end && missing(range.end()) {
                range.len += 1;
            }
            if !self.push(range) {
                return false;
            }
            chunks.asked.set(range);
            bit = range.end();
        }
        true
    }

    fn push(&mut self, range: Range) -> bool {
        if let Some(last) = self.len.checked_sub(1) {
            let at = self.place(last);
            if let Some(last) = self.ring.get_mut(at) {
                if last.end() == range.first && last.len + range.len <= LONGEST {
                    last.len += range.len;
                    return true;
                }
            }
        }
        if self.len == self.ring.len() {
            return false;
        }
        let at = self.place(self.len);
        if let Some(place) = self.ring.get_mut(at) {
            *place = range;
            self.len += 1;
        }
        true
    }

    fn place(&self, n: usize) -> usize {
        let at = self.head + n;
        at.checked_rem(self.ring.len()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
