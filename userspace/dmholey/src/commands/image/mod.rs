// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey image`

pub mod build;
pub mod check;
pub mod checkpoint;
pub mod diff;
pub mod extract;
pub mod keys;
pub mod list;
mod live;
pub mod prune;
pub mod publish;
pub mod serve;
pub mod squash;

use crate::exit::Exit;
use crate::output::Output;
use clap::Args;
use clap::Subcommand;
use dmholey_delta::make;
use jiff::SignedDuration;
use jiff::Timestamp;

/// Make images of file systems, and keep their versions
#[derive(Debug, Subcommand)]
pub enum Image {
    /// Build an ext4 image from a tree of files
    ///
    /// With --base, the tree is laid over the image of the version before: files that did not change
    /// keep their blocks and inodes, so that the difference of the two images is small. The base is
    /// only read. Neither root nor mounting is needed.
    ///
    /// The image depends on the base, the tree and SOURCE_DATE_EPOCH alone, and appears under its name
    /// when it is complete.
    Build(build::Build),
    /// Add the master image to a repository as its newest version
    ///
    /// The repository keeps what has changed since the version before, and a delta for clients that have
    /// that one. Nothing is added if nothing has changed. An interruption leaves the repository as it was.
    Checkpoint(checkpoint::Checkpoint),
    /// List the versions in a repository
    List(list::List),
    /// Show what differs between two versions
    ///
    /// Of an ext4 file system, the files whose path or content differs are listed.
    Diff(diff::Diff),
    /// Make a delta between any two versions, for clients that skipped some
    Squash(squash::Squash),
    /// Remove old versions from a repository, and the deltas from them
    Prune(prune::Prune),
    /// Write a version as an image
    Extract(extract::Extract),
    /// Compare every version and every delta with its digest
    ///
    /// The repository is only read. Problems are listed, and then the exit status is 3.
    Check(check::Check),
    /// Make the keys that sign what is published, or other ones
    ///
    /// Each of the four roles gets a key, or several (--signers), and the root that names them is what
    /// clients are shipped with. The keys of the root are needed only to change keys: keep them elsewhere.
    Keys(keys::KeysOf),
    /// Publish the versions of a repository as static files
    ///
    /// Clients see all of it or what was there before. Files that are not offered any more stay for a
    /// while, for clients that are in the middle of them.
    Publish(publish::Publish),
    /// Sign anew what is published, before it expires
    ///
    /// This needs the keys of the snapshot and the timestamp only.
    Refresh(publish::Refresh),
    /// Serve what is published by HTTP, to try it out
    ///
    /// Any web server that knows byte ranges does it, and for more than trying should.
    Serve(serve::Serve),
}

/// How deltas of a repository are made.
#[derive(Clone, Copy, Debug, Args)]
pub struct DeltaHow {
    /// How hard zstd works, from 1 to 22
    #[arg(long, value_name = "N", default_value_t = make::DEFAULT_LEVEL,
        value_parser = clap::value_parser!(i32).range(make::LEVELS))]
    level: i32,
}

impl DeltaHow {
    fn options(self) -> make::Options {
        make::Options {
            level: self.level,
            ..make::Options::default()
        }
    }
}

/// Runs the command.
pub fn run(args: &Image, output: Output) -> anyhow::Result<Exit> {
    match args {
        Image::Build(args) => build::run(args, output),
        Image::Checkpoint(args) => checkpoint::run(args, output),
        Image::List(args) => list::run(args, output),
        Image::Diff(args) => diff::run(args, output),
        Image::Squash(args) => squash::run(args, output),
        Image::Prune(args) => prune::run(args, output),
        Image::Extract(args) => extract::run(args, output),
        Image::Check(args) => check::run(args, output),
        Image::Keys(args) => keys::run(args, output),
        Image::Publish(args) => publish::run(args, output),
        Image::Refresh(args) => publish::refresh(args, output),
        Image::Serve(args) => serve::run(args, output),
    }
}

/// This moment.
fn now() -> Timestamp {
    Timestamp::now()
}

/// So many days.
fn span(days: u32) -> SignedDuration {
    SignedDuration::from_hours(i64::from(days) * 24)
}

/// So many days later, or the end of time.
fn days(from: Timestamp, days: u32) -> Timestamp {
    from.saturating_add(span(days)).unwrap_or(Timestamp::MAX)
}
