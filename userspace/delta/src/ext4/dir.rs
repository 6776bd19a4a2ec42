// SPDX-License-Identifier: GPL-2.0-or-later

//! Blocks of directories. The inner nodes of a hashed directory look like blocks without names.

use super::u16_at;
use super::u32_at;

/// Bytes of an entry before its name.
const HEAD: usize = 8;

/// The entries of a block that name an inode.
pub(super) struct Entries<'a>(&'a [u8]);

impl<'a> Entries<'a> {
    pub(super) fn new(block: &'a [u8]) -> Self {
        Self(block)
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = (u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let len = usize::from(u16_at(self.0, 4));
            if len < HEAD {
                return None;
            }
            let (entry, rest) = self.0.split_at_checked(len)?;
            self.0 = rest;
            let inode = u32_at(entry, 0);
            let name_len = usize::from(*entry.get(6)?);
            if inode == 0 || name_len == 0 {
                continue;
            }
            return Some((inode, entry.get(HEAD..HEAD + name_len)?));
        }
    }
}
