// SPDX-License-Identifier: GPL-2.0

//! The worker of a copier: group commit, and everything that has to be done where sleeping is
//! allowed.
//!
//! While a commit is on its way to the disk, copies and writes go on and gather the next one.
//! A commit may fill several areas. All of them but the first are written plainly; the first is
//! written last, with PREFLUSH and FUA, and until then the list ends in it: one flush makes data,
//! later areas and first area durable in this order.
//!
//! The exceptions of a commit are settled when it is durable and when the readers that might still
//! be reading their chunks from the origin are gone.

use crate::copier::Copier;
use crate::copier::LINGER_MS;
use crate::dm::without_io;
use crate::dm::Durability;
use crate::dm::Failure;
use crate::holey_core::format::Exception;
use crate::holey_core::table::Patience;
use crate::overlay::Area;
use crate::overlay::Bio;
use crate::overlay::Bios;
use crate::overlay::Condition;
use crate::overlay::Overlay;
use crate::overlay::Role;
use crate::overlay::State;
use crate::overlay::Waiters;
use crate::snapshot_io::run_of;
use crate::store;
use crate::summary;
use crate::summary::Summaries;
use core::mem;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::time::delay::fsleep;
use kernel::time::msecs_to_jiffies;
use kernel::time::Delta;
use kernel::time::Instant;
use kernel::time::Monotonic;
use kernel::workqueue::WorkItem;

/// Areas that one commit may fill behind the current one.
const SPILL_AREAS: usize = 16;
/// Exceptions that are taken or settled while the overlay is locked, and interrupts are off.
const BATCH: usize = 256;
/// How often a full COW device is looked at, in case that it has been extended.
const STARVE_POLL_MS: i64 = 250;

/// The next thing to do.
enum Chore {
    Finish(Bios),
    ReadAsked,
    MakeRoom,
    AddSlots,
    ReadOn,
    Summarise,
    Send(Bios),
    Invalidate,
    Dismiss(Bios, Failure),
    Retry(Waiters, bool),
    Gather,
    Commit,
    Starve,
    Linger,
}

impl WorkItem for Copier {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let Some(overlay) = this.overlay() else {
            return;
        };
        // After a handover the worker of the source may still be at it.
        let mut summaries = overlay.worker.lock();
        loop {
            let chore = next_chore(&mut overlay.state.lock());
            let Some(chore) = chore else {
                break;
            };
            let go_on = without_io(|| attend(&this, overlay, &mut summaries, chore));
            overlay.changed.wake();
            if !go_on || leave_to_owner(&this, overlay) {
                break;
            }
        }
    }
}

/// After a handover, whether the rest is for whoever has the overlay now, who is told. Those who take this copier down
/// wait for its worker, which under load would always find something to do.
fn leave_to_owner(this: &Arc<Copier>, overlay: &Overlay) -> bool {
    if !this.is_retired() || overlay.state.lock().hurry {
        return false;
    }
    let owner = this.origin.user_of(this.cow_number(), None);
    owner.inspect(Copier::kick).is_some()
}

/// Does one thing. False if the rest is for another copier.
fn attend(this: &Arc<Copier>, overlay: &Overlay, summaries: &mut Summaries, chore: Chore) -> bool {
    match chore {
        Chore::ReadAsked => summary::read_asked(this, overlay, summaries),
        Chore::MakeRoom => summary::make_room(this, overlay, summaries),
        Chore::AddSlots => overlay.add_slots(),
        Chore::ReadOn => {
            summary::read_on(this, overlay, summaries);
            summaries.linger(overlay);
            return !this.is_retired();
        }
        Chore::Summarise => {
            summary::make_some(this, overlay, summaries);
            summaries.linger(overlay);
            return !this.is_retired();
        }
        Chore::Finish(bios) => finish(this, overlay, bios),
        Chore::Send(bios) => send(bios),
        Chore::Invalidate => declare_invalid(this, overlay),
        Chore::Dismiss(bios, failure) => dismiss(bios, failure),
        Chore::Retry(waiters, writable) => retry(this, overlay, waiters, writable),
        Chore::Gather => return gather(this, overlay),
        Chore::Commit => commit(this, overlay, summaries),
        Chore::Starve => return starve(this, overlay),
        Chore::Linger => return linger(this, overlay),
    }
    true
}

