// SPDX-License-Identifier: GPL-2.0-or-later

//! Reads a store.
//!
//! Nothing in a store is believed before it is checked: the header when the store is opened, each
//! entry when [`Entries`] hands it out. Memory for the checks grows with the number of runs of
//! entries, and the entries of an image made by a program come in runs.

use crate::disk;
use crate::disk::Disk;
use crate::error::Error;
use crate::error::Result;
use crate::numbers::Numbers;
use holey_core::format::Bounds;
use holey_core::format::Exception;
use holey_core::format::FormatError;
use holey_core::format::Header;
use holey_core::format::Layout;
use holey_core::format::ENTRY_LEN;
use holey_core::format::SECTOR_SIZE;
use holey_core::summary::Summary;
use holey_core::summary::SummaryError;
use holey_core::summary::SUMMARY_HEADER_LEN;
use serde::Serialize;
use std::ops::Range;

/// File offsets are signed for the system; no device is larger.
const MAX_OFFSET: u64 = i64::MAX as u64;

/// A store whose header has been read.
#[derive(Debug)]
pub struct Store<D> {
    disk: D,
    header: Header,
    summary: std::result::Result<Option<Summary>, SummaryError>,
    layout: Layout,
    bounds: Bounds,
}

impl<D: Disk> Store<D> {
    /// Reads the header. A store that was invalidated can be opened: see [`Store::usable`].
    pub fn open(disk: D) -> Result<Self> {
        let mut start = [0; SUMMARY_HEADER_LEN];
        let len = usize::try_from(disk.size()).unwrap_or(usize::MAX);
        let len = len.min(SUMMARY_HEADER_LEN);
        let start = start.get_mut(..len).unwrap_or_default();
        disk::read(&disk, 0, start)?;
        let refuse = |reason| Error::format(disk.name(), reason);
        let header = Header::parse(start).map_err(refuse)?;
        let header = header.ok_or_else(|| Error::Fresh {
            object: disk.name(),
        })?;
        let sectors = disk.size() / SECTOR_SIZE;
        let mut bounds = Bounds::new(header.chunk, 0, sectors).map_err(refuse)?;
        bounds.origin_chunks = MAX_OFFSET / header.chunk.bytes() as u64;
        Ok(Self {
            summary: Summary::parse(start),
            disk,
            header,
            layout: Layout::new(header.chunk),
            bounds,
        })
    }

    /// Refuses entries beyond an origin of `bytes` from now on.
    pub fn set_origin_size(&mut self, bytes: u64) {
        self.bounds.origin_chunks = bytes.div_ceil(self.chunk_bytes());
    }

    /// Fails if the snapshot was invalidated.
    pub fn usable(&self) -> Result<()> {
        if self.header.valid {
            return Ok(());
        }
        Err(Error::Invalidated {
            object: self.disk.name(),
        })
    }

    /// The header.
    pub fn header(&self) -> Header {
        self.header
    }

    /// What the header says of a summary of the list, if there is one.
    pub fn summary(&self) -> std::result::Result<Option<Summary>, SummaryError> {
        self.summary
    }

    /// Where things are.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// What entries may name, in chunks.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The disk it is on.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Gives the disk back.
    pub fn into_disk(self) -> D {
        self.disk
    }

    /// Bytes of a chunk.
    pub fn chunk_bytes(&self) -> u64 {
        self.header.chunk.bytes() as u64
    }

