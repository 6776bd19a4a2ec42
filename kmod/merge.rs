// SPDX-License-Identifier: GPL-2.0

//! The targets `holey-merge` and, under its stock name, `snapshot-merge`: an overlay is folded
//! back into its origin while both are read and written.
//!
//! The worker goes through the list of exceptions from its end, a window at a time
//! (`core/merge.rs` plans it):
//!
//! 1. every other overlay of the origin gets durable exceptions for the window's chunks;
//! 2. the window is published: from now on writes to its chunks are held; writes to the COW device
//!    that are under way are waited for;
//! 3. all runs are copied to the origin, many at a time;
//! 4. the origin is flushed, once;
//! 5. the list is cut off where the window began, by one durable write;
//! 6. the chunks leave the index, so that reads go to the origin; the held writes follow them.
//!
//! A power cut at any point leaves a list whose entries hold the right content: the merge starts
//! again with them. An error leaves the device readable and writable as it was before the window.

use crate::copier::Copier;
use crate::dm::new_irq_lock;
use crate::dm::new_wait_queue;
use crate::dm::without_io;
use crate::dm::Access;
use crate::dm::Args;
use crate::dm::CopyClient;
use crate::dm::CopyJob;
use crate::dm::CtrError;
use crate::dm::Device;
use crate::dm::DeviceNumber;
use crate::dm::Ended;
use crate::dm::EndedBio;
use crate::dm::Flight;
use crate::dm::Gate;
use crate::dm::IoBuffer;
use crate::dm::IoClient;
use crate::dm::IrqLock;
use crate::dm::Limits;
use crate::dm::Mapped;
use crate::dm::MemPool;
use crate::dm::NewBio;
use crate::dm::Outcome;
use crate::dm::Pass;
use crate::dm::PoolBox;
use crate::dm::Region;
use crate::dm::Setup;
use crate::dm::Status;
use crate::dm::StatusKind;
use crate::dm::Stop;
use crate::dm::SuspendKind;
use crate::dm::Table;
use crate::dm::Target;
use crate::dm::Visitor;
use crate::dm::WaitQueue;
use crate::dm::WorkQueue;
use crate::holey_core::area::entry_at;
use crate::holey_core::epoch::Epochs;
use crate::holey_core::epoch::Ticket;
use crate::holey_core::format::Exception;
use crate::holey_core::index::Extent;
use crate::holey_core::index::IndexError;
use crate::holey_core::index::Run;
use crate::holey_core::merge::next_length;
use crate::holey_core::merge::pause;
use crate::holey_core::merge::window_start;
use crate::holey_core::merge::Position;
use crate::holey_core::merge::Window;
use crate::holey_core::merge::FIRST_LENGTH;
use crate::holey_core::table::StoreKind;
use crate::holey_core::table::StoreLine;
use crate::origin_set::Origin;
use crate::origin_set::Outlet;
use crate::origin_set::Passage;
use crate::origin_set::Seat;
use crate::overlay::Area;
use crate::overlay::Bio;
use crate::overlay::Bios;
use crate::overlay::Overlay;
use crate::overlay::Role;
use crate::overlay::Tag;
use crate::parameters;
use crate::snapshot;
use crate::snapshot::failed;
use crate::snapshot::Line;
use crate::store;
use core::mem;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;
use kernel::impl_has_work;
use kernel::new_work;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::SetOnce;
use kernel::time::delay::fsleep;
use kernel::time::Delta;
use kernel::time::Instant;
use kernel::time::Monotonic;
use kernel::workqueue::Work;
use kernel::workqueue::WorkItem;

/// Most data in a window, in sectors (64 MiB).
const MOST_SECTORS: u64 = 64 << 11;
/// Copies that can be started when memory is short.
const RESERVED_COPIES: u16 = 16;
/// Copies at a time in a merge that is throttled. Others wait for no more than these, ...
const PACED_COPIES: usize = 4;
/// ... or for the work on the index after so many exceptions.
const PACED_LENGTH: u64 = 64;

/// What the lock protects.
#[derive(Default)]
struct State {
    /// The entries of the window that is being merged, sorted.
    window: Option<Arc<KVVec<Exception>>>,
    /// Writes to its chunks.
    held: Bios,
    /// The window is in the origin, but the write that cuts the list off has failed: nobody knows
    /// whether the device has it. Until it succeeds, its chunks are not written to: neither the
    /// origin nor the COW device alone is what the next activation would show.
    unlisted: Option<Position>,
}

