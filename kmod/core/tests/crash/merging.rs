// SPDX-License-Identifier: GPL-2.0

//! A merging device: windows planned by the core, driven as the module's `merge_window.rs` drives them.

use crate::disk::Durability;
use crate::disk::Failed;
use crate::disk::Sector;
use crate::disk::SECTOR;
use crate::host::Host;
use crate::origin;
use crate::origin::Siblings;
use crate::rules::Fault;
use crate::rules::Rule;
use crate::snapshot::Area;
use crate::snapshot::Image;
use crate::snapshot::Snapshot;
use crate::store::bytes_of;
use holey_core::area::entry_at;
use holey_core::epoch::Epochs;
use holey_core::epoch::Ticket;
use holey_core::format::Exception;
use holey_core::index::Run;
use holey_core::merge::window_start;
use holey_core::merge::Position;
use holey_core::merge::Window;
use holey_core::sort::sort_by_origin;
use std::cell::Cell;
use std::cell::RefCell;
use std::mem;
use std::rc::Rc;

/// Where a write goes.
#[derive(Clone, Copy)]
enum Fate {
    Cow(u64, Ticket),
    Origin,
    Error,
}

/// A write to the window, which waits for its fate.
struct Held {
    chunk: u64,
    fate: Cell<Option<Fate>>,
}

/// What everybody looks at.
#[derive(Default)]
struct State {
    window: Option<Rc<Vec<Exception>>>,
    /// The window before it in the list, if that is being copied already.
    next: Option<Rc<Vec<Exception>>>,
    held: Vec<Rc<Held>>,
    /// The window is in the origin, but the write that cuts the list off has failed.
    unlisted: Option<Position>,
}

impl State {
    fn touches(&self, chunk: u64) -> bool {
        let windows = [&self.window, &self.next];
        let mut windows = windows.into_iter().flatten();
        windows.any(|entries| Window::new(entries).touches(chunk, chunk))
    }
}

/// The window that ends a list.
struct Plan {
    start: Position,
    entries: Rc<Vec<Exception>>,
}

/// A merge of one overlay into its origin.
pub(crate) struct Merge {
    /// The overlay.
    pub(crate) overlay: Rc<Snapshot>,
    siblings: Siblings,
    writers: Epochs,
    state: RefCell<State>,
    area: RefCell<Option<Area>>,
    most_entries: u64,
    most_run: u64,
    /// Whether the next window is copied while one is being finished.
    goes_ahead: bool,
    copying: Cell<usize>,
    copy_failed: Cell<bool>,
    stopping: Cell<bool>,
    /// The worker has ended with an error.
    pub(crate) failed: Cell<bool>,
    /// The worker has ended at the end.
    pub(crate) done: Cell<bool>,
    /// No stale entries stand behind the end of the list.
    pub(crate) clean: Cell<bool>,
}

impl Merge {
    /// A merge that is not running yet.
    pub(crate) fn new(
        overlay: Rc<Snapshot>,
        area: Area,
        siblings: Siblings,
        most_entries: u64,
        most_run: u64,
        goes_ahead: bool,
    ) -> Rc<Self> {
        Rc::new(Self {
            overlay,
            siblings,
            writers: Epochs::new(),
            state: RefCell::default(),
            area: RefCell::new(Some(area)),
            most_entries,
            most_run,
            goes_ahead,
            copying: Cell::new(0),
            copy_failed: Cell::new(false),
            stopping: Cell::new(false),
            failed: Cell::new(false),
            done: Cell::new(false),
            clean: Cell::new(false),
        })
    }

    /// Starts the worker, if it is not running.
    pub(crate) fn start(self: &Rc<Self>, host: &Rc<Host>) {
        self.stopping.set(false);
        self.failed.set(false);
        if let Some(area) = self.area.take() {
            host.spawn(work(host.clone(), self.clone(), area));
        }
    }

    /// Lets the worker end behind the window that it is at.
    pub(crate) fn stop(&self) {
        self.stopping.set(true);
    }

    /// Whether the worker is not running.
    pub(crate) fn is_stopped(&self) -> bool {
        self.area.borrow().is_some()
    }

    /// Whether a bio waits for the end of a window.
    pub(crate) fn is_holding(&self) -> bool {
        !self.state.borrow().held.is_empty()
    }

    /// Whether a window is being merged.
    pub(crate) fn has_window(&self) -> bool {
        self.state.borrow().window.is_some()
    }

