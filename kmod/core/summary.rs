// SPDX-License-Identifier: GPL-2.0

//! The summary of a list of exceptions: the same, sorted by origin chunk and packed, in pages that
//! can be read one by one when they are needed.
//!
//! A list is in the order of its making: whoever wants to know whether one chunk is in it has to
//! read all of it. A store whose header has version [`VERSION_WITH_SUMMARY`] has, near the end of
//! the COW device, a summary of the first [`Summary::listed`] entries of its list. Activating it
//! takes the header, the [`Fences`] (where each page begins) and the entries behind those; pages
//! follow on demand.
//!
//! The list stays what counts. The header of version 1, written over the other, makes a store with a
//! summary one without; this comes first when the list is to be cut off or the summary's room is
//! wanted. Until then nobody who does not know of summaries uses the store, as it has a version
//! that they do not know, and the entries that are summarised do not change.
//!
//! A summary may name more than the first `listed` entries, but only such as were in the list,
//! durably, when the header that points at the summary was written: reading them again from the list
//! does no harm.
//!
//! ```text
//!          next_free             fences       page n-1        page 1   page 0     top
//! -----------+- - - - - - - - - +------+- .. -+------+- .. --+--------+--------+- - -
//!    data    |       free       |      |      |      |       |        |        |
//! -----------+- - - - - - - - - +------+- .. -+------+- .. --+--------+--------+- - -
//! ```
//!
//! Pages grow downwards from `top`, so that their number need not be known when the first is
//! written. Source: `Documentation/cow-format.rst` describes it byte by byte.

use super::checksum::crc32c;
use super::format::Bounds;
use super::format::ChunkSize;
use super::format::Exception;
use super::format::Header;
use super::format::Layout;
use super::format::ENTRY_LEN;
use super::format::HEADER_LEN;
use super::format::MAX_COW_CHUNKS;
use super::format::SECTOR_SIZE;
use super::format::VERSION_WITH_SUMMARY;
use super::index::Run;
use core::fmt;
use core::ops::Deref;
use core::ops::DerefMut;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Acquire;
use core::sync::atomic::Ordering::Release;

/// Bytes of a page.
pub const PAGE_LEN: usize = 4096;
/// Sectors of a page.
pub const PAGE_SECTORS: u64 = PAGE_LEN as u64 / SECTOR_SIZE;
/// Bytes of the header of a store with a summary.
pub const SUMMARY_HEADER_LEN: usize = 64;
/// Bytes of a fence: the first origin chunk of a page, and the page's checksum.
pub const FENCE_LEN: usize = 12;
/// Pages that a summary may have: with them the fences take 384 MiB.
const MOST_PAGES: u32 = 1 << 25;
/// Bytes at the start of a page that tell how many runs it has.
const COUNT_LEN: usize = 2;
/// Bytes that a run takes at most: three numbers of up to 64 bits, seven in a byte.
const MOST_RUN_LEN: usize = 30;

/// Why a summary cannot be used. The list still can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SummaryError {
    /// The header's checksum is wrong.
    Header,
    /// The header names places that are not on the device, or not free.
    Place,
    /// The list is not the one that was summarised.
    Stale,
    /// The fences' checksum is wrong, or they are not in order.
    Fences,
    /// A page's checksum is wrong.
    Page(u64),
    /// A page says something that cannot be.
    Run(u64),
}

impl fmt::Display for SummaryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Header => f.write_str("the checksum of the summary's header is wrong"),
            Self::Place => f.write_str("the summary is said to be where it cannot be"),
            Self::Stale => f.write_str("the summary is not that of this list"),
            Self::Fences => f.write_str("the fences of the summary are damaged"),
            Self::Page(n) => write!(f, "page {n} of the summary is damaged"),
            Self::Run(n) => write!(f, "page {n} of the summary names chunks that cannot be"),
        }
    }
}

/// What the header says of a summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How many pages.
    pub pages: u32,
    /// The sector behind page 0.
    pub top: u64,
    /// How many entries of the list, from its start on, are in it.
    pub listed: u64,
    /// All COW chunks that it names are below this one.
    pub next_free: u64,
    /// The checksum of the fences.
    pub fences: u32,
    /// The checksum of the entries that are summarised of the area that has the last one of them.
    pub last: u32,
}

