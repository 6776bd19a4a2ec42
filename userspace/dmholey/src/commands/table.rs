// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey table`

use crate::commands::line::Naming;
use crate::commands::line::OriginLine;
use crate::commands::line::OverlayLine;
use crate::dm::table::Role;
use crate::dm::table::Table;
use crate::exit::Exit;
use crate::output::Output;
use crate::units::parse_sectors;
use clap::Args;
use clap::Subcommand;
use serde::Serialize;

/// Print the table line that 'create' would load, and load nothing
#[derive(Debug, Subcommand)]
pub enum TableOf {
    /// Line of an origin
    Origin(OriginTable),
    /// Line of a snapshot
    Snapshot(OverlayTable),
    /// Line of a merge
    Merge(OverlayTable),
}

/// A length that replaces a look at the devices.
#[derive(Debug, Args)]
pub struct Length {
    /// Size of the origin; no device is looked at then, so none need exist
    #[arg(long, value_name = "SIZE", value_parser = parse_sectors)]
    length: Option<u64>,
}

/// Arguments of `table origin`.
#[derive(Debug, Args)]
pub struct OriginTable {
    #[command(flatten)]
    line: OriginLine,
    #[command(flatten)]
    length: Length,
}

/// Arguments of `table snapshot` and `table merge`.
#[derive(Debug, Args)]
pub struct OverlayTable {
    #[command(flatten)]
    line: OverlayLine,
    #[command(flatten)]
    length: Length,
}

/// The line and its parts.
#[derive(Debug, Serialize)]
struct Printed {
    table: String,
    start: u64,
    length: u64,
    target: String,
    params: String,
}

/// Runs the command.
pub fn run(args: &TableOf, output: Output) -> anyhow::Result<Exit> {
    let table = match args {
        TableOf::Origin(args) => match args.length.length {
            Some(len) => args.line.table_unseen(len),
            None => args.line.table(Naming::Paths)?,
        },
        TableOf::Snapshot(args) => overlay(args, Role::Snapshot)?,
        TableOf::Merge(args) => overlay(args, Role::Merge)?,
    };
    let line = table.line();
    let printed = Printed {
        table: line.to_string(),
        start: line.start,
        length: line.len,
        target: line.target,
        params: line.params,
    };
    output.fact(&printed, |printed| printed.table.clone())?;
    Ok(Exit::Ok)
}

fn overlay(args: &OverlayTable, role: Role) -> anyhow::Result<Table> {
    match args.length.length {
        Some(len) => args.line.table_unseen(role, len),
        None => args.line.table(role, Naming::Paths),
    }
}
