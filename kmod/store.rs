// SPDX-License-Identifier: GPL-2.0

//! The store on a COW device: opening, making, and changing it.

use crate::dm::CtrError;
use crate::dm::Device;
use crate::dm::Durability;
use crate::dm::IoBuffer;
use crate::dm::IoClient;
use crate::holey_core::area::entry_at;
use crate::holey_core::area::AreaImage;
use crate::holey_core::format::Bounds;
use crate::holey_core::format::ChunkSize;
use crate::holey_core::format::Exception;
use crate::holey_core::format::FormatError;
use crate::holey_core::format::Header;
use crate::holey_core::format::Layout;
use crate::holey_core::format::UsedMap;
use crate::holey_core::format::MAX_COW_CHUNKS;
use crate::holey_core::format::SECTOR_SIZE;
use crate::holey_core::index::Extent;
use crate::holey_core::index::IndexError;
use crate::holey_core::index::Run;
use crate::holey_core::merge::Window;
use crate::holey_core::sort::places_for;
use crate::holey_core::sort::sort_by_origin;
use crate::holey_core::summary::PageBounds;
use crate::holey_core::summary::Summary;
use crate::holey_core::summary::SummaryError;
use crate::holey_core::table::StoreKind;
use crate::holey_core::table::StoreLine;
use crate::overlay::Area;
use crate::overlay::Condition;
use crate::overlay::Overlay;
use crate::summary;
use crate::summary::Pages;
use crate::summary::SummaryOrError;
use core::mem;
use kernel::alloc::AllocError;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Chunk size of a new store whose table line leaves it open, in sectors (16 KiB, as stock).
const DEFAULT_CHUNK_SECTORS: u32 = 32;

/// Entries that are sorted at a time when a list is loaded: 32 MiB of memory.
const SORTED_ENTRIES: usize = 1 << 20;
/// Runs that are added to the index before others get its lock.
const RUNS_AT_A_TIME: usize = 256;
/// Bytes of areas that are read at a time,
const READ_AHEAD: usize = 1 << 20;
/// and how many areas at most.
const MOST_READS: usize = 64;

/// Why a store cannot be opened.
pub(crate) enum StoreError {
    Format(FormatError),
    Io(Error),
    Memory,
    /// The chunk size does not suit the block size, in sectors, of a device.
    BlockSize(u32, u32),
    /// The index is inconsistent.
    Index,
}

impl From<FormatError> for StoreError {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        if error == ENOMEM {
            Self::Memory
        } else {
            Self::Io(error)
        }
    }
}

impl From<AllocError> for StoreError {
    fn from(_: AllocError) -> Self {
        Self::Memory
    }
}

impl StoreError {
    /// Logs the details and returns what the core shows.
    pub(crate) fn report(self, cow: &Device) -> CtrError {
        let number = cow.number();
        match self {
            Self::Format(error) => {
                pr_err!("COW device {}: {}\n", number, error);
                let errno = match error {
                    FormatError::Magic(_) => ENXIO,
                    _ => EINVAL,
                };
                CtrError::new(errno, c"The COW device has no usable exception store")
            }
            Self::Io(error) => {
                pr_err!("COW device {}: I/O error {}\n", number, error.to_errno());
                CtrError::new(EIO, c"Failed to read or write the exception store")
            }
            Self::Memory => CtrError::new(ENOMEM, c"Out of memory"),
            Self::BlockSize(chunk, block) => {
                pr_err!(
                    "COW device {}: chunk size {} sectors is no multiple of a block of {} sectors\n",
                    number,
                    chunk,
                    block
                );
                CtrError::new(
                    EINVAL,
                    c"Chunk size is not a multiple of the device block size",
                )
            }
            Self::Index => CtrError::new(EINVAL, c"The exception index is inconsistent"),
        }
    }
}

/// What a list is read for.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    /// As little of it as there may be is needed at once. If all of it is, its summary goes.
    pub(crate) later: bool,
    /// The store may be changed.
    pub(crate) writable: bool,
}

/// Opens the store that a table line asks for. `origin_sectors` is the length of the origin.
/// Sleeps.
pub(crate) fn open(
    io: &IoClient,
    origin: &Device,
    cow: &Device,
    origin_sectors: u64,
    line: StoreLine,
    reading: Reading,
) -> Result<Arc<Overlay>, StoreError> {
    match (line.kind, line.chunk) {
        (StoreKind::Transient, Some(chunk)) => open_transient(origin, cow, origin_sectors, chunk),
        (_, chunk) => open_persistent(io, origin, cow, origin_sectors, chunk, reading),
    }
}

