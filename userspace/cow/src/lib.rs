// SPDX-License-Identifier: GPL-2.0-or-later

//! Persistent COW stores, in files and on block devices.
//!
//! The format itself lives in [`holey_core::format`], which the kernel module shares. This crate
//! adds what userspace does with it:
//!
//! | module | does |
//! | --- | --- |
//! | [`disk`] | the bytes: a trait, with files, block devices and memory behind it |
//! | [`store`] | reads a store and believes nothing in it before it is checked |
//! | [`writer`] | builds a store as a stream; it becomes a store with its last write |
//! | [`scatter`] | builds a store whose data comes in any order |
//! | [`stack`] | what stores show, one over the other |
//! | [`output`] | a file that appears whole under its name, or a device that may be overwritten |
//! | [`mod@diff`] | the difference of two images as a store |
//! | [`mod@apply`] | copies a store's content into an image, offline and restartably |
//! | [`check`] | lists everything that is wrong with a store |
//! | [`info`] | describes a store |
//! | [`copy`] | a private copy of a store, which a kernel merge may then consume |
//!
//! Offsets and sizes are in bytes unless a name says chunks or sectors.

#![forbid(unsafe_code)]

pub mod apply;
pub mod check;
pub mod copy;
pub mod diff;
pub mod disk;
pub mod error;
pub mod info;
mod numbers;
pub mod output;
pub mod progress;
pub mod scatter;
pub mod stack;
pub mod store;
mod summary;
pub mod writer;

pub use disk::Device;
pub use disk::Disk;
pub use disk::MemDisk;
pub use error::Error;
pub use error::Kind;
pub use error::Result;
pub use holey_core::format;
pub use progress::Progress;
pub use scatter::Scatter;
pub use stack::Stack;
pub use store::Store;
pub use writer::Writer;