impl Summary {
    /// What stands behind a header. `None` if it is of version 1, and has no summary.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, SummaryError> {
        let word = |at: usize| -> Option<u32> {
            Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
        };
        let long = |at: usize| -> Option<u64> {
            Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
        };
        if word(8) != Some(VERSION_WITH_SUMMARY) {
            return Ok(None);
        }
        let parsed = || {
            let header: &[u8; SUMMARY_HEADER_LEN] = bytes.first_chunk()?;
            (word(HEADER_LEN)? == header_sum(header)).then_some(())?;
            let pages = word(20)?;
            (pages <= MOST_PAGES).then_some(())?;
            Some(Self {
                pages,
                top: long(24)?,
                listed: long(32)?,
                next_free: long(40)?,
                fences: word(48)?,
                last: word(52)?,
            })
        };
        parsed().map(Some).ok_or(SummaryError::Header)
    }

    /// The first bytes of a store of this chunk size that has the summary.
    pub fn encode(&self, chunk: ChunkSize) -> [u8; SUMMARY_HEADER_LEN] {
        let mut out = [0; SUMMARY_HEADER_LEN];
        let header = Header { valid: true, chunk };
        let version = VERSION_WITH_SUMMARY.to_le_bytes();
        let fields: [(usize, &[u8]); 8] = [
            (0, &header.encode()),
            (8, &version),
            (20, &self.pages.to_le_bytes()),
            (24, &self.top.to_le_bytes()),
            (32, &self.listed.to_le_bytes()),
            (40, &self.next_free.to_le_bytes()),
            (48, &self.fences.to_le_bytes()),
            (52, &self.last.to_le_bytes()),
        ];
        for (at, bytes) in fields {
            for (to, byte) in out.iter_mut().skip(at).zip(bytes) {
                *to = *byte;
            }
        }
        let sum = header_sum(&out).to_le_bytes();
        for (to, byte) in out.iter_mut().skip(HEADER_LEN).zip(sum) {
            *to = byte;
        }
        out
    }

    /// Checks that all of it is on a COW device of `cow_sectors` sectors and behind what is in use.
    pub fn check(
        &self,
        layout: Layout,
        bounds: Bounds,
        cow_sectors: u64,
    ) -> Result<(), SummaryError> {
        let areas = layout.areas_within(self.next_free);
        let right = self.top <= cow_sectors
            && self.top % PAGE_SECTORS == 0
            && self.next_free >= layout.first_data()
            && self.next_free <= bounds.cow_chunks
            // Every entry has a chunk of its own.
            && self.listed <= self.next_free.saturating_sub(1).saturating_sub(areas)
            && self.listed <= layout.capacity(bounds.cow_chunks)
            && self
                .start()
                .is_some_and(|start| layout.chunk().sector_of(self.next_free) <= start);
        right.then_some(()).ok_or(SummaryError::Place)
    }

    /// The first sector of all, if it is on the device.
    pub fn start(&self) -> Option<u64> {
        self.fences_sector()
    }

    /// The first sector of page `n`.
    pub fn page_sector(&self, n: u64) -> Option<u64> {
        self.top.checked_sub(n.checked_add(1)? * PAGE_SECTORS)
    }

    /// The first sector of the fences.
    pub fn fences_sector(&self) -> Option<u64> {
        let pages = u64::from(self.pages) * PAGE_SECTORS;
        let fences = self.fence_bytes() as u64 / SECTOR_SIZE;
        self.top.checked_sub(pages)?.checked_sub(fences)
    }

    /// Bytes that the fences take, in whole pages.
    pub fn fence_bytes(&self) -> usize {
        fence_bytes(self.pages)
    }

    /// The area that has the last entry that is summarised, and how many of its entries are; area 0 and
    /// none if no entry is.
    pub fn end(&self, layout: Layout) -> (u64, usize) {
        let Some(last) = self.listed.checked_sub(1) else {
            return (0, 0);
        };
        let entries = layout.entries();
        (last / entries, (last % entries) as usize + 1)
    }

    /// Checks that the area of [`Self::end`], whose content is given, begins with the entries that it
    /// had.
    pub fn check_end(&self, layout: Layout, content: &[u8]) -> Result<(), SummaryError> {
        let (_, count) = self.end(layout);
        let before = content
            .get(..count * ENTRY_LEN)
            .ok_or(SummaryError::Stale)?;
        let all = before
            .chunks_exact(ENTRY_LEN)
            .all(|entry| Exception::decode(entry).is_some());
        if all && crc32c(before) == self.last {
            Ok(())
        } else {
            Err(SummaryError::Stale)
        }
    }
}

/// The checksum of a header, without the field that holds it.
fn header_sum(header: &[u8; SUMMARY_HEADER_LEN]) -> u32 {
    let mut bytes = *header;
    for byte in bytes.iter_mut().skip(HEADER_LEN).take(4) {
        *byte = 0;
    }
    crc32c(&bytes)
}

/// Bytes that the fences of so many pages take, in whole pages.
pub const fn fence_bytes(pages: u32) -> usize {
    (pages as usize * FENCE_LEN).next_multiple_of(PAGE_LEN)
}

/// Where each page begins, and its checksum: as it stands on the device, at the start of `bytes`.
///
/// # Invariants
///
/// `bytes` has `pages` fences, whose chunks ascend.
pub struct Fences<B> {
    bytes: B,
    pages: u32,
}