/// A merge of one overlay into its origin.
#[pin_data]
pub(crate) struct Merge {
    origin: Origin,
    origin_device: Device,
    cow_device: Device,
    origin_sectors: u64,
    outlet: Arc<Outlet>,
    /// Copiers on other hosts, if there were any when the table was loaded.
    seat: Option<Seat>,
    line: StoreLine,
    overlay: SetOnce<Arc<Overlay>>,
    table: Table,
    io: IoClient,
    /// Writers of the COW device.
    writers: Epochs,
    #[pin]
    changed: WaitQueue,
    #[pin]
    state: IrqLock<State>,
    copies: Arc<MemPool<MergeCopy>>,
    copying: Arc<Gate>,
    copy_failed: AtomicBool,
    /// Exceptions in the next window. Writes to its chunks are held until it ends.
    length: AtomicU64,
    stopping: AtomicBool,
    failed: AtomicBool,
    queue: WorkQueue,
    #[pin]
    work: Work<Self>,
}

impl_has_work! {
    impl HasWork<Self> for Merge { self.work }
}

/// A device that shows an overlay on its origin and becomes the origin.
pub(crate) struct MergeTarget {
    merge: Arc<Merge>,
}

#[vtable]
impl Target for MergeTarget {
    type Data = Tag;

    const VERSION: [u32; 3] = [1, 5, 0];

    fn create(setup: &mut Setup<'_>, args: Args<'_>) -> Result<Pin<KBox<Self>>, CtrError> {
        let line = Line::open(setup, args, Access::Write)?;
        let no_list = CtrError::new(EINVAL, c"Store N cannot be merged: it has no list");
        if line.store.kind == StoreKind::Transient {
            return Err(no_list);
        }
        let set = Origin::get(line.origin.number()).map_err(failed)?;
        let io = IoClient::new().map_err(failed)?;
        let _opening = set.opening.lock();
        if set.has_merge() {
            pr_err!(
                "origin {}: another overlay is being merged into it\n",
                line.origin.number()
            );
            return Err(CtrError::new(EINVAL, c"The origin has a merge already"));
        }
        let overlay = match set.user_of(line.cow.number(), None) {
            // Its exceptions are handed over when this table is resumed.
            Some(source) if source.is_transient() => return Err(no_list),
            Some(_) => None,
            None => {
                let sectors = setup.sectors();
                let opened = store::open(&io, &line.origin, &line.cow, sectors, line.store);
                Some(opened.map_err(|error| error.report(&line.cow))?)
            }
        };
        setup.set_flush_bios(2);
        snapshot::set_up_discards(setup, &line.store);
        let origin = Origin::get(line.origin.number()).map_err(failed)?;
        let merge = Merge::new(origin, line, io, setup, overlay).map_err(failed)?;
        let target = KBox::pin(Self { merge }, GFP_KERNEL).map_err(|_| failed(ENOMEM))?;
        set.add_merge(&target.merge).map_err(failed)?;
        Ok(target)
    }

    fn teardown(&self) {
        self.merge.stop();
        self.merge.origin.remove_merge(&self.merge);
        self.merge.origin.remove_outlet(&self.merge.outlet);
    }

    fn map(&self, bio: NewBio<Tag>) -> Mapped {
        self.merge.map(bio)
    }

    fn end_io(&self, mut bio: EndedBio<Tag>) -> Ended {
        let tag = *bio.data();
        if tag.role == Role::Tracked {
            self.merge.leave(Ticket::from_raw(tag.epoch));
        }
        if let Some(seat) = self.merge.seat.as_ref().filter(|_| bio.is_refused()) {
            seat.refused();
        }
        bio.done()
    }

    fn presuspend(&self, kind: SuspendKind) {
        let merge = &self.merge;
        merge.stopping.store(true, Ordering::Release);
        merge.origin.leave(&merge.outlet, kind);
    }

    fn presuspend_undo(&self) {
        Merge::start(&self.merge);
    }

    fn postsuspend(&self) {
        self.merge.stop();
    }

