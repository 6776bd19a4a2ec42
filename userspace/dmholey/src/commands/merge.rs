// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey merge`

use crate::dm::ioctl::Dm;
use crate::dm::merge;
use crate::dm::node;
use crate::exit::Exit;
use crate::output::Output;
use crate::progress::Meter;
use crate::signals;
use crate::units::human;
use clap::Args;
use serde::Serialize;
use std::time::Duration;

/// Show how far a merge is, or wait for its end
#[derive(Debug, Args)]
pub struct Merge {
    /// Name of a merge device
    name: String,
    /// Wait until the merge is finished
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    pace: Pace,
}

/// How often the kernel is asked.
#[derive(Clone, Copy, Debug, Args)]
pub struct Pace {
    /// Seconds between two looks at a merge
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = parse_seconds)]
    interval: Duration,
}

impl Pace {
    /// The time between two looks.
    pub fn interval(self) -> Duration {
        self.interval
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if !(0.01..=3600.0).contains(&seconds) {
        return Err("must be from 0.01 to 3600".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// The last event of a wait.
#[derive(Debug, Serialize)]
struct Finished {
    event: &'static str,
    #[serde(flatten)]
    merge: merge::Merge,
}

/// Runs the command.
pub fn run(args: &Merge, output: Output) -> anyhow::Result<Exit> {
    let name = node::name(&args.name);
    let dm = Dm::open()?;
    if !args.wait {
        output.fact(&merge::look(&dm, name)?, text)?;
        return Ok(Exit::Ok);
    }
    signals::install()?;
    let meter = Meter::with_events(format!("merging {name}"), output);
    let sleep = &mut signals::sleep;
    let merge = merge::wait(&dm, name, args.pace.interval, &meter, sleep)?;
    drop(meter);
    let finished = Finished {
        event: "finished",
        merge,
    };
    output.done(&finished, |finished| text(&finished.merge))?;
    Ok(Exit::Ok)
}

fn text(merge: &merge::Merge) -> String {
    if merge.finished {
        format!("{}: merged", merge.name)
    } else {
        format!("{}: {} left", merge.name, human(merge.left_bytes))
    }
}
