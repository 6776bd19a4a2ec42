// SPDX-License-Identifier: GPL-2.0-or-later

//! The target in the kernel of a node, and what its agent does with it.
//!
//! What it does to the volume it says as an [`Effect`]; the world does it, with delays, and tells it of the end.

mod merge;
mod remote;
mod write_back;
mod writer;

use dmholey_cluster::event::Before;
use dmholey_cluster::event::Content;
use dmholey_cluster::event::Input;
use dmholey_cluster::ids::Attachment;
use dmholey_cluster::ids::Ballot;
use dmholey_cluster::ids::Epoch;
use dmholey_cluster::ids::Range;
use dmholey_cluster::ids::Seq;
use std::collections::BTreeMap;
pub(crate) use writer::Writer;

pub(crate) type Chunk = u64;
pub(crate) type Value = u64;
pub(crate) type Overlay = BTreeMap<Chunk, Value>;

/// What differs from seed to seed, and not from node to node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Chunks of the volume.
    pub(crate) chunks: u64,
    /// Ranges that wait for an agent, at most.
    pub(crate) ring: usize,
    /// How far ahead of a sequential writer is asked.
    pub(crate) most_ahead: u64,
    /// Ranges that an agent fetches at a time.
    pub(crate) fetched: usize,
    /// Requests that a writer's agent has unanswered, at most.
    pub(crate) most_requests: usize,
    /// Chunks of the write-back buffer, if there is one.
    pub(crate) buffer: Option<usize>,
    /// Chunks of the longest write.
    pub(crate) longest: u64,
    /// The volume fails, now and then.
    pub(crate) errors: bool,
}

/// Who waits for a write to the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Application,
    Buffer,
    Merge,
}

/// How a write to the volume has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Landing {
    Done,
    Failed,
    /// Because of who sent it.
    Refused,
}

/// A piece of a write of the application: all its chunks get the same value, which no other write has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    pub(crate) first: Chunk,
    /// Behind the last one.
    pub(crate) end: Chunk,
    pub(crate) value: Value,
    /// It has to be on the volume when it ends.
    pub(crate) fua: bool,
}

/// What a target does in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Drain,
    Sweep,
    Attend,
    /// Its agent fetches what it is to know.
    Fetch,
}

/// What a target wants of the world.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Writes one chunk of a write to the volume.
    Write(u64, Chunk, Value, Cause),
    /// Tells its agent.
    Tell(Input),
    /// A write of the application has ended, well or not, and whether some of it is in the buffer only.
    Written(Write, bool, bool),
    /// So has a flush.
    Flushed(u64, bool),
    /// What was acknowledged of these chunks, and was not flushed, is lost.
    Lost(Vec<Chunk>),
    /// The chunks of this request are to be read from the volume.
    Keep(Ballot, Seq, Range),
    /// Writes what changes nothing, to see whether the volume takes it.
    Probe(Epoch),
    /// The writes of older epochs have ended: whoever joined sees the volume as it is now.
    Drained(Ballot, Epoch),
    /// A part of the overlay is in the volume.
    Listed,
    /// All of it is.
    Merged,
    /// It could not be written there.
    MergeFailed,
    /// Soon.
    Work(Work),
    Count(&'static str),
}

/// A write of the application that has not ended.
#[derive(Debug)]
struct Open {
    write: Write,
    pieces: usize,
    well: bool,
    buffered: bool,
}

/// A target, or none.
#[derive(Default)]
pub(crate) struct Target {
    pub(crate) attachment: Option<Attachment>,
    pub(crate) serving: bool,
    /// The application gets errors.
    pub(crate) ended: bool,
    /// That is because the overlay is lost: also for reads that have begun before.
    pub(crate) lost: bool,
    /// It is to go when nothing is read through it any more; its agent is told this then.
    leaving: Option<Input>,
    pub(crate) followed: Ballot,
    pub(crate) overlay: Overlay,
    /// Reads that are on their way to the volume.
    pub(crate) reading: BTreeMap<Chunk, u32>,
    pub(crate) writer: Option<Box<Writer>>,
    writes: BTreeMap<Value, Open>,
}

impl Target {
    pub(crate) fn attach(attachment: Attachment) -> Self {
        Self {
            attachment: Some(attachment),
            ..Self::default()
        }
    }

