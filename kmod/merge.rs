// SPDX-License-Identifier: GPL-2.0

//! The targets `holey-merge` and, under its stock name, `snapshot-merge`: an overlay is folded
//! back into its origin while both are read and written.
//!
//! The worker goes through the list of exceptions from its end, a window at a time
//! (`core/merge.rs` plans it, `merge_window.rs` does it):
//!
//! 1. every other overlay of the origin gets durable exceptions for the window's chunks;
//! 2. the window is published: from now on writes to its chunks are held; writes to the COW device
//!    that are under way are waited for;
//! 3. all runs are copied to the origin, many at a time;
//! 4. the origin is flushed, once;
//! 5. the list is cut off where the window began, by one durable write;
//! 6. the chunks leave the index, so that reads go to the origin; the held writes follow them.
//!
//! Where flushes take long and nobody writes to what is being merged, the next window is copied (1 to
//! 3) while one is being finished (4 to 6). Windows are finished one after the other.
//!
//! A power cut at any point leaves a list whose entries hold the right content: the merge starts
//! again with them. An error leaves the device readable and writable as it was before the window.

use crate::copier::Copier;
use crate::dm::new_irq_lock;
use crate::dm::new_wait_queue;
use crate::dm::without_io;
use crate::dm::Access;
use crate::dm::Args;
use crate::dm::CtrError;
use crate::dm::Device;
use crate::dm::DeviceNumber;
use crate::dm::Ended;
use crate::dm::EndedBio;
use crate::dm::Gate;
use crate::dm::IoClient;
use crate::dm::IrqLock;
use crate::dm::Limits;
use crate::dm::Mapped;
use crate::dm::MemPool;
use crate::dm::NewBio;
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
use crate::holey_core::epoch::Epochs;
use crate::holey_core::epoch::Ticket;
use crate::holey_core::format::Exception;
use crate::holey_core::index::Extent;
use crate::holey_core::merge::Position;
use crate::holey_core::merge::Window;
use crate::holey_core::merge::FIRST_LENGTH;
use crate::holey_core::table::StoreKind;
use crate::holey_core::table::StoreLine;
use crate::merge_window::MergeCopy;
use crate::origin_set::Origin;
use crate::origin_set::Outlet;
use crate::origin_set::Passage;
use crate::origin_set::Seat;
use crate::overlay::Bio;
use crate::overlay::Bios;
use crate::overlay::Overlay;
use crate::overlay::Role;
use crate::overlay::Tag;
use crate::snapshot;
use crate::snapshot::failed;
use crate::snapshot::Line;
use crate::store;
use crate::store::Reading;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;
use kernel::impl_has_work;
use kernel::new_work;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::SetOnce;
use kernel::workqueue::Work;

/// Copies that can be started when memory is short.
const RESERVED_COPIES: u16 = 16;

/// What the lock protects.
#[derive(Default)]
pub(crate) struct State {
    /// The entries of the window that is being merged, sorted.
    pub(crate) window: Option<Arc<KVVec<Exception>>>,
    /// Those of the window before it in the list, if that is being copied already.
    pub(crate) next: Option<Arc<KVVec<Exception>>>,
    /// Writes to the chunks of both.
    pub(crate) held: Bios,
    /// The window is in the origin, but the write that cuts the list off has failed: nobody knows
    /// whether the device has it. Until it succeeds, its chunks are not written to: neither the
    /// origin nor the COW device alone is what the next activation would show.
    pub(crate) unlisted: Option<Position>,
}

/// A merge of one overlay into its origin.
#[pin_data]
pub(crate) struct Merge {
    pub(crate) origin: Origin,
    pub(crate) origin_device: Device,
    pub(crate) cow_device: Device,
    pub(crate) origin_sectors: u64,
    outlet: Arc<Outlet>,
    /// Copiers on other hosts, if there were any when the table was loaded.
    seat: Option<Seat>,
    line: StoreLine,
    overlay: SetOnce<Arc<Overlay>>,
    pub(crate) table: Table,
    pub(crate) io: IoClient,
    /// Writers of the COW device.
    pub(crate) writers: Epochs,
    #[pin]
    pub(crate) changed: WaitQueue,
    #[pin]
    pub(crate) state: IrqLock<State>,
    pub(crate) copies: Arc<MemPool<MergeCopy>>,
    pub(crate) copying: Arc<Gate>,
    pub(crate) copy_failed: AtomicBool,
    /// Exceptions in the next window. Writes to its chunks are held until it ends.
    pub(crate) length: AtomicU64,
    pub(crate) stopping: AtomicBool,
    pub(crate) failed: AtomicBool,
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
                let (origin, cow) = (&line.origin, &line.cow);
                let reading = Reading {
                    later: false,
                    writable: setup.is_writable(),
                };
                let opened = store::open(&io, origin, cow, sectors, line.store, reading);
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
            return Copier::read_all(&source);
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

    pub(crate) fn overlay(&self) -> Option<&Arc<Overlay>> {
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
    pub(crate) fn write_origin(&self, mut bio: Bio) {
        bio.data().outlet = self.outlet.id();
        let (start, sectors) = (bio.sector(), u64::from(bio.sectors()));
        if let Some(bio) = self.origin.admit(start, sectors, bio) {
            bio.submit();
        }
    }
}

impl State {
    /// In which of the windows `chunk` is.
    pub(crate) fn place(&self, chunk: u64) -> Option<usize> {
        let windows = [&self.window, &self.next];
        windows.iter().position(|window| {
            let entries = window.as_ref();
            entries.is_some_and(|entries| Window::new(entries).touches(chunk, chunk))
        })
    }

    /// Whether `chunk` is in a window, and for how many chunks, up to `most`, it is in the same.
    fn alike(&self, chunk: u64, most: u64) -> (bool, u64) {
        if self.window.is_none() {
            return (false, most);
        }
        let place = self.place(chunk);
        let mut len = 1;
        while len < most && self.place(chunk.saturating_add(len)) == place {
            len += 1;
        }
        (place.is_some(), len)
    }
}
