// SPDX-License-Identifier: GPL-2.0

//! Stores whose list has a summary (`core/summary.rs`): activated without reading all of the list,
//! which is read on demand and in the background; and summaries that are written, in the background
//! as the list grows, and when a snapshot is removed.
//!
//! Until all has been read, whoever asks about a chunk first asks whether its page has been read
//! ([`Overlay::has_read`]), and waits in [`State::unread`](crate::overlay::State::unread) if not.
//! A page that cannot be read is no loss: all of the list is read then.
//!
//! Chunks are handed out below the summary only ([`Overlay::limit`]). When they are used up, the
//! summary goes.

use crate::commit;
use crate::copier::Copier;
use crate::copier::LINGER_MS;
use crate::dm::without_io;
use crate::dm::Device;
use crate::dm::Durability;
use crate::dm::IoBuffer;
use crate::dm::IoClient;
use crate::holey_core::checksum::crc32c;
use crate::holey_core::format::ENTRY_LEN;
use crate::holey_core::index::Extent;
use crate::holey_core::index::IndexError;
use crate::holey_core::index::Run;
use crate::holey_core::summary::fence_bytes;
use crate::holey_core::summary::Fences;
use crate::holey_core::summary::PageBounds;
use crate::holey_core::summary::PageSet;
use crate::holey_core::summary::PageWriter;
use crate::holey_core::summary::Summary;
use crate::holey_core::summary::SummaryError;
use crate::holey_core::summary::PAGE_LEN;
use crate::holey_core::summary::PAGE_SECTORS;
use crate::overlay::Area;
use crate::overlay::Bio;
use crate::overlay::Condition;
use crate::overlay::Overlay;
use crate::overlay::Role;
use crate::overlay::Tag;
use crate::overlay::Waiters;
use crate::store;
use core::mem;
use core::sync::atomic::AtomicU64;
use kernel::alloc::AllocError;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::time::Instant;
use kernel::time::Monotonic;

/// Pages that are read, or written, at a time.
const BATCH: usize = 8;
/// A list that has grown by fewer entries is not summarised again when its snapshot is removed, and
const FEW_ENTRIES: u64 = 4096;
/// one that has grown by fewer, or less than doubled, is not while it is in use.
const MANY_ENTRIES: u64 = 65536;

/// A summary of which pages may not have been read.
pub(crate) struct Pages {
    summary: Summary,
    fences: Fences<IoBuffer>,
    bounds: PageBounds,
    read: PageSet<KVVec<AtomicU64>>,
    /// Those that somebody waits for.
    asked: PageSet<KVVec<AtomicU64>>,
}

impl Pages {
    /// Reads what has to be known of a summary before its pages. Sleeps.
    pub(crate) fn open(
        io: &IoClient,
        cow: &Device,
        summary: Summary,
        bounds: PageBounds,
    ) -> Result<KVBox<Self>, SummaryOrError> {
        let len = summary.fence_bytes();
        let mut fences = IoBuffer::new(len)?;
        if len != 0 {
            let sector = summary.fences_sector().ok_or(SummaryError::Place)?;
            io.read(cow, sector, &mut fences, 0..len)?;
        }
        let words = PageSet::<KVVec<AtomicU64>>::words_for(summary.pages.into());
        let pages = Self {
            summary,
            fences: Fences::new(fences, &summary)?,
            bounds,
            read: PageSet::new(zeros(words)?),
            asked: PageSet::new(zeros(words)?),
        };
        Ok(KVBox::new(pages, GFP_KERNEL)?)
    }

    /// The pages for the chunks `first..=last` that have not been read, as far as the first one and
    /// the end of the range tell.
    fn missing(&self, first: u64, last: u64) -> Option<(u64, u64)> {
        let end = self.fences.page_of(last).saturating_add(1);
        let end = end.min(self.fences.pages());
        let next = self.read.next(self.fences.page_of(first), end, false)?;
        Some((next, end))
    }

    /// Whether all exceptions of the chunks `first..=last` have been read.
    pub(crate) fn has_read(&self, first: u64, last: u64) -> bool {
        self.missing(first, last).is_none()
    }

    /// Notes that somebody waits for the exceptions of the chunks `first..=last`.
    pub(crate) fn ask(&self, first: u64, last: u64) {
        if let Some((next, end)) = self.missing(first, last) {
            let missing = (next..end).filter(|n| !self.read.has(*n));
            missing.for_each(|n| self.asked.add(n));
        }
    }

