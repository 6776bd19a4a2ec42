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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec;
    use std::vec::Vec;

    fn bits(chunks: u64) -> Bits<Vec<AtomicU64>> {
        let words = Bits::<Vec<AtomicU64>>::words_for(chunks);
        Bits::new((0..words).map(|_| AtomicU64::new(0)).collect())
    }

    fn volume(chunks: u64) -> Chunks<Vec<AtomicU64>> {
        Chunks {
            stable: bits(chunks),
            asked: bits(chunks),
        }
    }

    fn requests(chunks: u64, room: usize) -> Requests<Vec<Range>> {
        Requests::new(vec![Range::default(); room], chunks, 256)
    }

    fn fetch_all(requests: &mut Requests<Vec<Range>>) -> Vec<Range> {
        let mut all = Vec::new();
        requests.fetch(|range| {
            all.push(range);
            true
        });
        all
    }

    #[test]
    fn slices_make_up_the_range() {
        let range = |first, len| Range { first, len };
        let slices: Vec<_> = range(10, 9).slices(4).collect();
        assert_eq!(slices, [range(10, 4), range(14, 4), range(18, 1)]);
        assert_eq!(range(10, 8).slices(8).collect::<Vec<_>>(), [range(10, 8)]);
        assert_eq!(range(10, 0).slices(8).count(), 0);
    }

    #[test]
    fn a_chunk_is_asked_for_once() {
        let volume = volume(100);
        let mut requests = requests(100, 8);
        assert!(requests.want(&volume, 10, 13));
        assert!(requests.want(&volume, 11, 12));
        assert!(requests.want(&volume, 60, 61));
        assert!(requests.want(&volume, 9, 11));
        let range = |first, len| Range { first, len };
        assert_eq!(
            fetch_all(&mut requests),
            [range(10, 3), range(60, 1), range(9, 1)]
        );
        assert!(requests.want(&volume, 10, 12));
        assert!(requests.is_empty());
        requests.clear();
        volume.asked.clear();
        assert!(requests.want(&volume, 10, 12));
        assert!(!requests.is_empty());
    }

    #[test]
    fn who_writes_in_a_row_is_ahead() {
        let volume = volume(1 << 16);
        let mut requests = requests(1 << 16, 64);
        let mut waits = 0;
        for chunk in 0..5000 {
            if !volume.stable.is_set(chunk) {
                waits += 1;
                assert!(requests.want(&volume, chunk, chunk + 1));
            } else if chunk == requests.marker() {
                requests.advance(&volume, chunk + 1);
            }
            for range in fetch_all(&mut requests) {
                volume.stable.set(range);
            }
        }
        assert_eq!(waits, 2);
        // And not for ever: who goes elsewhere starts anew.
        assert!(requests.want(&volume, 30000, 30001));
        assert_eq!(
            fetch_all(&mut requests),
            [Range {
                first: 30000,
                len: 1
            }]
        );
        assert_eq!(requests.marker(), NOWHERE);
    }

    #[test]
    fn who_is_faster_than_the_answers_is_let_further_ahead() {
        let volume = volume(1 << 16);
        let mut requests = requests(1 << 16, 64);
        let (mut waits, mut chunk) = (0, 0);
        while chunk < 5000 {
            if volume.stable.is_set(chunk) {
                if chunk == requests.marker() {
                    requests.advance(&volume, chunk + 1);
                }
                chunk += 1;
                continue;
            }
            // All that was asked for before this is answered while it waits.
            waits += 1;
            assert!(requests.want(&volume, chunk, chunk + 1));
            for range in fetch_all(&mut requests) {
                volume.stable.set(range);
            }
        }
        assert!(waits < 50, "{waits}");
    }

    #[test]
    fn at_the_end_of_the_volume_it_stops() {
        let volume = volume(20);
        let mut requests = requests(20, 8);
        for chunk in [10, 11, 12] {
            assert!(requests.want(&volume, chunk, chunk + 1));
        }
        let last = fetch_all(&mut requests)
            .iter()
            .map(|range| range.end())
            .max();
        assert_eq!(last, Some(20));
        assert_eq!(requests.marker(), NOWHERE);
        assert!(requests.want(&volume, 19, u64::MAX));
    }

    proptest! {
        /// Whatever is written where, every chunk is asked for that a write waits for, none twice,
        /// and with little room nothing is lost but time.
        #[test]
        fn all_that_is_needed_is_asked_for(
            writes in proptest::collection::vec((0u64..300, 1u64..40, any::<bool>()), 1..200),
            room in 1usize..20,
        ) {
            let chunks = 310;
            let volume = volume(chunks);
            let mut requests = requests(chunks, room);
            let mut asked = BTreeSet::new();
            for (first, len, fetch) in writes {
                let end = (first + len).min(chunks);
                let had_room = requests.want(&volume, first, end);
                if fetch || !had_room {
                    for range in fetch_all(&mut requests) {
                        for chunk in range.first..range.end() {
                            prop_assert!(chunk < chunks);
                            prop_assert!(asked.insert(chunk), "{chunk} twice");
                            volume.stable.set(Range { first: chunk, len: 1 });
                        }
                    }
                }
                if had_room && fetch {
                    prop_assert!(volume.stable.all_set(first, end));
                    prop_assert_eq!(volume.stable.first_clear(first, end), None);
                }
            }
        }

        #[test]
        fn ranges_of_bits(ranges in proptest::collection::vec((0u64..500, 0u64..200), 1..20)) {
            let bits = bits(512);
            let mut model = BTreeSet::new();
            for (first, len) in ranges {
                let end = (first + len).min(512);
                let fresh = (first..end).filter(|&bit| model.insert(bit)).count() as u64;
                prop_assert_eq!(bits.set(Range { first, len }), fresh);
            }
            for bit in 0..520 {
                prop_assert_eq!(bits.is_set(bit), model.contains(&bit));
                for end in [bit, bit + 1, bit + 63, bit + 64, bit + 200] {
                    let clear = (bit..end).find(|bit| !model.contains(bit));
                    prop_assert_eq!(bits.first_clear(bit, end), clear);
                }
            }
        }
    }
}
