// SPDX-License-Identifier: GPL-2.0-or-later

//! The `dmholey` program, as a library so that its parts can be tested.
//!
//! | module | does |
//! | --- | --- |
//! | [`cli`] | what can be said on the command line |
//! | [`commands`] | one file per subcommand: validate, call, print |
//! | [`dm`] | device-mapper: table lines, status lines, the kernel behind a trait, and the flows |
//! | [`blockdev`] | what a block device is: numbers, size |
//! | [`loopdev`] | loop devices over image files |
//! | [`cluster`] | what the agent of a shared volume is asked, and answers |
//! | [`monitor`] | extends stores before they are full |
//! | [`update`] | what keeps a disk at the newest published version of its image |
//! | [`configfile`], [`output`], [`progress`], [`exit`], [`signals`], [`units`] | what all of them share |

#![deny(unsafe_code)]

pub mod blockdev;
pub mod cli;
pub mod cluster;
pub mod commands;
pub mod configfile;
pub mod dm;
pub mod exit;
pub mod loopdev;
pub mod monitor;
pub mod output;
pub mod progress;
pub mod signals;
pub mod units;
pub mod update;
