// SPDX-License-Identifier: GPL-2.0-or-later

//! The border to libext2fs: all of this crate's unsafe code.
//!
//! A [`Handle`] owns one open file system. What C keeps pointers to is owned by the handle or by C;
//! every buffer that C fills is as long as it is told. Nothing here decides anything.

use std::ffi::c_char;
use std::ffi::c_int;
use std::ffi::c_void;
use std::ffi::CStr;
use std::ffi::CString;
use std::marker::PhantomData;
use std::ptr;
use std::ptr::NonNull;
use std::sync::Once;

#[allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    unused,
    clippy::all,
    clippy::multiple_unsafe_ops_per_block,
    clippy::undocumented_unsafe_blocks
)]
mod sys {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

#[cfg(target_endian = "big")]
compile_error!("ext4 is little-endian, and so is what this crate reads and writes of it");

/// The largest inode that is read.
pub(super) const MAX_INODE: usize = 1024;

/// What libext2fs answered; zero is success and never in here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Code(i64);

impl Code {
    /// There is no free block.
    pub(super) fn is_no_block(self) -> bool {
        self.0 == i64::from(sys::EXT2_ET_BLOCK_ALLOC_FAIL)
    }

    /// An attribute takes more room than there is.
    pub(super) fn is_no_attribute_room(self) -> bool {
        self.0 == i64::from(sys::EXT2_ET_EA_NO_SPACE)
    }

    fn is_not_found(self) -> bool {
        self.0 == i64::from(sys::EXT2_ET_EA_KEY_NOT_FOUND)
    }

    fn is_end(self) -> bool {
        self.0 == i64::from(sys::EXT2_ET_EXTENT_NO_NEXT)
    }
}

impl std::error::Error for Code {}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        static TABLE: Once = Once::new();
        TABLE.call_once(|| {
            // SAFETY: Puts a static table into a list of com_err, once.
            unsafe { sys::initialize_ext2_error_table() }
        });
        // SAFETY: Takes any number, and returns a string that is static or in a static buffer.
        let text = unsafe { sys::error_message(self.0) };
        if text.is_null() {
            return write!(f, "error {}", self.0);
        }
        // SAFETY: It ends with a zero byte, and is copied before anybody can call again.
        let text = unsafe { CStr::from_ptr(text) };
        f.write_str(&text.to_string_lossy())
    }
}

type Result<T> = std::result::Result<T, Code>;

fn check(code: sys::errcode_t) -> Result<()> {
    match code {
        0 => Ok(()),
        code => Err(Code(code)),
    }
}

/// An inode as it is on the disk, where C may look at it.
#[repr(C, align(8))]
#[derive(Clone)]
pub(super) struct RawInode(pub(super) [u8; MAX_INODE]);

impl RawInode {
    fn as_c(&mut self) -> *mut sys::ext2_inode {
        self.0.as_mut_ptr().cast()
    }
}

/// What the superblock says, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Super {
    pub(super) compat: u32,
    pub(super) incompat: u32,
    pub(super) ro_compat: u32,
    pub(super) flags: u32,
    pub(super) state: u16,
    pub(super) last_orphan: u32,
    pub(super) blocks: u64,
    pub(super) free_blocks: u64,
    pub(super) inodes: u32,
    pub(super) free_inodes: u32,
    pub(super) first_inode: u32,
    pub(super) first_block: u32,
    pub(super) blocks_per_group: u32,
    pub(super) inodes_per_group: u32,
    pub(super) inode_size: u16,
    pub(super) want_extra_isize: u16,
    pub(super) write_time: u64,
    pub(super) hash_seed: [u32; 4],
    pub(super) hash_version: u8,
    pub(super) uuid: [u8; 16],
}

/// A run of blocks of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawExtent {
    pub(super) logical: u64,
    pub(super) physical: u64,
    pub(super) len: u32,
    pub(super) unwritten: bool,
}

