// SPDX-License-Identifier: GPL-2.0

//! A disk with a volatile write cache, whose power can be cut and whose requests can fail.
//!
//! A write is under way until [`Disk::finish`] is called for it, then it is in the cache, and after
//! a flush that was *issued later* it is on the media. A cut leaves any mixture of what the media
//! and the cache hold and of what is under way, sector by sector (`cuts.rs`).

use crate::random::Random;
use std::cell::RefCell;
use std::rc::Rc;

/// Bytes of a sector.
pub(crate) const SECTOR: usize = 512;

/// The content of a sector: data is a number that tells who wrote it; metadata is kept in a pool
/// and named by its place there. So media are copied and compared as rows of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sector(u64);

const METADATA: u64 = 1 << 63;
const GARBAGE: u64 = 1 << 62;

thread_local! {
    /// All metadata that was ever written; the first sector is zero.
    static POOL: RefCell<Vec<[u8; SECTOR]>> = RefCell::new(vec![[0; SECTOR]]);
}

impl Sector {
    /// Metadata, all zero.
    pub(crate) const ZERO: Self = Self(METADATA);
    /// No sector: a place in a request that is passed over.
    const NONE: Self = Self(u64::MAX);

    /// What write number `n` wrote.
    pub(crate) const fn stamp(n: u64) -> Self {
        Self(n & !(METADATA | GARBAGE))
    }

    /// What another use has left on the disk.
    pub(crate) const fn garbage(n: u64) -> Self {
        Self(n & !METADATA | GARBAGE)
    }

    /// The bytes. Data looks like a list of plausible exceptions to whoever takes it for metadata.
    pub(crate) fn bytes(self) -> [u8; SECTOR] {
        if self.0 & METADATA != 0 {
            return POOL.with_borrow(|pool| pool[(self.0 & !METADATA) as usize]);
        }
        let mut bytes = [0; SECTOR];
        for (n, entry) in (0u64..).zip(bytes.chunks_exact_mut(16)) {
            entry[..8].copy_from_slice(&(self.0.wrapping_add(n) % 97).to_le_bytes());
            entry[8..].copy_from_slice(&(2 + self.0.wrapping_add(n) % 89).to_le_bytes());
        }
        bytes
    }

    /// Cuts bytes into sectors.
    pub(crate) fn cut(bytes: &[u8]) -> Vec<Self> {
        let place = |part: &[u8]| {
            let part: [u8; SECTOR] = part.try_into().unwrap();
            if part == [0; SECTOR] {
                return Self::ZERO;
            }
            POOL.with_borrow_mut(|pool| {
                pool.push(part);
                Self(METADATA | (pool.len() as u64 - 1))
            })
        };
        bytes.chunks_exact(SECTOR).map(place).collect()
    }

    /// Forgets the metadata of all disks of this thread.
    pub(crate) fn forget_all() {
        POOL.with_borrow_mut(|pool| pool.truncate(1));
    }
}

/// A request has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed;

/// How a request came out: what was read, if it is a read.
pub(crate) type Outcome = Result<Vec<Sector>, Failed>;

/// Where the outcome of a request is put.
pub(crate) type Slot = Rc<RefCell<Option<Outcome>>>;

/// How durable a write is to be when it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// In the cache.
    Volatile,
    /// On the media (FUA).
    Durable,
    /// On the media, after everything that was in the cache when it was sent (PREFLUSH and FUA).
    FlushedAndDurable,
}

/// Sectors that are in the cache or on their way.
#[derive(Clone)]
pub(crate) struct Write {
    time: u64,
    pub(crate) from: usize,
    sectors: Vec<Sector>,
}

impl Write {
    /// The sectors and their places.
    pub(crate) fn sectors(&self) -> impl Iterator<Item = (usize, Sector)> + '_ {
        (self.from..)
            .zip(self.sectors.iter().copied())
            .filter(|(_, sector)| *sector != Sector::NONE)
    }
}

enum Op {
    Read(usize, usize),
    /// What was in the cache at this time goes to the media.
    Flush(u64),
    Write(Write, bool),
}

struct Request {
    /// A flush that comes first.
    flush: Option<u64>,
    op: Op,
    slot: Slot,
}

/// Media, cache and requests of one disk.
pub(crate) struct Disk {
    media: Vec<Sector>,
    /// What reads return.
    content: Vec<Sector>,
    /// What is in the cache, oldest first.
    cache: Vec<Write>,
    under_way: Vec<Request>,
    clock: u64,
}

impl Disk {
    /// A disk with this content on its media.
    pub(crate) fn new(media: Vec<Sector>) -> Self {
        Self {
            content: media.clone(),
            media,
            cache: Vec::new(),
            under_way: Vec::new(),
            clock: 0,
        }
    }

