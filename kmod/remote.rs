// SPDX-License-Identifier: GPL-2.0

//! The copiers on other hosts, seen from their writer: one member of the origin's set.
//!
//! A write to a chunk that is not stable waits here. What it needs is asked of the agent, which
//! asks the copiers, each for the old content; when all have it the agent says that the chunk is
//! stable. That is looked up without a lock.
//!
//! When somebody joins, an *epoch* begins: nothing is stable any more, writes that were let through
//! are waited for, and then all that waits is asked for anew. Writes count themselves before they
//! look whether their chunks are stable, so that whoever turns the epoch knows of them.
//!
//! While there is no agent, writes to chunks that are not stable wait for one; a suspend ends that.
//!
//! With a write-back buffer (`write_back.rs`) writes are acknowledged before they wait.

use crate::agent::Agent;
use crate::dm::new_irq_lock;
use crate::dm::new_wait_queue;
use crate::dm::DeviceNumber;
use crate::dm::Failure;
use crate::dm::IrqLock;
use crate::dm::OnceBox;
use crate::dm::SuspendKind;
use crate::dm::WaitQueue;
use crate::holey_core::agent::Event;
use crate::holey_core::epoch::Epochs;
use crate::holey_core::epoch::Ticket;
use crate::holey_core::format::ChunkSize;
use crate::holey_core::stable::Bits;
use crate::holey_core::stable::Chunks;
use crate::holey_core::stable::Range;
use crate::holey_core::stable::Requests;
use crate::origin_set::OutletId;
use crate::overlay::Bio;
use crate::overlay::Bios;
use crate::overlay::Role;
use crate::write_back::WriteBack;
use crate::writer::Writer;
use core::mem;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::Mutex;

/// Ranges that wait for the agent, at most.
const RANGES: usize = 4096;
/// How far ahead of a sequential writer is asked, in sectors (4 MiB).
const MOST_AHEAD: u64 = 4 << 11;
/// Lists of waiting writes, by chunk.
const BUCKETS: usize = 1024;
/// What memory can be had in one piece, in words.
const MOST_WORDS: u64 = i32::MAX as u64 / 8;
/// Targets through which an epoch can be drained, at most.
const DRIVERS: usize = 4;
/// Chunks that are said to be stable under one hold of the lock.
pub(crate) const SLICE: u64 = 1 << 12;

/// What a write waits for.
pub(crate) enum Standing {
    /// Nothing.
    Stable,
    /// This chunk, which the agent is asked for.
    Waits(u64),
    /// This chunk; there is no room to ask for it before the agent has fetched something.
    Full(u64),
}

/// Whether writes may be let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// There was no epoch yet, or the volume takes no writes from this node.
    Closed,
    /// The writes of the epoch before are waited for.
    Draining,
    /// Yes.
    Open,
}

impl Phase {
    /// As a status line says it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Draining => "draining",
            Self::Open => "open",
        }
    }
}

/// How things are, for a status line.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) epoch: u64,
    pub(crate) phase: Phase,
    /// Whether there is an agent.
    pub(crate) agent: bool,
    /// Chunks that are stable, in this epoch.
    pub(crate) stable: u64,
    /// Chunks of the volume.
    pub(crate) chunks: u64,
    /// Writes that wait now, and that ever had to.
    pub(crate) waiting: u64,
    pub(crate) held: u64,
    /// Ranges that the agent has fetched, ever.
    pub(crate) requests: u64,
    /// Writes that were let through and have not ended.
    pub(crate) in_flight: u64,
}

struct State {
    epoch: u64,
    phase: Phase,
    /// For the agent, before all requests.
    news: Option<Event>,
    requests: Requests<KVVec<Range>>,
    /// Writes, by the chunk that each waits for, which is the `origin` of its tag.
    parked: KVVec<Bios>,
    /// The first list of which somebody could not ask for what it waits for.
    starved: Option<usize>,
    agent: Option<Arc<Agent>>,
    /// It has not begun an epoch yet, so it does not know what its predecessor was asked for.
    agent_is_new: bool,
    writers: [Option<Arc<Writer>>; DRIVERS],
    stable: u64,
    waiting: u64,
    held: u64,
    fetched: u64,
}