    /// The first page that has not been read.
    fn next_missing(&self) -> Option<u64> {
        self.read.next(0, self.fences.pages(), false)
    }

    /// The first page that is waited for.
    fn next_asked(&self) -> Option<u64> {
        self.asked.next(0, self.fences.pages(), true)
    }
}

fn zeros(words: usize) -> Result<KVVec<AtomicU64>> {
    let mut zeros = KVVec::with_capacity(words, GFP_KERNEL)?;
    for _ in 0..words {
        zeros.push(AtomicU64::new(0), GFP_KERNEL)?;
    }
    Ok(zeros)
}

/// Why something could not be read.
pub(crate) enum SummaryOrError {
    Summary(SummaryError),
    Other(Error),
}

impl From<SummaryError> for SummaryOrError {
    fn from(error: SummaryError) -> Self {
        Self::Summary(error)
    }
}

impl From<Error> for SummaryOrError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<AllocError> for SummaryOrError {
    fn from(_: AllocError) -> Self {
        Self::Other(ENOMEM)
    }
}

impl SummaryOrError {
    /// Logs it.
    pub(crate) fn report(&self, cow: &Device) {
        let number = cow.number();
        match self {
            Self::Summary(error) => pr_warn!(
                "COW device {}: {}; all of the list is read instead\n",
                number,
                error
            ),
            Self::Other(error) => pr_warn!(
                "COW device {}: error {} while the summary was read; all of the list is read instead\n",
                number,
                error.to_errno()
            ),
        }
    }
}

/// What an overlay's worker keeps about summaries between its chores.
#[derive(Default)]
pub(crate) struct Summaries {
    /// The summary that the header points at.
    live: Option<Summary>,
    /// The one that is being written.
    making: Option<Maker>,
    /// How long the list was when one was given up for lack of room, or failed.
    tried: u64,
    /// For reading.
    buffer: Option<IoBuffer>,
    /// Since when exceptions that are ready wait for what is done here.
    waiting: Option<Instant<Monotonic>>,
}

/// Takes over a summary of which nothing has been read but where its pages are.
pub(crate) fn found(overlay: &Overlay, summary: Summary, pages: KVBox<Pages>) {
    overlay.worker.lock().live = Some(summary);
    let state = overlay.state.lock();
    overlay.set_limit(limit_of(overlay, summary.start()));
    drop(state);
    overlay.read_later(pages);
}

impl Summaries {
    /// Exceptions that are ready are committed after a second, also while something else is being done
    /// in the background.
    pub(crate) fn linger(&mut self, overlay: &Overlay) {
        let mut state = overlay.state.lock();
        if state.pending.ready_len() == 0 {
            self.waiting = None;
            return;
        }
        let since = *self.waiting.get_or_insert_with(Instant::now);
        if since.elapsed().as_millis() >= LINGER_MS.into() {
            state.wanted = state.pending.issued();
            self.waiting = None;
        }
    }

    /// Whether a list of `listed` entries is to be summarised while it is in use.
    pub(crate) fn is_due(&self, listed: u64) -> bool {
        let known = self.known();
        listed.saturating_sub(known) >= known.max(MANY_ENTRIES)
    }

    fn known(&self) -> u64 {
        let live = self.live.map_or(0, |summary| summary.listed);
        live.max(self.tried)
    }
}

impl Overlay {
    /// Whether the exceptions of the chunks `first..=last` are in the index, if there are any.
    #[inline]
    pub(crate) fn has_read(&self, first: u64, last: u64) -> bool {
        self.is_whole() || self.has_read_pages(first, last)
    }

    #[cold]
    fn has_read_pages(&self, first: u64, last: u64) -> bool {
        let pages = self.pages.get();
        pages.is_none_or(|pages| pages.has_read(first, last))
    }

    /// The first of the chunks `first..=last` of which it is not known whether it has an exception.
    pub(crate) fn first_unread(&self, first: u64, last: u64) -> Option<u64> {
        let pages = self.pages.get().filter(|_| !self.is_whole())?;
        let (page, _) = pages.missing(first, last)?;
        Some(pages.fences.first_of(page).clamp(first, last))
    }
}

