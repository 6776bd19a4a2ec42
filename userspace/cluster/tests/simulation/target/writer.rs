// SPDX-License-Identifier: GPL-2.0-or-later

//! The writer's target: `kmod/writer.rs`.

use super::merge::Merge;
use super::remote::Phase;
use super::remote::Remote;
use super::remote::Standing;
use super::write_back;
use super::write_back::WriteBack;
use super::Cause;
use super::Chunk;
use super::Effect;
use super::Landing;
use super::Settings;
use super::Target;
use super::Value;
use super::Work;
use super::Write;
use dmholey_cluster::ids::Ballot;
use dmholey_cluster::ids::Epoch;
use dmholey_cluster::ids::Range;
use holey_core::buffer::Piece;
use holey_core::epoch::Ticket;
use std::collections::BTreeMap;

/// Chunks that the buffer takes at a time.
const MOST_TAKEN: u64 = 2;

/// What a write to the volume is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Job {
    Piece(Write, Ticket),
    Flight(Piece, Ticket),
    /// A window of a merge: nobody counts it.
    Merge,
}

/// Chunks of a write to the volume that have not landed.
#[derive(Debug)]
pub(super) struct UnderWay {
    job: Job,
    chunks: usize,
    landing: Landing,
}

pub(crate) struct Writer {
    pub(crate) ballot: Ballot,
    pub(super) remote: Remote,
    pub(super) buffer: Option<WriteBack>,
    pub(super) merge: Merge,
    pub(super) jobs: BTreeMap<u64, UnderWay>,
    next_job: u64,
    pub(super) demoting: bool,
}

