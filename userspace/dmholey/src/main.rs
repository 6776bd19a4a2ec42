// SPDX-License-Identifier: GPL-2.0-or-later

//! Creates, watches and merges copy-on-write overlays, and handles their images.

#![forbid(unsafe_code)]

use clap::Parser;
use dmholey::cli::Cli;
use dmholey::commands;
use dmholey::exit::Exit;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let exit = match commands::run(cli) {
        Ok(exit) => exit,
        Err(error) => {
            let exit = Exit::of(&error);
            // Whoever reads our output may stop reading: then there is nobody to tell.
            if exit != Exit::Ok {
                eprintln!("dmholey: {error:#}");
            }
            exit
        }
    };
    ExitCode::from(exit.code())
}