/// Reads the pages that are waited for, and lets those go on who wait. Sleeps.
pub(crate) fn read_asked(this: &Arc<Copier>, overlay: &Overlay, summaries: &mut Summaries) {
    overlay.state.lock().asked = false;
    if let Some(pages) = overlay.pages.get() {
        while let Some(n) = pages.next_asked().filter(|_| overlay.is_usable()) {
            if !pages.read.has(n) && read_pages(this, overlay, pages, summaries, n, n).is_err() {
                // Those who wait are told below, or nobody would.
                lose(this);
                break;
            }
            pages.asked.remove(n);
        }
    }
    let Waiters {
        mut writes, origin, ..
    } = mem::take(&mut overlay.state.lock().unread);
    while let Some(bio) = writes.pop() {
        Copier::map_again(this, overlay, bio);
    }
    commit::write_origin(this, origin);
}

/// Gives a store up whose list cannot be read: nobody knows any more which chunks it has.
fn lose(this: &Arc<Copier>) {
    Copier::invalidate(this, "its list of exceptions cannot be read");
}

/// Reads the next pages. Sleeps.
pub(crate) fn read_on(this: &Arc<Copier>, overlay: &Overlay, summaries: &mut Summaries) {
    if try_read_on(this, overlay, summaries).is_err() {
        lose(this);
    }
}

fn try_read_on(this: &Arc<Copier>, overlay: &Overlay, summaries: &mut Summaries) -> Result {
    let pages = overlay.pages.get().filter(|_| overlay.is_usable());
    let next = pages.and_then(|pages| Some((pages, pages.next_missing()?)));
    let Some((pages, n)) = next else {
        overlay.set_whole();
        return Ok(());
    };
    let last = n.saturating_add(BATCH as u64 - 1);
    let last = last.min(pages.fences.pages().saturating_sub(1));
    read_pages(this, overlay, pages, summaries, n, last)
}

/// Reads pages `first..=last`, or all of the list if that fails. Sleeps.
fn read_pages(
    this: &Arc<Copier>,
    overlay: &Overlay,
    pages: &Pages,
    summaries: &mut Summaries,
    first: u64,
    last: u64,
) -> Result {
    let read = loop {
        match try_pages(this, overlay, pages, summaries, first, last) {
            Err(SummaryOrError::Other(error)) if error == ENOMEM => await_memory(overlay)?,
            read => break read,
        }
    };
    let Err(error) = read else {
        return Ok(());
    };
    error.report(this.cow_device());
    let (io, cow) = (&this.io, this.cow_device());
    let origin_chunks = pages.bounds.origin_chunks;
    let mut area = overlay.area.lock();
    loop {
        let insert = |run: Run| {
            insert_missing(overlay, run)?;
            // A summary that is wrong may have said that it was free.
            let end = run.cow.saturating_add(run.len);
            overlay.state.lock().alloc.raise(end);
            Ok(())
        };
        match store::for_all(io, cow, overlay, &area.image, origin_chunks, insert) {
            Err(error) if error == ENOMEM => await_memory(overlay)?,
            Err(error) => return Err(error),
            Ok(()) => break,
        }
    }
    (0..pages.fences.pages()).for_each(|n| pages.read.add(n));
    // If it stays, whoever activates the store next reads all of the list again.
    let may_write = this.is_writable() && !overlay.state.lock().paused;
    if may_write && forget(io, cow, overlay, &mut area).is_ok() {
        summaries.live = None;
        let _state = overlay.state.lock();
        overlay.set_limit(u64::MAX);
    }
    Ok(())
}

/// Waits for others to free memory. `EIO` if the store is not usable any more.
fn await_memory(overlay: &Overlay) -> Result {
    overlay.changed.wait_for(1, || !overlay.is_usable());
    overlay.is_usable().then_some(()).ok_or(EIO)
}

