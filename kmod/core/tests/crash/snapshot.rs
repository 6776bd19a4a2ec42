// SPDX-License-Identifier: GPL-2.0

//! A snapshot: its exceptions and its commits, driven as the module's `commit.rs` drives them.

use crate::disk::Durability;
use crate::disk::Failed;
use crate::disk::Outcome;
use crate::disk::Sector;
use crate::disk::SECTOR;
use crate::host::Host;
use crate::rules::Fault;
use crate::rules::Rule;
use crate::store;
use crate::store::Loaded;
use crate::store::Map;
use crate::view::View;
use holey_core::alloc::Allocator;
use holey_core::area::AreaImage;
use holey_core::epoch::Epochs;
use holey_core::format::ChunkSize;
use holey_core::format::Exception;
use holey_core::format::Layout;
use holey_core::format::UsedMap;
use holey_core::index::Run;
use holey_core::pending;
use holey_core::pending::Pending;
use holey_core::pending::Slot;
use holey_core::summary::Summary;
use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::Range;
use std::rc::Rc;

/// Areas that one commit may fill behind the current one.
const SPILL_AREAS: usize = 2;
/// A commit is started without being asked for when so many exceptions are ready.
const MANY_READY: u64 = 64;

pub(crate) type Image = AreaImage<Vec<u8>>;

/// Whether a store can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Yes.
    Valid,
    /// No, but the header does not say so yet.
    Invalidating,
    /// No.
    Invalid,
}

/// What everybody looks at.
pub(crate) struct State {
    pub(crate) map: Map,
    pub(crate) pending: Pending<Vec<Slot<()>>, Vec<u32>>,
    pub(crate) alloc: Allocator<Vec<u64>>,
    pub(crate) condition: Condition,
    /// Exceptions up to this ticket are to be committed now.
    pub(crate) wanted: u64,
    /// Everything is.
    pub(crate) hurry: bool,
    /// Ready exceptions have waited for company for long enough.
    pub(crate) linger_over: bool,
    /// The list as far as it is on disk or on its way.
    pub(crate) listed: Vec<Exception>,
    cow_chunks: HashSet<u64>,
    /// How much of it is durable.
    pub(crate) durable: usize,
    /// How much of it was there when it was loaded.
    pub(crate) loaded: usize,
    /// What the snapshot may show.
    pub(crate) view: View,
    /// A full store leaves the snapshot readable, and its list as it is.
    pub(crate) may_overflow: bool,
    /// It was full: it can only be read now.
    pub(crate) overflowed: bool,
    /// The header could not be written: the store must not be activated again.
    pub(crate) lost: bool,
    /// The summary that the header points at.
    pub(crate) live: Option<Summary>,
    /// The header may point at one.
    pub(crate) summarised: bool,
    /// Nobody knows at which, and whether all of it is there: a header has failed.
    pub(crate) unsure: bool,
    /// The first COW chunk that is not handed out.
    pub(crate) limit: u64,
    /// A summary is to be made.
    pub(crate) summarise: bool,
    /// One is being made.
    pub(crate) summarising: bool,
    /// It is to go, as its room is needed.
    pub(crate) making_room: bool,
}

/// A snapshot, or a merging device.
pub(crate) struct Snapshot {
    /// Its COW disk.
    pub(crate) disk: usize,
    pub(crate) layout: Layout,
    /// Readers of the origin.
    pub(crate) readers: Epochs,
    pub(crate) state: RefCell<State>,
    pub(crate) origin_sectors: usize,
}

/// Whoever writes metadata has this.
pub(crate) struct Area {
    pub(crate) image: Image,
    pub(crate) spill: Image,
    /// Bytes that are to be overwritten by the next commit ([`Fault::TailScrubbedByCommit`]).
    stale: Range<usize>,
}

