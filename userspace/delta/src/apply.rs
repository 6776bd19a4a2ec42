// SPDX-License-Identifier: GPL-2.0-or-later

//! Makes the new image: what has changed goes to a target, in any order, from several threads.
//!
//! There is no way to apply a delta to the very image that it is made from. On an image that was built
//! anew, nearly every source of a copy is the target of another, so that an interrupted run would have
//! to know which of two contents each block has; a log for that is what a COW store is. So a device
//! that has no second slot takes the delta as a store ([`crate::cow`]) and merges it.

use crate::delta::Delta;
use crate::digest;
use crate::error::Error;
use crate::error::Result;
use crate::format::blocks;
use crate::format::BLOCK;
use crate::format::BLOCK_LEN;
use crate::index::Run;
use crate::unit;
use crate::unit::read_blocks;
use dmholey_cow::disk;
use dmholey_cow::progress;
use dmholey_cow::progress::Stoppable;
use dmholey_cow::writer::is_zero;
use dmholey_cow::writer::Ground;
use dmholey_cow::Disk;
use dmholey_cow::Error as CowError;
use dmholey_cow::Progress;
use serde::Serialize;
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

/// Bytes copied at a time.
const BATCH: usize = 1 << 20;

/// What takes new blocks. Calls come from several threads, in no order, and each block comes once.
pub trait Target: Sync {
    /// Takes whole blocks, from block `start` on.
    fn put(&self, start: u64, bytes: &[u8]) -> Result<()>;
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// Blocks that became zero.
    pub zero_blocks: u64,
    /// Blocks that came from elsewhere in the old image.
    pub copied_blocks: u64,
    /// Blocks that units made.
    pub made_blocks: u64,
}

/// Sends every changed block to `target`.
pub fn changes<D: Disk, B: Disk>(
    delta: &Delta<D>,
    base: &B,
    target: &impl Target,
    watch: &dyn Progress,
) -> Result<Applied> {
    let base = Old::new(delta, base)?;
    let work = Work {
        delta,
        base: &base,
        target,
        watch,
        next: AtomicUsize::new(0),
        done: AtomicU64::new(0),
        total: delta.plan.index.targets().map(Run::bytes).sum(),
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..crate::threads())
            .map(|_| scope.spawn(|| work.run()))
            .collect();
        let results: Vec<Result<()>> = workers.into_iter().map(crate::join).collect();
        results.into_iter().collect::<Result<()>>()
    })?;
    let index = &delta.plan.index;
    Ok(Applied {
        zero_blocks: index.zero.iter().map(|run| u64::from(run.len)).sum(),
        copied_blocks: index.groups.iter().map(|group| group.blocks()).sum(),
        made_blocks: index.units.iter().map(|unit| unit.blocks()).sum(),
    })
}

/// An image on a disk that may be larger: what is behind its end reads as zero.
#[derive(Debug)]
pub struct Old<'a, B> {
    disk: &'a B,
    len: u64,
}

impl<'a, B: Disk> Old<'a, B> {
    /// Fails, with both sizes, if `disk` is too small to hold the old image.
    pub fn new<D: Disk>(delta: &Delta<D>, disk: &'a B) -> Result<Self> {
        let (len, there) = (delta.plan.header.old_len, disk.size());
        if there >= len {
            return Ok(Self { disk, len });
        }
        let why = format!(
            "has {there} bytes, and the old version that {} is for has {len}",
            delta.name()
        );
        Err(CowError::refused(disk.name(), why).into())
    }
}

impl<B: Disk> Disk for Old<'_, B> {
    fn name(&self) -> String {
        self.disk.name()
    }

    fn size(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, buf)
    }

    fn next_data(&self, offset: u64) -> u64 {
        self.disk.next_data(offset).min(self.len)
    }
}

struct Work<'a, D, B, T> {
    delta: &'a Delta<D>,
    base: &'a B,
    target: &'a T,
    watch: &'a dyn Progress,
    /// The next piece of work: groups, then units, then zeros.
    next: AtomicUsize,
    done: AtomicU64,
    total: u64,
}

