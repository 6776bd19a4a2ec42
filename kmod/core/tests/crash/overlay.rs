// SPDX-License-Identifier: GPL-2.0

//! A snapshot and its origin under load: the core's allocator, table of pending exceptions, area
//! image and index, driven in the way that a target drives them.
//!
//! Everything that takes time is a request to a disk; [`Overlay::step`] lets a random one of them
//! go on, or something new begin.

use crate::disk::Sector;
use crate::disk::Ticket;
use crate::disk::SECTOR;
use crate::random::Random;
use crate::store::Devices;
use crate::store::Loaded;
use crate::store::CHUNK;
use crate::view::Mark;
use crate::view::View;
use holey_core::alloc::Allocator;
use holey_core::area::AreaImage;
use holey_core::format::Exception;
use holey_core::format::UsedMap;
use holey_core::pending::Pending;
use holey_core::pending::Slot;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// A write by a user.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Write {
    from: usize,
    values: Vec<u64>,
    fua: bool,
}

impl Write {
    fn chunk(&self) -> u64 {
        (self.from / CHUNK) as u64
    }

    fn sectors(&self) -> Vec<Sector> {
        self.values.iter().map(|v| Sector::Stamp(*v)).collect()
    }
}

/// Who waits for an exception.
#[derive(Debug, PartialEq, Eq)]
enum Waiter {
    /// Wants to write to the COW chunk.
    Snapshot(Write),
    /// Has been written, but its exception is to be durable.
    Durable(Write),
    /// Wants to overwrite the origin chunk.
    Origin(Write),
}

/// What a request to a disk is for.
enum Job {
    Fill(u64, Option<Write>),
    Snapshot(Write),
    Origin(Write),
    /// A part of the area behind the current one, which is written before it.
    Spill,
    Commit,
    Scrub,
    Zero,
    Flush(usize),
}

/// Which disk a request went to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Origin,
    Cow,
}

/// A flush of the snapshot.
struct Flush {
    ticket: u64,
    mark: Mark,
    /// The COW device has to be flushed when the exceptions are durable: the commit that makes
    /// them so may have flushed before the writes that this flush is for.
    forward: bool,
    sent: bool,
}

/// A snapshot and its origin.
pub(crate) struct Overlay {
    pub(crate) devices: Devices,
    /// What the snapshot may show.
    pub(crate) view: View,
    /// The list as far as it is on disk or on its way.
    pub(crate) listed: Vec<Exception>,
    /// How much of it is durable.
    pub(crate) durable: usize,
    loaded: Loaded,
    /// The area behind the current one, if a commit fills both.
    spill: Option<AreaImage<Vec<u8>>>,
    alloc: Allocator<Vec<u64>>,
    pending: Pending<Vec<Slot<Vec<Waiter>>>, Vec<u32>>,
    jobs: BTreeMap<(Side, Ticket), Job>,
    committing: bool,
    zeroing: bool,
    flushes: BTreeMap<usize, Flush>,
    busy: BTreeSet<(Side, u64)>,
    stamp: u64,
    /// Requests that may be under way, and how seldom a commit is begun.
    depth: usize,
    laziness: usize,
}

impl Overlay {
    /// Activates what is on the devices. The snapshot shows what it shows now, and the next
    /// writes get numbers from `stamp` on.
    pub(crate) fn activate(devices: Devices, stamp: u64, random: &mut Random) -> Self {
        let mut loaded = Loaded::load(&devices);
        let shown = devices.show(&loaded.list);
        let view = View::new(shown.iter().map(|sector| sector.stamp().unwrap()));
        let mut alloc = Allocator::new(loaded.layout, vec![0; 64]);
        let used = UsedMap::new(&mut loaded.used);
        alloc.restore(loaded.list.len() as u64, loaded.highest, &used);
        let slots = [8, 24, 120][random.below(3)];
        Self {
            devices,
            view,
            listed: loaded.list.clone(),
            durable: loaded.list.len(),
            alloc,
            loaded,
            spill: None,
            pending: Pending::new((0..slots).map(|_| Slot::new()).collect(), vec![0; 16]),
            jobs: BTreeMap::new(),
            committing: false,
            zeroing: false,
            flushes: BTreeMap::new(),
            busy: BTreeSet::new(),
            stamp,
            depth: 4 + random.below(60),
            laziness: 1 + random.below(40),
        }
    }

