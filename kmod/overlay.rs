// SPDX-License-Identifier: GPL-2.0

//! The state of one overlay: its index, the exceptions in the making, and the end of its list.
//!
//! An overlay has no devices: it outlives the table that made it when another table takes its
//! exceptions over. A snapshot or a merge target drives it.
//!
//! Lock order, outermost first. The first four are mutexes, inside the others nobody sleeps:
//!
//! 1. `opening` of an origin (`origin_set.rs`): whoever opens a store;
//! 2. [`Overlay::worker`]: whoever attends to an overlay;
//! 3. [`Overlay::area`]: whoever writes metadata;
//! 4. `growing` of an overlay: whoever gives its index memory;
//! 5. the members of an origin (`origin_set.rs`), with interrupts off;
//! 6. [`Overlay::state`], the state of remote copiers (`remote.rs`) or of those who keep for a remote
//!    writer (`keeper.rs`), with interrupts off;
//! 7. the state of a write-back buffer (`write_back.rs`), with interrupts off.
//!
//! Whoever sweeps such a buffer holds its `sweeper`, a mutex that is only tried, outside of 5 to 7,
//! and may wait for the workers of overlays.
//!
//! A merge holds its own overlay's area while it waits for other overlays of the same origin.

use crate::arena::Arena;
use crate::dm::new_irq_lock;
use crate::dm::new_wait_queue;
use crate::dm::without_io;
use crate::dm::BioList;
use crate::dm::Failure;
use crate::dm::IoBuffer;
use crate::dm::IrqLock;
use crate::dm::OnceBox;
use crate::dm::WaitQueue;
use crate::holey_core::alloc::Allocator;
use crate::holey_core::area::AreaImage;
use crate::holey_core::epoch::Epochs;
use crate::holey_core::epoch::Ticket;
use crate::holey_core::format::ChunkSize;
use crate::holey_core::format::Exception;
use crate::holey_core::format::Layout;
use crate::holey_core::gather::Gather;
use crate::holey_core::index::Extent;
use crate::holey_core::index::Index;
use crate::holey_core::index::IndexWriter;
use crate::holey_core::index::Run;
use crate::holey_core::pending;
use crate::holey_core::pending::Pending;
use crate::holey_core::pending::State as Progress;
use crate::origin_set::OutletId;
use crate::parameters;
use crate::summary::Pages;
use crate::summary::Summaries;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering;
use kernel::alloc::Flags;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use kernel::time::Instant;
use kernel::time::Monotonic;

/// Exceptions that can be in the making at a time, at first.
const SLOTS: usize = 2048;
/// The same, from when large writes have found too few. They need one for each chunk until it is committed: as many as
/// the disk takes in the time of two commits, which last for 14 ms where a flush takes 10.
const MANY_SLOTS: usize = 16384;
/// Holes in the COW device that are remembered for reuse.
const HOLES: usize = 1024;
/// A commit is started without being asked for when so many exceptions are ready.
const MANY_READY: u64 = 512;
/// The index gets another segment when fewer nodes are free than one for so many slots.
const SLOTS_PER_NODE: usize = 64;

/// What is kept beside each bio.
#[derive(Clone, Copy, Default)]
pub(crate) struct Tag {
    /// What has to be done when it ends.
    pub(crate) role: Role,
    /// The epoch it was counted in, for readers and writers that are tracked.
    pub(crate) epoch: u8,
    /// It has to be durable, mapping included, when it ends. The bio's own flag is gone by then if
    /// the device below has no cache.
    pub(crate) durable: bool,
    /// A flush that the COW device has to see, too.
    pub(crate) forward: bool,
    /// Chunks that a fresh write fills.
    pub(crate) chunks: u32,
    /// The first of them, on the origin.
    pub(crate) origin: u64,
    /// The first of them, on the COW device.
    pub(crate) cow: u64,
    /// The commit that it waits for.
    pub(crate) ticket: u64,
    /// Which device it came through, for writes to the origin.
    pub(crate) outlet: OutletId,
}

/// What has to be done when a bio ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Role {
    /// Nothing.
    #[default]
    Plain,
    /// It reads the origin or writes the COW device and was counted into an epoch.
    Tracked,
    /// It fills COW chunks that no exception names yet.
    Fresh,
    /// It writes COW chunks that are mapped and has to be durable, mapping included.
    Durable,
    /// It writes to a shared volume and has not been let through yet.
    Writing,
    /// As before, and it has waited for copiers on other hosts already.
    Held,
}

