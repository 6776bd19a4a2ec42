// SPDX-License-Identifier: GPL-2.0-or-later

//! What is fuzzed: everything that reads what others wrote.
//!
//! Each target is a function of bytes that panics when something is wrong. The programs in
//! `fuzz_targets/` hand them to libFuzzer; the test `tests/corpus.rs` replays the corpora without it.
//!
//! | target | reads | is held against |
//! | --- | --- | --- |
//! | [`header`] | a store's header and device sizes | the format's arithmetic, written out |
//! | [`area`] | an area, and steps that change it | a list, after every step, torn write and reload |
//! | [`store`] | a whole store | loading in the module and reading in the tools, against each other |
//! | [`message`] | messages of a cluster's nodes | the message, written again; the node that hears it |
//! | [`record`] | what a target and its agent say | the records, written again; each chunk is asked for once |
//! | [`table`] | a table line | what of it was accepted, written again |

#![forbid(unsafe_code)]

mod area;
mod header;
mod input;
mod message;
mod record;
mod sparse;
mod store;
mod table;

pub use area::area;
pub use header::header;
pub use message::message;
pub use record::record;
pub use store::store;
pub use table::table;

/// A target.
pub type Target = fn(&[u8]);

/// All targets, by the names of their programs and corpora.
pub const TARGETS: [(&str, Target); 6] = [
    ("area", area),
    ("header", header),
    ("message", message),
    ("record", record),
    ("store", store),
    ("table", table),
];