fn try_pages(
    this: &Copier,
    overlay: &Overlay,
    pages: &Pages,
    summaries: &mut Summaries,
    first: u64,
    last: u64,
) -> Result<(), SummaryOrError> {
    let buffer = match &mut summaries.buffer {
        Some(buffer) => buffer,
        none => none.insert(IoBuffer::new(BATCH * PAGE_LEN)?),
    };
    // The last page comes first on the device.
    let count = last.saturating_sub(first).saturating_add(1);
    let count = usize::try_from(count).unwrap_or(BATCH).min(BATCH);
    let last = first.saturating_add(count as u64).saturating_sub(1);
    let sector = pages.summary.page_sector(last).ok_or(SummaryError::Place)?;
    let len = count * PAGE_LEN;
    this.io.read(this.cow_device(), sector, buffer, 0..len)?;
    for (n, page) in (first..=last).zip(buffer.get(..len).ok_or(EINVAL)?.rchunks(PAGE_LEN)) {
        if pages.read.has(n) {
            continue;
        }
        let mut wrong = None;
        let runs = pages.fences.read(n, page, pages.bounds)?;
        let mut runs = runs.map_while(|run| run.map_err(|error| wrong = Some(error)).ok());
        let mut next = runs.next();
        while next.is_some() {
            match store::add_some(overlay, &mut next, &mut runs) {
                Ok(()) => {}
                Err(IndexError::NeedNodes) => overlay.add_nodes()?,
                Err(IndexError::Exists | IndexError::Range) => {
                    let Some(run) = next else { break };
                    insert_missing(overlay, run).map_err(|_| SummaryError::Run(n))?;
                    next = runs.next();
                }
                Err(IndexError::Damaged) => return Err(EIO.into()),
            }
        }
        if let Some(error) = wrong {
            return Err(error.into());
        }
        pages.read.add(n);
    }
    Ok(())
}

/// Adds those chunks of a run that are not in the index. `EINVAL` if one is, with another place.
fn insert_missing(overlay: &Overlay, run: Run) -> Result {
    let mut rest = run;
    while rest.len != 0 {
        let mut state = overlay.state.lock();
        let (done, added) = match overlay.lookup(rest.origin).ok_or(EIO)? {
            Extent::Mapped { cow, .. } if cow != rest.cow => return Err(EINVAL),
            Extent::Mapped { len, .. } => (len, Ok(())),
            Extent::Unmapped { len } => {
                let (part, _) = rest.split(len.min(Run::MAX_LEN));
                let added = overlay.index.insert_run(&mut state.writer, part);
                (part.len, added)
            }
        };
        overlay.note(&state);
        drop(state);
        match added {
            Ok(()) => rest = rest.split(done).1,
            Err(IndexError::NeedNodes) => overlay.add_nodes()?,
            Err(_) => return Err(EIO),
        }
    }
    Ok(())
}

impl Copier {
    /// Tries again what is within one chunk of the snapshot and had to wait for its exception to be
    /// read. May sleep.
    fn map_again(this: &Arc<Self>, overlay: &Overlay, mut bio: Bio) {
        let size = overlay.chunk();
        let (chunk, offset) = (size.chunk_of(bio.sector()), size.offset_of(bio.sector()));
        if !overlay.is_usable() || bio.is_write() && !overlay.is_writable() {
            return bio.end_error();
        }
        if !overlay.has_read(chunk, chunk) {
            return Self::await_page(this, overlay, chunk, bio);
        }
        if bio.is_discard() {
            return Self::discard(this, overlay, bio);
        }
        if bio.is_write() {
            return Self::write_again(this, overlay, bio);
        }
        // What counts is what is found by a reader that is counted: see `epoch.rs`.
        let ticket = overlay.readers.enter();
        match overlay.lookup(chunk) {
            Some(Extent::Mapped { cow, .. }) => {
                overlay.leave(ticket);
                bio.set_target(this.cow_device(), size.sector_of(cow) + offset);
                bio.submit();
            }
            Some(Extent::Unmapped { .. }) => {
                *bio.data() = Tag {
                    role: Role::Tracked,
                    epoch: ticket.to_raw(),
                    ..Tag::default()
                };
                let sector = bio.sector();
                bio.set_target(this.origin_device(), sector);
                bio.submit();
            }
            None => {
                overlay.leave(ticket);
                bio.end_error();
            }
        }
    }

    /// Keeps what is within one chunk of the snapshot until its exception has been read.
    pub(crate) fn await_page(this: &Arc<Self>, overlay: &Overlay, chunk: u64, bio: Bio) {
        let mut state = overlay.state.lock();
        overlay.ask(&mut state, chunk, chunk);
        state.unread.writes.push(bio);
        // Under the lock: with the last bio the device may go.
        Self::kick(this);
        drop(state);
    }