/// A bio of ours.
pub(crate) type Bio = crate::dm::Bio<Tag>;
/// A list of them.
pub(crate) type Bios = BioList<Tag>;

/// Who waits for an exception.
#[derive(Default)]
pub(crate) struct Waiters {
    /// Writes to the snapshot: sent to the COW device once the chunk is there.
    pub(crate) writes: Bios,
    /// Writes to the origin: tried again once the exception is stable.
    pub(crate) origin: Bios,
    /// Somebody needs the exception stable, and waits for one of another overlay first.
    pub(crate) asked: bool,
}

/// Whether the store can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Yes.
    Valid,
    /// No, but the header does not say so yet: origin writes wait until it does.
    Invalidating,
    /// No.
    Invalid,
}

/// The store is full, and those who need a chunk wait until it has been extended.
pub(crate) struct Starving {
    /// Since when.
    pub(crate) since: Instant<Monotonic>,
    /// An event has been raised.
    pub(crate) told: bool,
}

type Slots = KVVec<pending::Slot<Waiters>>;

/// What the lock protects.
pub(crate) struct State {
    pub(crate) writer: IndexWriter,
    pub(crate) pending: Pending<Slots, KVVec<u32>>,
    pub(crate) alloc: Allocator<KVVec<u64>>,
    pub(crate) condition: Condition,
    /// Exceptions up to this ticket are to be committed now.
    pub(crate) wanted: u64,
    pub(crate) gather: Gather,
    /// Wait for their ticket to be durable, in the order of tickets.
    pub(crate) flushes: Bios,
    /// Wait for a slot, for space, or for the header to say that the store is invalid.
    pub(crate) blocked: Waiters,
    /// The store was full when the snapshot was written to (store PO): it can only be read.
    pub(crate) overflowed: bool,
    pub(crate) starving: Option<Starving>,
    /// The snapshot's device is being suspended: writes to it that wait for space end like this.
    pub(crate) leaving: Option<Failure>,
    /// Fresh writes that have ended and wait for memory of the index.
    pub(crate) late: Bios,
    /// Directed at a device and to be sent from a thread that may sleep.
    pub(crate) send: Bios,
    /// The target is going away or being suspended.
    pub(crate) hurry: bool,
    /// The target is going away: nothing more is read ahead.
    pub(crate) closing: bool,
    /// Wait until the list has been read as far as it is about them: bios of the snapshot (as
    /// writes), and of the origin.
    pub(crate) unread: Waiters,
    /// Somebody does.
    pub(crate) asked: bool,
    /// A part of the list has not been read.
    pub(crate) is_unread: bool,
    /// The list is to be summarised.
    pub(crate) summarise: bool,
    /// A part of that is being done.
    pub(crate) summarising: bool,
    /// The snapshot's device is suspended: nothing is written that nobody waits for.
    pub(crate) paused: bool,
    /// Large writes have found too few slots.
    pub(crate) crowded: bool,
    /// The summary is to go, and those who need a chunk wait for that.
    pub(crate) making_room: bool,
}

impl State {
    /// Whether the worker has something to do, now or after a while.
    pub(crate) fn has_work(&self) -> bool {
        self.has_urgent_work()
            || self.pending.ready_len() != 0
            || self.starving.is_some()
            || self.is_to_read_on()
            || self.is_to_summarise()
    }

    /// Whether what has not been read is to be read, if there is nothing else to do.
    pub(crate) fn is_to_read_on(&self) -> bool {
        self.is_unread && !self.closing
    }

    /// Whether the list is to be summarised, if there is nothing else to do.
    pub(crate) fn is_to_summarise(&self) -> bool {
        self.summarise && self.condition == Condition::Valid && !self.closing && !self.paused
    }

    /// Whether the worker has something to do at once.
    pub(crate) fn has_urgent_work(&self) -> bool {
        !self.late.is_empty()
            || !self.send.is_empty()
            || self.asked
            || self.making_room
            || self.condition == Condition::Invalidating
            || self.is_to_be_told()
            || self.can_dismiss()
            || self.is_blocked() && self.can_unblock()
            || self.is_commit_due() && self.is_gathered()
    }

