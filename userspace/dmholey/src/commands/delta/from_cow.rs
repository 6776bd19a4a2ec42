// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey delta from-cow`

use super::make;
use super::make::How;
use super::not_an_input;
use super::open;
use crate::exit::Exit;
use crate::output::Output;
use clap::Args;
use dmholey_cow::Disk;
use dmholey_cow::Stack;
use dmholey_cow::Store;
use std::path::PathBuf;

/// Arguments of `delta from-cow`.
#[derive(Debug, Args)]
pub struct FromCow {
    /// File or block device with a COW store
    cow: PathBuf,
    /// File or block device with the old version
    #[arg(long, value_name = "OLD")]
    base: PathBuf,
    #[command(flatten)]
    how: How,
}

/// Runs the command.
pub fn run(args: &FromCow, output: Output) -> anyhow::Result<Exit> {
    not_an_input(&args.how.output, &[&args.cow, &args.base])?;
    let base = open(&args.base)?;
    let mut shown = Stack::new(&base, base.size());
    shown.push(Store::open(open(&args.cow)?)?)?;
    make::make(&args.base, &base, &shown, &args.how, output)
}