/// An open file system.
pub(super) struct Handle {
    fs: NonNull<sys::struct_ext2_filsys>,
    block_size: usize,
}

impl Handle {
    /// Opens a file for reading and writing. Only the first copy of the superblock will be written.
    pub(super) fn open(path: &CStr) -> Result<Self> {
        let flags = sys::EXT2_FLAG_RW | sys::EXT2_FLAG_64BITS;
        let mut fs: sys::ext2_filsys = ptr::null_mut();
        // SAFETY: A static of the library, written only when it is loaded.
        let manager = unsafe { sys::unix_io_manager };
        // SAFETY: The path ends with a zero byte and the last argument is a place for a pointer.
        let code =
            unsafe { sys::ext2fs_open(path.as_ptr(), flags as c_int, 0, 0, manager, &raw mut fs) };
        check(code)?;
        let fs = NonNull::new(fs).ok_or(Code(sys::EXT2_ET_NO_MEMORY.into()))?;
        let mut handle = Self { fs, block_size: 0 };
        handle.block_size = handle.fs().blocksize as usize;
        let flags = handle.fs().flags | sys::EXT2_FLAG_MASTER_SB_ONLY as c_int;
        handle.fs_mut().flags = flags;
        Ok(handle)
    }

    fn fs(&self) -> &sys::struct_ext2_filsys {
        // SAFETY: It was made by ext2fs_open and lives until drop; C writes to it only in calls,
        // during which no such reference exists.
        unsafe { self.fs.as_ref() }
    }

    fn fs_mut(&mut self) -> &mut sys::struct_ext2_filsys {
        // SAFETY: As above, and `self` is borrowed for as long.
        unsafe { self.fs.as_mut() }
    }

    /// Bytes in a block.
    pub(super) fn block_size(&self) -> usize {
        self.block_size
    }

    /// The superblock.
    pub(super) fn superblock(&self) -> Super {
        // SAFETY: ext2fs_open has read it into memory of the file system's own.
        let s = unsafe { &*self.fs().super_ };
        let wide = |low: u32, high: u32| u64::from(low) | (u64::from(high) << 32);
        // The upper half of each count is there with 64-bit block numbers only.
        let high = |value: u32| {
            if s.s_feature_incompat & 0x80 == 0 {
                0
            } else {
                value
            }
        };
        Super {
            compat: s.s_feature_compat,
            incompat: s.s_feature_incompat,
            ro_compat: s.s_feature_ro_compat,
            flags: s.s_flags,
            state: s.s_state,
            last_orphan: s.s_last_orphan,
            blocks: wide(s.s_blocks_count, high(s.s_blocks_count_hi)),
            free_blocks: wide(s.s_free_blocks_count, high(s.s_free_blocks_hi)),
            inodes: s.s_inodes_count,
            free_inodes: s.s_free_inodes_count,
            first_inode: s.s_first_ino,
            first_block: s.s_first_data_block,
            blocks_per_group: s.s_blocks_per_group,
            inodes_per_group: s.s_inodes_per_group,
            inode_size: s.s_inode_size,
            want_extra_isize: s.s_want_extra_isize,
            write_time: wide(s.s_wtime, s.s_wtime_hi.into()),
            hash_seed: s.s_hash_seed,
            hash_version: s.s_def_hash_version,
            uuid: s.s_uuid,
        }
    }

    /// From here on the time is `seconds`.
    pub(super) fn set_now(&mut self, seconds: u64) {
        self.fs_mut().now = seconds as _;
    }

    /// Reads the bitmaps.
    pub(super) fn read_bitmaps(&mut self) -> Result<()> {
        // SAFETY: An open file system.
        check(unsafe { sys::ext2fs_read_bitmaps(self.fs.as_ptr()) })
    }

    /// Writes the bitmaps, the group descriptors and the superblock, and syncs the file.
    pub(super) fn flush(&mut self) -> Result<()> {
        // SAFETY: An open file system.
        check(unsafe { sys::ext2fs_flush2(self.fs.as_ptr(), 0) })
    }