    /// The list of exceptions, each checked, in list order. Ends after the first error.
    pub fn entries(&self) -> Entries<'_, D> {
        Entries {
            raw: self.raw_entries(),
            seen: Seen::default(),
        }
    }

    /// The checked list, as runs that are consecutive on both sides.
    pub fn runs(&self) -> Runs<Entries<'_, D>> {
        Runs {
            entries: self.entries(),
            open: None,
        }
    }

    /// The part of the checked list from entry `start` up to entry `end`, as runs.
    pub(crate) fn runs_between(
        &self,
        start: u64,
        end: u64,
    ) -> Runs<std::iter::Take<Entries<'_, D>>> {
        let entries = Entries {
            raw: self.raw_entries_from(start),
            seen: Seen::default(),
        };
        let count = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
        Runs {
            entries: entries.take(count),
            open: None,
        }
    }

    /// Ends the list before entry `n`, which is in it or just behind it.
    pub(crate) fn cut(&self, n: u64) -> Result<()> {
        let (area, slot) = (n / self.layout.entries(), n % self.layout.entries());
        let size = self.header.chunk.bytes();
        let at = slot as usize * ENTRY_LEN;
        let start = self.layout.area_chunk(area) * size as u64;
        disk::write(&self.disk, start + at as u64, &vec![0; size - at])
    }

    /// Makes it a store without a summary, durably, as it has to be before an entry leaves the list.
    pub(crate) fn forget_summary(&mut self) -> Result<()> {
        if self.summary == Ok(None) {
            return Ok(());
        }
        let mut sector = [0; SECTOR_SIZE as usize];
        for (to, from) in sector.iter_mut().zip(self.header.encode()) {
            *to = from;
        }
        disk::write(&self.disk, 0, &sector)?;
        disk::flush(&self.disk)?;
        self.summary = Ok(None);
        Ok(())
    }

    /// The list as it stands on the disk. Fails only where it cannot be read or has no end.
    pub(crate) fn raw_entries(&self) -> RawEntries<'_, D> {
        self.raw_entries_from(0)
    }

    /// The same from entry `n` on, which is in the list or just behind it.
    fn raw_entries_from(&self, n: u64) -> RawEntries<'_, D> {
        RawEntries {
            store: self,
            area: n / self.layout.entries(),
            slot: (n % self.layout.entries()) as usize,
            bytes: Vec::new(),
            done: false,
        }
    }

    /// Reads whole chunks of data, from COW chunk `first` on.
    pub fn read_chunks(&self, first: u64, buf: &mut [u8]) -> Result<()> {
        disk::read(&self.disk, first.saturating_mul(self.chunk_bytes()), buf)
    }

    /// What the list names, as ascending ranges of bytes of the origin.
    pub fn places(&self) -> Result<Vec<Range<u64>>> {
        let chunk = self.chunk_bytes();
        let mut places = Vec::new();
        for run in self.runs() {
            let run = run?;
            places.push(run.origin * chunk..(run.origin + run.len) * chunk);
        }
        places.sort_unstable_by_key(|place| place.start);
        Ok(places)
    }

    /// Walks and checks the whole list.
    pub fn survey(&self) -> Result<Survey> {
        let mut survey = Survey::default();
        let mut last: Option<Run> = None;
        for run in self.runs() {
            let run = run?;
            survey.add(run, last);
            last = Some(run);
        }
        survey.areas = survey.exceptions / self.layout.entries() + 1;
        let after = survey.highest_cow.map_or(Layout::FIRST_DATA, |c| c + 1);
        survey.next_free = self.layout.skip_metadata(after);
        Ok(survey)
    }

    pub(crate) fn fail(&self, reason: FormatError) -> Error {
        Error::format(self.disk.name(), reason)
    }
}

/// What a whole list amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Survey {
    /// Number of entries.
    pub exceptions: u64,
    /// Areas that hold entries or end the list.
    pub areas: u64,
    /// Runs that are consecutive on both sides.
    pub runs: u64,
    /// Whether entries ascend by origin chunk, as [`mod@crate::diff`] makes them.
    pub sorted: bool,
    /// Smallest origin chunk listed.
    pub lowest_origin: Option<u64>,
    /// Largest origin chunk listed.
    pub highest_origin: Option<u64>,
    /// Largest COW chunk listed.
    pub highest_cow: Option<u64>,
    /// The COW chunk that the kernel would use next.
    pub next_free: u64,
}

impl Default for Survey {
    fn default() -> Self {
        Self {
            exceptions: 0,
            areas: 1,
            runs: 0,
            sorted: true,
            lowest_origin: None,
            highest_origin: None,
            highest_cow: None,
            next_free: Layout::FIRST_DATA,
        }
    }
}

impl Survey {
    fn add(&mut self, run: Run, last: Option<Run>) {
        self.exceptions += run.len;
        self.runs += 1;
        self.sorted &= last.is_none_or(|last| run.origin >= last.origin + last.len);
        let low = self.lowest_origin.map_or(run.origin, |l| l.min(run.origin));
        self.lowest_origin = Some(low);
        self.highest_origin = self.highest_origin.max(Some(run.origin + run.len - 1));
        self.highest_cow = self.highest_cow.max(Some(run.cow + run.len - 1));
    }
}

