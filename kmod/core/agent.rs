// SPDX-License-Identifier: GPL-2.0

//! What a target and its agent say to each other, through the character device.
//!
//! Both directions are rows of records of [`LEN`] bytes, in the byte order of the machine:
//!
//! | bytes | field | |
//! | --- | --- | --- |
//! | 0-3 | kind | which order or event |
//! | 4-7 | len | a number of chunks, or as the kind says |
//! | 8-15 | number | an epoch, a request, or a device |
//! | 16-23 | first | the first chunk |
//!
//! The first record of an agent is [`Order::Bind`]; what may follow depends on the role that it
//! names.

use super::format::ChunkSize;
use super::stable::Range;
use core::fmt;

/// Bytes of a record.
pub const LEN: usize = 24;
/// The version of what is said; [`Order::Bind`] tells it.
pub const VERSION: u32 = 1;

/// What the agent of a node has to do with the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It asks others to keep chunks.
    Writer,
    /// It is asked.
    Copier,
}

/// What an agent tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It speaks for the targets on this volume.
    Bind {
        /// The role.
        role: Role,
        /// The number of the volume's block device.
        major: u32,
        /// The same.
        minor: u32,
        /// In what chunks are counted.
        chunk: ChunkSize,
    },
    /// A copier: keep these chunks, and then say so.
    Keep {
        /// The number of the request.
        number: u64,
        /// The chunks.
        range: Range,
    },
    /// A writer: these chunks are stable, in this epoch.
    Stable {
        /// The epoch.
        epoch: u64,
        /// The chunks.
        range: Range,
    },
    /// A writer: nothing is stable any more. Epochs count upwards.
    Epoch {
        /// The new epoch.
        epoch: u64,
    },
}

/// What a target tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A writer: writes wait until these chunks are stable.
    Need {
        /// The epoch.
        epoch: u64,
        /// The chunks.
        range: Range,
    },
    /// A writer: no write is under way that was let through before this epoch.
    Drained {
        /// The epoch.
        epoch: u64,
    },
    /// A writer: the volume takes no writes from this node.
    Fenced {
        /// The epoch.
        epoch: u64,
    },
    /// A copier: what a request is for has been kept.
    Kept {
        /// The number of the request.
        number: u64,
    },
}

/// Why a record is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// Not as long as a record.
    Length(usize),
    /// A kind that does not exist.
    Kind(u32),
    /// The agent speaks another version.
    Version(u32),
    /// The chunk size is none.
    Chunk(u64),
    /// No chunks, or chunks behind the last number that there is.
    Range(Range),
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Length(got) => write!(f, "{got} bytes are no row of records of {LEN} bytes"),
            Self::Kind(kind) => write!(f, "there is no record of kind {kind}"),
            Self::Version(version) => write!(
                f,
                "version {version} of the records is not known, only {VERSION}: use the agent that belongs to this module"
            ),
            Self::Chunk(sectors) => write!(f, "a chunk cannot have {sectors} sectors"),
            Self::Range(Range { first, len }) => write!(f, "{len} chunks from {first} on are no range"),
        }
    }
}

const BIND_WRITER: u32 = 1;
const BIND_COPIER: u32 = 2;
const KEEP: u32 = 3;
const STABLE: u32 = 4;
const EPOCH: u32 = 5;
const NEED: u32 = 16;
const DRAINED: u32 = 17;
const FENCED: u32 = 18;
const KEPT: u32 = 19;

/// The fields of a record.
#[derive(Clone, Copy, Default)]
struct Record {
    kind: u32,
    len: u32,
    number: u64,
    first: u64,
}

