// SPDX-License-Identifier: GPL-2.0

//! The persistent exception store, version 1: the on-disk format of the kernel's dm-snapshot. Version
//! 2 is the same with a [summary](super::summary) of its list.
//!
//! A COW device is a row of chunks, numbered from 0:
//!
//! ```text
//! chunk    0        1        2 ...... E+1   E+2      E+3 ....
//!        +--------+--------+---------------+--------+---------
//!        | header | area 0 | E data chunks | area 1 | E data ...
//!        +--------+--------+---------------+--------+---------
//! ```
//!
//! - The header is four little-endian `u32`: magic, valid, version, chunk size in sectors.
//! - An area is one chunk of `E = chunk bytes / 16` entries; an entry is two little-endian `u64`,
//!   the origin chunk and the COW chunk that holds its content.
//! - The first entry whose COW chunk is 0 ends the list; what stands behind it means nothing.
//!
//! Source: the format as `Documentation/cow-format.rst` describes it, byte by byte.

use core::fmt;
use core::num::NonZeroU64;

/// Bytes in a sector, the unit of the block layer's addresses.
pub const SECTOR_SIZE: u64 = 512;
/// First `u32` of a persistent store: the bytes `SnAp`.
pub const MAGIC: u32 = 0x7041_6e53;
/// The version of the format, as the kernel's dm-snapshot has it.
pub const VERSION: u32 = 1;
/// The version of a store whose list has a [summary](super::summary): all that version 1 has is where
/// it is there.
pub const VERSION_WITH_SUMMARY: u32 = 2;
/// Bytes of the header that mean something; the rest of its chunk is zero.
pub const HEADER_LEN: usize = 16;
/// Bytes of one entry of an area.
pub const ENTRY_LEN: usize = 16;
/// Chunk number of the header.
pub const HEADER_CHUNK: u64 = 0;
/// Smallest chunk that is accepted, in sectors.
pub const MIN_CHUNK_SECTORS: u32 = 1;
/// Largest chunk that is accepted, in sectors (64 MiB): an area is kept in memory whole.
pub const MAX_CHUNK_SECTORS: u32 = 1 << 17;
/// COW chunk numbers stay below this (4 EiB of 4 KiB chunks), so that an index entry stays small.
pub const MAX_COW_CHUNKS: u64 = 1 << 40;

/// Why a store, or a request about one, is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatError {
    /// The chunk size is not a power of two between the limits.
    ChunkSize(u32),
    /// Fewer bytes than a header needs.
    HeaderTooShort(usize),
    /// The first word is neither zero nor [`MAGIC`].
    Magic(u32),
    /// A version other than [`VERSION`] and [`VERSION_WITH_SUMMARY`].
    Version(u32),
    /// The valid word is neither 0 nor 1.
    ValidFlag(u32),
    /// The COW device is too large for the index.
    CowTooLarge(u64),
    /// The COW device has no room for a header, an area and one data chunk.
    CowTooSmall(u64),
    /// An entry names the header, an area, or a chunk behind the end of the COW device.
    CowChunk(Exception),
    /// An entry names a chunk behind the end of the origin.
    OriginChunk(Exception),
    /// Two entries name the same COW chunk.
    CowTwice(Exception),
    /// Two entries name the same origin chunk.
    OriginTwice(Exception),
    /// The list runs past the end of the COW device.
    NoEnd(u64),
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ChunkSize(sectors) => write!(
                f,
                "chunk size {sectors} sectors is not a power of two from {MIN_CHUNK_SECTORS} to {MAX_CHUNK_SECTORS}"
            ),
            Self::HeaderTooShort(len) => write!(f, "{len} bytes are too few for a header of {HEADER_LEN}"),
            Self::Magic(magic) => write!(
                f,
                "magic {magic:#010x} is not that of a COW store ({MAGIC:#010x}); zero its first 4 KiB to make a new one"
            ),
            Self::Version(version) => write!(
                f,
                "COW store version {version} is neither {VERSION} nor {VERSION_WITH_SUMMARY}"
            ),
            Self::ValidFlag(flag) => write!(f, "valid flag {flag} is neither 0 nor 1"),
            Self::CowTooLarge(chunks) => write!(f, "{chunks} COW chunks are more than {MAX_COW_CHUNKS}; use larger chunks"),
            Self::CowTooSmall(chunks) => write!(f, "a COW device of {chunks} chunks has no room for data; at least 3 are needed"),
            Self::CowChunk(e) => write!(
                f,
                "entry {e}: the COW chunk is metadata or lies behind the end of the COW device (truncated image?)"
            ),
            Self::OriginChunk(e) => write!(f, "entry {e}: the origin chunk lies behind the end of the origin"),
            Self::CowTwice(e) => write!(f, "entry {e}: the COW chunk is used twice"),
            Self::OriginTwice(e) => write!(f, "entry {e}: the origin chunk is listed twice"),
            Self::NoEnd(area) => write!(
                f,
                "the list of exceptions has no end: area {area} lies behind the end of the COW device (truncated image?)"
            ),
        }
    }
}