    fn sectors_of(&self, run: Run) -> (usize, usize) {
        let size = self.overlay.chunk();
        let start = size.sector_of(run.origin) as usize;
        let end = size.sector_of(run.origin + run.len) as usize;
        (start, end.min(self.overlay.origin_sectors) - start)
    }

    fn is_in_window(&self, chunk: u64) -> bool {
        self.state.borrow().touches(chunk)
    }

    /// Merges the last window of the list, which may be under way. False if the list is empty.
    async fn merge_window(
        self: &Rc<Self>,
        host: &Rc<Host>,
        area: &mut Area,
        underway: &mut Option<Plan>,
    ) -> Result<bool, Failed> {
        if !host.has(Fault::SummaryKeptByMerge) {
            self.overlay.forget_summary(host).await?;
        }
        self.overlay.scrub(host, &mut area.image).await?;
        self.clean.set(true);
        let unlisted = {
            let state = self.state.borrow();
            state.unlisted.zip(state.window.clone())
        };
        if let Some((start, entries)) = unlisted {
            self.finish_window(host, area, &entries, start).await?;
            return Ok(true);
        }
        let plan = match underway.take() {
            Some(plan) => plan,
            None => {
                let listed = area.image.listed();
                if listed == 0 || host.has(Fault::EndsEarly) && listed < 10 {
                    return Ok(false);
                }
                let plan = self.plan(host, &area.image, &mut area.spill).await?;
                self.secure_window(host, &plan.entries).await;
                self.begin_window(host, &plan).await?;
                plan
            }
        };
        let ahead = self.plan_ahead(host, &area.spill).await;
        self.await_copies(host).await?;
        let mut tail = None;
        if let Some((next, mut image)) = ahead {
            self.begin_window(host, &next).await?;
            if host.has(Fault::CutsNextWindowToo) {
                mem::swap(&mut area.spill, &mut image);
            }
            *underway = Some(next);
            tail = Some(image);
        }
        if !host.has(Fault::TruncateWithoutFlush) && !host.has(Fault::FlushBeforeCopies) {
            let flushed = host.flush(0).await;
            if !host.has(Fault::FailedMergeFlushIgnored) {
                flushed?;
            }
        }
        if host.has(Fault::SuspendLeavesWindow) && self.stopping.get() {
            return Ok(false);
        }
        self.finish_window(host, area, &plan.entries, plan.start)
            .await?;
        if let Some(tail) = tail {
            area.spill = tail;
        }
        Ok(true)
    }

    /// The last window of a list that ends in `image`; makes `tail` the image of the area in which
    /// the list will end without it.
    async fn plan(&self, host: &Rc<Host>, image: &Image, tail: &mut Image) -> Result<Plan, Failed> {
        let mut start = window_start(self.overlay.layout, image.listed(), self.most_entries);
        let mut entries = self.read_window(host, image, tail, start).await?;
        if host.has(Fault::MergedFromTheStart) {
            start = Position { area: 0, slot: 0 };
            entries = self.overlay.state.borrow().listed[..entries.len()].to_vec();
            tail.start(0);
            tail.load(0, image.bytes(), 0);
        }
        let mut scratch = entries.clone();
        sort_by_origin(&mut entries, &mut scratch, &mut [0; 256]);
        let entries = Rc::new(entries);
        Ok(Plan { start, entries })
    }

    /// The window before the one that leaves the list ending in `image`, and the image of the area
    /// in which it will end then, if it does not have to wait.
    async fn plan_ahead(&self, host: &Rc<Host>, image: &Image) -> Option<(Plan, Image)> {
        if !self.goes_ahead || image.listed() == 0 || self.stopping.get() {
            return None;
        }
        let layout = self.overlay.layout;
        let mut tail = Image::new(layout, vec![0; layout.chunk().bytes()]);
        let plan = self.plan(host, image, &mut tail).await.ok()?;
        let is_clear = Window::new(&plan.entries).runs(u64::MAX).all(|run| {
            let (from, count) = self.sectors_of(run);
            origin::is_clear(host, &self.siblings, from, count)
        });
        is_clear.then_some((plan, tail))
    }

    /// Publishes a window and starts its copies.
    async fn begin_window(self: &Rc<Self>, host: &Rc<Host>, plan: &Plan) -> Result<(), Failed> {
        {
            let state = &mut *self.state.borrow_mut();
            let place = match state.window {
                None => &mut state.window,
                Some(_) => &mut state.next,
            };
            *place = Some(plan.entries.clone());
        }
        let old = self.writers.turn();
        if !host.has(Fault::WritersNotDrained) {
            host.until(|| self.writers.is_quiet(old)).await;
        }
        self.copy_window(host, &plan.entries).await
    }

