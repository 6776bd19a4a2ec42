// SPDX-License-Identifier: GPL-2.0-or-later

//! Brings a disk to a published version of its image.
//!
//! What happens to the disk is one thing only: a COW store is copied or merged into it, which can be
//! interrupted and goes on with what is left. All else happens beside it: deltas are fetched, each part checked when it
//! arrives; the store is made of them and of the disk, and what it shows over the disk is compared with
//! the digest of the version; and the way back is kept before the first byte changes.
//!
//! | module | does |
//! | --- | --- |
//! | [`source`] | where published files are, and the next place if one fails |
//! | [`web`] | published files on a web server |
//! | [`oci`] | published files in a registry for containers |
//! | [`trust`] | what of it is believed: The Update Framework |
//! | [`mod@fetch`] | gets a delta, and goes on where it was interrupted |
//! | [`mod@stage`] | makes the one store that brings the disk to the version, and the way back |
//! | [`state`] | what was done, in a file |
//! | [`mod@write`] | writes a whole image, but only what differs |
//! | [`client`] | the steps: find out, pull, apply, roll back, commit |

#![forbid(unsafe_code)]

pub mod client;
pub mod error;
pub mod fetch;
pub mod oci;
pub mod source;
pub mod stage;
pub mod state;
pub mod trust;
pub mod web;
pub mod write;

pub use client::Client;
pub use error::Error;
pub use error::Result;
pub use oci::Oci;
pub use source::Mirrors;
pub use source::Source;
pub use state::State;
pub use trust::Trust;
pub use web::Network;

use dmholey_cow::Progress;

/// Makes whatever shows the progress of one piece of a long work, given its name.
pub type Watch<'a> = &'a dyn Fn(&str) -> Box<dyn Progress>;
