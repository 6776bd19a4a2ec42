// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey cow apply`

use super::online;
use super::online::How;
use super::online::Merging;
use super::same_file;
use crate::exit::refuse;
use crate::exit::Exit;
use crate::output::Output;
use crate::progress::Meter;
use crate::signals;
use crate::units::human;
use clap::Args;
use dmholey_cow::apply;
use dmholey_cow::apply::Applied;
use dmholey_cow::disk::Access;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use dmholey_cow::Store;
use serde::Serialize;
use std::path::PathBuf;

/// Arguments of `cow apply`.
#[derive(Debug, Args)]
pub struct Apply {
    /// File or block device with a COW store
    image: PathBuf,
    /// The disk: a file or block device with the old version
    #[arg(long, value_name = "DISK")]
    to: PathBuf,
    /// Leave the image as it is, which is the default; online this needs room for a copy of it
    #[arg(long, conflicts_with = "consume")]
    keep: bool,
    /// Empty the image, as a merge does: what is safely on the disk leaves it
    #[arg(long)]
    consume: bool,
    /// Folder for the copy of the image, if not beside it
    #[arg(long, value_name = "DIR")]
    copy_in: Option<PathBuf>,
    #[command(flatten)]
    how: How,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Report {
    disk: String,
    image: String,
    way: &'static str,
    exceptions: u64,
    bytes: u64,
    consumed: bool,
}

/// Runs the command.
pub fn run(args: &Apply, output: Output) -> anyhow::Result<Exit> {
    if same_file(&args.image, &args.to) {
        let text = format!("{}: is the image itself", args.to.display());
        return Err(refuse(Exit::Refused, text));
    }
    let (way, applied) = if args.how.is_online(&args.to)? {
        ("online", online(args, output)?)
    } else {
        ("offline", offline(args, output)?)
    };
    let report = Report {
        disk: args.to.display().to_string(),
        image: args.image.display().to_string(),
        way,
        exceptions: applied.exceptions,
        bytes: applied.bytes,
        consumed: args.consume,
    };
    output.done(&report, text)?;
    Ok(Exit::Ok)
}

fn online(args: &Apply, output: Output) -> anyhow::Result<Applied> {
    let merging = Merging {
        image: &args.image,
        disk: &args.to,
        consume: args.consume,
        copy_in: args.copy_in.as_deref(),
        how: &args.how,
    };
    online::merge(&merging, output)
}

fn offline(args: &Apply, output: Output) -> anyhow::Result<Applied> {
    let access = if args.consume {
        Access::Write
    } else {
        Access::Read
    };
    let mut store = Store::open(Device::open(&args.image, access)?)?;
    let looked = Device::open(&args.to, Access::Read)?;
    apply::plan(&mut store, &looked.name(), looked.size())?;
    drop(looked);
    let disk = Device::open(&args.to, Access::Write)?;
    signals::install()?;
    let meter = Meter::new(format!("writing to {}", disk.name()), output);
    Ok(if args.consume {
        apply::merge(&mut store, &disk, &meter)?
    } else {
        apply::apply(&mut store, &disk, &meter)?
    })
}

fn text(report: &Report) -> String {
    let consumed = if report.consumed {
        format!("; {} is empty now", report.image)
    } else {
        String::new()
    };
    format!(
        "{}: {} chunks applied, {}{consumed}",
        report.disk,
        report.exceptions,
        human(report.bytes)
    )
}
