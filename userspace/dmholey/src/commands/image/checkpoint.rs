// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey image checkpoint`

use super::DeltaHow;
use crate::blockdev::BlockDev;
use crate::dm::ioctl::Dm;
use crate::dm::moment::Moment;
use crate::dm::node;
use crate::dm::DevNum;
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
    /// File or block device with the master image, to which nobody may write meanwhile, but for --live
    image: PathBuf,
    /// The image is an origin in use: take a snapshot of it, for which all of this device may be overwritten
    #[arg(long, value_name = "STORE")]
    live: Option<PathBuf>,
    /// A remark to be shown with the version
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
    /// Make no delta from the version before
    #[arg(long)]
    no_delta: bool,
    /// Add a version also if nothing has changed
    #[arg(long)]
    same: bool,
    /// Record the root digest that dm-verity takes for it (SHA-256, no salt), too
    #[arg(long)]
    verity: bool,
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
    let Some(store) = &args.live else {
        return take(args, &Device::open(&args.image, Access::Still)?, output);
    };
    let (origin, device) = BlockDev::open(&args.image)?;
    drop(device);
    // Alone: what is on it is lost.
    let cow = Device::open(store, Access::Write)?;
    let dm = Dm::open()?;
    let number = DevNum::from_rdev(cow.rdev());
    drop(cow);
    let moment = Moment::take(&dm, &node::DevMapper, origin.number, origin.sectors, number)?;
    let taken = take(args, &Device::open(&moment.path(), Access::Still)?, output);
    // The reason behind an error that reading has met.
    taken.or_else(|error| moment.check().map_err(Into::into).and(Err(error)))
}

fn take(args: &Checkpoint, image: &Device, output: Output) -> anyhow::Result<Exit> {
    let mut repository = Repository::create(&args.repository)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let options = Options {
        made: now.map_or(0, |time| time.as_secs()),
        note: args.note.clone(),
        verity: args.verity,
        delta: (!args.no_delta).then(|| args.delta.options()),
        same: args.same,
    };
    let done = match checkpoint(&mut repository, image, &options, &watch(output))? {
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