    /// The next number for a write.
    pub(crate) fn stamp(&self) -> u64 {
        self.stamp
    }

    /// Does one thing.
    pub(crate) fn step(&mut self, random: &mut Random) {
        match random.below(20) {
            0..=3 if self.jobs.len() < self.depth => self.write_snapshot(random),
            4..=6 if self.jobs.len() < self.depth => self.write_origin(random),
            7 if self.flushes.len() < 3 && random.one_in(self.laziness) => self.flush(),
            8..=9 if random.one_in(self.laziness) => self.commit(),
            10 => self.zero(random.one_in(4)),
            _ => self.go_on(random),
        }
    }

    /// Checks what is read without a power cut.
    pub(crate) fn check_live(&mut self) {
        for chunk in 0..self.view.len() / CHUNK {
            if self.busy.contains(&(Side::Cow, chunk as u64)) {
                continue;
            }
            let at = chunk * CHUNK;
            let shown = match self.loaded.map.find(chunk as u64) {
                Some(cow) => self.devices.cow.read(cow as usize * CHUNK, CHUNK),
                None => self.devices.origin.read(at, CHUNK),
            };
            for (n, sector) in shown.iter().enumerate() {
                assert_eq!(sector.stamp(), Some(self.view.newest(at + n)));
            }
        }
    }

    fn new_write(&mut self, side: Side, random: &mut Random) -> Option<Write> {
        let chunk = random.below(self.view.len() / CHUNK);
        if self.busy.contains(&(side, chunk as u64)) {
            return None;
        }
        let (mut from, mut count) = (0, CHUNK);
        if random.one_in(2) {
            from = random.below(CHUNK);
            count = 1 + random.below(CHUNK - from);
        }
        self.stamp += count as u64;
        Some(Write {
            from: chunk * CHUNK + from,
            values: (self.stamp - count as u64..self.stamp).collect(),
            fua: side == Side::Cow && random.one_in(4),
        })
    }

    fn write_snapshot(&mut self, random: &mut Random) {
        let Some(write) = self.new_write(Side::Cow, random) else {
            return;
        };
        let chunk = write.chunk();
        if self.loaded.map.find(chunk).is_none() && self.pending.find(chunk).is_none() {
            let Some(cow) = self.reserve(chunk) else {
                return;
            };
            self.view.write(write.from, &write.values);
            self.busy.insert((Side::Cow, chunk));
            if write.values.len() == CHUNK {
                self.fill(chunk, cow, write.sectors(), Some(write));
            } else {
                self.copy(chunk, cow, Waiter::Snapshot(write));
            }
            return;
        }
        self.view.write(write.from, &write.values);
        self.busy.insert((Side::Cow, chunk));
        if self.loaded.map.find(chunk).is_some() {
            self.send_to_cow(write);
        } else if let Some(slot) = self.pending.find(chunk) {
            slot.waiters.push(Waiter::Snapshot(write));
        }
    }

    fn write_origin(&mut self, random: &mut Random) {
        let Some(write) = self.new_write(Side::Origin, random) else {
            return;
        };
        let chunk = write.chunk();
        if let Some(slot) = self.pending.find(chunk) {
            self.busy.insert((Side::Origin, chunk));
            slot.waiters.push(Waiter::Origin(write));
        } else if self.loaded.map.find(chunk).is_some() {
            self.busy.insert((Side::Origin, chunk));
            self.send_to_origin(write);
        } else if let Some(cow) = self.reserve(chunk) {
            self.busy.insert((Side::Origin, chunk));
            self.copy(chunk, cow, Waiter::Origin(write));
        }
    }