    /// Reads all of the list that has not been read. Sleeps.
    pub(crate) fn read_all(this: &Arc<Self>) -> Result {
        let Some(overlay) = this.overlay().filter(|overlay| !overlay.is_whole()) else {
            return Ok(());
        };
        let mut summaries = overlay.worker.lock();
        while !overlay.is_whole() {
            without_io(|| try_read_on(this, overlay, &mut summaries))?;
        }
        Ok(())
    }
}

/// A summary in the making.
struct Maker {
    /// As it will be.
    summary: Summary,
    /// It must not reach below this sector.
    floor: u64,
    /// The first chunk that is not in it yet.
    next: u64,
    /// A run that did not fit into the last page.
    left: Option<Run>,
    page: PageWriter<IoBuffer>,
    /// Pages to be written, the last one first, at the end of the buffer.
    batch: IoBuffer,
    batched: usize,
    fences: KVVec<u8>,
}

impl Maker {
    /// Begins with what is listed.
    fn new(this: &Copier, overlay: &Overlay, live: Option<Summary>) -> Result<Self> {
        let area = overlay.area.lock();
        let listed = area.image.listed();
        let (floor, top) = place(this.cow_device(), live, listed);
        let mut summary = Summary {
            pages: 0,
            top,
            listed,
            next_free: 0,
            fences: 0,
            last: 0,
        };
        let (last, count) = summary.end(overlay.layout);
        let mut buffer = IoBuffer::new(overlay.chunk().bytes())?;
        let content = if last == area.image.area() {
            area.image.bytes()
        } else {
            // It was filled, and the image is that of the next one.
            store::read_area(&this.io, this.cow_device(), overlay, last, &mut buffer)?;
            &buffer
        };
        summary.last = crc32c(content.get(..count * ENTRY_LEN).ok_or(EINVAL)?);
        drop(area);
        Ok(Self {
            summary,
            floor,
            next: 0,
            left: None,
            page: PageWriter::new(IoBuffer::new(PAGE_LEN)?),
            batch: IoBuffer::new(BATCH * PAGE_LEN)?,
            batched: 0,
            fences: KVVec::new(),
        })
    }

    /// Fills a page, and writes the batch that it completes. False if there was nothing left for it.
    fn fill(&mut self, this: &Copier, overlay: &Overlay) -> Result<bool> {
        loop {
            let run = match self.left.take() {
                Some(run) => run,
                None => match overlay.index.next_run(self.next).map_err(|_| EIO)? {
                    Some(run) => run,
                    None => break,
                },
            };
            if !self.page.push(run) {
                self.left = Some(run);
                break;
            }
            self.next = run.end();
        }
        if self.page.is_empty() {
            return Ok(false);
        }
        let (page, fence) = self.page.finish();
        self.batched += 1;
        let start = (BATCH - self.batched) * PAGE_LEN;
        let place = self.batch.get_mut(start..start + PAGE_LEN);
        place.ok_or(EINVAL)?.copy_from_slice(page);
        self.page.clear();
        self.fences.extend_from_slice(&fence, GFP_KERNEL)?;
        self.summary.pages = self.summary.pages.checked_add(1).ok_or(ENOSPC)?;
        if self.batched == BATCH {
            self.write_batch(this, overlay)?;
        }
        Ok(true)
    }

    fn write_batch(&mut self, this: &Copier, overlay: &Overlay) -> Result {
        if self.batched == 0 {
            return Ok(());
        }
        let last = u64::from(self.summary.pages).saturating_sub(1);
        let sector = self.summary.page_sector(last).ok_or(ENOSPC)?;
        let part = (BATCH - self.batched) * PAGE_LEN..BATCH * PAGE_LEN;
        self.batched = 0;
        self.reserve(overlay, sector)?;
        this.io.write(
            this.cow_device(),
            sector,
            &self.batch,
            part,
            Durability::Volatile,
        )
    }

    /// Writes what is left but for the header.
    fn write_fences(&mut self, this: &Copier, overlay: &Overlay) -> Result {
        self.write_batch(this, overlay)?;
        self.summary.fences = crc32c(&self.fences);
        let len = fence_bytes(self.summary.pages);
        if len == 0 {
            return Ok(());
        }
        let sector = self.summary.fences_sector().ok_or(ENOSPC)?;
        self.reserve(overlay, sector)?;
        let mut buffer = IoBuffer::new(len)?;
        let place = buffer.get_mut(..self.fences.len()).ok_or(EINVAL)?;
        place.copy_from_slice(&self.fences);
        this.io.write(
            this.cow_device(),
            sector,
            &buffer,
            0..len,
            Durability::Volatile,
        )
    }