/// Makes an empty store that nothing on the COW device tells of.
fn open_transient(
    origin: &Device,
    cow: &Device,
    origin_sectors: u64,
    chunk: ChunkSize,
) -> Result<Arc<Overlay>, StoreError> {
    check_blocks(chunk, [origin, cow])?;
    let cow_chunks = chunk.chunks_within(cow.sectors());
    if cow_chunks >= MAX_COW_CHUNKS {
        return Err(FormatError::CowTooLarge(cow_chunks).into());
    }
    let origin_chunks = chunk.chunks_covering(origin_sectors);
    Ok(Overlay::new(Layout::transient(chunk), origin_chunks)?)
}

fn check_blocks(chunk: ChunkSize, devices: [&Device; 2]) -> Result<(), StoreError> {
    for device in devices {
        let block = device.block_sectors();
        if chunk.sectors() % block != 0 {
            return Err(StoreError::BlockSize(chunk.sectors(), block));
        }
    }
    Ok(())
}

/// Makes an empty store that nothing on the COW device tells of, until [`write_list`] does. What is
/// on it stays there until [`erase`] is called.
pub(crate) fn make_unlisted(
    origin: &Device,
    cow: &Device,
    origin_sectors: u64,
    chunk: ChunkSize,
) -> Result<Arc<Overlay>, StoreError> {
    check_blocks(chunk, [origin, cow])?;
    let bounds = Bounds::new(chunk, origin_sectors, cow.sectors())?;
    let overlay = Overlay::new(Layout::new(chunk), bounds.origin_chunks)?;
    overlay.set_unlisted(true);
    Ok(overlay)
}

/// Makes the COW device tell, durably, of no store. Sleeps.
pub(crate) fn erase(io: &IoClient, cow: &Device, overlay: &Overlay) -> Result {
    let area = overlay.area.lock();
    let whole = 0..area.zeros.len();
    io.write(cow, 0, &area.zeros, whole, Durability::FlushedAndDurable)
}

/// Makes the COW device tell, durably, of all that an unlisted overlay has. Nothing is added to it
/// meanwhile. Sleeps.
pub(crate) fn write_list(io: &IoClient, cow: &Device, overlay: &Overlay) -> Result {
    let mut area = overlay.area.lock();
    let Area { image, zeros, .. } = &mut *area;
    let cow_chunks = overlay.chunk().chunks_within(cow.sectors());
    image.start(0);
    let mut next = 0;
    while let Some(run) = overlay.index.next_run(next).map_err(|_| EIO)? {
        for n in 0..run.len {
            image.next_is_zeroed();
            image.push(Exception {
                origin: run.origin.saturating_add(n),
                cow: run.cow.saturating_add(n),
            });
            if image.is_full() {
                write_image(io, cow, overlay, image, Durability::Volatile)?;
                image.wrote();
            }
        }
        next = run.end();
    }
    // The end of the list; an area that is written to its last entry may be the last on the device.
    if overlay.layout.area_chunk(image.area()) < cow_chunks {
        let whole = 0..image.bytes().len();
        write_part(io, cow, overlay, image, whole, Durability::Volatile)?;
        image.rewrote();
    } else {
        return Err(ENOSPC);
    }
    let whole = 0..zeros.len();
    write_header(io, cow, overlay, true, zeros, whole)?;
    overlay.note_area(image.area());
    if image.listed() == 0 {
        // Chunks may have been taken for nothing: without entries no merge gives them back.
        let first = overlay.layout.first_data();
        overlay.state.lock().alloc.truncate(0, first);
    }
    overlay.set_unlisted(false);
    Ok(())
}

