// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey image squash`

use super::DeltaHow;
use crate::exit::Exit;
use crate::output::Output;
use crate::progress::watch;
use crate::signals;
use crate::units::human;
use clap::Args;
use dmholey_repository::manifest::Link;
use dmholey_repository::squash::squash;
use dmholey_repository::Repository;
use serde::Serialize;
use std::path::PathBuf;

/// Arguments of `image squash`.
#[derive(Debug, Args)]
pub struct Squash {
    /// Folder of the repository
    repository: PathBuf,
    /// Number of the version that clients have; 0 for those that have nothing
    from: u64,
    /// Number of the version that they are to get
    to: u64,
    #[command(flatten)]
    delta: DeltaHow,
}

/// What there is now.
#[derive(Debug, Serialize)]
struct Made {
    delta: String,
    #[serde(flatten)]
    link: Link,
}

/// Runs the command.
pub fn run(args: &Squash, output: Output) -> anyhow::Result<Exit> {
    signals::install()?;
    let mut repository = Repository::change(&args.repository)?;
    let how = args.delta.options();
    let link = squash(&mut repository, args.from, args.to, how, &watch(output))?;
    let made = Made {
        delta: repository.delta(args.from, args.to).display().to_string(),
        link,
    };
    output.done(&made, |made| {
        format!("{}: {}", made.delta, human(made.link.bytes))
    })?;
    Ok(Exit::Ok)
}
