// SPDX-License-Identifier: GPL-2.0-or-later

//! The applications: they read and write, here and there or in a row, and flush.

use super::Local;
use super::Outcome;
use super::World;
use super::MS;
use crate::target::Chunk;
use crate::target::Target;
use crate::target::Write;

impl World {
    pub(super) fn application(&mut self, node: usize) -> Outcome {
        self.local(node, 200, 4 * MS, Local::Application);
        let host = &self.hosts[node];
        let in_a_row = host.row.1 > 0;
        if !host.target.is_usable() {
            return Ok(());
        }
        let flushes = self.settings.buffer.is_some() && host.target.is_writer();
        if flushes && self.random.one_in(12) {
            return self.flush(node);
        }
        if !in_a_row && self.random.one_in(80) {
            let first = self.random.below(self.settings.chunks);
            self.hosts[node].row = (first, self.random.between(4, 40));
        }
        if in_a_row || self.random.one_in(2) {
            return self.write(node, in_a_row);
        }
        let chunk = self.random.below(self.settings.chunks);
        self.read(node, chunk)
    }

    fn read(&mut self, node: usize, chunk: Chunk) -> Outcome {
        let host = &mut self.hosts[node];
        if host.busy.contains(&chunk) {
            return Ok(());
        }
        if let Some(value) = host.target.look(chunk) {
            return self.check_read(node, chunk, value);
        }
        host.busy.insert(chunk);
        host.target.read_begins(chunk);
        self.local(node, 50, 4 * MS, Local::Read(chunk));
        Ok(())
    }

    fn write(&mut self, node: usize, in_a_row: bool) -> Outcome {
        let chunks = self.settings.chunks;
        let first = if in_a_row {
            self.hosts[node].row.0
        } else {
            self.random.below(chunks)
        };
        let len = if self.random.one_in(4) {
            self.random.between(1, self.settings.longest + 1)
        } else {
            1
        };
        let end = (first + len).min(chunks);
        let fua = self.random.one_in(10);
        let host = &mut self.hosts[node];
        if (first..end).any(|chunk| host.busy.contains(&chunk)) {
            return Ok(());
        }
        if in_a_row {
            let left = if end < chunks { host.row.1 - 1 } else { 0 };
            host.row = (end, left);
            self.counts.add("writes in a row");
        }
        self.values += 1;
        let value = self.values;
        host.busy.extend(first..end);
        if let Some(view) = &mut host.view {
            for chunk in first..end {
                view.begins(chunk, value);
            }
        }
        if len > 1 {
            self.counts.add("writes of several chunks");
        }
        let write = Write {
            first,
            end,
            value,
            fua,
        };
        self.note(|| format!("node {node}: {write:?}"));
        let host = &mut self.hosts[node];
        let mut effects = Vec::new();
        host.target.write(write, &mut effects);
        if let (true, Some(store)) = (host.target.is_writer(), &mut host.store) {
            store.clone_from(&host.target.overlay);
        }
        self.effects(node, effects)
    }

    pub(super) fn written(&mut self, node: usize, write: Write, well: bool, buffered: bool) {
        let host = &mut self.hosts[node];
        for chunk in write.first..write.end {
            host.busy.remove(&chunk);
            if let Some(view) = &mut host.view {
                view.ends(chunk, write.value, well, buffered && !write.fua);
            }
        }
        self.counts
            .add(if well { "writes" } else { "writes failed" });
    }

    fn flush(&mut self, node: usize) -> Outcome {
        self.values += 1;
        let id = self.values;
        let host = &mut self.hosts[node];
        let Some(view) = &host.view else {
            return Ok(());
        };
        host.flushes.insert(id, (view.mark(), self.now));
        self.note(|| format!("node {node}: flush {id}"));
        self.at_target(node, |target, out| target.flush(id, out))
    }

    pub(super) fn flushed(&mut self, node: usize, id: u64, well: bool) -> Outcome {
        let host = &mut self.hosts[node];
        let Some((mark, _)) = host.flushes.remove(&id) else {
            return Ok(());
        };
        self.note(|| format!("node {node}: flush {id} ends, well: {well}"));
        let host = &mut self.hosts[node];
        if !well {
            self.counts.add("flushes failed");
            host.untold = false;
            if self.random.one_in(3) {
                return self.at_target(node, Target::resumed);
            }
            return Ok(());
        }
        self.counts.add("flushes");
        if host.untold {
            return Err(format!("node {node} ends a flush well after a loss"));
        }
        if let Some(view) = &mut host.view {
            view.flushed(&mark);
        }
        Ok(())
    }

    /// What was acknowledged of these chunks is lost.
    pub(super) fn lost(&mut self, node: usize, chunks: &[Chunk]) {
        self.note(|| format!("node {node}:     loses {chunks:?}"));
        self.counts.add("buffered writes lost");
        let host = &mut self.hosts[node];
        host.untold = true;
        if let Some(view) = &mut host.view {
            for &chunk in chunks {
                view.lose(chunk);
            }
        }
    }
}
