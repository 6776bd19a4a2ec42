// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey remove`

use crate::dm::flow;
use crate::dm::ioctl::Dm;
use crate::dm::node;
use crate::exit::Exit;
use crate::output::Output;
use clap::Args;
use serde::Serialize;

/// Remove devices
#[derive(Debug, Args)]
pub struct Remove {
    /// Names of the devices
    #[arg(required = true)]
    names: Vec<String>,
    /// Remove a device that is in use as soon as it no longer is
    #[arg(long)]
    deferred: bool,
}

/// What was removed.
#[derive(Debug, Serialize)]
struct Removed<'a> {
    removed: &'a [String],
}

/// Runs the command. Stops at the first device that cannot be removed.
pub fn run(args: &Remove, output: Output) -> anyhow::Result<Exit> {
    let dm = Dm::open()?;
    for name in &args.names {
        flow::remove(&dm, &node::DevMapper, node::name(name), args.deferred)?;
    }
    let removed = Removed {
        removed: &args.names,
    };
    output.done(&removed, |_| String::new())?;
    Ok(Exit::Ok)
}
