// SPDX-License-Identifier: GPL-2.0

//! Stability: who must have copied a chunk before it may be overwritten?
//!
//! Every block device that has overlays has one [`OriginSet`]: the set of its copiers. A write to
//! the origin, from whichever target, asks the set ([`OriginSet::admit`]) and is let through when
//! every copier has a stable exception for each chunk that it touches. Otherwise the missing
//! copies are started, all copiers with the same chunk size sharing one read, and the write is
//! parked with one exception that is not stable yet; when that is settled it asks again. The copiers
//! on other hosts are one more member (`remote.rs`), which is asked in the same way.
//!
//! Asking again keeps this simple and safe: nothing counts down, so nothing can be counted wrong
//! when a copier comes, goes or fails in the meantime.

use crate::copier::Copier;
use crate::copier::Need;
use crate::copier::Standing;
use crate::dm::new_irq_lock;
use crate::dm::CopyClient;
use crate::dm::CopyJob;
use crate::dm::DeviceNumber;
use crate::dm::Failure;
use crate::dm::Flight;
use crate::dm::IrqLock;
use crate::dm::MemPool;
use crate::dm::Outcome;
use crate::dm::Pass;
use crate::dm::PoolBox;
use crate::dm::Region;
use crate::dm::SuspendKind;
use crate::dm::MAX_DESTINATIONS;
use crate::holey_core::format::ChunkSize;
use crate::holey_core::index::Run;
use crate::merge::Merge;
use crate::overlay::Bio;
use crate::overlay::Bios;
use crate::overlay::Overlay;
use crate::overlay::Role;
use crate::parameters;
use crate::remote;
use crate::remote::Remote;
use core::ops::Deref;
use core::sync::atomic::AtomicU8;
use core::sync::atomic::Ordering;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::Mutex;

/// Copies that can be started when memory is short.
const RESERVED_TASKS: u16 = 16;

kernel::sync::global_lock! {
    // SAFETY: The module initialises it before it registers the first target.
    /// All origins that have overlays.
    pub(crate) unsafe(uninit) static ORIGINS: Mutex<Registry> = Registry { entries: KVec::new() };
}

/// The origins, each with its number of users.
pub(crate) struct Registry {
    entries: KVec<(Arc<OriginSet>, usize)>,
}

/// The copiers of one origin.
#[pin_data]
pub(crate) struct OriginSet {
    number: DeviceNumber,
    copies: CopyClient,
    tasks: Arc<MemPool<CopyTask>>,
    /// Held while a store is looked for, opened and added, so that none is opened twice.
    #[pin]
    pub(crate) opening: Mutex<()>,
    #[pin]
    members: IrqLock<Members>,
}

#[derive(Default)]
struct Members {
    copiers: KVec<Arc<Copier>>,
    merges: KVec<Arc<Merge>>,
    outlets: KVec<Arc<Outlet>>,
    remote: Option<Arc<Remote>>,
    /// Targets that hold it.
    remote_users: usize,
}

/// A device through which the origin is written to.
pub(crate) struct Outlet {
    passage: Passage,
    leaving: AtomicU8,
}

/// What becomes of writes through an outlet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passage {
    /// Nobody counts them: not for a volume that several hosts share.
    Plain,
    /// They are those of a merge, during which nobody joins.
    Merge,
    /// Each is counted, for when somebody joins.
    Counted,
}

const STAYING: u8 = 0;
const LEAVING: u8 = 1;
const LEAVING_NOFLUSH: u8 = 2;

/// Tells outlets apart.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct OutletId(usize);

impl Outlet {
    /// The name of the outlet while it exists.
    pub(crate) fn id(self: &Arc<Self>) -> OutletId {
        OutletId(Arc::as_ptr(self) as usize)
    }

    /// Its device stays: its writes may wait for space.
    pub(crate) fn stay(&self) {
        self.leaving.store(STAYING, Ordering::Release);
    }

    /// Whether it stays.
    pub(crate) fn is_staying(&self) -> bool {
        self.leaving.load(Ordering::Acquire) == STAYING
    }

    /// Whether its device is being suspended so that nothing is left to write.
    pub(crate) fn is_finishing(&self) -> bool {
        self.leaving.load(Ordering::Acquire) == LEAVING
    }
}