/// Opens the store of a COW device, or makes one if the device is fresh. `chunk` is what the table
/// line says; a header that says something else wins.
fn open_persistent(
    io: &IoClient,
    origin: &Device,
    cow: &Device,
    origin_sectors: u64,
    chunk: Option<ChunkSize>,
    reading: Reading,
) -> Result<Arc<Overlay>, StoreError> {
    let (header, summary) = read_header(io, cow)?;
    let size = match (header, chunk) {
        (Some(header), Some(chunk)) if header.chunk != chunk => {
            pr_warn!(
                "COW device {}: chunk size {} sectors of the header is used, not {} of the table\n",
                cow.number(),
                header.chunk.sectors(),
                chunk.sectors()
            );
            header.chunk
        }
        (Some(header), _) => header.chunk,
        (None, Some(chunk)) => chunk,
        (None, None) => ChunkSize::new(DEFAULT_CHUNK_SECTORS.max(cow.block_sectors()))?,
    };
    check_blocks(size, [origin, cow])?;
    let bounds = Bounds::new(size, origin_sectors, cow.sectors())?;
    let overlay = Overlay::new(Layout::new(size), bounds.origin_chunks)?;
    match header {
        None => format(io, cow, &overlay)?,
        Some(header) if !header.valid => {
            pr_warn!(
                "COW device {}: the snapshot was invalidated earlier and cannot be used\n",
                cow.number()
            );
            overlay.set_condition(Condition::Invalid);
        }
        Some(_) => {
            // What is loaded counts as durable, but after a reset of the machine, or when a program
            // has just written it, part of it may only be in the disk's cache.
            cow.flush()?;
            let summary = summary.transpose();
            overlay.set_summarised(summary.is_some());
            let later = summary.filter(|_| reading.later);
            let found = later.and_then(|summary| {
                let found = summary.map_err(SummaryOrError::from);
                let found = found.and_then(|s| find_summary(io, cow, &overlay, bounds, s));
                found.inspect_err(|error| error.report(cow)).ok()
            });
            match found {
                Some((summary, pages, mut areas)) => {
                    load(io, cow, &overlay, bounds, &mut areas, Some(&summary))?;
                    summary::found(&overlay, summary, pages);
                }
                None => {
                    let mut areas = AreaReader::new(&overlay, bounds)?;
                    load(io, cow, &overlay, bounds, &mut areas, None)?;
                    if reading.writable {
                        summary::forget_unread(io, cow, &overlay, summary.and_then(Result::ok));
                    }
                }
            }
        }
    }
    Ok(overlay)
}

/// Reads what has to be known of a summary before its pages, and finds out whether it is that of the
/// list: the reader has the area where it ends.
fn find_summary(
    io: &IoClient,
    cow: &Device,
    overlay: &Overlay,
    bounds: Bounds,
    summary: Summary,
) -> Result<(Summary, KVBox<Pages>, AreaReader), SummaryOrError> {
    let layout = overlay.layout;
    summary.check(layout, bounds, cow.sectors())?;
    let page_bounds = PageBounds {
        layout,
        origin_chunks: bounds.origin_chunks,
        next_free: summary.next_free,
    };
    let pages = Pages::open(io, cow, summary, page_bounds)?;
    let mut areas = AreaReader::new(overlay, bounds)?;
    let (area, _) = summary.end(layout);
    summary.check_end(layout, areas.get(io, cow, overlay, area)?)?;
    Ok((summary, pages, areas))
}

/// Calls `each` with all exceptions of a list that ends in `image`, in the order of the list. Sleeps.
pub(crate) fn for_all(
    io: &IoClient,
    cow: &Device,
    overlay: &Overlay,
    image: &AreaImage<IoBuffer>,
    origin_chunks: u64,
    mut each: impl FnMut(Run) -> Result,
) -> Result {
    let bounds = Bounds {
        origin_chunks,
        cow_chunks: overlay.chunk().chunks_within(cow.sectors()),
    };
    let mut buffer = IoBuffer::new(overlay.chunk().bytes())?;
    for area in 0..=image.area() {
        let content = if area == image.area() {
            image.bytes()
        } else {
            read_area(io, cow, overlay, area, &mut buffer)?;
            &buffer
        };
        let mut slot = 0;
        while let Some(entry) = entry_at(content, slot) {
            overlay.layout.check(entry, bounds).map_err(|_| EIO)?;
            each(entry.into())?;
            slot += 1;
        }
        if area < image.area() && (slot as u64) < overlay.layout.entries() {
            return Err(EIO);
        }
    }
    Ok(())
}

/// Whether the header of a COW device is that of a valid store with this summary, or none.
pub(crate) fn has_header(
    io: &IoClient,
    cow: &Device,
    overlay: &Overlay,
    summary: Option<Summary>,
) -> Result<bool> {
    let mine = Header {
        valid: true,
        chunk: overlay.chunk(),
    };
    match read_header(io, cow) {
        Ok((header, found)) => Ok(header == Some(mine) && found == Ok(summary)),
        Err(StoreError::Io(error)) => Err(error),
        Err(_) => Ok(false),
    }
}

