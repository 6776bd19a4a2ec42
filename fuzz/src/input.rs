// SPDX-License-Identifier: GPL-2.0-or-later

//! Values out of fuzzed bytes: simple, so that a change of a byte changes one value.

/// The rest of the bytes. Behind their end everything is zero.
pub(crate) struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next `N` bytes.
    pub(crate) fn take<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.bytes.split_at(N.min(self.bytes.len()));
        self.bytes = rest;
        let mut out = [0; N];
        out[..taken.len()].copy_from_slice(taken);
        out
    }

    /// The next `len` bytes, or those that are left.
    pub(crate) fn slice(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(len.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        self.slice(self.bytes.len())
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let [byte] = self.take();
        byte
    }

    /// A number of two bytes.
    pub(crate) fn short(&mut self) -> u64 {
        u16::from_le_bytes(self.take()).into()
    }

    /// A number of eight bytes.
    pub(crate) fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}