/// A user's hold on an origin.
pub(crate) struct Origin {
    set: Arc<OriginSet>,
}

impl Origin {
    /// Finds or makes the set of a device. May sleep.
    pub(crate) fn get(number: DeviceNumber) -> Result<Self> {
        let mut registry = ORIGINS.lock();
        if let Some((set, users)) = registry
            .entries
            .iter_mut()
            .find(|(set, _)| set.number == number)
        {
            *users += 1;
            return Ok(Self { set: set.clone() });
        }
        let set = Arc::pin_init(
            try_pin_init!(OriginSet {
                number,
                copies: CopyClient::new(Some(parameters::copy_throttle()))?,
                tasks: MemPool::new(RESERVED_TASKS)?,
                opening <- new_mutex!((), "holey_opening"),
                members <- new_irq_lock!(Members::default(), c"holey_members"),
            }? Error),
            GFP_KERNEL,
        )?;
        registry.entries.push((set.clone(), 1), GFP_KERNEL)?;
        Ok(Self { set })
    }
}

/// A target's share in the copiers on other hosts, which are there as long as somebody has one.
pub(crate) struct Seat {
    remote: Arc<Remote>,
    origin: Origin,
}

impl Origin {
    /// A share for a target that lets writes through to a volume of `sectors` sectors, perhaps with a
    /// write-back buffer of so many MiB.
    pub(crate) fn new_seat(
        &self,
        size: ChunkSize,
        sectors: u64,
        buffer: Option<u32>,
    ) -> Result<Seat> {
        let seat = Seat {
            origin: Self::get(self.set.number)?,
            remote: self.add_remote(size, sectors)?,
        };
        if let Some(mib) = buffer {
            seat.provide_buffer(mib)?;
        }
        Ok(seat)
    }

    /// A share in those that there are.
    pub(crate) fn seat(&self) -> Result<Option<Seat>> {
        let origin = Self::get(self.set.number)?;
        let mut members = self.members.lock();
        let remote = members.remote.clone();
        members.remote_users += usize::from(remote.is_some());
        drop(members);
        Ok(remote.map(|remote| Seat { remote, origin }))
    }
}

impl Deref for Seat {
    type Target = Remote;

    fn deref(&self) -> &Remote {
        &self.remote
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.origin.remove_remote();
    }
}

impl Deref for Origin {
    type Target = OriginSet;

    fn deref(&self) -> &OriginSet {
        &self.set
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let mut registry = ORIGINS.lock();
        registry.entries.retain(|(set, users)| {
            if Arc::ptr_eq(set, &self.set) {
                *users -= 1;
            }
            *users != 0
        });
        if registry.entries.is_empty() {
            registry.entries = KVec::new();
        }
    }
}

/// What stands between a write and the origin.
enum Verdict {
    /// Nothing.
    Clear,
    /// Copies that were just begun in the tables of the copiers and have to be sent.
    Copy,
    /// An exception that is not stable yet.
    Wait(Wait),
    /// A chunk that copiers on other hosts have not kept; whether that cannot be asked for now.
    Remote(Arc<Remote>, u64, bool),
}

/// The chunk of a copier that a write waits for. The pass is dropped last: whoever tears the
/// copier down waits for it.
struct Wait {
    copier: Arc<Copier>,
    chunk: u64,
    /// It has no slot yet: the copier makes as many exceptions as it can at a time.
    no_slot: bool,
    _pass: Pass,
}

impl OriginSet {
    /// Lets a write of `sectors` sectors from `start` on through (returns it), or keeps it until
    /// it can be let through. May sleep for memory.
    pub(crate) fn admit(&self, start: u64, sectors: u64, mut bio: Bio) -> Option<Bio> {
        // Counted before the survey: see `remote.rs`.
        let remote = match bio.data().role {
            Role::Writing | Role::Held => self.remote(),
            _ => None,
        };
        loop {
            let mut task = None;
            let ticket = remote.as_ref().map(|remote| remote.enter());
            let verdict = self.survey(start, sectors, Need::Stable, &mut task);
            match (&verdict, &remote, ticket) {
                (Verdict::Clear, _, Some(ticket)) => {
                    let tag = bio.data();
                    tag.role = Role::Tracked;
                    tag.epoch = ticket.to_raw();
                }
                (_, Some(remote), Some(ticket)) => remote.leave(ticket),
                _ => {}
            }
            match verdict {
                Verdict::Clear => return Some(bio),
                Verdict::Copy => self.copy(task),
                Verdict::Wait(wait) => bio = wait.copier.park(wait.chunk, bio)?,
                Verdict::Remote(remote, chunk, _) => {
                    let outlet = bio.data().outlet;
                    let kept = remote.park(chunk, bio);
                    if kept.is_none() {
                        self.dismiss_leaving(&remote, Some(outlet));
                    }
                    bio = kept?;
                }
            }
        }
    }

