// SPDX-License-Identifier: GPL-2.0-or-later

use super::*;
use dmholey_cow::MemDisk;
use proptest::prelude::*;

/// Puts bytes into an image.
struct Builder(Vec<u8>);

impl Builder {
    fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn inode(&mut self, number: usize, mode: u16, len: u32, extents: &[(u32, u32, u16)]) {
        let at = 2 * BLOCK + (number - 1) * 256;
        self.put(at, &mode.to_le_bytes())
            .put(at + 4, &len.to_le_bytes())
            .put(at + 0x20, &0x8_0000u32.to_le_bytes())
            .put(at + 0x28, &0xf30au16.to_le_bytes())
            .put(at + 0x2a, &(extents.len() as u16).to_le_bytes());
        for (n, (logical, start, len)) in extents.iter().enumerate() {
            let entry = at + 0x34 + n * 12;
            self.put(entry, &logical.to_le_bytes())
                .put(entry + 4, &len.to_le_bytes())
                .put(entry + 8, &start.to_le_bytes());
        }
    }

    fn entries(&mut self, block: usize, entries: &[(u32, &str)]) {
        let mut at = block * BLOCK;
        for (n, (inode, name)) in entries.iter().enumerate() {
            let last = n + 1 == entries.len();
            let len = if last {
                (block + 1) * BLOCK - at
            } else {
                (8 + name.len()).next_multiple_of(4)
            };
            self.put(at, &inode.to_le_bytes())
                .put(at + 4, &(len as u16).to_le_bytes())
                .put(at + 6, &[name.len() as u8])
                .put(at + 8, name.as_bytes());
            at += len;
        }
    }
}

/// A file system with two files, one of them linked twice, and a directory.
fn image() -> Vec<u8> {
    let mut image = Builder(vec![0; 32 * BLOCK]);
    image
        .put(1024, &32u32.to_le_bytes())
        .put(1028, &32u32.to_le_bytes())
        .put(1024 + 0x18, &2u32.to_le_bytes())
        .put(1024 + 0x28, &32u32.to_le_bytes())
        .put(1024 + 0x38, &0xef53u16.to_le_bytes())
        .put(1024 + 0x4c, &1u32.to_le_bytes())
        .put(1024 + 0x58, &256u16.to_le_bytes())
        .put(BLOCK + 8, &2u32.to_le_bytes());
    image.inode(2, 0x41ed, 4096, &[(0, 10, 1)]);
    image.inode(12, 0x41ed, 4096, &[(0, 11, 1)]);
    image.inode(13, 0x81a4, 9000, &[(0, 20, 2), (2, 25, 1)]);
    image.inode(14, 0xa1ff, 5, &[]);
    image.entries(10, &[(2, "."), (2, ".."), (12, "etc"), (13, "passwd")]);
    image.entries(
        11,
        &[
            (12, "."),
            (2, ".."),
            (13, "again"),
            (14, "link"),
            (15, "nothing"),
        ],
    );
    image.0
}

fn extent(logical: u32, start: u64, len: u32) -> Extent {
    Extent {
        logical,
        start,
        len,
    }
}

#[test]
fn files_and_their_blocks_are_found() {
    let mut found = files(&MemDisk::new(image()));
    found.sort_by(|a, b| a.path.cmp(&b.path));
    let paths: Vec<&[u8]> = found.iter().map(|file| file.path.as_slice()).collect();
    assert_eq!(paths, [&b""[..], b"etc", b"passwd"]);
    assert_eq!(found[2].len, 9000);
    assert_eq!(found[2].extents, [extent(0, 20, 2), extent(2, 25, 1)]);
    assert!(found[1].directory && !found[2].directory);
}

#[test]
fn what_is_no_file_system_has_no_files() {
    for bytes in [vec![], vec![0; 100], vec![0xff; 40 * BLOCK]] {
        assert!(files(&MemDisk::new(bytes)).is_empty());
    }
}

proptest! {
    #[test]
    fn damage_does_no_harm(changes in prop::collection::vec((0usize..12 * BLOCK, any::<u8>()), 1..200)) {
        let mut image = image();
        for (at, byte) in changes {
            image[at] = byte;
        }
        for file in files(&MemDisk::new(image)) {
            prop_assert!(file.extents.iter().all(|e| e.start + u64::from(e.len) <= 32));
        }
    }
}
