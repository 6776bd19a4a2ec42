// SPDX-License-Identifier: GPL-2.0

//! What a snapshot does with the bios that are sent to it.
//!
//! - A read goes to the COW device if its chunk is there and to the origin if not.
//! - A write to a chunk that is there goes to the COW device.
//! - A write that covers whole chunks that are not there goes straight to new COW chunks, which
//!   are mapped when it ends.
//! - Any other write waits until its chunk has been copied.
//! - A discard, if the table line asks for it, zeroes chunks that are in the COW device; to the
//!   others it does nothing.
//!
//! A write to the snapshot is acknowledged when its data is in the COW device; its exception is
//! committed when a flush asks for it, when many have gathered, or after
//! [`LINGER_MS`](crate::copier::LINGER_MS). So the device shows a volatile write cache, and what
//! an acknowledged write may lose in a power cut is what a disk with such a cache may lose: the
//! chunk reads as before.

use crate::copier::Begin;
use crate::copier::Copier;
use crate::dm::Device;
use crate::dm::Ended;
use crate::dm::EndedBio;
use crate::dm::Mapped;
use crate::dm::NewBio;
use crate::dm::Pass;
use crate::dm::PoolBox;
use crate::dm::Region;
use crate::dm::ZeroJob;
use crate::holey_core::alloc;
use crate::holey_core::epoch::Ticket;
use crate::holey_core::index::Extent;
use crate::holey_core::index::Run;
use crate::holey_core::index::Version;
use crate::origin_set::CopyTask;
use crate::overlay::Bio;
use crate::overlay::Bios;
use crate::overlay::Condition;
use crate::overlay::Overlay;
use crate::overlay::Role;
use crate::overlay::State;
use crate::overlay::Tag;
use kernel::sync::Arc;
use kernel::time::msecs_to_jiffies;

/// How long a large write waits for slots, in milliseconds.
const ROOM_MS: u32 = 100;

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