    /// Sees to writes of leaving outlets that wait for copiers on other hosts.
    pub(crate) fn dismiss_leaving(&self, remote: &Remote, only: Option<OutletId>) {
        let mut next = 0;
        loop {
            let members = self.members.lock();
            let Some(outlet) = members.outlets.get(next).cloned() else {
                return;
            };
            drop(members);
            next += 1;
            if only.is_none_or(|id| id == outlet.id()) {
                match outlet.leaving.load(Ordering::Acquire) {
                    LEAVING => remote.dismiss(outlet.id(), SuspendKind::Flush),
                    LEAVING_NOFLUSH => remote.dismiss(outlet.id(), SuspendKind::NoFlush),
                    _ => {}
                }
            }
        }
    }

    /// The copiers on other hosts, if there can be any.
    pub(crate) fn remote(&self) -> Option<Arc<Remote>> {
        self.members.lock().remote.clone()
    }

    /// The copiers on other hosts, for a target that writes to a volume of `sectors` sectors. They
    /// are the same for all such targets. `EBUSY` if another one counts in other chunks, or writes
    /// without counting.
    fn add_remote(&self, size: ChunkSize, sectors: u64) -> Result<Arc<Remote>> {
        let mut new = None;
        loop {
            let mut members = self.members.lock();
            let plain = |outlet: &Arc<Outlet>| outlet.passage == Passage::Plain;
            if members.outlets.iter().any(plain) {
                return Err(EBUSY);
            }
            if members.remote.is_none() {
                members.remote = new.take();
            }
            let Some(remote) = &members.remote else {
                drop(members);
                new = Some(Remote::new(self.number, size, sectors)?);
                continue;
            };
            if !remote.suits(size, sectors) {
                return Err(EBUSY);
            }
            let remote = remote.clone();
            members.remote_users += 1;
            drop(members);
            return Ok(remote);
        }
    }

    /// Such a target is gone.
    fn remove_remote(&self) {
        let mut members = self.members.lock();
        members.remote_users = members.remote_users.saturating_sub(1);
        let last = match members.remote_users {
            0 => members.remote.take(),
            _ => None,
        };
        drop(members);
        if let Some(last) = last {
            last.give_up();
        }
    }

    /// Whether there is a copier that takes part.
    pub(crate) fn has_copiers(&self) -> bool {
        let members = self.members.lock();
        members.copiers.iter().any(|copier| copier.is_active())
    }

    /// There is no agent any more who could let writes through.
    pub(crate) fn left_alone(&self) {
        if let Some(remote) = self.remote() {
            self.dismiss_leaving(&remote, None);
            remote.nudge();
        }
    }

    /// Whether a write to the range may go at once. Never sleeps.
    pub(crate) fn is_clear(&self, start: u64, sectors: u64) -> bool {
        let members = self.members.lock();
        let (mut copiers, mut remote) = (members.copiers.iter(), members.remote.iter());
        copiers.all(|copier| copier.is_stable(start, sectors))
            && remote.all(|remote| remote.is_stable(start, sectors))
    }

    /// Takes the exceptions of a copier away. No copy is begun for it from then on.
    pub(crate) fn retire(&self, copier: &Copier) {
        let _members = self.members.lock();
        copier.retire();
    }

    /// Whether there is a merge.
    pub(crate) fn has_merge(&self) -> bool {
        !self.members.lock().merges.is_empty()
    }

    /// Gives the exceptions of `source` to `receiver` in one step, so that the origin is protected
    /// throughout.
    pub(crate) fn hand_over(&self, source: &Arc<Copier>, receiver: &Arc<Copier>) {
        let _members = self.members.lock();
        receiver.take_over(source);
        source.retire();
        Copier::activate(receiver);
    }

