// SPDX-License-Identifier: GPL-2.0-or-later

//! Content of archives, in a temporary file without a name.

use super::Content;
use super::Limits;
use super::Place;
use crate::error::Error;
use crate::error::Result;
use std::fs::File;
use std::io;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

/// Pieces that are zero are not kept; this is their size.
const PIECE: usize = 4096;
/// Bytes read at a time.
const BATCH: usize = 1 << 18;

/// Where content from archives is kept while an image is built.
#[derive(Debug)]
pub struct Spool {
    file: Rc<File>,
    end: u64,
    bytes_left: u64,
    holes_left: u64,
}

/// Which part of content is where in the spool: offset there, offset here, length. In order.
#[derive(Debug, Default)]
pub(super) struct Pieces(Vec<(u64, u64, u64)>);

impl Pieces {
    /// Bytes that are kept.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|piece| piece.2).sum()
    }

    /// The first byte from `offset` on that is kept.
    pub(super) fn next(&self, offset: u64) -> Option<u64> {
        let at = self.0.partition_point(|piece| piece.0 + piece.2 <= offset);
        self.0.get(at).map(|piece| piece.0.max(offset))
    }

    /// Fills `buf` from `offset` on.
    pub(super) fn read(&self, file: &File, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        buf.fill(0);
        let end = offset + buf.len() as u64;
        let at = self.0.partition_point(|piece| piece.0 + piece.2 <= offset);
        for &(start, place, len) in self.0.get(at..).unwrap_or_default() {
            if start >= end {
                break;
            }
            let (from, to) = (start.max(offset), (start + len).min(end));
            let range = (from - offset) as usize..(to - offset) as usize;
            if let Some(part) = buf.get_mut(range) {
                file.read_exact_at(part, place + (from - start))?;
            }
        }
        Ok(())
    }
}

impl Spool {
    /// An empty one in the folder `dir`.
    pub fn create(dir: &Path, limits: Limits) -> Result<Self> {
        let file = tempfile::tempfile_in(dir)
            .map_err(|e| Error::path("make a temporary file in", dir, e))?;
        Ok(Self {
            file: Rc::new(file),
            end: 0,
            bytes_left: limits.bytes,
            holes_left: limits.with_holes,
        })
    }

    /// Begins a file of `size` bytes.
    pub(super) fn begin(&mut self, size: u64) -> Result<Filler<'_>> {
        match self.holes_left.checked_sub(size) {
            Some(left) => self.holes_left = left,
            None => {
                let why = "holds more than the image could, even as sparse files";
                return Err(Error::input("the tree", why));
            }
        }
        Ok(Filler {
            spool: self,
            pieces: Pieces::default(),
            size,
        })
    }
}

/// A file on its way into the spool.
pub(super) struct Filler<'a> {
    spool: &'a mut Spool,
    pieces: Pieces,
    size: u64,
}

impl Filler<'_> {
    /// Takes `len` bytes, which are those from `offset` on, behind all others so far.
    pub(super) fn copy(&mut self, from: &mut dyn Read, offset: u64, len: u64) -> Result<()> {
        let mut buf = vec![0; BATCH.min(len as usize)];
        let end = offset + len;
        let mut at = offset;
        while at < end {
            // Up to a multiple of a piece, so that all but the first one are whole.
            let most = BATCH as u64 - at % PIECE as u64;
            let part = buf
                .get_mut(..most.min(end - at) as usize)
                .unwrap_or_default();
            from.read_exact(part).map_err(|e| {
                Error::input("the archive", format!("is no complete tar archive: {e}"))
            })?;
            self.push(at, part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    fn push(&mut self, offset: u64, mut bytes: &[u8]) -> Result<()> {
        let mut at = offset;
        while !bytes.is_empty() {
            let len = PIECE - (at % PIECE as u64) as usize;
            let (piece, rest) = bytes.split_at(len.min(bytes.len()));
            if piece.iter().any(|&byte| byte != 0) {
                self.keep(at, piece)?;
            }
            at += piece.len() as u64;
            bytes = rest;
        }
        Ok(())
    }

    fn keep(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let len = bytes.len() as u64;
        let spool = &mut *self.spool;
        spool.bytes_left = spool.bytes_left.checked_sub(len).ok_or_else(|| {
            Error::input(
                "the tree",
                "holds much more than the image could; give it more with --size",
            )
        })?;
        spool
            .file
            .write_all_at(bytes, spool.end)
            .map_err(|e| Error::io("write", "a temporary file", e))?;
        match self.pieces.0.last_mut() {
            Some(last) if last.0 + last.2 == offset && last.1 + last.2 == spool.end => {
                last.2 += len
            }
            _ => self.pieces.0.push((offset, spool.end, len)),
        }
        spool.end += len;
        Ok(())
    }

    /// The file is complete.
    pub(super) fn finish(self) -> Content {
        Content {
            size: self.size,
            place: Place::Spooled(Rc::clone(&self.spool.file), Rc::new(self.pieces)),
        }
    }
}