    fn preresume(&self) -> Result {
        let merge = &self.merge;
        if merge.overlay().is_some() {
            return merge.list();
        }
        let source = snapshot::source_of(&merge.origin, &merge.cow_device, None)?;
        if !source.is_remote() {
            return Ok(());
        }
        if source.overlay().is_some_and(|overlay| !overlay.is_usable()) {
            pr_err!(
                "COW device {}: the copier is invalid, and cannot become the volume\n",
                merge.cow_device.number()
            );
            return Err(EINVAL);
        }
        if merge.seat.is_none() {
            pr_err!(
                "volume {}: load a holey-writer on it before a copier is merged into it\n",
                merge.origin_device.number()
            );
            return Err(EINVAL);
        }
        // The core is about to drop the table of the copier, also if this fails: its exceptions are
        // in memory only, and stay here until they can be listed.
        merge.take_over(&source);
        merge.list()
    }

    fn resume(&self) {
        let merge = &self.merge;
        if merge.overlay().is_none() {
            if let Ok(source) = snapshot::source_of(&merge.origin, &merge.cow_device, None) {
                merge.take_over(&source);
            }
        }
        Merge::start(merge);
    }

    fn status(&self, kind: StatusKind, out: &mut Status<'_>) {
        let merge = &self.merge;
        snapshot::write_status(
            kind,
            out,
            &merge.origin_device,
            &merge.cow_device,
            &merge.line,
            merge.overlay(),
            merge.failed.load(Ordering::Relaxed),
        );
    }

    fn io_hints(&self, limits: &mut Limits<'_>) {
        let merge = &self.merge;
        snapshot::hint_discards(
            &merge.origin,
            &merge.cow_device,
            merge.overlay(),
            &merge.line,
            limits,
        );
    }

    fn devices(&self, visitor: &mut Visitor<'_>) -> Result<(), Stop> {
        let merge = &self.merge;
        visitor.visit(&merge.origin_device, 0, merge.origin_sectors)?;
        visitor.visit(&merge.cow_device, 0, merge.cow_device.sectors())
    }
}

