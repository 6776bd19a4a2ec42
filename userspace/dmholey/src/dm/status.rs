// SPDX-License-Identifier: GPL-2.0-or-later

//! Status lines of snapshots and merges.

use crate::units::human;
use crate::units::percent;
use dmholey_cow::format::SECTOR_SIZE;
use serde::Deserialize;
use serde::Serialize;
use std::fmt;

/// How full a store is, in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Sectors up to the next free chunk.
    #[serde(rename = "allocated_sectors")]
    pub allocated: u64,
    /// Sectors of the COW device.
    #[serde(rename = "total_sectors")]
    pub total: u64,
    /// Those of the allocated sectors that are metadata. When a merge has made it equal to them,
    /// the store is empty.
    #[serde(rename = "metadata_sectors")]
    pub metadata: u64,
}

impl Usage {
    /// Sectors that nothing has been put into.
    pub fn free(self) -> u64 {
        self.total.saturating_sub(self.allocated)
    }

    /// Sectors of data that are left to merge.
    pub fn left(self) -> u64 {
        self.allocated.saturating_sub(self.metadata)
    }
}

/// The state of a snapshot or a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// It works.
    Ok(Usage),
    /// Given up: its content is not to be trusted.
    Invalid,
    /// The merge stopped by an error; the content is still right.
    MergeFailed,
    /// Full: writes fail.
    Overflow,
    /// The store cannot say.
    Unknown,
    /// Nothing to say, as for an origin.
    None,
}

impl State {
    /// Reads what a target says; `None` if it is nothing that this program knows.
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "" => return Some(Self::None),
            "Invalid" => return Some(Self::Invalid),
            "Merge failed" => return Some(Self::MergeFailed),
            "Overflow" => return Some(Self::Overflow),
            "Unknown" => return Some(Self::Unknown),
            _ => {}
        }
        let mut words = text.split_ascii_whitespace();
        let (allocated, total) = words.next()?.split_once('/')?;
        Some(Self::Ok(Usage {
            allocated: allocated.parse().ok()?,
            total: total.parse().ok()?,
            metadata: words.next()?.parse().ok()?,
        }))
    }

    /// How full the store is, in percent.
    pub fn percent(self) -> Option<f64> {
        match self {
            Self::Ok(usage) => Some(percent(usage.allocated, usage.total)),
            _ => None,
        }
    }

    /// Whether a merge has nothing left to do.
    pub fn is_merged(self) -> bool {
        matches!(self, Self::Ok(usage) if usage.left() == 0)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok(usage) => write!(
                f,
                "{:.1} % of {} used, {} of it data",
                percent(usage.allocated, usage.total),
                human(usage.total.saturating_mul(SECTOR_SIZE)),
                human(usage.left().saturating_mul(SECTOR_SIZE)),
            ),
            Self::Invalid => f.write_str("invalid"),
            Self::MergeFailed => f.write_str("merge failed"),
            Self::Overflow => f.write_str("overflow"),
            Self::Unknown => f.write_str("unknown"),
            Self::None => f.write_str("-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn states_are_read() {
        let usage = Usage {
            allocated: 2072,
            total: 20480,
            metadata: 24,
        };
        let cases = [
            ("2072/20480 24", Some(State::Ok(usage))),
            ("2072/20480 24 something", Some(State::Ok(usage))),
            ("Invalid", Some(State::Invalid)),
            ("Merge failed", Some(State::MergeFailed)),
            ("Overflow", Some(State::Overflow)),
            ("Unknown", Some(State::Unknown)),
            ("", Some(State::None)),
            ("2072 20480 24", None),
            ("2072/20480", None),
            ("-1/2 3", None),
        ];
        for (text, state) in cases {
            assert_eq!(State::parse(text), state, "{text}");
        }
        assert_eq!(State::Ok(usage).percent(), Some(10.1));
    }

    #[test]
    fn a_merge_is_done_when_only_metadata_is_left() {
        assert!(State::parse("16/2048 16").unwrap().is_merged());
        assert!(!State::parse("24/2048 16").unwrap().is_merged());
        assert!(!State::Invalid.is_merged());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = State::parse(&text);
        }
    }
}
