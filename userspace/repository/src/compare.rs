// SPDX-License-Identifier: GPL-2.0-or-later

//! Tells what differs between two versions: how many bytes, and, of an ext4 file system, which files.

use crate::error::Result;
use crate::repository::Content;
use crate::repository::Repository;
use dmholey_cow::disk;
use dmholey_cow::progress;
use dmholey_cow::Disk;
use dmholey_cow::Progress;
use dmholey_delta::ext4;
use dmholey_delta::ext4::Extent;
use dmholey_delta::ext4::File;
use dmholey_delta::format::BLOCK;
use dmholey_delta::format::BLOCK_LEN;
use serde::Serialize;
use std::collections::HashMap;

/// Bytes compared at a time.
const BATCH: u64 = 1 << 20;

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It is new under its path.
    Added,
    /// It is gone.
    Removed,
    /// Its content is another one.
    Changed,
}

/// A file that is not the same in both versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileChange {
    /// Its path. What is not UTF-8 is replaced.
    pub path: String,
    /// What became of it.
    pub change: Change,
    /// Its bytes in the old version.
    pub old_bytes: Option<u64>,
    /// Its bytes in the new version.
    pub new_bytes: Option<u64>,
}

/// What differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// The old version.
    pub from: u64,
    /// The new version.
    pub to: u64,
    /// Bytes of the old image.
    pub old_bytes: u64,
    /// Bytes of the new image.
    pub new_bytes: u64,
    /// Bytes of the blocks of the new image that differ from those in the same places of the old one.
    pub changed_bytes: u64,
    /// Whether both hold an ext4 file system that can be read.
    pub file_system: bool,
    /// Regular files whose path or content differs, by path. Hard links count as their first path.
    pub files: Vec<FileChange>,
}

/// Compares two versions.
pub fn compare(
    repository: &Repository,
    from: u64,
    to: u64,
    watch: &dyn Progress,
) -> Result<Comparison> {
    let (old, new) = (repository.content(from)?, repository.content(to)?);
    let changed = changed_blocks(repository, (from, &old), (to, &new), watch)?;
    let (old_files, new_files) = (files(&old), files(&new));
    let file_system = !old_files.is_empty() && !new_files.is_empty();
    let mut comparison = Comparison {
        from,
        to,
        old_bytes: old.size(),
        new_bytes: new.size(),
        changed_bytes: changed.len() as u64 * BLOCK_LEN,
        file_system,
        files: Vec::new(),
    };
    if file_system {
        let sides = Sides {
            old: &old,
            new: &new,
            changed: &changed,
        };
        comparison.files = sides.files(old_files, new_files)?;
    }
    Ok(comparison)
}

/// The regular files of an image, by path.
fn files(disk: &Content) -> HashMap<Vec<u8>, File> {
    let files = ext4::files(disk).into_iter();
    let regular = files.filter(|file| !file.directory);
    regular.map(|file| (file.path.clone(), file)).collect()
}

/// The blocks that differ, ascending. Only what a store between the versions has can.
fn changed_blocks(
    repository: &Repository,
    (from, old): (u64, &Content),
    (to, new): (u64, &Content),
    watch: &dyn Progress,
) -> Result<Vec<u64>> {
    let layers = &repository.manifest().layers;
    let shared = layers.iter().filter(|l| l.version <= from.min(to)).count();
    let upper = if from < to { new } else { old };
    let mut ranges: Vec<(u64, u64)> = upper.above(shared).collect();
    let common = old.size().min(new.size());
    if common < new.size() {
        ranges.push((common, new.size()));
    }
    let total = ranges.iter().map(|(start, end)| end - start).sum();
    let mut done = 0;
    let mut blocks = Vec::new();
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for (mut start, end) in ranges {
        while start < end.min(new.size()) {
            let len = BATCH.min(end.min(new.size()) - start);
            read(old, start, len, &mut a)?;
            read(new, start, len, &mut b)?;
            let pairs = a.chunks(BLOCK).zip(b.chunks(BLOCK));
            let differ = (start / BLOCK_LEN..).zip(pairs);
            blocks.extend(differ.filter(|(_, (a, b))| a != b).map(|(n, _)| n));
            done += len;
            start += len;
            progress::step(watch, done, total)?;
        }
    }
    blocks.sort_unstable();
    blocks.dedup();
    Ok(blocks)
}

/// Reads a part of an image, behind whose end is nothing but zeros.
fn read(disk: &Content, start: u64, len: u64, buf: &mut Vec<u8>) -> Result<()> {
    buf.clear();
    buf.resize(usize::try_from(len).unwrap_or(0), 0);
    let there = usize::try_from(disk.size().saturating_sub(start)).unwrap_or(usize::MAX);
    let there = there.min(buf.len());
    Ok(disk::read(
        disk,
        start,
        buf.get_mut(..there).unwrap_or_default(),
    )?)
}

/// Both versions, and the blocks that differ.
struct Sides<'a> {
    old: &'a Content,
    new: &'a Content,
    changed: &'a [u64],
}

impl Sides<'_> {
    fn files(
        &self,
        mut old: HashMap<Vec<u8>, File>,
        new: HashMap<Vec<u8>, File>,
    ) -> Result<Vec<FileChange>> {
        let mut changes = Vec::new();
        for (path, new) in new {
            let old = old.remove(&path);
            let change = match &old {
                None => Change::Added,
                Some(old) if self.same(old, &new)? => continue,
                Some(_) => Change::Changed,
            };
            changes.push(FileChange {
                path: String::from_utf8_lossy(&path).into_owned(),
                change,
                old_bytes: old.map(|file| file.len),
                new_bytes: Some(new.len),
            });
        }
        changes.extend(old.into_values().map(|file| FileChange {
            path: String::from_utf8_lossy(&file.path).into_owned(),
            change: Change::Removed,
            old_bytes: Some(file.len),
            new_bytes: None,
        }));
        changes.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(changes)
    }

    fn same(&self, old: &File, new: &File) -> Result<bool> {
        if old.len != new.len {
            return Ok(false);
        }
        if old.extents == new.extents && !new.extents.iter().any(|e| self.touches(e)) {
            return Ok(true);
        }
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for block in 0..u32::try_from(new.len.div_ceil(BLOCK_LEN)).unwrap_or(u32::MAX) {
            file_block(self.old, old, block, &mut a)?;
            file_block(self.new, new, block, &mut b)?;
            let len = (new.len - u64::from(block) * BLOCK_LEN).min(BLOCK_LEN);
            if a.get(..len as usize) != b.get(..len as usize) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn touches(&self, extent: &Extent) -> bool {
        let from = self.changed.partition_point(|&block| block < extent.start);
        let next = self.changed.get(from);
        next.is_some_and(|&block| block < extent.start + u64::from(extent.len))
    }
}

/// A block of a file; zeros where it has none.
fn file_block(disk: &Content, file: &File, block: u32, buf: &mut Vec<u8>) -> Result<()> {
    let behind = file.extents.partition_point(|e| e.logical <= block);
    let extent = behind.checked_sub(1).and_then(|n| file.extents.get(n));
    let place = extent
        .filter(|e| block - e.logical < e.len)
        .map(|e| e.start + u64::from(block - e.logical));
    match place {
        Some(place) => read(disk, place * BLOCK_LEN, BLOCK_LEN, buf),
        None => {
            buf.clear();
            buf.resize(BLOCK, 0);
            Ok(())
        }
    }
}
