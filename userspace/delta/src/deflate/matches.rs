// SPDX-License-Identifier: GPL-2.0-or-later

//! Which matches are taken.

use super::trees::Block;
use super::trees::Writer;
use super::Family;
use super::Recipe;

pub(super) const MIN_MATCH: usize = 3;
pub(super) const MAX_MATCH: usize = 258;
const WINDOW: usize = 1 << 15;
/// Nothing farther away is matched.
const MAX_DISTANCE: usize = WINDOW - (MAX_MATCH + MIN_MATCH + 1);
/// A match of the smallest length is not worth a larger distance.
const TOO_FAR: usize = 4096;

/// What a level means.
struct Level {
    /// A chain is searched for a quarter only if there is a match of this length already.
    good: usize,
    /// No better match is looked for behind one of this length; without lazy matching, a match of up to
    /// this length has all its strings entered.
    lazy: usize,
    /// A match of this length ends a search.
    nice: usize,
    /// Candidates looked at.
    chain: usize,
}

const LEVELS: [Level; 9] = [
    level(4, 4, 8, 4),
    level(4, 5, 16, 8),
    level(4, 6, 32, 32),
    level(4, 4, 16, 16),
    level(8, 16, 32, 32),
    level(8, 16, 128, 128),
    level(8, 32, 128, 256),
    level(32, 128, 258, 1024),
    level(32, 258, 258, 4096),
];
/// Up to this level the first match is taken.
const GREEDY: u8 = 3;

const fn level(good: usize, lazy: usize, nice: usize, chain: usize) -> Level {
    Level {
        good,
        lazy,
        nice,
        chain,
    }
}

/// The search, and where it is.
///
/// Positions are those in the whole text. Position 0 stands for none, so nothing matches the start.
pub(super) struct Matcher {
    /// The text, and zeros behind it: a search compares without regard to the end.
    text: Vec<u8>,
    len: usize,
    recipe: Recipe,
    level: &'static Level,
    /// The last position of each hash.
    head: Vec<u32>,
    /// The one before it with the same hash, by position modulo the window.
    prev: Vec<u32>,
    hash_bits: u32,
    /// Symbols that a block has at most.
    symbols: usize,
    at: usize,
    block: Block,
    block_start: usize,
    writer: Writer,
    max: usize,
}

impl Matcher {
    pub(super) fn new(plain: &[u8], recipe: Recipe, max: usize) -> Self {
        let (hash_bits, buffer) = match recipe.family {
            Family::Gzip => (15, 1 << 15),
            Family::Zlib(memory) => (u32::from(memory) + 7, 1 << (u32::from(memory) + 6)),
        };
        let mut text = Vec::with_capacity(plain.len() + MAX_MATCH + MIN_MATCH);
        text.extend_from_slice(plain);
        text.resize(plain.len() + MAX_MATCH + MIN_MATCH, 0);
        let number = usize::from(recipe.level.clamp(1, 9)) - 1;
        Self {
            text,
            len: plain.len(),
            recipe,
            level: &LEVELS[number],
            head: vec![0; 1 << hash_bits],
            prev: vec![0; WINDOW],
            hash_bits,
            symbols: buffer - 1,
            at: 0,
            block: Block::default(),
            block_start: 0,
            writer: Writer::default(),
            max,
        }
    }

    pub(super) fn run(mut self) -> Option<Vec<u8>> {
        if self.recipe.level <= GREEDY {
            self.greedy()?;
        } else {
            self.lazy()?;
        }
        self.end_block(true)?;
        let bytes = self.writer.finish();
        (bytes.len() <= self.max).then_some(bytes)
    }

    fn greedy(&mut self) -> Option<()> {
        while self.at < self.len {
            let found = self.enter();
            let mut matched = 0;
            let mut from = 0;
            if self.in_reach(found) {
                (matched, from) = self.search(found, MIN_MATCH - 1);
            }
            let full = if matched >= MIN_MATCH {
                let full = self.tally_match(self.at - from, matched);
                let end = self.at + matched;
                if matched <= self.level.lazy && self.enters_inside(end) {
                    while self.at + 1 < end {
                        self.at += 1;
                        self.enter();
                    }
                }
                self.at = end;
                full
            } else {
                let full = self.tally_literal(self.at);
                self.at += 1;
                full
            };
            if full {
                self.end_block(false)?;
            }
        }
        Some(())
    }

    /// zlib does not enter what a match skips when fewer bytes than a match are left behind it.
    fn enters_inside(&self, end: usize) -> bool {
        self.recipe.family == Family::Gzip || self.len - end >= MIN_MATCH
    }

