// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey image checkpoint`

use super::DeltaHow;
use crate::exit::Exit;
use crate::output::Output;
use crate::progress::watch;
use crate::signals;
use crate::units::human;
use clap::Args;
use dmholey_cow::disk::Access;
use dmholey_cow::Device;
use dmholey_repository::checkpoint::checkpoint;
use dmholey_repository::checkpoint::Options;
use dmholey_repository::checkpoint::Taken;
use dmholey_repository::manifest::Link;
use dmholey_repository::Repository;
use dmholey_repository::Version;
use serde::Serialize;
use std::path::PathBuf;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

/// Arguments of `image checkpoint`.
#[derive(Debug, Args)]
pub struct Checkpoint {
    /// Folder of the repository; with the first checkpoint it becomes one
    repository: PathBuf,
    /// File or block device with the master image, to which nobody may write meanwhile
    image: PathBuf,
    /// A remark to be shown with the version
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
    /// Make no delta from the version before
    #[arg(long)]
    no_delta: bool,
    /// Add a version also if nothing has changed
    #[arg(long)]
    same: bool,
    #[command(flatten)]
    delta: DeltaHow,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Done {
    new: bool,
    #[serde(flatten)]
    version: Version,
    delta: Option<Link>,
}

/// Runs the command.
pub fn run(args: &Checkpoint, output: Output) -> anyhow::Result<Exit> {
    signals::install()?;
    let image = Device::open(&args.image, Access::Still)?;
    let mut repository = Repository::create(&args.repository)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let options = Options {
        made: now.map_or(0, |time| time.as_secs()),
        note: args.note.clone(),
        delta: (!args.no_delta).then(|| args.delta.options()),
        same: args.same,
    };
    let done = match checkpoint(&mut repository, &image, &options, &watch(output))? {
        Taken::New(version, delta) => Done {
            new: true,
            version,
            delta,
        },
        Taken::Same(version) => Done {
            new: false,
            version,
            delta: None,
        },
    };
    output.done(&done, text)?;
    Ok(Exit::Ok)
}

fn text(done: &Done) -> String {
    let version = &done.version;
    if !done.new {
        return format!("version {}: nothing has changed since", version.number);
    }
    let delta = done.delta.map_or_else(String::new, |delta| {
        format!(
            ", a delta of {} from version {}",
            human(delta.bytes),
            delta.from
        )
    });
    format!(
        "version {}: {}, of which {} changed{delta}",
        version.number,
        human(version.bytes),
        human(version.changed_bytes),
    )
}
