// SPDX-License-Identifier: GPL-2.0-or-later

//! What a device should hold, without holding a copy of it.

use crate::data;
use crate::data::SECTOR;
use crate::store::Exceptions;
use std::ops::Range;
use std::sync::Arc;

/// The content of an origin, with some chunks replaced.
#[derive(Clone, Debug)]
pub(crate) struct View {
    base: Arc<Vec<u8>>,
    /// Bytes of a chunk, and the chunks.
    overlay: Option<(usize, Arc<Exceptions>)>,
}

impl View {
    /// The origin as it is.
    pub(crate) fn plain(base: &Arc<Vec<u8>>) -> Self {
        Self {
            base: Arc::clone(base),
            overlay: None,
        }
    }

    /// The origin with exceptions; a chunk has so many bytes.
    pub(crate) fn overlaid(base: &Arc<Vec<u8>>, chunk: usize, chunks: &Arc<Exceptions>) -> Self {
        Self {
            base: Arc::clone(base),
            overlay: Some((chunk, Arc::clone(chunks))),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.base.len()
    }

    /// Some bytes of it, in pieces that hang together.
    fn pieces(&self, range: Range<usize>) -> impl Iterator<Item = (usize, &[u8])> {
        let mut at = range.start;
        std::iter::from_fn(move || {
            if at >= range.end {
                return None;
            }
            let start = at;
            let Some((bytes, chunks)) = &self.overlay else {
                at = range.end;
                return Some((start, &self.base[range.clone()]));
            };
            let number = (start / bytes) as u64;
            if let Some(content) = chunks.get(&number) {
                let first = number as usize * bytes;
                at = range.end.min(first + content.len());
                return Some((start, &content[start - first..at - first]));
            }
            let next = chunks.range(number + 1..).next();
            let next = next.map_or(usize::MAX, |(&number, _)| number as usize * bytes);
            at = range.end.min(next);
            Some((start, &self.base[start..at]))
        })
    }

    /// Some bytes of it.
    pub(crate) fn bytes(&self, range: Range<usize>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(range.len());
        for (_, piece) in self.pieces(range) {
            bytes.extend_from_slice(piece);
        }
        bytes
    }

    /// Where `got`, which begins with byte `start`, differs from it first, if it does.
    pub(crate) fn difference(&self, got: &[u8], start: usize) -> Option<String> {
        let range = start..start + got.len();
        let same = |(at, piece): (usize, &[u8])| got[at - start..][..piece.len()] == *piece;
        if self.pieces(range.clone()).all(same) {
            return None;
        }
        data::difference(got, &self.bytes(range), (start / SECTOR) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Tag;
    use crate::store::Exceptions;

    #[test]
    fn pieces_make_up_the_whole() {
        const CHUNK: usize = 4 * SECTOR;
        let base = Arc::new(data::fill(Tag::ORIGIN, 0, 30));
        let mut chunks = Exceptions::new();
        let mut want = base.to_vec();
        // The last chunk is the half of one.
        for number in [0, 3, 4, 7] {
            let start = number as usize * CHUNK;
            let len = CHUNK.min(base.len() - start);
            let content = data::fill(Tag::garbage(number as usize), 0, (len / SECTOR) as u64);
            want[start..start + len].copy_from_slice(&content);
            chunks.insert(number, Arc::new(content));
        }
        let view = View::overlaid(&base, CHUNK, &Arc::new(chunks));
        for start in 0..30 {
            for end in start..=30 {
                let range = start * SECTOR..end * SECTOR;
                assert_eq!(view.bytes(range.clone()), want[range.clone()]);
                assert_eq!(view.difference(&want[range.clone()], range.start), None);
            }
        }
        for at in 0..want.len() {
            want[at] ^= 4;
            let text = view.difference(&want, 0).expect("a bit is wrong");
            assert!(
                text.contains(&format!("the first is {}:", at / SECTOR)),
                "{text}"
            );
            want[at] ^= 4;
        }
        assert_eq!(View::plain(&base).bytes(512..1024), base[512..1024]);
    }
}
