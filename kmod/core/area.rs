// SPDX-License-Identifier: GPL-2.0

//! What the next metadata write holds.
//!
//! The list of exceptions is written area by area. [`AreaImage`] is the memory image of the area
//! that is being filled; it belongs to whoever writes metadata, one write at a time.
//!
//! Rules that keep a power cut harmless (a cut leaves any subset of the sectors of unflushed
//! writes):
//!
//! 1. An entry is put into the image only when its data has been written completely; the image is
//!    written with PREFLUSH and FUA, so the data is durable before the entry and the entry before
//!    the write is reported done.
//! 2. The last entry of an area is put in only after the next area is on the device as zeros:
//!    it ends the list. [`AreaImage::room`] holds one slot back until
//!    [`AreaImage::next_is_zeroed`] has been called.
//! 3. Whatever stands behind the end of the list, left by a torn write or by a truncation, is
//!    cleared from the image when an area is loaded, and zeroed on the device
//!    ([`AreaImage::stale`]) before the next entry is written: otherwise the entry could close the
//!    gap before it.

use super::format::Exception;
use super::format::Layout;
use super::format::ENTRY_LEN;
use core::ops::DerefMut;
use core::ops::Range;

/// The image of one area, of one chunk's size.
///
/// # Invariants
///
/// Entries `0..filled` are set and all others are zero; `written <= filled <= layout.entries()`.
/// On the device, bytes from `stale_end` on are zero or equal to the image.
pub struct AreaImage<B> {
    layout: Layout,
    bytes: B,
    area: u64,
    filled: usize,
    written: usize,
    stale_end: usize,
    next_zeroed: bool,
}

impl<B: DerefMut<Target = [u8]>> AreaImage<B> {
    /// The image of area 0 of an empty store. `bytes` is one chunk of memory; its content is
    /// cleared.
    pub fn new(layout: Layout, mut bytes: B) -> Self {
        bytes.fill(0);
        Self {
            layout,
            bytes,
            area: 0,
            filled: 0,
            written: 0,
            stale_end: 0,
            next_zeroed: false,
        }
    }

    /// Makes this the image of `area`, whose content on disk is `content`, up to at most `limit`
    /// entries or the first hole. Returns how many entries it has.
    pub fn load(&mut self, area: u64, content: &[u8], limit: usize) -> usize {
        self.bytes.fill(0);
        self.area = area;
        self.filled = 0;
        self.next_zeroed = false;
        while self.filled < limit.min(self.entries()) {
            let Some(entry) = entry_at(content, self.filled) else {
                break;
            };
            if !self.put(entry) {
                break;
            }
        }
        self.written = self.filled;
        self.stale_end = content
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last + 1);
        self.filled
    }

    /// The bytes on the device, widened to blocks of `block` bytes (a power of two), that stand
    /// behind the end of the list and are not zero. They have to be written from the image, and
    /// reported by [`Self::scrubbed`], before anything else is (rule 3).
    pub fn stale(&self, block: usize) -> Range<usize> {
        let end = self.filled * ENTRY_LEN;
        if self.stale_end <= end {
            return 0..0;
        }
        self.blocks(end, self.stale_end, block)
    }

    /// The stale bytes are durably zero.
    pub fn scrubbed(&mut self) {
        self.stale_end = 0;
    }

    /// Makes this the image of `area`, with no entries.
    pub fn start(&mut self, area: u64) {
        self.load(area, &[], 0);
    }

    /// The memory of the image, for I/O.
    pub fn buffer(&self) -> &B {
        &self.bytes
    }

    /// Number of the area.
    pub fn area(&self) -> u64 {
        self.area
    }

    /// Entries in the image.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Entries in this area and all before it.
    pub fn listed(&self) -> u64 {
        self.area
            .saturating_mul(self.layout.entries())
            .saturating_add(self.filled as u64)
    }

    /// Entry `slot`, if it is set.
    pub fn entry(&self, slot: usize) -> Option<Exception> {
        entry_at(&self.bytes, slot)
    }

    /// How many entries can be put in now (rule 2).
    pub fn room(&self) -> usize {
        let free = self.entries() - self.filled;
        if self.next_zeroed {
            free
        } else {
            free.saturating_sub(1)
        }
    }

    /// Whether the area is full, so that the next one follows once it is written ([`Self::wrote`]).
    pub fn is_full(&self) -> bool {
        self.filled == self.entries()
    }

    /// The next area is on the device as zeros.
    pub fn next_is_zeroed(&mut self) {
        self.next_zeroed = true;
    }

    /// Something else is to be written where the next area is.
    pub fn next_is_not_zeroed(&mut self) {
        self.next_zeroed = false;
    }

    /// Whether the next area still has to be zeroed.
    pub fn wants_next_zeroed(&self) -> bool {
        !self.next_zeroed
    }

    /// Puts an entry in; false, and nothing done, if there is no room.
    pub fn push(&mut self, entry: Exception) -> bool {
        self.room() > 0 && self.put(entry)
    }

    /// The bytes that differ from the disk, widened to blocks of `block` bytes (a power of two);
    /// empty if nothing does.
    pub fn unwritten(&self, block: usize) -> Range<usize> {
        if self.written == self.filled {
            return 0..0;
        }
        self.blocks(self.written * ENTRY_LEN, self.filled * ENTRY_LEN, block)
    }

    /// The whole image.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All entries are on disk. Goes on to the next area if this one is full.
    pub fn wrote(&mut self) {
        self.written = self.filled;
        if self.is_full() {
            self.bytes.fill(0);
            self.area = self.area.saturating_add(1);
            self.filled = 0;
            self.written = 0;
            self.stale_end = 0;
            self.next_zeroed = false;
        }
    }

    /// The device has the image as it is, also what ends the list; nothing is known of the next area.
    pub fn rewrote(&mut self) {
        self.written = self.filled;
        self.stale_end = 0;
        self.next_zeroed = false;
    }

    fn blocks(&self, from: usize, to: usize, block: usize) -> Range<usize> {
        let mask = block.saturating_sub(1);
        (from & !mask)..(to.saturating_add(mask) & !mask).min(self.bytes.len())
    }

    fn entries(&self) -> usize {
        self.bytes.len() / ENTRY_LEN
    }

    fn put(&mut self, entry: Exception) -> bool {
        let at = self.filled * ENTRY_LEN;
        match self.bytes.get_mut(at..at + ENTRY_LEN) {
            Some(place) => {
                place.copy_from_slice(&entry.encode());
                self.filled += 1;
                true
            }
            None => false,
        }
    }
}

/// Entry `slot` of an area's bytes; `None` ends the list.
pub fn entry_at(area: &[u8], slot: usize) -> Option<Exception> {
    let at = slot.checked_mul(ENTRY_LEN)?;
    Exception::decode(area.get(at..at.checked_add(ENTRY_LEN)?)?)
}

#[cfg(test)]
mod tests;
