// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey update status`

use super::Which;
use crate::exit::Exit;
use crate::output::columns;
use crate::output::Output;
use crate::units::utc;
use crate::update::Config;
use clap::Args;
use dmholey_update::client::TRUST;
use dmholey_update::state::Phase;
use dmholey_update::Client;
use dmholey_update::Trust;
use serde::Serialize;
use std::path::PathBuf;

/// Arguments of `update status`.
#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    which: Which,
}

/// How far an update is.
#[derive(Debug, Serialize)]
struct Report {
    /// The disk.
    disk: PathBuf,
    /// Version that it was when the update began, or is if there is none; none if nobody has looked.
    installed: Option<u64>,
    /// Version that it is to become, or has become.
    target: Option<u64>,
    phase: Phase,
    /// Version that was rolled back last, and is not taken again by itself.
    refused: Option<u64>,
    /// Newest version that was published when somebody asked last.
    newest: Option<u64>,
    /// Until when that was good, in seconds since 1970.
    expires: Option<i64>,
}

/// Runs the command.
pub fn run(args: &Status, output: Output) -> anyhow::Result<Exit> {
    // Nobody has to wait for the end of an update to see how far it is.
    let config = Config::read(&args.which.config)?;
    let state = Client::look(&config.state)?;
    let known = Trust::open(&config.state.join(TRUST), &config.root)?.known();
    let newest = known.as_ref().and_then(|known| known.catalog.last());
    let report = Report {
        disk: config.disk,
        installed: state.installed.map(|version| version.number),
        target: state.target.map(|version| version.number),
        phase: state.phase,
        refused: state.refused.map(|version| version.number),
        newest: newest.map(|version| version.number),
        expires: known.as_ref().map(|known| known.expires.as_second()),
    };
    output.fact(&report, text)?;
    Ok(Exit::Ok)
}

fn text(report: &Report) -> String {
    let number =
        |number: Option<u64>| number.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
    let phase = match report.phase {
        Phase::Idle => "nothing is going on",
        Phase::Staged => "ready to be applied",
        Phase::Applying => "being applied; the disk is between the versions",
        Phase::Applied => "applied, and not committed",
        Phase::RollingBack => "being rolled back; the disk is between the versions",
        Phase::Repairing => "being repaired; the disk is no version",
    };
    let mut rows = vec![
        ["disk", &report.disk.display().to_string()].map(str::to_owned),
        ["installed", &number(report.installed)].map(str::to_owned),
    ];
    if let Some(target) = report.target {
        rows.push(["update", &format!("to {target}: {phase}")].map(str::to_owned));
    } else {
        rows.push(["update", phase].map(str::to_owned));
    }
    if let Some(refused) = report.refused {
        rows.push(["rolled back", &refused.to_string()].map(str::to_owned));
    }
    rows.push(["newest", &number(report.newest)].map(str::to_owned));
    if let Some(expires) = report.expires {
        let until = utc(u64::try_from(expires).unwrap_or(0));
        rows.push(["good until", &until].map(str::to_owned));
    }
    let rows: Vec<Vec<String>> = rows.into_iter().map(Vec::from).collect();
    columns(&rows)
}