    /// Keeps chunks from `sector` on from being handed out. `ENOSPC` if some have been, or another
    /// summary is there.
    fn reserve(&self, overlay: &Overlay, sector: u64) -> Result {
        let chunk = overlay.chunk().chunk_of(sector);
        let image = &mut overlay.area.lock().image;
        let state = overlay.state.lock();
        if state.alloc.next_free() > chunk || sector < self.floor {
            return Err(ENOSPC);
        }
        overlay.set_limit(overlay.limit().min(chunk));
        drop(state);
        // Areas stay below the limit, too: as many chunks as could be listed have been handed out.
        if overlay.layout.area_chunk(image.area().saturating_add(1)) >= overlay.limit() {
            image.next_is_not_zeroed();
        }
        Ok(())
    }
}

/// Goes on with the summary of a list that is in use. Sleeps.
pub(crate) fn make_some(this: &Arc<Copier>, overlay: &Overlay, summaries: &mut Summaries) {
    // The flag may be that of a table that has handed the overlay over.
    let goes_on = this.is_retired()
        || this.keeps_summary() && matches!(make(this, overlay, summaries, BATCH), Ok(false));
    let mut state = overlay.state.lock();
    state.summarising = false;
    state.summarise &= goes_on;
}

/// Summarises the list of a snapshot that is being removed, if it has none or has grown much.
/// Nobody uses it any more. Sleeps.
pub(crate) fn close(this: &Arc<Copier>) {
    let wanted = this.keeps_summary() && this.was_active();
    let Some(overlay) = this.overlay().filter(|_| wanted) else {
        return;
    };
    let summaries = &mut *overlay.worker.lock();
    // Somebody else may have the COW device by now.
    let (io, cow) = (&this.io, this.cow_device());
    if !store::has_header(io, cow, overlay, summaries.live).unwrap_or(false) {
        return;
    }
    let listed = overlay.area.lock().image.listed();
    let grown = listed.saturating_sub(summaries.live.map_or(0, |live| live.listed));
    let usable = overlay.state.lock().condition == Condition::Valid && !overlay.is_unlisted();
    if grown >= FEW_ENTRIES && usable && overlay.is_whole() {
        summaries.making = None;
        while let Ok(false) = without_io(|| make(this, overlay, summaries, usize::MAX)) {}
    }
}

/// Makes some pages of a summary, or begins or ends it. True when it is done.
fn make(
    this: &Arc<Copier>,
    overlay: &Overlay,
    summaries: &mut Summaries,
    pages: usize,
) -> Result<bool> {
    let done = try_make(this, overlay, summaries, pages);
    if let Err(error) = done {
        if error != ENOSPC {
            pr_warn!(
                "COW device {}: its list was not summarised: error {}\n",
                this.cow_number(),
                error.to_errno()
            );
        }
        summaries.making = None;
        summaries.tried = overlay.area.lock().image.listed();
        let live = summaries.live.and_then(|summary| summary.start());
        let state = overlay.state.lock();
        // Unless a header may be on its way that points at what was made.
        if !overlay.is_unsure() {
            overlay.set_limit(limit_of(overlay, live));
        }
        drop(state);
    }
    done
}

fn limit_of(overlay: &Overlay, start: Option<u64>) -> u64 {
    start.map_or(u64::MAX, |sector| overlay.chunk().chunk_of(sector))
}

