// SPDX-License-Identifier: GPL-2.0-or-later

//! Where the files of an ext4 file system are: paths, and the blocks of their content.
//!
//! For whoever makes a delta, to find the old version of a changed file. A client needs nothing of it.
//! Every file that cannot be read is left out, and so is a whole image that is no ext4 with blocks of
//! 4 KiB: the delta is larger then, and as correct.

mod dir;
mod inode;

use crate::format::BLOCK;
use crate::format::BLOCK_LEN;
use crate::unit::read_blocks;
use dmholey_cow::Disk;
use std::cell::Cell;
use std::collections::HashSet;

/// Files that are looked at.
const MAX_FILES: usize = 4 << 20;
/// Bytes of all paths.
const MAX_PATHS: usize = 512 << 20;
/// Extents of all files.
const MAX_EXTENTS: usize = 16 << 20;
/// Bytes of a directory.
const MAX_DIRECTORY: u64 = 64 << 20;
/// The inode of the topmost directory.
const ROOT: u32 = 2;

/// Consecutive blocks of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first block in the file.
    pub logical: u32,
    /// The first block in the image.
    pub start: u64,
    /// How many, at least one.
    pub len: u32,
}

/// A file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its path, without a slash at the start.
    pub path: Vec<u8>,
    /// Whether it is a directory.
    pub directory: bool,
    /// Its length in bytes.
    pub len: u64,
    /// Its blocks that are there, by their place in the file.
    pub extents: Vec<Extent>,
}

impl File {
    /// Blocks that are there.
    pub fn blocks(&self) -> u64 {
        self.extents.iter().map(|e| u64::from(e.len)).sum()
    }
}

/// The files of a file system that fills the image. Empty if that is none.
pub fn files<D: Disk + ?Sized>(disk: &D) -> Vec<File> {
    let Some(reader) = Reader::open(disk) else {
        return Vec::new();
    };
    Walk {
        reader: &reader,
        seen: HashSet::new(),
        files: Vec::new(),
        path_bytes: 0,
        extents: 0,
        blocks: 0,
    }
    .run()
}

/// Little-endian numbers at fixed places; zero behind the end.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let field = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    field.map_or(0, |&field| u16::from_le_bytes(field))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    field.map_or(0, |&field| u32::from_le_bytes(field))
}

/// The superblock's offset, and the features that change where things are.
const SUPERBLOCK: usize = 1024;
const MAGIC: u16 = 0xef53;
const META_GROUPS: u32 = 0x10;
const WIDE: u32 = 0x80;
const SMALLEST_DESCRIPTOR: u16 = 32;

struct Reader<'a, D: ?Sized> {
    disk: &'a D,
    blocks: u64,
    inodes: u32,
    inodes_per_group: u32,
    inode_len: usize,
    descriptor_len: usize,
    wide: bool,
    /// How many blocks may still be read: a sound file system has none that is read for many inodes.
    budget: Cell<u64>,
}

impl<'a, D: Disk + ?Sized> Reader<'a, D> {
    fn open(disk: &'a D) -> Option<Self> {
        if disk.size() < BLOCK_LEN {
            return None;
        }
        let mut block = vec![0; BLOCK];
        read_blocks(disk, 0, &mut block).ok()?;
        let superblock = block.get(SUPERBLOCK..)?;
        let features = u32_at(superblock, 0x60);
        let wide = features & WIDE != 0;
        let descriptor_len = if wide {
            u16_at(superblock, 0xfe)
        } else {
            SMALLEST_DESCRIPTOR
        };
        let high = if wide { u32_at(superblock, 0x150) } else { 0 };
        let inode_len = if u32_at(superblock, 0x4c) == 0 {
            128
        } else {
            u16_at(superblock, 0x58)
        };
        let reader = Self {
            disk,
            blocks: (u64::from(u32_at(superblock, 4)) | (u64::from(high) << 32))
                .min(crate::format::blocks(disk.size())),
            inodes: u32_at(superblock, 0),
            inodes_per_group: u32_at(superblock, 0x28),
            inode_len: inode_len.into(),
            descriptor_len: descriptor_len.into(),
            wide,
            budget: Cell::new(0),
        };
        let inodes = reader.blocks.saturating_mul((BLOCK / 128) as u64);
        let inodes = inodes.min(reader.inodes.into());
        reader.budget.set(reader.blocks.saturating_add(3 * inodes));
        let four_kib = u32_at(superblock, 0x18) == 2 && u32_at(superblock, 0x14) == 0;
        let sound = u16_at(superblock, 0x38) == MAGIC
            && four_kib
            && features & META_GROUPS == 0
            && reader.inodes_per_group > 0
            && (128..=BLOCK).contains(&reader.inode_len)
            && reader.inode_len.is_power_of_two()
            && (SMALLEST_DESCRIPTOR.into()..=1024).contains(&reader.descriptor_len)
            && reader.descriptor_len.is_power_of_two();
        sound.then_some(reader)
    }