/// A chunk size: a power of two of sectors between [`MIN_CHUNK_SECTORS`] and [`MAX_CHUNK_SECTORS`].
///
/// # Invariants
///
/// `shift` is the binary logarithm of a size within the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSize {
    shift: u32,
}

impl ChunkSize {
    /// Accepts a size in sectors.
    pub fn new(sectors: u32) -> Result<Self, FormatError> {
        if !sectors.is_power_of_two() || !(MIN_CHUNK_SECTORS..=MAX_CHUNK_SECTORS).contains(&sectors)
        {
            return Err(FormatError::ChunkSize(sectors));
        }
        // INVARIANT: The size was just checked.
        Ok(Self {
            shift: sectors.trailing_zeros(),
        })
    }

    /// The size in sectors.
    pub const fn sectors(self) -> u32 {
        1 << self.shift
    }

    /// The size in bytes.
    pub const fn bytes(self) -> usize {
        (SECTOR_SIZE as usize) << self.shift
    }

    /// Binary logarithm of the size in sectors.
    pub const fn shift(self) -> u32 {
        self.shift
    }

    /// The chunk that holds `sector`.
    pub const fn chunk_of(self, sector: u64) -> u64 {
        sector >> self.shift
    }

    /// Where `sector` lies inside its chunk, in sectors.
    pub const fn offset_of(self, sector: u64) -> u64 {
        sector & (self.sectors() as u64 - 1)
    }

    /// The first sector of `chunk`. Chunk numbers come from sectors or were checked against a
    /// device's size, so the result fits; a number that did not would saturate.
    pub const fn sector_of(self, chunk: u64) -> u64 {
        chunk.saturating_mul(self.sectors() as u64)
    }

    /// How many chunks cover `sectors`, the last one perhaps in part.
    pub const fn chunks_covering(self, sectors: u64) -> u64 {
        sectors.div_ceil(self.sectors() as u64)
    }

    /// How many whole chunks fit into `sectors`.
    pub const fn chunks_within(self, sectors: u64) -> u64 {
        sectors >> self.shift
    }
}

/// The header of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// False once the snapshot has been invalidated; it never comes back.
    pub valid: bool,
    /// Size of every chunk of the store.
    pub chunk: ChunkSize,
}

