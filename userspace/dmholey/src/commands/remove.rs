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

/// What was removed, and what will be.
#[derive(Debug, Default, Serialize)]
struct Removed<'a> {
    removed: Vec<&'a str>,
    deferred: Vec<&'a str>,
}

/// Runs the command. Stops at the first device that cannot be removed.
pub fn run(args: &Remove, output: Output) -> anyhow::Result<Exit> {
    let dm = Dm::open()?;
    let mut done = Removed::default();
    for name in &args.names {
        let gone = flow::remove(&dm, &node::DevMapper, node::name(name), args.deferred)?;
        match gone {
            true => done.removed.push(name),
            false => done.deferred.push(name),
        }
    }
    output.done(&done, |_| String::new())?;
    Ok(Exit::Ok)
}
