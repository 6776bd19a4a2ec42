// SPDX-License-Identifier: GPL-2.0

//! A merge under load: windows planned by the core, driven in the way that a target drives them.

use crate::disk::Sector;
use crate::disk::Ticket;
use crate::disk::SECTOR;
use crate::random::Random;
use crate::store::Devices;
use crate::store::Loaded;
use crate::store::CHUNK;
use crate::view::Mark;
use crate::view::View;
use holey_core::area::AreaImage;
use holey_core::format::Exception;
use holey_core::merge::window_start;
use holey_core::merge::Position;
use holey_core::merge::Window;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// A write by a user.
#[derive(Clone)]
struct Write {
    from: usize,
    values: Vec<u64>,
    fua: bool,
}

impl Write {
    fn chunk(&self) -> u64 {
        (self.from / CHUNK) as u64
    }
}

/// Which disk a request went to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Origin,
    Cow,
}

/// What a request to a disk is for.
enum Job {
    Write(Write),
    Flush(u64),
    Copy,
    FlushOrigin,
    Truncate,
    Scrub,
}

/// How far a window is.
#[derive(PartialEq, Eq)]
enum Stage {
    Draining,
    Copying(usize),
    Flushing,
    Truncating,
}

/// The window that is being merged.
struct Active {
    start: Position,
    entries: Vec<Exception>,
    image: AreaImage<Vec<u8>>,
    stage: Stage,
}

/// A merging device.
pub(crate) struct Merging {
    pub(crate) devices: Devices,
    /// What the device may show.
    pub(crate) view: View,
    loaded: Loaded,
    listed: usize,
    window: Option<Active>,
    scrubbing: bool,
    held: Vec<Write>,
    jobs: BTreeMap<(Side, Ticket), Job>,
    /// Flushes, and how many disks have not answered yet.
    flushes: BTreeMap<u64, (usize, Mark)>,
    busy: BTreeSet<u64>,
    stamp: u64,
    most_entries: u64,
    most_run: u64,
    haste: usize,
}

impl Merging {
    /// Activates what is on the devices.
    pub(crate) fn activate(devices: Devices, stamp: u64, random: &mut Random) -> Self {
        let loaded = Loaded::load(&devices);
        let shown = devices.show(&loaded.list);
        let view = View::new(shown.iter().map(|sector| sector.stamp().unwrap()));
        Self {
            devices,
            view,
            listed: loaded.list.len(),
            loaded,
            window: None,
            scrubbing: false,
            held: Vec::new(),
            jobs: BTreeMap::new(),
            flushes: BTreeMap::new(),
            busy: BTreeSet::new(),
            stamp,
            most_entries: [1, 7, 40, 100, 300, 4096][random.below(6)],
            most_run: [1, 4, 1000][random.below(3)],
            haste: 1 + random.below(20),
        }
    }

    /// The next number for a write.
    pub(crate) fn stamp(&self) -> u64 {
        self.stamp
    }

    /// The list when the merge was started.
    pub(crate) fn list(&self) -> &[Exception] {
        &self.loaded.list
    }

    /// How many entries a power cut may leave: at least and at most.
    pub(crate) fn may_list(&self) -> (usize, usize) {
        let least = match &self.window {
            Some(window) if window.stage == Stage::Truncating => {
                window.start.index(self.loaded.layout) as usize
            }
            _ => self.listed,
        };
        (least, self.listed)
    }

    /// Whether there is nothing left to merge, to write or to wait for.
    pub(crate) fn is_done(&self) -> bool {
        let clean = self.loaded.image.stale(SECTOR).is_empty();
        self.listed == 0 && clean && self.window.is_none() && self.jobs.is_empty()
    }

    /// Does one thing; `quiet` is without users.
    pub(crate) fn step(&mut self, quiet: bool, random: &mut Random) {
        match random.below(20) {
            0..=3 if !quiet => self.write(random),
            4 if !quiet && self.flushes.len() < 2 => self.flush(),
            5 if random.one_in(self.haste) || quiet => self.advance(),
            _ => self.go_on(random),
        }
    }

    /// Checks what is read without a power cut.
    pub(crate) fn check_live(&self) {
        for chunk in 0..self.view.len() / CHUNK {
            if self.busy.contains(&(chunk as u64)) {
                continue;
            }
            let shown = match self.loaded.map.find(chunk as u64) {
                Some(cow) => self.devices.cow.read(cow as usize * CHUNK, CHUNK),
                None => self.devices.origin.read(chunk * CHUNK, CHUNK),
            };
            for (n, sector) in shown.iter().enumerate() {
                assert_eq!(sector.stamp(), Some(self.view.newest(chunk * CHUNK + n)));
            }
        }
        assert_eq!(self.loaded.map.len(), self.listed as u64);
    }

    fn write(&mut self, random: &mut Random) {
        let chunk = random.below(self.view.len() / CHUNK);
        if !self.busy.insert(chunk as u64) {
            return;
        }
        let from = random.below(CHUNK);
        let count = 1 + random.below(CHUNK - from);
        self.stamp += count as u64;
        let write = Write {
            from: chunk * CHUNK + from,
            values: (self.stamp - count as u64..self.stamp).collect(),
            fua: random.one_in(4),
        };
        self.view.write(write.from, &write.values);
        if self.is_in_window(write.chunk()) {
            self.held.push(write);
        } else {
            self.send(write);
        }
    }

    fn is_in_window(&self, chunk: u64) -> bool {
        self.window
            .as_ref()
            .is_some_and(|window| Window::of_sorted(&window.entries).touches(chunk, chunk))
    }

