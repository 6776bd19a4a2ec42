// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey update check`

use super::Which;
use crate::exit::Exit;
use crate::output::Output;
use crate::signals;
use crate::units::human;
use crate::units::utc;
use clap::Args;
use dmholey_delta::Digest;
use serde::Serialize;

/// Arguments of `update check`.
#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    which: Which,
    /// Ask for this version, and not for the newest one
    #[arg(long, value_name = "VERSION")]
    to: Option<u64>,
}

/// What is published.
#[derive(Debug, Serialize)]
struct Report {
    /// Version of the disk; none if nobody has looked yet.
    installed: Option<u64>,
    /// Version that there is.
    version: u64,
    /// What was said about it.
    note: String,
    /// Its root digest for dm-verity, if it was published with one.
    verity: Option<Digest>,
    /// Whether the disk is another version.
    differs: bool,
    /// Versions that the deltas start from, if there is a way.
    steps: Option<Vec<u64>>,
    /// Bytes to fetch, if there is a way.
    bytes: Option<u64>,
    /// Until when what was said is good, in seconds since 1970.
    expires: i64,
}

/// Runs the command.
pub fn run(args: &Check, output: Output) -> anyhow::Result<Exit> {
    signals::install()?;
    let session = args.which.open(output)?;
    let (known, plan) = session.check(args.to)?;
    let number = plan.target.number;
    let target = known.catalog.version(number);
    let report = Report {
        installed: plan.installed.map(|version| version.number),
        version: number,
        note: target
            .map(|version| version.note.clone())
            .unwrap_or_default(),
        verity: target.and_then(|version| version.verity),
        differs: !plan.is_done(),
        steps: plan
            .way
            .as_ref()
            .map(|way| way.iter().map(|delta| delta.from).collect()),
        bytes: plan.bytes(),
        expires: known.expires.as_second(),
    };
    output.fact(&report, text)?;
    Ok(if report.differs {
        Exit::Findings
    } else {
        Exit::Ok
    })
}

fn text(report: &Report) -> String {
    let version = report.version;
    let note = if report.note.is_empty() {
        String::new()
    } else {
        format!(" ({})", report.note)
    };
    let Some(installed) = report.installed else {
        return format!("version {version}{note} is published; 'dmholey update pull' finds out what the disk is");
    };
    if !report.differs {
        let until = utc(u64::try_from(report.expires).unwrap_or(0));
        return format!("version {version}{note} is there already, good until {until}");
    }
    match (&report.steps, report.bytes) {
        (Some(steps), Some(bytes)) => format!(
            "version {version}{note} is published, and {installed} is there: {} to fetch in {} steps",
            human(bytes),
            steps.len()
        ),
        _ => format!("version {version}{note} is published, but nothing that leads there from {installed}"),
    }
}