    /// Starts all copies that a write to the range would need, without waiting for them: whoever
    /// is about to write many ranges calls this for all of them before [`Self::secure`]. False if
    /// a copier cannot begin more before others have settled.
    pub(crate) fn prepare(&self, start: u64, sectors: u64) -> bool {
        loop {
            let mut task = None;
            match self.survey(start, sectors, Need::Copied, &mut task) {
                Verdict::Clear => return true,
                Verdict::Copy => self.copy(task),
                Verdict::Wait(wait) => return !wait.no_slot,
                Verdict::Remote(_, _, full) => return !full,
            }
        }
    }

    /// Sleeps until no copy of the range is under way. The exceptions need not be committed then.
    pub(crate) fn await_copies(&self, start: u64, sectors: u64) {
        while let Some(wait) = self.copying(start, sectors) {
            wait.copier.wait_filled(wait.chunk);
        }
    }

    /// A chunk of the range that is being copied.
    fn copying(&self, start: u64, sectors: u64) -> Option<Wait> {
        let members = self.members.lock();
        members.copiers.iter().find_map(|copier| {
            let chunk = copier.filling(start, sectors)?;
            Some(Wait::new(copier, chunk, false))
        })
    }

    /// Sleeps until a write to the range would be let through. False if `stop` said so before:
    /// whoever makes it do so calls [`Self::nudge`].
    pub(crate) fn secure(&self, start: u64, sectors: u64, stop: impl Fn() -> bool) -> bool {
        loop {
            let mut task = None;
            match self.survey(start, sectors, Need::Stable, &mut task) {
                Verdict::Clear => return true,
                Verdict::Copy => self.copy(task),
                Verdict::Wait(_) | Verdict::Remote(..) if stop() => return false,
                Verdict::Wait(wait) => wait.copier.wait_for(wait.chunk, &stop),
                Verdict::Remote(remote, chunk, _) => remote.wait_for(chunk, &stop),
            }
        }
    }

    /// Makes everybody look again at what they wait for.
    pub(crate) fn nudge(&self) {
        let members = self.members.lock();
        if let Some(remote) = &members.remote {
            remote.nudge();
        }
        for copier in members.copiers.iter() {
            Copier::kick(copier);
            if let Some(overlay) = copier.overlay() {
                overlay.changed.wake();
            }
        }
    }

    /// The device of an outlet is about to be suspended: none of its writes may wait for space any
    /// longer. They go back to the core, if that takes them; if not, full stores are given up.
    pub(crate) fn leave(&self, outlet: &Arc<Outlet>, kind: SuspendKind) {
        let how = match kind {
            SuspendKind::Flush => LEAVING,
            SuspendKind::NoFlush => LEAVING_NOFLUSH,
        };
        outlet.leaving.store(how, Ordering::Release);
        if let Some(remote) = self.remote() {
            remote.dismiss(outlet.id(), kind);
        }
        self.nudge();
    }

    /// Sees to the writes of leaving outlets that wait for space in `overlay`. Called by its worker
    /// again and again for as long as there is none.
    pub(crate) fn dismiss(&self, copier: &Arc<Copier>, overlay: &Overlay) {
        let mut back = Bios::default();
        let mut full = false;
        let members = self.members.lock();
        for outlet in members.outlets.iter() {
            let leaving = outlet.leaving.load(Ordering::Acquire);
            if leaving == STAYING {
                continue;
            }
            let mut state = overlay.state.lock();
            let blocked = &mut state.blocked.origin;
            let mut theirs = blocked.extract(|tag| tag.outlet == outlet.id());
            if leaving == LEAVING_NOFLUSH {
                back.append(&mut theirs);
            } else {
                full |= !theirs.is_empty();
                blocked.append(&mut theirs);
            }
        }
        drop(members);
        if full {
            Copier::invalidate(
                copier,
                "the COW device is full and its origin is being suspended",
            );
        }
        while let Some(bio) = back.pop() {
            bio.end_failed(Failure::Requeue);
        }
    }

    /// Sends a copy on its way. May sleep for memory.
    pub(crate) fn copy(&self, task: Option<CopyTask>) {
        if let Some(task) = task {
            self.copies.copy(self.tasks.take(task));
        }
    }

    /// The client for copies, for merges and discards.
    pub(crate) fn copies(&self) -> &CopyClient {
        &self.copies
    }