impl Header {
    /// Reads a header from the start of a COW device, whether or not its list has a summary. `None`
    /// is a fresh device: magic 0.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, FormatError> {
        let short = FormatError::HeaderTooShort(bytes.len());
        let word = |at: usize| -> Result<u32, FormatError> {
            let raw = bytes.get(at..at + 4).ok_or(short)?;
            Ok(u32::from_le_bytes(raw.try_into().map_err(|_| short)?))
        };
        let (magic, valid, version, sectors) = (word(0)?, word(4)?, word(8)?, word(12)?);
        match magic {
            0 => return Ok(None),
            MAGIC => {}
            other => return Err(FormatError::Magic(other)),
        }
        if version != VERSION && version != VERSION_WITH_SUMMARY {
            return Err(FormatError::Version(version));
        }
        if valid > 1 {
            return Err(FormatError::ValidFlag(valid));
        }
        Ok(Some(Self {
            valid: valid == 1,
            chunk: ChunkSize::new(sectors)?,
        }))
    }

    /// The sixteen bytes that stand at the start of the COW device, of version 1: a store of which
    /// they are written has no summary, or has none any more.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let words = [MAGIC, u32::from(self.valid), VERSION, self.chunk.sectors()];
        for (to, word) in out.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        out
    }
}

/// One exception: the content of an origin chunk lives in a COW chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Exception {
    /// Chunk number on the origin.
    pub origin: u64,
    /// Chunk number on the COW device.
    pub cow: u64,
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.origin, self.cow)
    }
}

impl Exception {
    /// Reads one entry of an area. `None` ends the list, also when `bytes` is too short.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let origin = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
        let cow = u64::from_le_bytes(bytes.get(8..ENTRY_LEN)?.try_into().ok()?);
        (cow != 0).then_some(Self { origin, cow })
    }

    /// The sixteen bytes of the entry.
    pub fn encode(&self) -> [u8; ENTRY_LEN] {
        let mut out = [0; ENTRY_LEN];
        let (origin, cow) = out.split_at_mut(8);
        origin.copy_from_slice(&self.origin.to_le_bytes());
        cow.copy_from_slice(&self.cow.to_le_bytes());
        out
    }
}

/// Where things are on a COW device of a given chunk size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    chunk: ChunkSize,
    transient: bool,
}

impl Layout {
    /// First chunk of a persistent store that can hold data.
    pub const FIRST_DATA: u64 = 2;

    /// The layout of a persistent store with this chunk size.
    pub const fn new(chunk: ChunkSize) -> Self {
        Self {
            chunk,
            transient: false,
        }
    }

    /// The layout of a transient store: every chunk holds data, and there is no list.
    pub const fn transient(chunk: ChunkSize) -> Self {
        Self {
            chunk,
            transient: true,
        }
    }

    /// Whether the exceptions are kept in memory only.
    pub const fn is_transient(self) -> bool {
        self.transient
    }

    /// First chunk that can hold data.
    pub const fn first_data(self) -> u64 {
        if self.transient {
            0
        } else {
            Self::FIRST_DATA
        }
    }

    /// The chunk size.
    pub const fn chunk(self) -> ChunkSize {
        self.chunk
    }

    /// Entries in an area, which is also the number of data chunks behind it. A power of two, which the
    /// compiler sees too.
    pub const fn entries(self) -> u64 {
        /// Binary logarithm of the entries in a sector.
        const IN_A_SECTOR: u32 = (SECTOR_SIZE as usize / ENTRY_LEN).ilog2();
        1u64.wrapping_shl(self.chunk.shift().wrapping_add(IN_A_SECTOR))
    }

    /// Chunks from one area to the next: at least 2, which the compiler sees too.
    pub const fn stride(self) -> u64 {
        NonZeroU64::MIN.saturating_add(self.entries()).get()
    }

    /// The chunk that holds area `area`.
    pub const fn area_chunk(self, area: u64) -> u64 {
        area.saturating_mul(self.stride()).saturating_add(1)
    }

    /// Whether `chunk` is the header or an area.
    pub const fn is_metadata(self, chunk: u64) -> bool {
        !self.transient && (chunk == HEADER_CHUNK || chunk % self.stride() == 1)
    }

    /// `chunk`, or the next one if it is metadata.
    pub const fn skip_metadata(self, chunk: u64) -> u64 {
        if chunk < self.first_data() {
            self.first_data()
        } else if self.is_metadata(chunk) {
            chunk.saturating_add(1)
        } else {
            chunk
        }
    }