impl<B: Deref<Target = [u8]>> Fences<B> {
    /// Takes the fences of a summary that were read.
    pub fn new(bytes: B, summary: &Summary) -> Result<Self, SummaryError> {
        let pages = summary.pages;
        let used = bytes
            .get(..pages as usize * FENCE_LEN)
            .ok_or(SummaryError::Fences)?;
        let chunks = used.chunks_exact(FENCE_LEN).map(chunk_of_fence);
        if crc32c(used) != summary.fences || !chunks.is_sorted_by(|a, b| a < b) {
            return Err(SummaryError::Fences);
        }
        // INVARIANT: Both were just checked.
        Ok(Self { bytes, pages })
    }

    /// How many pages there are.
    pub fn pages(&self) -> u64 {
        self.pages.into()
    }

    /// The page that names `chunk`, if any does: the first one also for what is before it.
    pub fn page_of(&self, chunk: u64) -> u64 {
        let (mut low, mut high) = (0, self.pages());
        // Those below `low` begin at or before the chunk, those from `high` on behind it.
        while low < high {
            let middle = low + (high - low) / 2;
            if self.first_of(middle) <= chunk {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.saturating_sub(1)
    }

    /// The first chunk that page `n` names; `u64::MAX` behind the last one.
    pub fn first_of(&self, n: u64) -> u64 {
        self.fence(n).map_or(u64::MAX, chunk_of_fence)
    }

    /// Reads the runs of page `n`, whose content is given.
    pub fn read<'a>(
        &self,
        n: u64,
        page: &'a [u8],
        bounds: PageBounds,
    ) -> Result<PageReader<'a>, SummaryError> {
        let sum = self.fence(n).and_then(|fence| {
            let sum: [u8; 4] = fence.get(8..)?.try_into().ok()?;
            Some(u32::from_le_bytes(sum))
        });
        let parts = page.split_first_chunk::<COUNT_LEN>();
        let (Some((count, rest)), true) = (parts, sum == Some(crc32c(page))) else {
            return Err(SummaryError::Page(n));
        };
        Ok(PageReader {
            n,
            rest,
            left: u16::from_le_bytes(*count),
            origin: self.first_of(n),
            cow: 0,
            end: self.first_of(n.saturating_add(1)).min(bounds.origin_chunks),
            bounds,
        })
    }

    fn fence(&self, n: u64) -> Option<&[u8]> {
        if n >= self.pages() {
            return None;
        }
        let at = usize::try_from(n).ok()? * FENCE_LEN;
        self.bytes.get(at..at + FENCE_LEN)
    }
}

fn chunk_of_fence(fence: &[u8]) -> u64 {
    fence
        .first_chunk()
        .map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

/// The fence of a page that begins with `chunk`.
pub fn fence_of(chunk: u64, page: &[u8]) -> [u8; FENCE_LEN] {
    let mut fence = [0; FENCE_LEN];
    let bytes = chunk.to_le_bytes().into_iter();
    let bytes = bytes.chain(crc32c(page).to_le_bytes());
    for (to, byte) in fence.iter_mut().zip(bytes) {
        *to = byte;
    }
    fence
}

/// What the runs of a page have to stay within.
#[derive(Clone, Copy, Debug)]
pub struct PageBounds {
    /// Where things are on the COW device.
    pub layout: Layout,
    /// Chunks of the origin.
    pub origin_chunks: u64,
    /// All COW chunks are below this one.
    pub next_free: u64,
}

/// The runs of a page, in the order of the origin. Ends after an error.
pub struct PageReader<'a> {
    n: u64,
    rest: &'a [u8],
    left: u16,
    /// Where the last run ended on both devices.
    origin: u64,
    cow: u64,
    /// Where the next page begins.
    end: u64,
    bounds: PageBounds,
}

impl PageReader<'_> {
    fn run(&mut self) -> Option<Run> {
        let origin = self.origin.checked_add(self.number()?)?;
        let len = self.number()?.checked_add(1)?;
        let cow = self.cow.wrapping_add(unzigzag(self.number()?));
        let run = Run { origin, cow, len };
        let (end, cow_end) = (origin.checked_add(len)?, cow.checked_add(len)?);
        let PageBounds {
            layout, next_free, ..
        } = self.bounds;
        let is_data = cow >= layout.first_data()
            && !layout.is_metadata(cow)
            && len <= layout.data_from(cow)
            && cow_end <= next_free.min(MAX_COW_CHUNKS);
        if end > self.end || !is_data {
            return None;
        }
        self.origin = end;
        self.cow = cow_end;
        Some(run)
    }

    /// A number of seven bits in each byte, the lowest first; all bytes but the last have bit 7.
    fn number(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

impl Iterator for PageReader<'_> {
    type Item = Result<Run, SummaryError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let run = self.run();
        if run.is_none() {
            self.left = 0;
        }
        Some(run.ok_or(SummaryError::Run(self.n)))
    }
}

