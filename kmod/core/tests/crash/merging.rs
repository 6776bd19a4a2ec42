// SPDX-License-Identifier: GPL-2.0

//! A merging device: windows planned by the core, driven as the module's `merge.rs` drives them.

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
    held: Vec<Rc<Held>>,
    /// The window is in the origin, but the write that cuts the list off has failed.
    unlisted: Option<Position>,
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
    ) -> Rc<Self> {
        Rc::new(Self {
            overlay,
            siblings,
            writers: Epochs::new(),
            state: RefCell::default(),
            area: RefCell::new(Some(area)),
            most_entries,
            most_run,
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
        let state = self.state.borrow();
        let window = state.window.as_ref();
        window.is_some_and(|entries| Window::new(entries).touches(chunk, chunk))
    }

    /// Merges the last window of the list. False if the list is empty.
    async fn merge_window(
        self: &Rc<Self>,
        host: &Rc<Host>,
        area: &mut Area,
    ) -> Result<bool, Failed> {
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
        let listed = area.image.listed();
        if listed == 0 || host.has(Fault::EndsEarly) && listed < 10 {
            return Ok(false);
        }
        let mut start = window_start(self.overlay.layout, listed, self.most_entries);
        let mut entries = self.read_window(host, area, start, listed).await?;
        if host.has(Fault::MergedFromTheStart) {
            start = Position { area: 0, slot: 0 };
            entries = self.overlay.state.borrow().listed[..entries.len()].to_vec();
            area.spill.start(0);
            area.spill.load(0, area.image.bytes(), 0);
        }
        let mut scratch = entries.clone();
        sort_by_origin(&mut entries, &mut scratch, &mut [0; 256]);
        let entries = Rc::new(entries);
        self.secure_window(host, &entries).await;
        self.state.borrow_mut().window = Some(entries.clone());
        let old = self.writers.turn();
        if !host.has(Fault::WritersNotDrained) {
            host.until(|| self.writers.is_quiet(old)).await;
        }
        let mut copied = self.copy_window(host, &entries).await;
        if copied.is_ok()
            && !host.has(Fault::TruncateWithoutFlush)
            && !host.has(Fault::FlushBeforeCopies)
        {
            let flushed = host.flush(0).await;
            if !host.has(Fault::FailedMergeFlushIgnored) {
                copied = flushed.map(|_| ());
            }
        }
        if host.has(Fault::SuspendLeavesWindow) && self.stopping.get() {
            return Ok(false);
        }
        if copied.is_err() {
            self.release();
        }
        copied?;
        self.finish_window(host, area, &entries, start).await?;
        Ok(true)
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
            self.release();
        }
        if self.truncate(host, area).await.is_err() {
            if host.has(Fault::FailedTruncationForgotten) {
                self.release();
                return Err(Failed);
            }
            let state = &mut *self.state.borrow_mut();
            state.unlisted = Some(start);
            for held in state.held.drain(..) {
                held.fate.set(Some(Fate::Error));
            }
            return Err(Failed);
        }
        self.clean.set(true);
        if host.has(Fault::IndexKeepsWindow) {
            self.release_to_origin();
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
        self.release_with(|chunk| match state.map.find(chunk) {
            Some(cow) => Fate::Cow(cow, self.writers.enter()),
            None => Fate::Origin,
        });
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
        std::mem::swap(&mut area.image, &mut area.spill);
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

    /// Reads the entries from `start` to the end of the list, and leaves the image of the area in
    /// which the list will then end in `area.spill`.
    async fn read_window(
        &self,
        host: &Rc<Host>,
        area: &mut Area,
        start: Position,
        listed: u64,
    ) -> Result<Vec<Exception>, Failed> {
        let overlay = &self.overlay;
        let mut entries = Vec::new();
        for n in start.area..=area.image.area() {
            let bytes = if n == area.image.area() {
                area.image.bytes().to_vec()
            } else {
                let at = overlay.layout.area_chunk(n) as usize * overlay.sectors();
                bytes_of(&host.read(overlay.disk, at, overlay.sectors()).await?)
            };
            let mut slot = 0;
            if n == start.area {
                slot = start.slot as usize;
                area.spill.load(n, &bytes, slot);
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

    /// Ends a window: what was held goes where its chunks are now.
    fn release(&self) {
        let overlay = self.overlay.state.borrow();
        self.release_with(|chunk| match overlay.map.find(chunk) {
            Some(cow) => Fate::Cow(cow, self.writers.enter()),
            None => Fate::Origin,
        });
    }

    fn release_to_origin(&self) {
        self.release_with(|_| Fate::Origin);
    }

    fn release_with(&self, fate_of: impl Fn(u64) -> Fate) {
        for held in self.state.take().held {
            held.fate.set(Some(fate_of(held.chunk)));
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
    while !merge.stopping.get() {
        match merge.merge_window(&host, &mut area).await {
            Ok(true) => {}
            Ok(false) => {
                merge.done.set(true);
                break;
            }
            Err(Failed) => {
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
