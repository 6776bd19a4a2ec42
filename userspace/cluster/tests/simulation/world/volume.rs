// SPDX-License-Identifier: GPL-2.0-or-later

//! The shared volume, and what copiers keep of it.

use super::Local;
use super::Outcome;
use super::World;
use super::CHAOS_ENDS;
use super::LOOK;
use super::MS;
use crate::target::Cause;
use crate::target::Chunk;
use crate::target::Effect;
use crate::target::Landing;
use crate::target::Value;
use dmholey_cluster::event::Input;
use dmholey_cluster::ids::Ballot;
use dmholey_cluster::ids::Range;
use dmholey_cluster::ids::Seq;

impl World {
    /// Whether the volume fails something, as it does once in `n` times.
    pub(super) fn fails(&mut self, n: u64, what: &'static str) -> bool {
        let fails = self.settings.errors && self.now < CHAOS_ENDS && self.random.one_in(n);
        if fails {
            self.counts.add(what);
        }
        fails
    }

    pub(super) fn land(
        &mut self,
        node: usize,
        boot: u64,
        job: u64,
        chunk: Chunk,
        value: Value,
        cause: Cause,
    ) -> Outcome {
        let host = &self.hosts[node];
        if host.boot != boot {
            return Ok(());
        }
        let (alive, refused) = (host.alive, host.refused);
        let landing = if !host.fenced {
            if self.writer != Some(node) {
                return Err(format!(
                    "node {node} overwrites chunk {chunk} and is not the writer"
                ));
            }
            let fails = match cause {
                Cause::Application => self.fails(400, "disk error: write"),
                Cause::Buffer => self.fails(100, "disk error: write from the buffer"),
                Cause::Merge => self.fails(40, "disk error: merge"),
            };
            // It may have arrived all the same.
            if !fails || self.random.one_in(2) {
                self.disk[chunk as usize] = value;
            }
            if fails {
                Landing::Failed
            } else {
                Landing::Done
            }
        } else if refused {
            Landing::Refused
        } else {
            Landing::Failed
        };
        if alive {
            self.local(node, 10, 500, Local::Landed(job, landing));
        }
        Ok(())
    }

    pub(super) fn keep(&mut self, node: usize, ballot: Ballot, seq: Seq, range: Range) -> Outcome {
        let host = &self.hosts[node];
        let attachment = host.target.attachment;
        if attachment.is_none() || host.target.is_leaving() {
            return Ok(());
        }
        let is_read = |chunk| !host.target.lost && host.target.reading.contains_key(&chunk);
        if range.chunks().any(is_read) {
            let again = Local::Keep(attachment, ballot, seq, range);
            self.local(node, 100, 2 * MS, again);
            return Ok(());
        }
        if !host.target.lost {
            if host.fenced || self.fails(300, "disk error: keep") {
                self.lose(node);
            } else {
                for chunk in range.chunks() {
                    let value = self.disk[chunk as usize];
                    let overlay = &mut self.hosts[node].target.overlay;
                    overlay.entry(chunk).or_insert(value);
                }
                self.counts.add("chunks kept");
            }
        }
        // If it is lost, nobody needs the chunks any more.
        let kept = Effect::Tell(Input::Kept(ballot, vec![seq]));
        self.effects(node, vec![kept])
    }

    /// The overlay is lost: it was full, or the volume cannot be read. The agent finds that later.
    pub(super) fn lose(&mut self, node: usize) {
        let target = &mut self.hosts[node].target;
        (target.ended, target.lost) = (true, true);
        if let Some(attachment) = target.attachment {
            self.counts.add("overlays lost");
            self.local(node, MS, LOOK, Local::Look(attachment));
        }
    }

    pub(super) fn read_ends(&mut self, node: usize, chunk: Chunk) -> Outcome {
        let value = self.disk[chunk as usize];
        let fails = self.fails(300, "disk error: read");
        let host = &mut self.hosts[node];
        let well = !host.fenced && !host.target.lost && !fails;
        let mut effects = Vec::new();
        host.busy.remove(&chunk);
        host.target.read_ends(chunk, &mut effects);
        self.effects(node, effects)?;
        if well {
            self.check_read(node, chunk, value)?;
        }
        Ok(())
    }

    /// All that a copier sees is what it may see.
    pub(super) fn check_view(&mut self, node: usize) -> Outcome {
        for chunk in 0..self.settings.chunks {
            let overlay = &self.hosts[node].target.overlay;
            let value = overlay.get(&chunk).copied();
            let value = value.unwrap_or(self.disk[chunk as usize]);
            self.check_read(node, chunk, value)?;
        }
        Ok(())
    }

    pub(super) fn check_read(&mut self, node: usize, chunk: Chunk, value: Value) -> Outcome {
        self.counts.add("reads checked");
        match &mut self.hosts[node].view {
            Some(view) => view
                .read(chunk, value)
                .map_err(|what| format!("node {node} reads wrongly: {what}")),
            None => Err(format!("node {node} reads without a view")),
        }
    }
}