    /// What an agent finds that has just started.
    pub(crate) fn before(&self) -> Before {
        match (&self.writer, self.attachment) {
            (Some(writer), _) => {
                Before::Writer(writer.ballot, writer.epoch(), !writer.merge.is_done())
            }
            (None, Some(attachment)) if self.serving && !self.ended => {
                Before::Copier(attachment, self.followed)
            }
            _ => Before::Nothing,
        }
    }

    /// Whether the application can use it.
    pub(crate) fn is_usable(&self) -> bool {
        self.writer
            .as_ref()
            .map_or(self.serving && !self.ended, |writer| !writer.demoting)
    }

    pub(crate) fn is_writer(&self) -> bool {
        self.writer.is_some()
    }

    pub(crate) fn is_merging(&self) -> bool {
        self.is_writer() && !self.overlay.is_empty()
    }

    /// Its agent has ended it, and reads are waited for.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Writes that wait, and flushes.
    pub(crate) fn held(&self) -> usize {
        self.writer.as_ref().map_or(0, |writer| writer.held())
    }

    // --- the writer's ---

    /// Whether it has what is to become the volume.
    pub(crate) fn has(&self, content: Content, listed: bool) -> bool {
        match content {
            Content::Volume => self.writer.is_none(),
            Content::View => self.attachment.is_some() && !self.ended,
            Content::List => self.writer.is_none() && listed,
            Content::AsItIs => self.writer.is_some(),
        }
    }

    /// Becomes the writer's, with what is in the overlay still to be merged.
    pub(crate) fn promote(
        &mut self,
        ballot: Ballot,
        epoch: Epoch,
        settings: &Settings,
        out: &mut Vec<Effect>,
    ) {
        self.attachment = None;
        self.serving = true;
        if let Some(writer) = &mut self.writer {
            writer.ballot = ballot;
        } else {
            self.writer = Some(Box::new(Writer::new(ballot, settings)));
        }
        if let Some(writer) = &mut self.writer {
            writer.remote.bind();
        }
        self.turn(epoch, out);
        self.merge(out);
    }

    /// It cannot: it ends.
    pub(crate) fn refuse(&mut self, ballot: Ballot, out: &mut Vec<Effect>) {
        if let Some(writer) = &mut self.writer {
            writer.ballot = ballot;
            self.demote(out);
        } else {
            self.leave(Input::Demoted(ballot), out);
        }
    }

    /// A new epoch.
    pub(crate) fn turn(&mut self, epoch: Epoch, out: &mut Vec<Effect>) {
        if let Some(writer) = &mut self.writer {
            writer.remote.begin_epoch(epoch, out);
        }
    }

    /// Its agent has ended.
    pub(crate) fn unbind(&mut self) {
        if let Some(writer) = &mut self.writer {
            writer.remote.unbind();
        }
    }

    pub(crate) fn demote(&mut self, out: &mut Vec<Effect>) {
        let Some(writer) = &mut self.writer else {
            return;
        };
        let failed = writer.demote(out);
        for write in failed {
            self.ends(write, false, false, out);
        }
        self.end_demoted(out);
    }

    fn end_demoted(&mut self, out: &mut Vec<Effect>) {
        let is_over = |writer: &Writer| writer.demoting && writer.jobs.is_empty();
        if let Some(ballot) = self
            .writer
            .as_ref()
            .filter(|writer| is_over(writer) && self.reading.is_empty())
            .map(|writer| writer.ballot)
        {
            out.push(Effect::Tell(Input::Demoted(ballot)));
            self.writer = None;
            self.serving = false;
        }
    }

    // --- the application ---

    /// The application writes. A copier's write, and one to what is still to be merged, ends at once.
    pub(crate) fn write(&mut self, write: Write, out: &mut Vec<Effect>) {
        let pieces = self.pieces(write);
        let open = Open {
            write,
            pieces: pieces.len(),
            well: true,
            buffered: false,
        };
        self.writes.insert(write.value, open);
        for piece in pieces {
            self.write_piece(piece, out);
        }
    }

