// SPDX-License-Identifier: GPL-2.0-or-later

//! Copies that leave out what is zero, and a private copy of a store.
//!
//! A kernel merge empties the store it works on. Whoever wants to keep an image gives the kernel a
//! copy: one that shares the blocks where the file system can do that, else a plain one.

use crate::disk;
use crate::disk::Device;
use crate::disk::Disk;
use crate::error::Error;
use crate::error::Result;
use crate::output::folder;
use crate::progress;
use crate::progress::Progress;
use crate::store::Store;
use crate::writer::is_zero;
use std::path::Path;
use tempfile::NamedTempFile;

/// Bytes copied at a time.
const BATCH: u64 = 1 << 20;

/// Copies a store to a temporary file, which goes when it is dropped. The file is made in `dir`,
/// or beside the store; only the part up to the last chunk in use is copied.
pub fn private(
    store: &Store<Device>,
    dir: Option<&Path>,
    watch: &dyn Progress,
) -> Result<NamedTempFile> {
    let from = store.disk();
    let dir = dir.unwrap_or_else(|| {
        if from.is_block() {
            Path::new("/var/tmp")
        } else {
            folder(from.path())
        }
    });
    let make = |e| Error::path("make a temporary copy in", dir, e);
    let temp = tempfile::Builder::new()
        .prefix(".dmholey-")
        .suffix(".cow")
        .tempfile_in(dir)
        .map_err(make)?;
    if !from.is_block() && rustix::fs::ioctl_ficlone(temp.as_file(), from.file()).is_ok() {
        return Ok(temp);
    }
    let to = Device::from_file(temp.reopen().map_err(make)?, temp.path())?;
    let survey = store.survey()?;
    let chunks = survey
        .next_free
        .max(store.layout().chunks_for(survey.exceptions));
    let size = chunks.max(3).min(store.bounds().cow_chunks) * store.chunk_bytes();
    data(from, &to, size, BATCH as usize, watch)?;
    disk::flush(&to)?;
    Ok(temp)
}

/// Copies the first `size` bytes, those that are zero as well.
pub fn all(from: &impl Disk, to: &impl Disk, size: u64, watch: &dyn Progress) -> Result<()> {
    to.reserve(size)
        .map_err(|e| Error::io("make room in", to.name(), e))?;
    let mut buf = Vec::new();
    let mut at = 0;
    while at < size {
        let len = BATCH.min(size - at);
        buf.resize(usize::try_from(len).unwrap_or(0), 0);
        disk::read(from, at, &mut buf)?;
        disk::write(to, at, &buf)?;
        at += len;
        progress::step(watch, at, size)?;
    }
    Ok(())
}

/// Copies the first `size` bytes, without pieces of `piece` bytes that are zero.
pub fn data(
    from: &impl Disk,
    to: &impl Disk,
    size: u64,
    piece: usize,
    watch: &dyn Progress,
) -> Result<()> {
    to.reserve(size)
        .map_err(|e| Error::io("make room in", to.name(), e))?;
    let mut buf = Vec::new();
    let mut at = from.next_data(0);
    while at < size {
        let len = BATCH.min(size - at);
        buf.resize(usize::try_from(len).unwrap_or(0), 0);
        disk::read(from, at, &mut buf)?;
        for (bytes, place) in buf.chunks(piece).zip((at..).step_by(piece)) {
            if !is_zero(bytes) {
                disk::write(to, place, bytes)?;
            }
        }
        progress::step(watch, at + len, size)?;
        at = from.next_data(at + len);
    }
    Ok(())
}
