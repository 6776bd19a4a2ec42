// SPDX-License-Identifier: GPL-2.0-or-later

//! Copies a store's content into the image it was made for, offline.
//!
//! The list is checked to its end before the first write. [`apply()`] leaves the store as it is, so that the work can be
//! interrupted at any point and done again: it ends with the same content. [`merge`] takes from the list what is done, so
//! that only what is left is done again.

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
/// Bytes that are made durable, and leave the list, at a time.
const MERGED: u64 = 64 << 20;

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
    let mut copier = Copier::new(store, target, survey, progress);
    copier.begin()?;
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

/// Does the same, and empties the store as a merge in the kernel does: from the end of the list on, and an exception
/// leaves it only when its content is durable in `target`. The store has to be open for writing.
pub fn merge<S: Disk, T: Disk>(
    store: &mut Store<S>,
    target: &T,
    progress: &dyn Progress,
) -> Result<Applied> {
    merge_by(store, target, MERGED, progress)
}

/// [`merge`], where so many bytes are made durable at a time.
pub fn merge_by<S: Disk, T: Disk>(
    store: &mut Store<S>,
    target: &T,
    bytes: u64,
    progress: &dyn Progress,
) -> Result<Applied> {
    let survey = plan(store, &target.name(), target.size())?;
    store.forget_summary()?;
    let batch = (bytes / store.chunk_bytes()).max(1);
    let mut copier = Copier::new(store, target, survey, progress);
    copier.begin()?;
    let mut left = survey.exceptions;
    while left > 0 {
        let keep = left.saturating_sub(batch);
        for run in store.runs_between(keep, left) {
            copier.copy(run?)?;
        }
        disk::flush(target)?;
        // A cut that is lost in a power cut only means that this is done again.
        store.cut(keep)?;
        left = keep;
    }
    let bytes = copier.written;
    disk::flush(store.disk())?;
    Ok(Applied {
        exceptions: survey.exceptions,
        bytes,
    })
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

impl<'a, S: Disk, T: Disk> Copier<'a, S, T> {
    fn new(store: &'a Store<S>, target: &'a T, survey: Survey, progress: &'a dyn Progress) -> Self {
        Self {
            store,
            target,
            buf: Vec::new(),
            done: 0,
            written: 0,
            total: survey.exceptions * store.chunk_bytes(),
            progress,
        }
    }

    /// Who is to stop before the first write leaves the target as it was.
    fn begin(&self) -> Result<()> {
        progress::step(self.progress, 0, self.total)
    }

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
