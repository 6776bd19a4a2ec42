// SPDX-License-Identifier: GPL-2.0-or-later

//! The protocol by which nodes share one volume.
//!
//! One node writes to the volume, the others are its copiers: each sees the volume as it was when it joined, but for
//! what it has written itself, all of which is in an overlay of its own. Before the writer overwrites a chunk every
//! copier has kept what was there. When the writer is gone a copier takes its place: its view becomes the volume,
//! and the views of the others stay.
//!
//! | module | holds |
//! | --- | --- |
//! | [`event`] | what a node is told, and what it wants done |
//! | [`node`] | what a node does about what happens to it |
//! | [`writer`] | its part while it is the writer |
//! | [`board`] | requests that not all have answered |
//! | [`hello`] | the first words on a stream |
//! | [`message`] | what nodes say to each other, and its bytes |
//! | [`ids`] | names and numbers |
//!
//! Nothing in here does I/O or knows a clock: a [`node::Node`] is told what has happened, and says what is to be
//! done. `tests/simulation` runs thousands of clusters of them through faults of every kind.
//! Documentation/cluster-protocol.rst has messages, states and invariants in one place.

#![forbid(unsafe_code)]

pub mod board;
pub mod event;
pub mod hello;
pub mod ids;
pub mod message;
pub mod node;
pub mod writer;