fn try_make(
    this: &Arc<Copier>,
    overlay: &Overlay,
    summaries: &mut Summaries,
    pages: usize,
) -> Result<bool> {
    // Pages are aligned to their own size only.
    let alike = u64::from(this.cow_device().block_sectors()) <= PAGE_SECTORS;
    if overlay.is_unsure() || !alike {
        return Err(ENOSPC);
    }
    let Some(maker) = &mut summaries.making else {
        summaries.making = Some(Maker::new(this, overlay, summaries.live)?);
        return Ok(false);
    };
    for _ in 0..pages {
        if !maker.fill(this, overlay)? {
            maker.write_fences(this, overlay)?;
            let summary = maker.summary;
            finish(this, overlay, summary, summaries)?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Between which sectors a summary of `listed` entries goes: at the end of the device, or before the
/// one that is there.
fn place(cow: &Device, live: Option<Summary>, listed: u64) -> (u64, u64) {
    let end = cow.sectors() / PAGE_SECTORS * PAGE_SECTORS;
    let Some((live, start)) = live.and_then(|live| Some((live, live.start()?))) else {
        return (0, end);
    };
    // If it grows as the list has, and by a quarter.
    let size = live.top.saturating_sub(start);
    let likely = size.saturating_mul(listed) / live.listed.max(1);
    let room = likely.saturating_add(likely / 4 + PAGE_SECTORS);
    if end.saturating_sub(live.top) >= room {
        (live.top, end)
    } else {
        (0, start / PAGE_SECTORS * PAGE_SECTORS)
    }
}

/// Lists what is in the summary, and makes the header point at it.
fn finish(
    this: &Arc<Copier>,
    overlay: &Overlay,
    mut summary: Summary,
    summaries: &mut Summaries,
) -> Result {
    let target = overlay.state.lock().pending.issued();
    loop {
        let state = overlay.state.lock();
        if state.condition != Condition::Valid {
            return Err(EIO);
        }
        if state.pending.durable() >= target {
            // Behind the last chunk that may be handed out comes an area, which counts as taken.
            summary.next_free = state.alloc.next_free().min(overlay.limit());
            break;
        }
        drop(state);
        commit::commit(this, overlay, summaries);
    }
    let mut area = overlay.area.lock();
    overlay.set_unsure(true);
    overlay.set_summarised(true);
    let (io, cow) = (&this.io, this.cow_device());
    let (header, part) = (summary.encode(overlay.chunk()), 0..store::block_bytes(cow));
    store::write_start(io, cow, &header, &mut area.zeros, part)?;
    overlay.set_unsure(false);
    drop(area);
    summaries.making = None;
    summaries.live = Some(summary);
    let state = overlay.state.lock();
    overlay.set_limit(limit_of(overlay, summary.start()));
    drop(state);
    Ok(())
}

/// Gives the room of the summary up: those who wait for chunks get it. Sleeps.
pub(crate) fn make_room(this: &Arc<Copier>, overlay: &Overlay, summaries: &mut Summaries) {
    summaries.making = None;
    while overlay.is_usable() && !overlay.is_whole() {
        read_on(this, overlay, summaries);
    }
    if !overlay.is_usable() {
        overlay.state.lock().making_room = false;
        return;
    }
    let mut area = overlay.area.lock();
    summaries.tried = area.image.listed();
    let forgotten = forget(&this.io, this.cow_device(), overlay, &mut area);
    drop(area);
    let mut state = overlay.state.lock();
    state.making_room = false;
    state.summarise = false;
    if forgotten.is_ok() {
        summaries.live = None;
        overlay.set_limit(u64::MAX);
        return;
    }
    overlay.set_unsure(true);
    if !state.blocked.writes.is_empty() || !state.blocked.origin.is_empty() {
        // They wait for the room.
        this.give_up(overlay, &mut state, "the header cannot be written");
    }
}

/// Forgets a summary that was not made use of. Sleeps.
pub(crate) fn forget_unread(
    io: &IoClient,
    cow: &Device,
    overlay: &Overlay,
    summary: Option<Summary>,
) {
    let Err(error) = forget(io, cow, overlay, &mut overlay.area.lock()) else {
        return;
    };
    pr_warn!(
        "COW device {}: error {} while the summary was given up\n",
        cow.number(),
        error.to_errno()
    );
    // It stays, and so does its room.
    overlay.set_unsure(true);
    let _state = overlay.state.lock();
    overlay.set_limit(limit_of(
        overlay,
        summary.and_then(|summary| summary.start()),
    ));
}

/// Makes the header say, durably, that there is no summary. Nothing on the device that a summary
/// vouches for has been changed before. Sleeps.
pub(crate) fn forget(io: &IoClient, cow: &Device, overlay: &Overlay, area: &mut Area) -> Result {
    if overlay.is_summarised() {
        store::write_header(
            io,
            cow,
            overlay,
            true,
            &mut area.zeros,
            0..store::block_bytes(cow),
        )?;
        overlay.set_summarised(false);
        overlay.set_unsure(false);
    }
    Ok(())
}