impl Writer {
    pub(super) fn new(ballot: Ballot, settings: &Settings) -> Self {
        Self {
            ballot,
            remote: Remote::new(settings),
            buffer: settings.buffer.map(WriteBack::new),
            merge: Merge::new(),
            jobs: BTreeMap::new(),
            next_job: 0,
            demoting: false,
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.remote.epoch
    }

    /// Chunks that were acknowledged and are in memory only.
    pub(crate) fn buffered(&self) -> usize {
        self.buffer.as_ref().map_or(0, WriteBack::used)
    }

    pub(super) fn held(&self) -> usize {
        let buffer = self.buffer.as_ref().map_or(0, WriteBack::waiting);
        self.remote.held() + self.merge.held() + buffer
    }

    /// Chunks of a write that it takes at a time.
    pub(super) fn longest(&self) -> u64 {
        if self.buffer.is_some() {
            MOST_TAKEN
        } else {
            u64::MAX
        }
    }

    pub(super) fn send(
        &mut self,
        values: &[(Chunk, Value)],
        cause: Cause,
        job: Job,
        out: &mut Vec<Effect>,
    ) {
        self.next_job += 1;
        let under_way = UnderWay {
            job,
            chunks: values.len(),
            landing: Landing::Done,
        };
        self.jobs.insert(self.next_job, under_way);
        let write = |&(chunk, value)| Effect::Write(self.next_job, chunk, value, cause);
        out.extend(values.iter().map(write));
    }

    fn send_piece(&mut self, write: Write, ticket: Ticket, out: &mut Vec<Effect>) {
        let values: Vec<_> = (write.first..write.end)
            .map(|chunk| (chunk, write.value))
            .collect();
        let job = Job::Piece(write, ticket);
        self.send(&values, Cause::Application, job, out);
    }

    /// Counts a write if it may go at once.
    fn let_through(&mut self, first: Chunk, end: Chunk, out: &mut Vec<Effect>) -> Option<Ticket> {
        let ticket = self.remote.enter();
        if self.remote.is_stable(first, end, out) {
            return Some(ticket);
        }
        self.leave(ticket, out);
        None
    }

    fn leave(&mut self, ticket: Ticket, out: &mut Vec<Effect>) {
        self.remote.leave(ticket);
        let quiet = self.remote.look_quiet();
        self.probe(quiet, out);
    }

    fn probe(&mut self, epoch: Option<Epoch>, out: &mut Vec<Effect>) {
        let Some(epoch) = epoch else {
            return;
        };
        if self.merge.is_done() {
            out.push(Effect::Probe(epoch));
        } else {
            out.push(Effect::Count("epochs without a probe"));
            self.probed(epoch, true, out);
        }
    }

    pub(super) fn drain(&mut self, out: &mut Vec<Effect>) {
        let quiet = self.remote.drain();
        self.probe(quiet, out);
    }

    fn probed(&mut self, epoch: Epoch, taken: bool, out: &mut Vec<Effect>) {
        match self.remote.probed(epoch, taken, out) {
            Some(true) => {
                out.push(Effect::Drained(self.ballot, epoch));
                if let Some(buffer) = &mut self.buffer {
                    buffer.open();
                }
            }
            Some(false) => self.close(out),
            None => {}
        }
        self.rouse(out);
        self.remote.ask_again(out);
        self.drain(out);
    }

    fn close(&mut self, out: &mut Vec<Effect>) {
        if let Some(buffer) = &mut self.buffer {
            buffer.close(out);
        }
    }

    fn rouse(&mut self, out: &mut Vec<Effect>) {
        if self.buffer.as_ref().is_some_and(|buffer| !buffer.is_idle()) {
            out.push(Effect::Work(Work::Sweep));
            out.push(Effect::Work(Work::Attend));
        }
    }

    fn refused(&mut self, out: &mut Vec<Effect>) {
        if self.remote.refused(out) {
            self.close(out);
            self.rouse(out);
        }
    }

    /// Says whether a write has ended at once, as the buffer has it.
    pub(super) fn write(&mut self, write: Write, out: &mut Vec<Effect>) -> bool {
        let overlaps = |buffer: &WriteBack| buffer.overlaps(write.first, write.end);
        if !self.buffer.as_ref().is_some_and(overlaps) {
            if let Some(ticket) = self.let_through(write.first, write.end, out) {
                self.send_piece(write, ticket, out);
                return false;
            }
        }
        // While an overlay is merged, writes come through the merge.
        if self.merge.is_done() && !write.fua {
            if let Some(buffer) = self.buffer.as_mut() {
                if buffer.put(write) {
                    out.push(Effect::Count("pieces buffered"));
                    self.ask(write.first, write.end, out);
                    return true;
                }
            }
        }
        self.hold(write, out);
        false
    }

    fn hold(&mut self, mut write: Write, out: &mut Vec<Effect>) {
        if let Some(buffer) = self.buffer.as_mut().filter(|_| self.merge.is_done()) {
            match buffer.park(write) {
                Some(other) => write = other,
                None => {
                    out.push(Effect::Count("writes behind what is buffered"));
                    return;
                }
            }
        }
        self.admit(write, out);
    }

    /// Keeps a write until it can go, or sends it.
    pub(super) fn admit(&mut self, write: Write, out: &mut Vec<Effect>) {
        let ticket = self.remote.enter();
        match self.remote.standing(write.first, write.end, out) {
            Standing::Stable => self.send_piece(write, ticket, out),
            Standing::Waits(chunk) | Standing::Full(chunk) => {
                self.leave(ticket, out);
                self.remote.park(chunk, write, out);
            }
        }
    }

    /// Asks for what the buffer needs.
    fn ask(&mut self, first: Chunk, end: Chunk, out: &mut Vec<Effect>) {
        let standing = self.remote.standing(first, end, out);
        if let (Standing::Full(_), Some(buffer)) = (standing, &mut self.buffer) {
            buffer.starved = true;
        }
        if standing == Standing::Stable {
            out.push(Effect::Work(Work::Sweep));
        }
    }

    /// Sends what may go from the buffer.
    pub(super) fn sweep(&mut self, out: &mut Vec<Effect>) {
        if self.remote.phase != Phase::Open {
            return;
        }
        if let Some(buffer) = &mut self.buffer {
            buffer.rewind();
        }
        while let Some(piece) = self.next_buffered() {
            let chunks = write_back::chunks(piece);
            let Some(ticket) = self.let_through(chunks.start, chunks.end, out) else {
                self.ask(chunks.start, chunks.end, out);
                continue;
            };
            let Some((sent, values)) = self.buffer.as_mut().and_then(|buffer| buffer.fly(piece))
            else {
                self.leave(ticket, out);
                continue;
            };
            let values: Vec<_> = write_back::chunks(sent).zip(values).collect();
            self.send(&values, Cause::Buffer, Job::Flight(sent, ticket), out);
        }
    }

    fn next_buffered(&mut self) -> Option<Piece> {
        let remote = &self.remote;
        let buffer = self.buffer.as_mut()?;
        buffer.next(|first, end| remote.is_worth(first, end))
    }

    pub(super) fn attend(&mut self, out: &mut Vec<Effect>) {
        let behind = self.buffer.as_mut().map(|buffer| buffer.attend(out));
        for write in behind.unwrap_or_default() {
            self.hold(write, out);
        }
    }

    /// Is to end: the writes that fail for that.
    pub(super) fn demote(&mut self, out: &mut Vec<Effect>) -> Vec<Write> {
        self.demoting = true;
        let mut failed = self.remote.dismiss();
        if let Some(buffer) = &mut self.buffer {
            failed.extend(buffer.dismiss(out));
        }
        self.close(out);
        failed
    }
}

impl Target {
    /// Does what it wanted to do.
    pub(crate) fn work(&mut self, work: Work, fetched: usize, out: &mut Vec<Effect>) {
        let Some(writer) = &mut self.writer else {
            return;
        };
        match work {
            Work::Drain => writer.drain(out),
            Work::Sweep => writer.sweep(out),
            Work::Attend => writer.attend(out),
            Work::Fetch => {
                let (fenced, made_room) = writer.remote.fetch(fetched, out);
                if let Some(buffer) = writer.buffer.as_mut().filter(|_| made_room) {
                    if std::mem::take(&mut buffer.starved) {
                        out.push(Effect::Work(Work::Sweep));
                    }
                }
                if fenced {
                    out.push(Effect::Count("fenced, says the target"));
                    self.demote(out);
                    return;
                }
                // Who waited for room in the ring looks again.
                self.merge(out);
            }
        }
    }

