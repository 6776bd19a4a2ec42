// SPDX-License-Identifier: GPL-2.0-or-later

//! The write-back buffer of a writer's target: `kmod/write_back.rs`, over the same buffer. A chunk is a block of it.

use super::Chunk;
use super::Effect;
use super::Value;
use super::Work;
use super::Write;
use holey_core::buffer::Buffer;
use holey_core::buffer::Found;
use holey_core::buffer::Piece;
use holey_core::buffer::Put;
use holey_core::buffer::Slot;
use holey_core::buffer::Step;
use holey_core::buffer::BLOCK;
use holey_core::buffer::EMPTY;

/// Chunks that one write from the buffer has, at most.
const MOST_SENT: usize = 4;

pub(super) struct WriteBack {
    buffer: Buffer<Vec<Slot>, Vec<u32>>,
    memory: Vec<Value>,
    open: bool,
    /// Flushes, each with the last write that it waits for.
    flushes: Vec<(u64, u64)>,
    /// Something of what they have waited for was lost.
    failing: Vec<(u64, u64)>,
    /// They overlap what is in the buffer.
    behind: Vec<Write>,
    /// Something was lost, so that flushes fail, and whether one has failed for that.
    failed: bool,
    told: bool,
    pub(super) starved: bool,
}

pub(super) fn piece(first: Chunk, end: Chunk) -> Piece {
    Piece {
        start: first * BLOCK,
        sectors: (end - first) * BLOCK,
    }
}

pub(super) fn chunks(piece: Piece) -> std::ops::Range<Chunk> {
    piece.start / BLOCK..(piece.start + piece.sectors) / BLOCK
}

impl WriteBack {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            buffer: Buffer::new(vec![Slot::FREE; slots], vec![EMPTY; slots]),
            memory: vec![0; slots],
            open: false,
            flushes: Vec::new(),
            failing: Vec::new(),
            behind: Vec::new(),
            failed: false,
            told: false,
            starved: false,
        }
    }

    /// Nothing is in it, and nothing was lost.
    pub(super) fn is_idle(&self) -> bool {
        self.buffer.used() == 0 && !self.failed
    }

    pub(super) fn used(&self) -> usize {
        self.buffer.used()
    }

    pub(super) fn waiting(&self) -> usize {
        self.behind.len() + self.flushes.len() + self.failing.len()
    }

    pub(super) fn open(&mut self) {
        self.open = true;
    }

    pub(super) fn overlaps(&self, first: Chunk, end: Chunk) -> bool {
        self.buffer.overlaps(piece(first, end))
    }

    pub(super) fn read(&self, chunk: Chunk) -> Option<Value> {
        match self.buffer.look(piece(chunk, chunk + 1)) {
            Found::Here(part) => Some(self.memory[part.slot]),
            Found::Elsewhere(_) => None,
        }
    }

    pub(super) fn put(&mut self, write: Write) -> bool {
        let memory = &mut self.memory;
        self.open
            && Put::Taken
                == self.buffer.put(piece(write.first, write.end), |part| {
                    memory[part.slot] = write.value;
                })
    }

    /// Keeps a write that overlaps what is in the buffer; returns it if it does not.
    pub(super) fn park(&mut self, write: Write) -> Option<Write> {
        if !self.overlaps(write.first, write.end) {
            return Some(write);
        }
        self.behind.push(write);
        None
    }

    pub(super) fn flush(&mut self, id: u64, out: &mut Vec<Effect>) {
        let last = self.buffer.last_order();
        if self.failed {
            self.told = true;
            out.push(Effect::Flushed(id, false));
        } else if self.buffer.is_through(last) {
            out.push(Effect::Flushed(id, true));
        } else {
            out.push(Effect::Count("flushes that wait"));
            self.flushes.push((id, last));
        }
    }

    /// Its device is suspended, so that what of it waits fails if something was lost, and resumed.
    pub(super) fn resumed(&mut self, out: &mut Vec<Effect>) -> Vec<Write> {
        let failed = if self.failed {
            self.dismiss(out)
        } else {
            Vec::new()
        };
        self.failed &= !self.told;
        failed
    }

    /// The node may not write any more: all that is not on its way is lost.
    pub(super) fn close(&mut self, out: &mut Vec<Effect>) {
        self.open = false;
        let mut held = Vec::new();
        self.buffer.rewind();
        loop {
            match self.buffer.next(1, |_| Some(())) {
                Step::Piece(piece, ()) => held.extend(chunks(piece)),
                Step::More => {}
                Step::End => break,
            }
        }
        self.buffer.clear();
        self.lose(held, out);
    }

    fn lose(&mut self, chunks: Vec<Chunk>, out: &mut Vec<Effect>) {
        if !chunks.is_empty() {
            self.failed = true;
            self.told = !self.flushes.is_empty();
            self.failing.append(&mut self.flushes);
            out.push(Effect::Lost(chunks));
        }
    }

    /// The target ends: what waits fails. The writes of these are returned.
    pub(super) fn dismiss(&mut self, out: &mut Vec<Effect>) -> Vec<Write> {
        self.failing.append(&mut self.flushes);
        for (id, _) in self.failing.drain(..) {
            out.push(Effect::Flushed(id, false));
        }
        std::mem::take(&mut self.behind)
    }

    pub(super) fn rewind(&mut self) {
        self.buffer.rewind();
    }

    /// Something that is to be sent, or asked for.
    pub(super) fn next(&mut self, kind: impl Fn(Chunk, Chunk) -> Option<bool>) -> Option<Piece> {
        loop {
            let kind = |piece: Piece| {
                let chunks = chunks(piece);
                kind(chunks.start, chunks.end)
            };
            match self.buffer.next(MOST_SENT, kind) {
                Step::Piece(piece, _) => return Some(piece),
                Step::More => {}
                Step::End => return None,
            }
        }
    }

    /// Sends what there is of a piece.
    pub(super) fn fly(&mut self, piece: Piece) -> Option<(Piece, Vec<Value>)> {
        let mut values = Vec::new();
        let memory = &self.memory;
        let sent = self
            .buffer
            .fly(piece, |part| values.push(memory[part.slot]))?;
        Some((sent, values))
    }

    /// A write to the volume has ended.
    pub(super) fn landed(&mut self, piece: Piece, done: bool, out: &mut Vec<Effect>) {
        let left = self.buffer.land(piece);
        if !done {
            self.lose(chunks(piece).collect(), out);
        }
        if left {
            out.push(Effect::Work(Work::Sweep));
        }
        if self.waiting() != 0 {
            out.push(Effect::Work(Work::Attend));
        }
    }

    /// Ends flushes that have waited for long enough; the writes that are to look again.
    pub(super) fn attend(&mut self, out: &mut Vec<Effect>) -> Vec<Write> {
        for (id, _) in self.failing.drain(..) {
            out.push(Effect::Flushed(id, false));
        }
        while let Some(&(id, last)) = self.flushes.first() {
            if !self.buffer.is_through(last) {
                break;
            }
            self.flushes.remove(0);
            out.push(Effect::Flushed(id, true));
        }
        std::mem::take(&mut self.behind)
    }
}
