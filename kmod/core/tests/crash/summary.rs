// SPDX-License-Identifier: GPL-2.0

//! Summaries of lists: made, given up and read, in the order in which the module's `summary.rs` does
//! it.

use crate::disk::Durability;
use crate::disk::Failed;
use crate::disk::Sector;
use crate::disk::SECTOR;
use crate::host::Host;
use crate::rules::Fault;
use crate::snapshot::Area;
use crate::snapshot::Condition;
use crate::snapshot::Snapshot;
use crate::store;
use crate::store::bytes_of;
use holey_core::area::entry_at;
use holey_core::checksum::crc32c;
use holey_core::format::Bounds;
use holey_core::format::Exception;
use holey_core::format::Header;
use holey_core::format::Layout;
use holey_core::format::ENTRY_LEN;
use holey_core::summary::fence_bytes;
use holey_core::summary::Fences;
use holey_core::summary::PageBounds;
use holey_core::summary::PageWriter;
use holey_core::summary::Summary;
use holey_core::summary::FENCE_LEN;
use holey_core::summary::PAGE_LEN;
use holey_core::summary::PAGE_SECTORS;
use std::rc::Rc;

/// What a summary and the list behind it tell.
pub(crate) struct Known {
    pub(crate) summary: Summary,
    /// What the summary tells, in the order of the origin.
    pub(crate) summarised: Vec<Exception>,
    /// What the list tells behind that.
    pub(crate) behind: Vec<Exception>,
    /// All COW chunks that are named are below this one.
    pub(crate) next_free: u64,
}

/// Reads a summary and what is behind it as an overlay does. `None` if there is none.
pub(crate) fn read(cow: &[Sector], origin_sectors: usize) -> Result<Option<Known>, String> {
    let head = cow[0].bytes();
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let Some(summary) = Summary::parse(&head).map_err(|e| text(&e))? else {
        return Ok(None);
    };
    let header = Header::parse(&head).map_err(|e| text(&e))?;
    let chunk = header.ok_or("no header")?.chunk;
    let layout = Layout::new(chunk);
    let bounds =
        Bounds::new(chunk, origin_sectors as u64, cow.len() as u64).map_err(|e| text(&e))?;
    summary
        .check(layout, bounds, cow.len() as u64)
        .map_err(|e| text(&e))?;
    let bytes = |sector: Option<u64>, len: usize| {
        let at = sector.expect("it was checked") as usize;
        bytes_of(&cow[at..at + len / SECTOR])
    };
    let fences = match summary.fence_bytes() {
        0 => Vec::new(),
        len => bytes(summary.fences_sector(), len),
    };
    let fences = Fences::new(fences, &summary).map_err(|e| text(&e))?;
    let page_bounds = PageBounds {
        layout,
        origin_chunks: bounds.origin_chunks,
        next_free: summary.next_free,
    };
    let mut summarised = Vec::new();
    for n in 0..fences.pages() {
        let page = bytes(summary.page_sector(n), PAGE_LEN);
        for run in fences.read(n, &page, page_bounds).map_err(|e| text(&e))? {
            let run = run.map_err(|e| text(&e))?;
            summarised.extend((0..run.len).map(|n| Exception {
                origin: run.origin + n,
                cow: run.cow + n,
            }));
        }
    }
    let mut behind = Vec::new();
    let (mut area, mut slot) = summary.end(layout);
    loop {
        let content = store::area_bytes(cow, layout, area);
        if (area, slot) == summary.end(layout) {
            summary.check_end(layout, &content).map_err(|e| text(&e))?;
        }
        while let Some(entry) = entry_at(&content, slot) {
            layout.check(entry, bounds).map_err(|e| text(&e))?;
            behind.push(entry);
            slot += 1;
        }
        if (slot as u64) < layout.entries() {
            break;
        }
        (area, slot) = (area + 1, 0);
    }
    let highest = behind.iter().map(|entry| entry.cow + 1).max();
    Ok(Some(Known {
        next_free: summary.next_free.max(highest.unwrap_or(0)),
        summary,
        summarised,
        behind,
    }))
}

