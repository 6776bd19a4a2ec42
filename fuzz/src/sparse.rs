// SPDX-License-Identifier: GPL-2.0-or-later

//! A COW device of which only the metadata takes memory.

use dmholey_cow::Disk;
use holey_core::format::Layout;
use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;

/// Bytes of a piece: a header and an entry are one each.
pub(crate) const PIECE: usize = 16;

/// Pieces that were set are what they are; the others are zero in metadata chunks and
/// [`content`] in data chunks.
#[derive(Debug)]
pub(crate) struct Sparse {
    size: u64,
    layout: Layout,
    pieces: Mutex<BTreeMap<u64, [u8; PIECE]>>,
}

impl Sparse {
    pub(crate) fn new(size: u64, layout: Layout) -> Self {
        Self {
            size,
            layout,
            pieces: Mutex::default(),
        }
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// Sets a piece, if the device is large enough.
    pub(crate) fn set(&self, offset: u64, piece: [u8; PIECE]) {
        if offset.saturating_add(PIECE as u64) <= self.size {
            self.pieces.lock().unwrap().insert(offset, piece);
        }
    }

    fn check(&self, offset: u64, len: usize) -> io::Result<()> {
        let end = offset.checked_add(len as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// What stands in a data chunk at `offset`.
pub(crate) fn content(offset: u64) -> [u8; PIECE] {
    let mut piece = [0xda; PIECE];
    piece[..8].copy_from_slice(&offset.to_le_bytes());
    piece
}

/// By reference, so that the same device can be looked at in several ways.
impl Disk for &Sparse {
    fn name(&self) -> String {
        "sparse".to_owned()
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.check(offset, buf.len())?;
        let chunk = self.layout.chunk().bytes() as u64;
        let pieces = self.pieces.lock().unwrap();
        buf.fill(0);
        for (n, place) in buf.chunks_mut(PIECE).enumerate() {
            let at = offset + (n * PIECE) as u64;
            if !self.layout.is_metadata(at / chunk) {
                place.copy_from_slice(&content(at)[..place.len()]);
            }
        }
        for (&at, piece) in pieces.range(offset..offset + buf.len() as u64) {
            let place = &mut buf[(at - offset) as usize..];
            let len = place.len().min(PIECE);
            place[..len].copy_from_slice(&piece[..len]);
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.check(offset, buf.len())?;
        let mut pieces = self.pieces.lock().unwrap();
        for (n, bytes) in buf.chunks(PIECE).enumerate() {
            let piece = bytes.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
            pieces.insert(offset + (n * PIECE) as u64, piece);
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn reserve(&self, size: u64) -> io::Result<()> {
        self.check(size, 0)
    }
}
