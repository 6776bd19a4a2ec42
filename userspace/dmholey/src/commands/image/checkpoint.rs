// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey image checkpoint`

use super::live;
use super::DeltaHow;
use crate::exit::refuse;
use crate::exit::Exit;
use crate::output::Output;
use crate::progress::watch;
use crate::signals;
use crate::units::human;
use clap::Args;
use dmholey_cow::disk::Access;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use dmholey_repository::checkpoint::checkpoint;
use dmholey_repository::checkpoint::Options;
use dmholey_repository::checkpoint::Taken;
use dmholey_repository::manifest::Link;
use dmholey_repository::Repository;
use dmholey_repository::Version;
use serde::Serialize;
use std::ops::Range;
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
    /// The image is an origin in use: take a snapshot of it, for which all of this device may be overwritten. Given twice,
    /// for two devices by turns, the snapshot stays and records what is changed, and the next checkpoint compares only that
    #[arg(long, value_name = "STORE")]
    live: Vec<PathBuf>,
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
    /// Bytes of the image that were read to find out what has changed.
    compared_bytes: u64,
}

/// Runs the command.
pub fn run(args: &Checkpoint, output: Output) -> anyhow::Result<Exit> {
    signals::install()?;
    if args.live.len() > 2 {
        let text = "--live: name one device, or two".to_owned();
        return Err(refuse(Exit::Usage, text));
    }
    let mut repository = Repository::create(&args.repository)?;
    let take = |repository: &mut Repository, image: &Device, recorded: Recorded| {
        take(args, repository, image, recorded, output)
    };
    match args.live.as_slice() {
        [one, other, ..] => live::recorded(&args.image, [one, other], &mut repository, take),
        [store] => live::once(&args.image, store, |image| {
            take(&mut repository, image, Recorded::default())
        }),
        [] => {
            let image = Device::open(&args.image, Access::Still)?;
            take(&mut repository, &image, Recorded::default())
        }
    }
}

/// What is known of the changes to an image.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    /// Where it may have changed since the newest version; anywhere, with none.
    pub(super) places: Option<Vec<Range<u64>>>,
    /// What records from now on.
    pub(super) recorder: Option<String>,
}

fn take(
    args: &Checkpoint,
    repository: &mut Repository,
    image: &Device,
    recorded: Recorded,
    output: Output,
) -> anyhow::Result<Exit> {
    let size = image.size();
    let bytes_of = |place: &Range<u64>| place.end.min(size).saturating_sub(place.start);
    let places = recorded.places.as_deref();
    let compared_bytes = places.map_or(size, |places| places.iter().map(bytes_of).sum());
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let options = Options {
        made: now.map_or(0, |time| time.as_secs()),
        note: args.note.clone(),
        verity: args.verity,
        delta: (!args.no_delta).then(|| args.delta.options()),
        same: args.same,
        places: recorded.places,
        recorder: recorded.recorder,
    };
    let done = match checkpoint(repository, image, &options, &watch(output))? {
        Taken::New(version, delta) => Done {
            new: true,
            version,
            delta,
            compared_bytes,
        },
        Taken::Same(version) => Done {
            new: false,
            version,
            delta: None,
            compared_bytes,
        },
    };
    output.done(&done, text)?;
    Ok(Exit::Ok)
}

fn text(done: &Done) -> String {
    let version = &done.version;
    let compared = if done.compared_bytes < version.bytes {
        format!(" ({} compared)", human(done.compared_bytes))
    } else {
        String::new()
    };
    if !done.new {
        return format!(
            "version {}: nothing has changed since{compared}",
            version.number
        );
    }
    let delta = done.delta.map_or_else(String::new, |delta| {
        format!(
            ", a delta of {} from version {}",
            human(delta.bytes),
            delta.from
        )
    });
    format!(
        "version {}: {}, of which {} changed{compared}{delta}",
        version.number,
        human(version.bytes),
        human(version.changed_bytes),
    )
}