/// Entries that are consecutive on the origin and on the COW device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Run {
    /// First origin chunk.
    pub origin: u64,
    /// First COW chunk.
    pub cow: u64,
    /// How many chunks, at least one.
    pub len: u64,
}

/// Joins entries to runs.
#[derive(Debug)]
pub struct Runs<I> {
    entries: I,
    open: Option<Run>,
}

impl<I: Iterator<Item = Result<Exception>>> Iterator for Runs<I> {
    type Item = Result<Run>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let entry = match self.entries.next() {
                Some(Ok(entry)) => entry,
                Some(Err(error)) => {
                    self.open = None;
                    return Some(Err(error));
                }
                None => return self.open.take().map(Ok),
            };
            match &mut self.open {
                Some(run)
                    if entry.origin == run.origin + run.len && entry.cow == run.cow + run.len =>
                {
                    run.len += 1;
                }
                open => {
                    let next = Run {
                        origin: entry.origin,
                        cow: entry.cow,
                        len: 1,
                    };
                    if let Some(run) = open.replace(next) {
                        return Some(Ok(run));
                    }
                }
            }
        }
    }
}

/// Finds what is listed twice.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    origin: Numbers,
    cow: Numbers,
}

impl Seen {
    /// Checks an entry against the bounds and everything seen before.
    pub(crate) fn check(
        &mut self,
        entry: Exception,
        layout: Layout,
        bounds: Bounds,
    ) -> std::result::Result<(), FormatError> {
        layout.check(entry, bounds)?;
        // Data chunks are numbered without the metadata between them, so that runs stay whole.
        let group = (entry.cow - 1) / (layout.entries() + 1);
        if !self.cow.insert(entry.cow - Layout::FIRST_DATA - group) {
            return Err(FormatError::CowTwice(entry));
        }
        if !self.origin.insert(entry.origin) {
            return Err(FormatError::OriginTwice(entry));
        }
        Ok(())
    }

    /// Whether the COW chunks seen leave no gap.
    pub(crate) fn cow_is_dense(&self) -> bool {
        self.cow.runs() <= 1
    }
}

/// See [`Store::entries`].
#[derive(Debug)]
pub struct Entries<'a, D> {
    raw: RawEntries<'a, D>,
    seen: Seen,
}

impl<D: Disk> Iterator for Entries<'_, D> {
    type Item = Result<Exception>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = match self.raw.next()? {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error)),
        };
        let store = self.raw.store;
        if let Err(reason) = self.seen.check(entry, store.layout, store.bounds) {
            self.raw.done = true;
            return Some(Err(store.fail(reason)));
        }
        Some(Ok(entry))
    }
}

/// See [`Store::raw_entries`].
#[derive(Debug)]
pub(crate) struct RawEntries<'a, D> {
    store: &'a Store<D>,
    /// Number of the area in `bytes`, once there is one.
    area: u64,
    slot: usize,
    bytes: Vec<u8>,
    done: bool,
}

impl<D: Disk> RawEntries<'_, D> {
    /// What stands behind the end of the list in its last area; empty before the end is reached.
    pub(crate) fn rest(&self) -> &[u8] {
        let from = (self.slot + 1) * ENTRY_LEN;
        self.bytes.get(from..).unwrap_or_default()
    }

    fn load(&mut self) -> Result<()> {
        let chunk = self.store.layout.area_chunk(self.area);
        if chunk >= self.store.bounds.cow_chunks {
            return Err(self.store.fail(FormatError::NoEnd(self.area)));
        }
        self.bytes.resize(self.store.header.chunk.bytes(), 0);
        self.store.read_chunks(chunk, &mut self.bytes)
    }

    fn advance(&mut self) -> Result<Option<Exception>> {
        if self.bytes.is_empty() {
            self.load()?;
        } else if self.slot as u64 == self.store.layout.entries() {
            self.area += 1;
            self.slot = 0;
            self.load()?;
        }
        let at = self.slot * ENTRY_LEN;
        let entry = self.bytes.get(at..).and_then(Exception::decode);
        if entry.is_some() {
            self.slot += 1;
        }
        Ok(entry)
    }
}

impl<D: Disk> Iterator for RawEntries<'_, D> {
    type Item = Result<Exception>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let entry = self.advance().transpose();
        self.done = !matches!(entry, Some(Ok(_)));
        entry
    }
}
