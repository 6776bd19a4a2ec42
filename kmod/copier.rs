// SPDX-License-Identifier: GPL-2.0

//! A copier on this host: a snapshot, seen from its origin.
//!
//! The copier makes exceptions: because its origin is about to be overwritten
//! ([`Copier::standing`]), or because the snapshot itself is written to (`snapshot_io.rs`).
//! Committing them is the work of `commit.rs`.

use crate::dm::Device;
use crate::dm::DeviceNumber;
use crate::dm::Failure;
use crate::dm::Gate;
use crate::dm::IoClient;
use crate::dm::MemPool;
use crate::dm::Pass;
use crate::dm::Setup;
use crate::dm::Table;
use crate::dm::WorkQueue;
use crate::holey_core::alloc;
use crate::holey_core::format::ChunkSize;
use crate::holey_core::index::Extent;
use crate::holey_core::index::IndexError;
use crate::holey_core::index::Run;
use crate::holey_core::pending::State as Progress;
use crate::holey_core::table::Patience;
use crate::holey_core::table::StoreKind;
use crate::holey_core::table::StoreLine;
use crate::origin_set::CopyTask;
use crate::origin_set::Origin;
use crate::overlay::Bio;
use crate::overlay::Bios;
use crate::overlay::Condition;
use crate::overlay::Overlay;
use crate::overlay::Starving;
use crate::overlay::State;
use crate::parameters;
use crate::snapshot_io::ZeroTask;
use crate::summary;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering;
use kernel::impl_has_work;
use kernel::new_work;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::SetOnce;
use kernel::time::Instant;
use kernel::workqueue::Work;

/// How long a ready exception may wait for company before it is committed.
pub(crate) const LINGER_MS: u32 = 1000;
/// Chunks that can be zeroed when memory is short.
const RESERVED_ZEROINGS: u16 = 4;

/// A snapshot as a member of its origin's set.
#[pin_data]
pub(crate) struct Copier {
    pub(crate) origin: Origin,
    origin_device: Device,
    cow_device: Device,
    origin_sectors: u64,
    writable: bool,
    line: StoreLine,
    pub(crate) zeroings: Arc<MemPool<ZeroTask>>,
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

/// What whoever asks about a range wants of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// That its copies are begun; stable they may become later.
    Copied,
    /// That it is stable soon.
    Stable,
}

/// What a copier says about a range that is to be overwritten.
pub(crate) enum Standing {
    /// It has what it needs.
    Stable,
    /// It has taken slots for this run, which has to be copied now.
    Copying(Run, ChunkSize),
    /// It waits for this chunk.
    Unstable(u64),
    /// It waits for a slot for this chunk.
    NoSlot(u64),
}

/// What taking slots came to.
pub(crate) enum Begin {
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
        setup: &Setup<'_>,
        line: StoreLine,
        overlay: Option<Arc<Overlay>>,
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
                origin_sectors: setup.sectors(),
                writable: setup.is_writable(),
                line,
                zeroings: MemPool::new(RESERVED_ZEROINGS)?,
                overlay: place,
                table: setup.table(),
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

    /// Whether its store has no list, so that it cannot be merged.
    pub(crate) fn is_transient(&self) -> bool {
        self.overlay()
            .is_some_and(|overlay| overlay.layout.is_transient())
    }