impl Merge {
    fn new(
        origin: Origin,
        line: Line,
        io: IoClient,
        setup: &Setup<'_>,
        overlay: Option<Arc<Overlay>>,
    ) -> Result<Arc<Self>> {
        let Line {
            origin: origin_device,
            cow: cow_device,
            store,
        } = line;
        let place = SetOnce::new();
        if let Some(overlay) = overlay {
            place.populate(overlay);
        }
        let seat = origin.seat()?;
        let outlet = origin.add_outlet(Passage::Merge)?;
        Arc::pin_init(
            try_pin_init!(Self {
                origin,
                outlet,
                seat,
                line: store,
                origin_device,
                cow_device,
                origin_sectors: setup.sectors(),
                overlay: place,
                table: setup.table(),
                io,
                writers: Epochs::new(),
                changed <- new_wait_queue!(c"holey_merge"),
                state <- new_irq_lock!(State::default(), c"holey_merge"),
                copies: MemPool::new(RESERVED_COPIES)?,
                copying: Gate::new()?,
                copy_failed: AtomicBool::new(false),
                length: AtomicU64::new(FIRST_LENGTH),
                stopping: AtomicBool::new(false),
                failed: AtomicBool::new(false),
                queue: WorkQueue::new(c"holey_merge")?,
                work <- new_work!("holey_merge"),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// The number of the COW device.
    pub(crate) fn cow_number(&self) -> DeviceNumber {
        self.cow_device.number()
    }

    fn overlay(&self) -> Option<&Arc<Overlay>> {
        self.overlay.as_ref()
    }

    /// Writes the list of exceptions that have been in memory only: from now on the volume depends
    /// on it. Sleeps.
    fn list(&self) -> Result {
        let Some(overlay) = self.overlay().filter(|overlay| overlay.is_unlisted()) else {
            return Ok(());
        };
        let listed = without_io(|| store::write_list(&self.io, &self.cow_device, overlay));
        listed.inspect_err(|error| {
            pr_err!(
                "COW device {}: the list of exceptions cannot be written: error {}; resume the device to try again\n",
                self.cow_device.number(),
                error.to_errno()
            );
        })
    }

    /// Takes the exceptions of a suspended snapshot over. Sleeps until they are all committed.
    fn take_over(&self, source: &Arc<Copier>) {
        self.origin.retire(source);
        Copier::settle(source);
        if let Some(overlay) = source.overlay() {
            self.overlay.populate(overlay.clone());
        }
    }

    fn start(this: &Arc<Self>) {
        this.stopping.store(false, Ordering::Release);
        this.outlet.stay();
        this.failed.store(false, Ordering::Relaxed);
        let _ = this.queue.enqueue(this.clone());
    }

    /// Stops the worker behind the window that it is at. Sleeps.
    fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.origin.nudge();
        self.queue.drain();
    }

    fn leave(&self, ticket: Ticket) {
        if self.writers.leave(ticket) {
            self.changed.wake();
        }
    }

    fn map(&self, bio: NewBio<Tag>) -> Mapped {
        let Some(overlay) = self.overlay() else {
            return bio.kill();
        };
        if bio.is_flush() {
            let device = if bio.copy_number() == 0 {
                &self.origin_device
            } else {
                &self.cow_device
            };
            return bio.remap(device, 0);
        }
        if bio.is_discard() {
            // As stock does: what is discarded keeps its content.
            let (bio, held) = bio.hold();
            bio.end_ok();
            held
        } else if bio.is_write() {
            self.map_write(overlay, bio)
        } else {
            self.map_read(overlay, bio)
        }
    }

    /// Where a chunk is. An overlay that is not valid counts for nothing.
    fn lookup(&self, overlay: &Overlay, chunk: u64) -> Option<Extent> {
        if overlay.is_usable() {
            overlay.lookup(chunk)
        } else {
            Some(Extent::Unmapped { len: u64::MAX })
        }
    }

    fn map_read(&self, overlay: &Overlay, mut bio: NewBio<Tag>) -> Mapped {
        let size = overlay.chunk();
        let (chunk, offset) = (size.chunk_of(bio.sector()), size.offset_of(bio.sector()));
        match self.lookup(overlay, chunk) {
            None => bio.kill(),
            Some(Extent::Mapped { cow, len }) => {
                bio.shorten(size.sector_of(len).saturating_sub(offset));
                bio.remap(&self.cow_device, size.sector_of(cow) + offset)
            }
            Some(Extent::Unmapped { len }) => {
                bio.shorten(size.sector_of(len).saturating_sub(offset));
                let sector = bio.sector();
                bio.remap(&self.origin_device, sector)
            }
        }
    }

    fn map_write(&self, overlay: &Overlay, mut bio: NewBio<Tag>) -> Mapped {
        let size = overlay.chunk();
        let (chunk, offset) = (size.chunk_of(bio.sector()), size.offset_of(bio.sector()));
        // Counted first, then looked up: whoever publishes a window waits for those who were
        // counted before.
        let ticket = self.writers.enter();
        let mut state = self.state.lock();
        let found = self.lookup(overlay, chunk);
        if let Some(Extent::Mapped { cow, len }) = found {
            let most = len.min(size.chunks_covering(offset + u64::from(bio.sectors())));
            let (inside, alike) = state.alike(chunk, most);
            bio.shorten(size.sector_of(alike).saturating_sub(offset));
            if inside && state.unlisted.is_some() {
                drop(state);
                self.leave(ticket);
                return bio.kill();
            }
            if inside {
                let (bio, held) = bio.hold();
                state.held.push(bio);
                drop(state);
                self.leave(ticket);
                return held;
            }
            drop(state);
            let tag = bio.data();
            tag.role = Role::Tracked;
            tag.epoch = ticket.to_raw();
            return bio.remap(&self.cow_device, size.sector_of(cow) + offset);
        }
        drop(state);
        self.leave(ticket);
        let Some(Extent::Unmapped { len }) = found else {
            return bio.kill();
        };
        bio.shorten(size.sector_of(len).saturating_sub(offset));
        let (start, sectors) = (bio.sector(), u64::from(bio.sectors()));
        if self.origin.is_clear(start, sectors) {
            return bio.remap(&self.origin_device, start);
        }
        bio.set_target(&self.origin_device, start);
        let (bio, held) = bio.hold();
        self.write_origin(bio);
        held
    }

    /// Writes to the origin when its other overlays have what they need.
    fn write_origin(&self, mut bio: Bio) {
        bio.data().outlet = self.outlet.id();
        let (start, sectors) = (bio.sector(), u64::from(bio.sectors()));
        if let Some(bio) = self.origin.admit(start, sectors, bio) {
            bio.submit();
        }
    }

    /// Merges the last window of the list. False if the list is empty. Sleeps.
    fn merge_window(self: &Arc<Self>, overlay: &Overlay) -> Result<bool> {
        let mut area = overlay.area.lock();
        // What a torn write has left behind the end of the list would be taken up by stock.
        store::scrub(&self.io, &self.cow_device, overlay, &mut area.image)?;
        if let Some((start, entries)) = self.unlisted() {
            let window = Window::new(&entries);
            self.finish_window(overlay, &mut area, &window, start)?;
            return Ok(true);
        }
        let listed = area.image.listed();
        if listed == 0 {
            return Ok(false);
        }
        let chunk = overlay.chunk();
        let length = self.length.load(Ordering::Relaxed);
        let most = length.min(chunk.chunks_within(MOST_SECTORS).max(1));
        let most = match parameters::copy_throttle().percent() {
            100 => most,
            _ => most.min(PACED_LENGTH),
        };
        let start = window_start(overlay.layout, listed, most);
        let mut entries = self.read_window(overlay, &mut area, start, listed)?;
        store::sort(&mut entries)?;
        let entries = Arc::new(entries, GFP_KERNEL)?;
        let window = Window::new(&entries);
        if !self.secure_window(overlay, &window) {
            // It is to stop.
            return Ok(true);
        }
        let begun = Instant::<Monotonic>::now();
        self.state.lock().window = Some(entries.clone());
        let old = self.writers.turn();
        self.changed.wait_until(|| self.writers.is_quiet(old));
        let copying = Instant::<Monotonic>::now();
        let copied = self.copy_window(overlay, &window);
        let copying = copying.elapsed().as_micros_ceil().try_into().unwrap_or(0);
        let copied = copied.and_then(|()| self.origin_device.flush());
        if copied.is_err() {
            self.release(overlay);
        }
        copied?;
        let held = self.finish_window(overlay, &mut area, &window, start)?;
        let took = begun.elapsed().as_micros_ceil().try_into().unwrap_or(0);
        self.length
            .store(next_length(length, held, copying, took), Ordering::Relaxed);
        Ok(true)
    }

    /// The window is durably in the origin: takes it off the list and out of the index. Says
    /// whether writes were held. Sleeps.
    fn finish_window(
        &self,
        overlay: &Overlay,
        area: &mut Area,
        window: &Window<'_>,
        start: Position,
    ) -> Result<bool> {
        let truncated = self.truncate(overlay, area);
        if truncated.is_err() {
            let mut state = self.state.lock();
            state.unlisted = Some(start);
            let held = mem::take(&mut state.held);
            drop(state);
            // They end with an error.
            drop(held);
            return truncated.map(|()| false);
        }
        self.forget(overlay, window);
        let mut state = overlay.state.lock();
        let end = overlay.layout.area_chunk(start.area) + 1 + start.slot;
        state.alloc.truncate(start.index(overlay.layout), end);
        drop(state);
        overlay.note_area(start.area);
        Ok(self.release(overlay))
    }

    /// The window whose truncation has failed.
    fn unlisted(&self) -> Option<(Position, Arc<KVVec<Exception>>)> {
        let state = self.state.lock();
        Some((state.unlisted?, state.window.clone()?))
    }

    /// Sees to it that the other overlays have exceptions for the whole window. False if the merge
    /// is to stop before they have. Sleeps.
    fn secure_window(&self, overlay: &Overlay, window: &Window<'_>) -> bool {
        let size = overlay.chunk();
        let mut begun = window.runs(u64::MAX);
        let mut count = 0;
        let mut rest = window.runs(u64::MAX);
        while let Some(run) = rest.next() {
            let (start, sectors) = (size.sector_of(run.origin), size.sector_of(run.len));
            count += 1;
            if !self.origin.prepare(start, sectors) {
                // As many copies as can be are under way.
                if !self.secure_runs(overlay, begun.clone().take(count)) {
                    return false;
                }
                begun = rest.clone();
                count = 0;
            }
        }
        self.secure_runs(overlay, begun)
    }

    /// Waits for the copies of runs, and then for their exceptions. In this order, as asking for
    /// the first exception when it is ready would make a commit of little more than that.
    fn secure_runs(&self, overlay: &Overlay, runs: impl Iterator<Item = Run> + Clone) -> bool {
        let stop = || self.stopping.load(Ordering::Acquire);
        let size = overlay.chunk();
        let range = |run: Run| (size.sector_of(run.origin), size.sector_of(run.len));
        for (start, sectors) in runs.clone().map(range) {
            self.origin.await_copies(start, sectors);
        }
        runs.map(range)
            .all(|(start, sectors)| self.origin.secure(start, sectors, stop))
    }

    /// Reads the entries from `start` to the end of the list, and leaves the image of the area in
    /// which the list will then end in `area.spill`.
    fn read_window(
        &self,
        overlay: &Overlay,
        area: &mut Area,
        start: Position,
        listed: u64,
    ) -> Result<KVVec<Exception>> {
        let count = usize::try_from(listed - start.index(overlay.layout))?;
        let mut entries = KVVec::with_capacity(count, GFP_KERNEL)?;
        let mut buffer = IoBuffer::new(overlay.chunk().bytes())?;
        // What the index knows of the last entry's chunk and of those behind it.
        let mut known = Run::default();
        for n in start.area..=area.image.area() {
            if n == area.image.area() {
                buffer.copy_from_slice(area.image.bytes());
            } else {
                store::read_area(&self.io, &self.cow_device, overlay, n, &mut buffer)?;
            }
            let mut slot = 0;
            if n == start.area {
                slot = usize::try_from(start.slot)?;
                area.spill.load(n, &buffer, slot);
            }
            while let Some(entry) = entry_at(&buffer, slot) {
                // The list was checked when it was loaded; the device may have changed since.
                known = known.split(1).1;
                if known.len == 0 || known.origin != entry.origin {
                    known = match overlay.index.next_run(entry.origin) {
                        Ok(Some(run)) => run,
                        _ => return Err(EIO),
                    };
                }
                if (known.origin, known.cow) != (entry.origin, entry.cow) {
                    return Err(EIO);
                }
                entries.push_within_capacity(entry).map_err(|_| EIO)?;
                slot += 1;
            }
        }
        if entries.len() != count {
            return Err(EIO);
        }
        Ok(entries)
    }

    fn copy_window(self: &Arc<Self>, overlay: &Overlay, window: &Window<'_>) -> Result {
        let size = overlay.chunk();
        self.copy_failed.store(false, Ordering::Relaxed);
        let mut runs = window.runs(size.chunks_within(CopyClient::BEST_SECTORS));
        loop {
            let percent = parameters::copy_throttle().percent();
            let at_once = if percent < 100 {
                PACED_COPIES
            } else {
                usize::MAX
            };
            let begun = Instant::<Monotonic>::now();
            for run in runs.by_ref().take(at_once) {
                let copy = self.copies.take(self.copy_of(overlay, run));
                self.origin.copies().copy_at_once(copy);
            }
            self.copying.wait_idle();
            if self.copy_failed.load(Ordering::Relaxed) {
                return Err(EIO);
            }
            if runs.is_empty() {
                return Ok(());
            }
            if !self.stopping.load(Ordering::Acquire) {
                let took = begun.elapsed().as_micros_ceil();
                fsleep(Delta::from_micros(pause(took, percent)));
            }
        }
    }

    fn copy_of(self: &Arc<Self>, overlay: &Overlay, run: Run) -> MergeCopy {
        let size = overlay.chunk();
        let start = size.sector_of(run.origin);
        let end = size
            .sector_of(run.origin.saturating_add(run.len))
            .min(self.origin_sectors);
        MergeCopy {
            flight: Flight::new(),
            cow: self.cow_device.clone(),
            origin: self.origin_device.clone(),
            from: size.sector_of(run.cow),
            to: start,
            sectors: end.saturating_sub(start),
            merge: self.clone(),
            _pass: self.copying.enter(),
        }
    }

    /// Cuts the list off, durably, where `area.spill` ends.
    fn truncate(&self, overlay: &Overlay, area: &mut Area) -> Result {
        store::scrub(&self.io, &self.cow_device, overlay, &mut area.spill)?;
        mem::swap(&mut area.image, &mut area.spill);
        Ok(())
    }

    /// Takes the window out of the index: reads go to the origin from now on.
    fn forget(&self, overlay: &Overlay, window: &Window<'_>) {
        for run in window.runs(u64::MAX) {
            loop {
                let _ = overlay.ensure_nodes();
                let mut state = overlay.state.lock();
                let removed = overlay
                    .index
                    .remove_run(&mut state.writer, run.origin, run.len);
                overlay.note(&state);
                drop(state);
                if removed != Err(IndexError::NeedNodes) {
                    break;
                }
                // The list on the device is shorter already, so there is no way back: go on when
                // there is memory again.
                if overlay.add_nodes().is_err() {
                    self.changed.wait_for(1, || false);
                }
            }
        }
    }

    /// Ends a window: what was held goes where its chunks are now. Says whether there was any.
    fn release(&self, overlay: &Overlay) -> bool {
        let size = overlay.chunk();
        let State { mut held, .. } = mem::take(&mut *self.state.lock());
        let any = !held.is_empty();
        while let Some(mut bio) = held.pop() {
            let (sector, offset) = (bio.sector(), size.offset_of(bio.sector()));
            match overlay.lookup(size.chunk_of(sector)) {
                Some(Extent::Mapped { cow, .. }) => {
                    // The merge has failed; the window is as it was.
                    let ticket = self.writers.enter();
                    let tag = bio.data();
                    tag.role = Role::Tracked;
                    tag.epoch = ticket.to_raw();
                    bio.set_target(&self.cow_device, size.sector_of(cow) + offset);
                    bio.submit();
                }
                Some(Extent::Unmapped { .. }) => {
                    bio.set_target(&self.origin_device, sector);
                    self.write_origin(bio);
                }
                None => bio.end_error(),
            }
        }
        any
    }
}

impl State {
    /// Whether `chunk` is in the window, and for how many chunks, up to `most`, that holds.
    fn alike(&self, chunk: u64, most: u64) -> (bool, u64) {
        let Some(entries) = &self.window else {
            return (false, most);
        };
        let window = Window::new(entries);
        let inside = window.touches(chunk, chunk);
        let mut len = 1;
        while len < most && window.touches(chunk + len, chunk + len) == inside {
            len += 1;
        }
        (inside, len)
    }
}

impl WorkItem for Merge {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let Some(overlay) = this.overlay() else {
            return;
        };
        if !overlay.is_usable() {
            return;
        }
        let _memory = this.origin.copies().keep_memory();
        while !this.stopping.load(Ordering::Acquire) {
            match without_io(|| this.merge_window(overlay)) {
                Ok(true) => {}
                Ok(false) => {
                    this.table.raise_event();
                    return;
                }
                Err(error) => {
                    pr_err!(
                        "merge into {} failed: error {}; resume the device to try again\n",
                        this.origin_device.number(),
                        error.to_errno()
                    );
                    this.failed.store(true, Ordering::Relaxed);
                    this.table.raise_event();
                    return;
                }
            }
        }
    }
}

/// The copy of one run to the origin. The pass is dropped last: the worker waits for it.
pub(crate) struct MergeCopy {
    flight: Flight,
    cow: Device,
    origin: Device,
    from: u64,
    to: u64,
    sectors: u64,
    merge: Arc<Merge>,
    _pass: Pass,
}

impl CopyJob for MergeCopy {
    fn source(&self) -> Region<'_> {
        Region {
            device: &self.cow,
            sector: self.from,
            sectors: self.sectors,
        }
    }

    fn destination(&self, n: usize) -> Option<Region<'_>> {
        (n == 0).then_some(Region {
            device: &self.origin,
            sector: self.to,
            sectors: self.sectors,
        })
    }

    fn flight(&mut self) -> &mut Flight {
        &mut self.flight
    }

    fn done(job: PoolBox<Self>, outcome: Outcome) {
        if !outcome.succeeded(0) {
            job.merge.copy_failed.store(true, Ordering::Relaxed);
        }
    }
}
