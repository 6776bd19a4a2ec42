// SPDX-License-Identifier: GPL-2.0-or-later

//! Copies a store's content into the image it was made for, offline.
//!
//! The list is checked to its end before the first write, and the store is not changed, so the work
//! can be interrupted at any point and done again: it ends with the same content.

use crate::disk;
use crate::disk::Disk;
use crate::error::Error;
use crate::error::Result;
use crate::progress;
use crate::progress::Progress;
use crate::store::Run;
use crate::store::Store;
use crate::store::Survey;
use serde::Serialize;

/// Bytes copied at a time, if chunks are not larger.
const BATCH: usize = 1 << 20;

/// What was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// Exceptions copied.
    pub exceptions: u64,
    /// Bytes written to the target.
    pub bytes: u64,
}

/// Checks all of the store against a target of `size` bytes, without a write.
pub fn plan<S: Disk>(store: &mut Store<S>, target: &str, size: u64) -> Result<Survey> {
    store.usable()?;
    let survey = store.survey()?;
    let chunks = size.div_ceil(store.chunk_bytes());
    if let Some(highest) = survey.highest_origin.filter(|&chunk| chunk >= chunks) {
        let why = format!(
            "too small for {}: it has {size} bytes, and origin chunk {highest} lies at byte {}; \
             is this the image it was made for?",
            store.disk().name(),
            highest * store.chunk_bytes(),
        );
        return Err(Error::refused(target, why));
    }
    store.set_origin_size(size);
    Ok(survey)
}

/// Copies all of `store` to `target` and makes it durable. Content that would lie behind the end of
/// `target` in a last, partial chunk is left out.
pub fn apply<S: Disk, T: Disk>(
    store: &mut Store<S>,
    target: &T,
    progress: &dyn Progress,
) -> Result<Applied> {
    let survey = plan(store, &target.name(), target.size())?;
    let total = survey.exceptions * store.chunk_bytes();
    let mut copier = Copier {
        store,
        target,
        buf: Vec::new(),
        done: 0,
        written: 0,
        total,
        progress,
    };
    for run in store.runs() {
        copier.copy(run?)?;
    }
    let bytes = copier.written;
    disk::flush(target)?;
    Ok(Applied {
        exceptions: survey.exceptions,
        bytes,
    })
}

/// Empties the list of a store whose content is safe elsewhere, as a finished merge leaves it.
pub fn consume<S: Disk>(store: &Store<S>) -> Result<()> {
    let area = store.layout().area_chunk(0) * store.chunk_bytes();
    disk::write(store.disk(), area, &vec![0; store.layout().chunk().bytes()])?;
    disk::flush(store.disk())
}

struct Copier<'a, S, T> {
    store: &'a Store<S>,
    target: &'a T,
    buf: Vec<u8>,
    /// Bytes of chunks handled, for the progress.
    done: u64,
    /// Bytes written.
    written: u64,
    total: u64,
    progress: &'a dyn Progress,
}

impl<S: Disk, T: Disk> Copier<'_, S, T> {
    fn copy(&mut self, run: Run) -> Result<()> {
        let chunk = self.store.chunk_bytes();
        let batch = (BATCH as u64 / chunk).max(1);
        let mut at = 0;
        while at < run.len {
            let count = batch.min(run.len - at);
            let bytes = count * chunk;
            self.buf.resize(usize::try_from(bytes).unwrap_or(0), 0);
            self.store.read_chunks(run.cow + at, &mut self.buf)?;
            self.write((run.origin + at) * chunk)?;
            at += count;
            self.done += bytes;
            progress::step(self.progress, self.done, self.total)?;
        }
        Ok(())
    }

    fn write(&mut self, offset: u64) -> Result<()> {
        let room = self.target.size().saturating_sub(offset);
        let len = self
            .buf
            .len()
            .min(usize::try_from(room).unwrap_or(usize::MAX));
        let data = self.buf.get(..len).unwrap_or_default();
        disk::write(self.target, offset, data)?;
        self.written += len as u64;
        Ok(())
    }
}