    /// The number of whole blocks in a buffer.
    fn count(&self, bytes: usize) -> Result<c_int> {
        match c_int::try_from(bytes / self.block_size) {
            Ok(count) if bytes % self.block_size == 0 => Ok(count),
            _ => Err(Code(sys::EXT2_ET_INVALID_ARGUMENT.into())),
        }
    }

    /// Reads whole blocks from `block` on.
    pub(super) fn read_blocks(&mut self, block: u64, buf: &mut [u8]) -> Result<()> {
        let count = self.count(buf.len())?;
        let (io, to) = (self.fs().io, buf.as_mut_ptr().cast::<c_void>());
        // SAFETY: The channel is open, and the buffer holds `count` blocks.
        check(unsafe { sys::io_channel_read_blk64(io, block, count, to) })
    }

    /// Writes whole blocks from `block` on.
    pub(super) fn write_blocks(&mut self, block: u64, buf: &[u8]) -> Result<()> {
        let count = self.count(buf.len())?;
        let (io, from) = (self.fs().io, buf.as_ptr().cast::<c_void>());
        // SAFETY: As above; the buffer is only read.
        check(unsafe { sys::io_channel_write_blk64(io, block, count, from) })
    }

    /// Reads a block of the directory `ino` and checks its sum.
    pub(super) fn read_dir_block(&mut self, ino: u32, block: u64, buf: &mut [u8]) -> Result<()> {
        if self.count(buf.len())? != 1 {
            return Err(Code(sys::EXT2_ET_INVALID_ARGUMENT.into()));
        }
        let to = buf.as_mut_ptr().cast::<c_void>();
        // SAFETY: The buffer holds a block.
        check(unsafe { sys::ext2fs_read_dir_block4(self.fs.as_ptr(), block, to, 0, ino) })
    }

    /// Writes a block of the directory `ino`, and its sum.
    pub(super) fn write_dir_block(&mut self, ino: u32, block: u64, buf: &mut [u8]) -> Result<()> {
        if self.count(buf.len())? != 1 {
            return Err(Code(sys::EXT2_ET_INVALID_ARGUMENT.into()));
        }
        let from = buf.as_mut_ptr().cast::<c_void>();
        // SAFETY: The buffer holds a block; the sum is put into it or into a copy.
        check(unsafe { sys::ext2fs_write_dir_block4(self.fs.as_ptr(), block, from, 0, ino) })
    }

    /// Reads an inode. Its size has been checked against [`MAX_INODE`].
    pub(super) fn read_inode(&mut self, ino: u32) -> Result<Box<RawInode>> {
        let mut raw = Box::new(RawInode([0; MAX_INODE]));
        let len = usize::from(self.superblock().inode_size).min(MAX_INODE) as c_int;
        // SAFETY: The buffer is aligned for the struct and longer than `len`.
        check(unsafe { sys::ext2fs_read_inode_full(self.fs.as_ptr(), ino, raw.as_c(), len) })?;
        Ok(raw)
    }

    /// Writes an inode, and its sum.
    pub(super) fn write_inode(&mut self, ino: u32, raw: &mut RawInode) -> Result<()> {
        let len = usize::from(self.superblock().inode_size).min(MAX_INODE) as c_int;
        // SAFETY: As above.
        check(unsafe { sys::ext2fs_write_inode_full(self.fs.as_ptr(), ino, raw.as_c(), len) })
    }

    /// A free inode, near that of the folder `near`.
    pub(super) fn new_inode(&mut self, near: u32, mode: u16) -> Result<u32> {
        let (fs, mut ino) = (self.fs.as_ptr(), 0);
        // SAFETY: The bitmaps have been read; a null map stands for them.
        let code =
            unsafe { sys::ext2fs_new_inode(fs, near, mode.into(), ptr::null_mut(), &raw mut ino) };
        check(code)?;
        Ok(ino)
    }

