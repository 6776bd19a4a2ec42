// SPDX-License-Identifier: GPL-2.0-or-later

//! What each node may see.
//!
//! The view of a node has for each chunk the values that a read may return: one, or several while a write is under way
//! and after one that was cut off. A read settles which.
//!
//! A writer with a write-back buffer may lose what was not flushed. So its view has for each chunk also what may be
//! found then: what the last flush has left there, or anything later. Values of one node's writes only grow.

use crate::target::Chunk;
use crate::target::Value;

#[derive(Clone, Debug)]
struct Seen {
    now: Vec<Value>,
    /// After a loss.
    then: Vec<Value>,
    /// Something was lost since the last write began.
    lost: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct View {
    chunks: Vec<Seen>,
    /// What was not flushed may be lost.
    volatile: bool,
}

/// What was acknowledged when a flush began, the oldest value of each chunk.
#[derive(Clone, Debug)]
pub(crate) struct Mark(Vec<Value>);

impl View {
    pub(crate) fn of(disk: &[Value]) -> Self {
        let seen = |&value: &Value| Seen {
            now: vec![value],
            then: vec![value],
            lost: false,
        };
        Self {
            chunks: disk.iter().map(seen).collect(),
            volatile: false,
        }
    }

    /// It is the writer's from now on; nothing of it is in a buffer yet.
    pub(crate) fn promoted(&mut self, volatile: bool) {
        self.volatile = volatile;
        for seen in &mut self.chunks {
            seen.then.clone_from(&seen.now);
        }
    }

    pub(crate) fn begins(&mut self, chunk: Chunk, value: Value) {
        let seen = &mut self.chunks[chunk as usize];
        seen.now.push(value);
        seen.then.push(value);
        seen.lost = false;
    }

    pub(crate) fn ends(&mut self, chunk: Chunk, value: Value, well: bool, buffered: bool) {
        let seen = &mut self.chunks[chunk as usize];
        // A part of it may be lost before all of it has ended.
        if well && !(buffered && seen.lost) {
            seen.now = vec![value];
        }
        if well && !buffered {
            seen.then = vec![value];
        }
    }

    /// A flush begins.
    pub(crate) fn mark(&self) -> Mark {
        let oldest = |seen: &Seen| seen.now.iter().copied().min().unwrap_or_default();
        Mark(self.chunks.iter().map(oldest).collect())
    }

    /// It has ended well.
    pub(crate) fn flushed(&mut self, mark: &Mark) {
        for (seen, oldest) in self.chunks.iter_mut().zip(&mark.0) {
            seen.then.retain(|value| value >= oldest);
        }
    }

    /// What was not flushed of a chunk is lost.
    pub(crate) fn lose(&mut self, chunk: Chunk) {
        if self.volatile {
            let seen = &mut self.chunks[chunk as usize];
            seen.now.clone_from(&seen.then);
            seen.lost = true;
        }
    }

    /// What was not flushed is lost.
    pub(crate) fn lose_all(&mut self) {
        for chunk in 0..self.chunks.len() {
            self.lose(chunk as Chunk);
        }
    }

    pub(crate) fn read(&mut self, chunk: Chunk, value: Value) -> Result<(), String> {
        let may = &mut self.chunks[chunk as usize].now;
        if may.contains(&value) {
            *may = vec![value];
            Ok(())
        } else {
            Err(format!("chunk {chunk} holds {value}, not one of {may:?}"))
        }
    }
}