    /// Takes a COW chunk and a slot.
    fn reserve(&mut self, origin: u64) -> Option<u64> {
        if self.pending.room() == 0 {
            return None;
        }
        let run = self.alloc.take(1, self.devices.bounds().cow_chunks)?;
        let cow = run.first;
        assert!(self.pending.insert(Exception { origin, cow }));
        Some(cow)
    }

    fn copy(&mut self, chunk: u64, cow: u64, waiter: Waiter) {
        let data = self.devices.origin.read(chunk as usize * CHUNK, CHUNK);
        let data = data.to_vec();
        let slot = self.pending.find(chunk).unwrap();
        slot.waiters.push(waiter);
        self.fill(chunk, cow, data, None);
    }

    fn fill(&mut self, chunk: u64, cow: u64, data: Vec<Sector>, write: Option<Write>) {
        let request = self.devices.cow.write(cow as usize * CHUNK, data);
        self.jobs
            .insert((Side::Cow, request), Job::Fill(chunk, write));
    }

    fn send_to_cow(&mut self, write: Write) {
        let cow = self.loaded.map.find(write.chunk()).unwrap() as usize;
        let at = cow * CHUNK + write.from % CHUNK;
        let disk = &mut self.devices.cow;
        let request = if write.fua {
            disk.write_fua(at, write.sectors())
        } else {
            disk.write(at, write.sectors())
        };
        self.jobs.insert((Side::Cow, request), Job::Snapshot(write));
    }

    fn send_to_origin(&mut self, write: Write) {
        let request = self.devices.origin.write(write.from, write.sectors());
        self.jobs
            .insert((Side::Origin, request), Job::Origin(write));
    }

    fn flush(&mut self) {
        let flush = Flush {
            ticket: self.pending.issued(),
            mark: self.view.mark(),
            forward: self.pending.ready_len() == 0,
            sent: false,
        };
        self.flushes.insert(self.stamp as usize, flush);
        self.stamp += 1;
        self.send_flushes();
        self.commit();
    }

    /// Attends to the flushes whose exceptions are durable.
    fn send_flushes(&mut self) {
        let durable = self.pending.durable();
        for (n, flush) in &mut self.flushes {
            if !flush.sent && durable >= flush.ticket {
                flush.sent = true;
                if flush.forward {
                    let request = self.devices.cow.flush();
                    self.jobs.insert((Side::Cow, request), Job::Flush(*n));
                } else {
                    self.view.flushed(&flush.mark);
                }
            }
        }
        self.flushes.retain(|_, flush| !flush.sent || flush.forward);
    }

    fn commit(&mut self) {
        if self.committing {
            return;
        }
        let image = &mut self.loaded.image;
        let area = self.loaded.layout.area_chunk(image.area()) as usize * CHUNK;
        let range = image.stale(SECTOR);
        if !range.is_empty() {
            let sectors = Sector::cut(&image.bytes()[range.clone()]);
            let at = area + range.start / SECTOR;
            let request = self.devices.cow.write_fua(at, sectors);
            self.committing = true;
            self.jobs.insert((Side::Cow, request), Job::Scrub);
            return;
        }
        let listed = &mut self.listed;
        let mut take = |image: &mut AreaImage<Vec<u8>>| {
            self.pending.take(|entry| {
                let pushed = image.push(entry);
                if pushed {
                    listed.push(entry);
                }
                pushed
            })
        };
        if take(image) == 0 {
            return self.zero(true);
        }
        self.committing = true;
        if image.is_full() {
            let mut spill = AreaImage::new(self.loaded.layout, vec![0; CHUNK * SECTOR]);
            spill.start(image.area() + 1);
            if take(&mut spill) != 0 {
                let (at, sectors) = self.changed_part(&spill);
                self.spill = Some(spill);
                let request = self.devices.cow.write(at, sectors);
                self.jobs.insert((Side::Cow, request), Job::Spill);
                return;
            }
        }
        self.write_image();
    }