    /// Whether an inode is in use.
    pub(super) fn inode_used(&self, ino: u32) -> bool {
        let map = self.fs().inode_map;
        // SAFETY: The bitmap has been read; a number outside of it is an error of its own kind.
        unsafe { sys::ext2fs_test_inode_bitmap2(map, ino) != 0 }
    }

    /// Marks an inode as used or free, and counts. The number is within the file system.
    pub(super) fn mark_inode(&mut self, ino: u32, used: bool, dir: bool) {
        let change = if used { 1 } else { -1 };
        // SAFETY: The bitmaps have been read.
        unsafe { sys::ext2fs_inode_alloc_stats2(self.fs.as_ptr(), ino, change, dir.into()) }
    }

    /// Marks blocks as used or free, and counts. They are within the file system.
    pub(super) fn mark_blocks(&mut self, first: u64, len: u32, used: bool) {
        let change = if used { 1 } else { -1 };
        // SAFETY: The bitmaps have been read.
        unsafe { sys::ext2fs_block_alloc_stats_range(self.fs.as_ptr(), first, len, change) }
    }

    /// The first block from `start` to `end`, both inclusive, that is used or free.
    pub(super) fn find_block(&self, start: u64, end: u64, used: bool) -> Option<u64> {
        let (map, mut found) = (self.fs().block_map, 0);
        let code = if used {
            // SAFETY: The bitmap has been read; a range outside of it is an error.
            unsafe { sys::ext2fs_find_first_set_block_bitmap2(map, start, end, &raw mut found) }
        } else {
            // SAFETY: As above.
            unsafe { sys::ext2fs_find_first_zero_block_bitmap2(map, start, end, &raw mut found) }
        };
        (code == 0).then_some(found)
    }

    /// The extents of an inode and the blocks of its extent tree, at most `limit` of each.
    pub(super) fn extents(
        &mut self,
        ino: u32,
        raw: &mut RawInode,
        limit: usize,
    ) -> Result<(Vec<RawExtent>, Vec<u64>)> {
        let handle = ExtentHandle::open(self, ino, raw)?;
        let (mut found, mut tree) = (Vec::new(), Vec::new());
        let mut step = sys::EXT2_EXTENT_ROOT;
        while let Some(extent) = handle.get(step)? {
            step = sys::EXT2_EXTENT_NEXT;
            let flags = extent.e_flags;
            if flags & sys::EXT2_EXTENT_FLAGS_SECOND_VISIT != 0 {
                continue;
            }
            if flags & sys::EXT2_EXTENT_FLAGS_LEAF == 0 {
                tree.push(extent.e_pblk);
            } else {
                found.push(RawExtent {
                    logical: extent.e_lblk,
                    physical: extent.e_pblk,
                    len: extent.e_len,
                    unwritten: flags & sys::EXT2_EXTENT_FLAGS_UNINIT != 0,
                });
            }
            if found.len().max(tree.len()) > limit {
                return Err(Code(sys::EXT2_ET_EXTENT_HEADER_BAD.into()));
            }
        }
        Ok((found, tree))
    }

    /// Puts extents, in order, into an inode that has an extent header and no extents.
    ///
    /// The tree's blocks are allocated; the inode is written.
    pub(super) fn put_extents(
        &mut self,
        ino: u32,
        raw: &mut RawInode,
        extents: &[RawExtent],
    ) -> Result<()> {
        let handle = ExtentHandle::open(self, ino, raw)?;
        for extent in extents {
            handle.insert(extent)?;
        }
        if extents.is_empty() {
            return Ok(());
        }
        handle.fix_parents()
    }

    /// Frees the attribute block of an inode, if it has one, and forgets it in `raw`.
    pub(super) fn free_attribute_block(&mut self, ino: u32, raw: &mut RawInode) -> Result<()> {
        let large = raw.0.as_mut_ptr().cast();
        // SAFETY: The buffer is aligned for the struct and longer.
        check(unsafe { sys::ext2fs_free_ext_attr(self.fs.as_ptr(), ino, large) })
    }

