// SPDX-License-Identifier: GPL-2.0

//! The write-back buffer of a shared volume: writes that were acknowledged and wait in memory until
//! their chunks are stable.
//!
//! It belongs to the volume, so that every `holey-writer` on it sees what is in it, and a new table
//! takes it over. What lies where, and in which order it goes, is decided in `core/buffer.rs`. To
//! snapshots, merges and copiers what is buffered counts as not written: it goes to the volume as any
//! write does, counted and when all have kept its chunks.
//!
//! | who | when | does |
//! | --- | --- | --- |
//! | a write | comes | takes room and is acknowledged; or waits as without a buffer |
//! | a write | overlaps what it cannot replace | waits ([`WriteBack::park`]) |
//! | a read | overlaps | gets the overlap from memory, in pieces |
//! | a flush | finds something | waits until that has landed, and fails if something was lost |
//! | the sweep | chunks have become stable, or a part of a block has landed | sends what may go, asks for what was not asked for |
//! | the attendance | something has landed | lets go who has waited for it |
//!
//! Sweep and attendance are work of a target that drives the volume (`remote.rs`).

use crate::dm::new_irq_lock;
use crate::dm::Failure;
use crate::dm::Gate;
use crate::dm::IrqLock;
use crate::dm::Memory;
use crate::dm::NewBio;
use crate::dm::Pass;
use crate::dm::SuspendKind;
use crate::dm::WriteClient;
use crate::dm::WriteJob;
use crate::dm::Written;
use crate::holey_core::buffer;
use crate::holey_core::buffer::Buffer;
use crate::holey_core::buffer::Found;
use crate::holey_core::buffer::Part;
use crate::holey_core::buffer::Piece;
use crate::holey_core::buffer::Put;
use crate::holey_core::buffer::Slot;
use crate::holey_core::buffer::Step;
use crate::holey_core::epoch::Ticket;
use crate::holey_core::format::SECTOR_SIZE;
use crate::origin_set::OutletId;
use crate::overlay::Bio;
use crate::overlay::Bios;
use crate::overlay::Tag;
use crate::remote::Remote;
use crate::remote::Standing;
use crate::writer::Writer;
use core::mem;
use core::ops::Range;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::Mutex;

/// A write is taken in pieces of so many sectors, at most: they are copied with interrupts off.
const MOST_TAKEN: u64 = 64;
/// Blocks of one write to the volume, at most.
const MOST_SENT: u16 = 64;
/// The longest range that is looked up at a time, in sectors.
pub(crate) const MOST_LOOKED_UP: u64 = 512;
/// Parts that a piece of a write lies in.
const PARTS: usize = (MOST_TAKEN / buffer::BLOCK) as usize + 1;

struct State {
    /// The node may write.
    open: bool,
    buffer: Buffer<KVVec<Slot>, KVVec<u32>>,
    memory: Memory,
    /// They wait for all writes up to the number in their tag's `ticket`.
    flushes: Bios,
    /// Something of what they have waited for was lost.
    failing: Bios,
    /// They overlap what is in the buffer.
    behind: Bios,
    /// Something was lost, so that flushes fail, and whether one has failed for that.
    failed: bool,
    told: bool,
    written: u64,
    lost: u64,
}

/// The buffer of a volume.
#[pin_data]
pub(crate) struct WriteBack {
    mib: u32,
    /// Not 0 if there is something in it or something was lost, or somebody has yet to be told of
    /// that: read without a lock.
    level: AtomicUsize,
    /// The agent could not be asked for something for want of room.
    starved: AtomicBool,
    /// Held by whoever sweeps; nobody waits for it.
    #[pin]
    sweeper: Mutex<()>,
    /// There may be something to sweep.
    again: AtomicBool,
    #[pin]
    client: WriteClient<Flight>,
    #[pin]
    state: IrqLock<State>,
}

/// How things are, for a status line: sectors in the buffer, written from it and lost, ever.
pub(crate) struct Amounts {
    pub(crate) buffered: u64,
    pub(crate) written: u64,
    pub(crate) lost: u64,
}

/// What becomes of a flush.
pub(crate) enum Flushed {
    /// Nothing waits: it goes to the volume.
    Pass(Bio),
    /// It is kept until all that was acknowledged has landed.
    Kept,
    /// Something was lost.
    Failed(Bio),
}