    /// How many chunks there are from data chunk `chunk` to the next area.
    pub const fn data_from(self, chunk: u64) -> u64 {
        if self.transient {
            return u64::MAX;
        }
        // Areas stand at 1 modulo the stride.
        self.stride() - chunk.wrapping_sub(1) % self.stride()
    }

    /// How many areas lie wholly inside a COW device of `cow_chunks` chunks.
    pub const fn areas_within(self, cow_chunks: u64) -> u64 {
        if cow_chunks < 2 {
            0
        } else {
            (cow_chunks - 2) / self.stride() + 1
        }
    }

    /// How many exceptions a COW device of `cow_chunks` chunks can list: an area may be filled
    /// only if the next one, which then ends the list, is on the device too.
    pub const fn capacity(self, cow_chunks: u64) -> u64 {
        if self.transient {
            return cow_chunks;
        }
        let areas = self.areas_within(cow_chunks);
        if areas == 0 {
            return 0;
        }
        let data = cow_chunks.saturating_sub(1 + areas);
        let listable = areas.saturating_mul(self.entries()).saturating_sub(1);
        if data < listable {
            data
        } else {
            listable
        }
    }

    /// The chunks a COW device needs to hold `exceptions`, including the area that ends the list.
    pub const fn chunks_for(self, exceptions: u64) -> u64 {
        let areas = exceptions / self.entries() + 1;
        exceptions.saturating_add(areas).saturating_add(1)
    }

    /// Checks that an entry names a data chunk of the COW device and a chunk of the origin.
    pub fn check(self, entry: Exception, bounds: Bounds) -> Result<(), FormatError> {
        if entry.cow >= bounds.cow_chunks || self.is_metadata(entry.cow) {
            return Err(FormatError::CowChunk(entry));
        }
        if entry.origin >= bounds.origin_chunks {
            return Err(FormatError::OriginChunk(entry));
        }
        Ok(())
    }
}

/// The sizes of the two devices of an overlay, in chunks of its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Chunks that cover the origin; the last one may lie in it only in part.
    pub origin_chunks: u64,
    /// Whole chunks on the COW device.
    pub cow_chunks: u64,
}

impl Bounds {
    /// Takes the sizes of origin and COW device in sectors.
    pub fn new(chunk: ChunkSize, origin: u64, cow: u64) -> Result<Self, FormatError> {
        let bounds = Self {
            origin_chunks: chunk.chunks_covering(origin),
            cow_chunks: chunk.chunks_within(cow),
        };
        if bounds.cow_chunks < 3 {
            return Err(FormatError::CowTooSmall(bounds.cow_chunks));
        }
        if bounds.cow_chunks >= MAX_COW_CHUNKS {
            return Err(FormatError::CowTooLarge(bounds.cow_chunks));
        }
        Ok(bounds)
    }
}

/// A bit for each COW chunk, in memory that the caller owns: finds chunks that are listed twice
/// and, after loading, the free ones between them.
pub struct UsedMap<'a> {
    words: &'a mut [u64],
}

impl<'a> UsedMap<'a> {
    /// Words needed for a COW device of `cow_chunks` chunks.
    pub const fn words_for(cow_chunks: u64) -> u64 {
        cow_chunks.div_ceil(64)
    }

    /// Uses `words`, which the caller has cleared.
    pub fn new(words: &'a mut [u64]) -> Self {
        Self { words }
    }

    /// Marks a chunk. False if it was marked already or is out of range.
    pub fn claim(&mut self, chunk: u64) -> bool {
        let bit = 1u64 << (chunk % 64);
        let word = usize::try_from(chunk / 64)
            .ok()
            .and_then(|at| self.words.get_mut(at));
        match word {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                true
            }
            _ => false,
        }
    }

    /// Whether a chunk is marked.
    pub fn is_used(&self, chunk: u64) -> bool {
        usize::try_from(chunk / 64)
            .ok()
            .and_then(|at| self.words.get(at))
            .is_some_and(|word| word & (1u64 << (chunk % 64)) != 0)
    }
}
