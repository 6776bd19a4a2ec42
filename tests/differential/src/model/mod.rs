// SPDX-License-Identifier: GPL-2.0-or-later

//! What the devices should be like: volumes in memory and the rules of copy on write.
//!
//! The model knows the simple truth only: no order of commits, no concurrency. A merge counts as not
//! begun until it has been waited for. Until then the content of the origin is one of two for each
//! chunk that is merged, and so is the number of exceptions of the other snapshots; nothing else is.
//!
//! [`Model::apply`] (`ops.rs`, and `io.rs` for what reads and writes) takes one operation, or refuses it if it does not fit the state: an
//! operation that has lost its meaning while a script was shrunk is left out. [`Model::views`]
//! (`views.rs`) tells what every device should show.

mod io;
mod ops;
mod views;

use crate::action::Target;
use crate::data;
use crate::data::Tag;
use crate::data::SECTOR;
use crate::op::Dev;
use crate::op::Kind;
use crate::op::StoreWords;
use crate::op::COWS;
use crate::script::Sizes;
use crate::store::Store;
use dmholey::dm::table::Role;
use std::ops::Range;
use std::sync::Arc;

/// The volume of the origin.
pub(crate) const BASE: &str = "base";

/// The name of a COW volume.
pub(crate) fn cow_name(n: usize) -> String {
    format!("cow{n}")
}

/// Whether a device is a volume.
pub(crate) fn is_volume(name: &str) -> bool {
    name == BASE || name.starts_with("cow")
}

/// All volumes with their places in the pool, and a device without a table.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    base: Arc<Vec<u8>>,
    cows: [Cow; COWS],
    origin: Option<Origin>,
    snapshots: [Option<Snapshot>; COWS],
    merge: Option<Merge>,
    /// Number of the operation that comes next.
    step: usize,
}

#[derive(Clone, Debug)]
struct Cow {
    sectors: u64,
    holds: Holds,
}

#[derive(Clone, Debug)]
enum Holds {
    /// Zeroes at its start.
    Nothing,
    /// Something that is no store.
    Garbage,
    Store(Store),
}

/// The device of the origin, with the table of one.
#[derive(Clone, Debug)]
struct Origin {
    suspended: bool,
    /// The device has been a merge before.
    was_merge: bool,
}

#[derive(Clone, Debug)]
struct Snapshot {
    words: StoreWords,
    /// It has been moved so many times.
    moves: u32,
    suspended: bool,
    overflowed: bool,
    /// Nothing was written to it since the last flush.
    settled: bool,
}

#[derive(Clone, Debug)]
struct Merge {
    cow: usize,
    kind: Kind,
    /// It has taken the place of the origin.
    on_origin: bool,
    /// There is a device. If not, the merge was stopped half-way.
    live: bool,
    suspended: bool,
    /// It was waited for, or there is nothing to merge.
    done: bool,
}

impl Snapshot {
    fn new(words: StoreWords) -> Self {
        Self {
            words,
            moves: 0,
            suspended: false,
            overflowed: false,
            settled: true,
        }
    }
}

impl Merge {
    fn name(&self) -> &'static str {
        if self.on_origin {
            "origin"
        } else {
            "merge"
        }
    }
}

impl Cow {
    fn store(&self) -> Option<&Store> {
        match &self.holds {
            Holds::Store(store) => Some(store),
            _ => None,
        }
    }

    fn store_mut(&mut self) -> Option<&mut Store> {
        match &mut self.holds {
            Holds::Store(store) => Some(store),
            _ => None,
        }
    }
}

impl Model {
    /// Fresh volumes.
    pub(crate) fn new(sizes: &Sizes) -> Self {
        Self {
            base: Arc::new(data::fill(Tag::ORIGIN, 0, sizes.origin)),
            cows: sizes.cows.map(|sectors| Cow {
                sectors,
                holds: Holds::Nothing,
            }),
            origin: None,
            snapshots: [const { None }; COWS],
            merge: None,
            step: 0,
        }
    }