/// The header of a COW device, and what it says of a summary.
type Headers = (Option<Header>, Result<Option<Summary>, SummaryError>);

fn read_header(io: &IoClient, cow: &Device) -> Result<Headers, StoreError> {
    let block = u64::from(cow.block_sectors()).max(8);
    if cow.sectors() < block {
        return Err(FormatError::CowTooSmall(0).into());
    }
    let len = (block * SECTOR_SIZE) as usize;
    let mut buffer = IoBuffer::new(len)?;
    io.read(cow, 0, &mut buffer, 0..len)?;
    Ok((Header::parse(&buffer)?, Summary::parse(&buffer)))
}

/// Makes an empty store: the end of the list is durable before the header says that there is one.
fn format(io: &IoClient, cow: &Device, overlay: &Overlay) -> Result<(), StoreError> {
    let mut area = overlay.area.lock();
    let sector = overlay.chunk().sector_of(overlay.layout.area_chunk(0));
    let whole = 0..area.zeros.len();
    io.write(
        cow,
        sector,
        &area.zeros,
        whole.clone(),
        Durability::Volatile,
    )?;
    write_header(io, cow, overlay, true, &mut area.zeros, whole)?;
    Ok(())
}

/// Makes the header, if there is one, say durably that the store is not to be used. `zeros` is one
/// chunk of zeros to work with: there may be no other memory. Sleeps.
pub(crate) fn mark_invalid(
    io: &IoClient,
    cow: &Device,
    overlay: &Overlay,
    zeros: &mut IoBuffer,
) -> Result {
    if overlay.is_unlisted() {
        return Ok(());
    }
    write_header(io, cow, overlay, false, zeros, 0..block_bytes(cow))
}

/// Writes the first bytes (`part`) of the header's chunk durably, after all that was written
/// before.
pub(crate) fn write_header(
    io: &IoClient,
    cow: &Device,
    overlay: &Overlay,
    valid: bool,
    zeros: &mut IoBuffer,
    part: core::ops::Range<usize>,
) -> Result {
    let header = Header {
        valid,
        chunk: overlay.chunk(),
    };
    write_start(io, cow, &header.encode(), zeros, part)
}

/// Writes `start`, and zeros up to the end of `part`, to the start of the COW device, durably, after all
/// that was written before. `zeros` is zero before and after. Sleeps.
pub(crate) fn write_start(
    io: &IoClient,
    cow: &Device,
    start: &[u8],
    zeros: &mut IoBuffer,
    part: core::ops::Range<usize>,
) -> Result {
    zeros
        .get_mut(..start.len())
        .ok_or(EINVAL)?
        .copy_from_slice(start);
    let written = io.write(cow, 0, zeros, part, Durability::FlushedAndDurable);
    if let Some(place) = zeros.get_mut(..start.len()) {
        place.fill(0);
    }
    written
}

/// Reads the list of exceptions into the index, all of it or what is behind a summary.
fn load(
    io: &IoClient,
    cow: &Device,
    overlay: &Overlay,
    bounds: Bounds,
    areas: &mut AreaReader,
    summary: Option<&Summary>,
) -> Result<(), StoreError> {
    let layout = overlay.layout;
    // Which chunks are in use is known only if all of the list is read.
    let words = match summary {
        None => UsedMap::words_for(bounds.cow_chunks),
        Some(_) => 0,
    };
    let words = usize::try_from(words).map_err(|_| StoreError::Memory)?;
    let mut words = KVVec::from_elem(0, words, GFP_KERNEL)?;
    let mut used = UsedMap::new(&mut words);
    let mut entries = KVVec::new();
    let mut highest = 0;
    let (mut area, mut slot) = summary.map_or((0, 0), |summary| summary.end(layout));
    let content = loop {
        if area >= layout.areas_within(bounds.cow_chunks) {
            return Err(FormatError::NoEnd(area).into());
        }
        let content = areas.get(io, cow, overlay, area)?;
        while let Some(entry) = entry_at(content, slot) {
            layout.check(entry, bounds)?;
            if summary.is_none() && !used.claim(entry.cow) {
                return Err(FormatError::CowTwice(entry).into());
            }
            entries.push(entry, GFP_KERNEL)?;
            highest = highest.max(entry.cow);
            slot += 1;
        }
        if (slot as u64) < layout.entries() {
            break content;
        }
        if entries.len() >= SORTED_ENTRIES {
            add_all(overlay, &mut entries)?;
        }
        area += 1;
        slot = 0;
    };
    let mut metadata = overlay.area.lock();
    metadata.image.load(area, content, usize::MAX);
    let listed = metadata.image.listed();
    drop(metadata);
    add_all(overlay, &mut entries)?;
    overlay.note_area(area);
    // Looking for holes may take long: not under the lock.
    let mut alloc = overlay.new_allocator()?;
    match summary {
        None => alloc.restore(listed, highest, &used),
        Some(summary) => {
            let behind = highest.saturating_add(1);
            alloc.resume(listed, summary.next_free.max(behind));
        }
    }
    let old = mem::replace(&mut overlay.state.lock().alloc, alloc);
    drop(old);
    Ok(())
}

