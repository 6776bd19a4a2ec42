// SPDX-License-Identifier: GPL-2.0

//! A machine from its start to its end: an origin with snapshots, one of which may be merging, and
//! users who write, read and flush all of them.

use crate::disk::Disk;
use crate::disk::Sector;
use crate::host::Host;
use crate::merging;
use crate::merging::Merge;
use crate::origin;
use crate::origin::Siblings;
use crate::random::Random;
use crate::rules::Fault;
use crate::rules::Rule;
use crate::rules::Violation;
use crate::snapshot;
use crate::snapshot::Condition;
use crate::snapshot::Snapshot;
use crate::snapshot_io;
use crate::store;
use crate::store::Found;
use crate::store::Loaded;
use crate::view::View;
use holey_core::format::Exception;
use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;

/// What is activated on the disks, and how.
#[derive(Clone)]
pub(crate) struct Plan {
    /// Sectors of a chunk, for each COW disk.
    pub(crate) chunks: Vec<usize>,
    /// The disk that is merged.
    pub(crate) merging: Option<usize>,
    /// A store that is full stays valid.
    pub(crate) may_overflow: bool,
    /// One request in so many fails.
    pub(crate) failures: Option<usize>,
    /// What is done wrong on purpose.
    pub(crate) fault: Option<Fault>,
}

/// What the devices of a machine may show, when it goes on without a power cut: by disk.
pub(crate) type Views = Vec<Option<View>>;

/// A machine that is up.
pub(crate) struct Machine {
    pub(crate) host: Rc<Host>,
    /// The snapshots that are not merging.
    pub(crate) snapshots: Siblings,
    pub(crate) merge: Option<Rc<Merge>>,
    /// What the origin may show; nobody sees it while there is a merge.
    pub(crate) origin: Rc<RefCell<View>>,
    chunks: Vec<usize>,
    /// Bios under way at a time.
    depth: usize,
    /// Users seldom ask for anything to be durable, so that commits are large.
    calm: bool,
    /// Where something has been done lately.
    hot: Cell<usize>,
    /// How seldom there is a flush, and how seldom a commit is begun without being asked for.
    laziness: usize,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The tasks hold the host.
        self.host.stop();
    }
}

/// What the device that is made of an origin and a list shows.
fn show(origin: &[Sector], cow: &[Sector], chunk: usize, list: &[Exception]) -> Vec<Sector> {
    let mut shown = origin.to_vec();
    for entry in list {
        let (to, from) = (entry.origin as usize * chunk, entry.cow as usize * chunk);
        let count = chunk.min(shown.len() - to);
        shown[to..to + count].copy_from_slice(&cow[from..from + count]);
    }
    shown
}

impl Machine {
    /// Activates what is on the disks. Without views, the devices show what they show now.
    pub(crate) fn activate(
        disks: Vec<Disk>,
        mut views: Views,
        stamp: u64,
        plan: &Plan,
        random: &mut Random,
    ) -> Self {
        let host = Host::new(disks, stamp, plan.fault);
        views.resize(plan.chunks.len() + 1, None);
        if plan.fault != Some(Fault::LoadedFromCache) {
            host.disks.borrow_mut()[1..]
                .iter_mut()
                .for_each(Disk::flush_now);
        }
        let (mut snapshots, mut merging) = (Vec::new(), None);
        for (n, chunk) in plan.chunks.iter().enumerate() {
            let disk = n + 1;
            let loaded = {
                let disks = host.disks.borrow();
                let origin = disks[0].content();
                let cow = disks[disk].content();
                Loaded::load(cow, origin.len(), random.one_in(2)).map(|loaded| {
                    let shown = || View::new(show(origin, cow, *chunk, &loaded.list));
                    let view = views[disk].take().unwrap_or_else(shown);
                    (loaded, view)
                })
            };
            let Some((loaded, view)) = loaded else {
                continue;
            };
            let slots = [8, 24, 120, 400][random.below(4)];
            let (snapshot, area) = Snapshot::new(&host, disk, loaded, view, slots);
            snapshot.state.borrow_mut().may_overflow = plan.may_overflow;
            if plan.merging == Some(disk) {
                // It forgets the summary by itself.
                snapshot.state.borrow_mut().making_room = false;
                merging = Some((snapshot, area));
            } else {
                host.spawn(snapshot::work(host.clone(), snapshot.clone(), area));
                snapshots.push(snapshot);
            }
        }
        let snapshots = Rc::new(snapshots);
        let merge = merging.map(|(overlay, area)| {
            let most_entries = [1, 7, 40, 100, 300, 4096][random.below(6)];
            let most_run = [1, 4, 1000][random.below(3)];
            let goes_ahead = random.below(2) == 0;
            Merge::new(
                overlay,
                area,
                snapshots.clone(),
                most_entries,
                most_run,
                goes_ahead,
            )
        });
        if let Some(merge) = &merge {
            merge.start(&host);
        }
        let origin = views[0].take().filter(|_| merge.is_none());
        let origin = origin.unwrap_or_else(|| View::new(host.disks.borrow()[0].content().to_vec()));
        host.fail_one_in(plan.failures);
        Self {
            host,
            snapshots,
            merge,
            origin: Rc::new(RefCell::new(origin)),
            chunks: plan.chunks.clone(),
            calm: random.one_in(3),
            hot: Cell::new(0),
            depth: [4, 20, 100][random.below(3)],
            laziness: 1 + random.below(40),
        }
    }

