// SPDX-License-Identifier: GPL-2.0

//! What was acknowledged and is not on the volume yet: where it lies in memory, and in which order
//! it gets there.
//!
//! The buffer is counted in *blocks* of 4 KiB; each that holds something has a *slot*, with a bit for
//! each of its sectors. A write is taken as a whole or not at all. What is written again before it
//! is on its way is replaced in place, so that a sector is in the buffer once, and older data never
//! comes after newer. What is on its way (*flying*) is not touched: who writes there has to wait
//! until it has *landed*.
//!
//! Slots are in the order in which they were first needed. So the first one tells up to which write
//! all is on the volume, and that is what a flush waits for.

use core::ops::DerefMut;

/// Sectors in a block.
pub const BLOCK: u64 = 8;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = BLOCK as usize * 512;
/// Slots that are looked at by one call, at most.
const STEPS: usize = 256;
/// No slot.
const NONE: u32 = u32::MAX;

/// Memory for one block, and what it holds.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    block: u64,
    /// The write that took the slot.
    order: u64,
    /// Sectors that are in the buffer, and those of them that are on their way, a bit each.
    valid: u8,
    flying: u8,
    /// The next one in its bucket, or the next free one.
    chain: u32,
    before: u32,
    behind: u32,
}

impl Slot {
    /// One that is not in use.
    pub const FREE: Self = Self {
        block: 0,
        order: 0,
        valid: 0,
        flying: 0,
        chain: NONE,
        before: NONE,
        behind: NONE,
    };
}

/// An empty bucket.
pub const EMPTY: u32 = NONE;

/// Consecutive sectors of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The first one.
    pub start: u64,
    /// How many.
    pub sectors: u64,
}

impl Piece {
    const fn end(self) -> u64 {
        self.start.saturating_add(self.sectors)
    }

    /// The blocks that it touches, and which of their sectors.
    fn blocks(self) -> impl Iterator<Item = (u64, Part)> {
        let blocks = self.start / BLOCK..self.end().div_ceil(BLOCK);
        blocks.map(move |block| {
            let start = self.start.max(block * BLOCK);
            let end = self
                .end()
                .min(block.saturating_add(1).saturating_mul(BLOCK));
            let part = Part {
                slot: 0,
                first: start % BLOCK,
                sectors: end.saturating_sub(start),
            };
            (block, part)
        })
    }
}

/// Sectors that lie in one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The number of the slot.
    pub slot: usize,
    /// The first sector in it.
    pub first: u64,
    /// How many.
    pub sectors: u64,
}

impl Part {
    const fn mask(self) -> u8 {
        let bits = if self.sectors < BLOCK {
            (1 << self.sectors) - 1
        } else {
            u8::MAX
        };
        bits.wrapping_shl(self.first as u32)
    }
}

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is in the buffer.
    Taken,
    /// It has to wait for what it overlaps.
    Waits,
    /// It overlaps nothing, and there is no room.
    Full,
}

/// Where the beginning of a range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// In the buffer.
    Here(Part),
    /// So many sectors of it are on the volume only.
    Elsewhere(u64),
}

/// What a look for something to write has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<L> {
    /// This, of one kind.
    Piece(Piece, L),
    /// Nothing yet.
    More,
    /// All was looked at.
    End,
}

/// The slots.
///
/// `S` and `B` are memory for them, and for the buckets by which they are found.
pub struct Buffer<S, B> {
    slots: S,
    buckets: B,
    free: u32,
    first: u32,
    last: u32,
    /// Where the next look begins.
    cursor: u32,
    used: usize,
    sectors: u64,
    /// Writes that were taken.
    order: u64,
}

impl<S: DerefMut<Target = [Slot]>, B: DerefMut<Target = [u32]>> Buffer<S, B> {
    /// Nothing is in it. The buckets are empty.
    pub fn new(mut slots: S, buckets: B) -> Self {
        let mut free = NONE;
        for (n, slot) in slots.iter_mut().enumerate().rev() {
            *slot = Slot {
                chain: free,
                ..Slot::FREE
            };
            free = n as u32;
        }
        Self {
            slots,
            buckets,
            free,
            first: NONE,
            last: NONE,
            cursor: NONE,
            used: 0,
            sectors: 0,
            order: 0,
        }
    }

    /// Slots in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Sectors in it.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// The number of the last write that was taken.
    pub fn last_order(&self) -> u64 {
        self.order
    }

