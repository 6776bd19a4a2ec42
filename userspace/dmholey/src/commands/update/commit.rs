// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey update commit`

use super::Which;
use crate::exit::Exit;
use crate::output::Output;
use clap::Args;
use serde::Serialize;

/// Arguments of `update commit`.
#[derive(Debug, Args)]
pub struct Commit {
    #[command(flatten)]
    which: Which,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Report {
    version: Option<u64>,
}

/// Runs the command.
pub fn run(args: &Commit, output: Output) -> anyhow::Result<Exit> {
    let mut session = args.which.open(output)?;
    session.client.commit()?;
    let version = session
        .client
        .state()
        .installed
        .map(|version| version.number);
    output.done(&Report { version }, text)?;
    Ok(Exit::Ok)
}

fn text(report: &Report) -> String {
    format!("version {} is kept", report.version.unwrap_or_default())
}
