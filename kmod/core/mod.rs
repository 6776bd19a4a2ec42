// SPDX-License-Identifier: GPL-2.0

//! What can be decided without touching a bio.
//!
//! | module | decides |
//! | --- | --- |
//! | [`mod@format`] | where the persistent store keeps what, and what it may contain |
//! | [`index`] | which chunks live in the COW device, and where |
//! | [`alloc`] | which COW chunk is used next |
//! | [`area`] | what the next metadata write holds |
//! | [`summary`] | how a list is found again without reading all of it |
//! | [`table`] | what a table line asks for |
//! | [`pending`] | which exceptions are being made, and who waits for them |
//! | [`epoch`] | when every reader that could see the old state is gone |
//! | [`merge`] | which exceptions are folded back together |
//! | [`stable`] | which chunks of a shared volume may be overwritten, and which are asked for |
//! | [`buffer`] | what was acknowledged before it is on the volume, and in which order it gets there |
//! | [`agent`] | what a target and its agent say to each other |
//!
//! Nothing in here allocates, locks, blocks or panics: callers own the memory and the locks.
//! Sibling modules are named through `super`, as the crate root differs between the module and
//! cargo.

pub mod agent;
pub mod alloc;
pub mod area;
pub mod buffer;
pub mod checksum;
pub mod epoch;
pub mod format;
pub mod gather;
pub mod index;
pub mod merge;
pub mod pending;
pub mod sort;
pub mod stable;
pub mod summary;
pub mod table;