    /// Adds a copier; it takes part once it is active.
    pub(crate) fn add_copier(&self, copier: &Arc<Copier>) -> Result {
        self.add(|members| &mut members.copiers, copier)
    }

    /// Adds a device that writes to the origin.
    ///
    /// `EBUSY` if its writes are not counted and there are copiers on other hosts.
    pub(crate) fn add_outlet(&self, passage: Passage) -> Result<Arc<Outlet>> {
        if passage == Passage::Plain && self.remote().is_some() {
            return Err(EBUSY);
        }
        let leaving = AtomicU8::new(STAYING);
        let outlet = Arc::new(Outlet { passage, leaving }, GFP_KERNEL)?;
        self.add(|members| &mut members.outlets, &outlet)?;
        Ok(outlet)
    }

    /// Takes such a device out.
    pub(crate) fn remove_outlet(&self, outlet: &Arc<Outlet>) {
        let mut members = self.members.lock();
        members.outlets.retain(|other| !Arc::ptr_eq(other, outlet));
    }

    /// Adds to one of the lists: nothing can be allocated while they are locked.
    fn add<T>(&self, list: impl Fn(&mut Members) -> &mut KVec<Arc<T>>, new: &Arc<T>) -> Result {
        let mut room = KVec::new();
        loop {
            let mut members = self.members.lock();
            let place = list(&mut members);
            let len = place.len();
            if room.capacity() > len {
                let old = core::mem::replace(place, room);
                // There is room for all of them and one more.
                for member in Iterator::chain(old.iter(), [new]) {
                    let _ = place.push_within_capacity(member.clone());
                }
                drop(members);
                return Ok(());
            }
            drop(members);
            room = KVec::with_capacity(len + 1, GFP_KERNEL)?;
        }
    }

    /// Takes a copier out.
    pub(crate) fn remove_copier(&self, copier: &Arc<Copier>) {
        let mut members = self.members.lock();
        members.copiers.retain(|other| !Arc::ptr_eq(other, copier));
    }

    /// Adds a merge. `EBUSY` if there is one already: two merges would not see each other's writes.
    pub(crate) fn add_merge(&self, merge: &Arc<Merge>) -> Result {
        let room = KVec::with_capacity(1, GFP_KERNEL)?;
        let mut members = self.members.lock();
        if !members.merges.is_empty() {
            return Err(EBUSY);
        }
        let old = core::mem::replace(&mut members.merges, room);
        let _ = members.merges.push_within_capacity(merge.clone());
        drop(members);
        drop(old);
        Ok(())
    }

    /// Takes a merge out.
    pub(crate) fn remove_merge(&self, merge: &Arc<Merge>) {
        let mut members = self.members.lock();
        members.merges.retain(|other| !Arc::ptr_eq(other, merge));
    }

    /// The copier that uses a COW device, other than `but`: the source of a handover.
    pub(crate) fn user_of(
        &self,
        cow: DeviceNumber,
        but: Option<&Arc<Copier>>,
    ) -> Option<Arc<Copier>> {
        let members = self.members.lock();
        members
            .copiers
            .iter()
            .find(|copier| {
                copier.cow_number() == cow
                    && copier.overlay().is_some()
                    && !copier.is_retired()
                    && but.is_none_or(|but| !Arc::ptr_eq(copier, but))
            })
            .cloned()
    }

    /// Whether a merge uses a COW device.
    pub(crate) fn is_merging(&self, cow: DeviceNumber) -> bool {
        let members = self.members.lock();
        members.merges.iter().any(|merge| merge.cow_number() == cow)
    }

