// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey delta info`

use super::open_delta;
use crate::exit::Exit;
use crate::output::columns;
use crate::output::Output;
use crate::units::human;
use clap::Args;
use dmholey_delta::info;
use dmholey_delta::info::UnitInfo;
use std::path::PathBuf;

/// Arguments of `delta info`.
#[derive(Debug, Args)]
pub struct Info {
    /// The delta
    delta: PathBuf,
}

/// Runs the command.
pub fn run(args: &Info, output: Output) -> anyhow::Result<Exit> {
    let info = info::Info::of(&open_delta(&args.delta)?);
    output.fact(&info, text)?;
    Ok(Exit::Ok)
}

fn text(info: &info::Info) -> String {
    let header = &info.header;
    let sum = |of: fn(&UnitInfo) -> u64| info.units.iter().map(of).sum::<u64>();
    let rows = [
        (
            "delta",
            format!("{} ({})", info.path, human(header.file_len)),
        ),
        ("identity", info.identity.to_string()),
        (
            "old image",
            format!("{} bytes, {}", header.old_len, header.old),
        ),
        (
            "new image",
            format!("{} bytes, {}", header.new_len, header.new),
        ),
        ("index", human(header.index_packed.into())),
        ("zero", format!("{} blocks", info.zero_blocks)),
        (
            "copied",
            format!("{} blocks in {} runs", info.copied_blocks, info.copies),
        ),
        (
            "made",
            format!(
                "{} blocks by {} units of {}, from {}",
                sum(|unit| unit.blocks),
                info.units.len(),
                human(sum(|unit| unit.packed)),
                human(sum(|unit| unit.source)),
            ),
        ),
        (
            "gzip files",
            info.units
                .iter()
                .map(|unit| unit.gzip_files)
                .sum::<usize>()
                .to_string(),
        ),
    ];
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(name, value)| vec![name.to_owned(), value])
        .collect();
    columns(&rows)
}
