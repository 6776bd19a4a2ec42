// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey cow info`

use super::open_store;
use crate::exit::Exit;
use crate::output::columns;
use crate::output::Output;
use crate::units::human;
use clap::Args;
use dmholey_cow::format::SECTOR_SIZE;
use dmholey_cow::info;
use std::path::PathBuf;

/// Arguments of `cow info`.
#[derive(Debug, Args)]
pub struct Info {
    /// File or block device with a COW store
    image: PathBuf,
}

/// Runs the command.
pub fn run(args: &Info, output: Output) -> anyhow::Result<Exit> {
    let info = info::Info::of(&open_store(&args.image)?)?;
    output.fact(&info, text)?;
    Ok(Exit::Ok)
}

fn text(info: &info::Info) -> String {
    let survey = &info.survey;
    let validity = if info.valid { "valid" } else { "invalidated" };
    let order = if survey.sorted { "sorted" } else { "unsorted" };
    let version = match info.summarised {
        None => format!("{validity}, version {}", info.version),
        Some(count) => format!(
            "{validity}, version {}: the first {count} exceptions are summarised",
            info.version
        ),
    };
    let rows = [
        ("image", format!("{} ({})", info.path, human(info.size))),
        ("store", version),
        (
            "chunk size",
            human(u64::from(info.chunk_sectors) * SECTOR_SIZE),
        ),
        (
            "exceptions",
            format!(
                "{} in {} runs, {order}; {} fit",
                survey.exceptions, survey.runs, info.capacity
            ),
        ),
        ("data", human(info.data_bytes)),
        ("origin", format!("at least {} bytes", info.origin_bytes)),
    ];
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(name, value)| vec![name.to_owned(), value])
        .collect();
    columns(&rows)
}