/// Says what is wrong with a summary: it and what is behind it have to tell what the list tells. One
/// that can be seen to be damaged is as good as none, and allowed if `may_be_damaged`.
pub(crate) fn judge(
    cow: &[Sector],
    origin_sectors: usize,
    list: &[Exception],
    may_be_damaged: bool,
) -> Result<bool, String> {
    let known = match read(cow, origin_sectors) {
        Ok(Some(known)) => known,
        Err(what) if !may_be_damaged => return Err(what),
        _ => return Ok(false),
    };
    let mut told = known.summarised;
    told.extend(known.behind);
    told.sort();
    told.dedup();
    let mut want = list.to_vec();
    want.sort();
    if told == want {
        return Ok(true);
    }
    let more = told.iter().find(|entry| !want.contains(entry));
    let less = want.iter().find(|entry| !told.contains(entry));
    Err(format!(
        "a summary of {} entries tells of {}, {} are listed; more: {more:?}, less: {less:?}",
        known.summary.listed,
        told.len(),
        want.len()
    ))
}

impl Snapshot {
    /// Keeps chunks from `sector` on from being handed out. False if some have been, or if it is
    /// below `floor`.
    fn reserve(&self, host: &Host, area: &mut Area, sector: u64, floor: u64) -> bool {
        let chunk = self.chunk().chunk_of(sector);
        let state = &mut *self.state.borrow_mut();
        if host.has(Fault::SummaryRoomHandedOut) {
            return true;
        }
        if state.alloc.next_free() > chunk || sector < floor {
            return false;
        }
        state.limit = state.limit.min(chunk);
        let next = self.layout.area_chunk(area.image.area() + 1);
        if next >= state.limit && !host.has(Fault::NextAreaUnderSummary) {
            area.image.next_is_not_zeroed();
        }
        true
    }

    /// The checksum of the last entries that are summarised.
    fn sum_last(&self, host: &Host, area: &Area, summary: &mut Summary) {
        let (number, count) = summary.end(self.layout);
        let disks = host.disks.borrow();
        let bytes = match number == area.image.area() {
            true => area.image.bytes().to_vec(),
            // It was just written.
            false => store::area_bytes(disks[self.disk].content(), self.layout, number),
        };
        summary.last = crc32c(&bytes[..count * ENTRY_LEN]);
    }

    async fn write_bytes(&self, host: &Rc<Host>, sector: u64, bytes: &[u8]) -> Result<(), Failed> {
        let sectors = Sector::cut(bytes);
        let io = host.write(self.disk, sector as usize, sectors, Durability::Volatile);
        io.await.map(drop)
    }

    /// Makes a summary, if there is room for one.
    pub(crate) async fn summarise(&self, host: &Rc<Host>, area: &mut Area) {
        self.state.borrow_mut().summarising = true;
        let made = self.try_summarise(host, area).await;
        let state = &mut *self.state.borrow_mut();
        state.summarise = false;
        state.summarising = false;
        if made != Some(true) && !state.unsure {
            let start = state.live.and_then(|live| live.start());
            state.limit = start.map_or(u64::MAX, |start| self.chunk().chunk_of(start));
        }
    }

