// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey delta to-cow`

use super::not_an_input;
use super::open;
use super::open_delta;
use crate::exit::Exit;
use crate::output::Output;
use crate::progress::Meter;
use crate::signals;
use crate::units::human;
use clap::Args;
use dmholey_cow::output;
use dmholey_cow::writer::Written;
use dmholey_delta::cow;
use serde::Serialize;
use std::path::PathBuf;

/// Arguments of `delta to-cow`.
#[derive(Debug, Args)]
pub struct ToCow {
    /// The delta
    delta: PathBuf,
    /// File or block device with the old version, which is only read
    #[arg(long, value_name = "OLD")]
    base: PathBuf,
    /// Where the COW image goes: a new file, or a block device that starts with zeros
    #[arg(short, long, value_name = "COW")]
    output: PathBuf,
    /// Replace what is at COW
    #[arg(long)]
    force: bool,
}

/// What was made.
#[derive(Debug, Serialize)]
struct Made {
    image: String,
    #[serde(flatten)]
    written: Written,
}

/// Runs the command.
pub fn run(args: &ToCow, output: Output) -> anyhow::Result<Exit> {
    not_an_input(&args.output, &[&args.delta, &args.base])?;
    let delta = open_delta(&args.delta)?;
    let base = open(&args.base)?;
    cow::can_be_cow(&delta)?;
    signals::install()?;
    let (place, disk, ground) = output::Output::create(&args.output, args.force)?;
    let meter = Meter::new(format!("writing to {}", args.output.display()), output);
    let (_disk, written, _) = cow::to_cow(&delta, &base, disk, ground, &meter)?;
    drop(meter);
    place.commit()?;
    let made = Made {
        image: args.output.display().to_string(),
        written,
    };
    output.done(&made, text)?;
    Ok(Exit::Ok)
}

fn text(made: &Made) -> String {
    format!(
        "{}: {} chunks, {}",
        made.image,
        made.written.exceptions,
        human(made.written.bytes)
    )
}
