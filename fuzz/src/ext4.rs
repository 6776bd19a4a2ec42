// SPDX-License-Identifier: GPL-2.0-or-later

//! A file system, as it is read to find old versions of files.

use crate::input::Input;
use dmholey_cow::MemDisk;
use dmholey_delta::ext4;
use dmholey_delta::format::BLOCK;
use std::collections::BTreeSet;

/// Blocks of the file system.
const BLOCKS: usize = 24;

/// Puts bytes to places in a small file system. Whatever is found in it lies in it, and has one path.
pub fn ext4(data: &[u8]) {
    let mut image = template();
    let mut input = Input::new(data);
    while !input.is_empty() {
        let at = input.short() as usize % (image.len() - 8);
        let len = usize::from(input.byte() % 8) + 1;
        let bytes = input.take::<8>();
        image[at..at + len].copy_from_slice(&bytes[..len]);
    }
    let mut paths = BTreeSet::new();
    for file in ext4::files(&MemDisk::new(image)) {
        let mut end = 0;
        for extent in &file.extents {
            assert!(extent.start + u64::from(extent.len) <= BLOCKS as u64);
            assert!(u64::from(extent.logical) >= end);
            end = u64::from(extent.logical) + u64::from(extent.len);
        }
        paths.insert(file.path);
    }
    assert!(paths.len() <= BLOCKS * BLOCK / 128);
}

/// A superblock, a group, a directory in block 8 and a file in block 9.
fn template() -> Vec<u8> {
    let mut image = vec![0; BLOCKS * BLOCK];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(1024, &32u32.to_le_bytes());
    put(1028, &(BLOCKS as u32).to_le_bytes());
    put(1024 + 0x18, &2u32.to_le_bytes());
    put(1024 + 0x28, &32u32.to_le_bytes());
    put(1024 + 0x38, &0xef53u16.to_le_bytes());
    put(1024 + 0x4c, &1u32.to_le_bytes());
    put(1024 + 0x58, &128u16.to_le_bytes());
    put(BLOCK + 8, &2u32.to_le_bytes());
    for (inode, mode, block) in [(2, 0x41ed_u16, 8u32), (12, 0x81a4, 9)] {
        let at = 2 * BLOCK + (inode - 1) * 128;
        put(at, &mode.to_le_bytes());
        put(at + 4, &4096u32.to_le_bytes());
        put(at + 0x20, &0x8_0000u32.to_le_bytes());
        put(at + 0x28, &0xf30au16.to_le_bytes());
        put(at + 0x2a, &1u16.to_le_bytes());
        put(at + 0x38, &1u16.to_le_bytes());
        put(at + 0x3c, &block.to_le_bytes());
    }
    put(8 * BLOCK, &12u32.to_le_bytes());
    put(8 * BLOCK + 4, &4096u16.to_le_bytes());
    put(8 * BLOCK + 6, &[4, 1]);
    put(8 * BLOCK + 8, b"file");
    image
}
