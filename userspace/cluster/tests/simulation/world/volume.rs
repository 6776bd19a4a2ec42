// SPDX-License-Identifier: GPL-2.0-or-later

//! The shared volume, and the applications that use it.

use super::Local;
use super::Outcome;
use super::World;
use super::CHUNKS;
use super::MS;
use crate::target::Cause;
use crate::target::Chunk;
use crate::target::Effect;
use crate::target::Value;
use dmholey_cluster::event::Input;
use dmholey_cluster::ids::Ballot;
use dmholey_cluster::ids::Range;
use dmholey_cluster::ids::Seq;

impl World {
    pub(super) fn land(
        &mut self,
        node: usize,
        boot: u64,
        chunk: Chunk,
        value: Value,
        cause: Cause,
    ) -> Outcome {
        let host = &self.hosts[node];
        if host.boot != boot {
            return Ok(());
        }
        let well = !host.fenced;
        if well {
            if self.writer != Some(node) {
                return Err(format!(
                    "node {node} overwrites chunk {chunk} and is not the writer"
                ));
            }
            self.disk[chunk as usize] = value;
        }
        if host.alive {
            self.local(node, 10, 500, Local::Landed(chunk, value, cause, well));
        }
        Ok(())
    }

    pub(super) fn keep(&mut self, node: usize, ballot: Ballot, seq: Seq, range: Range) -> Outcome {
        let host = &self.hosts[node];
        if host.target.attachment.is_none() {
            return Ok(());
        }
        if range
            .chunks()
            .any(|chunk| host.target.reading.contains_key(&chunk))
        {
            let attachment = host.target.attachment;
            self.local(
                node,
                100,
                2 * MS,
                Local::Keep(attachment, ballot, seq, range),
            );
            return Ok(());
        }
        if host.fenced {
            return self.lose(node);
        }
        for chunk in range.chunks() {
            let value = self.disk[chunk as usize];
            let overlay = &mut self.hosts[node].target.overlay;
            overlay.entry(chunk).or_insert(value);
        }
        self.counts.add("chunks kept");
        let kept = Effect::Tell(Input::Kept(ballot, vec![seq]));
        self.effects(node, vec![kept])
    }

    /// The overlay is lost: it was full, or the volume cannot be read.
    pub(super) fn lose(&mut self, node: usize) -> Outcome {
        let mut effects = Vec::new();
        self.hosts[node].target.detach(&mut effects);
        self.effects(node, effects)
    }

    pub(super) fn application(&mut self, node: usize) -> Outcome {
        self.local(node, 200, 4 * MS, Local::Application);
        let chunk = self.random.below(CHUNKS);
        let write = self.random.one_in(2);
        let host = &mut self.hosts[node];
        if !host.target.is_usable() || !host.busy.insert(chunk) {
            return Ok(());
        }
        if write {
            self.values += 1;
            if let Some(view) = &mut host.view {
                view.begins(chunk, self.values);
            }
            let mut effects = Vec::new();
            host.target.write(chunk, self.values, &mut effects);
            if let (true, Some(store)) = (host.target.is_writer(), &mut host.store) {
                store.clone_from(&host.target.overlay);
            }
            return self.effects(node, effects);
        }
        if let Some(&value) = host.target.overlay.get(&chunk) {
            host.busy.remove(&chunk);
            return self.check_read(node, chunk, value);
        }
        host.target.read_begins(chunk);
        self.local(node, 50, 4 * MS, Local::Read(chunk));
        Ok(())
    }

    pub(super) fn read_ends(&mut self, node: usize, chunk: Chunk) -> Outcome {
        let value = self.disk[chunk as usize];
        let host = &mut self.hosts[node];
        let well = !host.fenced && host.target.is_usable();
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
        for chunk in 0..CHUNKS {
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
