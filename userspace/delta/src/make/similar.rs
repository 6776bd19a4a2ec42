// SPDX-License-Identifier: GPL-2.0-or-later

//! Finds blocks of the old image that share content with blocks of the new one, at any offset.
//!
//! A rolling hash picks some windows of 32 bytes by their content alone, so that the same ones are picked
//! wherever they stand. Old blocks are looked up by the windows that new ones have. Only those that are
//! asked for are kept, so memory grows with what is new, and not with the image.

use super::Pair;
use crate::error::Result;
use crate::format::blocks;
use crate::format::BLOCK;
use crate::index::push_block;
use crate::index::Run;
use crate::unit::read_blocks;
use dmholey_cow::Disk;
use std::collections::BTreeMap;
use std::collections::HashMap;

/// Bytes of a window.
const WINDOW: usize = 32;
/// One window of so many is picked.
const PICKED: u64 = 128;
/// A window that is in more old blocks than this tells nothing.
const MAX_PLACES: usize = 8;
/// Blocks around one that is alike that are taken, too.
const AROUND: u64 = 1;
/// Old blocks for each new one at most.
const MAX_SOURCES: usize = 2;
/// Bytes read at a time.
const BATCH: usize = 1 << 20;
/// Multiplier of the rolling hash.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Old blocks by the windows they have in common with new ones.
pub(super) struct Similar<'a, O, N> {
    pair: &'a Pair<'a, O, N>,
    places: HashMap<u64, Vec<u64>>,
}

impl<'a, O: Disk, N: Disk> Similar<'a, O, N> {
    /// Reads the new blocks in `runs`, and all of the old image.
    pub(super) fn new(pair: &'a Pair<'a, O, N>, runs: &[Run]) -> Result<Self> {
        let mut places: HashMap<u64, Vec<u64>> = HashMap::new();
        each_block(pair.new, runs, |_, block| {
            picked(block, |hash| {
                places.entry(hash).or_default();
            });
        })?;
        let all = Run {
            start: 0,
            len: u32::try_from(blocks(pair.old.size())).unwrap_or(u32::MAX),
        };
        if !places.is_empty() && all.len > 0 {
            each_block(pair.old, &[all], |number, block| {
                picked(block, |hash| {
                    let list = places
                        .get_mut(&hash)
                        .filter(|list| list.len() <= MAX_PLACES);
                    if let Some(list) = list.filter(|list| list.last() != Some(&number)) {
                        list.push(number);
                    }
                });
            })?;
        }
        places.retain(|_, list| (1..=MAX_PLACES).contains(&list.len()));
        Ok(Self { pair, places })
    }

    /// Old blocks that are like the new ones in `runs`, ascending.
    pub(super) fn sources(&self, runs: &[Run]) -> Result<Vec<Run>> {
        let mut votes: BTreeMap<u64, u32> = BTreeMap::new();
        let mut count = 0;
        each_block(self.pair.new, runs, |_, block| {
            count += 1;
            picked(block, |hash| {
                for &place in self.places.get(&hash).into_iter().flatten() {
                    *votes.entry(place).or_default() += 1;
                }
            });
        })?;
        let mut best: Vec<(u32, u64)> = votes
            .into_iter()
            .map(|(place, votes)| (votes, place))
            .collect();
        best.sort_unstable_by(|a, b| b.cmp(a));
        best.truncate(count * MAX_SOURCES);
        let mut places: Vec<u64> = best.into_iter().map(|(_, place)| place).collect();
        places.sort_unstable();
        let end = blocks(self.pair.old.size());
        let mut out: Vec<Run> = Vec::new();
        for place in places {
            let first = place
                .saturating_sub(AROUND)
                .max(out.last().map_or(0, |run| run.end()));
            for block in first..(place + AROUND + 1).min(end) {
                push_block(&mut out, block);
            }
        }
        Ok(out)
    }
}

/// Calls `take` with each block that is there.
fn each_block<D: Disk>(disk: &D, runs: &[Run], mut take: impl FnMut(u64, &[u8])) -> Result<()> {
    let mut buf = vec![0; BATCH];
    for run in runs {
        let mut at = run.start;
        while at < run.end() {
            let data = disk.next_data(at * BLOCK as u64) / BLOCK as u64;
            at = at.max(data);
            if at >= run.end() {
                break;
            }
            let len = (run.end() - at).min((BATCH / BLOCK) as u64);
            let part = buf.get_mut(..len as usize * BLOCK).unwrap_or_default();
            read_blocks(disk, at, part)?;
            for (number, block) in (at..).zip(part.chunks(BLOCK)) {
                take(number, block);
            }
            at += len;
        }
    }
    Ok(())
}

/// Calls `take` with the hash of each picked window.
fn picked(block: &[u8], mut take: impl FnMut(u64)) {
    if dmholey_cow::writer::is_zero(block) {
        return;
    }
    let leaving = (0..WINDOW).fold(1u64, |power, _| power.wrapping_mul(FACTOR));
    let mut hash = 0u64;
    let mut last = None;
    for (n, &byte) in block.iter().enumerate() {
        hash = hash.wrapping_mul(FACTOR).wrapping_add(u64::from(byte) + 1);
        if n >= WINDOW {
            let old = block.get(n - WINDOW).copied().unwrap_or(0);
            hash = hash.wrapping_sub(leaving.wrapping_mul(u64::from(old) + 1));
        }
        let mixed = (hash ^ (hash >> 29)).wrapping_mul(FACTOR) >> 32;
        if n + 1 >= WINDOW && mixed < (1 << 32) / PICKED && last != Some(hash) {
            take(hash);
            last = Some(hash);
        }
    }
}
