// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey update repair`

use super::Which;
use crate::exit::Exit;
use crate::output::Output;
use crate::progress;
use crate::signals;
use crate::units::human;
use clap::Args;
use dmholey_update::stage::Mended;
use serde::Serialize;

/// Arguments of `update repair`.
#[derive(Debug, Args)]
pub struct Repair {
    #[command(flatten)]
    which: Which,
    /// Make it this version; otherwise the one that it should be, or the newest one if nobody knows
    #[arg(long, value_name = "VERSION")]
    to: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Report {
    version: u64,
    #[serde(flatten)]
    mended: Mended,
}

/// Runs the command.
pub fn run(args: &Repair, output: Output) -> anyhow::Result<Exit> {
    signals::install()?;
    let mut session = args.which.open(output)?;
    let (known, plan) = session.check(args.to)?;
    let version = match (args.to, plan.installed) {
        (None, Some(installed)) => installed.number,
        _ => plan.target.number,
    };
    let watch = &progress::watch(output);
    let mended = session
        .client
        .repair(&session.mirrors, &known.catalog, version, watch)?;
    output.done(&Report { version, mended }, text)?;
    Ok(Exit::Ok)
}

fn text(report: &Report) -> String {
    let Mended { blocks, fetched } = report.mended;
    let version = report.version;
    format!(
        "the disk is version {version}: {blocks} blocks were mended, {} fetched",
        human(fetched)
    )
}
