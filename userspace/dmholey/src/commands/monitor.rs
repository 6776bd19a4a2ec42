// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey monitor`

use crate::dm::ioctl::Dm;
use crate::dm::node;
use crate::exit::Exit;
use crate::monitor::config::Config;
use crate::monitor::config::Interval;
use crate::monitor::config::Sectors;
use crate::monitor::config::Wanted;
use crate::monitor::event::Voice;
use crate::monitor::policy::Amount;
use crate::monitor::policy::Threshold;
use crate::monitor::watch::Options;
use crate::monitor::watch::Watch;
use crate::output::Output;
use anyhow::Context;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// Time between two looks, if nothing else is said.
const INTERVAL: Duration = Duration::from_secs(5);

/// Extend the stores of snapshots before they are full
///
/// Watches all snapshots, also those of LVM and of dm-snapshot, until a signal comes. A store on a
/// logical volume is extended by lvextend, one on a loop device by making its file longer, and a
/// linear device on one of those by a new table. For all others there is the hook.
#[derive(Debug, Args)]
pub struct Monitor {
    /// Names of the devices to watch; none means all
    names: Vec<String>,
    /// Read policies from this file; otherwise from /etc/dmholey/monitor.toml, if it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Extend a store that is so full, in percent; 70 if nothing else is said
    #[arg(long, value_name = "PERCENT")]
    threshold: Option<Threshold>,
    /// By how much: a size, or a part of the present size; 20% if nothing else is said
    #[arg(long, value_name = "SIZE|PERCENT%")]
    amount: Option<Amount>,
    /// Never make a store larger than this
    #[arg(long, value_name = "SIZE", value_parser = parse_maximum)]
    maximum: Option<Sectors>,
    /// Seconds between two looks; 5 if nothing else is said. Events, and stores that fill quickly,
    /// are looked at sooner
    #[arg(long, value_name = "SECONDS", value_parser = parse_interval)]
    interval: Option<Interval>,
    /// Command for the shell that is told what happens, and that extends stores on other devices
    #[arg(long, value_name = "COMMAND")]
    hook: Option<String>,
    /// Look once, extend what has to be, and end: with 3 if there is a store that is full or must not
    /// become larger, a snapshot that was given up, or a merge that has failed
    #[arg(long)]
    once: bool,
    /// Say what would be extended, and change nothing
    #[arg(long)]
    dry_run: bool,
}

fn parse_maximum(text: &str) -> Result<Sectors, String> {
    text.to_owned().try_into()
}

fn parse_interval(text: &str) -> Result<Interval, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    seconds.try_into()
}

/// Runs the command.
pub fn run(args: &Monitor, output: Output) -> anyhow::Result<Exit> {
    let config = Config::read(args.config.as_deref())?;
    let interval = args.interval.or(config.interval);
    let options = Options {
        names: args
            .names
            .iter()
            .map(|name| node::name(name).to_owned())
            .collect(),
        wanted: Wanted {
            threshold: args.threshold,
            amount: args.amount,
            maximum: args.maximum,
        },
        interval: interval.map_or(INTERVAL, |Interval(time)| time),
        hook: args.hook.clone().or_else(|| config.hook.clone()),
        config,
        dry_run: args.dry_run,
    };
    let dm = Dm::open()?;
    let voice = Voice::new(output.json, output.quiet).context("cannot make a thread")?;
    let watch = Watch::new(dm, options, voice)?;
    if args.once {
        watch.once()
    } else {
        watch.run()
    }
}
