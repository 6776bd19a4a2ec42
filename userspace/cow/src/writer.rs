// SPDX-License-Identifier: GPL-2.0-or-later

//! Builds a store as a stream.
//!
//! The result is laid out as the kernel would have written it: entries dense and ascending from
//! chunk 2, and the area behind the last full one present and zero. The header is written last,
//! after everything else is durable, so that what was interrupted is not taken for a store.

use crate::disk;
use crate::disk::Disk;
use crate::error::Error;
use crate::error::Result;
use holey_core::format::ChunkSize;
use holey_core::format::Exception;
use holey_core::format::FormatError;
use holey_core::format::Header;
use holey_core::format::Layout;
use holey_core::format::ENTRY_LEN;
use holey_core::format::MAX_COW_CHUNKS;
use serde::Serialize;

/// Data is gathered up to this many bytes before it is written.
const BATCH: usize = 1 << 20;
/// A kernel target refuses a smaller COW device.
const MIN_CHUNKS: u64 = 3;

/// What is below the store before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// A new file: what is not written reads as zeros.
    Zero,
    /// A device with old content: zeros must be written, and an old header goes first.
    Used,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Entries in the list.
    pub exceptions: u64,
    /// Those of them whose chunk is all zeros.
    pub zero_chunks: u64,
    /// Bytes from the header to the end of the store.
    pub bytes: u64,
}

/// A store that is being built.
#[derive(Debug)]
pub struct Writer<D> {
    disk: D,
    layout: Layout,
    ground: Ground,
    /// COW chunk of the next entry.
    next: u64,
    /// The area that is being filled, and its number.
    image: Vec<u8>,
    area: u64,
    filled: usize,
    /// Data not yet written, and the COW chunk it starts at.
    batch: Vec<u8>,
    batch_at: u64,
    last_origin: Option<u64>,
    written: Written,
}

impl<D: Disk> Writer<D> {
    /// Starts a store on `disk`. On used ground an old header is wiped, durably, at once.
    pub fn create(disk: D, chunk: ChunkSize, ground: Ground) -> Result<Self> {
        if ground == Ground::Used {
            disk::write(&disk, 0, &vec![0; chunk.bytes()])?;
            disk::flush(&disk)?;
        }
        Ok(Self {
            disk,
            layout: Layout::new(chunk),
            ground,
            next: Layout::FIRST_DATA,
            image: vec![0; chunk.bytes()],
            area: 0,
            filled: 0,
            batch: Vec::with_capacity(BATCH.max(chunk.bytes())),
            batch_at: Layout::FIRST_DATA,
            last_origin: None,
            written: Written::default(),
        })
    }

    /// The chunk size.
    pub fn chunk(&self) -> ChunkSize {
        self.layout.chunk()
    }

    /// Adds an exception: `data`, one whole chunk, is the content of origin chunk `origin`. Origin
    /// chunks must come in ascending order.
    pub fn push(&mut self, origin: u64, data: &[u8]) -> Result<()> {
        if data.len() != self.image.len() || self.last_origin.is_some_and(|last| origin <= last) {
            let why = format!("origin chunk {origin} is out of order or not a whole chunk");
            return Err(Error::refused(self.disk.name(), why));
        }
        if self.next >= MAX_COW_CHUNKS {
            let reason = FormatError::CowTooLarge(self.next);
            return Err(Error::format(self.disk.name(), reason));
        }
        self.last_origin = Some(origin);
        self.put_data(data)?;
        let entry = Exception {
            origin,
            cow: self.next,
        };
        self.written.exceptions += 1;
        self.next = self.layout.skip_metadata(self.next + 1);
        self.put_entry(entry)
    }

    /// Writes what is left, and then the header. Returns the disk and what is on it.
    pub fn finish(mut self) -> Result<(D, Written)> {
        self.write_batch()?;
        self.write_area()?;
        let chunks = self
            .layout
            .chunks_for(self.written.exceptions)
            .max(MIN_CHUNKS);
        self.written.bytes = chunks * self.image.len() as u64;
        self.disk
            .reserve(self.written.bytes)
            .map_err(|e| Error::io("make the store fit on", self.disk.name(), e))?;
        disk::flush(&self.disk)?;
        let header = Header {
            valid: true,
            chunk: self.layout.chunk(),
        };
        self.image.fill(0);
        for (to, from) in self.image.iter_mut().zip(header.encode()) {
            *to = from;
        }
        disk::write(&self.disk, 0, &self.image)?;
        disk::flush(&self.disk)?;
        Ok((self.disk, self.written))
    }

    fn put_data(&mut self, data: &[u8]) -> Result<()> {
        let zero = is_zero(data);
        self.written.zero_chunks += u64::from(zero);
        let queued = (self.batch.len() / data.len()) as u64;
        if self.batch_at + queued != self.next || self.batch.len() + data.len() > BATCH {
            self.write_batch()?;
        }
        if zero && self.ground == Ground::Zero {
            return self.write_batch();
        }
        if self.batch.is_empty() {
            self.batch_at = self.next;
        }
        self.batch.extend_from_slice(data);
        Ok(())
    }

    fn put_entry(&mut self, entry: Exception) -> Result<()> {
        let at = self.filled * ENTRY_LEN;
        if let Some(place) = self.image.get_mut(at..at + ENTRY_LEN) {
            place.copy_from_slice(&entry.encode());
        }
        self.filled += 1;
        if self.filled as u64 == self.layout.entries() {
            self.write_area()?;
            self.image.fill(0);
            self.area += 1;
            self.filled = 0;
        }
        Ok(())
    }