    /// Gives up what was begun: the windows are as they were.
    async fn withdraw(&self, host: &Rc<Host>) {
        host.until(|| self.copying.get() == 0).await;
        {
            let state = &mut *self.state.borrow_mut();
            if state.unlisted.is_none() {
                state.window = None;
            }
            state.next = None;
        }
        self.release();
    }

    /// The window is durably in the origin: takes it off the list and out of the index.
    async fn finish_window(
        &self,
        host: &Rc<Host>,
        area: &mut Area,
        entries: &[Exception],
        start: Position,
    ) -> Result<(), Failed> {
        let layout = self.overlay.layout;
        self.overlay.state.borrow_mut().durable = start.index(layout) as usize;
        self.clean.set(false);
        if host.has(Fault::ReleasedBeforeTruncation) {
            self.forget(entries);
            self.end_window();
            self.release();
        }
        if self.truncate(host, area).await.is_err() {
            let state = &mut *self.state.borrow_mut();
            state.next = None;
            if !host.has(Fault::FailedTruncationForgotten) {
                state.unlisted = Some(start);
            }
            return Err(Failed);
        }
        self.clean.set(true);
        if host.has(Fault::IndexKeepsWindow) {
            self.end_window();
            self.release_with(|_| Fate::Origin);
            // Time passes.
            let _ = host.read(0, 0, 0).await;
        }
        if !host.has(Fault::ReleasedBeforeTruncation) {
            self.forget(entries);
        }
        let end = layout.area_chunk(start.area) + 1 + start.slot;
        let state = &mut *self.overlay.state.borrow_mut();
        state.alloc.truncate(start.index(layout), end);
        state.listed.truncate(start.index(layout) as usize);
        state.loaded = state.loaded.min(state.listed.len());
        if !host.has(Fault::ReleasedBeforeTruncation) && !host.has(Fault::IndexKeepsWindow) {
            self.end_window();
        }
        let fate_of = |chunk| match state.map.find(chunk) {
            Some(cow) => Fate::Cow(cow, self.writers.enter()),
            None => Fate::Origin,
        };
        if host.has(Fault::HeldWithNextWindowToo) {
            for held in mem::take(&mut self.state.borrow_mut().held) {
                held.fate.set(Some(fate_of(held.chunk)));
            }
        }
        self.release_with(fate_of);
        Ok(())
    }

    /// Cuts the list off, durably, where `area.spill` ends.
    async fn truncate(&self, host: &Rc<Host>, area: &mut Area) -> Result<(), Failed> {
        let part = area.spill.stale(SECTOR);
        if host.has(Fault::TruncateVolatile) || host.has(Fault::TruncatesOneBlock) {
            let at =
                self.overlay.layout.area_chunk(area.spill.area()) as usize * self.overlay.sectors();
            let mut data = Sector::cut(&area.spill.bytes()[part.clone()]);
            let mut how = Durability::FlushedAndDurable;
            if host.has(Fault::TruncatesOneBlock) {
                data.truncate(1);
            } else {
                host.flush(self.overlay.disk).await?;
                how = Durability::Volatile;
            }
            host.write(self.overlay.disk, at + part.start / SECTOR, data, how)
                .await?;
            area.spill.scrubbed();
        } else {
            self.overlay.scrub(host, &mut area.spill).await?;
        }
        mem::swap(&mut area.image, &mut area.spill);
        Ok(())
    }

    /// Sees to it that the other overlays have exceptions for the whole window.
    async fn secure_window(&self, host: &Rc<Host>, entries: &[Exception]) {
        if host.has(Fault::SiblingsNotSecured) {
            return;
        }
        let runs = || {
            Window::new(entries)
                .runs(u64::MAX)
                .map(|run| self.sectors_of(run))
        };
        runs().for_each(|(from, count)| origin::prepare(host, &self.siblings, from, count));
        for (from, count) in runs() {
            origin::await_copies(host, &self.siblings, from, count).await;
        }
        if host.has(Fault::SiblingsNotCommitted) {
            return;
        }
        for (from, count) in runs() {
            origin::secure(host, &self.siblings, from, count).await;
        }
    }

