// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey update repair`

use super::Which;
use crate::exit::Exit;
use crate::output::Output;
use crate::signals;
use crate::units::human;
use crate::update::disk;
use crate::update::disk::How;
use clap::Args;
use dmholey_update::client::Repaired;
use serde::Serialize;

/// Arguments of `update repair`.
#[derive(Debug, Args)]
pub struct Repair {
    #[command(flatten)]
    which: Which,
    /// Make it this version; otherwise the one that it should be, or the newest one if nobody knows
    #[arg(long, value_name = "VERSION")]
    to: Option<u64>,
    /// Give up an update, a rollback or a repair that cannot go on, because what it needs is damaged
    #[arg(long)]
    afresh: bool,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    repaired: Repaired,
    way: &'static str,
}

/// Runs the command.
pub fn run(args: &Repair, output: Output) -> anyhow::Result<Exit> {
    signals::install()?;
    let mut session = args.which.open(output)?;
    let (repaired, way) = disk::repair(&mut session, args.to, args.afresh, &args.how, output)?;
    output.done(&Report { repaired, way }, text)?;
    Ok(Exit::Ok)
}

fn text(report: &Report) -> String {
    let Repaired {
        version,
        blocks,
        fetched,
    } = report.repaired;
    format!(
        "the disk is version {version}: {blocks} blocks were mended, {} fetched",
        human(fetched)
    )
}