impl Snapshot {
    /// Takes over what was loaded from a disk.
    pub(crate) fn new(
        host: &Host,
        disk: usize,
        mut loaded: Loaded,
        view: View,
        slots: usize,
    ) -> (Rc<Self>, Area) {
        let layout = loaded.layout;
        let mut alloc = Allocator::new(layout, vec![0; 64]);
        let used = UsedMap::new(&mut loaded.used);
        let listed = loaded.list.len();
        if host.has(Fault::HolesNotCounted) {
            alloc.restore(
                listed as u64,
                1 + listed as u64,
                &UsedMap::new(&mut vec![u64::MAX; 64]),
            );
        } else if let Some(known) = &loaded.known {
            alloc.resume(listed as u64, known.next_free);
        } else {
            alloc.restore(listed as u64, loaded.highest, &used);
        }
        let start = loaded.summary.and_then(|summary| summary.start());
        let area = Area {
            image: loaded.image,
            spill: AreaImage::new(layout, vec![0; layout.chunk().bytes()]),
            stale: 0..0,
        };
        let state = State {
            map: loaded.map,
            pending: Pending::new((0..slots).map(|_| Slot::new()).collect(), vec![0; 16]),
            alloc,
            condition: Condition::Valid,
            wanted: 0,
            hurry: false,
            linger_over: false,
            cow_chunks: loaded.list.iter().map(|entry| entry.cow).collect(),
            durable: listed,
            loaded: listed,
            listed: loaded.list,
            view,
            may_overflow: false,
            overflowed: false,
            lost: false,
            live: loaded.known.as_ref().map(|known| known.summary),
            summarised: loaded.summary.is_some(),
            unsure: loaded.damaged,
            limit: start.map_or(u64::MAX, |start| layout.chunk().chunk_of(start)),
            summarise: false,
            summarising: false,
            // One that is not wanted goes at once.
            making_room: loaded.summary.is_some() && loaded.known.is_none(),
        };
        let snapshot = Rc::new(Self {
            disk,
            layout,
            readers: Epochs::new(),
            state: RefCell::new(state),
            origin_sectors: host.len(0),
        });
        (snapshot, area)
    }

    /// The chunk size.
    pub(crate) fn chunk(&self) -> ChunkSize {
        self.layout.chunk()
    }

    /// The sectors of a chunk.
    pub(crate) fn sectors(&self) -> usize {
        self.chunk().sectors() as usize
    }

    /// Whether the store can be used.
    pub(crate) fn condition(&self) -> Condition {
        self.state.borrow().condition
    }

    /// Whether no exception is being made or waits for its commit.
    pub(crate) fn is_settled(&self) -> bool {
        let state = self.state.borrow();
        state.condition != Condition::Invalidating
            && state.pending.is_empty()
            && !state.summarising
            && (!state.making_room || state.condition == Condition::Invalid)
    }

    /// Gives the store up.
    pub(crate) fn give_up(&self) {
        let mut state = self.state.borrow_mut();
        if state.condition == Condition::Valid {
            state.condition = Condition::Invalidating;
        }
    }

    /// A run is complete in the COW device, or is not: maps it or gives its slots back. False if
    /// it is not mapped.
    pub(crate) fn map_run(&self, run: Run) -> bool {
        let state = &mut *self.state.borrow_mut();
        let valid = state.condition == Condition::Valid;
        if valid {
            state.map.insert(run);
        }
        for chunk in run.origin..run.origin + run.len {
            if valid {
                state.pending.ready(chunk);
            } else {
                state.pending.abandon(chunk);
            }
        }
        valid
    }

    /// Takes slots and COW chunks for up to `want` chunks from `first` on.
    pub(crate) fn begin(&self, host: &Host, first: u64, want: u64) -> Begin {
        let state = &mut *self.state.borrow_mut();
        let most = want.min(state.pending.room() as u64).min(Run::MAX_LEN);
        let mut len = 0;
        while len < most && state.pending.find(first + len).is_none() {
            len += 1;
        }
        if len == 0 {
            return Begin::NoSlot;
        }
        let chunks = (host.len(self.disk) / self.sectors()) as u64;
        let Some(taken) = state.alloc.take(len, chunks.min(state.limit)) else {
            if state.limit != u64::MAX {
                state.making_room = true;
                return Begin::NoSlot;
            }
            return Begin::NoSpace;
        };
        let run = Run {
            origin: first,
            cow: taken.first,
            len: taken.len,
        };
        for n in 0..run.len {
            state.pending.insert(Exception {
                origin: run.origin + n,
                cow: run.cow + n,
            });
        }
        Begin::Run(run)
    }

    /// Whether a summary is to be made, and there is nothing else to do.
    fn is_to_summarise(&self) -> bool {
        let state = self.state.borrow();
        state.summarise && !state.hurry && state.pending.ready_len() == 0
    }

