// SPDX-License-Identifier: GPL-2.0-or-later

//! What a writer's target knows of the copiers: `kmod/remote.rs`, over the same bits, ring and counts.

use super::Effect;
use super::Settings;
use super::Work;
use super::Write;
use dmholey_cluster::event::Input;
use dmholey_cluster::ids::Epoch;
use dmholey_cluster::ids::Range;
use holey_core::epoch::Epochs;
use holey_core::epoch::Ticket;
use holey_core::stable;
use holey_core::stable::Bits;
use holey_core::stable::Chunks;
use holey_core::stable::Requests;
use std::mem;
use std::sync::atomic::AtomicU64;

/// Lists of waiting writes, by chunk: few, so that several chunks share one.
const BUCKETS: usize = 8;
/// No write meets this.
const NOWHERE: u64 = u64::MAX;

/// What a write waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Stable,
    Waits(u64),
    Full(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Closed,
    Draining,
    Open,
}

#[derive(Clone, Copy, Debug)]
enum News {
    Drained(Epoch),
    Fenced,
}

/// What the one who drains is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drainer {
    Idle,
    Waits(Epoch, Ticket),
    Probes(Epoch),
}

/// The copiers, seen from their writer.
pub(super) struct Remote {
    pub(super) epoch: Epoch,
    pub(super) phase: Phase,
    /// Nothing may be overwritten, whatever the bits say.
    closed: bool,
    chunks: Chunks<Vec<AtomicU64>>,
    requests: Requests<Vec<stable::Range>>,
    marker: u64,
    /// Writes, by the chunk that each waits for.
    parked: Vec<Vec<(u64, Write)>>,
    /// The first list of which somebody could not ask for what it waits for.
    starved: Option<usize>,
    /// There is an agent.
    pub(super) bound: bool,
    agent_is_new: bool,
    news: Option<News>,
    writes: Epochs,
    drainer: Drainer,
    /// The agent has been woken and has not come yet.
    woken: bool,
}

impl Remote {
    pub(super) fn new(settings: &Settings) -> Self {
        let bits = || {
            let words = Bits::<Vec<AtomicU64>>::words_for(settings.chunks);
            Bits::new((0..words).map(|_| AtomicU64::new(0)).collect())
        };
        let ring = vec![stable::Range::default(); settings.ring];
        Self {
            epoch: Epoch(0),
            phase: Phase::Closed,
            closed: false,
            chunks: Chunks {
                stable: bits(),
                asked: bits(),
            },
            requests: Requests::new(ring, settings.chunks, settings.most_ahead),
            marker: NOWHERE,
            parked: vec![Vec::new(); BUCKETS],
            starved: None,
            bound: false,
            agent_is_new: false,
            news: None,
            writes: Epochs::new(),
            drainer: Drainer::Idle,
            woken: false,
        }
    }

    /// Writes that wait.
    pub(super) fn held(&self) -> usize {
        self.parked.iter().map(Vec::len).sum()
    }

    // --- the agent ---

    pub(super) fn bind(&mut self) {
        self.bound = true;
        self.agent_is_new = true;
        self.woken = false;
    }

    pub(super) fn unbind(&mut self) {
        self.bound = false;
    }

    pub(super) fn wake(&mut self, out: &mut Vec<Effect>) {
        if self.bound && !mem::replace(&mut self.woken, true) {
            out.push(Effect::Work(Work::Fetch));
        }
    }

    /// What the agent is to know next, up to `most` ranges. Says whether the node is fenced, and whether something was
    /// fetched that others have waited to have room for.
    pub(super) fn fetch(&mut self, most: usize, out: &mut Vec<Effect>) -> (bool, bool) {
        self.woken = false;
        if !self.bound {
            return (false, false);
        }
        match self.news.take() {
            Some(News::Drained(epoch)) => out.push(Effect::Tell(Input::Drained(epoch))),
            Some(News::Fenced) => return (true, false),
            None => {}
        }
        if self.agent_is_new {
            return (false, false);
        }
        let mut ranges: Vec<Range> = Vec::new();
        let fetched = self.requests.fetch(|range| {
            let room = ranges.len() < most;
            if room {
                ranges.push(from_kernel(range));
            }
            room
        });
        if fetched == 0 {
            return (false, false);
        }
        if ranges.iter().any(|range| range.len > 1) {
            out.push(Effect::Count("ranges of several chunks"));
        }
        out.push(Effect::Tell(Input::Need(self.epoch, ranges)));
        self.ask_again(out);
        if !self.requests.is_empty() {
            self.wake(out);
        }
        (false, true)
    }

    /// It has not taken what there is.
    pub(super) fn fetch_later(&mut self, out: &mut Vec<Effect>) {
        if !self.requests.is_empty() {
            self.wake(out);
        }
    }

    // --- epochs ---

    pub(super) fn begin_epoch(&mut self, epoch: Epoch, out: &mut Vec<Effect>) {
        if epoch <= self.epoch {
            return;
        }
        self.epoch = epoch;
        self.phase = Phase::Draining;
        self.agent_is_new = false;
        self.news = None;
        self.requests.clear();
        self.marker = NOWHERE;
        out.push(Effect::Work(Work::Drain));
    }

    /// Begins to drain, if there is an epoch to drain and nobody does. Says which is to be probed.
    pub(super) fn drain(&mut self) -> Option<Epoch> {
        if self.phase != Phase::Draining || self.drainer != Drainer::Idle {
            return None;
        }
        self.chunks.stable.clear();
        self.chunks.asked.clear();
        self.drainer = Drainer::Waits(self.epoch, self.writes.turn());
        self.look_quiet()
    }