    fn write_area(&self) -> Result<()> {
        if self.filled == 0 && self.ground == Ground::Zero {
            return Ok(());
        }
        self.write_chunk(self.layout.area_chunk(self.area), &self.image)
    }

    fn write_batch(&mut self) -> Result<()> {
        if !self.batch.is_empty() {
            self.write_chunk(self.batch_at, &self.batch)?;
            self.batch.clear();
        }
        Ok(())
    }

    fn write_chunk(&self, chunk: u64, bytes: &[u8]) -> Result<()> {
        disk::write(&self.disk, chunk * self.image.len() as u64, bytes)
    }
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (head, words, tail) = (bytes.len() % 8, bytes.chunks_exact(8), &[0u8; 8]);
    let rest = bytes.get(bytes.len() - head..).unwrap_or_default();
    words.into_iter().all(|word| word == tail) && rest.iter().all(|&b| b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemDisk;
    use crate::store::Store;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn chunk() -> ChunkSize {
        ChunkSize::new(8).unwrap()
    }

    fn data(origin: u64) -> Vec<u8> {
        (0..512)
            .flat_map(|i: u64| (origin * 1000 + i).to_le_bytes())
            .collect()
    }

    fn build(origins: impl IntoIterator<Item = u64>, ground: Ground, old: Vec<u8>) -> MemDisk {
        let mut writer = Writer::create(MemDisk::new(old), chunk(), ground).unwrap();
        for origin in origins {
            writer.push(origin, &data(origin)).unwrap();
        }
        writer.finish().unwrap().0
    }

    #[test]
    fn empty_store_has_three_chunks() {
        let store = Store::open(build([], Ground::Zero, vec![])).unwrap();
        assert_eq!(store.survey().unwrap().exceptions, 0);
        assert_eq!(store.disk().size(), 3 * 4096);
    }

    #[test]
    fn full_area_is_followed_by_a_zero_one() {
        for count in [255, 256, 257, 512] {
            let disk = build(0..count, Ground::Used, vec![0xff; 600 * 4096]);
            let store = Store::open(disk).unwrap();
            let survey = store.survey().unwrap();
            assert_eq!(survey.exceptions, count);
            assert_eq!(survey.areas, count / 256 + 1);
            let cut = store.layout().chunks_for(count) * 4096;
            let mut bytes = store.into_disk().into_bytes();
            bytes.truncate(usize::try_from(cut).unwrap());
            assert_eq!(
                Store::open(MemDisk::new(bytes)).unwrap().survey().unwrap(),
                survey
            );
        }
    }

    #[test]
    fn first_chunks_are_where_the_kernel_puts_them() {
        let bytes = build([7, 9], Ground::Zero, vec![]).into_bytes();
        assert_eq!(bytes[..16], *b"SnAp\x01\0\0\0\x01\0\0\0\x08\0\0\0");
        assert_eq!(bytes[4096..4104], 7u64.to_le_bytes());
        assert_eq!(bytes[4104..4112], 2u64.to_le_bytes());
        assert_eq!(bytes[4112..4120], 9u64.to_le_bytes());
        assert_eq!(bytes[4120..4128], 3u64.to_le_bytes());
        assert_eq!(bytes[2 * 4096..3 * 4096], data(7));
        assert_eq!(bytes.len(), 4 * 4096);
    }

    #[test]
    fn disorder_is_refused() {
        let mut writer = Writer::create(MemDisk::default(), chunk(), Ground::Zero).unwrap();
        writer.push(5, &data(5)).unwrap();
        assert!(writer.push(5, &data(5)).is_err());
        assert!(writer.push(6, &[0; 10]).is_err());
    }

    #[test]
    fn nothing_before_finish_is_a_store() {
        let old = build(0..20, Ground::Zero, vec![]).into_bytes();
        let mut writer = Writer::create(MemDisk::new(old), chunk(), Ground::Used).unwrap();
        for origin in 0..300 {
            writer.push(origin, &data(origin)).unwrap();
        }
        let bytes = writer.disk.to_bytes();
        assert!(matches!(
            Store::open(MemDisk::new(bytes)),
            Err(Error::Fresh { .. })
        ));
    }

    #[test]
    fn zero_is_seen_at_any_length() {
        for len in 0..40 {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for i in 0..len {
                bytes[i] = 1;
                assert!(!is_zero(&bytes));
                bytes[i] = 0;
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_was_written_is_read(
            content in prop::collection::btree_map(0u64..5000, any::<bool>(), 0..700),
            used in any::<bool>(),
        ) {
            let ground = if used { Ground::Used } else { Ground::Zero };
            let old = if used { vec![0xa5; 900 * 4096] } else { vec![] };
            let mut writer = Writer::create(MemDisk::new(old), chunk(), ground).unwrap();
            let content: BTreeMap<u64, Vec<u8>> = content
                .into_iter()
                .map(|(origin, zero)| (origin, if zero { vec![0; 4096] } else { data(origin) }))
                .collect();
            for (origin, data) in &content {
                writer.push(*origin, data).unwrap();
            }
            let (disk, written) = writer.finish().unwrap();
            prop_assert_eq!(written.exceptions, content.len() as u64);
            let store = Store::open(disk).unwrap();
            let mut read = BTreeMap::new();
            for entry in store.entries() {
                let entry = entry.unwrap();
                let mut data = vec![1; 4096];
                store.read_chunks(entry.cow, &mut data).unwrap();
                read.insert(entry.origin, data);
            }
            prop_assert!(read == content);
        }
    }
}
