// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey update rollback`

use super::Which;
use crate::exit::Exit;
use crate::output::Output;
use crate::signals;
use crate::update::disk;
use crate::update::disk::How;
use clap::Args;
use serde::Serialize;

/// Arguments of `update rollback`.
#[derive(Debug, Args)]
pub struct Rollback {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    how: How,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Report {
    version: Option<u64>,
    way: &'static str,
}

/// Runs the command.
pub fn run(args: &Rollback, output: Output) -> anyhow::Result<Exit> {
    signals::install()?;
    let mut session = args.which.open(output)?;
    let way = disk::roll_back(&mut session.client, &args.how, output)?;
    let version = session
        .client
        .state()
        .installed
        .map(|version| version.number);
    output.done(&Report { version, way }, text)?;
    Ok(Exit::Ok)
}

fn text(report: &Report) -> String {
    format!("the disk is version {}", report.version.unwrap_or_default())
}
