// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey delta check`

use super::open;
use super::open_delta;
use crate::exit::Exit;
use crate::output::Output;
use crate::progress::Meter;
use crate::signals;
use clap::Args;
use dmholey_delta::check;
use dmholey_delta::check::Report;
use std::path::PathBuf;

/// Arguments of `delta check`.
#[derive(Debug, Args)]
pub struct Check {
    /// The delta
    delta: PathBuf,
    /// File or block device with the old version
    #[arg(long, value_name = "OLD")]
    base: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &Check, output: Output) -> anyhow::Result<Exit> {
    let delta = open_delta(&args.delta)?;
    let base = args.base.as_deref().map(open).transpose()?;
    signals::install()?;
    let meter = Meter::new(format!("checking {}", args.delta.display()), output);
    let report = match &base {
        Some(base) => check::with_base(&delta, base, &meter)?,
        None => check::units(&delta, &meter)?,
    };
    drop(meter);
    output.fact(&report, |report| {
        text(&args.delta.display().to_string(), report, output.quiet)
    })?;
    Ok(if report.findings.is_empty() {
        Exit::Ok
    } else {
        Exit::Findings
    })
}

fn text(delta: &str, report: &Report, quiet: bool) -> String {
    let mut lines: Vec<String> = report
        .findings
        .iter()
        .map(|finding| format!("error: {finding}"))
        .collect();
    if !quiet {
        let problems = match report.findings.len() {
            0 => "no problem".to_owned(),
            1 => "1 problem".to_owned(),
            n => format!("{n} problems"),
        };
        lines.push(format!("{delta}: {problems}, {} units", report.units));
    }
    lines.join("\n")
}
