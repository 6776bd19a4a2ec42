// SPDX-License-Identifier: GPL-2.0-or-later

//! When a copier starts over by itself: the section `[recycle]`.

use serde::Deserialize;
use std::time::Duration;

/// The section.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Section {
    above: Option<String>,
    after: Option<String>,
    drain: Option<String>,
    resume: Option<String>,
    #[serde(default = "limit")]
    limit: String,
    #[serde(default = "retry")]
    retry: String,
}

fn limit() -> String {
    "10m".to_owned()
}

fn retry() -> String {
    "1m".to_owned()
}

/// When a copier starts over, and what is run then.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// When more of its COW device is in use, in percent.
    pub above: Option<f64>,
    /// When it has been a copier for so long.
    pub after: Option<Duration>,
    /// A command for the shell, before it leaves: the application is to let go of the device.
    pub drain: Option<String>,
    /// A command for the shell, after it has joined again.
    pub resume: Option<String>,
    /// How long either may take.
    pub limit: Duration,
    /// How soon it is tried again, if it cannot be now.
    pub retry: Duration,
}

impl Section {
    pub(super) fn check(self) -> Result<Policy, String> {
        if self.above.is_none() && self.after.is_none() {
            return Err("it needs above or after".to_owned());
        }
        Ok(Policy {
            above: self.above.as_deref().map(parse_percent).transpose()?,
            after: self.after.as_deref().map(parse_duration).transpose()?,
            drain: self.drain,
            resume: self.resume,
            limit: parse_duration(&self.limit)?,
            retry: parse_duration(&self.retry)?,
        })
    }
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.trim().strip_suffix('%').map(str::trim);
    number
        .and_then(|number| number.parse().ok())
        .filter(|number| (1.0..100.0).contains(number))
        .ok_or_else(|| format!("'{text}' is no share; write one from 1% to 99%, such as \"70%\""))
}

/// Reads a time: a whole number with a unit, s, m, h or d.
fn parse_duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 3600), ('d', 86400)];
    let wrong =
        || format!("'{text}' is no time; write a whole number and s, m, h or d, such as 24h");
    let (digits, seconds) = UNITS
        .iter()
        .find_map(|&(unit, seconds)| Some((text.trim().strip_suffix(unit)?, seconds)))
        .ok_or_else(wrong)?;
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(seconds).filter(|&seconds| seconds > 0);
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_times_are_read() {
        assert_eq!(parse_percent("70%"), Ok(70.0));
        assert_eq!(parse_percent(" 12.5 %"), Ok(12.5));
        for wrong in ["70", "0%", "100%", "-1%", "x%", "NaN%", ""] {
            assert!(parse_percent(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_duration("24h"), Ok(Duration::from_secs(86400)));
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        for wrong in [
            "",
            "h",
            "0s",
            "1.5h",
            "10",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_policy_needs_a_reason() {
        let section: Section = toml::from_str("drain = \"true\"").unwrap();
        assert!(section.check().unwrap_err().contains("above or after"));
        let section: Section = toml::from_str("after = \"2d\"").unwrap();
        let policy = section.check().unwrap();
        assert_eq!(policy.limit, Duration::from_secs(600));
        assert_eq!(policy.above, None);
    }
}