    /// Sectors of the origin, and of every device on it.
    pub(crate) fn sectors(&self) -> u64 {
        (self.base.len() / SECTOR) as u64
    }

    /// Sectors of a COW volume.
    pub(crate) fn cow_sectors(&self, n: usize) -> u64 {
        self.cows[n].sectors
    }

    /// The chunk size of the store on a COW volume.
    pub(crate) fn chunk(&self, n: usize) -> Option<u64> {
        self.cows[n].store().map(|store| store.chunk)
    }

    /// Devices that take I/O now.
    pub(crate) fn usable(&self) -> Vec<Dev> {
        let snapshots = (0..COWS).map(Dev::Snapshot);
        let all = [Dev::Origin, Dev::Merge].into_iter().chain(snapshots);
        all.filter(|&dev| self.is_usable(dev)).collect()
    }

    /// Devices that are suspended.
    pub(crate) fn suspended(&self) -> Vec<Dev> {
        let snapshots = (0..COWS).map(Dev::Snapshot);
        let all = [Dev::Origin, Dev::Merge].into_iter().chain(snapshots);
        all.filter(|&dev| self.is_suspended(dev) == Some(true))
            .collect()
    }

    /// Whether a merge is under way or was stopped half-way.
    pub(crate) fn is_merging(&self) -> bool {
        self.merge.as_ref().is_some_and(|merge| !merge.done)
    }

    fn is_suspended(&self, dev: Dev) -> Option<bool> {
        match dev {
            Dev::Origin => self.origin.as_ref().map(|origin| origin.suspended),
            Dev::Snapshot(n) => self.snapshots[n].as_ref().map(|s| s.suspended),
            Dev::Merge => self.live_merge().map(|merge| merge.suspended),
        }
    }

    fn is_usable(&self, dev: Dev) -> bool {
        self.is_suspended(dev) == Some(false)
    }

    fn live_merge(&self) -> Option<&Merge> {
        self.merge.as_ref().filter(|merge| merge.live)
    }

    /// A snapshot of a store whose merge was stopped half-way: it is only looked at.
    fn is_look(&self, n: usize) -> bool {
        self.merge.as_ref().is_some_and(|m| m.cow == n && !m.live)
    }

    /// The device-mapper name of a device.
    fn name(&self, dev: Dev) -> String {
        match dev {
            Dev::Origin => "origin".to_owned(),
            Dev::Snapshot(n) => {
                let moves = self.snapshots[n].as_ref().map_or(0, |s| s.moves);
                snapshot_name(n, moves)
            }
            Dev::Merge => self.merge.as_ref().map_or("merge", Merge::name).to_owned(),
        }
    }

    /// Whether the store on a COW volume is one that works.
    fn is_valid(&self, n: usize) -> bool {
        self.cows[n].store().is_some_and(|store| store.valid)
    }

    /// The bytes of the origin that belong to a chunk.
    fn chunk_range(&self, number: u64, chunk: u64) -> Range<usize> {
        let bytes = chunk as usize * SECTOR;
        let start = number as usize * bytes;
        start..self.base.len().min(start + bytes)
    }

    /// Writes to the origin: every snapshot gets a copy first, or is given up.
    fn write_origin(&mut self, sector: u64, data: &[u8]) {
        let end = sector + (data.len() / SECTOR) as u64;
        for n in 0..COWS {
            if self.snapshots[n].is_some() && !self.is_look(n) {
                self.copy_out(n, sector, end);
            }
        }
        self.pass_down(sector, data);
    }

    /// Writes to the origin, and no snapshot gets a copy.
    fn pass_down(&mut self, sector: u64, data: &[u8]) {
        let start = sector as usize * SECTOR;
        Arc::make_mut(&mut self.base)[start..start + data.len()].copy_from_slice(data);
    }

