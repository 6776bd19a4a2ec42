// SPDX-License-Identifier: GPL-2.0-or-later

//! Names and numbers of the protocol, each a type of its own.

use serde::Deserialize;
use serde::Serialize;
use std::fmt;

/// A node, as the configuration numbers it: below [`NodeId::LIMIT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct NodeId(u8);

impl NodeId {
    /// How many nodes there can be: a request has one bit for each.
    pub const LIMIT: u8 = 64;

    /// A node's number; `None` if it is too large.
    pub const fn new(number: u8) -> Option<Self> {
        if number < Self::LIMIT {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The number.
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for NodeId {
    type Error = &'static str;

    fn try_from(number: u8) -> Result<Self, Self::Error> {
        Self::new(number).ok_or("a node's number is below 64")
    }
}

impl From<NodeId> for u8 {
    fn from(node: NodeId) -> Self {
        node.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "node {}", self.0)
    }
}

/// Some nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeSet(u64);

impl NodeSet {
    /// Nobody.
    pub const EMPTY: Self = Self(0);

    const fn bit(node: NodeId) -> u64 {
        1 << node.0
    }

    /// Whether nobody is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a node is in it.
    pub const fn contains(self, node: NodeId) -> bool {
        self.0 & Self::bit(node) != 0
    }

    /// Adds a node; true if it was not there.
    pub fn insert(&mut self, node: NodeId) -> bool {
        let before = self.0;
        self.0 |= Self::bit(node);
        self.0 != before
    }

    /// Takes a node out; true if it was there.
    pub fn remove(&mut self, node: NodeId) -> bool {
        let before = self.0;
        self.0 &= !Self::bit(node);
        self.0 != before
    }

    /// Those that are not in `others`.
    #[must_use]
    pub const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// All of them, lowest number first.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        (0..NodeId::LIMIT)
            .map(NodeId)
            .filter(move |&node| self.contains(node))
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        let mut set = Self::EMPTY;
        for node in nodes {
            set.insert(node);
        }
        set
    }
}

/// One attempt of one node to be the writer. Two attempts are never the same, and of any two one is the higher.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Ballot {
    /// Higher than that of any attempt that the node knew of; 0 if there was none.
    pub number: u64,
    /// The number of the node.
    pub node: u8,
}

impl Ballot {
    /// No node counts further than this; whoever says so wants that none can claim any more.
    pub const LIMIT: u64 = 1 << 62;

    /// Whether a node may have counted so far.
    pub const fn is_possible(self) -> bool {
        self.number < Self::LIMIT
    }
}

impl fmt::Display for Ballot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.number, self.node)
    }
}

/// One attachment of a copier to the volume, from an empty overlay to its end. The copier draws the number, and
/// never uses one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment(pub u64);

/// A time of a writer in which nobody joined: what became stable in an earlier one need not be stable for who came
/// later. Counted by the writer's agent.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

/// The number of a request to keep chunks, counted from 0 by each writer.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Seq(pub u64);

/// Consecutive chunks of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Range {
    /// The first chunk.
    pub first: u64,
    /// How many; never 0.
    pub len: u32,
}

impl Range {
    /// Whether it lies in a volume of so many chunks.
    pub fn is_within(self, chunks: u64) -> bool {
        self.len != 0
            && self
                .first
                .checked_add(u64::from(self.len))
                .is_some_and(|end| end <= chunks)
    }

    /// Its chunks, if it lies in some volume.
    pub fn chunks(self) -> std::ops::Range<u64> {
        self.first..self.first.saturating_add(u64::from(self.len))
    }
}
