// SPDX-License-Identifier: GPL-2.0-or-later

//! The checkpoints of a master image, in a folder.
//!
//! The oldest version is kept whole, and each later one as a COW store over the one before. Beside them
//! are deltas between versions, which clients are given. A list of all that, the manifest, is replaced as
//! a whole, after everything it names is durable: so a checkpoint is there or not, whatever happens, and
//! what is in the folder without being in the list is a leftover that the next change removes.
//! `Documentation/image-repository.rst` describes the folder.
//!
//! | module | does |
//! | --- | --- |
//! | [`manifest`] | the list, checked before it is believed |
//! | [`repository`] | the folder: its lock, its files, and the content of each version |
//! | [`checkpoint`] | adds a version |
//! | [`squash`] | makes a delta between any two versions |
//! | [`prune`] | removes old versions |
//! | [`compare`] | tells what differs between two versions |
//! | [`catalog`] | what clients are told of versions and deltas |
//! | [`check`] | reads everything and compares it with its digests |

#![forbid(unsafe_code)]

pub mod catalog;
pub mod check;
pub mod checkpoint;
pub mod compare;
pub mod error;
pub mod manifest;
pub mod prune;
pub mod repository;
pub mod squash;

pub use catalog::Catalog;
pub use error::Error;
pub use error::Result;
pub use manifest::Manifest;
pub use manifest::Version;
pub use repository::Repository;

use dmholey_cow::Progress;

/// Makes whatever shows the progress of one piece of a long work, given its name.
pub type Watch<'a> = &'a dyn Fn(&str) -> Box<dyn Progress>;