    /// As the core splits it: what lies in one place, and no more than a buffer takes at a time.
    fn pieces(&self, write: Write) -> Vec<Write> {
        let mut pieces: Vec<Write> = Vec::new();
        let most = self
            .writer
            .as_ref()
            .map_or(u64::MAX, |writer| writer.longest());
        for chunk in write.first..write.end {
            match pieces.last_mut() {
                Some(last)
                    if self.place(chunk) == self.place(last.first)
                        && last.end - last.first < most =>
                {
                    last.end = chunk + 1;
                }
                _ => pieces.push(Write {
                    first: chunk,
                    end: chunk + 1,
                    ..write
                }),
            }
        }
        pieces
    }

    /// Whether a chunk is written to in the overlay, and whether it is being merged.
    fn place(&self, chunk: Chunk) -> (bool, bool) {
        match &self.writer {
            Some(writer) => (
                self.overlay.contains_key(&chunk),
                writer.merge.has_published(chunk),
            ),
            None => (true, false),
        }
    }

    fn write_piece(&mut self, piece: Write, out: &mut Vec<Effect>) {
        let place = self.place(piece.first);
        match &mut self.writer {
            Some(writer) if place.1 => writer.merge.hold(piece),
            Some(writer) if !place.0 => {
                if writer.write(piece, out) {
                    self.ends(piece, true, true, out);
                }
            }
            _ => {
                for chunk in piece.first..piece.end {
                    self.overlay.insert(chunk, piece.value);
                }
                self.ends(piece, true, false, out);
            }
        }
    }

    /// A piece has ended.
    fn ends(&mut self, piece: Write, well: bool, buffered: bool, out: &mut Vec<Effect>) {
        let Some(open) = self.writes.get_mut(&piece.value) else {
            return;
        };
        open.pieces -= 1;
        open.well &= well;
        open.buffered |= buffered;
        if open.pieces == 0 {
            let (write, well, buffered) = (open.write, open.well, open.buffered);
            self.writes.remove(&piece.value);
            out.push(Effect::Written(write, well, buffered));
        }
    }

    pub(crate) fn flush(&mut self, id: u64, out: &mut Vec<Effect>) {
        match self
            .writer
            .as_mut()
            .and_then(|writer| writer.buffer.as_mut())
        {
            Some(buffer) => buffer.flush(id, out),
            None => out.push(Effect::Flushed(id, true)),
        }
    }

    /// Its device is suspended and resumed.
    pub(crate) fn resumed(&mut self, out: &mut Vec<Effect>) {
        let writer = self.writer.as_mut();
        let failed = writer.and_then(|writer| Some(writer.buffer.as_mut()?.resumed(out)));
        for write in failed.unwrap_or_default() {
            self.ends(write, false, false, out);
        }
    }

    /// What a read finds without a look at the volume.
    pub(crate) fn look(&self, chunk: Chunk) -> Option<Value> {
        let writer = self.writer.as_ref();
        let buffered = writer.and_then(|writer| writer.buffer.as_ref()?.read(chunk));
        buffered.or_else(|| self.overlay.get(&chunk).copied())
    }

    pub(crate) fn read_begins(&mut self, chunk: Chunk) {
        *self.reading.entry(chunk).or_default() += 1;
    }

    pub(crate) fn read_ends(&mut self, chunk: Chunk, out: &mut Vec<Effect>) {
        if let Some(count) = self.reading.get_mut(&chunk) {
            *count -= 1;
            if *count == 0 {
                self.reading.remove(&chunk);
            }
        }
        if let Some(last) = self.leaving.take() {
            self.leave(last, out);
        }
        self.end_demoted(out);
    }

    // --- the copier's ---

    pub(crate) fn keep(
        &mut self,
        ballot: Ballot,
        requests: Vec<(Seq, Range)>,
        out: &mut Vec<Effect>,
    ) {
        self.followed = self.followed.max(ballot);
        let keep = |(seq, range)| Effect::Keep(ballot, seq, range);
        out.extend(requests.into_iter().map(keep));
    }

    /// Ends it.
    pub(crate) fn detach(&mut self, out: &mut Vec<Effect>) {
        if let Some(attachment) = self.attachment {
            self.leave(Input::Detached(attachment), out);
        }
    }

    fn leave(&mut self, last: Input, out: &mut Vec<Effect>) {
        self.ended = true;
        if self.reading.is_empty() {
            *self = Self::default();
            out.push(Effect::Tell(last));
        } else {
            self.leaving = Some(last);
        }
    }
}
