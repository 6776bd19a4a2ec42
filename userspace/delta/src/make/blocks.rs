// SPDX-License-Identifier: GPL-2.0-or-later

//! What becomes of each block of the new image.

use super::scan::Hash;
use super::scan::Scan;
use super::scan::ZERO;
use crate::index::push_block;
use crate::index::Copy;
use crate::index::Run;
use std::collections::HashMap;

/// The block is as it was.
const SAME: u32 = u32::MAX;
/// It becomes zero.
const CLEAR: u32 = u32::MAX - 1;
/// A unit makes it.
const MADE: u32 = u32::MAX - 2;
/// The end of a chain.
const NONE: u32 = u32::MAX;
/// So many places of one content are looked at.
const MAX_PLACES: usize = 16;
/// So many blocks of a run are compared to choose a place.
const MAX_RUN: usize = 256;

/// For each block of the new image, its place in the old one, or one of the constants.
#[derive(Debug)]
pub(super) struct Map {
    blocks: Vec<u32>,
}

impl Map {
    pub(super) fn new(old: &Scan, new: &Scan) -> Self {
        let places = Places::new(&old.hashes);
        let mut map = Self {
            blocks: Vec::with_capacity(new.hashes.len()),
        };
        // The place behind the last copied block, where its run would go on.
        let mut next = None;
        for (at, &hash) in new.hashes.iter().enumerate() {
            let before = old.hashes.get(at).copied().unwrap_or(ZERO);
            let block = if hash == before {
                SAME
            } else if hash == ZERO {
                CLEAR
            } else if let Some(place) = places.find(hash, &new.hashes, at, next) {
                next = Some(place as usize + 1);
                map.blocks.push(place);
                continue;
            } else {
                MADE
            };
            next = None;
            map.blocks.push(block);
        }
        map
    }

    /// Whether a unit makes the block.
    pub(super) fn is_made(&self, block: u64) -> bool {
        self.get(block) == MADE
    }

    /// The place in the old image that the block is copied from, or stays at.
    pub(super) fn source(&self, block: u64) -> Option<u64> {
        match self.get(block) {
            SAME => Some(block),
            CLEAR | MADE => None,
            place => Some(place.into()),
        }
    }

    /// From now on a unit makes the block.
    pub(super) fn set_made(&mut self, block: u64) {
        let place = usize::try_from(block).ok();
        if let Some(block) = place.and_then(|place| self.blocks.get_mut(place)) {
            *block = MADE;
        }
    }

    fn get(&self, block: u64) -> u32 {
        let place = usize::try_from(block).ok();
        place
            .and_then(|place| self.blocks.get(place))
            .copied()
            .unwrap_or(SAME)
    }

    /// Runs of blocks that become zero.
    pub(super) fn zero(&self) -> Vec<Run> {
        self.runs(CLEAR)
    }

    /// Runs of blocks that units make.
    pub(super) fn made(&self) -> Vec<Run> {
        self.runs(MADE)
    }

    fn runs(&self, kind: u32) -> Vec<Run> {
        let mut runs = Vec::new();
        for (at, _) in (0..).zip(&self.blocks).filter(|(_, &block)| block == kind) {
            push_block(&mut runs, at);
        }
        runs
    }

    /// Runs of blocks that are copied.
    pub(super) fn copies(&self) -> Vec<Copy> {
        let mut copies: Vec<Copy> = Vec::new();
        for (target, &block) in (0..).zip(&self.blocks) {
            if block >= MADE {
                continue;
            }
            let source = u64::from(block);
            match copies.last_mut() {
                Some(last)
                    if last.target + u64::from(last.len) == target
                        && last.source + u64::from(last.len) == source =>
                {
                    last.len += 1;
                }
                _ => copies.push(Copy {
                    target,
                    source,
                    len: 1,
                }),
            }
        }
        copies
    }
}

/// Where each content is in the old image.
struct Places<'a> {
    hashes: &'a [Hash],
    first: HashMap<Hash, u32>,
    /// The next block with the same content.
    next: Vec<u32>,
}

impl<'a> Places<'a> {
    fn new(hashes: &'a [Hash]) -> Self {
        let mut first = HashMap::new();
        let mut next = vec![NONE; hashes.len()];
        // From the end on, so that chains ascend.
        for (at, &hash) in hashes.iter().enumerate().rev() {
            if hash == ZERO {
                continue;
            }
            let at32 = u32::try_from(at).unwrap_or(NONE);
            if let (Some(behind), Some(next)) = (first.insert(hash, at32), next.get_mut(at)) {
                *next = behind;
            }
        }
        Self {
            hashes,
            first,
            next,
        }
    }

    /// The place of new block `at`: where the last run goes on, or where the longest one starts.
    fn find(&self, hash: Hash, new: &[Hash], at: usize, next: Option<usize>) -> Option<u32> {
        if let Some(place) = next.filter(|&place| self.hashes.get(place) == Some(&hash)) {
            return u32::try_from(place).ok();
        }
        let mut place = *self.first.get(&hash)?;
        let mut best = (0, place);
        for _ in 0..MAX_PLACES {
            let len = self.run_len(place as usize, new, at);
            if len > best.0 {
                best = (len, place);
            }
            place = self.next.get(place as usize).copied().unwrap_or(NONE);
            if place == NONE {
                break;
            }
        }
        Some(best.1)
    }

    fn run_len(&self, place: usize, new: &[Hash], at: usize) -> usize {
        let old = self.hashes.get(place..).unwrap_or_default();
        let new = new.get(at..).unwrap_or_default();
        let same = old.iter().zip(new).take(MAX_RUN);
        same.take_while(|(a, b)| a == b).count()
    }
}
