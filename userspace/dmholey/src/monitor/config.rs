// SPDX-License-Identifier: GPL-2.0-or-later

//! The file that says what is wanted, in TOML.

use super::policy::Amount;
use super::policy::Policy;
use super::policy::Threshold;
use crate::configfile;
use crate::units::parse_sectors;
use anyhow::Context;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Read if no other file is named, and if it is there.
pub const DEFAULT_PATH: &str = "/etc/dmholey/monitor.toml";

/// A whole number of sectors, written with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Sectors(pub u64);

impl TryFrom<String> for Sectors {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        parse_sectors(&text).map(Self)
    }
}

/// Seconds from 0.1 to 3600.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Interval(pub Duration);

impl TryFrom<f64> for Interval {
    type Error = String;

    fn try_from(seconds: f64) -> Result<Self, String> {
        if !(0.1..=3600.0).contains(&seconds) {
            return Err(format!("{seconds} seconds are not from 0.1 to 3600"));
        }
        Ok(Self(Duration::from_secs_f64(seconds)))
    }
}

/// A policy of which parts are left to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Wanted {
    /// See [`Policy::threshold`].
    pub threshold: Option<Threshold>,
    /// See [`Policy::amount`].
    pub amount: Option<Amount>,
    /// See [`Policy::maximum`].
    pub maximum: Option<Sectors>,
}

impl Wanted {
    /// The policy, with the missing parts from another one.
    pub fn or(self, other: Policy) -> Policy {
        Policy {
            threshold: self.threshold.unwrap_or(other.threshold),
            amount: self.amount.unwrap_or(other.amount),
            maximum: self.maximum.map(|Sectors(n)| n).or(other.maximum),
        }
    }
}

/// What is wanted for one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Device {
    threshold: Option<Threshold>,
    amount: Option<Amount>,
    maximum: Option<Sectors>,
    ignore: bool,
}

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    threshold: Option<Threshold>,
    amount: Option<Amount>,
    maximum: Option<Sectors>,
    /// Time between two looks.
    pub interval: Option<Interval>,
    /// A command for the shell.
    pub hook: Option<String>,
    device: BTreeMap<String, Device>,
}

impl Config {
    /// Reads the file at `path`, or the default one if it is there.
    pub fn read(path: Option<&Path>) -> anyhow::Result<Self> {
        let default = Path::new(DEFAULT_PATH);
        let text = match std::fs::read_to_string(path.unwrap_or(default)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && path.is_none() => String::new(),
            other => {
                let path = path.unwrap_or(default).display();
                other.with_context(|| format!("cannot read {path}"))?
            }
        };
        configfile::parse(path.unwrap_or(default), &text)
    }

    /// The policy for a device; `None` if it is to be left alone. `first` is what was said elsewhere for all devices
    /// that have no section of their own.
    pub fn policy(&self, name: &str, first: Wanted) -> Option<Policy> {
        let all = Wanted {
            threshold: self.threshold,
            amount: self.amount,
            maximum: self.maximum,
        };
        let policy = first.or(all.or(Policy::default()));
        let Some(device) = self.device.get(name) else {
            return Some(policy);
        };
        let own = Wanted {
            threshold: device.threshold,
            amount: device.amount,
            maximum: device.maximum,
        };
        (!device.ignore).then(|| own.or(policy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> anyhow::Result<Config> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::read(Some(file.path()))
    }

    #[test]
    fn the_nearest_word_counts() {
        let config = read(
            "threshold = 60\namount = \"1G\"\ninterval = 0.5\nhook = \"true\"\n\
             [device.root]\nthreshold = 50\nmaximum = \"2G\"\n[device.\"vg-old\"]\nignore = true\n",
        )
        .unwrap();
        assert_eq!(config.interval, Some(Interval(Duration::from_millis(500))));
        let policy = |name, first| config.policy(name, first).unwrap();
        let said = Wanted {
            threshold: "80".parse().ok(),
            maximum: Some(Sectors(10)),
            ..Wanted::default()
        };
        let other = policy("other", Wanted::default());
        assert_eq!(Some(other.threshold), "60".parse().ok());
        assert_eq!(
            (other.amount, other.maximum),
            (Amount::Sectors(2 << 20), None)
        );
        let other = policy("other", said);
        assert_eq!(Some(other.threshold), "80".parse().ok());
        assert_eq!(other.maximum, Some(10));
        let root = policy("root", said);
        assert_eq!(Some(root.threshold), "50".parse().ok());
        assert_eq!(root.maximum, Some(4 << 20));
        assert_eq!(config.policy("vg-old", said), None);
        let nothing = read("").unwrap().policy("x", Wanted::default());
        assert_eq!(nothing, Some(Policy::default()));
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, line, part) in [
            ("\nthreshold = 100\n", 2, "from 1 to 99"),
            ("amount = \"x\"", 1, "not a size"),
            ("interval = 0", 1, "from 0.1"),
            ("interval = 0.0", 1, "from 0.1"),
            ("[device.a]\n\nsize = 1", 3, "unknown field"),
            ("colour = 1", 1, "unknown field"),
            ("= 1", 1, "key"),
        ] {
            let error = format!("{:#}", read(text).unwrap_err());
            let place = format!(", line {line}: ");
            assert!(error.contains(&place) && error.contains(part), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        let error = Config::read(Some(Path::new("/none"))).unwrap_err();
        assert!(format!("{error:#}").contains("cannot read /none"));
    }
}
