// SPDX-License-Identifier: GPL-2.0-or-later

//! The target in the kernel of a node, as far as the protocol can tell.
//!
//! What it does to the volume it says as an [`Effect`]; the world does it, with delays, and tells it of the end.

use dmholey_cluster::event::Before;
use dmholey_cluster::event::Input;
use dmholey_cluster::ids::Attachment;
use dmholey_cluster::ids::Ballot;
use dmholey_cluster::ids::Epoch;
use dmholey_cluster::ids::Range;
use dmholey_cluster::ids::Seq;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

pub(crate) type Chunk = u64;
pub(crate) type Value = u64;
pub(crate) type Overlay = BTreeMap<Chunk, Value>;

/// Who waits for a write to the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Application,
    Merge,
}

/// What a target wants of the world.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Writes to the volume.
    Write(Chunk, Value, Cause),
    /// Tells its agent.
    Tell(Input),
    /// A write of the application has ended, well or not.
    Written(Chunk, Value, bool),
    /// The chunks of this request are to be read from the volume.
    Keep(Ballot, Seq, Range),
    /// Writes what changes nothing, to see whether the volume takes it.
    Probe(Ballot, Epoch),
    /// The writes of older epochs have ended: whoever joined sees the volume as it is now.
    Drained(Ballot, Epoch),
    /// All of the overlay is in the volume.
    Merged,
}

#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) ballot: Ballot,
    pub(crate) epoch: Epoch,
    stable: BTreeSet<Chunk>,
    held: BTreeMap<Chunk, Vec<(Value, Cause)>>,
    asked: BTreeSet<Chunk>,
    under_way: u32,
    draining: bool,
    demoting: bool,
    merging: BTreeSet<Chunk>,
    merged: bool,
}

/// A target, or none.
#[derive(Debug, Default)]
pub(crate) struct Target {
    pub(crate) attachment: Option<Attachment>,
    pub(crate) serving: bool,
    pub(crate) ended: bool,
    pub(crate) followed: Ballot,
    pub(crate) overlay: Overlay,
    /// Reads that are on their way to the volume.
    pub(crate) reading: BTreeMap<Chunk, u32>,
    pub(crate) writer: Option<Writer>,
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
            (Some(writer), _) => Before::Writer(writer.ballot, writer.epoch, !writer.merged),
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

    pub(crate) fn held(&self) -> usize {
        self.writer.as_ref().map_or(0, |writer| writer.held.len())
    }

    /// Becomes the writer's, with what is in the overlay still to be merged.
    pub(crate) fn promote(&mut self, ballot: Ballot, epoch: Epoch, effects: &mut Vec<Effect>) {
        self.attachment = None;
        if let Some(writer) = &mut self.writer {
            writer.ballot = ballot;
            self.turn(epoch, effects);
            return;
        }
        self.writer = Some(Writer {
            ballot,
            epoch,
            stable: BTreeSet::new(),
            held: BTreeMap::new(),
            asked: BTreeSet::new(),
            under_way: 0,
            draining: false,
            demoting: false,
            merging: BTreeSet::new(),
            merged: false,
        });
        self.turn(epoch, effects);
        self.merge(effects);
    }

    /// A new epoch.
    pub(crate) fn turn(&mut self, epoch: Epoch, effects: &mut Vec<Effect>) {
        if let Some(writer) = &mut self.writer {
            writer.epoch = epoch;
            writer.stable.clear();
            writer.asked.clear();
            writer.draining = true;
        }
        self.drain(effects);
    }

    fn drain(&mut self, effects: &mut Vec<Effect>) {
        let Some(writer) = &mut self.writer else {
            return;
        };
        if writer.under_way > 0 {
            return;
        }
        if writer.demoting {
            effects.push(Effect::Tell(Input::Demoted(writer.ballot)));
            self.writer = None;
            self.serving = false;
            return;
        }
        if writer.draining {
            effects.push(Effect::Probe(writer.ballot, writer.epoch));
        }
    }

    /// The volume has taken a probe, or has not.
    pub(crate) fn probed(
        &mut self,
        ballot: Ballot,
        epoch: Epoch,
        well: bool,
        effects: &mut Vec<Effect>,
    ) {
        let is_due = |writer: &&mut Writer| {
            (writer.ballot, writer.epoch, writer.draining) == (ballot, epoch, true)
        };
        let Some(writer) = self.writer.as_mut().filter(is_due) else {
            return;
        };
        if !well {
            self.demote(effects);
            return;
        }
        writer.draining = false;
        effects.push(Effect::Drained(writer.ballot, writer.epoch));
        effects.push(Effect::Tell(Input::Drained(writer.epoch)));
        let chunks: Vec<Chunk> = writer.held.keys().copied().collect();
        for chunk in chunks {
            writer.ask(chunk, effects);
        }
    }

