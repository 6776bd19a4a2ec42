// SPDX-License-Identifier: GPL-2.0-or-later

//! A set of numbers that is small when they come in runs.

use std::collections::BTreeMap;

/// Numbers seen so far, as runs. Sorted input, which is the rule, costs one run.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    /// First number of each run to its last.
    runs: BTreeMap<u64, u64>,
}

impl Numbers {
    /// Adds `number`; false if it was there already.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        let before = self.runs.range(..=number).next_back();
        let before = before.map(|(&first, &last)| (first, last));
        if before.is_some_and(|(_, last)| number <= last) {
            return false;
        }
        let next = number.checked_add(1);
        let last = next
            .and_then(|next| self.runs.remove(&next))
            .unwrap_or(number);
        let first = match before {
            Some((first, end)) if end.checked_add(1) == Some(number) => first,
            _ => number,
        };
        self.runs.insert(first, last);
        true
    }

    /// How many runs there are.
    pub(crate) fn runs(&self) -> usize {
        self.runs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn runs_join_on_both_sides() {
        let mut set = Numbers::default();
        for n in [5, 7, 0, u64::MAX, u64::MAX - 1] {
            assert!(set.insert(n));
        }
        assert_eq!(set.runs(), 4);
        assert!(set.insert(6));
        assert_eq!(set.runs(), 3);
        assert!([5, 6, 7, 0, u64::MAX].iter().all(|&n| !set.insert(n)));
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(input in prop::collection::vec(0u64..60, 0..200)) {
            let mut set = Numbers::default();
            let mut plain = BTreeSet::new();
            for n in input {
                prop_assert_eq!(set.insert(n), plain.insert(n));
            }
        }
    }
}
