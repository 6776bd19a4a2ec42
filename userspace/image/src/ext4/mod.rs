// SPDX-License-Identifier: GPL-2.0-or-later

//! An ext4 file system in a file, through libext2fs.
//!
//! [`Fs`] checks what it is told and what the disk says before it hands it on, so that a damaged base
//! ends in an error. Directories are read and written in [`dir`], which is plain bytes.

pub(crate) mod dir;
#[allow(unsafe_code)]
mod ffi;
pub(crate) mod inode;

use crate::error::Error;
use crate::error::Result;
use crate::tree::acl;
use ffi::Code;
use ffi::Handle;
use ffi::RawExtent;
use ffi::Super;
use inode::Inode;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The root folder.
pub(crate) const ROOT: u32 = 2;
/// The longest extent of written blocks.
const MAX_EXTENT: u64 = 1 << 15;

/// Features that are known and do not change what is done here.
const COMPAT: u32 = 0x4 | 0x8 | 0x10 | 0x20 | 0x200 | 0x800 | 0x1000;
const INCOMPAT: u32 = 0x2 | 0x40 | 0x80 | 0x100 | 0x200 | 0x2000 | 0x4000;
const RO_COMPAT: u32 = 0x1 | 0x2 | 0x8 | 0x10 | 0x20 | 0x40 | 0x400;
/// Features that must be there.
const EXTENTS: u32 = 0x40;
const FILE_TYPES: u32 = 0x2;
/// Features that are asked for.
const JOURNAL_TO_REPLAY: u32 = 0x4;
const ORPHANS_PRESENT: u32 = 0x1_0000;
const DIR_INDEX: u32 = 0x20;
const CHECKSUMS: u32 = 0x400;
const MANY_LINKS: u32 = 0x20;
const LARGE_FILES: u32 = 0x2;
/// Features that are refused, by name: what people have who have them.
const REFUSED: &[(usize, u32, &str)] = &[
    (1, 0x1, "compression"),
    (1, 0x8, "journal_dev"),
    (1, 0x10, "meta_bg"),
    (1, 0x400, "ea_inode"),
    (1, 0x1000, "dirdata"),
    (1, 0x8000, "inline_data"),
    (1, 0x1_0000, "encrypt"),
    (1, 0x2_0000, "casefold"),
    (2, 0x100, "quota"),
    (2, 0x200, "bigalloc"),
    (2, 0x2000, "project"),
    (2, 0x8000, "verity"),
];

/// Bits of the superblock's flags and state.
const UNSIGNED_HASH: u32 = 0x2;
const CLEAN: u16 = 0x1;
const ERRORS: u16 = 0x2;

/// A run of blocks of a file: `len` of them from `logical` on are at `physical`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) logical: u64,
    pub(crate) physical: u64,
    pub(crate) len: u64,
    /// They are reserved and read as zeros.
    pub(crate) unwritten: bool,
}

impl Run {
    pub(crate) fn end(&self) -> u64 {
        self.logical + self.len
    }
}

/// Where a file's blocks are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Map {
    /// In order, without overlap.
    pub(crate) runs: Vec<Run>,
    /// Blocks of the extent tree.
    pub(crate) tree: Vec<u64>,
}

impl Map {
    /// Adds a block behind all others.
    pub(crate) fn push(&mut self, logical: u64, physical: u64, len: u64) {
        if let Some(last) = self.runs.last_mut() {
            if last.end() == logical && last.physical + last.len == physical {
                last.len += len;
                return;
            }
        }
        self.runs.push(Run {
            logical,
            physical,
            len,
            unwritten: false,
        });
    }

    /// The block that holds `logical`, if one does, and how many follow it on both sides.
    pub(crate) fn find(&self, logical: u64) -> Option<(u64, u64)> {
        let at = self.runs.partition_point(|run| run.end() <= logical);
        let run = self.runs.get(at)?;
        if run.unwritten || run.logical > logical {
            return None;
        }
        let inside = logical - run.logical;
        Some((run.physical + inside, run.len - inside))
    }

    /// The first block from `logical` on that is written.
    pub(crate) fn next(&self, logical: u64) -> Option<u64> {
        let at = self.runs.partition_point(|run| run.end() <= logical);
        let mut rest = self.runs.get(at..)?.iter();
        let run = rest.find(|run| !run.unwritten)?;
        Some(run.logical.max(logical))
    }

    /// How many blocks it takes on the disk.
    pub(crate) fn blocks(&self) -> u64 {
        self.runs.iter().map(|run| run.len).sum::<u64>() + self.tree.len() as u64
    }
}

