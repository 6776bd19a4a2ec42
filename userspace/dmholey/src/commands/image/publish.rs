// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey image publish` and `dmholey image refresh`

use super::now;
use super::span;
use crate::exit::Exit;
use crate::output::Output;
use crate::progress::watch;
use crate::signals;
use crate::units::human;
use clap::Args;
use dmholey_publish::publish;
use dmholey_publish::publish::Options;
use dmholey_publish::publish::Published;
use dmholey_publish::Keys;
use dmholey_publish::Place;
use dmholey_repository::Repository;
use std::path::PathBuf;

/// Arguments of `image publish`.
#[derive(Debug, Args)]
pub struct Publish {
    /// Folder of the repository
    repository: PathBuf,
    #[command(flatten)]
    to: To,
    /// For how many days the list of what is published is good
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    targets_days: u32,
    /// How many days a file stays that is not offered any more
    #[arg(long, value_name = "DAYS", default_value_t = 14)]
    grace_days: u32,
}

/// Arguments of `image refresh`.
#[derive(Debug, Args)]
pub struct Refresh {
    #[command(flatten)]
    to: To,
}

/// Where something is published, and for how long that is good.
#[derive(Debug, Args)]
struct To {
    /// A folder that a web server serves, `s3://BUCKET/PREFIX`, or `oci://REGISTRY/NAME:TAG`
    #[arg(long, value_name = "PLACE")]
    to: String,
    /// Folder of the keys
    #[arg(long, value_name = "DIR")]
    keys: PathBuf,
    /// For how many days the metadata is good
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    snapshot_days: u32,
    /// For how many days clients believe that nothing is newer
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    timestamp_days: u32,
}

impl To {
    fn options(&self, targets_days: u32, grace_days: u32) -> Options {
        Options {
            now: now(),
            targets: span(targets_days),
            snapshot: span(self.snapshot_days),
            timestamp: span(self.timestamp_days),
            grace: span(grace_days),
        }
    }
}

/// Runs `image publish`.
pub fn run(args: &Publish, output: Output) -> anyhow::Result<Exit> {
    signals::install()?;
    let keys = Keys::open(&args.to.keys)?;
    let repository = Repository::open(&args.repository)?;
    let place = Place::named(&args.to.to)?;
    let options = args.to.options(args.targets_days, args.grace_days);
    let meter = watch(output)("publishing");
    let published = publish::publish(&repository, &place, &keys, options, &*meter)?;
    drop(meter);
    output.done(&published, text)?;
    Ok(Exit::Ok)
}

/// Runs `image refresh`.
pub fn refresh(args: &Refresh, output: Output) -> anyhow::Result<Exit> {
    let keys = Keys::open(&args.to.keys)?;
    let place = Place::named(&args.to.to)?;
    let published = publish::refresh(&place, &keys, args.to.options(0, 0))?;
    output.done(&published, text)?;
    Ok(Exit::Ok)
}

fn text(published: &Published) -> String {
    let version = published.version.map_or_else(
        || "no version".to_owned(),
        |version| format!("version {version}"),
    );
    format!(
        "{version} in snapshot {}: {} files added, {}; {} removed",
        published.snapshot,
        published.added.len(),
        human(published.bytes),
        published.removed.len(),
    )
}
