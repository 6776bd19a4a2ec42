// SPDX-License-Identifier: GPL-2.0

//! A disk with a volatile write cache, whose power can be cut.
//!
//! A write is under way until [`Disk::finish`] is called for it, then it is in the cache, and after
//! a flush that was *issued later* it is on the media. A cut leaves any mixture of what the media
//! and the cache hold and of what is under way, sector by sector.

use crate::random::Random;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Bytes of a sector.
pub(crate) const SECTOR: usize = 512;

/// The content of a sector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sector {
    /// Data: a number that tells who wrote it.
    Stamp(u64),
    /// Metadata.
    Bytes(Rc<[u8; SECTOR]>),
}

impl Sector {
    /// The stamp, if it is data.
    pub(crate) fn stamp(&self) -> Option<u64> {
        match self {
            Self::Stamp(stamp) => Some(*stamp),
            Self::Bytes(_) => None,
        }
    }

    /// The bytes. Data looks like a list of plausible exceptions to whoever takes it for metadata.
    pub(crate) fn bytes(&self) -> Rc<[u8; SECTOR]> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Stamp(stamp) => {
                let mut bytes = [0; SECTOR];
                for (n, entry) in (0u64..).zip(bytes.chunks_exact_mut(16)) {
                    entry[..8].copy_from_slice(&(stamp.wrapping_add(n) % 97).to_le_bytes());
                    entry[8..].copy_from_slice(&(2 + stamp.wrapping_add(n) % 89).to_le_bytes());
                }
                Rc::new(bytes)
            }
        }
    }

    /// Cuts bytes into sectors.
    pub(crate) fn cut(bytes: &[u8]) -> Vec<Self> {
        bytes
            .chunks_exact(SECTOR)
            .map(|part| Self::Bytes(Rc::new(part.try_into().unwrap())))
            .collect()
    }
}

/// Names a request that is under way.
pub(crate) type Ticket = u64;

/// A request that is under way.
#[derive(Clone)]
struct Request {
    /// Everything that was in the cache at this time goes to the media first.
    flush: Option<u64>,
    sectors: Vec<(usize, Sector)>,
    /// The sectors go to the media, not only to the cache.
    fua: bool,
}

/// Media, cache and requests of one disk.
#[derive(Clone)]
pub(crate) struct Disk {
    media: Vec<Sector>,
    /// What reads return.
    content: Vec<Sector>,
    /// Sectors in the cache with their versions, oldest first, and when those arrived.
    cache: BTreeMap<usize, Vec<(u64, Sector)>>,
    under_way: BTreeMap<Ticket, Request>,
    clock: u64,
}

impl Disk {
    /// A disk with this content on its media.
    pub(crate) fn new(media: Vec<Sector>) -> Self {
        Self {
            content: media.clone(),
            media,
            cache: BTreeMap::new(),
            under_way: BTreeMap::new(),
            clock: 0,
        }
    }

    /// Sectors of the disk.
    pub(crate) fn len(&self) -> usize {
        self.content.len()
    }

    /// Reads `count` sectors.
    pub(crate) fn read(&self, from: usize, count: usize) -> &[Sector] {
        &self.content[from..from + count]
    }

    /// Starts a write that is done when it is in the cache.
    pub(crate) fn write(&mut self, from: usize, sectors: Vec<Sector>) -> Ticket {
        self.start(None, from, sectors, false)
    }

    /// Starts a write that is done when it is on the media.
    pub(crate) fn write_fua(&mut self, from: usize, sectors: Vec<Sector>) -> Ticket {
        self.start(None, from, sectors, true)
    }

    /// Starts a flush followed by a write that is done when it is on the media.
    pub(crate) fn write_flush_fua(&mut self, from: usize, sectors: Vec<Sector>) -> Ticket {
        self.start(Some(self.clock), from, sectors, true)
    }

    /// Starts a flush.
    pub(crate) fn flush(&mut self) -> Ticket {
        self.start(Some(self.clock), 0, Vec::new(), false)
    }

    /// Takes a request one step further. True if it is done.
    pub(crate) fn finish(&mut self, ticket: Ticket) -> bool {
        let request = self.under_way.get_mut(&ticket).expect("an unknown request");
        if let Some(until) = request.flush.take() {
            let has_data = !request.sectors.is_empty();
            self.clean(until);
            if has_data {
                return false;
            }
        }
        let request = self.under_way.remove(&ticket).expect("the same request");
        self.clock += 1;
        for (at, sector) in request.sectors {
            self.content[at] = sector.clone();
            if request.fua {
                self.media[at] = sector;
                self.cache.remove(&at);
            } else {
                let versions = self.cache.entry(at).or_default();
                versions.push((self.clock, sector));
            }
        }
        true
    }

    /// What the media may hold if power is cut now.
    pub(crate) fn cut(&self, random: &mut Random) -> Self {
        let mut media = self.media.clone();
        // How likely it is that something is on the media: often all or nothing, and torn or not.
        let chance = [0, 10, 50, 90, 100][random.below(5)];
        let torn = random.below(3) != 0;
        for (at, versions) in &self.cache {
            if random.below(100) < chance {
                media[*at] = versions[random.below(versions.len())].1.clone();
            }
        }
        for request in self.under_way.values() {
            let whole = random.below(100) < chance;
            if request.flush.is_some() {
                continue;
            }
            for (at, sector) in &request.sectors {
                if (torn && random.below(100) < chance) || (!torn && whole) {
                    media[*at] = sector.clone();
                }
            }
        }
        Self::new(media)
    }

    fn start(
        &mut self,
        flush: Option<u64>,
        from: usize,
        sectors: Vec<Sector>,
        fua: bool,
    ) -> Ticket {
        assert!(from + sectors.len() <= self.len(), "a write behind the end");
        self.clock += 1;
        let sectors = (from..).zip(sectors).collect();
        let request = Request {
            flush,
            sectors,
            fua,
        };
        self.under_way.insert(self.clock, request);
        self.clock
    }

    /// Brings to the media what was in the cache at time `until`.
    fn clean(&mut self, until: u64) {
        let media = &mut self.media;
        self.cache.retain(|at, versions| {
            let newer = versions.partition_point(|(time, _)| *time <= until);
            if let Some((_, sector)) = versions.drain(..newer).next_back() {
                media[*at] = sector;
            }
            !versions.is_empty()
        });
    }
}