/// What there is to do when a write to the volume has ended.
#[derive(Default)]
struct Landed {
    /// The same blocks hold more, which could not go with it.
    left: bool,
    /// Somebody waits.
    waited_for: bool,
}

impl WriteBack {
    /// An empty buffer for a node that may not write. May sleep.
    pub(crate) fn new(mib: u32) -> Result<Arc<Self>> {
        let bytes = (mib as usize) << 20;
        let slots = bytes / buffer::BLOCK_BYTES;
        let state = State {
            open: false,
            buffer: Buffer::new(
                KVVec::from_elem(Slot::FREE, slots, GFP_KERNEL)?,
                KVVec::from_elem(buffer::EMPTY, slots, GFP_KERNEL)?,
            ),
            memory: Memory::new(bytes)?,
            flushes: Bios::default(),
            failing: Bios::default(),
            behind: Bios::default(),
            failed: false,
            told: false,
            written: 0,
            lost: 0,
        };
        Arc::pin_init(
            try_pin_init!(Self {
                mib,
                level: AtomicUsize::new(0),
                starved: AtomicBool::new(false),
                sweeper <- new_mutex!((), "holey_sweeper"),
                again: AtomicBool::new(false),
                client <- WriteClient::new(),
                state <- new_irq_lock!(state, c"holey_write_back"),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// Its size.
    pub(crate) fn mib(&self) -> u32 {
        self.mib
    }

    /// Whether there is nothing in it and nothing was lost. Takes no lock.
    pub(crate) fn is_idle(&self) -> bool {
        self.level.load(Ordering::Acquire) == 0
    }

    /// Whether something of a range is in it. Never sleeps.
    pub(crate) fn overlaps(&self, start: u64, sectors: u64) -> bool {
        let state = self.state.lock();
        state.buffer.overlaps(Piece { start, sectors })
    }

    /// Takes a write, or as much of it as it takes at a time; the number of the write is returned.
    /// Never sleeps.
    pub(crate) fn put(&self, bio: &mut NewBio<Tag>) -> Result<u64, Put> {
        bio.shorten(MOST_TAKEN);
        let piece = piece_of(bio);
        let mut parts = [const { 0..0 }; PARTS];
        let mut places = parts.iter_mut();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if !state.open || piece.sectors > MOST_TAKEN {
            return Err(Put::Full);
        }
        let put = state.buffer.put(piece, |part| {
            if let Some(place) = places.next() {
                *place = bytes_of(part);
            }
        });
        if put != Put::Taken {
            return Err(put);
        }
        state.memory.fill(bio, &parts);
        self.measure(state);
        Ok(state.buffer.last_order())
    }

    /// Answers the beginning of a read from memory, and returns true; or shortens it to what is on the
    /// volume only. Never sleeps.
    pub(crate) fn read(&self, bio: &mut NewBio<Tag>) -> bool {
        let mut piece = piece_of(bio);
        piece.sectors = piece.sectors.min(MOST_LOOKED_UP);
        let state = self.state.lock();
        match state.buffer.look(piece) {
            Found::Elsewhere(sectors) => {
                bio.shorten(sectors);
                false
            }
            Found::Here(part) => {
                bio.shorten(part.sectors);
                state.memory.copy_to(bio, &[bytes_of(part)]);
                true
            }
        }
    }

    /// Keeps a write that overlaps what is in the buffer; returns it if it does not.
    pub(crate) fn park(&self, bio: Bio) -> Option<Bio> {
        let piece = piece_of(&bio);
        let mut state = self.state.lock();
        if !state.buffer.overlaps(piece) {
            return Some(bio);
        }
        state.behind.push(bio);
        None
    }

    /// Says what becomes of a flush.
    pub(crate) fn flush(&self, mut bio: Bio) -> Flushed {
        let mut state = self.state.lock();
        if state.failed {
            state.told = true;
            return Flushed::Failed(bio);
        }
        let last = state.buffer.last_order();
        if state.buffer.is_through(last) {
            return Flushed::Pass(bio);
        }
        bio.data().ticket = last;
        state.flushes.push(bio);
        Flushed::Kept
    }

    /// The number of the last write that was taken.
    pub(crate) fn last_order(&self) -> u64 {
        self.state.lock().buffer.last_order()
    }

    /// Whether all writes up to this one have landed.
    pub(crate) fn is_through(&self, order: u64) -> bool {
        self.state.lock().buffer.is_through(order)
    }

    /// Whether somebody who flushes has yet to wait for something, or to be told of a loss.
    pub(crate) fn is_owing(&self) -> bool {
        let state = self.state.lock();
        state.buffer.used() != 0 || state.failed && !state.told
    }

    /// A target has been resumed. If a flush has failed for what was lost, flushes succeed again.
    pub(crate) fn resumed(&self) {
        let mut state = self.state.lock();
        state.failed &= !state.told;
        self.measure(&state);
    }

    /// The node may write.
    pub(crate) fn open(&self) {
        self.state.lock().open = true;
    }

    /// The node may not write any more: all that is not on its way is lost. Says how many sectors
    /// that are. Any context.
    pub(crate) fn close(&self) -> u64 {
        let mut state = self.state.lock();
        state.open = false;
        let lost = state.buffer.clear();
        state.lose(lost);
        self.measure(&state);
        lost
    }

    /// How things are.
    pub(crate) fn amounts(&self) -> Amounts {
        let state = self.state.lock();
        Amounts {
            buffered: state.buffer.sectors(),
            written: state.written,
            lost: state.lost,
        }
    }

    /// The device of an outlet is being suspended: what of it waits here goes back or fails.
    pub(crate) fn dismiss(&self, outlet: OutletId, kind: SuspendKind) {
        let mut state = self.state.lock();
        let mut theirs = state.behind.extract(|tag| tag.outlet == outlet);
        theirs.append(&mut state.flushes.extract(|tag| tag.outlet == outlet));
        let mut failing = state.failing.extract(|tag| tag.outlet == outlet);
        if kind != SuspendKind::NoFlush {
            failing.append(&mut theirs);
        }
        self.measure(&state);
        drop(state);
        while let Some(bio) = theirs.pop() {
            bio.end_failed(Failure::Requeue);
        }
        while let Some(bio) = failing.pop() {
            bio.end_error();
        }
    }

    /// Asks the agent for what a range needs that was not asked for. Never sleeps.
    pub(crate) fn ask(&self, remote: &Remote, start: u64, sectors: u64) {
        let mut standing = remote.standing(start, sectors);
        if matches!(standing, Standing::Full(_)) {
            // Whoever makes room from here on sees this.
            self.starved.store(true, Ordering::SeqCst);
            standing = remote.standing(start, sectors);
        }
        if matches!(standing, Standing::Stable) {
            remote.sweep();
        }
    }

    /// The agent has made room; whether somebody has missed it.
    pub(crate) fn was_starved(&self) -> bool {
        self.starved.swap(false, Ordering::SeqCst)
    }

    /// Sends what may go to the volume, and asks for the rest. May sleep.
    pub(crate) fn sweep(&self, writer: &Arc<Writer>) {
        let remote = writer.remote();
        self.again.store(true, Ordering::SeqCst);
        let Some(sweeper) = self.sweeper.try_lock() else {
            // Whoever has it does this, too.
            return;
        };
        while self.again.swap(false, Ordering::SeqCst) {
            let Some(Piece { start, sectors }) = self.write_out(writer, remote) else {
                continue;
            };
            // Local snapshots have yet to copy it.
            let stop = || writer.is_stopping() || !remote.is_steady(start, sectors);
            writer.origin().secure(start, sectors, stop);
            self.again.store(true, Ordering::SeqCst);
            if writer.is_stopping() {
                break;
            }
        }
        drop(sweeper);
        if self.again.load(Ordering::SeqCst) {
            remote.sweep();
        }
    }

    /// Returns a piece that has to wait for local snapshots.
    fn write_out(&self, writer: &Arc<Writer>, remote: &Remote) -> Option<Piece> {
        if !remote.is_open() {
            return None;
        }
        let mut slow = None;
        self.state.lock().buffer.rewind();
        loop {
            let kind = |piece: Piece| remote.is_worth(piece.start, piece.sectors);
            let step = self.state.lock().buffer.next(MOST_SENT.into(), kind);
            let Piece { start, sectors } = match step {
                Step::End => return slow,
                Step::More => continue,
                Step::Piece(piece, _) => piece,
            };
            // Counted first: see `remote.rs`.
            let ticket = remote.enter();
            if writer.origin().is_clear(start, sectors) {
                if !self.send(writer, Piece { start, sectors }, ticket) {
                    remote.leave(ticket);
                }
                continue;
            }
            remote.leave(ticket);
            writer.origin().prepare(start, sectors);
            if remote.is_steady(start, sectors) {
                slow.get_or_insert(Piece { start, sectors });
            } else {
                self.ask(remote, start, sectors);
            }
        }
    }

    /// Sends what there is of a piece, which may go. False if there is nothing any more.
    fn send(&self, writer: &Arc<Writer>, piece: Piece, ticket: Ticket) -> bool {
        let flight = Flight::new(writer, piece, ticket);
        let mut write = self.client.begin(writer.device(), MOST_SENT, flight);
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let memory = &state.memory;
        let sent = state
            .buffer
            .fly(piece, |part| write.add(memory, bytes_of(part)));
        drop(guard);
        let Some(sent) = sent else {
            return false;
        };
        if let Some(flight) = write.job() {
            flight.piece = sent;
        }
        write.submit(sent.start);
        true
    }

    /// Lets go who has waited for what has landed. May sleep for memory.
    pub(crate) fn attend(&self, writer: &Writer) {
        while let Some((bio, failed)) = self.ready_flush() {
            if failed {
                bio.end_error();
            } else {
                bio.submit();
            }
        }
        let mut behind = mem::take(&mut self.state.lock().behind);
        while let Some(bio) = behind.pop() {
            writer.hold(Some(self), bio);
        }
    }

    /// A flush that has waited for long enough, and whether it fails.
    fn ready_flush(&self) -> Option<(Bio, bool)> {
        let mut state = self.state.lock();
        if let Some(bio) = state.failing.pop() {
            self.measure(&state);
            return Some((bio, true));
        }
        let last = state.flushes.first()?.ticket;
        if !state.buffer.is_through(last) {
            return None;
        }
        state.flushes.pop().map(|bio| (bio, false))
    }

    /// A write to the volume has ended. Any context.
    fn landed(&self, piece: Piece, done: bool) -> Landed {
        let mut state = self.state.lock();
        let left = state.buffer.land(piece);
        if done {
            state.written += piece.sectors;
        } else {
            state.lose(piece.sectors);
        }
        self.measure(&state);
        Landed {
            left,
            waited_for: state.is_waited_for(),
        }
    }

    fn measure(&self, state: &State) {
        let level = state.buffer.used() + usize::from(state.failed || !state.failing.is_empty());
        self.level.store(level, Ordering::Release);
    }
}

impl State {
    fn lose(&mut self, sectors: u64) {
        if sectors != 0 {
            self.lost += sectors;
            self.failed = true;
            // These are told of it: whoever resumes a target before they are ended does not change what becomes of them.
            self.told = !self.flushes.is_empty();
            self.failing.append(&mut self.flushes);
        }
    }

    fn is_waited_for(&self) -> bool {
        !self.flushes.is_empty() || !self.failing.is_empty() || !self.behind.is_empty()
    }
}

/// A write to the volume. The pass is dropped last: who takes the target down waits for it.
struct Flight {
    writer: Arc<Writer>,
    piece: Piece,
    ticket: Ticket,
    _pass: Pass,
}

impl Flight {
    fn new(writer: &Arc<Writer>, piece: Piece, ticket: Ticket) -> Self {
        Self {
            writer: writer.clone(),
            piece,
            ticket,
            _pass: Gate::enter(writer.flights()),
        }
    }
}

impl WriteJob for Flight {
    fn done(self, written: Written) {
        let remote = self.writer.remote();
        if written == Written::Refused {
            remote.refused();
        }
        let done = written == Written::Done;
        if !done {
            remote.say_lost(self.piece.sectors);
        }
        let landed = remote
            .buffer()
            .map_or_else(Landed::default, |buffer| buffer.landed(self.piece, done));
        remote.leave(self.ticket);
        remote.nudge();
        if landed.left {
            remote.sweep();
        }
        if landed.waited_for {
            remote.attend();
        }
    }
}

fn piece_of(bio: &Bio) -> Piece {
    Piece {
        start: bio.sector(),
        sectors: u64::from(bio.sectors()),
    }
}

/// Where a part lies in memory.
fn bytes_of(part: Part) -> Range<usize> {
    let sector = SECTOR_SIZE as usize;
    let start = part.slot * buffer::BLOCK_BYTES + part.first as usize * sector;
    start..start + part.sectors as usize * sector
}
