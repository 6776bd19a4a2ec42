// SPDX-License-Identifier: GPL-2.0

//! What a snapshot does with the bios of its users, as the module's `snapshot_io.rs` does it.

use crate::disk::Durability;
use crate::disk::Failed;
use crate::disk::Sector;
use crate::host::Host;
use crate::origin::copy;
use crate::origin::Copy;
use crate::rules::Fault;
use crate::rules::Rule;
use crate::snapshot::Begin;
use crate::snapshot::Condition;
use crate::snapshot::Snapshot;
use holey_core::alloc;
use holey_core::index::Extent;
use holey_core::index::Run;
use std::rc::Rc;

/// What a write needs.
enum Decision {
    /// Its chunks are in the COW device, from this one on.
    Mapped(u64),
    /// Nothing: it fills the chunks of this run by itself.
    Fresh(Run),
    /// The origin's content, which is on its way.
    Join,
    /// The origin's content, for which slots were just taken.
    Copy(Run),
    /// A slot, and there is none.
    NoSlot,
    /// A COW chunk, and there is none.
    NoSpace,
    /// A valid store.
    Broken,
}

/// A part of a write that meets one fate.
struct Piece {
    from: usize,
    data: Vec<Sector>,
    fua: bool,
}

impl Snapshot {
    /// Decides about a write, and for how many sectors that holds.
    fn decide(&self, host: &Host, from: usize, count: usize) -> (Decision, usize) {
        let size = self.chunk();
        let (chunk, offset) = (size.chunk_of(from as u64), size.offset_of(from as u64));
        let whole = if offset == 0 {
            size.chunks_within(count as u64)
        } else {
            0
        };
        let sectors = |chunks| count.min((size.sector_of(chunks) - offset) as usize);
        if self.condition() != Condition::Valid || self.state.borrow().overflowed {
            return (Decision::Broken, sectors(1));
        }
        let extent = self.state.borrow().map.lookup(chunk);
        let room = match extent {
            Extent::Mapped { cow, len } => return (Decision::Mapped(cow), sectors(len)),
            Extent::Unmapped { len } => len,
        };
        if self.state.borrow_mut().pending.find(chunk).is_some() {
            return (Decision::Join, sectors(1));
        }
        match self.begin(host, chunk, whole.clamp(1, room)) {
            Begin::Run(run) if whole > 0 => (Decision::Fresh(run), sectors(run.len)),
            Begin::Run(run) => (Decision::Copy(run), sectors(1)),
            Begin::NoSlot => (Decision::NoSlot, sectors(1)),
            Begin::NoSpace => (Decision::NoSpace, sectors(1)),
        }
    }

    async fn write_mapped(&self, host: &Rc<Host>, piece: &Piece, cow: u64) -> Result<(), Failed> {
        let size = self.chunk();
        let at = size.sector_of(cow) + size.offset_of(piece.from as u64);
        let how = durability(piece.fua);
        host.write(self.disk, at as usize, piece.data.clone(), how)
            .await?;
        if !piece.fua || host.has(Fault::FuaOfYoungChunk) {
            return Ok(());
        }
        if self.condition() != Condition::Valid {
            return Err(Failed);
        }
        self.durable(host).await
    }

    async fn write_fresh(&self, host: &Rc<Host>, piece: &Piece, run: Run) -> Result<(), Failed> {
        let at = self.chunk().sector_of(run.cow) as usize;
        let written = host.write(self.disk, at, piece.data.clone(), durability(piece.fua));
        if written.await.is_err() {
            let state = &mut *self.state.borrow_mut();
            for chunk in run.origin..run.origin + run.len {
                state.pending.abandon(chunk);
            }
            state.alloc.give_back(alloc::Run {
                first: run.cow,
                len: run.len,
            });
            return Err(Failed);
        }
        if !self.map_run(run) {
            return Err(Failed);
        }
        if piece.fua && !host.has(Fault::FuaBeforeCommit) {
            return self.durable(host).await;
        }
        Ok(())
    }

