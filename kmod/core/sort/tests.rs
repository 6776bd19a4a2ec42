// SPDX-License-Identifier: GPL-2.0

//! Tests of the sort.

use super::*;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

fn check(origins: &[u64]) {
    let entry = |(n, origin): (usize, &u64)| Exception {
        origin: *origin,
        cow: n as u64,
    };
    let mut entries: Vec<Exception> = origins.iter().enumerate().map(entry).collect();
    let mut want = entries.clone();
    want.sort_by_key(|entry| entry.origin);
    let mut scratch = vec![Exception { origin: 0, cow: 0 }; entries.len()];
    let unsorted = entries.clone();
    for places in [2, places_for(0), places_for(usize::MAX)] {
        entries.clone_from(&unsorted);
        sort_by_origin(&mut entries, &mut scratch, &mut vec![7; places]);
        assert_eq!(entries, want);
    }
}

#[test]
fn nothing_and_one() {
    check(&[]);
    check(&[7]);
    check(&[7, 7]);
    check(&[u64::MAX, 0, 1 << 63, 1]);
}

proptest! {
    #[test]
    fn as_the_standard_library_does(
        origins in prop::collection::vec(any::<u64>(), 0..300),
        bits in 0u32..64,
    ) {
        let origins: Vec<u64> = origins.iter().map(|origin| origin >> bits).collect();
        check(&origins);
    }
}
