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
//! | [`port`] | what the module's targets are told, and tell |
//! | [`kernel`] | the target of this node: its devices |
//! | [`control`] | what commands ask of it |
//! | [`engine`] | what it does about nodes that are silent |
//! | [`recycle`] | starts over, when an overlay is too large or too old |
//! | `shell` | runs the commands of the configuration |
//! | [`observe`] | what the kernel says of its targets |
//! | [`metrics`] | figures for operators |
//! | [`http`] | where they are served |
//! | [`names`] | what people call nodes and roles |

#![forbid(unsafe_code)]

mod clock;
pub mod config;
pub mod control;
pub mod driver;
pub mod engine;
pub mod hello;
pub mod http;
pub mod kernel;
pub mod link;
pub mod metrics;
pub mod names;
pub mod observe;
pub mod port;
pub mod promises;
pub mod recycle;
mod shell;