    /// Whether all writes up to one with this number have landed.
    pub fn is_through(&self, order: u64) -> bool {
        self.slot(self.first)
            .is_none_or(|oldest| oldest.order > order)
    }

    /// Takes a write, if it can be taken as a whole; `place` is told where its parts go, in order.
    pub fn put(&mut self, piece: Piece, mut place: impl FnMut(Part)) -> Put {
        let (mut missing, mut met) = (0, false);
        for (block, _) in piece.blocks() {
            match self.find(block).and_then(|n| self.slot(n)) {
                Some(slot) if slot.flying != 0 => return Put::Waits,
                Some(_) => met = true,
                None => missing += 1,
            }
        }
        if missing > self.slots.len().saturating_sub(self.used) {
            return if met { Put::Waits } else { Put::Full };
        }
        self.order += 1;
        for (block, part) in piece.blocks() {
            let Some(n) = self.find(block).or_else(|| self.take(block)) else {
                continue;
            };
            let Some(slot) = self.slots.get_mut(n as usize) else {
                continue;
            };
            let fresh = part.mask() & !slot.valid;
            slot.valid |= fresh;
            self.sectors += u64::from(fresh.count_ones());
            place(Part {
                slot: n as usize,
                ..part
            });
        }
        Put::Taken
    }

    /// Where the beginning of a range is.
    pub fn look(&self, piece: Piece) -> Found {
        let mut elsewhere = 0;
        for (block, part) in piece.blocks() {
            let Some((n, slot)) = self.find(block).and_then(|n| Some((n, self.slot(n)?))) else {
                elsewhere += part.sectors;
                continue;
            };
            let valid = slot.valid >> part.first;
            let missing = u64::from(valid.trailing_zeros()).min(part.sectors);
            elsewhere += missing;
            if elsewhere == 0 {
                return Found::Here(Part {
                    slot: n as usize,
                    first: part.first,
                    sectors: u64::from((!valid).trailing_zeros()).min(part.sectors),
                });
            }
            if missing < part.sectors {
                break;
            }
        }
        Found::Elsewhere(elsewhere)
    }

    /// Whether something of a range is in the buffer.
    pub fn overlaps(&self, piece: Piece) -> bool {
        match self.look(piece) {
            Found::Here(_) => true,
            Found::Elsewhere(sectors) => sectors < piece.sectors,
        }
    }

    /// The next look begins with the oldest slot.
    pub fn rewind(&mut self) {
        self.cursor = self.first;
    }

    /// Looks for something that is not on its way, of up to `most` blocks and of one kind; `kind` says
    /// of which a range is, if it is worth a look at all.
    pub fn next<L: PartialEq>(
        &mut self,
        most: usize,
        mut kind: impl FnMut(Piece) -> Option<L>,
    ) -> Step<L> {
        for _ in 0..STEPS {
            let Some(&slot) = self.slot(self.cursor) else {
                return Step::End;
            };
            self.cursor = slot.behind;
            if slot.flying != 0 || slot.valid == 0 {
                continue;
            }
            let first = u64::from(slot.valid.trailing_zeros());
            let mut piece = Piece {
                start: slot.block * BLOCK + first,
                sectors: u64::from((!(slot.valid >> first)).trailing_zeros()),
            };
            let Some(found) = kind(piece) else {
                continue;
            };
            let limit = (slot.block * BLOCK).saturating_add(most as u64 * BLOCK);
            while piece.end() < limit && piece.end() % BLOCK == 0 {
                let more = Piece {
                    start: piece.end(),
                    sectors: self.ready(piece.end()),
                };
                if more.sectors == 0 || kind(more).as_ref() != Some(&found) {
                    break;
                }
                piece.sectors += more.sectors;
            }
            return Step::Piece(piece, found);
        }
        Step::More
    }

    /// Sends what is there of a piece from its start on; `place` is told where it lies, in order.
    /// Returns how far it goes.
    pub fn fly(&mut self, piece: Piece, mut place: impl FnMut(Part)) -> Option<Piece> {
        let mut sent = Piece {
            sectors: 0,
            ..piece
        };
        for (block, part) in piece.blocks() {
            let sectors = self.ready(block * BLOCK + part.first).min(part.sectors);
            let Some(n) = self.find(block).filter(|_| sectors != 0) else {
                break;
            };
            let part = Part {
                slot: n as usize,
                sectors,
                ..part
            };
            if let Some(slot) = self.slots.get_mut(n as usize) {
                slot.flying = part.mask();
            }
            place(part);
            sent.sectors += sectors;
            if part.first + sectors < BLOCK {
                break;
            }
        }
        (sent.sectors != 0).then_some(sent)
    }