    fn has_work(&self) -> bool {
        let state = self.state.borrow();
        match state.condition {
            Condition::Valid => {
                let ready = state.pending.ready_len();
                let asked =
                    state.hurry || state.linger_over || state.wanted > state.pending.durable();
                ready >= MANY_READY
                    || ready != 0 && asked
                    || state.making_room
                    || state.summarise && !state.hurry
            }
            Condition::Invalidating => true,
            Condition::Invalid => false,
        }
    }

    /// Writes a part of an area, in bytes.
    async fn write_part(
        &self,
        host: &Rc<Host>,
        image: &Image,
        part: Range<usize>,
        how: Durability,
    ) -> Outcome {
        let at =
            self.layout.area_chunk(image.area()) as usize * self.sectors() + part.start / SECTOR;
        let sectors = Sector::cut(&image.bytes()[part]);
        host.write(self.disk, at, sectors, how).await
    }

    /// Zeroes what stands behind the end of the list.
    pub(crate) async fn scrub(&self, host: &Rc<Host>, image: &mut Image) -> Result<(), Failed> {
        let stale = image.stale(SECTOR);
        if !stale.is_empty() {
            let how = Durability::FlushedAndDurable;
            self.write_part(host, image, stale, how).await?;
            image.scrubbed();
        }
        Ok(())
    }

    /// Makes the device ready for entries that are put into `image`.
    async fn prepare(
        &self,
        host: &Rc<Host>,
        image: &mut Image,
        stale: &mut Range<usize>,
    ) -> Result<(), Failed> {
        if host.has(Fault::TailScrubbedByCommit) && !image.stale(SECTOR).is_empty() {
            *stale = image.stale(SECTOR);
            image.scrubbed();
        }
        if host.has(Fault::TailNotScrubbed) {
            image.scrubbed();
        }
        self.scrub(host, image).await?;
        if !image.wants_next_zeroed() {
            return Ok(());
        }
        let chunk = self.layout.area_chunk(image.area() + 1);
        let at = chunk as usize * self.sectors();
        if at + self.sectors() > host.len(self.disk) || chunk >= self.state.borrow().limit {
            return Ok(());
        }
        if !host.has(Fault::NextAreaNotZeroed) {
            let zeros = vec![Sector::ZERO; self.sectors()];
            let io = host.write(self.disk, at, zeros, Durability::Volatile);
            if !host.has(Fault::NextAreaZeroedLate) {
                io.await?;
            }
        }
        image.next_is_zeroed();
        Ok(())
    }

    /// Moves ready exceptions to an area.
    fn take(&self, host: &Host, image: &mut Image) -> usize {
        let state = &mut *self.state.borrow_mut();
        state.pending.take(|entry| {
            let pushed = image.push(entry);
            if pushed {
                state.listed.push(entry);
                if !state.cow_chunks.insert(entry.cow) {
                    host.accuse(
                        Rule::C10,
                        format!("{entry} takes a COW chunk that is listed"),
                    );
                }
            }
            pushed
        })
    }

    /// Writes what is ready. When it returns, that is durable and nobody reads its chunks from the
    /// origin.
    pub(crate) async fn write_commit(
        &self,
        host: &Rc<Host>,
        area: &mut Area,
    ) -> Result<(), Failed> {
        let Area {
            image,
            spill,
            stale,
        } = area;
        self.prepare(host, image, stale).await?;
        if host.has(Fault::CommitsCross) {
            host.flush(self.disk).await?;
        }
        if self.take(host, image) == 0 {
            self.prepare(host, image, stale).await?;
            if self.take(host, image) == 0 {
                return Err(Failed);
            }
        }
        let mut spilled = false;
        let first = image.area() + 1;
        for next in (first..).take(SPILL_AREAS) {
            let full = if spilled {
                spill.is_full()
            } else {
                image.is_full()
            };
            if !full || self.state.borrow().pending.ready_len() == 0 {
                break;
            }
            spill.start(next);
            self.prepare(host, spill, stale).await?;
            if self.take(host, spill) == 0 {
                break;
            }
            spilled = true;
            if !host.has(Fault::SpillWrittenLast) {
                let part = spill.unwritten(SECTOR);
                self.write_part(host, spill, part, Durability::Volatile)
                    .await?;
            }
        }
        let old = self.readers.turn();
        let written = self.write_first(host, image, stale).await;
        if !host.has(Fault::ReadersNotAwaited) {
            host.until(|| self.readers.is_quiet(old)).await;
        }
        if !host.has(Fault::FailedCommitIgnored) {
            written?;
        }
        if spilled && host.has(Fault::SpillWrittenLast) {
            let part = spill.unwritten(SECTOR);
            self.write_part(host, spill, part, Durability::Volatile)
                .await?;
        }
        if spilled {
            std::mem::swap(image, spill);
        }
        image.wrote();
        Ok(())
    }

