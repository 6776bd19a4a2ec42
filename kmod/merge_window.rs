// SPDX-License-Identifier: GPL-2.0

//! How a merge folds its windows back: what its worker does, step by step, and in which order.
//!
//! The steps are those that [`merge`](crate::merge) tells of; what happens to the bios of the device
//! meanwhile is there.

use crate::dm::without_io;
use crate::dm::CopyClient;
use crate::dm::CopyJob;
use crate::dm::Device;
use crate::dm::Flight;
use crate::dm::IoBuffer;
use crate::dm::Outcome;
use crate::dm::Pass;
use crate::dm::PoolBox;
use crate::dm::Region;
use crate::holey_core::area::entry_at;
use crate::holey_core::area::AreaImage;
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
use crate::merge::Merge;
use crate::overlay::Area;
use crate::overlay::Bios;
use crate::overlay::Overlay;
use crate::overlay::Role;
use crate::parameters;
use crate::store;
use crate::summary;
use core::mem;
use core::sync::atomic::Ordering;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::time::delay::fsleep;
use kernel::time::Delta;
use kernel::time::Instant;
use kernel::time::Monotonic;
use kernel::workqueue::WorkItem;

/// Most data in a window, in sectors (64 MiB).
const MOST_SECTORS: u64 = 64 << 11;
/// Copies at a time in a merge that is throttled. Others wait for no more than these, ...
const PACED_COPIES: usize = 4;
/// ... or for the work on the index after so many exceptions.
const PACED_LENGTH: u64 = 64;

/// The next window is copied ahead if what comes after the copies of one takes longer than this part
/// of them. Where flushes are cheap, two windows would only hold more writes.
const WAITING_SHARE: u64 = 16;

/// The window that ends a list.
struct Plan {
    /// Where it begins.
    start: Position,
    /// Its entries, sorted.
    entries: Arc<KVVec<Exception>>,
}

/// A window whose copies were started.
struct Underway {
    plan: Plan,
    /// When it was published.
    begun: Instant<Monotonic>,
    /// When its copies were started.
    copying: Instant<Monotonic>,
}

/// How far the worker is.
#[derive(Default)]
struct Progress {
    underway: Option<Underway>,
    /// A window waits for flushes and metadata so long that the next one had better be copied
    /// meanwhile.
    waits: bool,
}

impl Merge {
    /// Merges the last window of the list, which may be under way, and starts the one before it if
    /// nobody has to wait for that. False if the list is empty. Sleeps.
    fn merge_window(self: &Arc<Self>, overlay: &Overlay, progress: &mut Progress) -> Result<bool> {
        let mut area = overlay.area.lock();
        summary::forget(&self.io, &self.cow_device, overlay, &mut area)?;
        // What a torn write has left behind the end of the list would be taken up by stock.
        store::scrub(&self.io, &self.cow_device, overlay, &mut area.image)?;
        if let Some((start, entries)) = self.unlisted() {
            let window = Window::new(&entries);
            self.finish_window(overlay, &mut area, &window, start)?;
            return Ok(true);
        }
        let window = match progress.underway.take() {
            Some(window) => window,
            None => {
                let Area { image, spill, .. } = &mut *area;
                if image.listed() == 0 {
                    return Ok(false);
                }
                let plan = self.plan_window(overlay, image, spill)?;
                if !self.secure_window(overlay, &Window::new(&plan.entries)) {
                    // It is to stop.
                    return Ok(true);
                }
                self.begin_window(overlay, plan)?
            }
        };
        let ahead = match progress.waits {
            true => self.plan_ahead(overlay, &area.spill),
            false => None,
        };
        self.await_copies()?;
        let copying = window.copying.elapsed();
        let mut tail = None;
        if let Some((plan, image)) = ahead {
            progress.underway = Some(self.begin_window(overlay, plan)?);
            tail = Some(image);
        }
        let finishing = Instant::<Monotonic>::now();
        self.origin_device.flush()?;
        let Plan { start, entries } = &window.plan;
        let held = self.finish_window(overlay, &mut area, &Window::new(entries), *start)?;
        if let Some(tail) = tail {
            area.spill = tail;
        }
        let micros = |time: Delta| u64::try_from(time.as_micros_ceil()).unwrap_or(0);
        let (copying, took) = (micros(copying), micros(window.begun.elapsed()));
        let length = self.length.load(Ordering::Relaxed);
        let next = next_length(length, held, copying, took);
        self.length.store(next, Ordering::Relaxed);
        progress.waits = micros(finishing.elapsed()) > copying / WAITING_SHARE;
        Ok(true)
    }