    /// Asks all copiers about a range. What is to be copied goes to `task`, which is large.
    fn survey(&self, start: u64, sectors: u64, need: Need, task: &mut Option<CopyTask>) -> Verdict {
        let members = self.members.lock();
        // Those on other hosts first: they take longer, and go on meanwhile.
        let far = members.remote.as_ref().and_then(|remote| {
            let (chunk, full) = match remote.standing(start, sectors) {
                remote::Standing::Stable => return None,
                remote::Standing::Waits(chunk) => (chunk, false),
                remote::Standing::Full(chunk) => (chunk, true),
            };
            Some(Verdict::Remote(remote.clone(), chunk, full))
        });
        let mut wait = None;
        for copier in members.copiers.iter() {
            if let Some(task) = task {
                if !task.is_full() {
                    copier.join_copy(task);
                }
                continue;
            }
            match copier.standing(start, sectors, need) {
                Standing::Stable => {}
                Standing::Copying(run, size) => {
                    *task = Some(CopyTask::new(copier.clone(), run, size));
                }
                Standing::Unstable(chunk) if wait.is_none() => {
                    wait = Some(Wait::new(copier, chunk, false));
                }
                Standing::Unstable(_) => {}
                Standing::NoSlot(chunk) => wait = Some(Wait::new(copier, chunk, true)),
            }
        }
        match wait {
            _ if task.is_some() => Verdict::Copy,
            Some(wait) => Verdict::Wait(wait),
            None => far.unwrap_or(Verdict::Clear),
        }
    }
}

impl Wait {
    fn new(copier: &Arc<Copier>, chunk: u64, no_slot: bool) -> Self {
        Self {
            copier: copier.clone(),
            chunk,
            no_slot,
            _pass: copier.enter(),
        }
    }
}

/// One copier's part of a copy. The pass is dropped last: whoever tears the copier down waits for
/// it.
struct Leg {
    copier: Arc<Copier>,
    cow: u64,
    _pass: Pass,
}

impl Leg {
    fn new(copier: Arc<Copier>, cow: u64) -> Self {
        let pass = copier.enter();
        Self {
            copier,
            cow,
            _pass: pass,
        }
    }
}

/// Copies a run of chunks from the origin to the COW devices of up to eight copiers.
pub(crate) struct CopyTask {
    flight: Flight,
    size: ChunkSize,
    origin: u64,
    chunks: u64,
    first: Leg,
    others: [Option<Leg>; MAX_DESTINATIONS - 1],
}

impl CopyTask {
    /// A copy for one copier, whose table has slots for the run.
    pub(crate) fn new(copier: Arc<Copier>, run: Run, size: ChunkSize) -> Self {
        Self {
            flight: Flight::new(),
            size,
            origin: run.origin,
            chunks: run.len,
            first: Leg::new(copier, run.cow),
            others: [const { None }; MAX_DESTINATIONS - 1],
        }
    }

    /// The run on the origin: first chunk, number of chunks, and their size.
    pub(crate) fn range(&self) -> (u64, u64, ChunkSize) {
        (self.origin, self.chunks, self.size)
    }

    /// Adds a copier that needs just this run and has slots for it from COW chunk `cow` on.
    pub(crate) fn join(&mut self, copier: Arc<Copier>, cow: u64) {
        if let Some(place) = self.others.iter_mut().find(|leg| leg.is_none()) {
            *place = Some(Leg::new(copier, cow));
        }
    }

    fn is_full(&self) -> bool {
        self.others.iter().all(Option::is_some)
    }

    fn leg(&self, n: usize) -> Option<&Leg> {
        match n.checked_sub(1) {
            None => Some(&self.first),
            Some(other) => self.others.get(other)?.as_ref(),
        }
    }

    /// Sectors to copy: the last chunk of an origin may lie on it only in part.
    fn sectors(&self) -> u64 {
        let start = self.size.sector_of(self.origin);
        let end = self
            .size
            .sector_of(self.origin.saturating_add(self.chunks))
            .min(self.first.copier.origin_device().sectors());
        end.saturating_sub(start)
    }
}

impl CopyJob for CopyTask {
    fn source(&self) -> Region<'_> {
        Region {
            device: self.first.copier.origin_device(),
            sector: self.size.sector_of(self.origin),
            sectors: self.sectors(),
        }
    }

    fn destination(&self, n: usize) -> Option<Region<'_>> {
        let leg = self.leg(n)?;
        Some(Region {
            device: leg.copier.cow_device(),
            sector: self.size.sector_of(leg.cow),
            sectors: self.sectors(),
        })
    }

    fn flight(&mut self) -> &mut Flight {
        &mut self.flight
    }

    fn done(job: PoolBox<Self>, outcome: Outcome) {
        let mut n = 0;
        while let Some(leg) = job.leg(n) {
            let run = Run {
                origin: job.origin,
                cow: leg.cow,
                len: job.chunks,
            };
            Copier::copied(&leg.copier, run, outcome.succeeded(n));
            n += 1;
        }
    }
}