    /// What [`Self::fly`] has returned is not on its way any more, and leaves the buffer. Says whether
    /// something is left in its blocks, which [`Self::next`] has passed over meanwhile.
    pub fn land(&mut self, sent: Piece) -> bool {
        let mut left = false;
        for (block, part) in sent.blocks() {
            let Some(n) = self.find(block) else {
                continue;
            };
            if let Some(slot) = self.slots.get_mut(n as usize) {
                slot.flying &= !part.mask();
                left |= slot.valid & !part.mask() != 0;
            }
            self.drop_sectors(n, part.mask());
        }
        left
    }

    /// All that is not on its way leaves the buffer. Says how many sectors that are.
    pub fn clear(&mut self) -> u64 {
        let before = self.sectors;
        let mut n = self.first;
        while let Some(&slot) = self.slot(n) {
            self.drop_sectors(n, !slot.flying);
            n = slot.behind;
        }
        before - self.sectors
    }

    /// Sectors from `start` to the end of its block that are there and not on their way.
    fn ready(&self, start: u64) -> u64 {
        match self.find(start / BLOCK).and_then(|n| self.slot(n)) {
            Some(slot) if slot.flying == 0 => {
                u64::from((!(slot.valid >> (start % BLOCK))).trailing_zeros())
                    .min(BLOCK - start % BLOCK)
            }
            _ => 0,
        }
    }

    fn drop_sectors(&mut self, n: u32, mask: u8) {
        let Some(slot) = self.slots.get_mut(n as usize) else {
            return;
        };
        self.sectors = self
            .sectors
            .saturating_sub(u64::from((slot.valid & mask).count_ones()));
        slot.valid &= !mask;
        if slot.valid == 0 {
            self.give_back(n);
        }
    }

    fn slot(&self, n: u32) -> Option<&Slot> {
        self.slots.get(n as usize)
    }

    fn bucket(&mut self, block: u64) -> Option<&mut u32> {
        let at = bucket(block, self.buckets.len())?;
        self.buckets.get_mut(at)
    }

    fn find(&self, block: u64) -> Option<u32> {
        let mut n = *self.buckets.get(bucket(block, self.buckets.len())?)?;
        loop {
            let slot = self.slot(n)?;
            if slot.block == block {
                return Some(n);
            }
            n = slot.chain;
        }
    }

    /// A free slot for a block, as the last one.
    fn take(&mut self, block: u64) -> Option<u32> {
        let n = self.free;
        self.free = self.slot(n)?.chain;
        let chain = core::mem::replace(self.bucket(block)?, n);
        let slot = Slot {
            block,
            order: self.order,
            chain,
            before: self.last,
            ..Slot::FREE
        };
        *self.slots.get_mut(n as usize)? = slot;
        match self.slots.get_mut(self.last as usize) {
            Some(last) => last.behind = n,
            None => self.first = n,
        }
        self.last = n;
        self.used += 1;
        Some(n)
    }

    fn give_back(&mut self, n: u32) {
        let Some(&slot) = self.slot(n) else {
            return;
        };
        let Slot { before, behind, .. } = slot;
        match self.slots.get_mut(before as usize) {
            Some(before) => before.behind = behind,
            None => self.first = behind,
        }
        match self.slots.get_mut(behind as usize) {
            Some(behind) => behind.before = before,
            None => self.last = before,
        }
        if self.cursor == n {
            self.cursor = behind;
        }
        self.unchain(slot.block, n, slot.chain);
        if let Some(place) = self.slots.get_mut(n as usize) {
            *place = Slot {
                chain: self.free,
                ..Slot::FREE
            };
        }
        self.free = n;
        self.used = self.used.saturating_sub(1);
    }

    /// Takes a slot out of its bucket; `next` comes behind it there.
    fn unchain(&mut self, block: u64, n: u32, next: u32) {
        let Some(head) = self.bucket(block) else {
            return;
        };
        if *head == n {
            *head = next;
            return;
        }
        let mut at = *head;
        while let Some(slot) = self.slots.get_mut(at as usize) {
            if slot.chain == n {
                slot.chain = next;
                return;
            }
            at = slot.chain;
        }
    }
}

/// The bucket of a block. Neighbours, and blocks at equal distances, are in different ones.
fn bucket(block: u64, buckets: usize) -> Option<usize> {
    let mixed = block.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    (mixed as usize).checked_rem(buckets)
}

#[cfg(test)]
mod tests;
