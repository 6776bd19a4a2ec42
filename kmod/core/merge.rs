// SPDX-License-Identifier: GPL-2.0

//! Which exceptions are folded back together.
//!
//! A merge goes from the end of the list to its start, a *window* at a time: the entries of the
//! window are sorted by origin chunk and joined into runs, all of them are copied with deep
//! queues, the origin is flushed once, and one metadata write cuts the list off where the window
//! began. A power cut anywhere leaves a list whose entries still hold the right content, so that
//! copying them again does no harm. The next window may be copied already while one is being flushed
//! and cut off.

use super::format::Exception;
use super::format::Layout;
use super::index::Run;

/// A place in the list of exceptions: where it ends, or where a window begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Number of the area.
    pub area: u64,
    /// Entry of that area.
    pub slot: u64,
}

impl Position {
    /// The place before entry `index` of the whole list.
    pub fn of(layout: Layout, index: u64) -> Self {
        Self {
            area: index / layout.entries(),
            slot: index % layout.entries(),
        }
    }

    /// How many entries stand before this place.
    pub fn index(self, layout: Layout) -> u64 {
        self.area
            .saturating_mul(layout.entries())
            .saturating_add(self.slot)
    }
}

/// Where the window that ends the list of `listed` entries begins, if it may hold `most` entries.
///
/// A window that would leave only a few entries in the area where it begins is not worth a second
/// metadata write there: it begins at an area's start where one lies within its reach.
pub fn window_start(layout: Layout, listed: u64, most: u64) -> Position {
    let reach = listed.saturating_sub(most.max(1));
    let area_start = reach.next_multiple_of(layout.entries());
    Position::of(
        layout,
        if area_start < listed {
            area_start
        } else {
            reach
        },
    )
}

/// Entries of the first window of a merge.
pub const FIRST_LENGTH: u64 = 512;
/// Entries of the longest window.
const MOST_LENGTH: u64 = 4096;
/// Entries of the shortest one.
const LEAST_LENGTH: u64 = 64;
/// How long the copies of a window may take while others write to its chunks, in microseconds.
const HELD_TIME: u64 = 5000;

/// How many entries the next window has after one of `length` whose copies took so many of the
/// microseconds that it took in all.
///
/// Writes to the chunks of a window are `held` until it ends. If there were any, the next one is to
/// be over soon; if not, it may be longer. But what a window costs besides its copies, flushes and
/// metadata writes, does not depend on its length: copies that take less time than that would make
/// the merge last longer and hold writes hardly less.
pub fn next_length(length: u64, held: bool, copying: u64, took: u64) -> u64 {
    let next = if held {
        let time = took.saturating_sub(copying).max(HELD_TIME);
        let fits = length.saturating_mul(time) / copying.max(1);
        fits.min(length)
    } else {
        length.saturating_add(length / 4)
    };
    next.clamp(LEAST_LENGTH, MOST_LENGTH)
}

/// Longest pause of a merge that is throttled, in microseconds.
const LONGEST_PAUSE: i64 = 1_000_000;

/// How many microseconds not to copy after copies that took `took`, if copying may take `percent` of
/// the time.
pub fn pause(took: i64, percent: u32) -> i64 {
    let percent = i64::from(percent.clamp(1, 100));
    let idle = took.saturating_mul(100 - percent) / percent;
    idle.clamp(0, LONGEST_PAUSE)
}

/// The entries of a window, sorted by origin chunk.
///
/// # Invariants
///
/// `entries` is sorted by origin chunk.
pub struct Window<'a> {
    entries: &'a [Exception],
}

impl<'a> Window<'a> {
    /// Takes entries that [`sort_by_origin`](super::sort::sort_by_origin) has sorted.
    pub const fn new(entries: &'a [Exception]) -> Self {
        // INVARIANT: The caller has sorted them.
        Self { entries }
    }

    /// Whether a chunk of `first..=last` is in the window.
    pub fn touches(&self, first: u64, last: u64) -> bool {
        let at = self.entries.partition_point(|entry| entry.origin < first);
        self.entries
            .get(at)
            .is_some_and(|entry| entry.origin <= last)
    }

    /// The runs of the window, in the order of the origin, none longer than `most` chunks.
    pub fn runs(&self, most: u64) -> Runs<'a> {
        Runs {
            rest: self.entries,
            most: most.max(1),
        }
    }
}

/// Iterator over the runs of a window.
#[derive(Clone)]
pub struct Runs<'a> {
    rest: &'a [Exception],
    most: u64,
}

impl Runs<'_> {
    /// Whether there is none left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let (first, mut rest) = self.rest.split_first()?;
        let mut run = Run {
            origin: first.origin,
            cow: first.cow,
            len: 1,
        };
        while let Some((next, after)) = rest.split_first() {
            let follows = next.origin.checked_sub(run.origin) == Some(run.len)
                && next.cow.checked_sub(run.cow) == Some(run.len);
            if !follows || run.len >= self.most {
                break;
            }
            run.len += 1;
            rest = after;
        }
        self.rest = rest;
        Some(run)
    }
}

#[cfg(test)]
mod tests;
