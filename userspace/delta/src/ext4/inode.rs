// SPDX-License-Identifier: GPL-2.0-or-later

//! Inodes, and the trees of their extents.

use super::u16_at;
use super::u32_at;
use super::Extent;

const TYPE: u16 = 0xf000;
const DIRECTORY: u16 = 0x4000;
const REGULAR: u16 = 0x8000;
/// The content is found by extents.
const EXTENTS: u32 = 0x8_0000;
/// The content is in the inode itself.
const INLINE: u32 = 0x1000_0000;

/// The root of the tree in an inode.
const TREE: std::ops::Range<usize> = 0x28..0x28 + 60;
const NODE_MAGIC: u16 = 0xf30a;
const ENTRY: usize = 12;
/// Levels of a tree at most.
const MAX_DEPTH: u16 = 5;
/// A longer extent is allocated, but not written.
const MAX_WRITTEN: u16 = 32768;

/// What is needed of an inode.
pub(super) struct Inode {
    pub(super) directory: bool,
    pub(super) regular: bool,
    pub(super) len: u64,
    tree: Option<Vec<u8>>,
}

impl Inode {
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let kind = u16_at(bytes, 0) & TYPE;
        let flags = u32_at(bytes, 0x20);
        let tree = bytes.get(TREE)?;
        Some(Self {
            directory: kind == DIRECTORY,
            regular: kind == REGULAR,
            len: u64::from(u32_at(bytes, 4)) | (u64::from(u32_at(bytes, 0x6c)) << 32),
            tree: (flags & EXTENTS != 0 && flags & INLINE == 0).then(|| tree.to_vec()),
        })
    }

    /// The extents, of which there may be `limit`, in a file system of `blocks`. `read` reads a block.
    pub(super) fn extents(
        &self,
        blocks: u64,
        limit: usize,
        read: impl Fn(u64) -> Option<Vec<u8>>,
    ) -> Option<Vec<Extent>> {
        let Some(tree) = &self.tree else {
            return Some(Vec::new());
        };
        let mut extents = Vec::new();
        let mut nodes = vec![(tree.clone(), MAX_DEPTH)];
        // A tree has fewer nodes than extents; one that goes in circles ends here.
        let mut left = limit;
        while let Some((node, max_depth)) = nodes.pop() {
            left = left.checked_sub(1)?;
            let depth = u16_at(&node, 6);
            if u16_at(&node, 0) != NODE_MAGIC || depth > max_depth {
                return None;
            }
            let entries = node.get(ENTRY..)?.chunks_exact(ENTRY);
            let count = usize::from(u16_at(&node, 2));
            if count > entries.len() {
                return None;
            }
            let entries = entries.take(count);
            if depth == 0 {
                for entry in entries {
                    extents.extend(leaf(entry, blocks)?);
                }
                if extents.len() > limit {
                    return None;
                }
                continue;
            }
            // The last one is taken first, so that extents ascend.
            for entry in entries.rev() {
                let block = u64::from(u32_at(entry, 4)) | (u64::from(u16_at(entry, 8)) << 32);
                nodes.push((read(block)?, depth - 1));
            }
        }
        let ascending = extents.iter().zip(extents.iter().skip(1));
        ascending
            .fold(true, |sound, (a, b)| {
                sound && u64::from(a.logical) + u64::from(a.len) <= u64::from(b.logical)
            })
            .then_some(extents)
    }
}

/// An extent, if it is written.
fn leaf(entry: &[u8], blocks: u64) -> Option<Option<Extent>> {
    let len = u16_at(entry, 4);
    if len > MAX_WRITTEN {
        return Some(None);
    }
    let start = u64::from(u32_at(entry, 8)) | (u64::from(u16_at(entry, 6)) << 32);
    if len == 0 || start == 0 || start + u64::from(len) > blocks {
        return None;
    }
    Some(Some(Extent {
        logical: u32_at(entry, 0),
        start,
        len: len.into(),
    }))
}