/// An open file system.
pub(crate) struct Fs {
    handle: Handle,
    name: String,
    super_: Super,
}

impl Fs {
    /// Opens a file; `name` is its name for messages.
    pub(crate) fn open(path: &Path, name: &Path) -> Result<Self> {
        let name = name.display().to_string();
        let c_path = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| Error::input(&name, "has a zero byte in its path"))?;
        let handle = Handle::open(&c_path).map_err(|code| {
            let why = format!("is no ext4 file system that libext2fs can open: {code}");
            Error::input(&name, why)
        })?;
        let super_ = handle.superblock();
        let mut fs = Self {
            handle,
            name,
            super_,
        };
        fs.check()?;
        fs.handle
            .read_bitmaps()
            .map_err(|code| fs.failed("read the bitmaps", code))?;
        Ok(fs)
    }

    fn failed(&self, action: impl Into<String>, code: Code) -> Error {
        Error::FileSystem {
            action: action.into(),
            object: self.name.clone(),
            answer: code.to_string(),
        }
    }

    /// Something in it is wrong.
    pub(crate) fn damaged(&self, what: impl std::fmt::Display) -> Error {
        let why = format!("is damaged: {what}; repair it first: e2fsck -f IMAGE");
        Error::input(&self.name, why)
    }

    /// What to call it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn check(&self) -> Result<()> {
        let s = &self.super_;
        let refuse = |why: &str| Err(Error::input(&self.name, why));
        if s.incompat & JOURNAL_TO_REPLAY != 0 {
            return refuse(
                "its journal holds changes that are not in place yet (it was not unmounted); \
                 bring them there first: e2fsck -f IMAGE",
            );
        }
        let unclean = s.state & CLEAN == 0 || s.state & ERRORS != 0;
        if unclean || s.last_orphan != 0 || s.ro_compat & ORPHANS_PRESENT != 0 {
            return refuse(
                "was not unmounted, or errors were found in it; repair it first: e2fsck -f IMAGE",
            );
        }
        let sets = [s.compat, s.incompat, s.ro_compat];
        for &(set, bit, name) in REFUSED {
            if sets.get(set).is_some_and(|bits| bits & bit != 0) {
                let why = format!(
                    "has the feature {name}, which cannot be worked with; take a base without it \
                     (mke2fs -O ^{name})"
                );
                return refuse(&why);
            }
        }
        let known = [COMPAT, INCOMPAT, RO_COMPAT];
        for (which, (bits, known)) in ["compat", "incompat", "ro_compat"]
            .iter()
            .zip(sets.iter().zip(known))
        {
            if bits & !known != 0 {
                let why = format!("has unknown features ({which} {:#x})", bits & !known);
                return refuse(&why);
            }
        }
        if s.incompat & EXTENTS == 0 || s.incompat & FILE_TYPES == 0 {
            return refuse(
                "is ext2 or ext3 and has no extents; take an ext4 base (mke2fs -t ext4)",
            );
        }
        if !(1024..=4096).contains(&self.block_size()) {
            return refuse("has blocks larger than 4 KiB; take a base with 4 KiB (mke2fs -b 4096)");
        }
        let inode = usize::from(s.inode_size);
        if !(256..=ffi::MAX_INODE).contains(&inode) {
            return refuse(
                "has inodes of another size than 256 to 1024 bytes; smaller ones keep no \
                 nanoseconds: take a base with 256 (mke2fs -I 256)",
            );
        }
        let sane = s.blocks_per_group != 0 && s.inodes_per_group != 0;
        if !sane || s.blocks <= u64::from(s.first_block) || s.first_inode < 11 {
            return Err(self.damaged("its superblock makes no sense"));
        }
        Ok(())
    }

    pub(crate) fn block_size(&self) -> usize {
        self.handle.block_size()
    }

    /// How many blocks there are.
    pub(crate) fn blocks(&self) -> u64 {
        self.super_.blocks
    }

    /// How many blocks and inodes are free now.
    pub(crate) fn free(&self) -> (u64, u32) {
        let now = self.handle.superblock();
        (now.free_blocks, now.free_inodes)
    }

    /// How many inodes there are.
    pub(crate) fn inodes(&self) -> u32 {
        self.super_.inodes
    }

    /// When it was written last.
    pub(crate) fn write_time(&self) -> u64 {
        self.super_.write_time
    }

    /// Whether files of 2 GiB and more are allowed.
    pub(crate) fn large_files(&self) -> bool {
        self.super_.ro_compat & LARGE_FILES != 0
    }

    /// Its UUID.
    pub(crate) fn uuid(&self) -> [u8; 16] {
        self.super_.uuid
    }

    /// Whether folders with more than 65,000 folders are allowed.
    pub(crate) fn many_links(&self) -> bool {
        self.super_.ro_compat & MANY_LINKS != 0
    }

    /// How directories are to be read and written.
    pub(crate) fn shape(&self) -> dir::Shape {
        let unsigned = self.super_.flags & UNSIGNED_HASH != 0;
        dir::Shape {
            block: self.block_size(),
            sums: self.super_.ro_compat & CHECKSUMS != 0,
            index: self.super_.compat & DIR_INDEX != 0,
            hash_version: self.super_.hash_version,
            unsigned,
            seed: self.super_.hash_seed,
        }
    }

    /// The time that will be written as that of the last write: `seconds`, or what it is now.
    pub(crate) fn set_write_time(&mut self, seconds: Option<u64>) {
        // The library takes zero for a question to the clock.
        let seconds = seconds.unwrap_or(self.super_.write_time).max(1);
        self.handle.set_now(seconds);
    }

    /// Writes what is kept in memory, and syncs.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.handle
            .flush()
            .map_err(|code| self.failed("write the superblock and the bitmaps", code))
    }

    /// Whether blocks are within the file system.
    fn holds(&self, first: u64, len: u64) -> bool {
        let end = first.checked_add(len);
        first >= u64::from(self.super_.first_block)
            && end.is_some_and(|end| end <= self.super_.blocks)
    }

    fn within(&self, first: u64, len: u64) -> Result<()> {
        if self.holds(first, len) {
            return Ok(());
        }
        Err(self.damaged(format_args!("block {first} is outside of it")))
    }

    pub(crate) fn read_blocks(&mut self, block: u64, buf: &mut [u8]) -> Result<()> {
        self.within(block, (buf.len() / self.block_size()) as u64)?;
        self.handle
            .read_blocks(block, buf)
            .map_err(|code| self.failed(format!("read block {block}"), code))
    }

    pub(crate) fn write_blocks(&mut self, block: u64, buf: &[u8]) -> Result<()> {
        self.within(block, (buf.len() / self.block_size()) as u64)?;
        self.handle
            .write_blocks(block, buf)
            .map_err(|code| self.failed(format!("write block {block}"), code))
    }

    pub(crate) fn read_dir_block(&mut self, ino: u32, block: u64, buf: &mut [u8]) -> Result<()> {
        self.within(block, 1)?;
        self.handle
            .read_dir_block(ino, block, buf)
            .map_err(|code| self.failed(format!("read block {block} of the directory {ino}"), code))
    }

    pub(crate) fn write_dir_block(&mut self, ino: u32, block: u64, buf: &mut [u8]) -> Result<()> {
        self.within(block, 1)?;
        self.handle
            .write_dir_block(ino, block, buf)
            .map_err(|code| {
                self.failed(format!("write block {block} of the directory {ino}"), code)
            })
    }

    /// Whether `ino` may be named by a directory.
    pub(crate) fn is_user_inode(&self, ino: u32) -> bool {
        (ino == ROOT || ino >= self.super_.first_inode)
            && ino <= self.super_.inodes
            && self.handle.inode_used(ino)
    }

    pub(crate) fn read_inode(&mut self, ino: u32) -> Result<Inode> {
        let raw = self
            .handle
            .read_inode(ino)
            .map_err(|code| self.failed(format!("read inode {ino}"), code))?;
        Ok(Inode(raw))
    }

    pub(crate) fn write_inode(&mut self, ino: u32, inode: &mut Inode) -> Result<()> {
        self.handle
            .write_inode(ino, &mut inode.0)
            .map_err(|code| self.failed(format!("write inode {ino}"), code))
    }

    /// An inode that was free, near the folder `near`. It is in use then, and empty.
    pub(crate) fn new_inode(&mut self, near: u32, mode: u16) -> Result<(u32, Inode)> {
        let ino = self
            .handle
            .new_inode(near, mode)
            .map_err(|code| self.failed("find a free inode", code))?;
        self.handle
            .mark_inode(ino, true, mode & inode::TYPE == inode::DIR);
        let extra = self
            .super_
            .want_extra_isize
            .clamp(32, self.super_.inode_size - 128);
        let mut inode = Inode::new(extra);
        inode.set_mode(mode);
        // Sums of its blocks depend on a field of the inode that may have an old value on the disk.
        self.write_inode(ino, &mut inode)?;
        Ok((ino, inode))
    }

    /// Makes an inode free. Its blocks are freed by others.
    pub(crate) fn free_inode(&mut self, ino: u32, dir: bool) -> Result<()> {
        self.handle.mark_inode(ino, false, dir);
        self.write_inode(ino, &mut Inode::new(0))
    }

    /// The group's first block, where blocks of an inode are looked for.
    pub(crate) fn goal(&self, ino: u32) -> u64 {
        let group = ino.saturating_sub(1) / self.super_.inodes_per_group;
        let first = u64::from(group) * u64::from(self.super_.blocks_per_group);
        let first = first + u64::from(self.super_.first_block);
        if self.holds(first, 1) {
            first
        } else {
            u64::from(self.super_.first_block)
        }
    }

    /// Where the blocks of a regular file, a directory or a long symbolic link are.
    pub(crate) fn map(&mut self, ino: u32, inode: &Inode) -> Result<Map> {
        if !inode.has_extents() {
            if inode.place() == [0; inode::FAST_SYMLINK] {
                return Ok(Map::default());
            }
            let why = format!(
                "inode {ino} has its blocks listed as ext3 does it; convert the image first: \
                 e2fsck -fE bmap2extent IMAGE"
            );
            return Err(Error::input(&self.name, why));
        }
        if inode.root_entries() == 0 {
            return Ok(Map::default());
        }
        // Every extent has a block of its own, so there cannot be more of them than blocks.
        let limit = usize::try_from(self.super_.blocks).unwrap_or(usize::MAX);
        let mut inode = inode.clone();
        let (extents, tree) = self
            .handle
            .extents(ino, &mut inode.0, limit)
            .map_err(|code| self.failed(format!("read the extents of inode {ino}"), code))?;
        let mut map = Map {
            runs: Vec::new(),
            tree,
        };
        for extent in extents {
            let run = Run {
                logical: extent.logical,
                physical: extent.physical,
                len: extent.len.into(),
                unwritten: extent.unwritten,
            };
            self.within(run.physical, run.len)?;
            if run.len == 0 || map.runs.last().is_some_and(|last| last.end() > run.logical) {
                return Err(self.damaged(format_args!("the extents of inode {ino} overlap")));
            }
            match map.runs.last_mut() {
                Some(last)
                    if last.end() == run.logical
                        && last.physical + last.len == run.physical
                        && last.unwritten == run.unwritten =>
                {
                    last.len += run.len;
                }
                _ => map.runs.push(run),
            }
        }
        for &block in &map.tree {
            self.within(block, 1)?;
        }
        Ok(map)
    }

    /// Gives an inode another map. The old tree's blocks are freed, and the inode is written.
    pub(crate) fn set_map(&mut self, ino: u32, inode: &mut Inode, map: &mut Map) -> Result<()> {
        for &block in &map.tree {
            self.free_blocks(block, 1)?;
        }
        map.tree.clear();
        inode.set_no_extents();
        let mut extents = Vec::new();
        for run in &map.runs {
            let mut done = 0;
            while done < run.len {
                let len = (run.len - done).min(MAX_EXTENT);
                extents.push(RawExtent {
                    logical: run.logical + done,
                    physical: run.physical + done,
                    len: len as u32,
                    unwritten: false,
                });
                done += len;
            }
        }
        self.write_inode(ino, inode)?;
        self.handle
            .put_extents(ino, &mut inode.0, &extents)
            .map_err(|code| self.allocation(format!("write the extents of inode {ino}"), code))?;
        // Where the library has put the tree.
        map.tree = self.map(ino, inode)?.tree;
        Ok(())
    }

    fn allocation(&self, action: String, code: Code) -> Error {
        if code.is_no_block() {
            return self.no_room(1);
        }
        self.failed(action, code)
    }

    /// There is no room for so many blocks.
    pub(crate) fn no_room(&self, blocks: u64) -> Error {
        Error::NoRoom {
            object: self.name.clone(),
            missing: blocks * self.block_size() as u64,
            what: "bytes",
        }
    }

    /// Takes up to `need` blocks that follow each other: those at `near` if they are free, else from
    /// the first free run that holds `want`, looked for from `goal` on. If none does, shorter ones.
    pub(crate) fn take_blocks(
        &mut self,
        near: Option<u64>,
        goal: u64,
        need: u64,
        want: u64,
    ) -> Result<(u64, u64)> {
        let found = near
            .and_then(|near| self.free_run(near, need))
            .or_else(|| self.search(goal, want.max(need)))
            .ok_or_else(|| self.no_room(need))?;
        let (first, len) = (found.0, found.1.min(need).min(MAX_EXTENT));
        self.handle.mark_blocks(first, len as u32, true);
        Ok((first, len))
    }

    /// The free blocks at `first`, at most `most`.
    fn free_run(&self, first: u64, most: u64) -> Option<(u64, u64)> {
        if most == 0 || !self.holds(first, 1) {
            return None;
        }
        let last = first.saturating_add(most - 1).min(self.super_.blocks - 1);
        match self.handle.find_block(first, last, true) {
            Some(used) if used == first => None,
            Some(used) => Some((first, used - first)),
            None => Some((first, last - first + 1)),
        }
    }

    fn search(&self, goal: u64, want: u64) -> Option<(u64, u64)> {
        let (low, high) = (u64::from(self.super_.first_block), self.super_.blocks - 1);
        let mut want = want.min(MAX_EXTENT);
        while want > 0 {
            for (start, end) in [(goal, high), (low, goal.saturating_sub(1))] {
                if let Some(found) = self.search_in(start, end, want) {
                    return Some(found);
                }
            }
            want /= 2;
        }
        None
    }

    fn search_in(&self, mut start: u64, end: u64, want: u64) -> Option<(u64, u64)> {
        while start <= end {
            let first = self.handle.find_block(start, end, false)?;
            let run = self.free_run(first, want)?;
            if run.1 >= want {
                return Some(run);
            }
            start = first + run.1;
        }
        None
    }

    /// Makes blocks free.
    pub(crate) fn free_blocks(&mut self, first: u64, len: u64) -> Result<()> {
        self.within(first, len)?;
        let mut done = 0;
        while done < len {
            let part = (len - done).min(MAX_EXTENT);
            self.handle.mark_blocks(first + done, part as u32, false);
            done += part;
        }
        Ok(())
    }

    /// Whether all of these blocks are in use.
    pub(crate) fn all_used(&self, first: u64, len: u64) -> bool {
        len == 0
            || self
                .handle
                .find_block(first, first + len - 1, false)
                .is_none()
    }

    /// All free runs, in order.
    pub(crate) fn free_runs(&self) -> Vec<(u64, u64)> {
        let last = self.super_.blocks - 1;
        let mut runs = Vec::new();
        let mut at = u64::from(self.super_.first_block);
        while let Some(first) = (at <= last)
            .then(|| self.handle.find_block(at, last, false))
            .flatten()
        {
            let end = self
                .handle
                .find_block(first, last, true)
                .unwrap_or(last + 1);
            runs.push((first, end - first));
            at = end;
        }
        runs
    }

    /// The extended attributes of an inode.
    pub(crate) fn attributes(&mut self, ino: u32) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let found = self
            .handle
            .attributes(ino)
            .map_err(|code| self.failed(format!("read the attributes of inode {ino}"), code))?;
        let settled = found.into_iter().map(|(name, mut value)| {
            acl::settle(&name, &mut value);
            (name, value)
        });
        Ok(settled.collect())
    }

    /// Brings the attributes of an inode from `old` to `new`. The inode changes on the disk.
    pub(crate) fn set_attributes(
        &mut self,
        ino: u32,
        old: &BTreeMap<Vec<u8>, Vec<u8>>,
        new: &BTreeMap<Vec<u8>, Vec<u8>>,
        path: &[u8],
    ) -> Result<()> {
        let name = |bytes: &[u8]| {
            CString::new(bytes)
                .map_err(|_| Error::input(crate::error::show(bytes), "has a zero byte"))
        };
        let mut remove = Vec::new();
        for key in old.keys().filter(|key| !new.contains_key(*key)) {
            remove.push(name(key)?);
        }
        let mut set = Vec::new();
        for (key, value) in new
            .iter()
            .filter(|(key, value)| old.get(*key) != Some(value))
        {
            set.push((name(key)?, value.as_slice()));
        }
        self.handle
            .change_attributes(ino, &remove, &set)
            .map_err(|code| {
                if code.is_no_attribute_room() {
                    let why = format!(
                        "has extended attributes that take more room than a block of {} bytes",
                        self.block_size()
                    );
                    return Error::input(crate::error::show(path), why);
                }
                self.allocation(format!("write the attributes of inode {ino}"), code)
            })
    }

    /// Frees the block of an inode's attributes.
    pub(crate) fn free_attributes(&mut self, ino: u32, inode: &mut Inode) -> Result<()> {
        if inode.attribute_block() == 0 {
            return Ok(());
        }
        self.within(inode.attribute_block(), 1)?;
        self.handle
            .free_attribute_block(ino, &mut inode.0)
            .map_err(|code| self.failed(format!("free the attributes of inode {ino}"), code))
    }
}
