// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey create`

use crate::commands::line::Naming;
use crate::commands::line::OriginLine;
use crate::commands::line::OverlayLine;
use crate::dm::flow;
use crate::dm::ioctl::Dm;
use crate::dm::node;
use crate::dm::table::Role;
use crate::dm::DevNum;
use crate::exit::Exit;
use crate::output::Output;
use clap::Args;
use clap::Subcommand;
use serde::Serialize;

/// Make a device: an origin, a snapshot or a merge
#[derive(Debug, Subcommand)]
pub enum Create {
    /// A device to write to the origin by, while its snapshots stay as they are
    Origin(CreateOrigin),
    /// The content that the origin has now, or had when the store was made; writable
    Snapshot(CreateOverlay),
    /// The same content, on its way into the origin; writable all the time
    Merge(CreateOverlay),
}

/// Arguments of `create origin`.
#[derive(Debug, Args)]
pub struct CreateOrigin {
    /// Name of the new device
    name: String,
    #[command(flatten)]
    line: OriginLine,
}

/// Arguments of `create snapshot` and `create merge`.
#[derive(Debug, Args)]
pub struct CreateOverlay {
    /// Name of the new device
    name: String,
    #[command(flatten)]
    line: OverlayLine,
}

/// What was made.
#[derive(Debug, Serialize)]
struct Created {
    name: String,
    device: DevNum,
    node: String,
    table: String,
}

/// Runs the command.
pub fn run(args: &Create, output: Output) -> anyhow::Result<Exit> {
    let numbers = Naming::Numbers;
    let (name, table) = match args {
        Create::Origin(args) => (&args.name, args.line.table(numbers)?),
        Create::Snapshot(args) => (&args.name, args.line.table(Role::Snapshot, numbers)?),
        Create::Merge(args) => (&args.name, args.line.table(Role::Merge, numbers)?),
    };
    let device = flow::create(&Dm::open()?, &node::DevMapper, name, "", &table)?;
    let created = Created {
        name: name.clone(),
        device,
        node: node::path(name).display().to_string(),
        table: table.line().to_string(),
    };
    output.done(&created, |created| created.node.clone())?;
    Ok(Exit::Ok)
}
