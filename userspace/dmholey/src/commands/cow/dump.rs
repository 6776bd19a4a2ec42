// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey cow dump`

use super::open_store;
use crate::exit::Exit;
use crate::output::Output;
use anyhow::Context;
use clap::Args;
use std::io;
use std::io::Write;
use std::path::PathBuf;

/// Arguments of `cow dump`.
#[derive(Debug, Args)]
pub struct Dump {
    /// File or block device with a COW store
    image: PathBuf,
}

/// Runs the command.
pub fn run(args: &Dump, output: Output) -> anyhow::Result<Exit> {
    let store = open_store(&args.image)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    for run in store.runs() {
        let run = match run {
            Ok(run) => run,
            Err(error) => {
                // What was read so far comes before the error.
                out.flush().context("cannot write to standard output")?;
                return Err(error.into());
            }
        };
        let text = if output.json {
            serde_json::to_string(&run)?
        } else {
            format!("{} {} {}", run.origin, run.cow, run.len)
        };
        writeln!(out, "{text}").context("cannot write to standard output")?;
    }
    out.flush().context("cannot write to standard output")?;
    Ok(Exit::Ok)
}
