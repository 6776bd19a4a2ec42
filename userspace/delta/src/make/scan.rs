// SPDX-License-Identifier: GPL-2.0-or-later

//! Reads an image once.

use crate::digest::Digest;
use crate::digest::Hasher;
use crate::digest::SEGMENT;
use crate::error::Result;
use crate::format::blocks;
use crate::format::BLOCK;
use dmholey_cow::disk;
use dmholey_cow::progress;
use dmholey_cow::writer::is_zero;
use dmholey_cow::Disk;
use dmholey_cow::Error as CowError;
use dmholey_cow::Progress;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// Half of a block's SHA-256: enough to take blocks with one hash for the same.
pub(super) type Hash = u128;
/// Stands for a block of zeros.
pub(super) const ZERO: Hash = 0;
/// Numbers of blocks have 32 bits, and some are reserved.
const MAX_BLOCKS: u64 = u32::MAX as u64 - 16;
const SEGMENT_BLOCKS: usize = SEGMENT as usize / BLOCK;

/// What is known of an image.
#[derive(Debug)]
pub(super) struct Scan {
    /// Of each block.
    pub(super) hashes: Vec<Hash>,
    /// Of the image.
    pub(super) digest: Digest,
}

/// Reads all of `disk`; `before` of `total` bytes have been read already.
pub(super) fn scan<D: Disk>(
    disk: &D,
    watch: &dyn Progress,
    before: u64,
    total: u64,
) -> Result<Scan> {
    let count = blocks(disk.size());
    if count > MAX_BLOCKS {
        let why = "larger than 16 TiB, of which no delta can be made";
        return Err(CowError::refused(disk.name(), why).into());
    }
    let mut hashes = vec![ZERO; count as usize];
    let mut digests = vec![Digest([0; 32]); hashes.len().div_ceil(SEGMENT_BLOCKS)];
    let each = digests.len().div_ceil(super::threads()).max(1);
    let done = AtomicU64::new(before);
    std::thread::scope(|scope| {
        let lanes = hashes
            .chunks_mut(each * SEGMENT_BLOCKS)
            .zip(digests.chunks_mut(each));
        let workers: Vec<_> = lanes
            .enumerate()
            .map(|(i, (hashes, digests))| {
                let buf = vec![0; SEGMENT as usize];
                let mut lane = Lane {
                    disk,
                    at: (i * each) as u64 * SEGMENT,
                    data: 0,
                    zero: Digest::of(&buf),
                    buf,
                };
                let done = &done;
                scope.spawn(move || lane.run(hashes, digests, done, watch, total))
            })
            .collect();
        workers.into_iter().try_for_each(crate::join)
    })?;
    let mut all = Hasher::default();
    digests.iter().for_each(|digest| all.update(&digest.0));
    Ok(Scan {
        hashes,
        digest: all.finish(),
    })
}

struct Lane<'a, D> {
    disk: &'a D,
    at: u64,
    /// There is no data before this offset.
    data: u64,
    buf: Vec<u8>,
    zero: Digest,
}

impl<D: Disk> Lane<'_, D> {
    fn run(
        &mut self,
        hashes: &mut [Hash],
        digests: &mut [Digest],
        done: &AtomicU64,
        watch: &dyn Progress,
        total: u64,
    ) -> Result<()> {
        for (hashes, digest) in hashes.chunks_mut(SEGMENT_BLOCKS).zip(digests) {
            let len = SEGMENT.min(self.disk.size() - self.at);
            *digest = self.segment(hashes, len)?;
            self.at += len;
            let sum = done.fetch_add(len, Ordering::Relaxed) + len;
            progress::step(watch, sum, total)?;
        }
        Ok(())
    }

    fn segment(&mut self, hashes: &mut [Hash], len: u64) -> Result<Digest> {
        if self.data < self.at + len {
            self.data = self.disk.next_data(self.at);
        }
        if self.data >= self.at + len && len == SEGMENT {
            return Ok(self.zero);
        }
        let (there, rest) = self.buf.split_at_mut(len as usize);
        rest.fill(0);
        disk::read(self.disk, self.at, there)?;
        let digest = Digest::of(there);
        for (hash, block) in hashes.iter_mut().zip(self.buf.chunks(BLOCK)) {
            if !is_zero(block) {
                *hash = hash_of(block);
            }
        }
        Ok(digest)
    }
}

fn hash_of(block: &[u8]) -> Hash {
    let digest = Digest::of(block);
    let half = digest.0.first_chunk().copied().unwrap_or_default();
    // No block but one of zeros has the hash of zeros.
    Hash::from_le_bytes(half).max(1)
}
