// SPDX-License-Identifier: GPL-2.0-or-later

//! A delta as a COW store, and a COW store as an image.
//!
//! A store has the same content as a delta for one base: to make it takes the base, and to make a delta
//! of it is to make one between the base and what the store shows over it.

use crate::apply;
use crate::apply::Applied;
use crate::apply::Target;
use crate::delta::Delta;
use crate::error::Result;
use crate::format::BLOCK;
use crate::format::BLOCK_LEN;
use crate::index::Run;
use dmholey_cow::format::ChunkSize;
use dmholey_cow::format::SECTOR_SIZE;
use dmholey_cow::store::Run as CowRun;
use dmholey_cow::writer::Ground;
use dmholey_cow::writer::Written;
use dmholey_cow::Disk;
use dmholey_cow::Error as CowError;
use dmholey_cow::Progress;
use dmholey_cow::Scatter;
use dmholey_cow::Store;
use std::io;

/// Makes a store on `output` that shows the new image over `base`.
pub fn to_cow<D: Disk, B: Disk, O: Disk>(
    delta: &Delta<D>,
    base: &B,
    output: O,
    ground: Ground,
    watch: &dyn Progress,
) -> Result<(O, Written, Applied)> {
    can_be_cow(delta)?;
    let chunk = ChunkSize::new((BLOCK_LEN / SECTOR_SIZE) as u32)
        .map_err(|e| CowError::format(output.name(), e))?;
    let mut runs: Vec<Run> = delta.plan.index.targets().collect();
    runs.sort_unstable();
    let runs = runs.into_iter().map(|run| (run.start, run.len.into()));
    let store = Scatter::create(output, chunk, ground, runs)?;
    let applied = apply::changes(delta, base, &Exceptions(&store), watch)?;
    let (output, written) = store.finish()?;
    Ok((output, written, applied))
}

/// Fails, with the way out, if the images differ in size.
pub fn can_be_cow<D: Disk>(delta: &Delta<D>) -> Result<()> {
    let header = delta.plan.header;
    if header.old_len == header.new_len {
        return Ok(());
    }
    let why = format!(
        "makes {} bytes of {}, but a COW image cannot change a size; apply it to a new image",
        header.new_len, header.old_len
    );
    Err(CowError::refused(delta.name(), why).into())
}

struct Exceptions<'a, O>(&'a Scatter<O>);

impl<O: Disk> Target for Exceptions<'_, O> {
    fn put(&self, start: u64, bytes: &[u8]) -> Result<()> {
        debug_assert_eq!(bytes.len() % BLOCK, 0);
        Ok(self.0.write(start, bytes)?)
    }
}

/// What a store shows over its origin.
#[derive(Debug)]
pub struct Shown<'a, B, S> {
    base: &'a B,
    store: &'a Store<S>,
    /// By origin chunk.
    runs: Vec<CowRun>,
    chunk: u64,
}

impl<'a, B: Disk, S: Disk> Shown<'a, B, S> {
    /// Reads and checks the whole list of `store`.
    pub fn new(base: &'a B, store: &'a mut Store<S>) -> Result<Self> {
        dmholey_cow::apply::plan(store, &base.name(), base.size())?;
        let store = &*store;
        let mut runs = store.runs().collect::<dmholey_cow::Result<Vec<_>>>()?;
        runs.sort_unstable_by_key(|run| run.origin);
        Ok(Self {
            base,
            store,
            runs,
            chunk: store.chunk_bytes(),
        })
    }

    /// The run that `offset` is in; or where the next one starts.
    fn find(&self, offset: u64) -> (Option<CowRun>, u64) {
        let chunk = offset / self.chunk;
        let behind = self.runs.partition_point(|run| run.origin <= chunk);
        let run = behind
            .checked_sub(1)
            .and_then(|n| self.runs.get(n))
            .copied();
        let run = run.filter(|run| chunk < run.origin + run.len);
        let next = self.runs.get(behind);
        let next = next.map_or(u64::MAX, |run| run.origin.saturating_mul(self.chunk));
        (run, next)
    }
}

impl<B: Disk, S: Disk> Disk for Shown<'_, B, S> {
    fn name(&self) -> String {
        self.store.disk().name()
    }

    fn size(&self) -> u64 {
        self.base.size()
    }

    fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        if offset.saturating_add(buf.len() as u64) > self.size() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while !buf.is_empty() {
            let (run, next) = self.find(offset);
            let end = run.map_or(next, |run| (run.origin + run.len) * self.chunk);
            let len = usize::try_from(end - offset)
                .unwrap_or(usize::MAX)
                .min(buf.len());
            let (part, rest) = buf.split_at_mut(len);
            match run {
                Some(run) => {
                    let at = run.cow * self.chunk + (offset - run.origin * self.chunk);
                    self.store.disk().read_at(at, part)?;
                }
                None => self.base.read_at(offset, part)?,
            }
            offset += len as u64;
            buf = rest;
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> u64 {
        let (run, next) = self.find(offset);
        if run.is_some() {
            return offset;
        }
        self.base.next_data(offset).min(next)
    }
}