    /// Whether somebody waits for a slot or for space.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.blocked.writes.is_empty() || !self.blocked.origin.is_empty()
    }

    /// Whether what is ready is to be committed, now or when what is being filled is ready, too.
    pub(crate) fn is_commit_due(&self) -> bool {
        let soon = self.hurry
            || self.starving.is_some()
            || self.wanted > self.pending.durable()
            || self.is_blocked() && self.room() == 0;
        self.pending.ready_len() != 0 && soon
    }

    /// A commit is due. Whether it has nothing to wait for.
    pub(crate) fn begin_commit(&mut self) -> bool {
        let filling = self.pending.filling_len();
        self.gather.begin(self.pending.ready_len(), filling);
        self.is_gathered()
    }

    /// Whether a commit that is due has nothing to wait for.
    fn is_gathered(&self) -> bool {
        let (ready, filling) = (self.pending.ready_len(), self.pending.filling_len());
        self.hurry || self.gather.is_over(ready, filling)
    }

    /// Whether somebody waits for space and no event has told of it.
    pub(crate) fn is_to_be_told(&self) -> bool {
        self.starving
            .as_ref()
            .is_some_and(|starving| !starving.told)
    }

    /// Whether writes to the snapshot have to end, as they cannot wait for space any longer.
    pub(crate) fn can_dismiss(&self) -> bool {
        self.starving.is_some() && self.leaving.is_some() && !self.blocked.writes.is_empty()
    }

    /// Slots that can still be taken.
    pub(crate) fn room(&self) -> usize {
        most_slots()
            .saturating_sub(self.pending.len())
            .min(self.pending.room())
    }

    /// Whether there are fewer slots than for `chunks` chunks, and will be more when a commit is done.
    pub(crate) fn may_get_room(&self, chunks: u64) -> bool {
        let commits = self.pending.ready_len() != 0 || self.pending.is_committing();
        let most = most_slots().min(self.pending.capacity()) as u64;
        (self.room() as u64) < chunks.min(most)
            && commits
            && self.is_writable()
            && self.starving.is_none()
    }

    /// Whether there are as many slots as there can be.
    pub(crate) fn has_many_slots(&self) -> bool {
        self.pending.capacity() >= MANY_SLOTS.min(most_slots())
    }

    /// Whether the snapshot can be written to.
    pub(crate) fn is_writable(&self) -> bool {
        self.condition == Condition::Valid && !self.overflowed
    }

    /// Whether those who are blocked would get further now.
    pub(crate) fn can_unblock(&self) -> bool {
        match self.condition {
            Condition::Valid => {
                self.starving.is_none() && !self.making_room && self.room() != 0
                    || self.overflowed && !self.blocked.writes.is_empty()
            }
            Condition::Invalidating => false,
            Condition::Invalid => true,
        }
    }

    /// Whether the worker has to be told: it has something to do at once, or `fresh` exceptions
    /// that have just become ready are the first ones, which it lets wait for company.
    pub(crate) fn needs_worker(&self, fresh: u64) -> bool {
        self.has_urgent_work() || fresh != 0 && self.pending.ready_len() == fresh
    }

    /// Marks a chunk as wanted by somebody who waits for it. False if there is nothing to wait for.
    fn ask_to_settle(&mut self, chunk: u64) -> bool {
        match self.condition {
            Condition::Valid => {}
            Condition::Invalidating => return true,
            Condition::Invalid => return false,
        }
        if let Some(slot) = self.pending.find(chunk) {
            if slot.state() == Progress::Ready {
                let ticket = slot.ticket();
                self.wanted = self.wanted.max(ticket);
            } else {
                slot.waiters.asked = true;
            }
            return true;
        }
        let full = self.room() == 0;
        if full {
            self.wanted = self.pending.issued();
        }
        full || self.starving.is_some() || self.making_room
    }

    /// Puts a bio behind all that is ready now.
    pub(crate) fn await_durable(&mut self, mut bio: Bio) {
        bio.data().ticket = self.pending.issued();
        self.wanted = self.pending.issued();
        self.flushes.push(bio);
    }
}

/// Whoever writes metadata has this.
pub(crate) struct Area {
    /// The area that is being filled.
    pub(crate) image: AreaImage<IoBuffer>,
    /// The areas behind it, when a commit needs several.
    pub(crate) spill: AreaImage<IoBuffer>,
    /// One chunk of zeros.
    pub(crate) zeros: IoBuffer,
}