    fn send(&mut self, write: Write) {
        let (side, disk, at) = match self.loaded.map.find(write.chunk()) {
            Some(cow) => {
                let at = cow as usize * CHUNK + write.from % CHUNK;
                (Side::Cow, &mut self.devices.cow, at)
            }
            None => (Side::Origin, &mut self.devices.origin, write.from),
        };
        let data = write.values.iter().map(|v| Sector::Stamp(*v)).collect();
        let request = if write.fua {
            disk.write_fua(at, data)
        } else {
            disk.write(at, data)
        };
        self.jobs.insert((side, request), Job::Write(write));
    }

    fn flush(&mut self) {
        self.stamp += 1;
        self.flushes.insert(self.stamp, (2, self.view.mark()));
        let request = self.devices.origin.flush();
        self.jobs
            .insert((Side::Origin, request), Job::Flush(self.stamp));
        let request = self.devices.cow.flush();
        self.jobs
            .insert((Side::Cow, request), Job::Flush(self.stamp));
    }

    /// Takes the merge one stage further, if nothing has to be waited for.
    fn advance(&mut self) {
        let Some(window) = &mut self.window else {
            return self.begin();
        };
        match window.stage {
            Stage::Draining => {
                let sorted = Window::of_sorted(&window.entries);
                let in_flight = self.jobs.iter().any(|((side, _), job)| match job {
                    Job::Write(write) => {
                        *side == Side::Cow && sorted.touches(write.chunk(), write.chunk())
                    }
                    _ => false,
                });
                if !in_flight {
                    self.copy();
                }
            }
            Stage::Copying(0) => {
                window.stage = Stage::Flushing;
                let request = self.devices.origin.flush();
                self.jobs.insert((Side::Origin, request), Job::FlushOrigin);
            }
            _ => {}
        }
    }

    /// Begins a window, or clears up when the list is empty.
    fn begin(&mut self) {
        let layout = self.loaded.layout;
        if self.listed == 0 {
            let stale = self.loaded.image.stale(SECTOR);
            if !self.scrubbing && !stale.is_empty() {
                self.scrubbing = true;
                self.write_area(true);
            }
            return;
        }
        let start = window_start(layout, self.listed as u64, self.most_entries);
        let first = start.index(layout) as usize;
        let mut entries = self.loaded.list[first..self.listed].to_vec();
        Window::plan(&mut entries);
        let mut content = Vec::new();
        let at = layout.area_chunk(start.area) as usize * CHUNK;
        for sector in self.devices.cow.read(at, CHUNK) {
            content.extend_from_slice(&sector.bytes()[..]);
        }
        let mut image = AreaImage::new(layout, vec![0; CHUNK * SECTOR]);
        let kept = image.load(start.area, &content, start.slot as usize);
        assert_eq!(kept as u64, start.slot);
        self.window = Some(Active {
            start,
            entries,
            image,
            stage: Stage::Draining,
        });
    }

    fn copy(&mut self) {
        let Some(window) = &mut self.window else {
            return;
        };
        let mut copies = 0;
        for run in Window::of_sorted(&window.entries).runs(self.most_run) {
            let (from, count) = (run.cow as usize * CHUNK, run.len as usize * CHUNK);
            let data = self.devices.cow.read(from, count).to_vec();
            let request = self.devices.origin.write(run.origin as usize * CHUNK, data);
            self.jobs.insert((Side::Origin, request), Job::Copy);
            copies += 1;
        }
        window.stage = Stage::Copying(copies);
    }

    /// Zeroes what stands behind the end of the list.
    fn write_area(&mut self, scrub: bool) {
        let image = match &self.window {
            Some(window) => &window.image,
            None => &self.loaded.image,
        };
        let range = image.stale(SECTOR);
        let sectors = Sector::cut(&image.bytes()[range.clone()]);
        let area = self.loaded.layout.area_chunk(image.area()) as usize * CHUNK;
        let request = self
            .devices
            .cow
            .write_flush_fua(area + range.start / SECTOR, sectors);
        let job = if scrub { Job::Scrub } else { Job::Truncate };
        self.jobs.insert((Side::Cow, request), job);
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
        let job = self.jobs.remove(&(side, request)).unwrap();
        match (job, &mut self.window) {
            (Job::Write(write), _) => {
                self.busy.remove(&write.chunk());
                self.view
                    .acknowledge(write.from, write.values.len(), write.fua);
            }
            (Job::Flush(n), _) => self.flushed(n),
            (Job::Scrub, _) => self.loaded.image.scrubbed(),
            (Job::Copy, Some(window)) => {
                if let Stage::Copying(left) = &mut window.stage {
                    *left -= 1;
                }
            }
            (Job::FlushOrigin, Some(window)) => {
                window.stage = Stage::Truncating;
                self.write_area(false);
            }
            (Job::Truncate, _) => self.truncated(),
            (_, None) => unreachable!("a window ends with its last request"),
        }
    }

    fn flushed(&mut self, n: u64) {
        let (left, mark) = self.flushes.get_mut(&n).unwrap();
        *left -= 1;
        if *left == 0 {
            self.view.flushed(mark);
            self.flushes.remove(&n);
        }
    }

    /// The list is shorter, durably: reads and held writes go to the origin.
    fn truncated(&mut self) {
        let mut window = self.window.take().unwrap();
        window.image.scrubbed();
        self.loaded.image = window.image;
        self.listed = window.start.index(self.loaded.layout) as usize;
        for run in Window::of_sorted(&window.entries).runs(u64::MAX) {
            self.loaded.map.remove(run.origin, run.len);
        }
        for write in std::mem::take(&mut self.held) {
            self.send(write);
        }
    }
}
