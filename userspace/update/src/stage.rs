// SPDX-License-Identifier: GPL-2.0-or-later

//! Makes the one store that brings the disk to a version, and the one that brings it back; and mends a disk
//! that is not what it should be.

use crate::error::Error;
use crate::error::Result;
use crate::source::Mirrors;
use dmholey_cow::disk;
use dmholey_cow::disk::Access;
use dmholey_cow::format::ChunkSize;
use dmholey_cow::format::Layout;
use dmholey_cow::format::SECTOR_SIZE;
use dmholey_cow::output::Output;
use dmholey_cow::progress;
use dmholey_cow::writer::is_zero;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use dmholey_cow::Error as CowError;
use dmholey_cow::Progress;
use dmholey_cow::Scatter;
use dmholey_cow::Stack;
use dmholey_cow::Store;
use dmholey_delta::cow;
use dmholey_delta::delta::Plan;
use dmholey_delta::digest;
use dmholey_delta::digest::Hasher;
use dmholey_delta::format::blocks;
use dmholey_delta::format::BLOCK;
use dmholey_delta::format::BLOCK_LEN;
use dmholey_delta::index::push_block;
use dmholey_delta::index::Index;
use dmholey_delta::index::Run;
use dmholey_delta::index::Unit;
use dmholey_delta::unit;
use dmholey_delta::Delta;
use dmholey_delta::Digest;
use std::path::Path;

/// Bytes copied at a time.
const BATCH: u64 = 1 << 20;
/// A store has as many chunks at least.
const MIN_CHUNKS: u64 = 3;

/// Makes the store at `output` that shows, over `disk`, what the deltas lead to one after the other. What
/// it shows has this digest, or there is no store.
pub fn stage<B: Disk>(
    disk: &B,
    deltas: &[Delta<Device>],
    digest: Digest,
    output: &Path,
    watch: crate::Watch<'_>,
) -> Result<()> {
    let headers = || deltas.iter().map(|delta| delta.plan.header);
    let old_bytes = headers().next().map_or(0, |header| header.old_len);
    let bytes = headers().next_back().map_or(0, |header| header.new_len);
    check_size(disk, old_bytes)?;
    check_size(disk, bytes)?;
    let mut stack = Stack::new(disk, old_bytes);
    let mut steps = Vec::new();
    for (number, delta) in deltas.iter().enumerate() {
        let path = output.with_extension(format!("step-{number}"));
        let (place, file, ground) = Output::create(&path, true)?;
        let title = format!(
            "making the changes of step {} of {}",
            number + 1,
            deltas.len()
        );
        cow::changes_to_cow(delta, &stack, file, ground, &*watch(&title))?;
        stack.resize(delta.plan.header.new_len);
        // It does not get its name: it goes when this ends, or, after a power cut, when the client is opened.
        stack.push(Store::open(Device::open(place.path(), Access::Read)?)?)?;
        steps.push(place);
    }
    let (place, file, ground) = Output::create(output, true)?;
    let ranges = differing(&stack, disk, &*watch("comparing with the disk"))?;
    let store = Scatter::create(file, chunk(disk.name())?, ground, runs(&ranges))?;
    let watch_copy = watch("writing the changes");
    fill(&stack, &store, &ranges, &*watch_copy)?;
    drop(watch_copy);
    store.finish()?;
    check(
        disk,
        Some(place.path()),
        bytes,
        digest,
        &*watch("checking the new version"),
    )?;
    Ok(place.commit()?)
}

/// Fails if `disk`, with the store over it if there is one, does not show an image of so many bytes and this digest.
pub fn check<B: Disk>(
    disk: &B,
    store: Option<&Path>,
    bytes: u64,
    digest: Digest,
    watch: &dyn Progress,
) -> Result<()> {
    let mut shown = Stack::new(disk, bytes);
    if let Some(store) = store {
        shown.push(Store::open(Device::open(store, Access::Read)?)?)?;
    }
    if digest::image(&shown, watch)? == digest {
        return Ok(());
    }
    Err(Error::Drift { disk: disk.name() })
}

/// Bytes that stores need at most at a time beside each other while these deltas are made into one and then applied:
/// the staged store; and beside it first those of the steps, then the way back. The disk is an image of `there` bytes
/// before that; what is behind it counts only where a delta writes something.
pub fn room(way: &[Plan], there: u64) -> Result<u64> {
    let layout = Layout::new(chunk("a store")?);
    let bytes = |entries| layout.chunks_for(entries).max(MIN_CHUNKS) * BLOCK_LEN;
    let mut changed: Vec<(u64, u64)> = Vec::new();
    let (mut steps, mut seen, mut end) = (0, there, 0);
    for Plan { header, index } in way {
        // What becomes zero is a hole in the store of a step, which is written apart from all else.
        let holes: u64 = index.zero.iter().map(|run| run.bytes()).sum();
        let targets = index.targets().map(|run| u64::from(run.len)).sum();
        steps += bytes(targets) - holes;
        seen = seen.min(header.old_len).min(header.new_len);
        end = header.new_len;
        changed.extend(index.targets().map(|run| (run.start, run.end())));
    }
    // What a version does not have is zero in the next one that reaches so far.
    changed.push((seen / BLOCK_LEN, blocks(there)));
    changed.sort_unstable();
    let (mut at, mut count) = (0, 0);
    for (start, behind) in changed {
        let behind = behind.min(blocks(end));
        count += behind.saturating_sub(start.max(at));
        at = at.max(behind);
    }
    let store = bytes(count);
    Ok(store + store.max(steps))
}