impl<D: Disk, B: Disk, T: Target> Work<'_, D, B, T> {
    fn run(&self) -> Result<()> {
        let result = self.all();
        if result.is_err() {
            // The others need not go on.
            self.next.store(usize::MAX / 2, Ordering::Relaxed);
        }
        result
    }

    fn all(&self) -> Result<()> {
        let index = &self.delta.plan.index;
        let (groups, units) = (index.groups.len(), index.units.len());
        loop {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            if let Some(group) = index.groups.get(n) {
                self.group(group)?;
            } else if let Some(unit) = index.units.get(n.wrapping_sub(groups)) {
                self.unit(unit)?;
            } else if let Some(&run) = index.zero.get(n.wrapping_sub(groups + units)) {
                self.zero(run)?;
            } else {
                return Ok(());
            }
        }
    }

    fn group(&self, group: &crate::index::Group) -> Result<()> {
        let bytes = unit::copied(group, self.base)?;
        let mut rest = bytes.as_slice();
        for copy in &group.copies {
            let (part, behind) = rest.split_at(rest.len().min(copy.len as usize * BLOCK));
            rest = behind;
            self.put(copy.target, part)?;
        }
        Ok(())
    }

    fn unit(&self, unit: &crate::index::Unit) -> Result<()> {
        let packed = self.delta.packed(unit)?;
        let made = unit::decode(unit, &packed, self.base, &|| self.delta.name())?;
        drop(packed);
        for (run, bytes) in made.runs() {
            self.put(run.start, bytes)?;
        }
        Ok(())
    }

    fn zero(&self, run: Run) -> Result<()> {
        let zeros = vec![0; BATCH.min(usize::try_from(run.bytes()).unwrap_or(BATCH))];
        let mut at = run.start;
        while at < run.end() {
            let len = (run.end() - at).min((BATCH / BLOCK) as u64);
            let part = zeros.get(..len as usize * BLOCK).unwrap_or_default();
            self.put(at, part)?;
            at += len;
        }
        Ok(())
    }

    fn put(&self, start: u64, bytes: &[u8]) -> Result<()> {
        self.target.put(start, bytes)?;
        let len = bytes.len() as u64;
        let done = self.done.fetch_add(len, Ordering::Relaxed) + len;
        progress::step(self.watch, done, self.total)?;
        Ok(())
    }
}

/// A disk that becomes the new image.
struct Image<'a, D> {
    disk: &'a D,
    ground: Ground,
    len: u64,
}

impl<D: Disk> Target for Image<'_, D> {
    fn put(&self, start: u64, bytes: &[u8]) -> Result<()> {
        let offset = start * BLOCK_LEN;
        let room = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let bytes = bytes.get(..bytes.len().min(room)).unwrap_or_default();
        if !(self.ground == Ground::Zero && is_zero(bytes)) {
            disk::write(self.disk, offset, bytes)?;
        }
        Ok(())
    }
}

/// Makes the new image on `output`, which is another disk than `base`, and makes it durable. What was made is compared with
/// the digest of the new image.
pub fn apply<D: Disk, B: Disk, O: Disk>(
    delta: &Delta<D>,
    base: &B,
    output: &O,
    ground: Ground,
    watch: &dyn Progress,
) -> Result<Applied> {
    let len = delta.plan.header.new_len;
    let old = Old::new(delta, base)?;
    output
        .reserve(len)
        .map_err(|e| CowError::io("make the new image fit on", output.name(), e))?;
    let image = Image {
        disk: output,
        ground,
        len,
    };
    let applied = changes(delta, base, &image, watch)?;
    unchanged(delta, &old, &image)?;
    disk::flush(output)?;
    // Of blocks that did not change nothing has told yet whether they are those of the old version.
    let made = Old { disk: output, len };
    if digest::image(&made, &Stoppable(watch))? != delta.plan.header.new {
        return Err(Error::Unlike {
            object: output.name(),
            base: base.name(),
        });
    }
    Ok(applied)
}

/// Copies what has not changed.
fn unchanged<D: Disk, B: Disk, O: Disk>(
    delta: &Delta<D>,
    base: &B,
    image: &Image<'_, O>,
) -> Result<()> {
    let mut changed: Vec<Run> = delta.plan.index.targets().collect();
    changed.sort_unstable();
    let end = blocks(image.len);
    changed.push(Run { start: end, len: 0 });
    let mut at = 0;
    for run in changed {
        copy_gap(base, image, at, run.start)?;
        at = run.end();
    }
    Ok(())
}

fn copy_gap<B: Disk, O: Disk>(base: &B, image: &Image<'_, O>, mut at: u64, end: u64) -> Result<()> {
    let mut buf = Vec::new();
    while at < end {
        if image.ground == Ground::Zero {
            // Holes, and what the old image does not have, are zero already.
            let data = base.next_data((at * BLOCK_LEN).min(base.size())) / BLOCK_LEN;
            at = at.max(data);
            if at >= end || at * BLOCK_LEN >= base.size() {
                break;
            }
        }
        let len = (end - at).min((BATCH / BLOCK) as u64);
        buf.resize(len as usize * BLOCK, 0);
        read_blocks(base, at, &mut buf)?;
        image.put(at, &buf)?;
        at += len;
    }
    Ok(())
}