    /// Reads the entries from `start` to the end of the list, which ends in `image`, and makes
    /// `tail` the image of the area in which the list ends without them.
    async fn read_window(
        &self,
        host: &Rc<Host>,
        image: &Image,
        tail: &mut Image,
        start: Position,
    ) -> Result<Vec<Exception>, Failed> {
        let (overlay, listed) = (&self.overlay, image.listed());
        let mut entries = Vec::new();
        for n in start.area..=image.area() {
            let bytes = if n == image.area() {
                image.bytes().to_vec()
            } else {
                let at = overlay.layout.area_chunk(n) as usize * overlay.sectors();
                bytes_of(&host.read(overlay.disk, at, overlay.sectors()).await?)
            };
            let mut slot = 0;
            if n == start.area {
                slot = start.slot as usize;
                tail.load(n, &bytes, slot);
            }
            while let Some(entry) = entry_at(&bytes, slot) {
                entries.push(entry);
                slot += 1;
            }
        }
        let first = start.index(overlay.layout) as usize;
        if entries[..] != overlay.state.borrow().listed[first..listed as usize] {
            let rule = if host.has_failed() {
                Rule::M8
            } else {
                Rule::M4
            };
            host.accuse(rule, "what is read of the list is not what was listed");
        }
        Ok(entries)
    }

    async fn copy_window(
        self: &Rc<Self>,
        host: &Rc<Host>,
        entries: &[Exception],
    ) -> Result<(), Failed> {
        self.copy_failed.set(false);
        for run in Window::new(entries).runs(self.most_run) {
            self.copying.set(self.copying.get() + 1);
            host.spawn(copy(host.clone(), self.clone(), run));
        }
        if host.has(Fault::FlushBeforeCopies) {
            host.flush(0).await?;
        }
        Ok(())
    }

    /// Waits for the copies that are under way, and tells whether all have succeeded.
    async fn await_copies(&self, host: &Rc<Host>) -> Result<(), Failed> {
        host.until(|| self.copying.get() == 0).await;
        if self.copy_failed.get() && !host.has(Fault::FailedMergeCopyIgnored) {
            return Err(Failed);
        }
        Ok(())
    }

    /// Takes the window out of the index: reads go to the origin from now on.
    fn forget(&self, entries: &[Exception]) {
        let state = &mut *self.overlay.state.borrow_mut();
        for run in Window::new(entries).runs(u64::MAX) {
            state.map.remove(run);
        }
    }

    /// The window is no more; the next one, if it was begun, is in its place.
    fn end_window(&self) {
        let state = &mut *self.state.borrow_mut();
        state.unlisted = None;
        state.window = state.next.take();
    }

    /// What was held goes where its chunks are now.
    fn release(&self) {
        let overlay = self.overlay.state.borrow();
        self.release_with(|chunk| match overlay.map.find(chunk) {
            Some(cow) => Fate::Cow(cow, self.writers.enter()),
            None => Fate::Origin,
        });
    }

    /// Writes whose chunks are in a window yet go on waiting, or fail with it.
    fn release_with(&self, fate_of: impl Fn(u64) -> Fate) {
        let state = &mut *self.state.borrow_mut();
        for held in mem::take(&mut state.held) {
            if !state.touches(held.chunk) {
                held.fate.set(Some(fate_of(held.chunk)));
            } else if state.unlisted.is_some() {
                held.fate.set(Some(Fate::Error));
            } else {
                state.held.push(held);
            }
        }
    }

    /// Where a write to a chunk goes.
    fn map_write(&self, host: &Host, chunk: u64) -> Result<Fate, Rc<Held>> {
        let ticket = self.writers.enter();
        let Some(cow) = self.overlay.state.borrow().map.find(chunk) else {
            self.writers.leave(ticket);
            return Ok(Fate::Origin);
        };
        if !self.is_in_window(chunk) || host.has(Fault::WindowWritesToCow) {
            return Ok(Fate::Cow(cow, ticket));
        }
        self.writers.leave(ticket);
        let state = &mut *self.state.borrow_mut();
        if state.unlisted.is_some() {
            return Ok(Fate::Error);
        }
        if host.has(Fault::WindowWritesToOrigin) {
            return Ok(Fate::Origin);
        }
        let held = Rc::new(Held {
            chunk,
            fate: Cell::new(None),
        });
        state.held.push(held.clone());
        Err(held)
    }