    /// Says which epoch is to be probed, if its turn is quiet now.
    pub(super) fn look_quiet(&mut self) -> Option<Epoch> {
        let Drainer::Waits(epoch, old) = self.drainer else {
            return None;
        };
        if !self.writes.is_quiet(old) {
            return None;
        }
        self.drainer = Drainer::Probes(epoch);
        Some(epoch)
    }

    /// Whether the volume has taken the probe of an epoch. Says how that ended, if it is still of interest.
    pub(super) fn probed(
        &mut self,
        epoch: Epoch,
        taken: bool,
        out: &mut Vec<Effect>,
    ) -> Option<bool> {
        if self.drainer != Drainer::Probes(epoch) {
            return None;
        }
        self.drainer = Drainer::Idle;
        if self.epoch != epoch || self.phase != Phase::Draining {
            return None;
        }
        if taken {
            self.phase = Phase::Open;
            self.news = Some(News::Drained(epoch));
            self.starved = Some(0);
        } else {
            self.phase = Phase::Closed;
            self.news = Some(News::Fenced);
        }
        self.closed = !taken;
        self.wake(out);
        Some(taken)
    }

    /// The volume has refused a write because of who sent it. Says whether that is news.
    pub(super) fn refused(&mut self, out: &mut Vec<Effect>) -> bool {
        let news = self.phase == Phase::Open;
        if news {
            self.phase = Phase::Closed;
            self.closed = true;
            self.news = Some(News::Fenced);
            self.wake(out);
        }
        news
    }

    // --- writes ---

    pub(super) fn enter(&self) -> Ticket {
        self.writes.enter()
    }

    pub(super) fn leave(&self, ticket: Ticket) {
        self.writes.leave(ticket);
    }

    fn first_unstable(&self, first: u64, end: u64) -> Option<u64> {
        if self.closed {
            return (first < end).then_some(first);
        }
        self.chunks.stable.first_clear(first, end)
    }

    /// See `Remote::is_worth` of the kernel.
    pub(super) fn is_worth(&self, first: u64, end: u64) -> Option<bool> {
        match self.first_unstable(first, end) {
            None => Some(true),
            Some(chunk) if !self.chunks.asked.is_set(chunk) => Some(false),
            Some(_) => None,
        }
    }

    /// Whether a range may be overwritten; asks further ahead where that is due.
    pub(super) fn is_stable(&mut self, first: u64, end: u64, out: &mut Vec<Effect>) -> bool {
        if self.first_unstable(first, end).is_some() {
            return false;
        }
        if (first..end).contains(&self.marker) && self.phase == Phase::Open {
            out.push(Effect::Count("ranges asked ahead"));
            self.requests.advance(&self.chunks, end);
            self.asked(out);
        }
        true
    }

    pub(super) fn standing(&mut self, first: u64, end: u64, out: &mut Vec<Effect>) -> Standing {
        let Some(chunk) = self.first_unstable(first, end) else {
            return Standing::Stable;
        };
        if self.want(first, end, out) {
            Standing::Waits(chunk)
        } else {
            Standing::Full(chunk)
        }
    }

    /// Keeps a write until `chunk` is stable.
    pub(super) fn park(&mut self, chunk: u64, write: Write, out: &mut Vec<Effect>) {
        self.want(write.first, write.end, out);
        self.bucket(chunk).push((chunk, write));
    }

    /// These chunks are stable, if the epoch is still this. The writes that waited for them.
    pub(super) fn settle(&mut self, epoch: Epoch, range: Range) -> Vec<Write> {
        if epoch != self.epoch || self.phase != Phase::Open || self.agent_is_new {
            return Vec::new();
        }
        self.chunks.stable.set(to_kernel(range));
        let mut ready = Vec::new();
        for chunk in range.chunks() {
            let bucket = self.bucket(chunk);
            let theirs = bucket.iter().filter(|(origin, _)| *origin == chunk);
            ready.extend(theirs.map(|&(_, write)| write));
            bucket.retain(|(origin, _)| *origin != chunk);
        }
        ready
    }

    /// Nobody will let them through.
    pub(super) fn dismiss(&mut self) -> Vec<Write> {
        let parked = self.parked.iter_mut().flat_map(mem::take);
        parked.map(|(_, write)| write).collect()
    }

    fn want(&mut self, first: u64, end: u64, out: &mut Vec<Effect>) -> bool {
        if self.phase != Phase::Open {
            return true;
        }
        let all = self.requests.want(&self.chunks, first, end);
        if !all {
            out.push(Effect::Count("no room in the ring"));
            self.starved = Some(0);
        }
        self.asked(out);
        all
    }

    fn asked(&mut self, out: &mut Vec<Effect>) {
        self.marker = self.requests.marker();
        if !self.requests.is_empty() {
            self.wake(out);
        }
    }

    /// Asks for what writes wait for that could not ask.
    pub(super) fn ask_again(&mut self, out: &mut Vec<Effect>) {
        while self.phase == Phase::Open {
            let Some(n) = self.starved.take().filter(|&n| n < BUCKETS) else {
                return;
            };
            let mut all = true;
            for &(_, write) in &self.parked[n] {
                all = all && self.requests.want(&self.chunks, write.first, write.end);
            }
            self.asked(out);
            self.starved = Some(if all { n + 1 } else { n });
            if !all {
                return;
            }
        }
    }

    fn bucket(&mut self, chunk: u64) -> &mut Vec<(u64, Write)> {
        &mut self.parked[chunk as usize % BUCKETS]
    }
}

fn to_kernel(range: Range) -> stable::Range {
    stable::Range {
        first: range.first,
        len: range.len.into(),
    }
}

fn from_kernel(range: stable::Range) -> Range {
    Range {
        first: range.first,
        len: u32::try_from(range.len).unwrap(),
    }
}
