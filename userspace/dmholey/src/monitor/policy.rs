// SPDX-License-Identifier: GPL-2.0-or-later

//! From how full a store is to how large it should be.

use crate::units::parse_sectors;
use dmholey_cow::format::ChunkSize;
use holey_core::table::StoreKind;
use serde::Deserialize;
use std::fmt;
use std::str::FromStr;

/// Bytes of an exception in a persistent store.
const ENTRY_BYTES: u64 = 16;

/// By how much a store is extended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Amount {
    /// By a part of the size that it has.
    Percent(u32),
    /// By so many sectors.
    Sectors(u64),
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(number) = text.trim().strip_suffix('%') else {
            return parse_sectors(text).map(Self::Sectors);
        };
        match number.trim_end().parse() {
            Ok(percent @ 1..=1000) => Ok(Self::Percent(percent)),
            _ => Err(format!("'{text}' is not a percentage from 1% to 1000%")),
        }
    }
}

impl TryFrom<String> for Amount {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Sectors(sectors) => write!(f, "{sectors}s"),
        }
    }
}

/// A percentage from which on a store is extended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u32")]
pub struct Threshold(u32);

impl Threshold {
    /// The default.
    pub const DEFAULT: Self = Self(70);
}

impl TryFrom<u32> for Threshold {
    type Error = String;

    fn try_from(percent: u32) -> Result<Self, String> {
        match percent {
            1..=99 => Ok(Self(percent)),
            _ => Err(format!("a threshold of {percent} % is not from 1 to 99")),
        }
    }
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().trim_end_matches('%');
        let percent: u32 = number
            .parse()
            .map_err(|_| format!("'{text}' is not a percentage from 1 to 99"))?;
        percent.try_into()
    }
}

/// What is wanted for a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// It is extended when it is so full.
    pub threshold: Threshold,
    /// By so much, or by the multiple of it that brings it below the threshold.
    pub amount: Amount,
    /// But never to more than so many sectors.
    pub maximum: Option<u64>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            threshold: Threshold::DEFAULT,
            amount: Amount::Percent(20),
            maximum: None,
        }
    }
}

/// How full a store is, in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// In use.
    pub allocated: u64,
    /// The size of the COW device.
    pub total: u64,
    /// A COW device of this size cannot become full, as far as is known.
    pub useful: Option<u64>,
}

/// What to do about a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: it has room enough.
    Enough,
    /// Extend it to so many sectors.
    Extend {
        /// The size.
        to: u64,
    },
    /// It should be extended, and must not be.
    Maximum,
}

impl Policy {
    /// What to do about a store.
    pub fn judge(&self, fill: Fill) -> Verdict {
        let Fill {
            allocated,
            total,
            useful,
        } = fill;
        let cannot_fill = useful.is_some_and(|useful| total >= useful);
        if total == 0 || cannot_fill || !self.is_over(allocated, total) {
            return Verdict::Enough;
        }
        if self.maximum.is_some_and(|maximum| total >= maximum) {
            return Verdict::Maximum;
        }
        let step = match self.amount {
            Amount::Percent(percent) => share(total, percent, 100),
            Amount::Sectors(sectors) => sectors,
        };
        let step = step.max(1);
        // The smallest size in which so much is below the threshold.
        let wanted = share(allocated, 100, self.threshold.0).saturating_add(1);
        let steps = wanted.saturating_sub(total).div_ceil(step).max(1);
        let to = total.saturating_add(steps.saturating_mul(step));
        let limit = self.maximum.into_iter().chain(useful).min();
        Verdict::Extend {
            to: limit.map_or(to, |limit| to.min(limit)),
        }
    }

    /// The sectors in use from which on a store is extended.
    pub fn mark(&self, total: u64) -> u64 {
        share(total, self.threshold.0, 100)
    }

    fn is_over(&self, allocated: u64, total: u64) -> bool {
        u128::from(allocated) * 100 >= u128::from(total) * u128::from(self.threshold.0)
    }
}

