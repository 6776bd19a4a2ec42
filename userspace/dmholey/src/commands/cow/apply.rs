// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey cow apply`

use super::online;
use super::same_file;
use crate::commands::line::FamilyArgs;
use crate::commands::merge::Pace;
use crate::dm::flow;
use crate::dm::ioctl::Dm;
use crate::dm::DevNum;
use crate::exit::refuse;
use crate::exit::Exit;
use crate::output::Output;
use crate::progress::Meter;
use crate::signals;
use crate::units::human;
use clap::Args;
use dmholey_cow::apply;
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
    pub(super) image: PathBuf,
    /// The disk: a file or block device with the old version
    #[arg(long, value_name = "DISK")]
    pub(super) to: PathBuf,
    /// Let the kernel merge; default if the disk is the origin of live snapshots
    #[arg(long, conflicts_with = "offline")]
    online: bool,
    /// Copy, even if the disk is the origin of live snapshots
    #[arg(long)]
    offline: bool,
    /// Leave the image as it is, which is the default; online this needs room for a copy of it
    #[arg(long, conflicts_with = "consume")]
    keep: bool,
    /// Empty the image, as a merge does, once its content is safely on the disk
    #[arg(long)]
    pub(super) consume: bool,
    /// Folder for the copy of the image, if not beside it
    #[arg(long, value_name = "DIR")]
    pub(super) copy_in: Option<PathBuf>,
    /// Name of the merge device, if not the disk's name with -apply
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
    #[command(flatten)]
    pub(super) family: FamilyArgs,
    #[command(flatten)]
    pub(super) pace: Pace,
}

/// What was done.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) disk: String,
    pub(super) image: String,
    pub(super) way: &'static str,
    pub(super) exceptions: u64,
    pub(super) bytes: u64,
    pub(super) consumed: bool,
}

/// Runs the command.
pub fn run(args: &Apply, output: Output) -> anyhow::Result<Exit> {
    if same_file(&args.image, &args.to) {
        let text = format!("{}: is the image itself", args.to.display());
        return Err(refuse(Exit::Refused, text));
    }
    let report = if is_online(args)? {
        online::apply(args, output)?
    } else {
        offline(args, output)?
    };
    output.done(&report, text)?;
    Ok(Exit::Ok)
}

fn is_online(args: &Apply) -> anyhow::Result<bool> {
    if args.online || args.offline {
        return Ok(args.online);
    }
    let disk = Device::open(&args.to, Access::Read)?;
    if !disk.is_block() {
        return Ok(false);
    }
    // Where device-mapper cannot be asked, a device in use is still refused when it is opened.
    let Ok(dm) = Dm::open() else {
        return Ok(false);
    };
    Ok(!flow::users_of(&dm, DevNum::from_rdev(disk.rdev()))?.is_empty())
}

fn offline(args: &Apply, output: Output) -> anyhow::Result<Report> {
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
    let applied = apply::apply(&mut store, &disk, &meter)?;
    drop(meter);
    if args.consume {
        apply::consume(&store)?;
    }
    Ok(Report {
        disk: disk.name(),
        image: store.disk().name(),
        way: "offline",
        exceptions: applied.exceptions,
        bytes: applied.bytes,
        consumed: args.consume,
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