/// Reads areas one after the other, more and more at a time.
struct AreaReader {
    buffer: IoBuffer,
    /// Bytes of an area.
    len: usize,
    /// The areas in the buffer.
    first: u64,
    count: usize,
    /// Those that could not be read, a bit each.
    failed: u64,
    /// Areas on the device.
    end: u64,
}

impl AreaReader {
    fn new(overlay: &Overlay, bounds: Bounds) -> Result<Self> {
        let len = overlay.chunk().bytes();
        let end = overlay.layout.areas_within(bounds.cow_chunks);
        let most = (READ_AHEAD / len.max(1)).clamp(1, MOST_READS);
        let most = most.min(usize::try_from(end).unwrap_or(most)).max(1);
        Ok(Self {
            buffer: IoBuffer::new(len.saturating_mul(most))?,
            len,
            first: 0,
            count: 0,
            failed: 0,
            end,
        })
    }

    /// The content of an area: the one after the last one that was asked for.
    fn get(&mut self, io: &IoClient, cow: &Device, overlay: &Overlay, area: u64) -> Result<&[u8]> {
        if area >= self.first.saturating_add(self.count as u64) || self.count == 0 {
            let most = self.buffer.len() / self.len.max(1);
            let left = usize::try_from(self.end.saturating_sub(area)).unwrap_or(most);
            self.count = (self.count * 2).clamp(1, most).min(left.max(1));
            self.first = area;
            let sector = |n| {
                let area = area.saturating_add(n as u64);
                overlay.chunk().sector_of(overlay.layout.area_chunk(area))
            };
            self.failed = io.read_many(cow, sector, &mut self.buffer, self.len, self.count)?;
        }
        let at = usize::try_from(area.saturating_sub(self.first))?;
        if self.failed & (1 << at) != 0 {
            return Err(EIO);
        }
        let start = at.saturating_mul(self.len);
        let content = self.buffer.get(start..start.saturating_add(self.len));
        content.ok_or(EINVAL)
    }
}

/// Sorts by origin chunk.
pub(crate) fn sort(entries: &mut KVVec<Exception>) -> Result<(), AllocError> {
    if entries.is_sorted_by_key(|entry| entry.origin) {
        return Ok(());
    }
    let nothing = Exception { origin: 0, cow: 0 };
    let mut scratch = KVVec::from_elem(nothing, entries.len(), GFP_KERNEL)?;
    let mut places = KVVec::from_elem(0, places_for(entries.len()), GFP_KERNEL)?;
    sort_by_origin(entries, &mut scratch, &mut places);
    Ok(())
}

/// Adds entries to the index, in the order of the origin, in which that is quickest.
fn add_all(overlay: &Overlay, entries: &mut KVVec<Exception>) -> Result<(), StoreError> {
    sort(entries)?;
    let mut runs = Window::new(entries).runs(Run::MAX_LEN);
    let mut next = runs.next();
    while next.is_some() {
        match (add_some(overlay, &mut next, &mut runs), next) {
            (Ok(()), _) => {}
            (Err(IndexError::NeedNodes), _) => overlay.add_nodes()?,
            (Err(IndexError::Exists), Some(run)) => {
                return Err(FormatError::OriginTwice(twice(overlay, run)).into())
            }
            (Err(_), _) => return Err(StoreError::Index),
        }
    }
    entries.clear();
    Ok(())
}

