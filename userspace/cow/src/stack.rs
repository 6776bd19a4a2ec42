// SPDX-License-Identifier: GPL-2.0-or-later

//! What stores show over an image: one over the other, each the difference to what is below it.

use crate::apply;
use crate::disk::Disk;
use crate::error::Result;
use crate::store::Store;
use std::io;

/// Consecutive bytes that a store has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    start: u64,
    end: u64,
    /// The store, counted from below.
    layer: usize,
    /// Where `start` is in the store.
    at: u64,
}

/// An image with stores over it. It can only be read.
#[derive(Debug)]
pub struct Stack<B, S> {
    base: B,
    /// Bytes of the base that can be seen. Behind them, all is zero.
    seen: u64,
    stores: Vec<Store<S>>,
    /// What is seen of the stores, ascending.
    pieces: Vec<Piece>,
    size: u64,
}

impl<B: Disk, S: Disk> Stack<B, S> {
    /// The first `size` bytes of `base`, or all of it with zeros behind.
    pub fn new(base: B, size: u64) -> Self {
        let seen = size.min(base.size());
        Self {
            base,
            seen,
            stores: Vec::new(),
            pieces: Vec::new(),
            size,
        }
    }

    /// Cuts it at `size` bytes, or has zeros behind what was there.
    pub fn resize(&mut self, size: u64) {
        self.seen = self.seen.min(size);
        self.size = size;
        self.pieces.retain_mut(|piece| {
            piece.end = piece.end.min(size);
            piece.start < piece.end
        });
    }

    /// Lays a store over it, whose whole list is read and checked. Nothing of it may lie behind the end.
    pub fn push(&mut self, mut store: Store<S>) -> Result<()> {
        apply::plan(&mut store, &self.name(), self.size)?;
        let chunk = store.chunk_bytes();
        let layer = self.stores.len();
        let mut above = Vec::new();
        for run in store.runs() {
            let run = run?;
            above.push(Piece {
                start: run.origin * chunk,
                end: ((run.origin + run.len) * chunk).min(self.size),
                layer,
                at: run.cow * chunk,
            });
        }
        above.sort_unstable_by_key(|piece| piece.start);
        self.pieces = overlay(&self.pieces, above);
        self.stores.push(store);
        Ok(())
    }

    /// Bytes of the base that can be seen where no store covers them. Behind them, all is zero.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// The byte ranges that stores from number `layer` on, counted from below, have; ascending.
    pub fn above(&self, layer: usize) -> impl Iterator<Item = (u64, u64)> + '_ {
        let pieces = self.pieces.iter().filter(move |p| p.layer >= layer);
        pieces.map(|piece| (piece.start, piece.end))
    }

    /// The piece that `offset` is in; or where the next one starts.
    fn find(&self, offset: u64) -> (Option<Piece>, u64) {
        let behind = self.pieces.partition_point(|piece| piece.start <= offset);
        let last = behind.checked_sub(1).and_then(|n| self.pieces.get(n));
        let piece = last.copied().filter(|piece| offset < piece.end);
        let next = self.pieces.get(behind).map_or(u64::MAX, |p| p.start);
        (piece, next)
    }

    fn read_base(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let there = usize::try_from(self.seen.saturating_sub(offset)).unwrap_or(usize::MAX);
        let (data, zeros) = buf.split_at_mut(there.min(buf.len()));
        zeros.fill(0);
        if data.is_empty() {
            return Ok(());
        }
        self.base.read_at(offset, data)
    }
}

/// `above`, and what it leaves of `below`. Both ascend.
fn overlay(below: &[Piece], above: Vec<Piece>) -> Vec<Piece> {
    let mut all = Vec::with_capacity(below.len() + above.len());
    let mut cover = above.as_slice();
    for &piece in below {
        let passed = cover.partition_point(|over| over.end <= piece.start);
        cover = cover.get(passed..).unwrap_or_default();
        let mut start = piece.start;
        for over in cover.iter().take_while(|over| over.start < piece.end) {
            if start < over.start {
                all.push(piece.part(start, over.start));
            }
            start = over.end;
        }
        if start < piece.end {
            all.push(piece.part(start, piece.end));
        }
    }
    all.extend(above);
    all.sort_unstable_by_key(|piece| piece.start);
    all
}

impl Piece {
    fn part(self, start: u64, end: u64) -> Self {
        Self {
            start,
            end,
            at: self.at + (start - self.start),
            ..self
        }
    }
}

