// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey update`

pub mod apply;
pub mod check;
pub mod commit;
pub mod pull;
pub mod repair;
pub mod status;
pub mod write;

use crate::exit::Exit;
use crate::output::Output;
use crate::update::config::DEFAULT_PATH;
use crate::update::Config;
use crate::update::Session;
use clap::Args;
use clap::Subcommand;
use std::path::PathBuf;

/// Bring a disk to the newest published version of its image
#[derive(Debug, Subcommand)]
pub enum Update {
    /// Ask whether there is a newer version
    ///
    /// If nothing has changed this costs one small request. The exit status is 3 if there is a newer version.
    Check(check::Check),
    /// Fetch a version and make it ready; the disk is only read
    ///
    /// Only what differs is fetched, and each part is checked when it arrives. What was interrupted goes on
    /// where it was. At the end there is a store which, over the disk, shows the new version to the last byte.
    Pull(pull::Pull),
    /// Get the version that was made ready into the disk
    ///
    /// The way back is kept first. A disk that is the origin of live snapshots gets it by a merge in the
    /// kernel, under the running system; the snapshots go on to show what they showed. What was interrupted goes
    /// on where it was.
    Apply(apply::Apply),
    /// Show which version the disk is, and how far an update is; nobody is asked
    Status(status::Status),
    /// Get the version before back into the disk, or drop what was made ready
    Rollback(apply::Apply),
    /// Keep the new version; there is no way back from there
    Commit(commit::Commit),
    /// Make a disk that is no known version one, and fetch only what differs
    ///
    /// This is for disks that are empty or that have drifted. There is no way back. A disk that is the origin
    /// of live snapshots gets what differs by a merge in the kernel, once that was seen to make the version; the
    /// snapshots go on to show what they showed. One that nobody uses is written in place, which needs no room.
    /// What was interrupted goes on where it was.
    Repair(repair::Repair),
    /// Write a whole image to a disk, but only the chunks that differ
    ///
    /// The image may come from a pipe. Over a snapshot this makes a version to boot into, which takes only as
    /// much of the snapshot's store as differs.
    Write(write::Write),
}

/// Which client it is.
#[derive(Clone, Debug, Args)]
pub struct Which {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
}

impl Which {
    fn open(&self, output: Output) -> anyhow::Result<Session> {
        let tell = |what: &str| eprintln!("dmholey: {what}; passed over");
        Session::open(
            &Config::read(&self.config)?,
            if output.quiet { |_| {} } else { tell },
        )
    }
}

/// Runs the command.
pub fn run(args: &Update, output: Output) -> anyhow::Result<Exit> {
    match args {
        Update::Check(args) => check::run(args, output),
        Update::Pull(args) => pull::run(args, output),
        Update::Apply(args) => apply::forward(args, output),
        Update::Status(args) => status::run(args, output),
        Update::Rollback(args) => apply::back(args, output),
        Update::Commit(args) => commit::run(args, output),
        Update::Repair(args) => repair::run(args, output),
        Update::Write(args) => write::run(args, output),
    }
}
