// SPDX-License-Identifier: GPL-2.0-or-later

//! A script: volumes, and what is done to the devices on them. One line each, as text.

use crate::op::cow_number;
use crate::op::Op;
use crate::op::COWS;
use std::fmt;
use std::str::FromStr;

/// The first line of every script.
const TITLE: &str = "# dmholey-differential 1";
/// Sectors of the pool that each volume has to itself.
pub(crate) const SLOT: u64 = 16 << 11;
/// Smallest volume, in sectors.
const SMALLEST: u64 = 1;

/// Sizes of the volumes, in sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) origin: u64,
    pub(crate) cows: [u64; COWS],
}

/// Sizes and operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Script {
    pub(crate) sizes: Sizes,
    pub(crate) ops: Vec<Op>,
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{TITLE}")?;
        writeln!(f, "size origin {}", self.sizes.origin)?;
        for (n, sectors) in self.sizes.cows.iter().enumerate() {
            writeln!(f, "size {n} {sectors}")?;
        }
        self.ops.iter().try_for_each(|op| writeln!(f, "{op}"))
    }
}

impl FromStr for Script {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut script = Self {
            sizes: Sizes {
                origin: 0,
                cows: [SMALLEST; COWS],
            },
            ops: Vec::new(),
        };
        if text.lines().next() != Some(TITLE) {
            return Err(format!("the first line of a script is '{TITLE}'"));
        }
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                script
                    .take(line)
                    .map_err(|why| format!("line {}: {why}", number + 1))?;
            }
        }
        match script.sizes.origin {
            0 => Err("there is no line 'size origin SECTORS'".to_owned()),
            _ => Ok(script),
        }
    }
}

impl Script {
    fn take(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let ["size", volume, sectors] = words[..] else {
            self.ops.push(line.parse()?);
            return Ok(());
        };
        let sectors = sectors.parse().ok();
        let sectors = sectors
            .filter(|n| (SMALLEST..=SLOT).contains(n))
            .ok_or_else(|| format!("a size is a number from {SMALLEST} to {SLOT}"))?;
        match volume {
            "origin" => self.sizes.origin = sectors,
            n => self.sizes.cows[cow_number(n)?] = sectors,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::generate;

    #[test]
    fn scripts_are_read_as_they_are_written() {
        for case in 0..300 {
            let script = generate(7, case, 40);
            let text = script.to_string();
            assert_eq!(text.parse(), Ok(script), "{text}");
        }
    }

    #[test]
    fn comments_and_blanks_are_passed_over() {
        let text = format!("{TITLE}\n\nsize origin 64 # small\n  write origin 0 8 fua\n");
        let script: Script = text.parse().unwrap();
        assert_eq!(script.sizes.origin, 64);
        assert_eq!(script.ops.len(), 1);
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (line, why) in [
            ("write origin 0", "no operation"),
            ("write origin 0 x", "no number"),
            ("write origin 0 0", "is 0"),
            ("write base 0 1", "no device"),
            ("write origin 0 1 sync", "only 'fua'"),
            ("create snapshot3 P 8", "3 COW volumes"),
            ("create snapshot0 X 8", "none of"),
            ("create snapshot0", "missing"),
            ("size 0 0", "a size"),
            ("jump", "no operation"),
        ] {
            let text = format!("{TITLE}\nsize origin 64\n{line}\n");
            let error = text.parse::<Script>().unwrap_err();
            assert!(error.starts_with("line 3: "), "{error}");
            assert!(error.contains(why), "{line}: {error}");
        }
        assert!("size origin 64".parse::<Script>().is_err());
        assert!(TITLE.parse::<Script>().is_err());
    }
}
