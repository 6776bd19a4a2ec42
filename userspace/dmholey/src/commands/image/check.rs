// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey image check`

use crate::exit::Exit;
use crate::output::Output;
use crate::progress::watch;
use crate::signals;
use clap::Args;
use dmholey_repository::check::check;
use dmholey_repository::check::Report;
use dmholey_repository::Repository;
use std::path::PathBuf;

/// Arguments of `image check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Folder of the repository
    repository: PathBuf,
}

/// Runs the command.
pub fn run(args: &Check, output: Output) -> anyhow::Result<Exit> {
    signals::install()?;
    let repository = Repository::open(&args.repository)?;
    let report = check(&repository, &watch(output))?;
    output.fact(&report, text)?;
    if report.findings.is_empty() {
        return Ok(Exit::Ok);
    }
    Ok(Exit::Findings)
}

fn text(report: &Report) -> String {
    let mut lines = report.findings.clone();
    lines.push(format!(
        "{} versions and {} deltas: {} problems",
        report.versions,
        report.deltas,
        report.findings.len()
    ));
    lines.join("\n")
}
