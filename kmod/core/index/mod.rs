// SPDX-License-Identifier: GPL-2.0

//! The exception index: which chunks live in the COW device, and where.
//!
//! A B+tree of runs. A run is up to [`Run::MAX_LEN`] chunks that are consecutive on both devices
//! and takes ten bytes of a leaf.
//!
//! - **Lookup takes no lock.** It is a walk over a few nodes under a sequence counter and is
//!   repeated if a change came in between (`seq.rs` has the memory orderings). The answer says how
//!   many chunks it holds for, so that one lookup serves a whole bio.
//! - **Changes are serialised by the caller**, who keeps the [`IndexWriter`] inside its lock and
//!   passes it to each of them. The lock must not be preempted by readers: a reader spins while a
//!   change runs, which is a microsecond or less.
//! - **Memory belongs to the caller.** The index lives in segments of [`SEGMENT_NODES`] nodes of
//!   1 KiB that the caller allocates where it may, publishes in its [`Directory`] and hands over
//!   by [`Index::add_segment`]. A change that might need more nodes than there are says
//!   [`IndexError::NeedNodes`] before it has changed anything. A node, once handed over, stays
//!   one for the life of the index, so a reader that lost a race sees old words, never foreign
//!   ones.
//!
//! ```
//! use holey_core::format::Exception;
//! use holey_core::index::*;
//! use std::sync::OnceLock;
//!
//! /// Room for a hundred segments.
//! struct Segments([OnceLock<Vec<Node>>; 100]);
//!
//! impl Directory for Segments {
//!     fn segment(&self, n: usize) -> Option<&[Node]> {
//!         Some(self.0.get(n)?.get()?)
//!     }
//! }
//!
//! let index = Index::new(Segments([const { OnceLock::new() }; 100]));
//! let mut writer = IndexWriter::new();
//! let first = Exception { origin: 7, cow: 2 };
//! assert_eq!(index.insert(&mut writer, first), Err(IndexError::NeedNodes));
//!
//! let nodes = (0..SEGMENT_NODES).map(|_| Node::new()).collect();
//! index.directory().0[writer.segments()].set(nodes).map_err(|_| IndexError::Damaged)?;
//! index.add_segment(&mut writer)?;
//! index.insert(&mut writer, first)?;
//! index.insert(&mut writer, Exception { origin: 8, cow: 3 })?;
//! assert_eq!(index.lookup(5)?, Extent::Unmapped { len: 2 });
//! assert_eq!(index.lookup(7)?, Extent::Mapped { cow: 2, len: 2 });
//! # Ok::<(), IndexError>(())
//! ```

mod append;
mod inner;
mod leaf;
mod node;
mod path;
mod read;
mod room;
mod seq;
mod write;

#[cfg(test)]
mod tests;

use super::format::Exception;
use super::format::MAX_COW_CHUNKS;
use core::fmt;
use core::sync::atomic::AtomicU32;
use node::NIL;
use seq::SeqCount;

pub use append::Inserter;
pub use node::Node;
pub use read::Runs;
pub use read::Version;

/// Nodes in a segment: 16 KiB of memory.
pub const SEGMENT_NODES: usize = 16;

/// Levels that a tree can have. Ten are out of reach: each takes dozens of times the changes of
/// the one below it to come about.
const MAX_LEVELS: usize = 10;

/// The memory of an index.
///
/// Segments are numbered from 0 without gaps. Once there, a segment stays and never moves.
/// Publishing one must be ordered before what the publisher does next, as `OnceLock` does it.
pub trait Directory {
    /// The [`SEGMENT_NODES`] nodes of segment `n`, if it has been added.
    fn segment(&self, n: usize) -> Option<&[Node]>;
}

/// Why the index was not changed, or could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexError {
    /// One of the chunks is mapped already.
    Exists,
    /// Add a segment and try again.
    NeedNodes,
    /// A run is empty or longer than [`Run::MAX_LEN`], or a chunk number is too large.
    Range,
    /// The directory does not have a segment that it had, or the writer is that of another index.
    Damaged,
}

impl fmt::Display for IndexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exists => "the chunk has an exception already",
            Self::NeedNodes => "the exception index needs more memory",
            Self::Range => "the run of exceptions is empty, too long or out of range",
            Self::Damaged => "the exception index is damaged",
        })
    }
}

impl core::error::Error for IndexError {}