/// `number * times / by`
fn share(number: u64, times: u32, by: u32) -> u64 {
    let share = u128::from(number) * u128::from(times) / u128::from(by.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

/// The size of a COW device that has room for every chunk of an origin of `sectors`.
pub fn useful_sectors(sectors: u64, chunk: ChunkSize, kind: StoreKind) -> u64 {
    let size = u64::from(chunk.sectors());
    let data = sectors.div_ceil(size);
    let chunks = match kind {
        StoreKind::Transient => data,
        StoreKind::Persistent | StoreKind::Overflow => {
            let area = chunk.bytes() as u64 / ENTRY_BYTES;
            // The header; and the area that ends the list.
            data.saturating_add(data / area + 2)
        }
    };
    chunks.saturating_mul(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(threshold: u32, amount: Amount, maximum: Option<u64>) -> Policy {
        Policy {
            threshold: Threshold(threshold),
            amount,
            maximum,
        }
    }

    fn judge(policy: Policy, allocated: u64, total: u64) -> Verdict {
        policy.judge(Fill {
            allocated,
            total,
            useful: None,
        })
    }

    #[test]
    fn a_store_is_extended_from_the_threshold_on() {
        let policy = policy(70, Amount::Percent(20), None);
        assert_eq!(judge(policy, 699, 1000), Verdict::Enough);
        assert_eq!(judge(policy, 700, 1000), Verdict::Extend { to: 1200 });
        // One step leaves it at 83 %, two at 71 %: three are needed.
        assert_eq!(judge(policy, 1000, 1000), Verdict::Extend { to: 1600 });
        assert_eq!(judge(policy, 0, 0), Verdict::Enough);
    }

    #[test]
    fn the_maximum_is_kept() {
        let policy = policy(50, Amount::Sectors(600), Some(1500));
        assert_eq!(judge(policy, 500, 1000), Verdict::Extend { to: 1500 });
        assert_eq!(judge(policy, 750, 1500), Verdict::Maximum);
        assert_eq!(judge(policy, 749, 1500), Verdict::Enough);
        assert_eq!(judge(policy, 1600, 1600), Verdict::Maximum);
    }

    #[test]
    fn no_store_becomes_larger_than_is_useful() {
        let policy = policy(50, Amount::Percent(100), None);
        let judge = |total| {
            policy.judge(Fill {
                allocated: total,
                total,
                useful: Some(1100),
            })
        };
        assert_eq!(judge(1000), Verdict::Extend { to: 1100 });
        assert_eq!(judge(1100), Verdict::Enough);
    }

    #[test]
    fn the_useful_size_is_where_nothing_more_can_come() {
        let chunk = ChunkSize::new(8).unwrap();
        // As the kernel has it: 512 chunks fill two areas, the third ends the list.
        let sectors = useful_sectors(4096, chunk, StoreKind::Persistent);
        assert_eq!(sectors, (512 + 3 + 1) * 8);
        assert_eq!(useful_sectors(4090, chunk, StoreKind::Transient), 4096);
        let large = useful_sectors(u64::MAX, chunk, StoreKind::Overflow);
        assert_eq!(large, u64::MAX);
    }

    #[test]
    fn amounts_and_thresholds_are_read() {
        assert_eq!("20%".parse(), Ok(Amount::Percent(20)));
        assert_eq!("1G".parse(), Ok(Amount::Sectors(2 << 20)));
        for text in ["0%", "1001%", "%", "x", "0", "100", "-1%"] {
            assert!(text.parse::<Amount>().is_err(), "{text}");
        }
        assert_eq!("70".parse(), Ok(Threshold(70)));
        assert_eq!("70%".parse(), Ok(Threshold(70)));
        for text in ["0", "100", "x", ""] {
            assert!(text.parse::<Threshold>().is_err(), "{text}");
        }
    }

    fn any_amount() -> impl Strategy<Value = Amount> {
        prop_oneof![
            (1u32..=1000).prop_map(Amount::Percent),
            (1u64..1 << 40).prop_map(Amount::Sectors),
        ]
    }

    prop_compose! {
        fn any_policy()(threshold in 1u32..=99, amount in any_amount(), maximum in prop::option::of(1u64..1 << 42)) -> Policy {
            policy(threshold, amount, maximum)
        }
    }

    proptest! {
        #[test]
        fn an_extension_is_enough_and_never_too_much(
            policy in any_policy(),
            total in 1u64..1 << 41,
            part in 0u64..=1 << 20,
            useful in prop::option::of(1u64..1 << 42),
        ) {
            let allocated = ((u128::from(total) * u128::from(part)) >> 20) as u64;
            let over = u128::from(allocated) * 100 >= u128::from(total) * u128::from(policy.threshold.0);
            match policy.judge(Fill { allocated, total, useful }) {
                Verdict::Enough => {
                    prop_assert!(!over || useful.is_some_and(|useful| total >= useful));
                }
                Verdict::Maximum => {
                    prop_assert!(over);
                    prop_assert!(policy.maximum.is_some_and(|maximum| total >= maximum));
                }
                Verdict::Extend { to } => {
                    prop_assert!(over && to > total);
                    prop_assert!(policy.maximum.is_none_or(|maximum| to <= maximum));
                    prop_assert!(useful.is_none_or(|useful| to <= useful));
                    let limited = Some(to) == policy.maximum || Some(to) == useful;
                    let fill = Fill { allocated, total: to, useful };
                    prop_assert!(limited || policy.judge(fill) == Verdict::Enough);
                }
            }
        }

        #[test]
        fn any_numbers_are_judged(
            policy in any_policy(),
            allocated: u64,
            total: u64,
            useful in prop::option::of(any::<u64>()),
        ) {
            let _ = policy.judge(Fill { allocated, total, useful });
            let _ = policy.mark(total);
        }

        #[test]
        fn any_text_is_an_amount_or_refused(text in ".*") {
            let _ = (text.parse::<Amount>(), text.parse::<Threshold>());
        }
    }
}
