// SPDX-License-Identifier: GPL-2.0-or-later

//! Files that say what is wanted, in TOML.

use anyhow::Context;
use serde::de::DeserializeOwned;
use std::path::Path;

/// Reads the file at `path`. What is wrong in it is told in one line, with the number of its own.
pub fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    parse(path, &text)
}

/// Reads what is said in the file at `path`.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> anyhow::Result<T> {
    toml::from_str(text).map_err(|error| {
        // Its own text shows the place in several lines.
        let line = error.span().map_or(1, |span| {
            let before = text.get(..span.start).unwrap_or_default();
            1 + before.matches('\n').count()
        });
        let what = error.message().replace('\n', ", ");
        anyhow::anyhow!("{}, line {line}: {what}", path.display())
    })
}
