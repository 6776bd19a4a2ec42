// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey delta make`

use super::not_an_input;
use super::open;
use crate::exit::Exit;
use crate::output::Output;
use crate::progress::Meter;
use crate::signals;
use crate::units::human;
use clap::Args;
use dmholey_cow::output;
use dmholey_cow::Disk;
use dmholey_delta::make;
use dmholey_delta::make::Options;
use dmholey_delta::make::Report;
use dmholey_delta::make::LEVELS;
use serde::Serialize;
use std::path::Path;
use std::path::PathBuf;

/// Arguments of `delta make`.
#[derive(Debug, Args)]
pub struct Make {
    /// File or block device with the old version
    old: PathBuf,
    /// File or block device with the new version
    new: PathBuf,
    #[command(flatten)]
    pub(super) how: How,
}

/// How a delta is made, and where it goes.
#[derive(Debug, Args)]
pub struct How {
    /// Where the delta goes: a new file, or a block device that starts with zeros
    #[arg(short, long, value_name = "DELTA")]
    pub(super) output: PathBuf,
    /// How hard zstd works, from 1 to 22
    #[arg(long, value_name = "N", default_value_t = make::DEFAULT_LEVEL,
        value_parser = clap::value_parser!(i32).range(LEVELS))]
    level: i32,
    /// Take the images for blocks without meaning: read no file systems
    #[arg(long)]
    no_files: bool,
    /// Take gzip files as they are
    #[arg(long)]
    no_gzip: bool,
    /// Replace what is at DELTA
    #[arg(long)]
    force: bool,
}

/// What was made.
#[derive(Debug, Serialize)]
struct Made {
    delta: String,
    old_bytes: u64,
    new_bytes: u64,
    #[serde(flatten)]
    report: Report,
}

/// Runs the command.
pub fn run(args: &Make, output: Output) -> anyhow::Result<Exit> {
    not_an_input(&args.how.output, &[&args.old, &args.new])?;
    let (old, new) = (open(&args.old)?, open(&args.new)?);
    make(&args.old, &old, &new, &args.how, output)
}

/// Makes the delta from `old`, which is at `path`, to `new`.
pub(super) fn make<N: Disk>(
    path: &Path,
    old: &impl Disk,
    new: &N,
    how: &How,
    output: Output,
) -> anyhow::Result<Exit> {
    signals::install()?;
    let options = Options {
        level: how.level,
        files: !how.no_files,
        gzip: !how.no_gzip,
    };
    let (place, disk, _) = output::Output::create(&how.output, how.force)?;
    let meter = Meter::new(format!("comparing with {}", path.display()), output);
    let report = make::make(old, new, &disk, options, &meter)?;
    drop(meter);
    place.commit()?;
    let made = Made {
        delta: how.output.display().to_string(),
        old_bytes: old.size(),
        new_bytes: new.size(),
        report,
    };
    output.done(&made, text)?;
    Ok(Exit::Ok)
}

fn text(made: &Made) -> String {
    let report = made.report;
    format!(
        "{}: {} for {}; blocks: {} zero, {} copied, {} made by {} units",
        made.delta,
        human(report.bytes),
        human(made.new_bytes),
        report.zero_blocks,
        report.copied_blocks,
        report.made_blocks,
        report.units,
    )
}
