// SPDX-License-Identifier: GPL-2.0

//! Which COW chunk is used next.
//!
//! Chunks are handed out in ascending order, around the metadata chunks, as the format's sizing
//! rules expect. Exceptions are listed in the order in which their data arrived, so a crash may
//! leave chunks behind that no entry names: loading finds these holes and they are used first.

use super::format::Layout;
use super::format::UsedMap;
use core::ops::DerefMut;

/// A run of consecutive COW chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first chunk.
    pub first: u64,
    /// How many, at least 1.
    pub len: u64,
}

/// Hands out the data chunks of one COW device.
///
/// `H` is memory for the holes that are remembered; more holes than fit stay unused until the
/// store is loaded again.
pub struct Allocator<H> {
    layout: Layout,
    next_free: u64,
    in_use: u64,
    holes: H,
    hole_count: usize,
}

impl<H: DerefMut<Target = [u64]>> Allocator<H> {
    /// An allocator for an empty store.
    pub fn new(layout: Layout, holes: H) -> Self {
        Self {
            layout,
            next_free: layout.first_data(),
            in_use: 0,
            holes,
            hole_count: 0,
        }
    }

    /// Takes over what loading found: `listed` entries, the largest of them in COW chunk `highest`
    /// (0 if there is none), all of them marked in `used`.
    pub fn restore(&mut self, listed: u64, highest: u64, used: &UsedMap<'_>) {
        self.next_free = self.layout.skip_metadata(highest.saturating_add(1));
        self.in_use = listed;
        self.hole_count = 0;
        let mut holes = self.data_chunks_up_to(highest).saturating_sub(listed);
        for chunk in Layout::FIRST_DATA..highest {
            if holes == 0 {
                return;
            }
            if !self.layout.is_metadata(chunk) && !used.is_used(chunk) {
                holes -= 1;
                if !self.keep_hole(chunk) {
                    return;
                }
            }
        }
    }

    /// Takes over what a summary and the entries behind it tell: `listed` entries, all of them below
    /// `next_free`. Holes are not looked for: that takes the whole list.
    pub fn resume(&mut self, listed: u64, next_free: u64) {
        self.next_free = self.layout.skip_metadata(next_free);
        self.in_use = listed;
        self.hole_count = 0;
    }

    /// All chunks below `next_free` count as taken.
    pub fn raise(&mut self, next_free: u64) {
        self.next_free = self.next_free.max(self.layout.skip_metadata(next_free));
    }

    /// How many chunks up to `highest` can hold data.
    fn data_chunks_up_to(&self, highest: u64) -> u64 {
        let areas = highest.saturating_sub(1) / self.layout.stride();
        highest
            .saturating_sub(Layout::FIRST_DATA - 1)
            .saturating_sub(areas)
    }

    /// Takes up to `want` consecutive chunks of a device that has `cow_chunks` now; fewer, if the
    /// run would meet metadata or the end. `None` when the store is full.
    pub fn take(&mut self, want: u64, cow_chunks: u64) -> Option<Run> {
        let room = self.layout.capacity(cow_chunks).saturating_sub(self.in_use);
        if want == 0 || room == 0 {
            return None;
        }
        let run = match self.pop_hole(cow_chunks) {
            Some(hole) => Run {
                first: hole,
                len: 1,
            },
            None => self.bump(want.min(room), cow_chunks)?,
        };
        self.in_use = self.in_use.saturating_add(run.len);
        Some(run)
    }

    /// Whether a device that has `cow_chunks` now has a chunk left.
    pub fn has_room(&self, cow_chunks: u64) -> bool {
        self.in_use < self.layout.capacity(cow_chunks)
            && (self.hole_count != 0 || self.next_free < cow_chunks)
    }

    /// Gives chunks back that were taken and never listed.
    pub fn give_back(&mut self, run: Run) {
        self.in_use = self.in_use.saturating_sub(run.len);
        for chunk in run.first..run.first.saturating_add(run.len) {
            if !self.keep_hole(chunk) {
                return;
            }
        }
    }

    /// A merge has cut the list off behind its first `listed` entries: counts from `next_free` on
    /// again, as the format's sizing rules do. Nothing is taken while a merge is under way.
    pub fn truncate(&mut self, listed: u64, next_free: u64) {
        self.in_use = listed;
        self.next_free = self.layout.skip_metadata(next_free);
        self.hole_count = 0;
    }

    /// The first chunk behind all that were ever taken: the store's allocated size.
    pub fn next_free(&self) -> u64 {
        self.next_free
    }

    /// Chunks that hold data or are about to.
    pub fn in_use(&self) -> u64 {
        self.in_use
    }

    fn bump(&mut self, want: u64, cow_chunks: u64) -> Option<Run> {
        let first = self.next_free;
        let to_area = self.layout.data_from(first);
        let len = want.min(to_area).min(cow_chunks.checked_sub(first)?);
        if len == 0 {
            return None;
        }
        self.next_free = self.layout.skip_metadata(first.saturating_add(len));
        Some(Run { first, len })
    }

    fn pop_hole(&mut self, cow_chunks: u64) -> Option<u64> {
        let at = self.hole_count.checked_sub(1)?;
        let hole = *self.holes.get(at)?;
        self.hole_count = at;
        (hole < cow_chunks).then_some(hole)
    }

    fn keep_hole(&mut self, chunk: u64) -> bool {
        match self.holes.get_mut(self.hole_count) {
            Some(place) => {
                *place = chunk;
                self.hole_count += 1;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests;
