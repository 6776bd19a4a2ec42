// SPDX-License-Identifier: GPL-2.0

//! Writes to the origin, as the module's `origin_set.rs` lets them through.

use crate::disk::Durability;
use crate::disk::Failed;
use crate::disk::Sector;
use crate::host::Host;
use crate::rules::Fault;
use crate::snapshot::Begin;
use crate::snapshot::Condition;
use crate::snapshot::Snapshot;
use crate::view::View;
use holey_core::index::Extent;
use holey_core::index::Run;
use std::cell::RefCell;
use std::rc::Rc;

/// A copy of a run of chunks from the origin to the COW disks of several snapshots.
pub(crate) struct Copy {
    origin: u64,
    chunks: u64,
    legs: Vec<(Rc<Snapshot>, u64)>,
}

impl Copy {
    /// For one snapshot, which has slots for the run.
    pub(crate) fn of(snapshot: &Rc<Snapshot>, run: Run) -> Self {
        Self {
            origin: run.origin,
            chunks: run.len,
            legs: vec![(snapshot.clone(), run.cow)],
        }
    }
}

/// What stands between a write and the origin.
enum Verdict {
    /// Nothing.
    Clear,
    /// A copy that was just begun and has to be sent.
    Copy(Copy),
    /// A chunk of a snapshot that is not stable yet.
    Wait(Rc<Snapshot>, u64),
}

enum Standing {
    Stable,
    Copying(Run),
    Unstable(u64, bool),
}

/// Who has to be asked before the origin is written.
pub(crate) type Siblings = Rc<Vec<Rc<Snapshot>>>;

impl Snapshot {
    fn chunks_of(&self, host: &Host, from: usize, count: usize) -> (u64, u64) {
        let first = self.chunk().chunk_of(from as u64);
        if host.has(Fault::OriginWaitsForOneChunk) {
            return (first, first);
        }
        (first, self.chunk().chunk_of((from + count - 1) as u64))
    }

    fn standing(&self, host: &Host, from: usize, count: usize) -> Standing {
        let (first, last) = self.chunks_of(host, from, count);
        match self.condition() {
            Condition::Valid => {}
            Condition::Invalidating => return Standing::Unstable(first, false),
            Condition::Invalid => return Standing::Stable,
        }
        let mut unstable = None;
        let mut chunk = first;
        while chunk <= last {
            let found = self.state.borrow().map.lookup(chunk);
            let mapped = matches!(found, Extent::Mapped { .. });
            if host.has(Fault::OriginWaitsForDataOnly) && mapped {
                chunk += 1;
                continue;
            }
            if self.state.borrow_mut().pending.find(chunk).is_some() {
                unstable = unstable.or(Some(chunk));
                chunk += 1;
                continue;
            }
            if let Extent::Unmapped { len } = found {
                return match self.begin(host, chunk, len.min(last - chunk + 1)) {
                    Begin::Run(run) => Standing::Copying(run),
                    Begin::NoSlot => Standing::Unstable(chunk, true),
                    Begin::NoSpace => {
                        self.give_up();
                        Standing::Unstable(chunk, false)
                    }
                };
            }
            chunk += 1;
        }
        unstable.map_or(Standing::Stable, |chunk| Standing::Unstable(chunk, false))
    }

    /// Whether the snapshot needs nothing of the range any more. Begins no copy.
    fn is_stable(&self, host: &Host, from: usize, count: usize) -> bool {
        let (first, last) = self.chunks_of(host, from, count);
        let state = &mut *self.state.borrow_mut();
        let mut chunks = first..=last;
        match state.condition {
            Condition::Valid => chunks.all(|chunk| {
                state.pending.find(chunk).is_none() && state.map.find(chunk).is_some()
            }),
            Condition::Invalidating => false,
            Condition::Invalid => true,
        }
    }

    /// Joins a copy that another snapshot has begun, if it needs the very same run.
    fn join(self: &Rc<Self>, host: &Host, copy: &mut Copy) {
        let size = copy.legs[0].0.chunk();
        if self.chunk() != size || self.condition() != Condition::Valid {
            return;
        }
        let state = &mut *self.state.borrow_mut();
        let mut chunks = copy.origin..copy.origin + copy.chunks;
        let missing = chunks
            .all(|chunk| state.pending.find(chunk).is_none() && state.map.find(chunk).is_none());
        if !missing || (state.pending.room() as u64) < copy.chunks {
            return;
        }
        let cow_chunks = (host.len(self.disk) / self.sectors()) as u64;
        let Some(run) = state.alloc.take(copy.chunks, cow_chunks.min(state.limit)) else {
            return;
        };
        if run.len < copy.chunks {
            state.alloc.give_back(run);
            return;
        }
        for n in 0..run.len {
            state.pending.insert(holey_core::format::Exception {
                origin: copy.origin + n,
                cow: run.first + n,
            });
        }
        copy.legs.push((self.clone(), run.first));
    }
}

