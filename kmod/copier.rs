// SPDX-License-Identifier: GPL-2.0

//! A copier on this host: a snapshot, seen from the origin and from above.
//!
//! The copier makes exceptions: because its origin is about to be overwritten
//! ([`Copier::standing`]), or because the snapshot itself is written to ([`Copier::map`]).
//! Committing them is the work of `commit.rs`.
//!
//! A write to the snapshot is acknowledged when its data is in the COW device; its exception is
//! committed when a flush asks for it, when many have gathered, or after [`LINGER_MS`]. So the
//! device shows a volatile write cache, and what an acknowledged write may lose in a power cut is
//! what a disk with such a cache may lose: the chunk reads as before.

use crate::dm::Device;
use crate::dm::DeviceNumber;
use crate::dm::Ended;
use crate::dm::EndedBio;
use crate::dm::Gate;
use crate::dm::IoClient;
use crate::dm::Mapped;
use crate::dm::NewBio;
use crate::dm::Pass;
use crate::dm::Table;
use crate::dm::WorkQueue;
use crate::holey_core::epoch::Ticket;
use crate::holey_core::format::ChunkSize;
use crate::holey_core::format::Exception;
use crate::holey_core::index::Extent;
use crate::holey_core::index::IndexError;
use crate::holey_core::index::Run;
use crate::holey_core::pending::State as Progress;
use crate::origin_set::CopyTask;
use crate::origin_set::Origin;
use crate::overlay::Bio;
use crate::overlay::Bios;
use crate::overlay::Condition;
use crate::overlay::Overlay;
use crate::overlay::Role;
use crate::overlay::State;
use crate::overlay::Tag;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering;
use kernel::impl_has_work;
use kernel::new_work;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::SetOnce;
use kernel::workqueue::Work;

/// How long a ready exception may wait for company before it is committed.
pub(crate) const LINGER_MS: u32 = 1000;
/// A commit is started without being asked for when so many exceptions are ready.
const MANY_READY: u64 = 512;

/// A snapshot as a member of its origin's set.
#[pin_data]
pub(crate) struct Copier {
    pub(crate) origin: Origin,
    origin_device: Device,
    cow_device: Device,
    origin_sectors: u64,
    overlay: SetOnce<Arc<Overlay>>,
    pub(crate) table: Table,
    pub(crate) io: IoClient,
    active: AtomicBool,
    suspended: AtomicBool,
    retired: AtomicBool,
    jobs: Arc<Gate>,
    queue: WorkQueue,
    #[pin]
    work: Work<Self>,
}

impl_has_work! {
    impl HasWork<Self> for Copier { self.work }
}

/// What a copier says about a range that is to be overwritten.
pub(crate) enum Standing {
    /// It has what it needs.
    Stable,
    /// It has taken slots for this run, which has to be copied now.
    Copying(Run, ChunkSize),
    /// It waits for this chunk.
    Unstable(u64),
}

/// What a write to the snapshot needs.
enum Decision {
    /// Its chunk and `len - 1` more are in the COW device, from chunk `cow` on.
    Mapped { cow: u64, len: u64 },
    /// Nothing: it fills the chunks of this run by itself.
    Fresh(Run),
    /// The origin's content, which is on its way.
    Join(u64),
    /// The origin's content, for which slots were just taken.
    Copy(Run),
    /// A slot, and there is none.
    NoSlot,
    /// A COW chunk, and there is none.
    NoSpace,
    /// A valid store.
    Broken,
}

/// What taking slots came to.
enum Begin {
    Run(Run),
    NoSlot,
    NoSpace,
}

