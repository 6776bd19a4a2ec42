// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey update write`

use crate::commands::cow::not_an_input;
use crate::exit::Exit;
use crate::output::Output;
use crate::progress::Meter;
use crate::signals;
use crate::units::human;
use anyhow::Context;
use clap::Args;
use dmholey_cow::disk::Access;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use dmholey_delta::Digest;
use dmholey_update::write;
use dmholey_update::write::Written;
use serde::Serialize;
use std::fs::File;
use std::io;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;

/// Arguments of `update write`.
#[derive(Debug, Args)]
pub struct Write {
    /// File with the image; - is standard input
    image: PathBuf,
    /// The disk: a file or a block device that nobody uses
    #[arg(long, value_name = "DISK")]
    to: PathBuf,
    /// Fail unless the image has this SHA-256
    #[arg(long, value_name = "HEX")]
    sha256: Option<Digest>,
}

#[derive(Debug, Serialize)]
struct Report {
    disk: String,
    #[serde(flatten)]
    written: Written,
}

/// Runs the command.
pub fn run(args: &Write, output: Output) -> anyhow::Result<Exit> {
    let pipe = args.image == Path::new("-");
    let name = if pipe {
        "standard input".to_owned()
    } else {
        not_an_input(&args.to, &[&args.image])?;
        args.image.display().to_string()
    };
    let mut image: Box<dyn Read> = if pipe {
        Box::new(io::stdin())
    } else {
        let fail = || format!("cannot open {name}");
        Box::new(File::open(&args.image).with_context(fail)?)
    };
    let disk = Device::open(&args.to, Access::Write)?;
    signals::install()?;
    let meter = Meter::new(format!("writing to {}", disk.name()), output);
    let written = write::write(&mut *image, &name, &disk, args.sha256, &meter)?;
    drop(meter);
    let disk = disk.name();
    output.done(&Report { disk, written }, text)?;
    Ok(Exit::Ok)
}

fn text(report: &Report) -> String {
    let Written { bytes, written, .. } = report.written;
    format!(
        "{}: {} of {} were written",
        report.disk,
        human(written),
        human(bytes)
    )
}
