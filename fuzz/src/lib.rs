// SPDX-License-Identifier: GPL-2.0-or-later

//! What is fuzzed: everything that reads what others wrote.
//!
//! Each target is a function of bytes that panics when something is wrong. The programs in
//! `fuzz_targets/` hand them to libFuzzer; the test `tests/corpus.rs` replays the corpora without it.
//!
//! | target | reads | is held against |
//! | --- | --- | --- |
//! | [`catalog`] | a catalog that clients read, and the list of a repository | the same, written again |
//! | [`delta`] | a delta's index, and what applies it | the index, written again; nothing unchecked is written |
//! | [`ext4`] | a file system's inodes and directories | what of it is in the image |
//! | [`gzip`] | compressed files | the file, made again from its content |
//! | [`header`] | a store's header and device sizes | the format's arithmetic, written out |
//! | [`area`] | an area, and steps that change it | a list, after every step, torn write and reload |
//! | [`listing`] | the manifest of an artifact in a registry, and its address | the same, written again |
//! | [`store`] | a whole store | loading in the module and reading in the tools, against each other |
//! | [`summary`] | the summary of a list | its bounds; the same, written again |
//! | [`message`] | first words and messages of a cluster's nodes | the message, written again; the node that hears it |
//! | [`program`] | a program of a delta | the lengths of its streams |
//! | [`record`] | what a target and its agent say | the records, written again; each chunk is asked for once |
//! | [`tree`] | an archive of a tree, or of a container image | the same, read again; limits |
//! | [`table`] | a table line | what of it was accepted, written again |

#![forbid(unsafe_code)]

mod area;
mod catalog;
mod delta;
mod ext4;
mod gzip;
mod header;
mod input;
mod listing;
mod message;
mod program;
mod record;
mod sparse;
mod store;
mod summary;
mod table;
mod tree;

pub use area::area;
pub use catalog::catalog;
pub use delta::delta;
pub use ext4::ext4;
pub use gzip::gzip;
pub use header::header;
pub use listing::listing;
pub use message::message;
pub use program::program;
pub use record::record;
pub use store::store;
pub use summary::summary;
pub use table::table;
pub use tree::tree;

/// A target.
pub type Target = fn(&[u8]);

/// All targets, by the names of their programs and corpora.
pub const TARGETS: [(&str, Target); 14] = [
    ("area", area),
    ("catalog", catalog),
    ("delta", delta),
    ("ext4", ext4),
    ("gzip", gzip),
    ("header", header),
    ("listing", listing),
    ("message", message),
    ("program", program),
    ("record", record),
    ("store", store),
    ("summary", summary),
    ("table", table),
    ("tree", tree),
];
