// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey image prune`

use crate::exit::Exit;
use crate::output::Output;
use crate::progress::watch;
use crate::signals;
use clap::Args;
use dmholey_repository::prune::prune;
use dmholey_repository::Repository;
use serde::Serialize;
use std::path::PathBuf;

/// Arguments of `image prune`.
#[derive(Debug, Args)]
pub struct Prune {
    /// Folder of the repository
    repository: PathBuf,
    /// How many of the newest versions stay
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    keep: u64,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Done {
    /// Numbers of the versions that are gone.
    removed: Vec<u64>,
    /// The oldest version that is left.
    oldest: Option<u64>,
}

/// Runs the command.
pub fn run(args: &Prune, output: Output) -> anyhow::Result<Exit> {
    signals::install()?;
    let mut repository = Repository::change(&args.repository)?;
    let versions = &repository.manifest().versions;
    let first = versions
        .len()
        .saturating_sub(usize::try_from(args.keep).unwrap_or(usize::MAX));
    let oldest = versions.get(first).map(|version| version.number);
    let removed = match oldest {
        Some(oldest) => prune(&mut repository, oldest, &watch(output))?,
        None => Vec::new(),
    };
    output.done(&Done { removed, oldest }, text)?;
    Ok(Exit::Ok)
}

fn text(done: &Done) -> String {
    let oldest = done.oldest.map_or_else(String::new, |oldest| {
        format!("; the oldest is {oldest} now")
    });
    match done.removed.len() {
        0 => format!("nothing to remove{oldest}"),
        1 => format!("1 version removed{oldest}"),
        count => format!("{count} versions removed{oldest}"),
    }
}
