// SPDX-License-Identifier: GPL-2.0-or-later

//! One file per subcommand: its arguments, their validation, the call, the printing.

pub mod cluster;
pub mod completions;
pub mod cow;
pub mod create;
pub mod delta;
pub mod image;
pub mod line;
pub mod man;
pub mod merge;
pub mod monitor;
pub mod remove;
pub mod status;
pub mod table;
pub mod update;

use crate::cli::Cli;
use crate::cli::Command;
use crate::exit::Exit;
use crate::output::Output;

/// Does what the command line says. An error has not been printed yet.
pub fn run(cli: Cli) -> anyhow::Result<Exit> {
    let output = Output {
        json: cli.json,
        quiet: cli.quiet,
    };
    match cli.command {
        Command::Create(args) => create::run(&args, output),
        Command::Remove(args) => remove::run(&args, output),
        Command::Status(args) => status::run(&args, output),
        Command::Table(args) => table::run(&args, output),
        Command::Merge(args) => merge::run(&args, output),
        Command::Monitor(args) => monitor::run(&args, output),
        Command::Cluster(args) => cluster::run(&args, output),
        Command::Cow(args) => cow::run(&args, output),
        Command::Delta(args) => delta::run(&args, output),
        Command::Image(args) => image::run(&args, output),
        Command::Update(args) => update::run(&args, output),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}