fn next_chore(state: &mut State) -> Option<Chore> {
    if !state.late.is_empty() {
        return Some(Chore::Finish(mem::take(&mut state.late)));
    }
    if !state.send.is_empty() {
        return Some(Chore::Send(mem::take(&mut state.send)));
    }
    if state.asked {
        return Some(Chore::ReadAsked);
    }
    if state.making_room {
        return Some(Chore::MakeRoom);
    }
    if state.condition == Condition::Invalidating {
        return Some(Chore::Invalidate);
    }
    if mem::take(&mut state.crowded) {
        return Some(Chore::AddSlots);
    }
    if let Some(failure) = state.leaving.filter(|_| state.can_dismiss()) {
        return Some(Chore::Dismiss(
            mem::take(&mut state.blocked.writes),
            failure,
        ));
    }
    if state.is_to_be_told() {
        return Some(Chore::Starve);
    }
    if state.is_blocked() && state.can_unblock() {
        let writable = state.is_writable();
        return Some(Chore::Retry(mem::take(&mut state.blocked), writable));
    }
    if !state.has_work() {
        return None;
    }
    Some(if state.is_commit_due() {
        if state.begin_commit() {
            Chore::Commit
        } else {
            Chore::Gather
        }
    } else if state.is_to_read_on() {
        Chore::ReadOn
    } else if state.starving.is_some() {
        Chore::Starve
    } else if state.is_to_summarise() {
        state.summarising = true;
        Chore::Summarise
    } else {
        Chore::Linger
    })
}

/// Waits for the COW device to be extended. False if the rest is for another copier.
fn starve(this: &Arc<Copier>, overlay: &Overlay) -> bool {
    let mut state = overlay.state.lock();
    let has_room = state.alloc.has_room(this.cow_chunks(overlay));
    let hurry = state.hurry;
    let Some(starving) = &mut state.starving else {
        return true;
    };
    if has_room || hurry {
        state.starving = None;
        return true;
    }
    let waited = starving.since.elapsed().as_millis();
    let left = match this.patience() {
        None => 0,
        Some(Patience::Endless) => i64::MAX,
        Some(Patience::Seconds(seconds)) => i64::from(seconds) * 1000 - waited,
    };
    if left <= 0 {
        state.starving = None;
        let by_origin = !state.blocked.origin.is_empty();
        this.give_up_full(overlay, &mut state, by_origin);
        return true;
    }
    let told = mem::replace(&mut starving.told, true);
    drop(state);
    if !told {
        pr_warn!(
            "COW device {} is full; writers wait until it is extended\n",
            this.cow_number()
        );
        this.table.raise_event();
    }
    this.origin.dismiss(this, overlay);
    let nap = msecs_to_jiffies(left.min(STARVE_POLL_MS) as u32);
    let stop = || this.is_retired() || overlay.state.lock().has_urgent_work();
    overlay.called.wait_for(nap.try_into().unwrap_or(1), stop);
    !this.is_retired()
}

/// Ends writes that cannot wait for space any longer.
fn dismiss(mut bios: Bios, failure: Failure) {
    while let Some(bio) = bios.pop() {
        bio.end_failed(failure);
    }
}

/// Waits for more exceptions to share a commit. False if this copier has nothing to do with it.
fn linger(this: &Arc<Copier>, overlay: &Overlay) -> bool {
    let patience = msecs_to_jiffies(LINGER_MS);
    let stop = || this.is_retired() || overlay.state.lock().has_urgent_work();
    let Ok(patience) = patience.try_into() else {
        return false;
    };
    if !overlay.called.wait_for(patience, stop) {
        let mut state = overlay.state.lock();
        state.wanted = state.pending.issued();
    }
    !this.is_retired()
}

