// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey man`

use crate::cli::Cli;
use crate::exit::Exit;
use anyhow::Context;
use clap::Args;
use clap::CommandFactory;
use std::path::PathBuf;

/// Write the manual pages
#[derive(Debug, Args)]
pub struct Man {
    /// Existing folder that gets one page for each subcommand
    dir: PathBuf,
}

/// Runs the command.
pub fn run(args: &Man) -> anyhow::Result<Exit> {
    clap_mangen::generate_to(Cli::command(), &args.dir)
        .with_context(|| format!("cannot write manual pages to {}", args.dir.display()))?;
    Ok(Exit::Ok)
}