    /// Sectors of the disk.
    pub(crate) fn len(&self) -> usize {
        self.content.len()
    }

    /// What is safe from power cuts.
    pub(crate) fn media(&self) -> &[Sector] {
        &self.media
    }

    /// What reads return now.
    pub(crate) fn content(&self) -> &[Sector] {
        &self.content
    }

    /// What may be on the media after a power cut, in the order in which it came.
    pub(crate) fn unsafe_writes(&self) -> impl Iterator<Item = &Write> {
        let sent = self
            .under_way
            .iter()
            .filter(|request| request.flush.is_none());
        let writes = sent.filter_map(|request| match &request.op {
            Op::Write(write, _) => Some(write),
            _ => None,
        });
        self.cache.iter().chain(writes)
    }

    /// Requests under way.
    pub(crate) fn busy(&self) -> usize {
        self.under_way.len()
    }

    /// Counts up whenever a cut may leave something else than before.
    pub(crate) fn clock(&self) -> u64 {
        self.clock
    }

    /// Brings everything to the media that is in the cache, at once.
    pub(crate) fn flush_now(&mut self) {
        self.clean(u64::MAX);
    }

    /// The machine is reset, but the disk keeps its power: what was under way arrives or does not.
    pub(crate) fn reset(&mut self, random: &mut Random) {
        for request in std::mem::take(&mut self.under_way) {
            if request.flush.is_none() && random.one_in(2) {
                self.fail(request.op, random);
            }
        }
    }

    /// Starts a read.
    pub(crate) fn read(&mut self, from: usize, count: usize) -> Slot {
        assert!(from + count <= self.len(), "a read behind the end");
        self.start(None, Op::Read(from, count))
    }

    /// Starts a flush.
    pub(crate) fn flush(&mut self) -> Slot {
        self.start(None, Op::Flush(self.clock))
    }

    /// Starts a write.
    pub(crate) fn write(&mut self, from: usize, sectors: Vec<Sector>, how: Durability) -> Slot {
        assert!(from + sectors.len() <= self.len(), "a write behind the end");
        self.clock += 1;
        let write = Write {
            time: 0,
            from,
            sectors,
        };
        let flush = (how == Durability::FlushedAndDurable).then_some(self.clock);
        self.start(flush, Op::Write(write, how != Durability::Volatile))
    }

    /// Takes request `n` one step further; the step fails if `fail`.
    pub(crate) fn finish(&mut self, n: usize, fail: bool, random: &mut Random) {
        let request = &mut self.under_way[n];
        if let Some(until) = request.flush.take() {
            if !fail {
                return self.clean(until);
            }
            request.op = Op::Flush(0);
        }
        let request = self.under_way.swap_remove(n);
        let outcome = match request.op {
            _ if fail => {
                self.fail(request.op, random);
                Err(Failed)
            }
            Op::Read(from, count) => Ok(self.content[from..from + count].to_vec()),
            Op::Flush(until) => {
                self.clean(until);
                Ok(Vec::new())
            }
            Op::Write(write, durable) => {
                self.arrive(write, durable);
                Ok(Vec::new())
            }
        };
        *request.slot.borrow_mut() = Some(outcome);
    }

    fn start(&mut self, flush: Option<u64>, op: Op) -> Slot {
        let slot = Slot::default();
        self.under_way.push(Request {
            flush,
            op,
            slot: slot.clone(),
        });
        slot
    }

    /// Brings to the media what was in the cache at time `until`.
    fn clean(&mut self, until: u64) {
        self.clock += 1;
        let media = &mut self.media;
        self.cache.retain(|write| {
            let stays = write.time > until;
            if !stays {
                write.sectors().for_each(|(at, sector)| media[at] = sector);
            }
            stays
        });
    }

    fn arrive(&mut self, mut write: Write, durable: bool) {
        self.clock += 1;
        write.time = self.clock;
        for (at, sector) in write.sectors() {
            self.content[at] = sector;
            if durable {
                self.media[at] = sector;
            }
        }
        if !durable {
            return self.cache.push(write);
        }
        // What is older must not come to the media later.
        let range = write.from..write.from + write.sectors.len();
        for old in &mut self.cache {
            let start = range.start.max(old.from);
            let end = range.end.min(old.from + old.sectors.len());
            if start < end {
                old.sectors[start - old.from..end - old.from].fill(Sector::NONE);
            }
        }
    }

    /// Any part of a write that fails may arrive in the cache.
    fn fail(&mut self, op: Op, random: &mut Random) {
        if let Op::Write(mut write, _) = op {
            for sector in &mut write.sectors {
                if random.one_in(2) {
                    *sector = Sector::NONE;
                }
            }
            self.arrive(write, false);
        }
    }
}