impl<B: Disk, S: Disk> Disk for Stack<B, S> {
    fn name(&self) -> String {
        let top = self.stores.last();
        top.map_or_else(|| self.base.name(), |store| store.disk().name())
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        if offset.saturating_add(buf.len() as u64) > self.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while !buf.is_empty() {
            let (piece, next) = self.find(offset);
            let end = piece.map_or(next, |piece| piece.end);
            let len = usize::try_from(end - offset).unwrap_or(usize::MAX);
            let (part, rest) = buf.split_at_mut(len.min(buf.len()));
            match piece.and_then(|p| Some((p, self.stores.get(p.layer)?))) {
                Some((piece, store)) => {
                    let at = piece.at + (offset - piece.start);
                    store.disk().read_at(at, part)?;
                }
                None => self.read_base(offset, part)?,
            }
            offset += part.len() as u64;
            buf = rest;
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> u64 {
        let (piece, next) = self.find(offset);
        if piece.is_some() {
            return offset;
        }
        let base = if offset < self.seen {
            let data = self.base.next_data(offset);
            if data < self.seen {
                data
            } else {
                self.size
            }
        } else {
            self.size
        };
        base.min(next).min(self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemDisk;
    use crate::writer::Ground;
    use crate::writer::Writer;
    use holey_core::format::ChunkSize;
    use proptest::prelude::*;

    /// A store of these chunks, each of which is filled with its number.
    fn store(sectors: u32, chunks: &[(u64, u8)]) -> Store<MemDisk> {
        let chunk = ChunkSize::new(sectors).unwrap();
        let mut writer = Writer::create(MemDisk::default(), chunk, Ground::Zero).unwrap();
        for &(origin, fill) in chunks {
            writer.push(origin, &vec![fill; chunk.bytes()]).unwrap();
        }
        let (disk, _) = writer.finish().unwrap();
        Store::open(disk).unwrap()
    }

    /// What the stack must show, made by copying.
    fn lay(image: &mut [u8], chunk: usize, chunks: &[(u64, u8)]) {
        for &(origin, fill) in chunks {
            let start = origin as usize * chunk;
            let end = image.len().min(start + chunk);
            image[start..end].fill(fill);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Resize(usize),
        Push(u32, Vec<(u16, u8)>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let chunks = prop::collection::btree_map(any::<u16>(), 1u8.., 0..20);
        prop_oneof![
            (1usize..200_000).prop_map(Step::Resize),
            (prop_oneof![Just(8), Just(16), Just(64)], chunks)
                .prop_map(|(sectors, chunks)| Step::Push(sectors, chunks.into_iter().collect())),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_stack_is_what_copying_makes(
            base in 1usize..200_000,
            steps in prop::collection::vec(step(), 0..8),
            reads in prop::collection::vec((0usize..200_000, 1usize..50_000), 1..10),
        ) {
            let mut image: Vec<u8> = (0..base).map(|i| (i / 512) as u8 | 1).collect();
            let disk = MemDisk::new(image.clone());
            let mut stack = Stack::new(&disk, base as u64);
            for step in &steps {
                match step {
                    Step::Resize(size) => {
                        stack.resize(*size as u64);
                        image.resize(*size, 0);
                    }
                    Step::Push(sectors, chunks) => {
                        let bytes = *sectors as usize * 512;
                        let count = image.len().div_ceil(bytes) as u64;
                        let mut chunks: Vec<(u64, u8)> =
                            chunks.iter().map(|&(n, fill)| (u64::from(n) % count, fill)).collect();
                        chunks.sort_unstable();
                        chunks.dedup_by_key(|chunk| chunk.0);
                        stack.push(store(*sectors, &chunks)).unwrap();
                        lay(&mut image, bytes, &chunks);
                    }
                }
            }
            prop_assert_eq!(stack.size(), image.len() as u64);
            let mut all = vec![0; image.len()];
            stack.read_at(0, &mut all).unwrap();
            prop_assert!(all == image);
            for (start, len) in reads {
                let start = start.min(image.len());
                let end = image.len().min(start + len);
                let mut part = vec![0; end - start];
                stack.read_at(start as u64, &mut part).unwrap();
                prop_assert!(part == image[start..end]);
                // Holes are zero.
                let data = stack.next_data(start as u64) as usize;
                prop_assert!(data >= start && data <= image.len());
                prop_assert!(image[start..data].iter().all(|&byte| byte == 0));
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let base = MemDisk::new(vec![0; 8192]);
        let mut stack = Stack::new(&base, 8192);
        let error = stack.push(store(8, &[(2, 1)])).unwrap_err().to_string();
        assert!(error.contains("too small"), "{error}");
        let error = stack.read_at(8191, &mut [0; 2]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