/// Chunks that are consecutive on both devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// First chunk on the origin.
    pub origin: u64,
    /// First chunk on the COW device.
    pub cow: u64,
    /// How many chunks.
    pub len: u64,
}

impl Run {
    /// Chunks in the longest run that is stored as one.
    pub const MAX_LEN: u64 = 256;

    /// No chunk.
    const EMPTY: Self = Self {
        origin: 0,
        cow: 0,
        len: 0,
    };

    /// The chunk behind the last one on the origin.
    pub const fn end(self) -> u64 {
        self.origin.wrapping_add(self.len)
    }

    /// Whether `next` continues the run on both devices.
    pub const fn continues_with(self, next: Self) -> bool {
        self.end() == next.origin && self.cow.wrapping_add(self.len) == next.cow
    }

    /// The first `len` chunks, and the others. Either may be empty.
    pub const fn split(self, len: u64) -> (Self, Self) {
        let len = if len < self.len { len } else { self.len };
        (
            Self { len, ..self },
            Self {
                origin: self.origin.wrapping_add(len),
                cow: self.cow.wrapping_add(len),
                len: self.len.wrapping_sub(len),
            },
        )
    }

    /// Whether the index can hold the run.
    const fn is_storable(self) -> bool {
        self.len >= 1
            && self.len <= Self::MAX_LEN
            && self.origin.checked_add(self.len).is_some()
            && self.cow < MAX_COW_CHUNKS
            && self.cow + self.len <= MAX_COW_CHUNKS
    }
}

impl From<Exception> for Run {
    fn from(exception: Exception) -> Self {
        Self {
            origin: exception.origin,
            cow: exception.cow,
            len: 1,
        }
    }
}

/// What the index knows of a chunk and of those behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The chunks live in the COW device.
    Mapped {
        /// Where the first of them is.
        cow: u64,
        /// How many chunks, the first included, are consecutive there. The one behind them may
        /// be mapped as well.
        len: u64,
    },
    /// The chunks live in the origin.
    Unmapped {
        /// How many chunks, the first included, up to the next one that is mapped; `u64::MAX` if
        /// there is none.
        len: u64,
    },
}

/// The exception index of one overlay; see the module's documentation.
///
/// # Invariants
///
/// Outside of a write section:
///
/// - a node on level n > 0 has children on level n - 1 only, and at least one; a leaf has at least
///   one run; the root is none, or has more than one child or is a leaf;
/// - the runs are sorted, do not overlap and do not cross a border between two children;
/// - a node is reachable from the root once, or free.
pub struct Index<D> {
    directory: D,
    seq: SeqCount,
    root: AtomicU32,
    /// Low and high half of the number of mapped chunks.
    mapped: [AtomicU32; 2],
}

/// What a change of the index needs beside the index, kept by the caller inside its lock.
///
/// Each index has one writer, made with it and never used with another index.
#[derive(Debug)]
pub struct IndexWriter {
    /// The first node that was used and given back.
    free: u32,
    /// How many of those there are.
    freed: u32,
    /// The first node that was not used yet.
    fresh: u32,
    /// The node behind the last one of the last segment.
    limit: u32,
    /// How many runs the leaves hold.
    runs: u64,
}

impl IndexWriter {
    /// The writer of a new index.
    pub const fn new() -> Self {
        Self {
            free: NIL,
            freed: 0,
            fresh: 0,
            limit: 0,
            runs: 0,
        }
    }

    /// Nodes that are free. With [`IndexWriter::ENOUGH_NODES`] no change is refused.
    pub const fn free_nodes(&self) -> u32 {
        self.freed
            .saturating_add(self.limit.saturating_sub(self.fresh))
    }

    /// Nodes that the index consists of.
    pub const fn used_nodes(&self) -> u32 {
        self.limit.saturating_sub(self.free_nodes())
    }

    /// Segments that were added; the number of the next one.
    pub const fn segments(&self) -> usize {
        self.limit as usize / SEGMENT_NODES
    }

    /// Runs that the index holds.
    pub const fn runs(&self) -> u64 {
        self.runs
    }

    /// Free nodes with which no change is refused: a split of every level and a new root.
    pub const ENOUGH_NODES: u32 = MAX_LEVELS as u32 + 1;
}

impl Default for IndexWriter {
    fn default() -> Self {
        Self::new()
    }
}
