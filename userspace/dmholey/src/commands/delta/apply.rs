// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey delta apply`

use super::not_an_input;
use super::open;
use super::open_delta;
use crate::exit::refuse;
use crate::exit::Exit;
use crate::output::Output;
use crate::progress::Meter;
use crate::signals;
use crate::units::human;
use clap::Args;
use dmholey_cow::output;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use dmholey_cow::MemDisk;
use dmholey_delta::apply;
use dmholey_delta::apply::Applied;
use dmholey_delta::apply::Old;
use dmholey_delta::Delta;
use serde::Serialize;
use std::path::Path;
use std::path::PathBuf;

/// Arguments of `delta apply`.
#[derive(Debug, Args)]
pub struct Apply {
    /// The delta
    delta: PathBuf,
    /// File or block device with the old version, which is only read; a delta from the empty image needs none
    #[arg(long, value_name = "OLD")]
    base: Option<PathBuf>,
    /// Where the new version goes: a new file, or a block device that starts with zeros
    #[arg(short, long, value_name = "NEW")]
    output: PathBuf,
    /// Replace what is at NEW
    #[arg(long)]
    force: bool,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Report {
    image: String,
    bytes: u64,
    #[serde(flatten)]
    applied: Applied,
}

/// Runs the command.
pub fn run(args: &Apply, output: Output) -> anyhow::Result<Exit> {
    let inputs = args.base.iter().chain([&args.delta]);
    let inputs: Vec<&Path> = inputs.map(PathBuf::as_path).collect();
    not_an_input(&args.output, &inputs)?;
    let delta = open_delta(&args.delta)?;
    match &args.base {
        Some(base) => write(args, output, &delta, &open(base)?),
        None if delta.plan.header.old_len > 0 => {
            let text = format!(
                "{}: needs the old version, of {} bytes; name it with --base",
                args.delta.display(),
                delta.plan.header.old_len
            );
            Err(refuse(Exit::Refused, text))
        }
        None => write(args, output, &delta, &MemDisk::default()),
    }
}

fn write(
    args: &Apply,
    output: Output,
    delta: &Delta<Device>,
    base: &impl Disk,
) -> anyhow::Result<Exit> {
    Old::new(delta, base)?;
    signals::install()?;
    let (place, disk, ground) = output::Output::create(&args.output, args.force)?;
    let meter = Meter::new(format!("writing to {}", args.output.display()), output);
    let applied = apply::apply(delta, base, &disk, ground, &meter)?;
    drop(meter);
    place.commit()?;
    let report = Report {
        image: args.output.display().to_string(),
        bytes: delta.plan.header.new_len,
        applied,
    };
    output.done(&report, text)?;
    Ok(Exit::Ok)
}

fn text(report: &Report) -> String {
    let applied = report.applied;
    format!(
        "{}: {}; blocks: {} zero, {} copied, {} made",
        report.image,
        human(report.bytes),
        applied.zero_blocks,
        applied.copied_blocks,
        applied.made_blocks
    )
}
