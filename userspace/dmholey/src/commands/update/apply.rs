// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey update apply` and its opposite, `dmholey update rollback`

use super::Which;
use crate::exit::Exit;
use crate::output::Output;
use crate::signals;
use crate::update::disk;
use crate::update::disk::How;
use clap::Args;
use serde::Serialize;

/// Arguments of both.
#[derive(Debug, Args)]
pub struct Apply {
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

/// Runs `update apply`.
pub fn forward(args: &Apply, output: Output) -> anyhow::Result<Exit> {
    signals::install()?;
    let mut session = args.which.open(output)?;
    let way = disk::apply(&mut session.client, &args.how, output)?;
    let version = session.client.state().target.map(|version| version.number);
    output.done(&Report { version, way }, |report| {
        let version = report.version.unwrap_or_default();
        format!("the disk is version {version} now; commit it or roll back")
    })?;
    Ok(Exit::Ok)
}

/// Runs `update rollback`.
pub fn back(args: &Apply, output: Output) -> anyhow::Result<Exit> {
    signals::install()?;
    let mut session = args.which.open(output)?;
    let way = disk::roll_back(&mut session.client, &args.how, output)?;
    let state = session.client.state();
    let version = state.installed.map(|version| version.number);
    output.done(&Report { version, way }, |report| {
        format!("the disk is version {}", report.version.unwrap_or_default())
    })?;
    Ok(Exit::Ok)
}