impl Copier {
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
        } else if overlay.is_whole() {
            Self::map_known(this, overlay, bio)
        } else {
            Self::map_partly(this, overlay, bio)
        }
    }

    /// Handles a bio of which it is known where its chunks are.
    // By value and in place: otherwise a read takes ten instructions more.
    #[inline(always)]
    fn map_known(this: &Arc<Self>, overlay: &Overlay, bio: NewBio<Tag>) -> Mapped {
        if bio.is_write() && !overlay.is_writable() {
            bio.kill()
        } else if bio.is_discard() {
            Self::map_discard(this, overlay, bio)
        } else if bio.is_write() {
            Self::map_write(this, overlay, bio)
        } else {
            this.map_read(overlay, bio)
        }
    }

    /// Handles a bio while a part of the list has not been read.
    #[cold]
    #[inline(never)]
    fn map_partly(this: &Arc<Self>, overlay: &Overlay, mut bio: NewBio<Tag>) -> Mapped {
        if this.is_unread(overlay, &mut bio) {
            Self::map_later(this, overlay, bio)
        } else {
            Self::map_known(this, overlay, bio)
        }
    }

    /// Whether nobody knows yet where the first chunk of a bio is. If that is known, but not of all of
    /// its chunks, it is shortened to those of which it is.
    fn is_unread(&self, overlay: &Overlay, bio: &mut NewBio<Tag>) -> bool {
        let (size, start) = (overlay.chunk(), bio.sector());
        let last = start.saturating_add(u64::from(bio.sectors()).max(1) - 1);
        let first = size.chunk_of(start);
        let Some(unread) = overlay.first_unread(first, size.chunk_of(last)) else {
            return false;
        };
        // A discard touches one chunk; its copy for the origin does not ask where that is.
        if bio.is_discard() {
            return bio.copy_number() == 0;
        }
        // What is waited for has one chunk.
        let end = size.sector_of(unread.max(first + 1));
        bio.shorten(end.saturating_sub(start));
        unread == first
    }

    /// Keeps a bio, of one chunk, until it is known where that is.
    fn map_later(this: &Arc<Self>, overlay: &Overlay, bio: NewBio<Tag>) -> Mapped {
        let size = overlay.chunk();
        let chunk = size.chunk_of(bio.sector());
        let (bio, held) = bio.hold();
        Self::await_page(this, overlay, chunk, bio);
        held
    }

    fn map_read(&self, overlay: &Overlay, mut bio: NewBio<Tag>) -> Mapped {
        let size = overlay.chunk();
        let (chunk, offset) = (size.chunk_of(bio.sector()), size.offset_of(bio.sector()));
        let mut counted = None;
        while let Ok((found, version)) = overlay.index.lookup_versioned(chunk) {
            match (found, counted) {
                (Extent::Mapped { cow, len }, _) => {
                    if let Some(ticket) = counted {
                        overlay.leave(ticket);
                    }
                    bio.shorten(size.sector_of(len).saturating_sub(offset));
                    return bio.remap(self.cow_device(), size.sector_of(cow) + offset);
                }
                (Extent::Unmapped { len }, before) => {
                    let ticket = before.unwrap_or_else(|| overlay.readers.enter());
                    counted = Some(ticket);
                    // What counts is what is found by a reader that is counted: see `epoch.rs`.
                    if before.is_none() && !overlay.index.is_at(version) {
                        continue;
                    }
                    bio.shorten(size.sector_of(len).saturating_sub(offset));
                    let tag = bio.data();
                    tag.role = Role::Tracked;
                    tag.epoch = ticket.to_raw();
                    let sector = bio.sector();
                    return bio.remap(self.origin_device(), sector);
                }
            }
        }
        if let Some(ticket) = counted {
            overlay.leave(ticket);
        }
        bio.kill()
    }

    fn map_flush(this: &Arc<Self>, overlay: &Overlay, mut bio: NewBio<Tag>) -> Mapped {
        let mut state = overlay.state.lock();
        if state.condition != Condition::Valid {
            return bio.kill();
        }
        if state.pending.issued() == state.pending.durable() {
            drop(state);
            if this.is_remote() {
                // A copier is lost with its host.
                let (bio, held) = bio.hold();
                bio.end_ok();
                return held;
            }
            return bio.remap(this.cow_device(), 0);
        }
        // A commit that starts from now on flushes the COW device's cache; one that is under way
        // may have done so before the writes that this flush is for.
        bio.data().forward = state.pending.ready_len() == 0;
        let (bio, held) = bio.hold();
        state.await_durable(bio);
        drop(state);
        Self::kick(this);
        held
    }

    /// The first copy of a discard is for the COW device, the second, if there is one, for the
    /// origin. None crosses the border of a chunk.
    fn map_discard(this: &Arc<Self>, overlay: &Overlay, mut bio: NewBio<Tag>) -> Mapped {
        let sector = bio.sector();
        if bio.copy_number() != 0 {
            // As stock does, no snapshot of the origin keeps what is discarded: that would fill the
            // COW devices instead of making room. An origin write must not overtake it.
            let tag = bio.data();
            tag.role = Role::Tracked;
            tag.epoch = overlay.readers.enter().to_raw();
            return bio.remap(this.origin_device(), sector);
        }
        let (bio, held) = bio.hold();
        Self::discard(this, overlay, bio);
        held
    }

    /// Zeroes what a discard names, within one chunk, if it is in the COW device.
    pub(crate) fn discard(this: &Arc<Self>, overlay: &Overlay, bio: Bio) {
        let (size, sector) = (overlay.chunk(), bio.sector());
        let found = overlay.lookup(size.chunk_of(sector));
        let Some(Extent::Mapped { cow, .. }) = found else {
            return bio.end_ok();
        };
        let offset = size.offset_of(sector);
        let most = u64::from(size.sectors()) - offset;
        let task = ZeroTask {
            cow: this.cow_device().clone(),
            sector: size.sector_of(cow) + offset,
            sectors: u64::from(bio.sectors()).min(most),
            bio,
            _pass: this.enter(),
        };
        this.origin.copies().zero(this.zeroings.take(task));
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
        let seen = overlay.index.lookup_versioned(chunk).ok();
        if let Some((Extent::Mapped { cow, len }, _)) = seen {
            bio.shorten(size.sector_of(len).saturating_sub(offset));
            if durable {
                bio.data().role = Role::Durable;
            }
            return bio.remap(this.cow_device(), size.sector_of(cow) + offset);
        }
        let _ = overlay.ensure_nodes();
        if let Some((Extent::Unmapped { len }, _)) = seen {
            this.await_room(overlay, whole.min(len).min(Run::MAX_LEN));
        }
        let mut state = overlay.state.lock();
        let decision = this.decide(overlay, &mut state, chunk, whole, seen);
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
                bio.remap(this.cow_device(), size.sector_of(cow) + offset)
            }
            Decision::Fresh(run) => {
                drop(state);
                *bio.data() = fresh_tag(run, durable);
                bio.remap(this.cow_device(), size.sector_of(run.cow))
            }
            other => {
                let (bio, held) = bio.hold();
                let task = this.keep(overlay, &mut state, other, bio);
                if state.has_urgent_work() {
                    Self::kick(this);
                }
                drop(state);
                this.origin.copy(task);
                held
            }
        }
    }

    /// Gives commits the time to free slots for so many chunks. A bio that finds too few is cut into
    /// single chunks, each of which waits by itself.
    fn await_room(self: &Arc<Self>, overlay: &Overlay, chunks: u64) {
        // A single one may as well wait where it is held.
        if chunks <= 1 {
            return;
        }
        let mut state = overlay.state.lock();
        if !state.may_get_room(chunks) {
            return;
        }
        state.wanted = state.pending.issued();
        state.crowded |= !state.has_many_slots();
        drop(state);
        Self::kick(self);
        // Not for ever: a commit may wait for a bio that the caller has not been able to send yet.
        let patience = msecs_to_jiffies(ROOM_MS).try_into().unwrap_or(1);
        overlay
            .changed
            .wait_for(patience, || !overlay.state.lock().may_get_room(chunks));
    }

    /// Tries again to write within one chunk. May sleep for memory.
    pub(crate) fn write_again(this: &Arc<Self>, overlay: &Overlay, mut bio: Bio) {
        let size = overlay.chunk();
        let chunk = size.chunk_of(bio.sector());
        let whole = u64::from(bio.sectors()) >> size.shift();
        let mut state = overlay.state.lock();
        match this.decide(overlay, &mut state, chunk, whole, None) {
            Decision::Mapped { cow, .. } => {
                drop(state);
                this.direct(overlay, &mut bio, cow);
                bio.submit();
            }
            Decision::Fresh(run) => {
                drop(state);
                *bio.data() = fresh_tag(run, bio.is_fua());
                bio.set_target(this.cow_device(), size.sector_of(run.cow));
                bio.submit();
            }
            other => {
                let task = this.keep(overlay, &mut state, other, bio);
                drop(state);
                this.origin.copy(task);
            }
        }
    }

    /// Decides about a write to `chunk`, of `whole` whole chunks or (0) a part of one, which was
    /// `seen` before the lock was taken.
    fn decide(
        &self,
        overlay: &Overlay,
        state: &mut State,
        chunk: u64,
        whole: u64,
        seen: Option<(Extent, Version)>,
    ) -> Decision {
        if state.condition != Condition::Valid {
            return Decision::Broken;
        }
        let found = match seen {
            Some((found, version)) if overlay.index.is_at(version) => Some(found),
            _ => overlay.lookup(chunk),
        };
        let room = match found {
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
                self.out_of_space(overlay, state, false);
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

    /// Handles a bio that has ended. Atomic context.
    ///
    /// Once a bio has been given away here, the worker may end it, and with the last bio the
    /// device may go: the worker is kicked under the lock, before it can see the bio.
    pub(crate) fn end_io(this: &Arc<Self>, mut bio: EndedBio<Tag>) -> Ended {
        let Some(overlay) = this.overlay() else {
            return bio.done();
        };
        let Tag { role, epoch, .. } = *bio.data();
        match role {
            Role::Plain | Role::Writing | Role::Held => bio.done(),
            Role::Tracked => {
                overlay.leave(Ticket::from_raw(epoch));
                if overlay.is_usable() {
                    bio.done()
                } else {
                    // The origin may have been written to since, without a copy.
                    bio.fail()
                }
            }
            Role::Durable => Self::written_durably(this, overlay, bio),
            Role::Fresh => Self::filled(this, overlay, bio),
        }
    }

    fn written_durably(this: &Arc<Self>, overlay: &Overlay, mut bio: EndedBio<Tag>) -> Ended {
        bio.data().role = Role::Plain;
        if !bio.succeeded() {
            return bio.done();
        }
        let mut state = overlay.state.lock();
        if state.condition != Condition::Valid {
            return bio.fail();
        }
        if state.pending.issued() == state.pending.durable() {
            return bio.done();
        }
        let (bio, held) = bio.hold();
        state.await_durable(bio);
        Self::kick(this);
        held
    }

    /// A write has filled the chunks of a run, or failed to.
    fn filled(this: &Arc<Self>, overlay: &Overlay, mut bio: EndedBio<Tag>) -> Ended {
        let tag = *bio.data();
        let run = run_of(&tag);
        let mut state = overlay.state.lock();
        if !bio.succeeded() {
            bio.data().role = Role::Plain;
            // The write fails; those who waited for its chunks try on their own.
            let mut writes = Bios::default();
            overlay.abandon(&mut state, run, &mut writes);
            state.blocked.writes.append(&mut writes);
            state.alloc.give_back(alloc::Run {
                first: run.cow,
                len: run.len,
            });
            Self::kick(this);
            overlay.changed.wake();
            return bio.done();
        }
        let mapped = state.condition == Condition::Valid
            && overlay.index.insert_run(&mut state.writer, run).is_ok();
        if !mapped {
            // The worker gives the index memory, or finds that the store is not valid.
            let (bio, held) = bio.hold();
            state.late.push(bio);
            Self::kick(this);
            return held;
        }
        bio.data().role = Role::Plain;
        let mut writes = Bios::default();
        overlay.publish(&mut state, run, &mut writes);
        while let Some(mut write) = writes.pop() {
            let chunk = overlay.chunk().chunk_of(write.sector());
            this.direct(overlay, &mut write, run.cow + (chunk - run.origin));
            state.send.push(write);
        }
        let ended = if tag.durable {
            let (bio, held) = bio.hold();
            state.await_durable(bio);
            held
        } else {
            bio.done()
        };
        // The first one wakes the worker, which then waits for others to share its commit.
        if state.needs_worker(run.len) {
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
        bio.set_target(self.cow_device(), sector);
    }
}

/// Zeroes a part of a COW chunk for a discard. The pass is dropped last: whoever tears the copier
/// down waits for it.
pub(crate) struct ZeroTask {
    cow: Device,
    sector: u64,
    sectors: u64,
    bio: Bio,
    _pass: Pass,
}

impl ZeroJob for ZeroTask {
    fn region(&self) -> Region<'_> {
        Region {
            device: &self.cow,
            sector: self.sector,
            sectors: self.sectors,
        }
    }

    fn done(job: PoolBox<Self>, ok: bool) {
        let Self { bio, .. } = PoolBox::into_inner(job);
        if ok {
            bio.end_ok();
        } else {
            bio.end_error();
        }
    }
}

fn fresh_tag(run: Run, durable: bool) -> Tag {
    Tag {
        role: Role::Fresh,
        durable,
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