    /// Its agent has no room for what it needs.
    pub(crate) fn fetch_later(&mut self, out: &mut Vec<Effect>) {
        if let Some(writer) = &mut self.writer {
            writer.remote.fetch_later(out);
        }
    }

    /// The volume has taken a probe, or has not.
    pub(crate) fn probed(&mut self, epoch: Epoch, taken: bool, out: &mut Vec<Effect>) {
        if let Some(writer) = &mut self.writer {
            writer.probed(epoch, taken, out);
            self.merge(out);
        }
    }

    pub(crate) fn stable(&mut self, epoch: Epoch, ranges: &[Range], out: &mut Vec<Effect>) {
        let Some(writer) = self.writer.as_mut() else {
            return;
        };
        for &range in ranges {
            for write in writer.remote.settle(epoch, range) {
                writer.admit(write, out);
            }
        }
        if writer
            .buffer
            .as_ref()
            .is_some_and(|buffer| !buffer.is_idle())
        {
            out.push(Effect::Work(Work::Sweep));
        }
        self.merge(out);
    }

    /// A chunk of a write to the volume has landed.
    pub(crate) fn landed(&mut self, job: u64, landing: Landing, out: &mut Vec<Effect>) {
        let Some(writer) = &mut self.writer else {
            return;
        };
        let Some(under_way) = writer.jobs.get_mut(&job) else {
            return;
        };
        under_way.chunks -= 1;
        if landing != Landing::Done && under_way.landing != Landing::Refused {
            under_way.landing = landing;
        }
        if under_way.chunks > 0 {
            return;
        }
        let (what, landing) = (under_way.job, under_way.landing);
        writer.jobs.remove(&job);
        let well = landing == Landing::Done;
        if landing == Landing::Refused {
            writer.refused(out);
        }
        match what {
            Job::Piece(write, ticket) => {
                writer.leave(ticket, out);
                self.ends(write, well, false, out);
            }
            Job::Flight(piece, ticket) => {
                if let Some(buffer) = &mut writer.buffer {
                    buffer.landed(piece, well, out);
                }
                writer.leave(ticket, out);
            }
            Job::Merge => self.window_ends(well, out),
        }
        self.end_demoted(out);
    }
}