    async fn write_to(
        &self,
        host: &Rc<Host>,
        fate: Fate,
        from: usize,
        data: Vec<Sector>,
        fua: bool,
    ) -> Result<(), Failed> {
        let how = if fua {
            Durability::Durable
        } else {
            Durability::Volatile
        };
        match fate {
            Fate::Error => return Err(Failed),
            Fate::Cow(cow, ticket) => {
                let size = self.overlay.chunk();
                let at = size.sector_of(cow) + size.offset_of(from as u64);
                let written = host.write(self.overlay.disk, at as usize, data, how).await;
                self.writers.leave(ticket);
                written?;
            }
            Fate::Origin => {
                origin::secure(host, &self.siblings, from, data.len()).await;
                host.write(0, from, data, how).await?;
            }
        }
        Ok(())
    }
}

async fn work(host: Rc<Host>, merge: Rc<Merge>, mut area: Area) {
    let mut underway = None;
    while underway.is_some() || !merge.stopping.get() {
        let merged = merge.merge_window(&host, &mut area, &mut underway);
        match merged.await {
            Ok(true) => {}
            Ok(false) => {
                merge.done.set(true);
                break;
            }
            Err(Failed) => {
                merge.withdraw(&host).await;
                merge.failed.set(true);
                break;
            }
        }
    }
    merge.area.replace(Some(area));
}

/// Copies a run to the origin.
async fn copy(host: Rc<Host>, merge: Rc<Merge>, run: Run) {
    let (to, count) = merge.sectors_of(run);
    let from = merge.overlay.chunk().sector_of(run.cow) as usize;
    let copied = match host.read(merge.overlay.disk, from, count).await {
        Ok(data) => host.write(0, to, data, Durability::Volatile).await,
        failed => failed,
    };
    if copied.is_err() {
        merge.copy_failed.set(true);
    }
    merge.copying.set(merge.copying.get() - 1);
}

/// A user writes to the merging device.
pub(crate) fn write(host: &Rc<Host>, merge: &Rc<Merge>, from: usize, count: usize, fua: bool) {
    let data = host.data(count);
    merge.overlay.state.borrow_mut().view.write(from, &data);
    let size = merge.overlay.sectors();
    let mut done = 0;
    while done < count {
        let from = from + done;
        let len = (size - from % size).min(count - done);
        let data = data[done..done + len].to_vec();
        done += len;
        let mapped = merge.map_write(host, (from / size) as u64);
        let (host, merge) = (host.clone(), merge.clone());
        host.users.set(host.users.get() + 1);
        host.clone().spawn(async move {
            let fate = match mapped {
                Ok(fate) => fate,
                Err(held) => {
                    host.until(|| held.fate.get().is_some()).await;
                    held.fate.get().unwrap_or(Fate::Error)
                }
            };
            let written = merge.write_to(&host, fate, from, data, fua).await;
            let view = &mut merge.overlay.state.borrow_mut().view;
            view.ended(from, len, written.is_ok(), fua);
            host.users.set(host.users.get() - 1);
        });
    }
}

/// A user flushes the merging device: both disks.
pub(crate) async fn flush(host: Rc<Host>, merge: Rc<Merge>) {
    let mark = merge.overlay.state.borrow().view.mark();
    let (origin, cow) = (host.flush(0), host.flush(merge.overlay.disk));
    let (origin, cow) = (origin.await, cow.await);
    if origin.is_ok() && cow.is_ok() {
        merge.overlay.state.borrow_mut().view.flushed(&mark);
    }
}

/// A user reads a part of one chunk of the merging device.
pub(crate) async fn read(host: Rc<Host>, merge: Rc<Merge>, from: usize, count: usize) {
    let overlay = &merge.overlay;
    let since: Vec<_> = {
        let view = &overlay.state.borrow().view;
        (from..from + count).map(|at| view.acked(at)).collect()
    };
    let size = overlay.chunk();
    let chunk = size.chunk_of(from as u64);
    let mut found = overlay.state.borrow().map.find(chunk);
    if host.has(Fault::WindowReadsFromOrigin) && merge.is_in_window(chunk) {
        found = None;
    }
    let io = match found {
        Some(cow) => {
            let at = size.sector_of(cow) + size.offset_of(from as u64);
            host.read(overlay.disk, at as usize, count)
        }
        None => host.read(0, from, count),
    };
    let got = io.await.unwrap_or_default();
    let view = &overlay.state.borrow().view;
    for (n, value) in got.into_iter().enumerate() {
        if !view.may_read(from + n, since[n], value) {
            let what = format!(
                "sector {} of the merging device was read as {value:x?}",
                from + n
            );
            host.accuse(
                if host.has_failed() {
                    Rule::M8
                } else {
                    Rule::M6
                },
                what,
            );
        }
    }
}
