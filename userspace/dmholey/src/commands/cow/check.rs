// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey cow check`

use crate::exit::Exit;
use crate::output::Output;
use crate::units::parse_size;
use clap::Args;
use dmholey_cow::check;
use dmholey_cow::check::Report;
use dmholey_cow::check::Severity;
use dmholey_cow::disk::Access;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use std::path::PathBuf;

/// Arguments of `cow check`.
#[derive(Debug, Args)]
pub struct Check {
    /// File or block device with a COW store
    image: PathBuf,
    /// Size of the disk that the image is for
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "origin")]
    origin_size: Option<u64>,
    /// The disk that the image is for; only its size is looked at
    #[arg(long, value_name = "DISK")]
    origin: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &Check, output: Output) -> anyhow::Result<Exit> {
    let size = match &args.origin {
        Some(path) => Some(Device::open(path, Access::Read)?.size()),
        None => args.origin_size,
    };
    let report = check::check(Device::open(&args.image, Access::Read)?, size)?;
    output.fact(&report, |report| {
        text(&args.image.display().to_string(), report, output.quiet)
    })?;
    Ok(if report.problems == 0 {
        Exit::Ok
    } else {
        Exit::Findings
    })
}

fn text(image: &str, report: &Report, quiet: bool) -> String {
    let mut lines: Vec<String> = report
        .findings
        .iter()
        .filter(|finding| !(quiet && finding.severity == Severity::Note))
        .map(|finding| {
            let severity = match finding.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Note => "note",
            };
            format!("{severity}: {}: {}", finding.code, finding.message)
        })
        .collect();
    if !quiet {
        let problems = match report.problems {
            0 => "no problem".to_owned(),
            1 => "1 problem".to_owned(),
            n => format!("{n} problems"),
        };
        lines.push(format!(
            "{image}: {problems}, {} exceptions",
            report.exceptions
        ));
    }
    lines.join("\n")
}