/// Waits for what is being filled to share the commit that is due. False if the rest is for another
/// copier.
fn gather(this: &Arc<Copier>, overlay: &Overlay) -> bool {
    let patience = overlay.state.lock().gather.patience();
    // A tick more, as the first one may be over at once.
    let patience = u32::try_from(patience / 1000).unwrap_or(u32::MAX);
    let jiffies = msecs_to_jiffies(patience).saturating_add(1);
    let stop = || this.is_retired() || overlay.state.lock().has_urgent_work();
    if !overlay
        .called
        .wait_for(jiffies.try_into().unwrap_or(1), stop)
    {
        overlay.state.lock().gather.give_up();
    }
    !this.is_retired()
}

/// Finishes fresh writes whose chunks could not be mapped where they ended.
fn finish(this: &Arc<Copier>, overlay: &Overlay, mut bios: Bios) {
    while let Some(mut bio) = bios.pop() {
        let tag = *bio.data();
        let run = run_of(&tag);
        bio.data().role = Role::Plain;
        let mut writes = Bios::default();
        let mapped = this.map_run(overlay, run, &mut writes);
        while let Some(mut write) = writes.pop() {
            if mapped {
                let chunk = overlay.chunk().chunk_of(write.sector());
                this.direct(overlay, &mut write, run.cow + (chunk - run.origin));
                write.submit();
            } else {
                write.end_error();
            }
        }
        if !mapped {
            bio.end_error();
        } else if tag.durable {
            overlay.await_durable(bio);
        } else {
            bio.end_ok();
        }
    }
}

fn send(mut bios: Bios) {
    while let Some(bio) = bios.pop() {
        bio.submit();
    }
}

fn retry(this: &Arc<Copier>, overlay: &Overlay, mut waiters: Waiters, writable: bool) {
    while let Some(bio) = waiters.writes.pop() {
        if writable {
            Copier::write_again(this, overlay, bio);
        } else {
            bio.end_error();
        }
    }
    write_origin(this, waiters.origin);
}

/// Lets origin writes ask again.
pub(crate) fn write_origin(this: &Arc<Copier>, mut bios: Bios) {
    while let Some(bio) = bios.pop() {
        let (start, sectors) = (bio.sector(), u64::from(bio.sectors()));
        if let Some(bio) = this.origin.admit(start, sectors, bio) {
            bio.submit();
        }
    }
}

/// Makes the header say that the store is invalid, then lets everybody go on.
fn declare_invalid(this: &Arc<Copier>, overlay: &Overlay) {
    let mut area = overlay.area.lock();
    let marked = store::mark_invalid(&this.io, this.cow_device(), overlay, &mut area.zeros);
    drop(area);
    if marked.is_err() {
        pr_err!(
            "COW device {}: the header could not be marked invalid; do not activate it again\n",
            this.cow_number()
        );
    }
    let mut flushes = Bios::default();
    let mut state = overlay.state.lock();
    state.condition = Condition::Invalid;
    state.starving = None;
    while let Some((_, mut waiters)) = state.pending.give_up() {
        state.blocked.writes.append(&mut waiters.writes);
        state.blocked.origin.append(&mut waiters.origin);
    }
    flushes.append(&mut state.flushes);
    overlay.note(&state);
    drop(state);
    drop(flushes);
    overlay.changed.wake();
    this.table.raise_event();
}

/// Writes what is ready, and lets those go on who waited for it. Sleeps.
pub(crate) fn commit(this: &Arc<Copier>, overlay: &Overlay, summaries: &Summaries) {
    let mut area = overlay.area.lock();
    let start = Instant::<Monotonic>::now();
    match write_commit(this, overlay, &mut area) {
        Ok(()) => {
            if !overlay.is_unlisted() {
                overlay.note_area(area.image.area());
            }
            let listed = area.image.listed();
            drop(area);
            let keeps = this.keeps_summary() && !this.is_retired();
            if keeps && overlay.is_whole() && summaries.is_due(listed) {
                overlay.state.lock().summarise = true;
            }
            let took = start.elapsed().as_micros_ceil();
            let hold = settle(this, overlay, took.try_into().unwrap_or(0));
            if hold != 0 {
                fsleep(Delta::from_micros(hold.into()));
            }
        }
        Err(_) => {
            drop(area);
            Copier::invalidate(this, "writing an exception area failed");
        }
    }
}