/// The state of one overlay.
#[pin_data]
pub(crate) struct Overlay {
    pub(crate) layout: Layout,
    pub(crate) index: Index<Arena>,
    /// Readers of the origin.
    pub(crate) readers: Epochs,
    /// Where the worker waits for something to do.
    #[pin]
    pub(crate) called: WaitQueue,
    /// Woken whenever somebody else may wait for a change of `state` or `readers`.
    #[pin]
    pub(crate) changed: WaitQueue,
    #[pin]
    pub(crate) state: IrqLock<State>,
    /// Held by the worker that attends to the overlay.
    #[pin]
    pub(crate) worker: Mutex<Summaries>,
    #[pin]
    pub(crate) area: Mutex<Area>,
    #[pin]
    growing: Mutex<()>,
    young: AtomicUsize,
    usable: AtomicBool,
    writable: AtomicBool,
    few_nodes: AtomicBool,
    /// Nothing on the COW device tells of the exceptions.
    unlisted: AtomicBool,
    /// Chunks up to the end of the last metadata area that is in use.
    metadata: AtomicU64,
    /// The list's summary, if it was not read all at once.
    pub(crate) pages: OnceBox<Pages>,
    whole: AtomicBool,
    /// The first COW chunk that is not handed out. Changed under the lock.
    limit: AtomicU64,
    /// The header may point at a summary.
    summarised: AtomicBool,
    /// Nobody knows at which.
    unsure: AtomicBool,
}

impl Overlay {
    /// An overlay without exceptions over an origin of `origin_chunks` chunks.
    pub(crate) fn new(layout: Layout, origin_chunks: u64) -> Result<Arc<Self>> {
        // Nothing is written about a transient store.
        let area_bytes = if layout.is_transient() {
            0
        } else {
            layout.chunk().bytes()
        };
        let state = State {
            writer: IndexWriter::new(),
            pending: pending(SLOTS, GFP_KERNEL)?,
            crowded: false,
            alloc: new_allocator(layout)?,
            condition: Condition::Valid,
            wanted: 0,
            gather: Gather::new(),
            flushes: Bios::default(),
            blocked: Waiters::default(),
            overflowed: false,
            starving: None,
            leaving: None,
            late: Bios::default(),
            send: Bios::default(),
            hurry: false,
            closing: false,
            unread: Waiters::default(),
            asked: false,
            is_unread: false,
            summarise: false,
            summarising: false,
            paused: false,
            making_room: false,
        };
        let area = Area {
            image: AreaImage::new(layout, IoBuffer::new(area_bytes)?),
            spill: AreaImage::new(layout, IoBuffer::new(area_bytes)?),
            zeros: IoBuffer::new(area_bytes)?,
        };
        let overlay = Arc::pin_init(
            pin_init!(Self {
                layout,
                index: Index::new(Arena::new(origin_chunks)?),
                readers: Epochs::new(),
                called <- new_wait_queue!(c"holey_called"),
                changed <- new_wait_queue!(c"holey_overlay"),
                state <- new_irq_lock!(state, c"holey_overlay"),
                worker <- new_mutex!(Summaries::default(), "holey_worker"),
                area <- new_mutex!(area, "holey_area"),
                growing <- new_mutex!((), "holey_growing"),
                young: AtomicUsize::new(0),
                usable: AtomicBool::new(true),
                writable: AtomicBool::new(true),
                few_nodes: AtomicBool::new(true),
                unlisted: AtomicBool::new(layout.is_transient()),
                metadata: AtomicU64::new(layout.first_data()),
                pages: OnceBox::new(),
                whole: AtomicBool::new(true),
                limit: AtomicU64::new(u64::MAX),
                summarised: AtomicBool::new(false),
                unsure: AtomicBool::new(false),
            }? Error),
            GFP_KERNEL,
        )?;
        overlay.ensure_nodes()?;
        Ok(overlay)
    }

    /// Whether the exceptions are in memory only. So it is for good in a transient store, and in a
    /// copier of a shared volume until it becomes the writer.
    pub(crate) fn is_unlisted(&self) -> bool {
        self.unlisted.load(Ordering::Acquire)
    }

    /// Says whether it is so. Called while nobody commits.
    pub(crate) fn set_unlisted(&self, unlisted: bool) {
        self.unlisted.store(unlisted, Ordering::Release);
    }

    /// The chunk size.
    pub(crate) fn chunk(&self) -> ChunkSize {
        self.layout.chunk()
    }

