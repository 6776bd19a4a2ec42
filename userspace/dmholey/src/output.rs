// SPDX-License-Identifier: GPL-2.0-or-later

//! Facts go to standard output, as text or as JSON. Everything else goes to standard error.

use anyhow::Context;
use serde::Serialize;
use std::io;
use std::io::Write;

/// How facts are printed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Output {
    /// As JSON, for programs.
    pub json: bool,
    /// Nothing but what was asked for: no progress, no remarks.
    pub quiet: bool,
}

impl Output {
    /// Prints `value` as one line of JSON, or what `text` makes of it.
    pub fn fact<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        if self.json {
            return line(&serde_json::to_string(value)?);
        }
        line(&text(value))
    }

    /// The same for the result of a change, which `--quiet` leaves out when it is text.
    pub fn done<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        if self.quiet && !self.json {
            return Ok(());
        }
        self.fact(value, text)
    }
}

/// Prints a line; nothing at all for an empty text.
pub fn line(text: &str) -> anyhow::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .context("cannot write to standard output")
}

/// A table for people: columns as wide as they need to be, two blanks between them.
pub fn columns(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (i, cell) in row.iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(i) {
                Some(known) => *known = width.max(*known),
                None => widths.push(width),
            }
        }
    }
    let lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let cells = row.iter().zip(&widths);
            let text: Vec<String> = cells
                .map(|(cell, &width)| format!("{cell:width$}"))
                .collect();
            text.join("  ").trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["a", "bb", "c"], ["ccc", "d", ""]];
        let rows: Vec<Vec<String>> = rows
            .iter()
            .map(|row| row.iter().map(|&cell| cell.to_owned()).collect())
            .collect();
        assert_eq!(columns(&rows), "a    bb  c\nccc  d");
    }
}