    /// What of an area has to be written, and where.
    fn changed_part(&self, image: &AreaImage<Vec<u8>>) -> (usize, Vec<Sector>) {
        let range = image.unwritten(SECTOR);
        let area = self.loaded.layout.area_chunk(image.area()) as usize * CHUNK;
        let sectors = Sector::cut(&image.bytes()[range.clone()]);
        (area + range.start / SECTOR, sectors)
    }

    /// Writes the area that makes a commit durable.
    fn write_image(&mut self) {
        let (at, sectors) = self.changed_part(&self.loaded.image);
        let request = self.devices.cow.write_flush_fua(at, sectors);
        self.jobs.insert((Side::Cow, request), Job::Commit);
    }

    /// Zeroes the next area, if that is due or `early`.
    fn zero(&mut self, early: bool) {
        let image = &self.loaded.image;
        if self.zeroing || !image.wants_next_zeroed() || !(early || image.room() == 0) {
            return;
        }
        let at = self.loaded.layout.area_chunk(image.area() + 1) as usize * CHUNK;
        if at + CHUNK > self.devices.cow.len() {
            return;
        }
        let request = self
            .devices
            .cow
            .write(at, Sector::cut(&[0; CHUNK * SECTOR]));
        self.zeroing = true;
        self.jobs.insert((Side::Cow, request), Job::Zero);
    }

    /// Lets a random request go on.
    fn go_on(&mut self, random: &mut Random) {
        if self.jobs.is_empty() {
            return;
        }
        let n = random.below(self.jobs.len());
        let (side, request) = *self.jobs.keys().nth(n).unwrap();
        let disk = match side {
            Side::Origin => &mut self.devices.origin,
            Side::Cow => &mut self.devices.cow,
        };
        if !disk.finish(request) {
            return;
        }
        match self.jobs.remove(&(side, request)).unwrap() {
            Job::Fill(chunk, write) => self.filled(chunk, write),
            Job::Snapshot(write) => self.written(write),
            Job::Origin(write) => {
                self.busy.remove(&(Side::Origin, write.chunk()));
            }
            Job::Spill => self.write_image(),
            Job::Commit => self.committed(),
            Job::Scrub => {
                self.committing = false;
                self.loaded.image.scrubbed();
            }
            Job::Zero => {
                self.zeroing = false;
                self.loaded.image.next_is_zeroed();
            }
            Job::Flush(n) => {
                let flush = self.flushes.remove(&n).unwrap();
                self.view.flushed(&flush.mark);
            }
        }
    }

    fn filled(&mut self, chunk: u64, write: Option<Write>) {
        let slot = self.pending.ready(chunk).unwrap();
        let exception = slot.exception();
        let waiters = std::mem::take(&mut slot.waiters);
        self.loaded.map.insert(exception);
        if let Some(write) = write {
            self.written(write);
        }
        for waiter in waiters {
            match waiter {
                Waiter::Snapshot(write) => self.send_to_cow(write),
                other => self.pending.find(chunk).unwrap().waiters.push(other),
            }
        }
    }

    /// A write to the snapshot is in the COW device.
    fn written(&mut self, write: Write) {
        let chunk = write.chunk();
        if write.fua {
            if let Some(slot) = self.pending.find(chunk) {
                slot.waiters.push(Waiter::Durable(write));
                return;
            }
        }
        self.acknowledge(&write);
    }

    fn acknowledge(&mut self, write: &Write) {
        self.busy.remove(&(Side::Cow, write.chunk()));
        self.view
            .acknowledge(write.from, write.values.len(), write.fua);
    }

    fn committed(&mut self) {
        self.committing = false;
        self.durable = self.listed.len();
        if let Some(spill) = self.spill.take() {
            self.loaded.image = spill;
        }
        self.loaded.image.wrote();
        while let Some((_, waiters)) = self.pending.settle() {
            for waiter in waiters {
                match waiter {
                    Waiter::Origin(write) => self.send_to_origin(write),
                    Waiter::Durable(write) => self.acknowledge(&write),
                    Waiter::Snapshot(_) => unreachable!("sent when the chunk was filled"),
                }
            }
        }
        self.send_flushes();
    }
}
