// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey image diff`

use crate::exit::Exit;
use crate::output::columns;
use crate::output::Output;
use crate::progress::watch;
use crate::signals;
use crate::units::human;
use clap::Args;
use dmholey_repository::compare::compare;
use dmholey_repository::compare::Change;
use dmholey_repository::compare::Comparison;
use dmholey_repository::Repository;
use std::path::PathBuf;

/// Arguments of `image diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// Folder of the repository
    repository: PathBuf,
    /// Number of the old version
    from: u64,
    /// Number of the new version
    to: u64,
}

/// Runs the command.
pub fn run(args: &Diff, output: Output) -> anyhow::Result<Exit> {
    signals::install()?;
    let repository = Repository::open(&args.repository)?;
    let meter = watch(output)("comparing");
    let comparison = compare(&repository, args.from, args.to, &*meter)?;
    drop(meter);
    output.fact(&comparison, text)?;
    Ok(Exit::Ok)
}

fn text(comparison: &Comparison) -> String {
    let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), |b| b.to_string());
    let mut rows = Vec::new();
    for file in &comparison.files {
        let sign = match file.change {
            Change::Added => "+",
            Change::Removed => "-",
            Change::Changed => "M",
        };
        rows.push(vec![
            sign.to_owned(),
            file.path.clone(),
            bytes(file.old_bytes),
            bytes(file.new_bytes),
        ]);
    }
    let count = |change| {
        let files = comparison.files.iter();
        files.filter(|file| file.change == change).count()
    };
    let files = if comparison.file_system {
        format!(
            "files: {} added, {} removed, {} with other content",
            count(Change::Added),
            count(Change::Removed),
            count(Change::Changed),
        )
    } else {
        "files: not looked at, there is no ext4 file system with blocks of 4 KiB in both".to_owned()
    };
    let sum = format!(
        "{} of {} differ; {files}",
        human(comparison.changed_bytes),
        human(comparison.new_bytes),
    );
    if rows.is_empty() {
        return sum;
    }
    format!("{}\n{sum}", columns(&rows))
}
