// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey cow diff`

use super::not_an_input;
use crate::exit::Exit;
use crate::output::Output;
use crate::progress::Meter;
use crate::signals;
use crate::units::human;
use crate::units::parse_chunk;
use clap::Args;
use dmholey_cow::diff;
use dmholey_cow::diff::Difference;
use dmholey_cow::disk::Access;
use dmholey_cow::format::ChunkSize;
use dmholey_cow::output;
use dmholey_cow::Device;
use dmholey_cow::Writer;
use serde::Serialize;
use std::path::PathBuf;

/// Arguments of `cow diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// File or block device with the old version
    old: PathBuf,
    /// File or block device with the new version, of the same size
    new: PathBuf,
    /// Where the image goes: a new file, or a block device that starts with zeros
    #[arg(short, long, value_name = "IMAGE")]
    output: PathBuf,
    /// Chunk size: smaller chunks make a smaller image, larger ones a faster device
    #[arg(long, value_name = "SIZE", default_value = "4K", value_parser = parse_chunk)]
    chunk: ChunkSize,
    /// Replace what is at IMAGE
    #[arg(long)]
    force: bool,
}

/// What was made.
#[derive(Debug, Serialize)]
struct Made {
    image: String,
    #[serde(flatten)]
    difference: Difference,
}

/// Runs the command.
pub fn run(args: &Diff, output: Output) -> anyhow::Result<Exit> {
    not_an_input(&args.output, &[&args.old, &args.new])?;
    let old = Device::open(&args.old, Access::Read)?;
    let new = Device::open(&args.new, Access::Read)?;
    diff::same_size(&old, &new)?;
    signals::install()?;
    let (place, disk, ground) = output::Output::create(&args.output, args.force)?;
    let writer = Writer::create(disk, args.chunk, ground)?;
    let meter = Meter::new(format!("comparing with {}", args.old.display()), output);
    let (_disk, difference) = diff::diff(&old, &new, None, writer, &meter)?;
    drop(meter);
    place.commit()?;
    let made = Made {
        image: args.output.display().to_string(),
        difference,
    };
    output.done(&made, text)?;
    Ok(Exit::Ok)
}

fn text(made: &Made) -> String {
    let Difference {
        written, chunks, ..
    } = made.difference;
    format!(
        "{}: {} of {chunks} chunks differ, {}",
        made.image,
        written.exceptions,
        human(written.bytes)
    )
}