    async fn try_summarise(&self, host: &Rc<Host>, area: &mut Area) -> Option<bool> {
        if self.state.borrow().unsure {
            return None;
        }
        let end = host.len(self.disk) as u64 / PAGE_SECTORS * PAGE_SECTORS;
        let live = self.state.borrow().live;
        // Above the one that is there, if it was large.
        let (floor, top) = match live.map(|live| (live.top, live.start().expect("it was checked")))
        {
            Some((top, start)) if end - top > top - start => (top, end),
            Some((_, start)) => (0, start / PAGE_SECTORS * PAGE_SECTORS),
            None => (0, end),
        };
        let (floor, top) = match host.has(Fault::SummaryOverTheOther) {
            true => (0, end),
            false => (floor, top),
        };
        let mut summary = Summary {
            pages: 0,
            top,
            listed: area.image.listed(),
            next_free: 0,
            fences: 0,
            last: 0,
        };
        self.sum_last(host, area, &mut summary);
        let (mut next, mut left) = (0, None);
        let mut fences = Vec::new();
        let mut page = PageWriter::new(vec![0; PAGE_LEN]);
        loop {
            while let Some(run) = left
                .take()
                .or_else(|| self.state.borrow().map.next_run(next))
            {
                if !page.push(run) {
                    left = Some(run);
                    break;
                }
                next = run.end();
            }
            if page.is_empty() {
                break;
            }
            let (bytes, fence) = page.finish();
            let bytes = bytes.clone();
            fences.extend_from_slice(&fence);
            page.clear();
            summary.pages += 1;
            let sector = summary.page_sector(u64::from(summary.pages) - 1)?;
            if !self.reserve(host, area, sector, floor) {
                return None;
            }
            self.write_bytes(host, sector, &bytes).await.ok()?;
        }
        summary.fences = crc32c(&fences);
        if summary.pages != 0 {
            let sector = summary.fences_sector()?;
            if !self.reserve(host, area, sector, floor) {
                return None;
            }
            assert_eq!(fences.len(), summary.pages as usize * FENCE_LEN);
            fences.resize(fence_bytes(summary.pages), 0);
            self.write_bytes(host, sector, &fences).await.ok()?;
        }
        let target = self.state.borrow().pending.issued();
        while !host.has(Fault::SummaryBeforeCommit) {
            if self.condition() != Condition::Valid {
                return None;
            }
            if self.state.borrow().pending.durable() >= target {
                break;
            }
            if self.write_commit(host, area).await.is_err() {
                self.give_up();
                return None;
            }
            self.settle();
        }
        if host.has(Fault::SummaryCountedLate) {
            summary.listed = area.image.listed();
            self.sum_last(host, area, &mut summary);
        }
        let free = self.state.borrow().alloc.next_free();
        summary.next_free = free.min(self.state.borrow().limit);
        self.state.borrow_mut().unsure = true;
        self.state.borrow_mut().summarised = true;
        let mut head = [0; SECTOR];
        let header = summary.encode(self.chunk());
        head[..header.len()].copy_from_slice(&header);
        let how = match host.has(Fault::SummaryNotFlushed) {
            true => Durability::Durable,
            false => Durability::FlushedAndDurable,
        };
        let written = host.write(self.disk, 0, Sector::cut(&head), how).await;
        written.ok()?;
        let state = &mut *self.state.borrow_mut();
        state.unsure = false;
        state.live = Some(summary);
        let start = summary.start().expect("it was written");
        state.limit = self.chunk().chunk_of(start);
        Some(true)
    }

    /// Makes the header say that there is no summary.
    pub(crate) async fn forget_summary(&self, host: &Rc<Host>) -> Result<(), Failed> {
        if !self.state.borrow().summarised {
            return Ok(());
        }
        let head = vec![store::header(true, self.chunk())];
        let how = match host.has(Fault::SummaryForgottenVolatile) {
            true => Durability::Volatile,
            false => Durability::FlushedAndDurable,
        };
        host.write(self.disk, 0, head, how).await?;
        let state = &mut *self.state.borrow_mut();
        state.summarised = false;
        state.unsure = false;
        state.live = None;
        Ok(())
    }

    /// Gives the room of the summary to those who wait for chunks.
    pub(crate) async fn make_room(&self, host: &Rc<Host>) {
        if self.forget_summary(host).await.is_err() {
            self.give_up();
        }
        let state = &mut *self.state.borrow_mut();
        state.limit = u64::MAX;
        state.making_room = false;
    }
}