/// Writes what is ready. When it returns, that is as durable as the store makes it, and nobody
/// reads its chunks from the origin.
fn write_commit(this: &Arc<Copier>, overlay: &Overlay, area: &mut Area) -> Result {
    if overlay.is_unlisted() {
        take(overlay, |_| true);
        let old = overlay.readers.turn();
        overlay.changed.wait_until(|| overlay.readers.is_quiet(old));
        return Ok(());
    }
    let Area {
        image,
        spill,
        zeros,
    } = area;
    let (io, cow) = (&this.io, this.cow_device());
    store::prepare(io, cow, overlay, image, zeros)?;
    if take(overlay, |entry| image.push(entry)) == 0 {
        // The COW device may have grown since it was looked at: then the next area is on it now.
        store::prepare(io, cow, overlay, image, zeros)?;
        if take(overlay, |entry| image.push(entry)) == 0 {
            return Err(ENOSPC);
        }
    }
    let mut spilled = false;
    if image.is_full() {
        let first = image.area().saturating_add(1);
        for next in (first..).take(SPILL_AREAS) {
            if overlay.state.lock().pending.ready_len() == 0 {
                break;
            }
            spill.start(next);
            store::prepare(io, cow, overlay, spill, zeros)?;
            if take(overlay, |entry| spill.push(entry)) == 0 {
                break;
            }
            store::write_image(io, cow, overlay, spill, Durability::Volatile)?;
            spilled = true;
            if !spill.is_full() {
                break;
            }
        }
    }
    let old = overlay.readers.turn();
    let written = store::write_image(io, cow, overlay, image, Durability::FlushedAndDurable);
    overlay.changed.wait_until(|| overlay.readers.is_quiet(old));
    written?;
    if spilled {
        mem::swap(image, spill);
    }
    image.wrote();
    Ok(())
}

/// Takes what is ready for as long as `accept` does. Returns how many that were.
fn take(overlay: &Overlay, mut accept: impl FnMut(Exception) -> bool) -> usize {
    let mut all = 0;
    loop {
        let mut left = BATCH;
        let taken = overlay.state.lock().pending.take(|exception| {
            let taken = left != 0 && accept(exception);
            left -= usize::from(taken);
            taken
        });
        all += taken;
        if left != 0 {
            return all;
        }
    }
}

/// Lets those go on who waited for the commit, which took so many microseconds. Returns for how many
/// the next one is to wait for them.
fn settle(this: &Arc<Copier>, overlay: &Overlay, took: u64) -> u32 {
    let mut origin = Bios::default();
    let mut done = Bios::default();
    let mut forward = Bios::default();
    let mut released = 0;
    let mut state = loop {
        let mut state = overlay.state.lock();
        let mut settled = 0;
        while settled < BATCH {
            let Some((_, mut waiters)) = state.pending.settle() else {
                break;
            };
            settled += 1;
            released += u64::from(!waiters.origin.is_empty());
            origin.append(&mut waiters.origin);
        }
        if settled < BATCH {
            break state;
        }
        overlay.note(&state);
    };
    state.gather.committed(took);
    let hold = state.gather.hold(released, state.pending.ready_len());
    let durable = state.pending.durable();
    while state
        .flushes
        .first()
        .is_some_and(|tag| tag.ticket <= durable)
    {
        let Some(mut bio) = state.flushes.pop() else {
            break;
        };
        if bio.data().forward {
            forward.push(bio);
        } else {
            done.push(bio);
        }
    }
    overlay.note(&state);
    drop(state);
    overlay.changed.wake();
    while let Some(bio) = done.pop() {
        bio.end_ok();
    }
    while let Some(bio) = forward.pop() {
        flush_cow(this, bio);
    }
    write_origin(this, origin);
    hold
}

fn flush_cow(this: &Copier, mut bio: Bio) {
    bio.set_target(this.cow_device(), 0);
    bio.submit();
}