    /// Whether all of the list has been read.
    #[inline]
    pub(crate) fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Acquire)
    }

    /// From now on the list is read when it is asked for. Called before anybody asks.
    pub(crate) fn read_later(&self, pages: KVBox<Pages>) {
        self.pages.set(pages);
        self.state.lock().is_unread = true;
        self.whole.store(false, Ordering::Release);
    }

    /// All of the list has been read.
    pub(crate) fn set_whole(&self) {
        self.whole.store(true, Ordering::Release);
        self.state.lock().is_unread = false;
        self.changed.wake();
    }

    /// Makes the worker read what the list says of the chunks `first..=last`. The caller kicks it.
    pub(crate) fn ask(&self, state: &mut State, first: u64, last: u64) {
        if let Some(pages) = self.pages.get() {
            pages.ask(first, last);
            state.asked = true;
        }
    }

    /// Marks a chunk as wanted by somebody who waits for it. False if there is nothing to wait for.
    pub(crate) fn ask_to_settle(&self, state: &mut State, chunk: u64) -> bool {
        if state.condition == Condition::Valid && !self.has_read(chunk, chunk) {
            self.ask(state, chunk, chunk);
            return true;
        }
        state.ask_to_settle(chunk)
    }

    /// The first COW chunk that is not to be handed out.
    pub(crate) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Says which that is. Called under the lock.
    pub(crate) fn set_limit(&self, chunk: u64) {
        self.limit.store(chunk, Ordering::Relaxed);
    }

    /// Whether the header may point at a summary.
    pub(crate) fn is_summarised(&self) -> bool {
        self.summarised.load(Ordering::Acquire)
    }

    /// Says whether it may.
    pub(crate) fn set_summarised(&self, summarised: bool) {
        self.summarised.store(summarised, Ordering::Release);
    }

    /// Whether a header is on its way, or has failed, so that nobody knows at which summary it points.
    pub(crate) fn is_unsure(&self) -> bool {
        self.unsure.load(Ordering::Acquire)
    }

    /// Says whether it is so.
    pub(crate) fn set_unsure(&self, unsure: bool) {
        self.unsure.store(unsure, Ordering::Release);
    }

    /// An allocator for an empty store.
    pub(crate) fn new_allocator(&self) -> Result<Allocator<KVVec<u64>>> {
        new_allocator(self.layout)
    }

    /// Looks a chunk up; an index that cannot answer counts as an error of the device.
    pub(crate) fn lookup(&self, chunk: u64) -> Option<Extent> {
        self.index.lookup(chunk).ok()
    }

    /// Gives the index memory if it has little. Called where sleeping is allowed, before slots
    /// are taken, so that inserting seldom has to wait.
    pub(crate) fn ensure_nodes(&self) -> Result {
        while self.few_nodes.load(Ordering::Relaxed) {
            self.add_nodes()?;
        }
        Ok(())
    }

    /// Gives the index another segment. May sleep for memory.
    pub(crate) fn add_nodes(&self) -> Result {
        without_io(|| {
            let _growing = self.growing.lock();
            let next = self.state.lock().writer.segments();
            self.index.directory().grow(next)?;
            let mut state = self.state.lock();
            let added = self.index.add_segment(&mut state.writer);
            self.note(&state);
            added.map_err(|_| ENOMEM)
        })
    }

    /// Makes room for more exceptions at a time, if there is memory at hand. None is waited for: whoever frees it may
    /// wait for exceptions of this overlay.
    pub(crate) fn add_slots(&self) {
        if self.state.lock().has_many_slots() {
            return;
        }
        let Ok(larger) = pending(MANY_SLOTS, GFP_NOWAIT | __GFP_NOWARN) else {
            return;
        };
        let mut state = self.state.lock();
        let old = state.pending.grow(larger);
        self.note(&state);
        drop(state);
        drop(old);
    }

    /// Publishes what lock-free readers look at. Called before the lock is released whenever
    /// slots or nodes were taken or given back.
    pub(crate) fn note(&self, state: &State) {
        self.young.store(state.pending.len(), Ordering::Release);
        let valid = state.condition == Condition::Valid;
        self.usable.store(valid, Ordering::Relaxed);
        self.writable.store(state.is_writable(), Ordering::Relaxed);
        let few = state.pending.capacity() / SLOTS_PER_NODE;
        let few = (state.writer.free_nodes() as usize) < few;
        self.few_nodes.store(few, Ordering::Relaxed);
    }

    /// Whether all chunks of `first..=last` have exceptions and all exceptions are stable. Takes
    /// no lock; false means that a look under the lock is needed.
    pub(crate) fn all_stable(&self, first: u64, last: u64) -> bool {
        if self.young.load(Ordering::Relaxed) != 0 {
            return false;
        }
        let mut chunk = first;
        while chunk <= last {
            match self.lookup(chunk) {
                Some(Extent::Mapped { len, .. }) => chunk = chunk.saturating_add(len),
                _ => return false,
            }
        }
        // A slot is taken before its chunk is mapped and noted before it is given back, so that
        // looking here after the lookups sees every slot of a chunk that was found mapped.
        self.young.load(Ordering::Acquire) == 0
    }

    /// Whether the store can be used, without taking the lock.
    pub(crate) fn is_usable(&self) -> bool {
        self.usable.load(Ordering::Relaxed)
    }

    /// Whether the snapshot can be written to, without taking the lock.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }

    /// Says where the metadata ends now.
    pub(crate) fn note_area(&self, area: u64) {
        self.metadata
            .store(area.saturating_add(2), Ordering::Relaxed);
    }

    /// Sectors of the store that are in use, and how many of them are metadata.
    pub(crate) fn usage(&self) -> (u64, u64) {
        let allocated = self.state.lock().alloc.next_free();
        let metadata = self.metadata.load(Ordering::Relaxed);
        let sectors = |chunks| self.chunk().sector_of(chunks);
        (sectors(allocated), sectors(metadata))
    }

    /// Says whether the store can be used.
    pub(crate) fn set_condition(&self, condition: Condition) {
        let mut state = self.state.lock();
        state.condition = condition;
        self.note(&state);
    }

    /// Takes slots for a run. The caller has checked that there is room and that no chunk of it
    /// has a slot.
    pub(crate) fn insert_slots(&self, state: &mut State, run: Run) {
        for n in 0..run.len {
            state.pending.insert(Exception {
                origin: run.origin + n,
                cow: run.cow + n,
            });
        }
        self.note(state);
    }

    /// The run is mapped: queues it for the next commit. The writes that waited for it go to
    /// `writes`.
    pub(crate) fn publish(&self, state: &mut State, run: Run, writes: &mut Bios) {
        let mut wanted = state.wanted;
        for n in 0..run.len {
            if let Some(slot) = state.pending.ready(run.origin + n) {
                writes.append(&mut slot.waiters.writes);
                if slot.waiters.asked || !slot.waiters.origin.is_empty() {
                    wanted = wanted.max(slot.ticket());
                }
            }
        }
        if state.pending.ready_len() >= MANY_READY {
            wanted = state.pending.issued();
        }
        state.wanted = wanted;
        self.note(state);
    }

    /// The run will not be mapped: frees its slots. Origin writes that waited are tried again.
    pub(crate) fn abandon(&self, state: &mut State, run: Run, writes: &mut Bios) {
        for n in 0..run.len {
            if let Some((_, mut waiters)) = state.pending.abandon(run.origin + n) {
                writes.append(&mut waiters.writes);
                state.blocked.origin.append(&mut waiters.origin);
            }
        }
        self.note(state);
    }

    /// Ends a write once everything that is ready now is durable. The caller kicks the worker.
    pub(crate) fn await_durable(&self, bio: Bio) {
        self.state.lock().await_durable(bio);
    }

    /// Counts a reader out.
    pub(crate) fn leave(&self, ticket: Ticket) {
        if self.readers.leave(ticket) {
            self.changed.wake();
        }
    }
}

/// Exceptions that may be in the making at a time, if there are as many slots.
fn most_slots() -> usize {
    parameters::cow_threshold().max(1)
}

fn new_allocator(layout: Layout) -> Result<Allocator<KVVec<u64>>> {
    Ok(Allocator::new(
        layout,
        KVVec::from_elem(0, HOLES, GFP_KERNEL)?,
    ))
}

/// A table with so many slots.
fn pending(count: usize, flags: Flags) -> Result<Pending<Slots, KVVec<u32>>> {
    let mut slots = KVVec::with_capacity(count, flags)?;
    for _ in 0..count {
        slots.push(pending::Slot::new(), flags)?;
    }
    Ok(Pending::new(slots, KVVec::from_elem(0, count, flags)?))
}