impl Copier {
    /// Makes a copier; with an overlay it can be used at once, without one it waits for a handover.
    pub(crate) fn new(
        origin: Origin,
        origin_device: Device,
        cow_device: Device,
        origin_sectors: u64,
        overlay: Option<Arc<Overlay>>,
        table: Table,
    ) -> Result<Arc<Self>> {
        let place = SetOnce::new();
        if let Some(overlay) = overlay {
            place.populate(overlay);
        }
        Arc::pin_init(
            try_pin_init!(Self {
                origin,
                origin_device,
                cow_device,
                origin_sectors,
                overlay: place,
                table,
                io: IoClient::new()?,
                active: AtomicBool::new(false),
                suspended: AtomicBool::new(false),
                retired: AtomicBool::new(false),
                jobs: Gate::new()?,
                queue: WorkQueue::new(c"holey_copier")?,
                work <- new_work!("holey_copier"),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// The overlay, unless a handover is still due.
    pub(crate) fn overlay(&self) -> Option<&Arc<Overlay>> {
        self.overlay.as_ref()
    }

    /// The origin, for copies.
    pub(crate) fn origin_device(&self) -> &Device {
        &self.origin_device
    }

    /// Where the exceptions are kept.
    pub(crate) fn cow_device(&self) -> &Device {
        &self.cow_device
    }

    /// The number of the COW device.
    pub(crate) fn cow_number(&self) -> DeviceNumber {
        self.cow_device.number()
    }

    /// The length of the snapshot, in sectors.
    pub(crate) fn origin_sectors(&self) -> u64 {
        self.origin_sectors
    }

    /// Counts a copy that uses the copier; the pass is dropped after the reference.
    pub(crate) fn enter(&self) -> Pass {
        self.jobs.enter()
    }

    /// Whether its exceptions belong to somebody else now.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Whether its device is suspended.
    pub(crate) fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::Acquire)
    }

    /// Notes whether its device is suspended.
    pub(crate) fn set_suspended(&self, suspended: bool) {
        self.suspended.store(suspended, Ordering::Release);
    }

    /// Takes part in the origin's set from now on.
    pub(crate) fn activate(this: &Arc<Self>) {
        this.active.store(true, Ordering::Release);
        Self::kick(this);
    }

    /// Gives the overlay to whoever takes over: this copier makes no more exceptions.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// Takes the overlay of `source` over.
    pub(crate) fn take_over(&self, source: &Self) {
        if let Some(overlay) = source.overlay() {
            self.overlay.populate(overlay.clone());
        }
    }

    /// Makes the worker look at the state. Never sleeps.
    pub(crate) fn kick(this: &Arc<Self>) {
        // If it is queued already, it will look after this.
        let _ = this.queue.enqueue(this.clone());
        if let Some(overlay) = this.overlay() {
            overlay.changed.wake();
        }
    }

    /// Sleeps until all exceptions are committed. The caller sees to it that no more are made, or
    /// it may take long.
    pub(crate) fn settle(this: &Arc<Self>) {
        let Some(overlay) = this.overlay() else {
            return;
        };
        overlay.state.lock().hurry = true;
        Self::kick(this);
        overlay.changed.wait_until(|| {
            let state = overlay.state.lock();
            state.pending.is_empty()
                && state.blocked.origin.is_empty()
                && state.blocked.writes.is_empty()
                && state.condition != Condition::Invalidating
        });
        overlay.state.lock().hurry = false;
    }

    /// Ends all that goes on, before the last reference is dropped.
    pub(crate) fn shut_down(this: &Arc<Self>) {
        if !this.is_retired() {
            Self::settle(this);
        }
        this.jobs.wait_idle();
        this.queue.drain();
    }

    /// Whether `sectors` sectors of the origin may be overwritten, as far as a look without a lock
    /// can tell.
    pub(crate) fn is_stable(&self, start: u64, sectors: u64) -> bool {
        self.concerned(start, sectors)
            .is_none_or(|(overlay, first, last)| overlay.all_stable(first, last))
    }

    /// Says whether `sectors` sectors of the origin, from `start` on, may be overwritten; begins
    /// the next run of copies if not.
    pub(crate) fn standing(self: &Arc<Self>, start: u64, sectors: u64) -> Standing {
        let Some((overlay, first, last)) = self.concerned(start, sectors) else {
            return Standing::Stable;
        };
        if overlay.all_stable(first, last) {
            return Standing::Stable;
        }
        let mut state = overlay.state.lock();
        match state.condition {
            Condition::Valid => {}
            Condition::Invalidating => return Standing::Unstable(first),
            Condition::Invalid => return Standing::Stable,
        }
        let mut unstable = None;
        let mut chunk = first;
        while chunk <= last {
            if state.pending.find(chunk).is_some() {
                unstable = unstable.or(Some(chunk));
            } else if let Some(Extent::Unmapped { len }) = overlay.lookup(chunk) {
                let want = len.min(last - chunk + 1);
                return match self.begin(overlay, &mut state, chunk, want) {
                    Begin::Run(run) => Standing::Copying(run, overlay.chunk()),
                    Begin::NoSlot => Standing::Unstable(chunk),
                    Begin::NoSpace => {
                        self.give_up(overlay, &mut state, "the COW device is full");
                        Standing::Unstable(chunk)
                    }
                };
            }
            chunk += 1;
        }
        unstable.map_or(Standing::Stable, Standing::Unstable)
    }

    /// Joins a copy that another copier has begun, if it needs the very same run.
    pub(crate) fn join_copy(self: &Arc<Self>, task: &mut CopyTask) {
        let (origin, chunks, size) = task.range();
        let Some((overlay, first, last)) =
            self.concerned(size.sector_of(origin), size.sector_of(chunks))
        else {
            return;
        };
        if overlay.chunk() != size || first != origin || last - first + 1 != chunks {
            return;
        }
        let mut state = overlay.state.lock();
        if state.condition != Condition::Valid {
            return;
        }
        let missing = |state: &mut State, chunk| {
            state.pending.find(chunk).is_none()
                && matches!(overlay.lookup(chunk), Some(Extent::Unmapped { .. }))
        };
        if !(first..=last).all(|chunk| missing(&mut state, chunk)) {
            return;
        }
        if state.pending.room() < chunks as usize {
            return;
        }
        let Some(run) = state.alloc.take(chunks, self.cow_chunks(overlay)) else {
            return;
        };
        if run.len < chunks {
            state.alloc.give_back(run);
            return;
        }
        let run = Run {
            origin,
            cow: run.first,
            len: chunks,
        };
        insert_slots(overlay, &mut state, run);
        task.join(self.clone(), run.cow);
    }

    /// Keeps an origin write until `chunk` is settled; returns it if there is nothing to wait for.
    pub(crate) fn park(self: &Arc<Self>, chunk: u64, bio: Bio) -> Option<Bio> {
        let Some(overlay) = self.overlay() else {
            return Some(bio);
        };
        let mut state = overlay.state.lock();
        if !ask_to_settle(&mut state, chunk) {
            return Some(bio);
        }
        match state.pending.find(chunk) {
            Some(slot) => slot.waiters.origin.push(bio),
            None => state.blocked.origin.push(bio),
        }
        drop(state);
        Self::kick(self);
        None
    }

    /// Sleeps until `chunk` is settled.
    pub(crate) fn wait_for(self: &Arc<Self>, chunk: u64) {
        let Some(overlay) = self.overlay() else {
            return;
        };
        overlay.changed.wait_until(|| {
            let mut state = overlay.state.lock();
            let wait = ask_to_settle(&mut state, chunk);
            let commit = state.wanted > state.pending.durable();
            drop(state);
            if wait && commit {
                let _ = self.queue.enqueue(self.clone());
            }
            !wait
        });
    }

    /// The data of a run has been copied to the COW device, or could not be.
    pub(crate) fn copied(this: &Arc<Self>, run: Run, ok: bool) {
        let Some(overlay) = this.overlay() else {
            return;
        };
        if !ok {
            Self::invalidate(this, "copying from the origin to the COW device failed");
        }
        let mut writes = Bios::default();
        let usable = this.map_run(overlay, run, &mut writes);
        Self::kick_if_wanted(this, overlay);
        while let Some(mut bio) = writes.pop() {
            if usable {
                let chunk = overlay.chunk().chunk_of(bio.sector());
                this.direct(overlay, &mut bio, run.cow + (chunk - run.origin));
                bio.submit();
            } else {
                bio.end_error();
            }
        }
    }

    /// Makes a run that is in the COW device visible; the writes that waited for it go to
    /// `writes`. False if the store is not valid, in which case the slots are given up.
    /// May sleep for memory.
    pub(crate) fn map_run(&self, overlay: &Overlay, run: Run, writes: &mut Bios) -> bool {
        loop {
            let mut state = overlay.state.lock();
            if state.condition != Condition::Valid {
                abandon(overlay, &mut state, run, writes);
                return false;
            }
            match overlay.index.insert_run(&mut state.writer, run) {
                Ok(()) => {
                    publish(overlay, &mut state, run, writes);
                    return true;
                }
                Err(IndexError::NeedNodes) => {}
                Err(_) => {
                    self.give_up(overlay, &mut state, "the exception index is inconsistent");
                    continue;
                }
            }
            drop(state);
            if overlay.add_nodes().is_err() {
                let mut state = overlay.state.lock();
                self.give_up(overlay, &mut state, "no memory for the exception index");
            }
        }
    }

    /// Gives the store up: nothing more is written to the snapshot or kept for it.
    pub(crate) fn invalidate(this: &Arc<Self>, why: &str) {
        if let Some(overlay) = this.overlay() {
            let mut state = overlay.state.lock();
            this.give_up(overlay, &mut state, why);
            drop(state);
            Self::kick(this);
        }
    }

    /// As [`Self::invalidate`], under the lock.
    fn give_up(&self, overlay: &Overlay, state: &mut State, why: &str) {
        if state.condition == Condition::Valid {
            state.condition = Condition::Invalidating;
            overlay.note(state);
            pr_err!(
                "snapshot with COW device {} is invalid now: {}\n",
                self.cow_number(),
                why
            );
        }
    }

    /// Handles a bio that is sent to the snapshot.
    pub(crate) fn map(this: &Arc<Self>, bio: NewBio<Tag>) -> Mapped {
        let Some(overlay) = this.overlay() else {
            return bio.kill();
        };
        if !overlay.is_usable() || this.is_retired() {
            return bio.kill();
        }
        if bio.is_flush() {
            Self::map_flush(this, overlay, bio)
        } else if bio.is_write() {
            Self::map_write(this, overlay, bio)
        } else {
            this.map_read(overlay, bio)
        }
    }

    fn map_read(&self, overlay: &Overlay, mut bio: NewBio<Tag>) -> Mapped {
        let size = overlay.chunk();
        let (chunk, offset) = (size.chunk_of(bio.sector()), size.offset_of(bio.sector()));
        let mut ticket = None;
        loop {
            match overlay.lookup(chunk) {
                None => break,
                Some(Extent::Mapped { cow, len }) => {
                    if let Some(ticket) = ticket {
                        leave(overlay, ticket);
                    }
                    bio.shorten(size.sector_of(len).saturating_sub(offset));
                    return bio.remap(&self.cow_device, size.sector_of(cow) + offset);
                }
                Some(Extent::Unmapped { len }) => match ticket {
                    // Counted first and looked up again: see `epoch.rs`.
                    None => ticket = Some(overlay.readers.enter()),
                    Some(ticket) => {
                        bio.shorten(size.sector_of(len).saturating_sub(offset));
                        let tag = bio.data();
                        tag.role = Role::Tracked;
                        tag.epoch = ticket.to_raw();
                        let sector = bio.sector();
                        return bio.remap(&self.origin_device, sector);
                    }
                },
            }
        }
        if let Some(ticket) = ticket {
            leave(overlay, ticket);
        }
        bio.kill()
    }

    fn map_flush(this: &Arc<Self>, overlay: &Overlay, mut bio: NewBio<Tag>) -> Mapped {
        let mut state = overlay.state.lock();
        if state.pending.issued() == state.pending.durable() {
            drop(state);
            return bio.remap(&this.cow_device, 0);
        }
        // A commit that starts from now on flushes the COW device's cache; one that is under way
        // may have done so before the writes that this flush is for.
        bio.data().forward = state.pending.ready_len() == 0;
        let (bio, held) = bio.hold();
        await_durable(&mut state, bio);
        drop(state);
        Self::kick(this);
        held
    }

    fn map_write(this: &Arc<Self>, overlay: &Overlay, mut bio: NewBio<Tag>) -> Mapped {
        let size = overlay.chunk();
        let (chunk, offset) = (size.chunk_of(bio.sector()), size.offset_of(bio.sector()));
        let whole = if offset == 0 {
            u64::from(bio.sectors()) >> size.shift()
        } else {
            0
        };
        let durable = bio.is_fua();
        if let Some(Extent::Mapped { cow, len }) = overlay.lookup(chunk) {
            bio.shorten(size.sector_of(len).saturating_sub(offset));
            if durable {
                bio.data().role = Role::Durable;
            }
            return bio.remap(&this.cow_device, size.sector_of(cow) + offset);
        }
        let _ = overlay.ensure_nodes();
        let mut state = overlay.state.lock();
        let decision = this.decide(overlay, &mut state, chunk, whole);
        let chunks = match &decision {
            Decision::Mapped { len, .. } => *len,
            Decision::Fresh(run) => run.len,
            _ => 1,
        };
        bio.shorten(size.sector_of(chunks).saturating_sub(offset));
        match decision {
            Decision::Mapped { cow, .. } => {
                drop(state);
                if durable {
                    bio.data().role = Role::Durable;
                }
                bio.remap(&this.cow_device, size.sector_of(cow) + offset)
            }
            Decision::Fresh(run) => {
                drop(state);
                *bio.data() = fresh_tag(run);
                bio.remap(&this.cow_device, size.sector_of(run.cow))
            }
            other => {
                let (bio, held) = bio.hold();
                let task = this.keep(overlay, &mut state, other, bio);
                drop(state);
                this.carry_on(task);
                Self::kick_if_wanted(this, overlay);
                held
            }
        }
    }

    /// Tries again to write within one chunk. May sleep for memory.
    pub(crate) fn write_again(this: &Arc<Self>, overlay: &Overlay, mut bio: Bio) {
        let size = overlay.chunk();
        let chunk = size.chunk_of(bio.sector());
        let whole = u64::from(bio.sectors()) >> size.shift();
        let mut state = overlay.state.lock();
        match this.decide(overlay, &mut state, chunk, whole) {
            Decision::Mapped { cow, .. } => {
                drop(state);
                this.direct(overlay, &mut bio, cow);
                bio.submit();
            }
            Decision::Fresh(run) => {
                drop(state);
                *bio.data() = fresh_tag(run);
                bio.set_target(&this.cow_device, size.sector_of(run.cow));
                bio.submit();
            }
            other => {
                let task = this.keep(overlay, &mut state, other, bio);
                drop(state);
                this.carry_on(task);
            }
        }
    }

    /// Decides about a write to `chunk`, of `whole` whole chunks or (0) a part of one.
    fn decide(&self, overlay: &Overlay, state: &mut State, chunk: u64, whole: u64) -> Decision {
        if state.condition != Condition::Valid {
            return Decision::Broken;
        }
        let room = match overlay.lookup(chunk) {
            None => return Decision::Broken,
            Some(Extent::Mapped { cow, len }) => return Decision::Mapped { cow, len },
            Some(Extent::Unmapped { len }) => len,
        };
        if state.pending.find(chunk).is_some() {
            return Decision::Join(chunk);
        }
        match self.begin(overlay, state, chunk, whole.clamp(1, room)) {
            Begin::Run(run) if whole > 0 => Decision::Fresh(run),
            Begin::Run(run) => Decision::Copy(run),
            Begin::NoSlot => Decision::NoSlot,
            Begin::NoSpace => Decision::NoSpace,
        }
    }

    /// Keeps a write that cannot go to the COW device yet, or ends it. Returns a copy to start.
    fn keep(
        self: &Arc<Self>,
        overlay: &Overlay,
        state: &mut State,
        decision: Decision,
        bio: Bio,
    ) -> Option<CopyTask> {
        let (chunk, task) = match decision {
            Decision::Copy(run) => (
                run.origin,
                Some(CopyTask::new(self.clone(), run, overlay.chunk())),
            ),
            Decision::Join(chunk) => (chunk, None),
            Decision::NoSlot => {
                state.blocked.writes.push(bio);
                state.wanted = state.pending.issued();
                return None;
            }
            Decision::NoSpace => {
                self.give_up(overlay, state, "the COW device is full");
                state.blocked.writes.push(bio);
                return None;
            }
            _ => {
                self.give_up(overlay, state, "the exception index is inconsistent");
                state.blocked.writes.push(bio);
                return None;
            }
        };
        if let Some(slot) = state.pending.find(chunk) {
            slot.waiters.writes.push(bio);
        }
        task
    }

    fn carry_on(&self, task: Option<CopyTask>) {
        if let Some(task) = task {
            self.origin.copy(task);
        }
    }

    /// Takes slots and COW chunks for up to `want` chunks from `first` on, none of them mapped.
    fn begin(&self, overlay: &Overlay, state: &mut State, first: u64, want: u64) -> Begin {
        let most = want.min(state.pending.room() as u64).min(Run::MAX_LEN);
        let mut len = 0;
        while len < most && state.pending.find(first + len).is_none() {
            len += 1;
        }
        if len == 0 {
            return Begin::NoSlot;
        }
        let Some(taken) = state.alloc.take(len, self.cow_chunks(overlay)) else {
            return Begin::NoSpace;
        };
        let run = Run {
            origin: first,
            cow: taken.first,
            len: taken.len,
        };
        insert_slots(overlay, state, run);
        Begin::Run(run)
    }

    /// Handles a bio that has ended. Atomic context.
    pub(crate) fn end_io(this: &Arc<Self>, mut bio: EndedBio<Tag>) -> Ended {
        let Some(overlay) = this.overlay() else {
            return bio.done();
        };
        match bio.data().role {
            Role::Plain => bio.done(),
            Role::Tracked => {
                leave(overlay, Ticket::from_raw(bio.data().epoch));
                bio.done()
            }
            Role::Durable => Self::written_durably(this, overlay, bio),
            Role::Fresh => Self::filled(this, overlay, bio),
        }
    }

    fn written_durably(this: &Arc<Self>, overlay: &Overlay, mut bio: EndedBio<Tag>) -> Ended {
        bio.data().role = Role::Plain;
        let mut state = overlay.state.lock();
        if !bio.succeeded() || state.pending.issued() == state.pending.durable() {
            return bio.done();
        }
        let (bio, held) = bio.hold();
        await_durable(&mut state, bio);
        drop(state);
        Self::kick(this);
        held
    }

    /// A write has filled the chunks of a run, or failed to.
    fn filled(this: &Arc<Self>, overlay: &Overlay, mut bio: EndedBio<Tag>) -> Ended {
        let run = run_of(bio.data());
        bio.data().role = Role::Plain;
        let mut state = overlay.state.lock();
        if !bio.succeeded() {
            // The write fails; those who waited for its chunks try on their own.
            let mut writes = Bios::default();
            abandon(overlay, &mut state, run, &mut writes);
            state.blocked.writes.append(&mut writes);
            state.alloc.give_back(crate::holey_core::alloc::Run {
                first: run.cow,
                len: run.len,
            });
            drop(state);
            Self::kick(this);
            return bio.done();
        }
        let mapped = state.condition == Condition::Valid
            && overlay.index.insert_run(&mut state.writer, run).is_ok();
        if !mapped {
            // The worker gives the index memory, or finds that the store is not valid.
            let (mut bio, held) = bio.hold();
            *bio.data() = fresh_tag(run);
            state.late.push(bio);
            drop(state);
            Self::kick(this);
            return held;
        }
        let mut writes = Bios::default();
        publish(overlay, &mut state, run, &mut writes);
        while let Some(mut write) = writes.pop() {
            let chunk = overlay.chunk().chunk_of(write.sector());
            this.direct(overlay, &mut write, run.cow + (chunk - run.origin));
            state.send.push(write);
        }
        let ended = if bio.is_fua() {
            let (bio, held) = bio.hold();
            await_durable(&mut state, bio);
            held
        } else {
            bio.done()
        };
        let kick = state.has_work();
        drop(state);
        if kick {
            Self::kick(this);
        }
        ended
    }

    /// Directs a write within one chunk at COW chunk `cow`.
    pub(crate) fn direct(&self, overlay: &Overlay, bio: &mut Bio, cow: u64) {
        let size = overlay.chunk();
        let sector = size.sector_of(cow) + size.offset_of(bio.sector());
        let durable = bio.is_fua();
        *bio.data() = Tag {
            role: if durable { Role::Durable } else { Role::Plain },
            ..Tag::default()
        };
        bio.set_target(&self.cow_device, sector);
    }

    fn kick_if_wanted(this: &Arc<Self>, overlay: &Overlay) {
        let wanted = overlay.state.lock().has_work();
        if wanted {
            Self::kick(this);
        }
    }

    /// The overlay and the chunks of it that a range of the origin touches.
    fn concerned(&self, start: u64, sectors: u64) -> Option<(&Arc<Overlay>, u64, u64)> {
        if !self.active.load(Ordering::Acquire) || self.is_retired() || sectors == 0 {
            return None;
        }
        let end = start.saturating_add(sectors).min(self.origin_sectors);
        if start >= end {
            return None;
        }
        let overlay = self.overlay()?;
        let size = overlay.chunk();
        Some((overlay, size.chunk_of(start), size.chunk_of(end - 1)))
    }

    fn cow_chunks(&self, overlay: &Overlay) -> u64 {
        overlay.chunk().chunks_within(self.cow_device.sectors())
    }
}

impl Copier {
    /// Ends a write once everything that is ready now is durable.
    pub(crate) fn await_durable(overlay: &Overlay, bio: Bio) {
        await_durable(&mut overlay.state.lock(), bio);
    }
}

/// Marks a chunk as wanted by somebody who waits for it. False if there is nothing to wait for.
fn ask_to_settle(state: &mut State, chunk: u64) -> bool {
    match state.condition {
        Condition::Valid => {}
        Condition::Invalidating => return true,
        Condition::Invalid => return false,
    }
    if let Some(slot) = state.pending.find(chunk) {
        if slot.state() == Progress::Ready {
            let ticket = slot.ticket();
            state.wanted = state.wanted.max(ticket);
        }
        return true;
    }
    let full = state.pending.room() == 0;
    if full {
        state.wanted = state.pending.issued();
    }
    full
}

/// Puts a bio behind all that is ready now.
fn await_durable(state: &mut State, mut bio: Bio) {
    bio.data().ticket = state.pending.issued();
    state.wanted = state.pending.issued();
    state.flushes.push(bio);
}

fn insert_slots(overlay: &Overlay, state: &mut State, run: Run) {
    for n in 0..run.len {
        // The caller has checked that there is room and that no chunk has a slot.
        state.pending.insert(Exception {
            origin: run.origin + n,
            cow: run.cow + n,
        });
    }
    overlay.note(state);
}

/// The run is mapped: queues it for the next commit.
fn publish(overlay: &Overlay, state: &mut State, run: Run, writes: &mut Bios) {
    let mut wanted = state.wanted;
    for n in 0..run.len {
        if let Some(slot) = state.pending.ready(run.origin + n) {
            writes.append(&mut slot.waiters.writes);
            if !slot.waiters.origin.is_empty() {
                wanted = wanted.max(slot.ticket());
            }
        }
    }
    if state.pending.ready_len() >= MANY_READY {
        wanted = state.pending.issued();
    }
    state.wanted = wanted;
    overlay.note(state);
}

/// The run will not be mapped: frees its slots. Origin writes that waited are tried again.
fn abandon(overlay: &Overlay, state: &mut State, run: Run, writes: &mut Bios) {
    for n in 0..run.len {
        if let Some((_, mut waiters)) = state.pending.abandon(run.origin + n) {
            writes.append(&mut waiters.writes);
            state.blocked.origin.append(&mut waiters.origin);
        }
    }
    overlay.note(state);
}

fn leave(overlay: &Overlay, ticket: Ticket) {
    if overlay.readers.leave(ticket) {
        overlay.changed.wake();
    }
}

fn fresh_tag(run: Run) -> Tag {
    Tag {
        role: Role::Fresh,
        origin: run.origin,
        cow: run.cow,
        chunks: run.len as u32,
        ..Tag::default()
    }
}

/// The run that a fresh write fills.
pub(crate) fn run_of(tag: &Tag) -> Run {
    Run {
        origin: tag.origin,
        cow: tag.cow,
        len: u64::from(tag.chunks),
    }
}