    /// The last window of a list that ends in `image`. Makes `tail` the image of the area in which
    /// the list will end without it. Sleeps.
    fn plan_window(
        &self,
        overlay: &Overlay,
        image: &AreaImage<IoBuffer>,
        tail: &mut AreaImage<IoBuffer>,
    ) -> Result<Plan> {
        let length = self.length.load(Ordering::Relaxed);
        let most = length.min(overlay.chunk().chunks_within(MOST_SECTORS).max(1));
        let most = match parameters::copy_throttle().percent() {
            100 => most,
            _ => most.min(PACED_LENGTH),
        };
        let start = window_start(overlay.layout, image.listed(), most);
        let mut entries = self.read_window(overlay, image, tail, start)?;
        store::sort(&mut entries)?;
        let entries = Arc::new(entries, GFP_KERNEL)?;
        Ok(Plan { start, entries })
    }

    /// The window before the one that leaves the list ending in `image`, and the image of the area
    /// in which it will end then. None if that window had better wait: others write to what is
    /// merged, or are to have a share of the disks, or another overlay has to get exceptions first,
    /// for which nobody is to be held, or something fails that it will tell when it is its turn.
    /// Sleeps.
    fn plan_ahead(
        &self,
        overlay: &Overlay,
        image: &AreaImage<IoBuffer>,
    ) -> Option<(Plan, AreaImage<IoBuffer>)> {
        let is_alone = parameters::copy_throttle().percent() == 100
            && self.length.load(Ordering::Relaxed) >= FIRST_LENGTH
            && self.state.lock().held.is_empty();
        if !is_alone || image.listed() == 0 || self.stopping.load(Ordering::Acquire) {
            return None;
        }
        let memory = IoBuffer::new(overlay.chunk().bytes()).ok()?;
        let mut tail = AreaImage::new(overlay.layout, memory);
        let plan = self.plan_window(overlay, image, &mut tail).ok()?;
        let secured = ranges_of(overlay, Window::new(&plan.entries).runs(u64::MAX))
            .all(|(start, sectors)| self.origin.is_clear(start, sectors));
        secured.then_some((plan, tail))
    }

    /// Publishes a window and starts its copies. Sleeps.
    fn begin_window(self: &Arc<Self>, overlay: &Overlay, plan: Plan) -> Result<Underway> {
        let entries = &plan.entries;
        let begun = Instant::<Monotonic>::now();
        let mut state = self.state.lock();
        if state.window.is_none() {
            state.window = Some(entries.clone());
        } else {
            state.next = Some(entries.clone());
        }
        drop(state);
        let old = self.writers.turn();
        self.changed.wait_until(|| self.writers.is_quiet(old));
        let copying = Instant::<Monotonic>::now();
        self.copy_window(overlay, &Window::new(entries))?;
        Ok(Underway {
            plan,
            begun,
            copying,
        })
    }

