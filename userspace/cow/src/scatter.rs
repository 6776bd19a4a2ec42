// SPDX-License-Identifier: GPL-2.0-or-later

//! Builds a store whose origin chunks are known beforehand, and whose data comes in any order and from
//! several threads.
//!
//! It becomes the store that [`crate::writer`] would build of the same chunks in order.

use crate::disk;
use crate::disk::Disk;
use crate::error::Error;
use crate::error::Result;
use crate::writer::is_zero;
use crate::writer::Ground;
use crate::writer::Written;
use holey_core::format::ChunkSize;
use holey_core::format::Exception;
use holey_core::format::FormatError;
use holey_core::format::Header;
use holey_core::format::Layout;
use holey_core::format::MAX_COW_CHUNKS;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// A kernel target refuses a smaller COW device.
const MIN_CHUNKS: u64 = 3;

/// Origin chunks that follow each other.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: u64,
    len: u64,
    /// Entries before them.
    entry: u64,
}

/// A store that is being built.
#[derive(Debug)]
pub struct Scatter<D> {
    disk: D,
    layout: Layout,
    ground: Ground,
    runs: Vec<Run>,
    entries: u64,
    zero: AtomicU64,
}

impl<D: Disk> Scatter<D> {
    /// Starts a store on `disk` for the origin chunks in `runs`, each a first chunk and a number, which
    /// must ascend. On used ground an old header is wiped, durably, at once.
    pub fn create(
        disk: D,
        chunk: ChunkSize,
        ground: Ground,
        runs: impl IntoIterator<Item = (u64, u64)>,
    ) -> Result<Self> {
        let mut list: Vec<Run> = Vec::new();
        let (mut entries, mut end) = (0u64, 0);
        for (first, len) in runs {
            let next = first.checked_add(len).filter(|_| first >= end);
            end = next.ok_or_else(|| {
                let why = format!("origin chunk {first} is out of order");
                Error::refused(disk.name(), why)
            })?;
            entries = entries.saturating_add(len);
            match list.last_mut() {
                Some(last) if last.first + last.len == first => last.len += len,
                _ => list.push(Run {
                    first,
                    len,
                    entry: entries - len,
                }),
            }
        }
        let layout = Layout::new(chunk);
        if entries >= MAX_COW_CHUNKS || layout.chunks_for(entries) > MAX_COW_CHUNKS {
            let reason = FormatError::CowTooLarge(entries);
            return Err(Error::format(disk.name(), reason));
        }
        if ground == Ground::Used {
            disk::write(&disk, 0, &vec![0; chunk.bytes()])?;
            disk::flush(&disk)?;
        }
        Ok(Self {
            disk,
            layout,
            ground,
            runs: list,
            entries,
            zero: AtomicU64::new(0),
        })
    }

    /// Writes the content of whole origin chunks from `origin` on. Each must have been announced, and
    /// be written once.
    pub fn write(&self, origin: u64, mut data: &[u8]) -> Result<()> {
        let size = self.layout.chunk().bytes();
        let mut entry = self.entry_of(origin, (data.len() / size) as u64)?;
        while !data.is_empty() {
            // As far as no area is in between.
            let room = self.layout.entries() - entry % self.layout.entries();
            let len = data.len().min(size.saturating_mul(room as usize));
            let (part, rest) = data.split_at(len);
            self.write_data(self.chunk_of(entry), part)?;
            entry += (len / size) as u64;
            data = rest;
        }
        Ok(())
    }

    /// Writes the list, and then the header. Returns the disk and what is on it.
    pub fn finish(self) -> Result<(D, Written)> {
        let size = self.layout.chunk().bytes() as u64;
        self.write_areas()?;
        let written = Written {
            exceptions: self.entries,
            zero_chunks: self.zero.load(Ordering::Relaxed),
            bytes: self.layout.chunks_for(self.entries).max(MIN_CHUNKS) * size,
        };
        self.disk
            .reserve(written.bytes)
            .map_err(|e| Error::io("make the store fit on", self.disk.name(), e))?;
        disk::flush(&self.disk)?;
        let header = Header {
            valid: true,
            chunk: self.layout.chunk(),
        };
        let mut image = vec![0; self.layout.chunk().bytes()];
        for (to, from) in image.iter_mut().zip(header.encode()) {
            *to = from;
        }
        disk::write(&self.disk, 0, &image)?;
        disk::flush(&self.disk)?;
        Ok((self.disk, written))
    }

