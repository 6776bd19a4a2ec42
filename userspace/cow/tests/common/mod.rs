// SPDX-License-Identifier: GPL-2.0-or-later

//! What the tests of stores share.

#![allow(dead_code, unreachable_pub)]

use dmholey_cow::disk::Disk;
use dmholey_cow::format::ChunkSize;
use dmholey_cow::progress::Silent;
use dmholey_cow::writer::Ground;
use dmholey_cow::MemDisk;
use dmholey_cow::Writer;
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// Bytes of the smallest chunk.
pub const CHUNK: usize = 4096;

/// The smallest chunk size.
pub fn chunk() -> ChunkSize {
    ChunkSize::new(8).unwrap()
}

/// Content that tells its place and its generation in every eight bytes.
pub fn pattern(len: usize, generation: u64) -> Vec<u8> {
    let words = len.div_ceil(8) as u64;
    let mut bytes: Vec<u8> = (0..words)
        .flat_map(|n| ((n << 16) | generation).to_le_bytes())
        .collect();
    bytes.truncate(len);
    bytes
}

/// The difference of two images, as bytes.
pub fn diff(old: &[u8], new: &[u8]) -> Vec<u8> {
    let writer = Writer::create(MemDisk::default(), chunk(), Ground::Zero).unwrap();
    let (old, new) = (MemDisk::new(old.to_vec()), MemDisk::new(new.to_vec()));
    let (disk, _) = dmholey_cow::diff::diff(&old, &new, writer, &Silent).unwrap();
    disk.into_bytes()
}

/// A disk that does only so many writes and then fails, like a machine that loses power.
pub struct Failing {
    pub inner: MemDisk,
    pub left: AtomicU64,
}

impl Failing {
    pub fn after(bytes: Vec<u8>, writes: u64) -> Self {
        Self {
            inner: MemDisk::new(bytes),
            left: AtomicU64::new(writes),
        }
    }
}

impl Disk for Failing {
    fn name(&self) -> String {
        "failing".to_owned()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let step = |left: u64| left.checked_sub(1);
        match self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, step)
        {
            Ok(_) => self.inner.write_at(offset, buf),
            Err(_) => {
                // Half of the write arrives.
                let half = buf.get(..buf.len() / 2).unwrap_or_default();
                self.inner.write_at(offset, half)?;
                Err(io::Error::other("out of writes"))
            }
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.inner.flush()
    }

    fn reserve(&self, size: u64) -> io::Result<()> {
        self.inner.reserve(size)
    }
}