    /// Gives up what was begun: the windows are as they were. Sleeps until no copy is under way.
    fn withdraw(&self, overlay: &Overlay) {
        self.copying.wait_idle();
        let mut state = self.state.lock();
        if state.unlisted.is_none() {
            state.window = None;
        }
        state.next = None;
        drop(state);
        self.release(overlay);
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
            state.next = None;
            drop(state);
            return truncated.map(|()| false);
        }
        self.forget(overlay, window);
        let mut state = overlay.state.lock();
        let end = overlay.layout.area_chunk(start.area) + 1 + start.slot;
        state.alloc.truncate(start.index(overlay.layout), end);
        drop(state);
        overlay.note_area(start.area);
        let mut state = self.state.lock();
        state.unlisted = None;
        state.window = state.next.take();
        drop(state);
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
        for (start, sectors) in ranges_of(overlay, runs.clone()) {
            self.origin.await_copies(start, sectors);
        }
        ranges_of(overlay, runs).all(|(start, sectors)| self.origin.secure(start, sectors, stop))
    }

    /// Reads the entries from `start` to the end of the list, which ends in `image`, and makes
    /// `tail` the image of the area in which the list ends without them.
    fn read_window(
        &self,
        overlay: &Overlay,
        image: &AreaImage<IoBuffer>,
        tail: &mut AreaImage<IoBuffer>,
        start: Position,
    ) -> Result<KVVec<Exception>> {
        let listed = image.listed();
        let count = usize::try_from(listed.saturating_sub(start.index(overlay.layout)))?;
        let mut entries = KVVec::with_capacity(count, GFP_KERNEL)?;
        let mut buffer = IoBuffer::new(overlay.chunk().bytes())?;
        // What the index knows of the last entry's chunk and of those behind it.
        let mut known = Run::default();
        for n in start.area..=image.area() {
            if n == image.area() {
                buffer.copy_from_slice(image.bytes());
            } else {
                store::read_area(&self.io, &self.cow_device, overlay, n, &mut buffer)?;
            }
            let mut slot = 0;
            if n == start.area {
                slot = usize::try_from(start.slot)?;
                tail.load(n, &buffer, slot);
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

    /// Starts the copies of a window; in a merge that is throttled the last are under way when this
    /// returns. Sleeps.
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
            if runs.is_empty() {
                return Ok(());
            }
            self.await_copies()?;
            if !self.stopping.load(Ordering::Acquire) {
                let took = begun.elapsed().as_micros_ceil();
                fsleep(Delta::from_micros(pause(took, percent)));
            }
        }
    }

    /// Waits for the copies that are under way, and tells whether all have succeeded.
    fn await_copies(&self) -> Result {
        self.copying.wait_idle();
        match self.copy_failed.load(Ordering::Relaxed) {
            true => Err(EIO),
            false => Ok(()),
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

    /// Lets writes that were held go where their chunks are now, but for those whose chunks are in a
    /// window yet. Says whether there was any.
    fn release(&self, overlay: &Overlay) -> bool {
        let size = overlay.chunk();
        let mut state = self.state.lock();
        let any = !state.held.is_empty();
        let (mut held, mut inside) = (Bios::default(), Bios::default());
        while let Some(bio) = state.held.pop() {
            match state.place(size.chunk_of(bio.sector())) {
                Some(_) => inside.push(bio),
                None => held.push(bio),
            }
        }
        if state.unlisted.is_none() {
            state.held = mem::take(&mut inside);
        }
        drop(state);
        // They end with an error.
        drop(inside);
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

/// Where runs are on the origin, and how long they are, in sectors.
fn ranges_of(
    overlay: &Overlay,
    runs: impl Iterator<Item = Run>,
) -> impl Iterator<Item = (u64, u64)> {
    let size = overlay.chunk();
    runs.map(move |run| (size.sector_of(run.origin), size.sector_of(run.len)))
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
        let _memory = without_io(|| this.origin.copies().keep_memory());
        let mut progress = Progress::default();
        while progress.underway.is_some() || !this.stopping.load(Ordering::Acquire) {
            match without_io(|| this.merge_window(overlay, &mut progress)) {
                Ok(true) => {}
                Ok(false) => {
                    this.table.raise_event();
                    return;
                }
                Err(error) => {
                    this.withdraw(overlay);
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