/// Fails if `disk` cannot hold an image of so many bytes.
pub fn check_size(disk: &impl Disk, bytes: u64) -> Result<()> {
    let why = if bytes > disk.size() {
        format!("has {} bytes, and the image has {bytes}", disk.size())
    } else if bytes < disk.size() && bytes % BLOCK_LEN != 0 {
        format!("is larger than the image, whose {bytes} bytes are no multiple of 4 KiB")
    } else {
        return Ok(());
    };
    Err(Error::refused(disk.name(), why))
}

/// The byte ranges of whole blocks, ascending, in which `disk` has something else than `view` shows of it with
/// other things over it, and zeros behind what is seen of it.
fn differing<B: Disk>(
    view: &Stack<&B, Device>,
    disk: &B,
    watch: &dyn Progress,
) -> Result<Vec<(u64, u64)>> {
    let seen = view.seen() / BLOCK_LEN * BLOCK_LEN;
    let stores = view.above(0).map(|(start, end)| (start, end.min(seen)));
    let candidates = stores.chain([(seen, view.size())]);
    let candidates: Vec<_> = candidates.filter(|(start, end)| start < end).collect();
    let total = candidates.iter().map(|(start, end)| end - start).sum();
    let mut done = 0;
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    let (mut shown, mut there) = (Vec::new(), Vec::new());
    for (start, end) in candidates {
        let mut at = start;
        while at < end {
            let len = BATCH.min(end - at);
            for (bytes, disk) in [(&mut shown, view as &dyn Disk), (&mut there, disk)] {
                bytes.resize(usize::try_from(len).unwrap_or(0), 0);
                disk::read(disk, at, bytes)?;
            }
            let blocks = shown.chunks(BLOCK).zip(there.chunks(BLOCK));
            for (place, (shown, there)) in (at..).step_by(BLOCK).zip(blocks) {
                if shown == there {
                    continue;
                }
                let behind = place + shown.len() as u64;
                match ranges.last_mut() {
                    Some((_, end)) if *end == place => *end = behind,
                    _ => ranges.push((place, behind)),
                }
            }
            at += len;
            done += len;
            progress::step(watch, done, total)?;
        }
    }
    Ok(ranges)
}

/// Makes the store at `output` that brings `disk` back to what it is now, after `store` was applied.
pub fn way_back<B: Disk>(
    disk: &B,
    store: Store<Device>,
    output: &Path,
    watch: &dyn Progress,
) -> Result<()> {
    let mut stack = Stack::new(disk, disk.size());
    stack.push(store)?;
    let ranges: Vec<(u64, u64)> = stack.above(0).collect();
    let (place, file, ground) = Output::create(output, true)?;
    let back = Scatter::create(file, chunk(disk.name())?, ground, runs(&ranges))?;
    fill(disk, &back, &ranges, watch)?;
    back.finish()?;
    Ok(place.commit()?)
}

fn chunk(name: impl ToString) -> Result<ChunkSize> {
    let sectors = (BLOCK_LEN / SECTOR_SIZE) as u32;
    Ok(ChunkSize::new(sectors).map_err(|e| CowError::format(name, e))?)
}

/// Byte ranges as first chunks and numbers of chunks.
fn runs(ranges: &[(u64, u64)]) -> impl Iterator<Item = (u64, u64)> + '_ {
    ranges.iter().map(|&(start, end)| {
        let first = start / BLOCK_LEN;
        (first, blocks(end) - first)
    })
}

/// Copies what `view` shows in these ranges.
fn fill<O: Disk>(
    view: &impl Disk,
    store: &Scatter<O>,
    ranges: &[(u64, u64)],
    watch: &dyn Progress,
) -> Result<()> {
    let total = ranges.iter().map(|(start, end)| end - start).sum();
    let mut done = 0;
    let mut buf = Vec::new();
    for &(start, end) in ranges {
        let mut at = start;
        while at < end {
            let len = BATCH.min(end - at);
            buf.clear();
            buf.resize(usize::try_from(blocks(len) * BLOCK_LEN).unwrap_or(0), 0);
            let part = buf.get_mut(..usize::try_from(len).unwrap_or(0));
            disk::read(view, at, part.unwrap_or_default())?;
            store.write(at / BLOCK_LEN, &buf)?;
            at += len;
            done += len;
            progress::step(watch, done, total)?;
        }
    }
    Ok(())
}