    /// A block, if it is in the file system.
    fn block(&self, number: u64) -> Option<Vec<u8>> {
        if number == 0 || number >= self.blocks {
            return None;
        }
        self.budget.set(self.budget.get().checked_sub(1)?);
        let mut block = vec![0; BLOCK];
        read_blocks(self.disk, number, &mut block).ok()?;
        Some(block)
    }

    fn inode(&self, number: u32) -> Option<inode::Inode> {
        if number == 0 || number > self.inodes {
            return None;
        }
        let group = u64::from((number - 1) / self.inodes_per_group);
        let at = group.checked_mul(self.descriptor_len as u64)?;
        let descriptors = self.block(1 + at / BLOCK_LEN)?;
        let descriptor = descriptors.get((at % BLOCK_LEN) as usize..)?;
        let high = if self.wide {
            u32_at(descriptor, 0x28)
        } else {
            0
        };
        let table = u64::from(u32_at(descriptor, 8)) | (u64::from(high) << 32);
        let at = u64::from((number - 1) % self.inodes_per_group) * self.inode_len as u64;
        let block = self.block(table.checked_add(at / BLOCK_LEN)?)?;
        let from = (at % BLOCK_LEN) as usize;
        inode::Inode::parse(block.get(from..from + self.inode_len)?)
    }
}

struct Walk<'a, D: ?Sized> {
    reader: &'a Reader<'a, D>,
    /// Inodes that have a path already: further links do not count.
    seen: HashSet<u32>,
    files: Vec<File>,
    path_bytes: usize,
    extents: usize,
    blocks: u64,
}

impl<D: Disk + ?Sized> Walk<'_, D> {
    fn run(mut self) -> Vec<File> {
        let mut todo = vec![(ROOT, Vec::new())];
        self.seen.insert(ROOT);
        while let Some((number, path)) = todo.pop() {
            let Some(file) = self.read(number, path) else {
                continue;
            };
            if file.directory && file.len <= MAX_DIRECTORY {
                self.entries(&file, &mut todo);
            }
            self.extents += file.extents.len();
            self.blocks = self.blocks.saturating_add(file.blocks());
            // Files share blocks in few file systems, and then not many.
            let most = self.reader.blocks.saturating_mul(4);
            if self.extents > MAX_EXTENTS || self.blocks > most {
                break;
            }
            self.files.push(file);
        }
        self.files
    }

    fn read(&self, number: u32, path: Vec<u8>) -> Option<File> {
        let inode = self.reader.inode(number)?;
        if !inode.directory && !inode.regular {
            return None;
        }
        let limit = MAX_EXTENTS.saturating_sub(self.extents);
        let extents = inode.extents(self.reader.blocks, limit, |block| self.reader.block(block))?;
        Some(File {
            path,
            directory: inode.directory,
            len: inode.len,
            extents,
        })
    }

    fn entries(&mut self, directory: &File, todo: &mut Vec<(u32, Vec<u8>)>) {
        let blocks = directory
            .extents
            .iter()
            .flat_map(|extent| extent.start..extent.start + u64::from(extent.len));
        for number in blocks.take((MAX_DIRECTORY / BLOCK_LEN) as usize) {
            let Some(block) = self.reader.block(number) else {
                continue;
            };
            for (inode, name) in dir::Entries::new(&block) {
                let len = directory.path.len() + 1 + name.len();
                if name == b"." || name == b".." || self.seen.len() >= MAX_FILES {
                    continue;
                }
                if self.path_bytes + len > MAX_PATHS || !self.seen.insert(inode) {
                    continue;
                }
                self.path_bytes += len;
                let mut path = directory.path.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
                todo.push((inode, path));
            }
        }
    }
}

#[cfg(test)]
mod tests;