    /// Writes the area that makes a commit durable.
    async fn write_first(
        &self,
        host: &Rc<Host>,
        image: &Image,
        stale: &mut Range<usize>,
    ) -> Outcome {
        let mut part = image.unwritten(SECTOR);
        if stale.start < stale.end {
            part.end = part.end.max(stale.end);
            *stale = 0..0;
        }
        let how = match host.fault() {
            Some(Fault::CommitWithoutFlush | Fault::CommitsCross) => Durability::Durable,
            Some(Fault::CommitWithoutFua) => {
                host.flush(self.disk).await?;
                Durability::Volatile
            }
            _ => Durability::FlushedAndDurable,
        };
        self.write_part(host, image, part, how).await
    }

    /// Lets those go on who waited for the commit.
    pub(crate) fn settle(&self) {
        let state = &mut *self.state.borrow_mut();
        while state.pending.settle().is_some() {}
        state.durable = state.listed.len();
        state.linger_over = false;
    }

    /// Makes the header say that the store is invalid, then lets everybody go on.
    async fn declare_invalid(&self, host: &Rc<Host>) {
        let head = vec![store::header(false, self.chunk())];
        if host.has(Fault::InvalidationNotAwaited) {
            self.state.borrow_mut().condition = Condition::Invalid;
        }
        let how = if host.has(Fault::InvalidHeaderVolatile) {
            Durability::Volatile
        } else {
            Durability::FlushedAndDurable
        };
        let written = host.write(self.disk, 0, head, how).await;
        let state = &mut *self.state.borrow_mut();
        state.lost |= written.is_err();
        state.condition = Condition::Invalid;
        while state.pending.give_up().is_some() {}
    }

    /// Whether a chunk is being filled.
    pub(crate) fn is_filling(&self, chunk: u64) -> bool {
        let mut state = self.state.borrow_mut();
        let slot = state.pending.find(chunk);
        slot.is_some_and(|slot| slot.state() == pending::State::Filling)
    }

    /// Marks a chunk as wanted by somebody who waits for it. False if there is nothing to wait for.
    pub(crate) fn ask_to_settle(&self, chunk: u64) -> bool {
        let state = &mut *self.state.borrow_mut();
        match state.condition {
            Condition::Valid => {}
            Condition::Invalidating => return true,
            Condition::Invalid => return false,
        }
        if let Some(slot) = state.pending.find(chunk) {
            if slot.state() == pending::State::Ready {
                state.wanted = state.wanted.max(slot.ticket());
            }
            return true;
        }
        let full = state.pending.room() == 0;
        if full {
            state.wanted = state.pending.issued();
        }
        full || state.making_room
    }

    /// Asks for all that is ready now, and waits until it is durable.
    pub(crate) async fn durable(&self, host: &Rc<Host>) -> Result<(), Failed> {
        let ticket = {
            let state = &mut *self.state.borrow_mut();
            state.wanted = state.pending.issued();
            state.wanted
        };
        host.until(|| {
            let state = self.state.borrow();
            state.condition == Condition::Invalid || state.pending.durable() >= ticket
        })
        .await;
        match self.condition() {
            Condition::Valid => Ok(()),
            _ => Err(Failed),
        }
    }
}

/// What taking slots came to.
pub(crate) enum Begin {
    /// These.
    Run(Run),
    /// There is no slot.
    NoSlot,
    /// There is no COW chunk.
    NoSpace,
}

/// The worker of a snapshot.
pub(crate) async fn work(host: Rc<Host>, snapshot: Rc<Snapshot>, mut area: Area) {
    loop {
        host.until(|| snapshot.has_work()).await;
        if snapshot.condition() == Condition::Invalidating {
            snapshot.declare_invalid(&host).await;
        } else if snapshot.state.borrow().making_room {
            snapshot.make_room(&host).await;
        } else if snapshot.is_to_summarise() {
            snapshot.summarise(&host, &mut area).await;
        } else if snapshot.write_commit(&host, &mut area).await.is_ok() {
            snapshot.settle();
        } else {
            snapshot.give_up();
        }
    }
}
