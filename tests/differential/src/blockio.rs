// SPDX-License-Identifier: GPL-2.0-or-later

//! I/O past the page cache, and the ioctls of block devices.

#![allow(unsafe_code)]

use crate::data::SECTOR;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::io::IoSlice;
use rustix::io::ReadWriteFlags;
use rustix::ioctl::opcode;
use rustix::ioctl::Opcode;
use rustix::ioctl::Setter;
use std::fs::File;
use std::fs::OpenOptions;
use std::ops::Deref;
use std::ops::DerefMut;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What is asked for at a time when a whole device is read.
const READ: usize = 1 << 20;
const ALIGN: usize = 4096;
/// `BLKDISCARD` of `linux/fs.h`.
const DISCARD: Opcode = opcode::none(0x12, 119);
/// `BLKZEROOUT` of `linux/fs.h`.
const ZEROOUT: Opcode = opcode::none(0x12, 127);

/// Memory that a device can read and write directly.
#[derive(Debug)]
pub(crate) struct Buffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    pub(crate) fn new(len: usize) -> Self {
        let memory = vec![0u8; len + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN);
        Self { memory, start, len }
    }

    /// Changes the length. What it held does not matter any more.
    pub(crate) fn resize(&mut self, len: usize) {
        if self.start + len > self.memory.len() {
            *self = Self::new(len);
        }
        self.len = len;
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// An open block device.
#[derive(Debug)]
pub(crate) struct Block(File);

impl Block {
    pub(crate) fn open(path: &Path) -> Result<Self, Errno> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::DIRECT.bits() as i32)
            .open(path);
        file.map(Self)
            .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
    }

    pub(crate) fn read(&self, sector: u64, buffer: &mut Buffer) -> Result<(), Errno> {
        let mut offset = sector * SECTOR as u64;
        for part in buffer.chunks_mut(READ) {
            let got = rustix::io::pread(&self.0, &mut *part, offset)?;
            if got != part.len() {
                return Err(Errno::NODATA);
            }
            offset += got as u64;
        }
        Ok(())
    }

    pub(crate) fn write(&self, sector: u64, buffer: &Buffer, fua: bool) -> Result<(), Errno> {
        let flags = match fua {
            true => ReadWriteFlags::DSYNC,
            false => ReadWriteFlags::empty(),
        };
        let offset = sector * SECTOR as u64;
        let put = rustix::io::pwritev2(&self.0, &[IoSlice::new(buffer)], offset, flags)?;
        match put == buffer.len() {
            true => Ok(()),
            false => Err(Errno::NOSPC),
        }
    }

    pub(crate) fn flush(&self) -> Result<(), Errno> {
        rustix::fs::fsync(&self.0)
    }

    pub(crate) fn discard(&self, sector: u64, count: u64) -> Result<(), Errno> {
        let range = bytes(sector, count);
        // SAFETY: BLKDISCARD takes a pointer to two u64, which it only reads.
        let call = unsafe { Setter::<DISCARD, [u64; 2]>::new(range) };
        // SAFETY: The setter pairs the opcode with its argument; see above.
        unsafe { rustix::ioctl::ioctl(&self.0, call) }
    }

    pub(crate) fn zero(&self, sector: u64, count: u64) -> Result<(), Errno> {
        let range = bytes(sector, count);
        // SAFETY: BLKZEROOUT takes a pointer to two u64, which it only reads.
        let call = unsafe { Setter::<ZEROOUT, [u64; 2]>::new(range) };
        // SAFETY: The setter pairs the opcode with its argument; see above.
        unsafe { rustix::ioctl::ioctl(&self.0, call) }
    }
}

fn bytes(sector: u64, count: u64) -> [u64; 2] {
    [sector * SECTOR as u64, count * SECTOR as u64]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned() {
        for len in [SECTOR, 3 * SECTOR, 1 << 20] {
            let buffer = Buffer::new(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr() as usize % ALIGN, 0);
        }
    }

    #[test]
    fn numbers_of_ioctls_are_those_of_the_kernel() {
        assert_eq!(DISCARD as u64, 0x1277);
        assert_eq!(ZEROOUT as u64, 0x127f);
    }
}