    /// Whether it is a copier of a shared volume.
    pub(crate) fn is_remote(&self) -> bool {
        let in_memory = |overlay: &Arc<Overlay>| overlay.is_unlisted();
        self.overlay().is_some_and(in_memory) && !self.is_transient()
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

    /// What its table line says.
    pub(crate) fn line(&self) -> &StoreLine {
        &self.line
    }

    /// Whether the store is to have a summary of its list.
    pub(crate) fn keeps_summary(&self) -> bool {
        self.line.features.summary && self.writable
    }

    /// Whether the table may be written to.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Whether it has ever taken part in the origin's set.
    pub(crate) fn was_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    /// How long those wait who find the store full; `None` if they do not wait at all.
    pub(crate) fn patience(&self) -> Option<Patience> {
        self.line.features.queue_if_no_space.or_else(|| {
            let seconds = parameters::queue_seconds();
            (seconds != 0).then_some(Patience::Seconds(seconds))
        })
    }

    /// Counts a copy that uses the copier; the pass is dropped after the reference.
    pub(crate) fn enter(&self) -> Pass {
        self.jobs.enter()
    }

    /// Whether its exceptions belong to somebody else now.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Whether it takes part in the origin's set.
    pub(crate) fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire) && !self.is_retired()
    }

    /// Whether its device is suspended.
    pub(crate) fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::Acquire)
    }

    /// Says how writes to the snapshot that wait for space end, while its device is being suspended.
    pub(crate) fn leave(self: &Arc<Self>, how: Option<Failure>) {
        // After a handover it is the receiver's device that counts.
        if let Some(overlay) = self.overlay().filter(|_| !self.is_retired()) {
            let mut state = overlay.state.lock();
            // Whoever extends the COW device and suspends next need not know how often it is looked at.
            if state.alloc.has_room(self.cow_chunks(overlay)) {
                state.starving = None;
            }
            state.leaving = how;
            drop(state);
            Self::kick(self);
        }
    }

    /// Notes whether its device is suspended.
    pub(crate) fn set_suspended(&self, suspended: bool) {
        self.suspended.store(suspended, Ordering::Release);
    }

    /// Takes part in the origin's set from now on.
    pub(crate) fn activate(this: &Arc<Self>) {
        this.active.store(true, Ordering::Release);
        if let Some(overlay) = this.overlay().filter(|_| !this.keeps_summary()) {
            // After a handover from a table that has asked for one, which may be in the making.
            let mut state = overlay.state.lock();
            state.summarise = false;
            let has_room = overlay.limit() != u64::MAX || overlay.is_summarised();
            state.making_room |= has_room && this.writable;
        }
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
            overlay.called.wake();
        }
    }

    /// Sleeps until all exceptions that are ready now are committed.
    pub(crate) fn commit_all(this: &Arc<Self>) {
        let Some(overlay) = this.overlay().filter(|_| !this.is_retired()) else {
            return;
        };
        let mut state = overlay.state.lock();
        let target = state.pending.issued();
        state.wanted = state.wanted.max(target);
        drop(state);
        Self::kick(this);
        overlay.changed.wait_until(|| {
            let state = overlay.state.lock();
            match state.condition {
                Condition::Valid => state.pending.durable() >= target,
                Condition::Invalidating => false,
                Condition::Invalid => true,
            }
        });
    }

    /// Says whether the device is suspended: then nothing is written that nobody waits for. Sleeps
    /// until that is so.
    pub(crate) fn pause(this: &Arc<Self>, paused: bool) {
        if let Some(overlay) = this.overlay().filter(|_| !this.is_retired()) {
            overlay.state.lock().paused = paused;
            let changed = &overlay.changed;
            changed.wait_until(|| !paused || !overlay.state.lock().summarising);
        }
    }

    /// Sleeps until no exception is being made or committed, and nobody waits for one. The caller
    /// has seen to it that no more are begun.
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
                && state.unread.origin.is_empty()
                && state.unread.writes.is_empty()
                && state.starving.is_none()
                && state.condition != Condition::Invalidating
        });
        overlay.state.lock().hurry = false;
    }

    /// Ends all that goes on, before the last reference is dropped.
    pub(crate) fn shut_down(this: &Arc<Self>) {
        let is_ours = !this.is_retired();
        if let Some(overlay) = this.overlay().filter(|_| is_ours) {
            overlay.state.lock().closing = true;
            Self::settle(this);
        }
        this.jobs.wait_idle();
        this.queue.drain();
        if is_ours {
            summary::close(this);
        }
    }

    /// Whether `sectors` sectors of the origin may be overwritten, as far as a look without a lock
    /// can tell.
    pub(crate) fn is_stable(&self, start: u64, sectors: u64) -> bool {
        self.concerned(start, sectors)
            .is_none_or(|(overlay, first, last)| overlay.all_stable(first, last))
    }

    /// Says whether `sectors` sectors of the origin, from `start` on, may be overwritten; begins
    /// the next run of copies if not.
    pub(crate) fn standing(self: &Arc<Self>, start: u64, sectors: u64, need: Need) -> Standing {
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
        if let Some(chunk) = overlay.first_unread(first, last) {
            overlay.ask(&mut state, first, last);
            Self::kick(self);
            return Standing::NoSlot(chunk);
        }
        let mut unstable = None;
        let mut chunk = first;
        while chunk <= last {
            if state.pending.find(chunk).is_some() {
                unstable = unstable.or(Some(chunk));
                chunk += 1;
                continue;
            }
            let Some(found) = overlay.lookup(chunk) else {
                self.give_up(overlay, &mut state, "the exception index is inconsistent");
                Self::kick(self);
                return Standing::Unstable(chunk);
            };
            if let Extent::Unmapped { len } = found {
                let want = len.min(last - chunk + 1);
                return match self.begin(overlay, &mut state, chunk, want) {
                    Begin::Run(run) => Standing::Copying(run, overlay.chunk()),
                    Begin::NoSlot => Standing::NoSlot(chunk),
                    Begin::NoSpace => {
                        self.out_of_space(overlay, &mut state, true);
                        Self::kick(self);
                        // In case that it waits for space: that is as good as no slot.
                        Standing::NoSlot(chunk)
                    }
                };
            }
            chunk += 1;
        }
        let Some(chunk) = unstable else {
            return Standing::Stable;
        };
        if need == Need::Stable {
            // The one who asks waits for one copier only; the others are to commit meanwhile.
            let before = state.wanted;
            overlay.ask_to_settle(&mut state, chunk);
            if state.wanted > before {
                Self::kick(self);
            }
        }
        Standing::Unstable(chunk)
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
        if state.condition != Condition::Valid || !overlay.has_read(first, last) {
            return;
        }
        let missing = |state: &mut State, chunk| {
            state.pending.find(chunk).is_none()
                && matches!(overlay.lookup(chunk), Some(Extent::Unmapped { .. }))
        };
        if !(first..=last).all(|chunk| missing(&mut state, chunk)) {
            return;
        }
        if state.room() < chunks as usize {
            return;
        }
        let Some(run) = self.take_chunks(overlay, &mut state, chunks) else {
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
        overlay.insert_slots(&mut state, run);
        task.join(self.clone(), run.cow);
    }

    /// Keeps an origin write until `chunk` is settled; returns it if there is nothing to wait for.
    pub(crate) fn park(self: &Arc<Self>, chunk: u64, bio: Bio) -> Option<Bio> {
        let Some(overlay) = self.overlay() else {
            return Some(bio);
        };
        let mut state = overlay.state.lock();
        if state.condition == Condition::Valid && !overlay.has_read(chunk, chunk) {
            overlay.ask(&mut state, chunk, chunk);
            state.unread.origin.push(bio);
            drop(state);
            Self::kick(self);
            return None;
        }
        if !overlay.ask_to_settle(&mut state, chunk) {
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

    /// A chunk of the range whose COW chunk is being filled.
    pub(crate) fn filling(&self, start: u64, sectors: u64) -> Option<u64> {
        let (overlay, first, last) = self.concerned(start, sectors)?;
        if overlay.all_stable(first, last) {
            return None;
        }
        let mut state = overlay.state.lock();
        (first..=last).find(|&chunk| is_filling(&mut state, chunk))
    }

    /// Sleeps until the COW chunk of `chunk` has been filled.
    pub(crate) fn wait_filled(&self, chunk: u64) {
        if let Some(overlay) = self.overlay() {
            overlay
                .changed
                .wait_until(|| !is_filling(&mut overlay.state.lock(), chunk));
        }
    }

    /// Sleeps until `chunk` is settled, or until `stop` says so.
    pub(crate) fn wait_for(self: &Arc<Self>, chunk: u64, stop: impl Fn() -> bool) {
        let Some(overlay) = self.overlay() else {
            return;
        };
        overlay.changed.wait_until(|| {
            let mut state = overlay.state.lock();
            let before = state.wanted;
            let wait = overlay.ask_to_settle(&mut state, chunk);
            let raised = state.wanted > before || state.asked;
            drop(state);
            if raised {
                // The worker may be asleep, waiting for company.
                Self::kick(self);
            }
            !wait || stop()
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
        if overlay.state.lock().needs_worker(run.len) {
            Self::kick(this);
        }
        overlay.changed.wake();
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
                overlay.abandon(&mut state, run, writes);
                return false;
            }
            match overlay.index.insert_run(&mut state.writer, run) {
                Ok(()) => {
                    overlay.publish(&mut state, run, writes);
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
    pub(crate) fn give_up(&self, overlay: &Overlay, state: &mut State, why: &str) {
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

    /// There is no COW chunk for a write, to the origin or to the snapshot: it waits for one, or
    /// the store is given up.
    pub(crate) fn out_of_space(&self, overlay: &Overlay, state: &mut State, by_origin: bool) {
        if overlay.limit() != u64::MAX {
            state.making_room = true;
        } else if state.overflowed || self.patience().is_none() {
            self.give_up_full(overlay, state, by_origin);
        } else if state.starving.is_none() {
            state.starving = Some(Starving {
                since: Instant::now(),
                told: false,
            });
        }
    }

    /// The store is full and nobody waits any longer.
    pub(crate) fn give_up_full(&self, overlay: &Overlay, state: &mut State, by_origin: bool) {
        if self.line.kind == StoreKind::Overflow && !by_origin {
            if !state.overflowed {
                pr_err!(
                    "snapshot with COW device {} can only be read now: the COW device is full\n",
                    self.cow_number()
                );
            }
            state.overflowed = true;
            overlay.note(state);
        } else {
            self.give_up(overlay, state, "the COW device is full");
        }
    }

    /// Takes slots and COW chunks for up to `want` chunks from `first` on, none of them mapped.
    pub(crate) fn begin(
        &self,
        overlay: &Overlay,
        state: &mut State,
        first: u64,
        want: u64,
    ) -> Begin {
        let most = want.min(state.room() as u64).min(Run::MAX_LEN);
        let mut len = 0;
        while len < most && state.pending.find(first + len).is_none() {
            len += 1;
        }
        if len == 0 {
            return Begin::NoSlot;
        }
        let Some(taken) = self.take_chunks(overlay, state, len) else {
            return Begin::NoSpace;
        };
        let run = Run {
            origin: first,
            cow: taken.first,
            len: taken.len,
        };
        overlay.insert_slots(state, run);
        Begin::Run(run)
    }

    /// Takes up to `len` consecutive COW chunks.
    fn take_chunks(&self, overlay: &Overlay, state: &mut State, len: u64) -> Option<alloc::Run> {
        let taken = state.alloc.take(len, self.cow_chunks(overlay))?;
        // There is space again, and the worker has not seen it yet: whoever finds none from now on
        // is told of anew.
        state.starving = None;
        Some(taken)
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

    /// Whole chunks on the COW device, which may grow, that can be used.
    pub(crate) fn cow_chunks(&self, overlay: &Overlay) -> u64 {
        let chunks = overlay.chunk().chunks_within(self.cow_device.sectors());
        chunks.min(overlay.limit())
    }
}

fn is_filling(state: &mut State, chunk: u64) -> bool {
    state
        .pending
        .find(chunk)
        .is_some_and(|slot| slot.state() == Progress::Filling)
}