    /// All extended attributes of an inode, under their full names.
    pub(super) fn attributes(&mut self, ino: u32) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let handle = AttributeHandle::open(self, ino)?;
        let mut found = Vec::new();
        for name in handle.names()? {
            let value = handle.get(&name)?;
            found.push((name.into_bytes(), value));
        }
        Ok(found)
    }

    /// Removes the attributes in `remove`, then sets those in `set`. The inode has been written.
    pub(super) fn change_attributes(
        &mut self,
        ino: u32,
        remove: &[CString],
        set: &[(CString, &[u8])],
    ) -> Result<()> {
        let mut handle = AttributeHandle::open(self, ino)?;
        for name in remove {
            handle.remove(name)?;
        }
        for (name, value) in set {
            handle.set(name, value)?;
        }
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: Made by ext2fs_open, and nobody else frees it. Closes the file, writes no bitmap.
        unsafe { sys::ext2fs_free(self.fs.as_ptr()) }
    }
}

/// The hash of a name in an indexed directory.
pub(super) fn dir_hash(version: u8, name: &[u8], seed: &[u32; 4]) -> Result<(u32, u32)> {
    let (mut hash, mut minor) = (0, 0);
    let len =
        c_int::try_from(name.len()).map_err(|_| Code(sys::EXT2_ET_INVALID_ARGUMENT.into()))?;
    let name = name.as_ptr().cast::<c_char>();
    // SAFETY: The name is `len` bytes long, the seed four words; no character set means plain bytes.
    let code = unsafe {
        sys::ext2fs_dirhash2(
            version.into(),
            name,
            len,
            ptr::null(),
            0,
            seed.as_ptr(),
            &raw mut hash,
            &raw mut minor,
        )
    };
    check(code)?;
    Ok((hash, minor))
}

/// An open extent tree. It borrows the file system and the inode, which C keeps pointers to.
struct ExtentHandle<'a> {
    handle: sys::ext2_extent_handle_t,
    borrowed: PhantomData<(&'a mut Handle, &'a mut RawInode)>,
}

impl<'a> ExtentHandle<'a> {
    fn open(fs: &'a mut Handle, ino: u32, raw: &'a mut RawInode) -> Result<Self> {
        let mut handle: sys::ext2_extent_handle_t = ptr::null_mut();
        let (pointer, inode) = (fs.fs.as_ptr(), raw.as_c());
        // SAFETY: Both outlive the handle: it borrows them.
        check(unsafe { sys::ext2fs_extent_open2(pointer, ino, inode, &raw mut handle) })?;
        Ok(Self {
            handle,
            borrowed: PhantomData,
        })
    }

    /// Goes one step and looks; nothing at the end.
    fn get(&self, step: u32) -> Result<Option<sys::ext2fs_extent>> {
        let mut extent = sys::ext2fs_extent {
            e_pblk: 0,
            e_lblk: 0,
            e_len: 0,
            e_flags: 0,
        };
        // SAFETY: An open handle, and a place for an extent.
        let code = unsafe { sys::ext2fs_extent_get(self.handle, step as c_int, &raw mut extent) };
        match check(code) {
            Ok(()) => Ok(Some(extent)),
            Err(code) if code.is_end() => Ok(None),
            Err(code) => Err(code),
        }
    }

    fn insert(&self, extent: &RawExtent) -> Result<()> {
        let mut new = sys::ext2fs_extent {
            e_pblk: extent.physical,
            e_lblk: extent.logical,
            e_len: extent.len,
            e_flags: 0,
        };
        let after = sys::EXT2_EXTENT_INSERT_AFTER as c_int;
        // SAFETY: An open handle; the extent is copied.
        check(unsafe { sys::ext2fs_extent_insert(self.handle, after, &raw mut new) })
    }

    fn fix_parents(&self) -> Result<()> {
        // SAFETY: An open handle.
        check(unsafe { sys::ext2fs_extent_fix_parents(self.handle) })
    }
}

