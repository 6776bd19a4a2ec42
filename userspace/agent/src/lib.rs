// SPDX-License-Identifier: GPL-2.0-or-later

//! The agent of a node that shares a volume: it runs the protocol of [`dmholey_cluster`] over TLS.
//!
//! | module | does |
//! | --- | --- |
//! | [`config`] | the configuration file, and what of it cannot be |
//! | [`hello`] | the first words on a stream: who is there, and whether both speak of the same |
//! | [`link`] | the streams to the peers: one at a time with each, opened again when it breaks |
//! | [`promises`] | what has to be remembered on disk |
//! | [`driver`] | gives the node what happens, and does what it says |
//!
//! The target and the cluster engine are the caller's: [`driver::Target`] and [`driver::Report`].

#![forbid(unsafe_code)]

pub mod config;
pub mod driver;
pub mod hello;
pub mod link;
pub mod promises;
