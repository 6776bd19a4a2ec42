// SPDX-License-Identifier: GPL-2.0-or-later

//! What a COW volume holds, as the format and the stock target have it.

use crate::data::SECTOR;
use crate::op::Kind;
use crate::view::View;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Chunk size of a new store whose table says 0, in sectors.
pub(crate) const DEFAULT_CHUNK: u64 = 32;

/// The content of one chunk.
pub(crate) type Chunk = Arc<Vec<u8>>;

/// Chunks by their numbers.
pub(crate) type Exceptions = BTreeMap<u64, Chunk>;

/// A store and its exceptions.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub(crate) persistent: bool,
    /// In sectors.
    pub(crate) chunk: u64,
    pub(crate) valid: bool,
    /// Shared with copies of the store until one of them changes.
    exceptions: Arc<Exceptions>,
    /// Chunks that exceptions have been given since the store was empty.
    pub(crate) taken: u64,
}

impl Store {
    /// An empty store.
    pub(crate) fn new(kind: Kind, chunk: u64) -> Self {
        Self {
            persistent: kind != Kind::N,
            chunk: if chunk == 0 { DEFAULT_CHUNK } else { chunk },
            valid: true,
            exceptions: Arc::default(),
            taken: 0,
        }
    }

    /// Exceptions in an area.
    fn entries(&self) -> u64 {
        entries(self.chunk)
    }

    /// The usage that a status tells: allocated and metadata sectors.
    pub(crate) fn usage(&self) -> (u64, u64) {
        if !self.persistent {
            return (self.taken * self.chunk, 0);
        }
        let full = self.taken / self.entries();
        (
            (2 + self.taken + full) * self.chunk,
            (2 + full) * self.chunk,
        )
    }

    /// Whether a volume of `sectors` sectors has room for one more exception.
    pub(crate) fn has_room(&self, sectors: u64) -> bool {
        let (allocated, metadata) = self.usage();
        if !self.persistent {
            return allocated + self.chunk <= sectors;
        }
        // An area that has become full is followed by another one, which has to be there.
        let fills = (self.taken + 1) % self.entries() == 0;
        let next_area = 1 + (metadata / self.chunk - 1) * (self.entries() + 1);
        let needed = if fills { next_area + 1 } else { 0 };
        sectors >= (allocated + self.chunk).max(needed * self.chunk)
    }

    /// Gives a chunk an exception. The caller has seen that there is room.
    pub(crate) fn add(&mut self, number: u64, content: Chunk) {
        Arc::make_mut(&mut self.exceptions).insert(number, content);
        self.taken += 1;
    }

    /// Whether a chunk has an exception.
    pub(crate) fn has(&self, number: u64) -> bool {
        self.exceptions.contains_key(&number)
    }

    /// Changes the content of a chunk from byte `at` on. False if it has no exception.
    pub(crate) fn write(&mut self, number: u64, at: usize, data: &[u8]) -> bool {
        if !self.has(number) {
            return false;
        }
        let chunk = Arc::make_mut(&mut self.exceptions).get_mut(&number);
        if let Some(content) = chunk {
            Arc::make_mut(content)[at..at + data.len()].copy_from_slice(data);
        }
        true
    }

    /// An origin with the exceptions.
    pub(crate) fn view(&self, base: &Arc<Vec<u8>>) -> View {
        View::overlaid(base, self.chunk as usize * SECTOR, &self.exceptions)
    }

    /// A merge empties the store; what it held.
    pub(crate) fn empty(&mut self) -> Arc<Exceptions> {
        self.taken = 0;
        std::mem::take(&mut self.exceptions)
    }
}

fn entries(chunk: u64) -> u64 {
    chunk * 32
}

/// Whether the last slot of an area is one that its volume cannot use: the next area would lie
/// behind the end. See `Deviation::LastSlot`.
pub(crate) fn ends_behind_area(chunk: u64, sectors: u64) -> bool {
    (sectors / chunk) % (entries(chunk) + 1) == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(kind: Kind, chunk: u64, taken: u64) -> Store {
        Store {
            taken,
            ..Store::new(kind, chunk)
        }
    }

    #[test]
    fn usage_is_what_stock_was_seen_to_tell() {
        assert_eq!(store(Kind::P, 8, 0).usage(), (16, 16));
        assert_eq!(store(Kind::P, 8, 1).usage(), (24, 16));
        assert_eq!(store(Kind::P, 8, 256).usage(), (2072, 24));
        assert_eq!(store(Kind::N, 8, 3).usage(), (24, 0));
    }

    #[test]
    fn stores_are_full_at_the_last_whole_chunk() {
        assert!(store(Kind::P, 8, 7).has_room(80));
        assert!(!store(Kind::P, 8, 8).has_room(80));
        assert!(!store(Kind::P, 8, 7).has_room(79));
        assert!(store(Kind::N, 8, 9).has_room(80));
        assert!(!store(Kind::N, 8, 10).has_room(80));
    }

    #[test]
    fn the_last_slot_of_an_area_needs_the_next_area() {
        // Header, area 0, 256 chunks of data: area 1 is chunk 258.
        assert!(store(Kind::P, 8, 254).has_room(258 * 8));
        assert!(!store(Kind::P, 8, 255).has_room(258 * 8));
        assert!(store(Kind::P, 8, 255).has_room(259 * 8));
        assert!(ends_behind_area(8, 258 * 8));
        assert!(!ends_behind_area(8, 259 * 8));
        assert!(!ends_behind_area(8, 257 * 8));
    }
}
