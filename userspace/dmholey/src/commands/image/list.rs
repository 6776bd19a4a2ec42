// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey image list`

use crate::exit::Exit;
use crate::output::columns;
use crate::output::Output;
use crate::units::human;
use crate::units::utc;
use clap::Args;
use dmholey_repository::manifest::Manifest;
use dmholey_repository::Repository;
use std::path::PathBuf;

/// Arguments of `image list`.
#[derive(Debug, Args)]
pub struct List {
    /// Folder of the repository
    repository: PathBuf,
}

/// Runs the command.
pub fn run(args: &List, output: Output) -> anyhow::Result<Exit> {
    let repository = Repository::open(&args.repository)?;
    output.fact(repository.manifest(), text)?;
    Ok(Exit::Ok)
}

fn text(manifest: &Manifest) -> String {
    let head = ["version", "made", "size", "changed", "deltas", "note"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for version in &manifest.versions {
        let deltas = manifest.deltas.iter().filter(|d| d.to == version.number);
        let deltas: Vec<String> = deltas
            .map(|delta| format!("{}: {}", delta.from, human(delta.bytes)))
            .collect();
        rows.push(vec![
            version.number.to_string(),
            utc(version.made),
            human(version.bytes),
            human(version.changed_bytes),
            if deltas.is_empty() {
                "-".to_owned()
            } else {
                deltas.join(", ")
            },
            version.note.clone(),
        ]);
    }
    columns(&rows)
}