/// What `disk` has otherwise than the version that a delta from the empty image makes, as a delta from the one to the
/// other: the units of `plan`, which is that delta's, that make something else, and the blocks that are not zero.
pub fn differences<B: Disk>(disk: &B, plan: &Plan, watch: &dyn Progress) -> Result<Plan> {
    let mut header = plan.header;
    if header.old_len != 0 {
        return Err(Error::broken(
            "the delta",
            "is not one from the empty image",
        ));
    }
    check_size(disk, header.new_len)?;
    let image = Image {
        disk,
        len: header.new_len,
    };
    let total = blocks(image.len) * BLOCK_LEN;
    let mut done = 0;
    let mut index = Index::default();
    let mut made: Vec<Run> = Vec::new();
    for unit in &plan.index.units {
        let mut hasher = Hasher::default();
        for run in runs_of(unit) {
            hasher.update(&image.read(run.start, run.bytes())?);
            done += run.bytes();
        }
        if hasher.finish() != unit.output {
            index.units.push(unit.clone());
        }
        progress::step(watch, done.min(total), total)?;
        made.extend(runs_of(unit));
    }
    made.sort_unstable();
    let end = Run {
        start: blocks(image.len),
        len: 0,
    };
    let mut at = 0;
    for run in made.into_iter().chain([end]) {
        while at < run.start {
            let len = (BATCH / BLOCK_LEN).min(run.start - at);
            let bytes = image.read(at, len * BLOCK_LEN)?;
            for (block, bytes) in (at..).zip(bytes.chunks(BLOCK)) {
                if !is_zero(bytes) {
                    push_block(&mut index.zero, block);
                }
            }
            at += len;
            done += len * BLOCK_LEN;
            progress::step(watch, done.min(total), total)?;
        }
        at = run.end();
    }
    header.old_len = header.new_len;
    Ok(Plan { header, index })
}

fn runs_of(unit: &Unit) -> impl Iterator<Item = Run> + '_ {
    unit.outputs.iter().flat_map(|output| &output.runs).copied()
}

/// What was mended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// Blocks that were not what they should be.
    pub blocks: u64,
    /// Bytes that came from a mirror.
    pub fetched: u64,
}

/// Writes what [`differences`] has found to `disk`, in place. It can be interrupted and done again. `file` is the name in
/// a mirror of the delta that makes the version.
pub fn mend<B: Disk>(
    disk: &B,
    mirrors: &Mirrors,
    file: &str,
    differences: &Plan,
    watch: &dyn Progress,
) -> Result<Mended> {
    let Plan { header, index } = differences;
    let image = Image {
        disk,
        len: header.new_len,
    };
    let mut mended = Mended::default();
    let total = index.targets().map(|run| run.bytes()).sum();
    let mut done = 0;
    for unit in &index.units {
        let len = usize::try_from(unit.packed).unwrap_or(0);
        let packed = mirrors.read(file, unit.offset, len, |bytes| {
            let good = Digest::of(bytes) == unit.digest;
            let why = || format!("the unit at byte {} is damaged", unit.offset);
            good.then(|| bytes.to_vec()).ok_or_else(why)
        })?;
        mended.fetched += unit.packed;
        let empty = dmholey_cow::MemDisk::default();
        let made = unit::decode(unit, &packed, &empty, &|| file.to_owned())?;
        for (run, bytes) in made.runs() {
            for (block, bytes) in (run.start..).zip(bytes.chunks(BLOCK)) {
                mended.blocks += image.put(block, bytes)?;
            }
            done += run.bytes();
        }
        progress::step(watch, done, total)?;
    }
    for run in &index.zero {
        for block in run.start..run.end() {
            mended.blocks += image.put(block, &[0; BLOCK])?;
        }
        done += run.bytes();
        progress::step(watch, done, total)?;
    }
    disk::flush(disk)?;
    Ok(mended)
}

/// An image of `len` bytes on a disk, in whole blocks; zeros are behind its end.
struct Image<'a, B> {
    disk: &'a B,
    len: u64,
}

impl<B: Disk> Image<'_, B> {
    /// How much of `len` bytes from `offset` on is in the image.
    fn there(&self, offset: u64, len: usize) -> usize {
        let there = self.len.saturating_sub(offset);
        usize::try_from(there).unwrap_or(usize::MAX).min(len)
    }

    fn read(&self, block: u64, len: u64) -> Result<Vec<u8>> {
        let offset = block * BLOCK_LEN;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        let there = self.there(offset, bytes.len());
        let part = bytes.get_mut(..there).unwrap_or_default();
        disk::read(self.disk, offset, part)?;
        Ok(bytes)
    }

    /// Writes a block that is something else. Returns how many these are.
    fn put(&self, block: u64, bytes: &[u8]) -> Result<u64> {
        if self.read(block, BLOCK_LEN)? == bytes {
            return Ok(0);
        }
        let offset = block * BLOCK_LEN;
        let there = self.there(offset, bytes.len());
        disk::write(self.disk, offset, bytes.get(..there).unwrap_or_default())?;
        Ok(1)
    }
}