    /// Gives a snapshot copies of some sectors of the origin.
    fn copy_out(&mut self, n: usize, sector: u64, end: u64) {
        let Some(chunk) = self.chunk(n).filter(|_| self.is_valid(n)) else {
            return;
        };
        for number in sector / chunk..end.div_ceil(chunk) {
            let range = self.chunk_range(number, chunk);
            let cow = &mut self.cows[n];
            let sectors = cow.sectors;
            let Some(store) = cow.store_mut().filter(|store| !store.has(number)) else {
                continue;
            };
            if !store.has_room(sectors) {
                store.valid = false;
                return;
            }
            store.add(number, Arc::new(self.base[range].to_vec()));
        }
    }

    /// Writes to a snapshot. False if that fails, which it does from the chunk on that finds no room.
    fn write_snapshot(&mut self, n: usize, sector: u64, data: &[u8]) -> bool {
        let Some(snapshot) = &mut self.snapshots[n] else {
            return false;
        };
        if snapshot.overflowed || !self.cows[n].store().is_some_and(|store| store.valid) {
            return false;
        }
        snapshot.settled = false;
        let keeps = snapshot.words.kind == Kind::PO;
        for (number, at, part) in self.pieces(n, sector, data) {
            let range = self.chunk_range(number, self.chunk(n).unwrap_or(1));
            let cow = &mut self.cows[n];
            let sectors = cow.sectors;
            let Some(store) = cow.store_mut() else {
                return false;
            };
            if !store.has(number) {
                if !store.has_room(sectors) {
                    store.valid = keeps;
                    if let Some(snapshot) = &mut self.snapshots[n] {
                        snapshot.overflowed = keeps;
                    }
                    return false;
                }
                store.add(number, Arc::new(self.base[range].to_vec()));
            }
            store.write(number, at, part);
        }
        true
    }

    /// Writes to the merge: to the COW volume what has an exception, the rest to the origin.
    fn write_merge(&mut self, sector: u64, data: &[u8]) {
        let Some(merge) = &self.merge else {
            return;
        };
        let n = merge.cow;
        if merge.done {
            self.write_origin(sector, data);
            return;
        }
        let mut sector = sector;
        for (number, at, part) in self.pieces(n, sector, data) {
            let store = self.cows[n].store_mut();
            if !store.is_some_and(|store| store.write(number, at, part)) {
                self.write_origin(sector, part);
            }
            sector += (part.len() / SECTOR) as u64;
        }
    }

    /// Cuts data at the chunk borders of a store: chunk, byte in it, data.
    fn pieces<'a>(&self, n: usize, sector: u64, data: &'a [u8]) -> Vec<(u64, usize, &'a [u8])> {
        let bytes = self.chunk(n).unwrap_or(1) as usize * SECTOR;
        let (mut place, mut rest) = (sector as usize * SECTOR, data);
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let at = place % bytes;
            let (part, tail) = rest.split_at(rest.len().min(bytes - at));
            pieces.push(((place / bytes) as u64, at, part));
            (place, rest) = (place + part.len(), tail);
        }
        pieces
    }

    /// Brings the merge to its end.
    fn complete_merge(&mut self) {
        let Some(merge) = self.merge.as_mut().filter(|merge| !merge.done) else {
            return;
        };
        merge.done = true;
        let n = merge.cow;
        let Some(store) = self.cows[n].store_mut() else {
            return;
        };
        let (chunk, merged) = (store.chunk, store.empty());
        for (&number, content) in merged.iter() {
            self.write_origin(number * chunk, content);
        }
    }

    /// The state after the merge, if nothing else comes in between.
    fn completed(&self) -> Self {
        let mut after = self.clone();
        after.complete_merge();
        after
    }

    /// Whether the merge ends without a snapshot being given up for it.
    fn merge_fits(&self) -> bool {
        let after = self.completed();
        (0..COWS).all(|n| self.is_valid(n) == after.is_valid(n))
    }
}

fn snapshot_name(n: usize, moves: u32) -> String {
    format!("snapshot{n}{}", if moves % 2 == 0 { "" } else { "b" })
}

/// The target of a role's table.
fn target(role: Role) -> Target {
    Target::Role(role)
}
