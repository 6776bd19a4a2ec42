// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey image extract`

use crate::exit::Exit;
use crate::output::Output;
use crate::progress::watch;
use crate::signals;
use crate::units::human;
use clap::Args;
use dmholey_cow::copy;
use dmholey_cow::disk;
use dmholey_cow::output;
use dmholey_cow::writer::Ground;
use dmholey_delta::format::BLOCK;
use dmholey_repository::Repository;
use serde::Serialize;
use std::path::PathBuf;

/// Arguments of `image extract`.
#[derive(Debug, Args)]
pub struct Extract {
    /// Folder of the repository
    repository: PathBuf,
    /// Number of the version
    version: u64,
    /// Where the image goes: a new file, or a block device that starts with zeros
    #[arg(short, long, value_name = "IMAGE")]
    output: PathBuf,
    /// Replace what is at IMAGE
    #[arg(long)]
    force: bool,
}

/// What was made.
#[derive(Debug, Serialize)]
struct Made {
    image: String,
    version: u64,
    bytes: u64,
}

/// Runs the command.
pub fn run(args: &Extract, output: Output) -> anyhow::Result<Exit> {
    signals::install()?;
    let repository = Repository::open(&args.repository)?;
    let bytes = repository.version(args.version)?.bytes;
    let content = repository.content(args.version)?;
    let (place, target, ground) = output::Output::create(&args.output, args.force)?;
    let meter = watch(output)(&format!("writing version {}", args.version));
    match ground {
        Ground::Zero => copy::data(&content, &target, bytes, BLOCK, &*meter)?,
        Ground::Used => copy::all(&content, &target, bytes, &*meter)?,
    }
    disk::flush(&target)?;
    drop(meter);
    place.commit()?;
    let made = Made {
        image: args.output.display().to_string(),
        version: args.version,
        bytes,
    };
    output.done(&made, |made| {
        format!(
            "{}: version {}, {}",
            made.image,
            made.version,
            human(made.bytes)
        )
    })?;
    Ok(Exit::Ok)
}