impl Record {
    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let parts = || {
            let (kind, rest) = bytes.split_first_chunk()?;
            let (len, rest) = rest.split_first_chunk()?;
            let (number, rest) = rest.split_first_chunk()?;
            let first: &[u8; 8] = rest.try_into().ok()?;
            Some((kind, len, number, first))
        };
        let (kind, len, number, first) = parts().ok_or(RecordError::Length(bytes.len()))?;
        Ok(Self {
            kind: u32::from_ne_bytes(*kind),
            len: u32::from_ne_bytes(*len),
            number: u64::from_ne_bytes(*number),
            first: u64::from_ne_bytes(*first),
        })
    }

    fn encode(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let mut fill = || {
            let (kind, rest) = bytes.split_first_chunk_mut()?;
            let (len, rest) = rest.split_first_chunk_mut()?;
            let (number, rest) = rest.split_first_chunk_mut()?;
            *kind = self.kind.to_ne_bytes();
            *len = self.len.to_ne_bytes();
            *number = self.number.to_ne_bytes();
            *rest.first_chunk_mut()? = self.first.to_ne_bytes();
            Some(())
        };
        // It has room for all of them.
        let _ = fill();
        bytes
    }

    fn with_range(kind: u32, number: u64, range: Range) -> Self {
        Self {
            kind,
            // Ranges are cut long before.
            len: u32::try_from(range.len).unwrap_or(u32::MAX),
            number,
            first: range.first,
        }
    }

    fn range(self) -> Result<Range, RecordError> {
        let range = Range {
            first: self.first,
            len: u64::from(self.len),
        };
        if range.len == 0 || self.first.checked_add(range.len).is_none() {
            return Err(RecordError::Range(range));
        }
        Ok(range)
    }

    fn bind(self, role: Role) -> Result<Order, RecordError> {
        if self.len != VERSION {
            return Err(RecordError::Version(self.len));
        }
        let sectors = u32::try_from(self.first).map_err(|_| RecordError::Chunk(self.first))?;
        Ok(Order::Bind {
            role,
            major: (self.number >> 32) as u32,
            minor: self.number as u32,
            chunk: ChunkSize::new(sectors).map_err(|_| RecordError::Chunk(self.first))?,
        })
    }
}

impl Order {
    /// Reads a record.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let record = Record::decode(bytes)?;
        let number = record.number;
        match record.kind {
            BIND_WRITER => record.bind(Role::Writer),
            BIND_COPIER => record.bind(Role::Copier),
            KEEP => record.range().map(|range| Self::Keep { number, range }),
            STABLE => record.range().map(|range| Self::Stable {
                epoch: number,
                range,
            }),
            EPOCH => Ok(Self::Epoch { epoch: number }),
            kind => Err(RecordError::Kind(kind)),
        }
    }

    /// The record.
    pub fn encode(self) -> [u8; LEN] {
        match self {
            Self::Bind {
                role,
                major,
                minor,
                chunk,
            } => Record {
                kind: match role {
                    Role::Writer => BIND_WRITER,
                    Role::Copier => BIND_COPIER,
                },
                len: VERSION,
                number: (u64::from(major) << 32) | u64::from(minor),
                first: u64::from(chunk.sectors()),
            },
            Self::Keep { number, range } => Record::with_range(KEEP, number, range),
            Self::Stable { epoch, range } => Record::with_range(STABLE, epoch, range),
            Self::Epoch { epoch } => Record {
                kind: EPOCH,
                number: epoch,
                ..Record::default()
            },
        }
        .encode()
    }
}

impl Event {
    /// Reads a record.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let record = Record::decode(bytes)?;
        let number = record.number;
        match record.kind {
            NEED => record.range().map(|range| Self::Need {
                epoch: number,
                range,
            }),
            DRAINED => Ok(Self::Drained { epoch: number }),
            FENCED => Ok(Self::Fenced { epoch: number }),
            KEPT => Ok(Self::Kept { number }),
            kind => Err(RecordError::Kind(kind)),
        }
    }

    /// The record.
    pub fn encode(self) -> [u8; LEN] {
        let plain = |kind, number| Record {
            kind,
            number,
            ..Record::default()
        };
        match self {
            Self::Need { epoch, range } => Record::with_range(NEED, epoch, range),
            Self::Drained { epoch } => plain(DRAINED, epoch),
            Self::Fenced { epoch } => plain(FENCED, epoch),
            Self::Kept { number } => plain(KEPT, number),
        }
        .encode()
    }
}

#[cfg(test)]
mod tests;
