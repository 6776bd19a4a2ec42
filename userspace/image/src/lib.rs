// SPDX-License-Identifier: GPL-2.0-or-later

//! Images of ext4 file systems, built without root and without mounting.
//!
//! A tree of files is laid over the image of the version before, so that what did not change keeps its
//! blocks and inodes: then the difference of the two images is little more than that of the trees.
//!
//! | module | does |
//! | --- | --- |
//! | [`mod@build`] | from a tree and a base to an image |
//! | [`tree`] | trees: from a folder, a tar archive or a container image |
//! | [`lay`] | lays a tree over what is in a file system |
//!
//! Below them, `old` reads the base and decides which of its inodes stay, `base` copies it or makes a
//! new one, and `ext4` is libext2fs made safe; all unsafe code is in `ext4/ffi.rs`.

#![deny(unsafe_code)]

mod base;
pub mod build;
pub mod error;
mod ext4;
pub mod lay;
mod old;
mod progress;
pub mod tree;

pub use base::parse_uuid;
pub use build::build;
pub use build::Built;
pub use build::Options;
pub use build::Source;
pub use error::Error;
pub use error::Kind;
pub use error::Result;
pub use ext4::inode::Time;