    async fn write_piece(
        self: Rc<Self>,
        host: &Rc<Host>,
        piece: &Piece,
        first: Decision,
    ) -> Result<(), Failed> {
        let chunk = self.chunk().chunk_of(piece.from as u64);
        let mut decision = first;
        loop {
            match decision {
                Decision::Mapped(cow) => return self.write_mapped(host, piece, cow).await,
                Decision::Fresh(run) => return self.write_fresh(host, piece, run).await,
                Decision::Copy(run) => host.spawn(copy(host.clone(), Copy::of(&self, run))),
                Decision::Join => {}
                Decision::NoSlot => {
                    let state = &mut *self.state.borrow_mut();
                    state.wanted = state.pending.issued();
                }
                Decision::NoSpace => {
                    let overflows = self.state.borrow().may_overflow;
                    if overflows {
                        self.state.borrow_mut().overflowed = true;
                    } else {
                        self.give_up();
                    }
                    return Err(Failed);
                }
                Decision::Broken => return Err(Failed),
            }
            host.until(|| {
                if self.state.borrow().overflowed {
                    return true;
                }
                let state = self.state.borrow();
                let full = state.pending.room() == 0 || state.making_room;
                drop(state);
                self.condition() != Condition::Valid
                    || !self.is_filling(chunk) && !full
                    || self.state.borrow().map.find(chunk).is_some()
            })
            .await;
            decision = self.decide(host, piece.from, piece.data.len()).0;
        }
    }
}

fn durability(fua: bool) -> Durability {
    if fua {
        Durability::Durable
    } else {
        Durability::Volatile
    }
}

/// A user writes to the snapshot. The core cuts the bio where its fate changes.
pub(crate) fn write(
    host: &Rc<Host>,
    snapshot: &Rc<Snapshot>,
    from: usize,
    count: usize,
    fua: bool,
) {
    let data = host.data(count);
    snapshot.state.borrow_mut().view.write(from, &data);
    let mut done = 0;
    while done < count {
        let (decision, len) = snapshot.decide(host, from + done, count - done);
        let piece = Piece {
            from: from + done,
            data: data[done..done + len].to_vec(),
            fua,
        };
        done += len;
        let (host, snapshot) = (host.clone(), snapshot.clone());
        host.users.set(host.users.get() + 1);
        host.clone().spawn(async move {
            let written = snapshot.clone().write_piece(&host, &piece, decision).await;
            let view = &mut snapshot.state.borrow_mut().view;
            view.ended(piece.from, piece.data.len(), written.is_ok(), fua);
            host.users.set(host.users.get() - 1);
        });
    }
}

/// A user flushes the snapshot.
pub(crate) async fn flush(host: Rc<Host>, snapshot: Rc<Snapshot>) {
    let mark = snapshot.state.borrow().view.mark();
    if try_flush(&host, &snapshot).await.is_ok() {
        snapshot.state.borrow_mut().view.flushed(&mark);
    }
}

async fn try_flush(host: &Rc<Host>, snapshot: &Snapshot) -> Result<(), Failed> {
    if snapshot.condition() != Condition::Valid {
        return Err(Failed);
    }
    let (young, forward) = {
        let pending = &snapshot.state.borrow().pending;
        // A commit that starts from now on flushes the COW device's cache; one that is under way
        // may have done so before the writes that this flush is for.
        (
            pending.issued() != pending.durable(),
            pending.ready_len() == 0,
        )
    };
    if !young || host.has(Fault::FlushWithoutCommit) {
        return host.flush(snapshot.disk).await.map(|_| ());
    }
    snapshot.durable(host).await?;
    if forward && !host.has(Fault::FlushNotForwarded) {
        host.flush(snapshot.disk).await?;
    }
    Ok(())
}

/// A user reads a part of one chunk of the snapshot.
pub(crate) async fn read(host: Rc<Host>, snapshot: Rc<Snapshot>, from: usize, count: usize) {
    if snapshot.condition() != Condition::Valid {
        return;
    }
    let since: Vec<_> = {
        let view = &snapshot.state.borrow().view;
        (from..from + count).map(|at| view.acked(at)).collect()
    };
    let size = snapshot.chunk();
    let find = || snapshot.state.borrow().map.find(size.chunk_of(from as u64));
    let mut ticket = None;
    let mut found = find();
    if found.is_none() {
        if host.has(Fault::ReaderCountedLate) {
            // Time passes.
            let _ = host.read(0, 0, 0).await;
        }
        ticket = Some(snapshot.readers.enter());
        if !host.has(Fault::ReaderCountedLate) {
            found = find();
        }
    }
    let io = match found {
        Some(cow) => {
            let at = size.sector_of(cow) + size.offset_of(from as u64);
            host.read(snapshot.disk, at as usize, count)
        }
        None => host.read(0, from, count),
    };
    let got = io.await;
    if let Some(ticket) = ticket {
        snapshot.readers.leave(ticket);
        if snapshot.condition() != Condition::Valid {
            // The origin may have been written to since, without a copy: the read fails.
            return;
        }
    }
    let view = &snapshot.state.borrow().view;
    for (n, value) in got.unwrap_or_default().into_iter().enumerate() {
        if !view.may_read(from + n, since[n], value) {
            let what = format!(
                "sector {} of disk {} was read as {value:x?}",
                from + n,
                snapshot.disk
            );
            host.accuse(Rule::C7, what);
        }
    }
}