/// Adds a few runs, `next` and `others`. Leaves in `next` the first that is not added.
pub(crate) fn add_some(
    overlay: &Overlay,
    next: &mut Option<Run>,
    others: &mut impl Iterator<Item = Run>,
) -> Result<(), IndexError> {
    let mut state = overlay.state.lock();
    let mut inserter = overlay.index.inserter(&mut state.writer);
    let mut added = Ok(());
    for _ in 0..RUNS_AT_A_TIME {
        let Some(run) = *next else {
            break;
        };
        added = inserter.insert_run(run);
        if added.is_err() {
            break;
        }
        *next = others.next();
    }
    overlay.note(&state);
    added
}

/// The first entry of a run whose chunk is mapped.
fn twice(overlay: &Overlay, run: Run) -> Exception {
    let mapped = |n: &u64| matches!(overlay.lookup(run.origin + n), Some(Extent::Mapped { .. }));
    let n = (0..run.len).find(mapped).unwrap_or(0);
    Exception {
        origin: run.origin + n,
        cow: run.cow + n,
    }
}

/// Reads area `area` into the buffer, which is one chunk long. Sleeps.
pub(crate) fn read_area(
    io: &IoClient,
    cow: &Device,
    overlay: &Overlay,
    area: u64,
    buffer: &mut IoBuffer,
) -> Result {
    let sector = overlay.chunk().sector_of(overlay.layout.area_chunk(area));
    let whole = 0..buffer.len();
    io.read(cow, sector, buffer, whole)
}

/// Makes the device ready for entries that are put into `image`: what a crash left behind the end
/// of the list is zeroed durably, and the area behind this one, if it is on the device, is zeroed
/// so that this one may be filled to its last entry. Sleeps.
pub(crate) fn prepare(
    io: &IoClient,
    cow: &Device,
    overlay: &Overlay,
    image: &mut AreaImage<IoBuffer>,
    zeros: &IoBuffer,
) -> Result {
    scrub(io, cow, overlay, image)?;
    if !image.wants_next_zeroed() {
        return Ok(());
    }
    let chunk = overlay.layout.area_chunk(image.area().saturating_add(1));
    let chunks = overlay.chunk().chunks_within(cow.sectors());
    if chunk >= chunks.min(overlay.limit()) {
        return Ok(());
    }
    let sector = overlay.chunk().sector_of(chunk);
    io.write(cow, sector, zeros, 0..zeros.len(), Durability::Volatile)?;
    image.next_is_zeroed();
    Ok(())
}

/// Zeroes, durably, what stands on the device behind the end of the list. Sleeps.
pub(crate) fn scrub(
    io: &IoClient,
    cow: &Device,
    overlay: &Overlay,
    image: &mut AreaImage<IoBuffer>,
) -> Result {
    let stale = image.stale(block_bytes(cow));
    if !stale.is_empty() {
        let durability = Durability::FlushedAndDurable;
        write_part(io, cow, overlay, image, stale, durability)?;
        image.scrubbed();
    }
    Ok(())
}

/// Writes the bytes of `image` that differ from the disk. Sleeps.
pub(crate) fn write_image(
    io: &IoClient,
    cow: &Device,
    overlay: &Overlay,
    image: &AreaImage<IoBuffer>,
    durability: Durability,
) -> Result {
    let part = image.unwritten(block_bytes(cow));
    write_part(io, cow, overlay, image, part, durability)
}

/// Bytes of a block of a device, the least that is written at a time.
pub(crate) fn block_bytes(device: &Device) -> usize {
    (u64::from(device.block_sectors()) * SECTOR_SIZE) as usize
}

/// Writes a part of `image`, in bytes. Sleeps.
fn write_part(
    io: &IoClient,
    cow: &Device,
    overlay: &Overlay,
    image: &AreaImage<IoBuffer>,
    part: core::ops::Range<usize>,
    durability: Durability,
) -> Result {
    let area = overlay.layout.area_chunk(image.area());
    let sector = overlay.chunk().sector_of(area) + part.start as u64 / SECTOR_SIZE;
    io.write(cow, sector, image.buffer(), part, durability)
}

/// The kernel's printing has a trait of its own; what the core says is printed through it.
macro_rules! print_in_kernel {
    ($($name:ty),*) => {$(
        impl kernel::fmt::Display for $name {
            fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
                core::fmt::Display::fmt(self, f)
            }
        }
    )*};
}

print_in_kernel!(
    FormatError,
    SummaryError,
    crate::holey_core::table::TableError,
    crate::holey_core::agent::RecordError
);
