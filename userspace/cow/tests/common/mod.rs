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
use std::sync::Mutex;

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
    let (disk, _) = dmholey_cow::diff::diff(&old, &new, None, writer, &Silent).unwrap();
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

/// What machines with several disks live on: so many writes and flushes, and then nothing.
pub struct Power(AtomicU64);

impl Power {
    pub fn for_steps(steps: u64) -> Self {
        Self(AtomicU64::new(steps))
    }

    fn step(&self) -> io::Result<()> {
        let step = |left: u64| left.checked_sub(1);
        let left = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, step);
        left.map_or(Err(io::Error::other("no power")), |_| Ok(()))
    }
}

/// A disk with a cache that is lost when the power goes, in parts and in no order.
pub struct Cached<'a> {
    power: &'a Power,
    /// Whether flushes do nothing.
    pub lies: bool,
    content: Mutex<Content>,
}

struct Content {
    durable: Vec<u8>,
    /// What is read.
    read: MemDisk,
    /// What was written since the last flush, and where.
    writes: Vec<(u64, Vec<u8>)>,
}

impl<'a> Cached<'a> {
    pub fn new(power: &'a Power, bytes: Vec<u8>) -> Self {
        let content = Mutex::new(Content {
            durable: bytes.clone(),
            read: MemDisk::new(bytes),
            writes: Vec::new(),
        });
        Self {
            power,
            lies: false,
            content,
        }
    }

    /// What a power cut leaves: of what was not flushed, some sectors.
    pub fn cut(self, seed: u64) -> Vec<u8> {
        let Content {
            mut durable,
            writes,
            ..
        } = self.content.into_inner().unwrap();
        let mut state = seed | 1;
        for (offset, bytes) in writes {
            for (sector, at) in bytes.chunks(512).zip((offset as usize..).step_by(512)) {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                // Sometimes all of it, sometimes hardly anything.
                if (state >> 56) % 8 < seed % 9 {
                    durable[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
        durable
    }
}

impl Disk for Cached<'_> {
    fn name(&self) -> String {
        "cached".to_owned()
    }

    fn size(&self) -> u64 {
        self.content.lock().unwrap().read.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.content.lock().unwrap().read.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let mut content = self.content.lock().unwrap();
        let powered = self.power.step();
        // It may have come so far all the same.
        content.writes.push((offset, buf.to_vec()));
        powered?;
        content.read.write_at(offset, buf)
    }

    fn flush(&self) -> io::Result<()> {
        self.power.step()?;
        let mut content = self.content.lock().unwrap();
        let Content {
            durable, writes, ..
        } = &mut *content;
        if !self.lies {
            for (offset, bytes) in writes.drain(..) {
                let at = offset as usize;
                durable[at..at + bytes.len()].copy_from_slice(&bytes);
            }
        }
        Ok(())
    }
}