    fn entry_of(&self, origin: u64, len: u64) -> Result<u64> {
        let behind = self.runs.partition_point(|run| run.first <= origin);
        let run = behind.checked_sub(1).and_then(|n| self.runs.get(n));
        run.filter(|run| origin + len <= run.first + run.len)
            .map(|run| run.entry + (origin - run.first))
            .ok_or_else(|| {
                let why = format!("origin chunk {origin} was not announced");
                Error::refused(self.disk.name(), why)
            })
    }

    fn chunk_of(&self, entry: u64) -> u64 {
        let area = entry / self.layout.entries();
        self.layout.area_chunk(area) + 1 + entry % self.layout.entries()
    }

    fn write_data(&self, chunk: u64, data: &[u8]) -> Result<()> {
        let size = self.layout.chunk().bytes();
        let zero = data.chunks(size).filter(|chunk| is_zero(chunk)).count();
        self.zero.fetch_add(zero as u64, Ordering::Relaxed);
        if self.ground == Ground::Zero && zero * size == data.len() {
            return Ok(());
        }
        disk::write(&self.disk, chunk * size as u64, data)
    }

    fn write_areas(&self) -> Result<()> {
        let mut image = Vec::with_capacity(self.layout.chunk().bytes());
        let mut area = 0;
        let origins = self
            .runs
            .iter()
            .flat_map(|run| run.first..run.first + run.len);
        for (entry, origin) in (0..).zip(origins) {
            let cow = self.chunk_of(entry);
            image.extend(Exception { origin, cow }.encode());
            if image.len() == self.layout.chunk().bytes() {
                self.write_area(area, &mut image)?;
                area += 1;
            }
        }
        self.write_area(area, &mut image)
    }

    fn write_area(&self, area: u64, image: &mut Vec<u8>) -> Result<()> {
        let size = self.layout.chunk().bytes();
        if image.is_empty() && self.ground == Ground::Zero {
            return Ok(());
        }
        image.resize(size, 0);
        let at = self.layout.area_chunk(area) * size as u64;
        disk::write(&self.disk, at, image)?;
        image.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemDisk;
    use crate::writer::Writer;
    use proptest::prelude::*;

    fn data(origin: u64) -> Vec<u8> {
        (0..4096u64)
            .map(|i| {
                if origin % 5 == 0 {
                    0
                } else {
                    ((i * origin) >> 4) as u8
                }
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn the_store_is_the_one_that_is_written_in_order(
            origins in prop::collection::btree_set(0u64..1200, 0..600),
            used in any::<bool>(),
        ) {
            let ground = if used { Ground::Used } else { Ground::Zero };
            let old = if used { vec![0xa5; 700 * 4096] } else { vec![] };
            let chunk = ChunkSize::new(8).unwrap();
            let mut writer = Writer::create(MemDisk::new(old.clone()), chunk, ground).unwrap();
            for &origin in &origins {
                writer.push(origin, &data(origin)).unwrap();
            }
            let (expected, sequential) = writer.finish().unwrap();
            let runs = origins.iter().map(|&origin| (origin, 1));
            let scatter = Scatter::create(MemDisk::new(old), chunk, ground, runs).unwrap();
            for &origin in origins.iter().rev() {
                scatter.write(origin, &data(origin)).unwrap();
            }
            let (disk, written) = scatter.finish().unwrap();
            prop_assert_eq!(written, sequential);
            prop_assert!(disk.into_bytes() == expected.into_bytes());
        }
    }

    #[test]
    fn what_was_not_announced_is_refused() {
        let chunk = ChunkSize::new(8).unwrap();
        let create = |runs: &[(u64, u64)]| {
            Scatter::create(
                MemDisk::default(),
                chunk,
                Ground::Zero,
                runs.iter().copied(),
            )
        };
        assert!(create(&[(5, 2), (6, 1)]).is_err());
        assert!(create(&[(0, 1 << 41)]).is_err());
        let scatter = create(&[(5, 300)]).unwrap();
        scatter.write(5, &vec![1; 300 * 4096]).unwrap();
        for (origin, len) in [(4, 1), (305, 1), (304, 2)] {
            assert!(scatter.write(origin, &vec![1; len * 4096]).is_err());
        }
    }
}