fn survey(host: &Host, siblings: &Siblings, from: usize, count: usize) -> Verdict {
    let mut copy: Option<Copy> = None;
    let mut wait = None;
    for snapshot in siblings.iter() {
        if let Some(copy) = &mut copy {
            snapshot.join(host, copy);
            continue;
        }
        match snapshot.standing(host, from, count) {
            Standing::Copying(run) => copy = Some(Copy::of(snapshot, run)),
            Standing::Unstable(chunk, no_slot) if wait.is_none() || no_slot => {
                wait = Some((snapshot.clone(), chunk));
            }
            _ => {}
        }
        if host.has(Fault::OriginWaitsForOneSnapshot) {
            break;
        }
    }
    match (copy, wait) {
        (Some(copy), _) => Verdict::Copy(copy),
        (None, Some((snapshot, chunk))) => Verdict::Wait(snapshot, chunk),
        (None, None) => Verdict::Clear,
    }
}

/// Starts all copies that a write to the range would need.
pub(crate) fn prepare(host: &Rc<Host>, siblings: &Siblings, from: usize, count: usize) {
    while let Verdict::Copy(task) = survey(host, siblings, from, count) {
        host.spawn(copy(host.clone(), task));
    }
}

/// Whether a write to the range would be let through at once.
pub(crate) fn is_clear(host: &Host, siblings: &Siblings, from: usize, count: usize) -> bool {
    let mut siblings = siblings.iter();
    siblings.all(|snapshot| snapshot.is_stable(host, from, count))
}

/// Waits until a write to the range is let through.
pub(crate) async fn secure(host: &Rc<Host>, siblings: &Siblings, from: usize, count: usize) {
    loop {
        match survey(host, siblings, from, count) {
            Verdict::Clear => return,
            Verdict::Copy(task) => host.spawn(copy(host.clone(), task)),
            Verdict::Wait(snapshot, chunk) => {
                host.until(|| !snapshot.ask_to_settle(chunk)).await;
            }
        }
    }
}

/// Waits until no copy of the range is under way.
pub(crate) async fn await_copies(host: &Rc<Host>, siblings: &Siblings, from: usize, count: usize) {
    for snapshot in siblings.iter() {
        let (first, last) = snapshot.chunks_of(host, from, count);
        host.until(|| (first..=last).all(|chunk| !snapshot.is_filling(chunk)))
            .await;
    }
}

/// Copies from the origin.
pub(crate) async fn copy(host: Rc<Host>, task: Copy) {
    let snapshot = &task.legs[0].0;
    let size = snapshot.chunk();
    let from = size.sector_of(task.origin) as usize;
    let end = snapshot
        .origin_sectors
        .min(size.sector_of(task.origin + task.chunks) as usize);
    let early = host.has(Fault::ListedBeforeCopied);
    if early {
        copied(&host, &task, &[]);
    }
    let outcomes = match host.read(0, from, end - from).await {
        Ok(data) => {
            let place = |cow| size.sector_of(cow) as usize;
            let write = |(snapshot, cow): &(Rc<Snapshot>, u64)| {
                host.write(
                    snapshot.disk,
                    place(*cow),
                    data.clone(),
                    Durability::Volatile,
                )
            };
            let mut outcomes = Vec::new();
            for io in task.legs.iter().map(write).collect::<Vec<_>>() {
                outcomes.push(io.await.map(|_| ()));
            }
            outcomes
        }
        Err(Failed) => vec![Err(Failed); task.legs.len()],
    };
    if !early {
        copied(&host, &task, &outcomes);
    }
}

fn copied(host: &Host, task: &Copy, outcomes: &[Result<(), Failed>]) {
    for (n, (snapshot, cow)) in task.legs.iter().enumerate() {
        if outcomes.get(n) == Some(&Err(Failed)) && !host.has(Fault::FailedCopyIgnored) {
            snapshot.give_up();
        }
        snapshot.map_run(Run {
            origin: task.origin,
            cow: *cow,
            len: task.chunks,
        });
    }
}

/// A user writes to the origin.
pub(crate) async fn write(
    host: Rc<Host>,
    siblings: Siblings,
    view: Rc<RefCell<View>>,
    from: usize,
    data: Vec<Sector>,
    fua: bool,
) {
    let count = data.len();
    secure(&host, &siblings, from, count).await;
    let how = if fua {
        Durability::Durable
    } else {
        Durability::Volatile
    };
    let written = host.write(0, from, data, how).await;
    view.borrow_mut().ended(from, count, written.is_ok(), fua);
}

/// A user flushes the origin.
pub(crate) async fn flush(host: Rc<Host>, view: Rc<RefCell<View>>) {
    let mark = view.borrow().mark();
    if host.flush(0).await.is_ok() {
        view.borrow_mut().flushed(&mark);
    }
}