    pub(crate) fn stable(&mut self, epoch: Epoch, ranges: &[Range], effects: &mut Vec<Effect>) {
        let Some(writer) = self.writer.as_mut().filter(|writer| writer.epoch == epoch) else {
            return;
        };
        for chunk in ranges.iter().flat_map(|range| range.chunks()) {
            writer.stable.insert(chunk);
            for (value, cause) in writer.held.remove(&chunk).unwrap_or_default() {
                writer.under_way += 1;
                effects.push(Effect::Write(chunk, value, cause));
            }
        }
    }

    /// The application writes. A copier's write, and one to what is still to be merged, ends at once.
    pub(crate) fn write(&mut self, chunk: Chunk, value: Value, effects: &mut Vec<Effect>) {
        let in_overlay = self.overlay.contains_key(&chunk);
        match &mut self.writer {
            Some(writer) if !in_overlay => {
                writer.write(chunk, value, Cause::Application, effects);
            }
            _ => {
                self.overlay.insert(chunk, value);
                effects.push(Effect::Written(chunk, value, true));
            }
        }
    }

    /// A write to the volume has ended.
    pub(crate) fn landed(
        &mut self,
        chunk: Chunk,
        value: Value,
        cause: Cause,
        well: bool,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(writer) = &mut self.writer {
            writer.under_way -= 1;
            match cause {
                Cause::Application => effects.push(Effect::Written(chunk, value, well)),
                Cause::Merge => {
                    writer.merging.remove(&chunk);
                    // What was written meanwhile is still to be merged.
                    if well && self.overlay.get(&chunk) == Some(&value) {
                        self.overlay.remove(&chunk);
                    }
                }
            }
        }
        self.merge(effects);
        self.drain(effects);
    }

    fn merge(&mut self, effects: &mut Vec<Effect>) {
        const WINDOW: usize = 4;
        let Some(writer) = self.writer.as_mut().filter(|writer| !writer.demoting) else {
            return;
        };
        if self.overlay.is_empty() && !std::mem::replace(&mut writer.merged, true) {
            effects.push(Effect::Merged);
            effects.push(Effect::Tell(Input::Merged));
        }
        for (&chunk, &value) in &self.overlay {
            if writer.merging.len() == WINDOW {
                break;
            }
            if writer.merging.insert(chunk) {
                writer.write(chunk, value, Cause::Merge, effects);
            }
        }
    }

    pub(crate) fn demote(&mut self, effects: &mut Vec<Effect>) {
        if let Some(writer) = &mut self.writer {
            writer.demoting = true;
            for (chunk, writes) in std::mem::take(&mut writer.held) {
                for (value, cause) in writes {
                    if cause == Cause::Application {
                        effects.push(Effect::Written(chunk, value, false));
                    }
                }
            }
        }
        self.drain(effects);
    }

    pub(crate) fn keep(
        &mut self,
        ballot: Ballot,
        requests: Vec<(Seq, Range)>,
        effects: &mut Vec<Effect>,
    ) {
        self.followed = self.followed.max(ballot);
        let keep = |(seq, range)| Effect::Keep(ballot, seq, range);
        effects.extend(requests.into_iter().map(keep));
    }

    /// Ends it, or finds that it has to: the application gets errors from here on.
    pub(crate) fn detach(&mut self, effects: &mut Vec<Effect>) {
        self.ended = true;
        if let Some(attachment) = self.attachment.filter(|_| self.reading.is_empty()) {
            *self = Self::default();
            effects.push(Effect::Tell(Input::Detached(attachment)));
        }
    }

    pub(crate) fn read_begins(&mut self, chunk: Chunk) {
        *self.reading.entry(chunk).or_default() += 1;
    }

    pub(crate) fn read_ends(&mut self, chunk: Chunk, effects: &mut Vec<Effect>) {
        if let Some(count) = self.reading.get_mut(&chunk) {
            *count -= 1;
            if *count == 0 {
                self.reading.remove(&chunk);
            }
        }
        if self.ended {
            self.detach(effects);
        }
    }
}

impl Writer {
    fn write(&mut self, chunk: Chunk, value: Value, cause: Cause, effects: &mut Vec<Effect>) {
        if self.stable.contains(&chunk) && !self.draining {
            self.under_way += 1;
            effects.push(Effect::Write(chunk, value, cause));
        } else {
            self.held.entry(chunk).or_default().push((value, cause));
            self.ask(chunk, effects);
        }
    }

    fn ask(&mut self, chunk: Chunk, effects: &mut Vec<Effect>) {
        if !self.draining && self.asked.insert(chunk) {
            let range = Range {
                first: chunk,
                len: 1,
            };
            effects.push(Effect::Tell(Input::Need(self.epoch, vec![range])));
        }
    }
}