    /// Does one thing.
    pub(crate) fn step(&mut self, random: &mut Random) -> Result<(), Violation> {
        match random.below(20) {
            0..=5 if self.host.users.get() < self.depth => self.begin(random),
            6 if random.one_in(self.laziness) => self.poke(),
            _ => {
                self.host.finish_one(random);
            }
        }
        self.host.run();
        self.host.verdict()
    }

    /// Timers go off, and the administrator looks after a failed merge.
    pub(crate) fn poke(&self) {
        for snapshot in self.snapshots.iter() {
            let mut state = snapshot.state.borrow_mut();
            state.linger_over = true;
            state.summarise = true;
        }
        if let Some(merge) = self.merge.as_ref().filter(|merge| merge.failed.get()) {
            merge.start(&self.host);
        }
    }

    /// A user does something.
    fn begin(&self, random: &mut Random) {
        let seldom = if self.calm { 40 } else { 1 };
        let reads = random.one_in(5);
        let flushes = !reads && random.one_in((4 + self.laziness) * seldom);
        let fua = random.one_in(4 * seldom);
        // The origin, or what covers it, gets as much to do as all snapshots together.
        let snapshot = match self.snapshots.len() {
            0 => None,
            _ if random.one_in(2 * seldom) => None,
            n => Some(&self.snapshots[random.below(n)]),
        };
        match (snapshot, &self.merge) {
            (Some(snapshot), _) => self.begin_at_snapshot(snapshot, reads, flushes, fua, random),
            (None, Some(merge)) => self.begin_at_merge(merge, reads, flushes, fua, random),
            (None, None) if flushes => {
                self.count(origin::flush(self.host.clone(), self.origin.clone()))
            }
            (None, None) => {
                let view = &mut *self.origin.borrow_mut();
                let from = self.place(view.len(), random);
                let count = (1 + random.below(24)).min(view.len() - from);
                if view.is_busy(from, count) {
                    return;
                }
                let data = self.host.data(count);
                view.write(from, &data);
                let (host, origin) = (self.host.clone(), self.origin.clone());
                self.count(origin::write(
                    host,
                    self.snapshots.clone(),
                    origin,
                    from,
                    data,
                    fua,
                ));
            }
        }
    }

    fn begin_at_snapshot(
        &self,
        snapshot: &Rc<Snapshot>,
        reads: bool,
        flushes: bool,
        fua: bool,
        random: &mut Random,
    ) {
        let host = self.host.clone();
        if flushes {
            return self.count(snapshot_io::flush(host, snapshot.clone()));
        }
        let (from, count) = self.range(snapshot, reads, random);
        if reads {
            self.count(snapshot_io::read(host, snapshot.clone(), from, count));
        } else if !snapshot.state.borrow().view.is_busy(from, count) {
            snapshot_io::write(&host, snapshot, from, count, fua);
        }
    }

    fn begin_at_merge(
        &self,
        merge: &Rc<Merge>,
        reads: bool,
        flushes: bool,
        fua: bool,
        random: &mut Random,
    ) {
        let host = self.host.clone();
        if flushes {
            return self.count(merging::flush(host, merge.clone()));
        }
        let (from, count) = self.range(&merge.overlay, reads, random);
        if reads {
            self.count(merging::read(host, merge.clone(), from, count));
        } else if !merge.overlay.state.borrow().view.is_busy(from, count) {
            merging::write(&host, merge, from, count, fua);
        }
    }

    /// A sector: often near the one before, so that bios meet.
    fn place(&self, end: usize, random: &mut Random) -> usize {
        let place = if random.one_in(2) {
            random.below(end)
        } else {
            (self.hot.get() + random.below(24)) % end
        };
        self.hot.set(place.saturating_sub(8));
        place
    }

    /// Part of a chunk, or some whole ones for a write.
    fn range(&self, snapshot: &Snapshot, reads: bool, random: &mut Random) -> (usize, usize) {
        let (size, end) = (snapshot.sectors(), snapshot.origin_sectors);
        let from = self.place(end, random);
        let chunk = from / size * size;
        if !reads && random.one_in(2) {
            let count = size * (1 + random.below(3));
            return (chunk, count.min(end - chunk));
        }
        let most = (chunk + size).min(end) - from;
        (from, 1 + random.below(most))
    }