/// The copiers on other hosts.
#[pin_data]
pub(crate) struct Remote {
    /// The volume.
    number: DeviceNumber,
    size: ChunkSize,
    count: u64,
    chunks: Chunks<KVVec<AtomicU64>>,
    /// A write of this chunk is the one that asks further ahead.
    marker: AtomicU64,
    /// Nothing may be overwritten, whatever the bits say.
    closed: AtomicBool,
    /// Writes that were let through.
    writes: Epochs,
    /// Held by whoever drains an epoch.
    #[pin]
    pub(crate) drainer: Mutex<()>,
    #[pin]
    changed: WaitQueue,
    /// There once a target has asked for it.
    buffer: OnceBox<Arc<WriteBack>>,
    #[pin]
    state: IrqLock<State>,
}

impl Remote {
    /// Nobody has kept anything of a volume of `sectors` sectors. May sleep.
    pub(crate) fn new(number: DeviceNumber, size: ChunkSize, sectors: u64) -> Result<Arc<Self>> {
        let count = size.chunks_covering(sectors);
        let ahead = size.chunks_within(MOST_AHEAD);
        let mut parked = KVVec::with_capacity(BUCKETS, GFP_KERNEL)?;
        for _ in 0..BUCKETS {
            parked.push(Bios::default(), GFP_KERNEL)?;
        }
        let ring = KVVec::from_elem(Range::default(), RANGES, GFP_KERNEL)?;
        let state = State {
            epoch: 0,
            phase: Phase::Closed,
            news: None,
            requests: Requests::new(ring, count, ahead),
            parked,
            starved: None,
            agent: None,
            agent_is_new: false,
            writers: [const { None }; DRIVERS],
            stable: 0,
            waiting: 0,
            held: 0,
            fetched: 0,
        };
        Arc::pin_init(
            try_pin_init!(Self {
                number,
                size,
                count,
                chunks: Chunks {
                    stable: bits(*count)?,
                    asked: bits(*count)?,
                },
                marker: AtomicU64::new(u64::MAX),
                closed: AtomicBool::new(false),
                writes: Epochs::new(),
                drainer <- new_mutex!((), "holey_drainer"),
                changed <- new_wait_queue!(c"holey_remote"),
                buffer: OnceBox::new(),
                state <- new_irq_lock!(state, c"holey_remote"),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// In what it counts.
    pub(crate) fn chunk(&self) -> ChunkSize {
        self.size
    }

    /// Whether it is for a volume of so many sectors.
    pub(crate) fn suits(&self, size: ChunkSize, sectors: u64) -> bool {
        self.size == size && self.count == size.chunks_covering(sectors)
    }

    /// The write-back buffer, if there is one.
    #[inline]
    pub(crate) fn buffer(&self) -> Option<&WriteBack> {
        self.buffer.get().map(|buffer| &**buffer)
    }

    /// Makes a buffer of so many MiB. `EBUSY` if there is one of another size. May sleep.
    pub(crate) fn provide_buffer(&self, mib: u32) -> Result {
        if self.buffer.get().is_none() {
            // If somebody else is quicker it is theirs that counts.
            let buffer = WriteBack::new(mib)?;
            self.buffer.set(KVBox::new(buffer, GFP_KERNEL)?);
        }
        let buffer = self.buffer().ok_or(ENOMEM)?;
        if buffer.mib() != mib {
            return Err(EBUSY);
        }
        // Otherwise whoever opens or closes the volume does.
        let state = self.state.lock();
        if state.phase == Phase::Open {
            buffer.open();
        }
        Ok(())
    }

    /// There is no target any more: what is in the buffer is lost.
    pub(crate) fn give_up(&self) {
        if let Some(buffer) = self.buffer() {
            self.say_lost(buffer.close());
        }
    }

    /// Tells that so many sectors are lost that were acknowledged.
    pub(crate) fn say_lost(&self, sectors: u64) {
        if sectors != 0 {
            pr_err!(
                "volume {}: {} sectors that were acknowledged but not flushed are lost\n",
                self.number,
                sectors
            );
        }
    }

    /// Has what is in the buffer sent that may go. Never sleeps.
    pub(crate) fn sweep(&self) {
        let state = self.state.lock();
        if let Some(writer) = state.driver() {
            Writer::sweep(writer);
        }
    }

    /// Has those looked after that wait for what is in the buffer. Never sleeps.
    pub(crate) fn attend(&self) {
        let state = self.state.lock();
        if let Some(writer) = state.driver() {
            Writer::attend(writer);
        }
    }

    /// Has both done, if there is something in the buffer.
    fn rouse(&self) {
        if self.buffer().is_some_and(|buffer| !buffer.is_idle()) {
            self.sweep();
            self.attend();
        }
    }

    /// Sleeps until what was put into the buffer up to this write has landed, or nobody is there who
    /// could let it through, or there is a signal. Returns whether it has landed.
    pub(crate) fn await_landed(&self, order: u64) -> bool {
        let landed = || self.buffer().is_none_or(|buffer| buffer.is_through(order));
        self.changed
            .wait_for_signal(|| landed() || !self.has_hope());
        landed()
    }

    /// Whether there is somebody who could let writes through.
    fn has_hope(&self) -> bool {
        self.state.lock().agent.is_some() && !self.closed.load(Ordering::Relaxed)
    }

    /// Whether a target is there that could write.
    pub(crate) fn is_driven(&self) -> bool {
        self.state.lock().driver().is_some()
    }

    /// Whether the epoch is drained and the node may write.
    pub(crate) fn is_open(&self) -> bool {
        self.state.lock().phase == Phase::Open
    }

    /// Whether a range is stable. Takes no lock.
    pub(crate) fn is_steady(&self, start: u64, sectors: u64) -> bool {
        let (first, end) = self.range(start, sectors);
        self.first_unstable(first, end).is_none()
    }

    /// Whether something is to be done for a range in the buffer: it is stable (true), or has to be
    /// asked for (false). Takes no lock.
    pub(crate) fn is_worth(&self, start: u64, sectors: u64) -> Option<bool> {
        let (first, end) = self.range(start, sectors);
        match self.first_unstable(first, end) {
            None => Some(true),
            Some(chunk) if !self.chunks.asked.is_set(chunk) => Some(false),
            Some(_) => None,
        }
    }

    /// Counts a write, before it looks whether its chunks are stable.
    pub(crate) fn enter(&self) -> Ticket {
        self.writes.enter()
    }

    /// A write has ended, or was not let through.
    pub(crate) fn leave(&self, ticket: Ticket) {
        if self.writes.leave(ticket) {
            self.changed.wake();
        }
    }

    /// Whether a range may be overwritten. Never sleeps.
    pub(crate) fn is_stable(&self, start: u64, sectors: u64) -> bool {
        let (first, end) = self.range(start, sectors);
        if self.first_unstable(first, end).is_some() {
            return false;
        }
        if (first..end).contains(&self.marker.load(Ordering::Relaxed)) {
            let mut state = self.state.lock();
            if state.phase == Phase::Open {
                state.requests.advance(&self.chunks, end);
                self.asked(&mut state);
            }
        }
        true
    }

    /// Says whether a range may be overwritten; asks for what is missing. Never sleeps.
    pub(crate) fn standing(&self, start: u64, sectors: u64) -> Standing {
        let (first, end) = self.range(start, sectors);
        if self.first_unstable(first, end).is_none() {
            return Standing::Stable;
        }
        let mut state = self.state.lock();
        let Some(chunk) = self.first_unstable(first, end) else {
            return Standing::Stable;
        };
        if self.want(&mut state, first, end) {
            Standing::Waits(chunk)
        } else {
            Standing::Full(chunk)
        }
    }

    /// Keeps a write until `chunk` is stable; returns it if that is so already.
    pub(crate) fn park(&self, chunk: u64, mut bio: Bio) -> Option<Bio> {
        let (first, end) = self.range(bio.sector(), u64::from(bio.sectors()));
        let mut state = self.state.lock();
        if self.first_unstable(chunk, chunk + 1).is_none() {
            return Some(bio);
        }
        self.want(&mut state, first, end);
        let tag = bio.data();
        tag.origin = chunk;
        if tag.role == Role::Writing {
            tag.role = Role::Held;
            state.held += 1;
        }
        state.waiting += 1;
        match state.bucket(chunk) {
            Some(bucket) => bucket.push(bio),
            None => bio.end_error(),
        }
        None
    }

    /// Sleeps until `chunk` is stable, or until `stop` says so.
    pub(crate) fn wait_for(&self, chunk: u64, stop: impl Fn() -> bool) {
        self.changed.wait_idly(|| {
            let mut state = self.state.lock();
            let stable = self.first_unstable(chunk, chunk + 1).is_none();
            if !stable {
                self.want(&mut state, chunk, chunk + 1);
            }
            drop(state);
            stable || stop()
        });
    }

    /// Makes those who wait look again.
    pub(crate) fn nudge(&self) {
        self.changed.wake();
    }

    /// The device of an outlet is being suspended: its writes go back, or, if nobody is there who
    /// could let them through, fail.
    pub(crate) fn dismiss(&self, outlet: OutletId, kind: SuspendKind) {
        for n in 0..BUCKETS {
            let mut state = self.state.lock();
            let hope = state.agent.is_some() && !self.closed.load(Ordering::Relaxed);
            if kind == SuspendKind::Flush && hope {
                return;
            }
            let Some(bucket) = state.parked.get_mut(n) else {
                return;
            };
            let mut theirs = bucket.extract(|tag| tag.outlet == outlet);
            drop(state);
            while let Some(bio) = theirs.pop() {
                match kind {
                    SuspendKind::Flush => bio.end_error(),
                    SuspendKind::NoFlush => bio.end_failed(Failure::Requeue),
                }
                self.released(1);
            }
        }
        if let Some(buffer) = self.buffer() {
            if kind == SuspendKind::NoFlush || !self.has_hope() {
                buffer.dismiss(outlet, kind);
            }
        }
    }

    /// A target is there through which epochs are drained. It looks whether there is one to drain.
    /// If there are many, some are not used for that.
    pub(crate) fn drive(&self, writer: &Arc<Writer>) {
        let mut state = self.state.lock();
        if let Some(place) = state.writers.iter_mut().find(|place| place.is_none()) {
            *place = Some(writer.clone());
        }
        drop(state);
        Writer::kick(writer);
        self.rouse();
    }

    /// The target is not there any more. Another one takes up what it has not done.
    pub(crate) fn abandon(&self, writer: &Arc<Writer>) {
        loop {
            let mut state = self.state.lock();
            let is_ours = |other: &mut Arc<Writer>| Arc::ptr_eq(other, writer);
            let mut places = state.writers.iter_mut();
            let Some(old) = places.find_map(|place| place.take_if(is_ours)) else {
                state.kick();
                drop(state);
                self.rouse();
                return;
            };
            drop(state);
            drop(old);
        }
    }

    /// An agent speaks for the copiers. `EBUSY` if one does already.
    pub(crate) fn bind(&self, agent: &Arc<Agent>) -> Result {
        let mut state = self.state.lock();
        if state.agent.is_some() {
            return Err(EBUSY);
        }
        state.agent = Some(agent.clone());
        state.agent_is_new = true;
        Ok(())
    }

    /// It does not any more.
    pub(crate) fn unbind(&self) {
        let old = self.state.lock().agent.take();
        drop(old);
    }

    /// A new epoch. `EINVAL` if there was a later one, or could be none.
    pub(crate) fn begin_epoch(&self, epoch: u64) -> Result {
        let mut state = self.state.lock();
        if epoch <= state.epoch || epoch == u64::MAX {
            return Err(EINVAL);
        }
        state.epoch = epoch;
        state.phase = Phase::Draining;
        state.agent_is_new = false;
        state.news = None;
        state.requests.clear();
        self.marker.store(u64::MAX, Ordering::Relaxed);
        state.kick();
        Ok(())
    }

    /// Waits until no write is under way that was let through before the epoch that is to be
    /// drained, which it returns. The caller holds [`Self::drainer`]. Sleeps.
    pub(crate) fn drain(&self) -> Option<u64> {
        let state = self.state.lock();
        if state.phase != Phase::Draining {
            return None;
        }
        let epoch = state.epoch;
        drop(state);
        // Nobody sets them before the phase is another. Whoever still finds one set is counted.
        self.chunks.stable.clear();
        self.chunks.asked.clear();
        let old = self.writes.turn();
        self.changed.wait_until(|| self.writes.is_quiet(old));
        Some(epoch)
    }

    /// The epoch is drained; whether the volume has then taken a write.
    pub(crate) fn drained(&self, epoch: u64, taken: bool) {
        let mut state = self.state.lock();
        if state.epoch != epoch || state.phase != Phase::Draining {
            return;
        }
        state.stable = 0;
        let mut lost = 0;
        if taken {
            if let Some(buffer) = self.buffer() {
                buffer.open();
            }
            state.phase = Phase::Open;
            state.news = Some(Event::Drained { epoch });
            state.starved = Some(0);
        } else {
            state.phase = Phase::Closed;
            state.news = Some(Event::Fenced { epoch });
            lost = self.buffer().map_or(0, WriteBack::close);
        }
        self.closed.store(!taken, Ordering::Release);
        state.wake_agent();
        drop(state);
        self.say_lost(lost);
        self.rouse();
        self.ask_again();
        self.changed.wake();
    }

    /// The volume has refused a write because of a reservation: none is let through any more. Atomic
    /// context.
    pub(crate) fn refused(&self) {
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            let epoch = state.epoch;
            state.phase = Phase::Closed;
            self.closed.store(true, Ordering::Release);
            state.news = Some(Event::Fenced { epoch });
            state.wake_agent();
            let lost = self.buffer().map_or(0, WriteBack::close);
            drop(state);
            self.say_lost(lost);
            self.rouse();
            self.changed.wake();
        }
    }

    /// The part of a range that the volume has.
    pub(crate) fn within(&self, range: Range) -> Range {
        let end = range.end().min(self.count);
        Range {
            first: range.first,
            len: end.saturating_sub(range.first),
        }
    }

    /// These chunks, no more than [`SLICE`] and all of the volume, are stable, if the epoch is still this.
    /// Returns the writes that waited for them.
    pub(crate) fn settle(&self, epoch: u64, range: Range) -> Bios {
        let mut ready = Bios::default();
        let range = self.within(range);
        let end = range.end();
        let mut state = self.state.lock();
        if epoch != state.epoch || state.phase != Phase::Open || state.agent_is_new {
            return ready;
        }
        state.stable += self.chunks.stable.set(range);
        if range.len < BUCKETS as u64 {
            for chunk in range.first..end {
                if let Some(bucket) = state.bucket(chunk).filter(|bucket| !bucket.is_empty()) {
                    ready.append(&mut bucket.extract(|tag| tag.origin == chunk));
                }
            }
        } else {
            for bucket in state.parked.iter_mut() {
                ready.append(&mut bucket.extract(|tag| (range.first..end).contains(&tag.origin)));
            }
        }
        drop(state);
        if self.buffer().is_some_and(|buffer| !buffer.is_idle()) {
            self.sweep();
        }
        self.changed.wake();
        ready
    }

    /// So many writes do not wait any more.
    pub(crate) fn released(&self, count: u64) {
        let mut state = self.state.lock();
        state.waiting = state.waiting.saturating_sub(count);
    }

    /// What the agent is to know next, as long as `accept` takes it.
    pub(crate) fn fetch(&self, mut accept: impl FnMut(Event) -> bool) {
        let mut state = self.state.lock();
        if let Some(news) = state.news {
            if !accept(news) {
                return;
            }
            state.news = None;
        }
        if state.agent_is_new {
            return;
        }
        let epoch = state.epoch;
        let fetched = state
            .requests
            .fetch(|range| accept(Event::Need { epoch, range }));
        state.fetched += fetched as u64;
        drop(state);
        if fetched != 0 {
            self.ask_again();
            if self.buffer().is_some_and(WriteBack::was_starved) {
                self.sweep();
            }
            self.changed.wake();
        }
    }

    /// Whether there is something for the agent.
    pub(crate) fn has_events(&self) -> bool {
        let state = self.state.lock();
        state.news.is_some() || !state.requests.is_empty() && !state.agent_is_new
    }

    /// How things are.
    pub(crate) fn figures(&self) -> Figures {
        let state = self.state.lock();
        Figures {
            epoch: state.epoch,
            phase: state.phase,
            agent: state.agent.is_some(),
            stable: state.stable,
            chunks: self.count,
            waiting: state.waiting,
            held: state.held,
            requests: state.fetched,
            in_flight: self.writes.under_way(),
        }
    }

    /// The chunks that a range touches: the first one, and the one behind the last.
    fn range(&self, start: u64, sectors: u64) -> (u64, u64) {
        let end = self.size.chunks_covering(start.saturating_add(sectors));
        (self.size.chunk_of(start), end.min(self.count))
    }

    /// The first chunk that may not be overwritten.
    fn first_unstable(&self, first: u64, end: u64) -> Option<u64> {
        if self.closed.load(Ordering::Acquire) {
            return (first < end).then_some(first);
        }
        self.chunks.stable.first_clear(first, end)
    }

    /// Asks the agent for what is missing, if it is time for that. False if there is no room.
    fn want(&self, state: &mut State, first: u64, end: u64) -> bool {
        if state.phase != Phase::Open {
            // All that waits is asked for when it is.
            return true;
        }
        let all = state.requests.want(&self.chunks, first, end);
        if !all {
            state.starved = Some(0);
        }
        self.asked(state);
        all
    }

    fn asked(&self, state: &mut State) {
        self.marker
            .store(state.requests.marker(), Ordering::Relaxed);
        if !state.requests.is_empty() {
            state.wake_agent();
        }
    }

    /// Asks for what writes wait for that could not ask, one list under one hold of the lock.
    fn ask_again(&self) {
        loop {
            let mut state = self.state.lock();
            let Some(n) = state.starved.take().filter(|_| state.phase == Phase::Open) else {
                return;
            };
            let Some(bucket) = state.parked.get_mut(n) else {
                return;
            };
            let mut bios = mem::take(bucket);
            let mut all = true;
            while let Some(bio) = bios.pop() {
                let (first, end) = self.range(bio.sector(), u64::from(bio.sectors()));
                all = all && state.requests.want(&self.chunks, first, end);
                if let Some(bucket) = state.parked.get_mut(n) {
                    bucket.push(bio);
                }
            }
            self.asked(&mut state);
            state.starved = Some(if all { n + 1 } else { n });
            if !all {
                return;
            }
        }
    }
}

impl State {
    fn bucket(&mut self, chunk: u64) -> Option<&mut Bios> {
        self.parked.get_mut((chunk % BUCKETS as u64) as usize)
    }

    /// Has an epoch drained, if there is one to drain. Under the lock: who tears a target down comes
    /// after this.
    fn kick(&self) {
        if let Some(writer) = self.driver() {
            Writer::kick(writer);
        }
    }

    fn driver(&self) -> Option<&Arc<Writer>> {
        self.writers.iter().flatten().next()
    }

    fn wake_agent(&self) {
        if let Some(agent) = &self.agent {
            agent.wake();
        }
    }
}

fn bits(count: u64) -> Result<Bits<KVVec<AtomicU64>>> {
    let words = Bits::<KVVec<AtomicU64>>::words_for(count);
    if words > MOST_WORDS {
        return Err(EFBIG);
    }
    let words = usize::try_from(words)?;
    let mut memory = KVVec::with_capacity(words, GFP_KERNEL)?;
    for _ in 0..words {
        memory.push(AtomicU64::new(0), GFP_KERNEL)?;
    }
    Ok(Bits::new(memory))
}
