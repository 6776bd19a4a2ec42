// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey update pull`

use super::Which;
use crate::exit::Exit;
use crate::output::Output;
use crate::progress;
use crate::signals;
use crate::units::human;
use clap::Args;
use dmholey_update::client::Pulled;
use dmholey_update::state::Phase;
use serde::Serialize;

/// Arguments of `update pull`.
#[derive(Debug, Args)]
pub struct Pull {
    #[command(flatten)]
    which: Which,
    /// Fetch this version, and not the newest one
    #[arg(long, value_name = "VERSION")]
    to: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    pulled: Pulled,
    /// Whether it can be applied now.
    staged: bool,
}

/// Runs the command.
pub fn run(args: &Pull, output: Output) -> anyhow::Result<Exit> {
    signals::install()?;
    let mut session = args.which.open(output)?;
    let known = session.trust.ask(&session.mirrors)?;
    let watch = &progress::watch(output);
    let pulled = session
        .client
        .pull(&session.mirrors, &known.catalog, args.to, watch)?;
    // Another version than the one that is there already may be staged since before.
    let state = session.client.state();
    let is_it = state
        .target
        .is_some_and(|target| target.number == pulled.version);
    let staged = state.phase == Phase::Staged && is_it;
    output.done(&Report { pulled, staged }, text)?;
    Ok(Exit::Ok)
}

fn text(report: &Report) -> String {
    let Pulled {
        version,
        steps,
        fetched,
        found,
    } = &report.pulled;
    if !report.staged {
        return format!("version {version} is there already");
    }
    let found = if *found > 0 {
        format!(", {} were there", human(*found))
    } else {
        String::new()
    };
    format!(
        "version {version} is ready to be applied: {} fetched{found}, {} steps",
        human(*fetched),
        steps.len()
    )
}