/// A page that is being written. `bytes` is [`PAGE_LEN`] of memory.
pub struct PageWriter<B> {
    bytes: B,
    used: usize,
    runs: u16,
    first: u64,
    origin: u64,
    cow: u64,
}

impl<B: DerefMut<Target = [u8]>> PageWriter<B> {
    /// An empty page.
    pub fn new(mut bytes: B) -> Self {
        bytes.fill(0);
        Self {
            bytes,
            used: COUNT_LEN,
            runs: 0,
            first: 0,
            origin: 0,
            cow: 0,
        }
    }

    /// Whether it has no run.
    pub fn is_empty(&self) -> bool {
        self.runs == 0
    }

    /// Adds a run, which lies behind all that are there. False, and nothing done, if it does not
    /// fit.
    pub fn push(&mut self, run: Run) -> bool {
        if self.is_empty() {
            self.first = run.origin;
            self.origin = run.origin;
        }
        let mut packed = [0; MOST_RUN_LEN];
        let mut places = packed.iter_mut();
        let numbers = [
            run.origin.wrapping_sub(self.origin),
            run.len.wrapping_sub(1),
            zigzag(run.cow.wrapping_sub(self.cow)),
        ];
        let mut len = 0;
        for mut number in numbers {
            loop {
                let more = number >> 7 != 0;
                if let Some(place) = places.next() {
                    *place = (number as u8 & 0x7f) | if more { 0x80 } else { 0 };
                }
                len += 1;
                number >>= 7;
                if !more {
                    break;
                }
            }
        }
        let Some(place) = self.bytes.get_mut(self.used..self.used + len) else {
            return false;
        };
        for (to, byte) in place.iter_mut().zip(packed) {
            *to = byte;
        }
        self.used += len;
        // A run takes three bytes or more, so that there are far fewer than 65536.
        self.runs = self.runs.saturating_add(1);
        self.origin = run.origin.wrapping_add(run.len);
        self.cow = run.cow.wrapping_add(run.len);
        true
    }

    /// The page as it is to be written, and its fence.
    pub fn finish(&mut self) -> (&B, [u8; FENCE_LEN]) {
        let runs = self.runs.to_le_bytes();
        for (to, byte) in self.bytes.iter_mut().zip(runs) {
            *to = byte;
        }
        (&self.bytes, fence_of(self.first, &self.bytes))
    }

    /// Makes it an empty page again.
    pub fn clear(&mut self) {
        self.bytes.fill(0);
        self.used = COUNT_LEN;
        self.runs = 0;
        self.origin = 0;
        self.cow = 0;
    }
}

/// Small numbers for small steps in both directions.
const fn zigzag(step: u64) -> u64 {
    (step << 1) ^ (step as i64 >> 63) as u64
}

const fn unzigzag(number: u64) -> u64 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}

/// Which pages have been read. Whoever finds a page in it finds its runs where they were put
/// before.
pub struct PageSet<W> {
    words: W,
}

impl<W: Deref<Target = [AtomicU64]>> PageSet<W> {
    /// Words for so many pages.
    pub fn words_for(pages: u64) -> usize {
        usize::try_from(pages.div_ceil(64)).unwrap_or(usize::MAX)
    }

    /// Uses `words`, which are zero.
    pub fn new(words: W) -> Self {
        Self { words }
    }

    /// Whether page `n` is in it.
    #[inline]
    pub fn has(&self, n: u64) -> bool {
        self.word(n)
            .is_some_and(|word| word.load(Acquire) & bit(n) != 0)
    }

    /// Puts page `n` in; everything that was done before is seen by who finds it there.
    pub fn add(&self, n: u64) {
        if let Some(word) = self.word(n) {
            word.fetch_or(bit(n), Release);
        }
    }

    /// Takes page `n` out.
    pub fn remove(&self, n: u64) {
        if let Some(word) = self.word(n) {
            word.fetch_and(!bit(n), Release);
        }
    }

    /// The first page of `from..end` that is in it, or, if `there` is false, that is not.
    pub fn next(&self, from: u64, end: u64, there: bool) -> Option<u64> {
        let mut n = from;
        while n < end {
            let word = self.word(n)?.load(Acquire);
            let word = if there { word } else { !word };
            let ahead = word >> (n % 64);
            if ahead != 0 {
                let found = n + u64::from(ahead.trailing_zeros());
                return (found < end).then_some(found);
            }
            n = (n | 63) + 1;
        }
        None
    }

    fn word(&self, n: u64) -> Option<&AtomicU64> {
        self.words.get(usize::try_from(n / 64).ok()?)
    }
}

const fn bit(n: u64) -> u64 {
    1 << (n % 64)
}

#[cfg(test)]
mod tests;