    /// Runs a bio.
    fn count(&self, bio: impl std::future::Future<Output = ()> + 'static) {
        let host = self.host.clone();
        host.users.set(host.users.get() + 1);
        self.host.spawn(async move {
            bio.await;
            host.users.set(host.users.get() - 1);
        });
    }

    /// Entries on the longest list.
    pub(crate) fn listed(&self) -> usize {
        let lists = self
            .snapshots
            .iter()
            .map(|snapshot| snapshot.state.borrow().listed.len());
        lists.max().unwrap_or(0)
    }

    /// Suspends all devices: every bio ends, what is ready is committed, the merge stops.
    pub(crate) fn suspend(&mut self, random: &mut Random) -> Result<(), Violation> {
        if let Some(merge) = &self.merge {
            merge.stop();
        }
        let hurry = |on| {
            for snapshot in self.snapshots.iter() {
                snapshot.state.borrow_mut().hurry = on;
            }
        };
        hurry(true);
        while !self.is_quiet() {
            self.host.run();
            if !self.host.finish_one(random) && !self.is_quiet() {
                let rule = if self.merge.is_some() {
                    Rule::M9
                } else {
                    Rule::C11
                };
                return Err(Violation::new(rule, "a suspend does not end"));
            }
            self.host.run();
            self.host.verdict()?;
        }
        hurry(false);
        Ok(())
    }

    fn is_quiet(&self) -> bool {
        let settled = |snapshot: &Rc<Snapshot>| {
            snapshot.is_settled() || self.host.has(Fault::SuspendWithoutCommit)
        };
        let stopped = self.merge.as_ref().is_none_or(|merge| merge.is_stopped());
        self.host.users.get() == 0 && stopped && self.snapshots.iter().all(settled)
    }

    /// Checks what suspended devices leave to those who activate them: everything.
    pub(crate) fn check_suspended(&self) -> Result<(), Violation> {
        if self.merge.as_ref().is_some_and(|merge| merge.is_holding()) {
            return Err(Violation::new(
                Rule::M9,
                "a bio is held by a suspended merge",
            ));
        }
        let disks = self.host.disks.borrow();
        let merging = self.merge.as_ref().map(|merge| &merge.overlay);
        for snapshot in self.snapshots.iter().chain(merging) {
            let state = snapshot.state.borrow();
            if state.condition != Condition::Valid {
                continue;
            }
            let rules = match merging {
                Some(_) if self.host.has_failed() => (Rule::M8, Rule::M8),
                Some(_) => (Rule::M9, Rule::M6),
                None => (Rule::C3, Rule::C3),
            };
            let mut list = Vec::new();
            let cow = disks[snapshot.disk].content();
            let found = store::read(cow, snapshot.sectors(), &mut list);
            let (least, most) = (state.durable, state.listed.len());
            if found != Ok(Found::List)
                || !(least..=most).contains(&list.len())
                || list != state.listed[..list.len()]
            {
                return Err(Violation::new(
                    rules.0,
                    "a suspended device has another list than its disk",
                ));
            }
            let shown = show(disks[0].content(), cow, snapshot.sectors(), &list);
            let view = &state.view;
            let wrong =
                (0..shown.len()).find(|at| !view.may_read(*at, view.acked(*at), shown[*at]));
            if let Some(at) = wrong {
                let what = format!("sector {at} shows {:x?} after a suspend", shown[at]);
                return Err(Violation::new(rules.1, what));
            }
        }
        Ok(())
    }

    /// Resets the machine; the disks keep their power.
    pub(crate) fn reset(self, random: &mut Random) -> (Vec<Disk>, Views, u64) {
        let (mut disks, mut views, stamp) = self.end();
        disks.iter_mut().for_each(|disk| disk.reset(random));
        let (origin, cows) = disks.split_first().expect("an origin");
        for (n, view) in views.iter_mut().enumerate() {
            let Some(view) = view else { continue };
            let shown = match n.checked_sub(1).map(|n| (&cows[n], self.chunks[n])) {
                None => origin.content().to_vec(),
                Some((cow, chunk)) => {
                    let mut list = Vec::new();
                    let _ = store::read(cow.content(), chunk, &mut list);
                    show(origin.content(), cow.content(), chunk, &list)
                }
            };
            view.reset(&shown);
        }
        (disks, views, stamp)
    }

    /// Ends a suspended machine: its disks, what its devices may show, and the next number.
    pub(crate) fn end(&self) -> (Vec<Disk>, Views, u64) {
        let disks = self.host.stop();
        let mut views = vec![None; disks.len()];
        if self.merge.is_none() {
            views[0] = Some(self.origin.borrow().clone());
        }
        let merging = self.merge.as_ref().map(|merge| &merge.overlay);
        for snapshot in self.snapshots.iter().chain(merging) {
            views[snapshot.disk] = Some(snapshot.state.borrow().view.clone());
        }
        (disks, views, self.host.stamp())
    }
}