impl Drop for ExtentHandle<'_> {
    fn drop(&mut self) {
        // SAFETY: Made by ext2fs_extent_open2, and nobody else frees it.
        unsafe { sys::ext2fs_extent_free(self.handle) }
    }
}

/// The open attributes of an inode. It borrows the file system, which C keeps a pointer to.
struct AttributeHandle<'a> {
    handle: *mut sys::ext2_xattr_handle,
    borrowed: PhantomData<&'a mut Handle>,
}

impl<'a> AttributeHandle<'a> {
    fn open(fs: &'a mut Handle, ino: u32) -> Result<Self> {
        let mut handle = ptr::null_mut();
        // SAFETY: The file system outlives the handle: it borrows it.
        check(unsafe { sys::ext2fs_xattrs_open(fs.fs.as_ptr(), ino, &raw mut handle) })?;
        let opened = Self {
            handle,
            borrowed: PhantomData,
        };
        // SAFETY: An open handle.
        check(unsafe { sys::ext2fs_xattrs_read(handle) })?;
        Ok(opened)
    }

    fn names(&self) -> Result<Vec<CString>> {
        let mut names: Vec<CString> = Vec::new();
        let data = (&raw mut names).cast::<c_void>();
        // SAFETY: An open handle; `collect` gets `data`, which points to the list until this returns.
        check(unsafe { sys::ext2fs_xattrs_iterate(self.handle, Some(collect), data) })?;
        Ok(names)
    }

    /// The value of an attribute, as getxattr(2) gives it.
    fn get(&self, name: &CStr) -> Result<Vec<u8>> {
        let (mut value, mut len) = (ptr::null_mut(), 0);
        // SAFETY: An open handle, a name that ends with a zero byte, places for a pointer and a size.
        let code = unsafe {
            sys::ext2fs_xattr_get(self.handle, name.as_ptr(), &raw mut value, &raw mut len)
        };
        check(code)?;
        let mut copy = Vec::new();
        if !value.is_null() && len != 0 {
            // SAFETY: On success C has made `len` bytes there, which nobody else knows.
            copy.extend_from_slice(unsafe { std::slice::from_raw_parts(value.cast(), len) });
        }
        // SAFETY: The library has it from malloc, and nobody else frees it; or it is null.
        unsafe { sys::free(value) };
        Ok(copy)
    }

    fn set(&mut self, name: &CStr, value: &[u8]) -> Result<()> {
        let (name, from) = (name.as_ptr(), value.as_ptr().cast());
        // SAFETY: An open handle; name and value are copied.
        check(unsafe { sys::ext2fs_xattr_set(self.handle, name, from, value.len()) })
    }

    fn remove(&mut self, name: &CStr) -> Result<()> {
        // SAFETY: An open handle, and a name that ends with a zero byte.
        let code = unsafe { sys::ext2fs_xattr_remove(self.handle, name.as_ptr()) };
        match check(code) {
            Err(code) if code.is_not_found() => Ok(()),
            result => result,
        }
    }
}

impl Drop for AttributeHandle<'_> {
    fn drop(&mut self) {
        // SAFETY: Made by ext2fs_xattrs_open; nobody else closes it. Changes have been written by then.
        unsafe { sys::ext2fs_xattrs_close(&raw mut self.handle) };
    }
}

/// Puts one name into a list.
///
/// # Safety
///
/// `name` is a string that ends with a zero byte, `data` points to a `Vec<CString>` that nobody else
/// uses during the call.
unsafe extern "C" fn collect(
    name: *mut c_char,
    _value: *mut c_char,
    _len: usize,
    data: *mut c_void,
) -> c_int {
    // SAFETY: The caller promises it.
    let names = unsafe { &mut *data.cast::<Vec<CString>>() };
    // SAFETY: The same.
    names.push(unsafe { CStr::from_ptr(name) }.to_owned());
    0
}