    fn lazy(&mut self) -> Option<()> {
        // The match at the last position, and whether its first byte is still to be written.
        let (mut length, mut start) = (MIN_MATCH - 1, 0);
        let mut pending = false;
        while self.at < self.len {
            let found = self.enter();
            let (last_length, last_start) = (length, start);
            length = MIN_MATCH - 1;
            if last_length < self.level.lazy && self.in_reach(found) {
                (length, start) = self.search(found, last_length);
                if length == MIN_MATCH && self.at - start > TOO_FAR {
                    length = MIN_MATCH - 1;
                }
            }
            if last_length >= MIN_MATCH && length <= last_length {
                let full = self.tally_match(self.at - 1 - last_start, last_length);
                let end = self.at - 1 + last_length;
                while self.at + 1 < end {
                    self.at += 1;
                    self.enter();
                }
                self.at = end;
                pending = false;
                length = MIN_MATCH - 1;
                if full {
                    self.end_block(false)?;
                }
            } else {
                if pending && self.tally_literal(self.at - 1) {
                    self.end_block(false)?;
                }
                pending = true;
                self.at += 1;
            }
        }
        if pending {
            self.tally_literal(self.at - 1);
        }
        Some(())
    }

    /// Enters the string at the current position. Returns the last one with its hash.
    fn enter(&mut self) -> usize {
        if self.recipe.family != Family::Gzip && self.len - self.at < MIN_MATCH {
            return 0;
        }
        let Some(&[a, b, c]) = self.text.get(self.at..).and_then(|text| text.first_chunk()) else {
            return 0;
        };
        let shift = self.hash_bits.div_ceil(3);
        let hash = (u32::from(a) << (2 * shift)) ^ (u32::from(b) << shift) ^ u32::from(c);
        let hash = hash & ((1 << self.hash_bits) - 1);
        let (Some(head), Some(prev)) = (
            self.head.get_mut(hash as usize),
            self.prev.get_mut(self.at % WINDOW),
        ) else {
            return 0;
        };
        let found = *head;
        *prev = found;
        *head = self.at as u32;
        found as usize
    }

    fn in_reach(&self, found: usize) -> bool {
        found != 0 && self.at - found <= MAX_DISTANCE
    }

    /// The longest match longer than `best`, from `candidate` on, and where it is. The nearest of those
    /// with one length.
    fn search(&self, mut candidate: usize, mut best: usize) -> (usize, usize) {
        let left = self.len - self.at;
        let mut chain = self.level.chain;
        if best >= self.level.good {
            chain >>= 2;
        }
        let mut nice = self.level.nice;
        if self.recipe.family != Family::Gzip {
            nice = nice.min(left);
        }
        let limit = self.at.saturating_sub(MAX_DISTANCE);
        let mut start = candidate;
        let scan = self
            .text
            .get(self.at..self.at + MAX_MATCH)
            .unwrap_or_default();
        loop {
            let there = self
                .text
                .get(candidate..candidate + MAX_MATCH)
                .unwrap_or_default();
            if scan.get(best) == there.get(best) && scan.get(..2) == there.get(..2) {
                let same = scan.iter().zip(there).take_while(|(a, b)| a == b).count();
                if same > best {
                    (best, start) = (same, candidate);
                    if same >= nice || same == MAX_MATCH {
                        break;
                    }
                }
            }
            candidate = self.prev.get(candidate % WINDOW).map_or(0, |&p| p as usize);
            chain -= 1;
            if candidate <= limit || chain == 0 {
                break;
            }
        }
        (best.min(left), start)
    }

    fn tally_literal(&mut self, at: usize) -> bool {
        self.block.literal(self.text.get(at).copied().unwrap_or(0));
        self.is_full()
    }

    fn tally_match(&mut self, distance: usize, length: usize) -> bool {
        self.block.matched(distance, length);
        self.is_full()
    }

    /// Whether a block ends here. gzip also looks, now and then, whether the block does well.
    fn is_full(&self) -> bool {
        let symbols = self.block.len();
        if self.recipe.family == Family::Gzip && self.recipe.level > 2 && symbols % 4096 == 0 {
            let estimate = self.block.estimate() / 8;
            let matches = self.block.matches();
            if matches < symbols / 2 && estimate < (self.at - self.block_start) / 2 {
                return true;
            }
        }
        symbols == self.symbols
    }

    fn end_block(&mut self, last: bool) -> Option<()> {
        let stored = self.text.get(self.block_start..self.at.min(self.len))?;
        self.block.write(&mut self.writer, stored, last)?;
        self.block = Block::default();
        self.block_start = self.at;
        (self.writer.len() <= self.max).then_some(())
    }
}
