// SPDX-License-Identifier: GPL-2.0-or-later

//! Limits and header of a delta. `Documentation/delta-format.rst` has it byte by byte.

use crate::digest::Digest;
use crate::error::Broken;
use serde::Serialize;

/// What a delta starts with.
pub const MAGIC: [u8; 8] = *b"DMHdelta";
/// The version that is described here.
pub const VERSION: u32 = 1;
/// Bytes of a block, the unit of places in images.
pub const BLOCK: usize = 4096;
/// The same, for arithmetic with offsets.
pub const BLOCK_LEN: u64 = BLOCK as u64;
/// Bytes of the header.
pub const HEADER_LEN: usize = 192;
/// Bytes of the header before its own digest.
const SIGNED: usize = HEADER_LEN - 32;

/// Bytes of an image at most: offsets of files are signed.
pub const MAX_IMAGE: u64 = i64::MAX as u64;
/// Bytes of an index, compressed or not, at most.
pub const MAX_INDEX: u64 = 4 << 20;
/// Runs of blocks in an index at most.
pub const MAX_RUNS: u64 = 1 << 18;
/// Lists of runs in all units at most.
pub const MAX_PIECES: u64 = 1 << 16;
/// Bytes of a unit in the file at most.
pub const MAX_PACKED: u64 = 4 << 20;
/// Bytes of a unit's source at most, read or inflated.
pub const MAX_SOURCE: u64 = 8 << 20;
/// Bytes of a unit's output at most, inflated or written.
pub const MAX_OUTPUT: u64 = 6 << 20;
/// Bytes of a unit's control stream at most.
pub const MAX_CONTROL: u64 = 1 << 20;
/// Blocks of a group of copies at most.
pub const MAX_GROUP: u64 = (4 << 20) / BLOCK_LEN;

/// Blocks of an image of `bytes` bytes; the last one may lie in it only in part.
pub fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_LEN)
}

/// The start of a delta. Its own digest, which stands behind it, vouches for everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Header {
    /// Bytes of the old image.
    pub old_len: u64,
    /// Bytes of the new image.
    pub new_len: u64,
    /// Bytes of the index in the file.
    pub index_packed: u32,
    /// Bytes of the index.
    pub index_len: u32,
    /// Bytes of the whole delta.
    pub file_len: u64,
    /// The old image: see [`crate::digest::image`].
    pub old: Digest,
    /// The new image.
    pub new: Digest,
    /// The index as it is in the file.
    pub index: Digest,
}

impl Header {
    /// Writes it, with its digest.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let fields: [&[u8]; 11] = [
            &MAGIC,
            &VERSION.to_le_bytes(),
            &(BLOCK as u32).to_le_bytes(),
            &self.old_len.to_le_bytes(),
            &self.new_len.to_le_bytes(),
            &self.index_packed.to_le_bytes(),
            &self.index_len.to_le_bytes(),
            &self.file_len.to_le_bytes(),
            &self.old.0,
            &self.new.0,
            &self.index.0,
        ];
        let mut bytes = [0; HEADER_LEN];
        let (signed, digest) = bytes.split_at_mut(SIGNED);
        for (to, from) in signed.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        digest.copy_from_slice(&Digest::of(signed).0);
        bytes
    }

    /// Reads what is at the start of a file, and checks it.
    pub fn parse(bytes: &[u8]) -> Result<Self, Broken> {
        let magic = bytes.get(..MAGIC.len()).unwrap_or(bytes);
        if magic.is_empty() || !MAGIC.starts_with(magic) {
            return Err(Broken::Magic);
        }
        let short = Broken::Short(bytes.len() as u64, HEADER_LEN as u64);
        let bytes: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(short)?;
        let mut fields = Fields(bytes.get(MAGIC.len()..).unwrap_or_default());
        let version = fields.u32();
        if version != VERSION {
            return Err(Broken::Version(version));
        }
        let (signed, digest) = bytes.split_at(SIGNED);
        if Digest::of(signed).0 != digest {
            return Err(Broken::Digest("the header"));
        }
        if fields.u32() != BLOCK as u32 {
            return Err(Broken::Limit("the block size"));
        }
        let header = Self {
            old_len: fields.u64(),
            new_len: fields.u64(),
            index_packed: fields.u32(),
            index_len: fields.u32(),
            file_len: fields.u64(),
            old: Digest(fields.take()),
            new: Digest(fields.take()),
            index: Digest(fields.take()),
        };
        // What is not looked at would not be in its identity.
        if header.encode() != *bytes {
            return Err(Broken::Limit("what is reserved in the header"));
        }
        header.check()?;
        Ok(header)
    }

    /// The header's own digest, by which a delta is told from all others.
    pub fn identity(&self) -> Digest {
        let bytes = self.encode();
        let mut digest = [0; 32];
        for (to, from) in digest.iter_mut().zip(bytes.iter().skip(SIGNED)) {
            *to = *from;
        }
        Digest(digest)
    }

    /// Where the first unit starts.
    pub fn units_at(&self) -> u64 {
        HEADER_LEN as u64 + u64::from(self.index_packed)
    }

    fn check(&self) -> Result<(), Broken> {
        let limits = [
            (self.old_len, MAX_IMAGE, "the old image's length"),
            (self.new_len, MAX_IMAGE, "the new image's length"),
            (self.index_packed.into(), MAX_INDEX, "the index's length"),
            (self.index_len.into(), MAX_INDEX, "the index's length"),
            (self.file_len, MAX_IMAGE, "the delta's length"),
        ];
        for (value, max, what) in limits {
            if value > max {
                return Err(Broken::Limit(what));
            }
        }
        Ok(())
    }
}

/// Numbers of fixed length, one behind the other; zeros behind the end.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((field, rest)) = self.0.split_first_chunk() else {
            return [0; N];
        };
        self.0 = rest;
        *field
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            old_len: 1,
            new_len: 2,
            index_packed: 3,
            index_len: 4,
            file_len: 5,
            old: Digest([6; 32]),
            new: Digest([7; 32]),
            index: Digest([8; 32]),
        }
    }

    #[test]
    fn what_was_written_is_read() {
        assert_eq!(Header::parse(&header().encode()), Ok(header()));
        assert_eq!(header().identity(), Digest::of(&header().encode()[..160]));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let bytes = header().encode();
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::parse(&bytes).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Header::parse(&bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn limits_are_kept() {
        for odd in [
            Header {
                old_len: u64::MAX,
                ..header()
            },
            Header {
                new_len: 1 << 63,
                ..header()
            },
            Header {
                index_len: (4 << 20) + 1,
                ..header()
            },
            Header {
                index_packed: u32::MAX,
                ..header()
            },
        ] {
            assert!(matches!(
                Header::parse(&odd.encode()),
                Err(Broken::Limit(_))
            ));
        }
    }
}
