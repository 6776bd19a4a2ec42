// SPDX-License-Identifier: GPL-2.0

//! Sorting of exceptions by their place on the origin.
//!
//! By radix, from the lowest byte that differs up: it needs no recursion, for which a kernel's
//! stack is too small (what `core` has for slices overflows it), and time that only grows with the
//! number of entries.

use super::format::Exception;
use core::mem;

const DIGITS: usize = 256;

/// Sorts `entries` by [`Exception::origin`]. What `scratch`, which is to be as long, holds does not
/// matter, before and after.
pub fn sort_by_origin(entries: &mut [Exception], scratch: &mut [Exception]) {
    let Some(first) = entries.first().map(|entry| entry.origin) else {
        return;
    };
    let differ = entries
        .iter()
        .fold(0, |bits, entry| bits | (entry.origin ^ first));
    let (mut from, mut to) = (entries, scratch);
    let mut swapped = false;
    for shift in (0..u64::BITS).step_by(8) {
        if (differ >> shift) & 0xff != 0 {
            scatter(from, to, shift);
            mem::swap(&mut from, &mut to);
            swapped = !swapped;
        }
    }
    if swapped {
        // The result is in the scratch memory, which is called `from` now.
        for (place, entry) in to.iter_mut().zip(from.iter()) {
            *place = *entry;
        }
    }
}

/// Puts entries in the order of one digit; those of the same digit stay in order.
fn scatter(from: &[Exception], to: &mut [Exception], shift: u32) {
    let digit = |entry: &Exception| ((entry.origin >> shift) & 0xff) as usize;
    let mut places = [0u32; DIGITS];
    for entry in from {
        if let Some(count) = places.get_mut(digit(entry)) {
            *count += 1;
        }
    }
    let mut sum = 0;
    for place in &mut places {
        sum += mem::replace(place, sum);
    }
    for entry in from {
        let Some(place) = places.get_mut(digit(entry)) else {
            continue;
        };
        if let Some(slot) = to.get_mut(*place as usize) {
            *slot = *entry;
        }
        *place += 1;
    }
}

#[cfg(test)]
mod tests {
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
        sort_by_origin(&mut entries, &mut scratch);
        assert_eq!(entries, want);
    }

    #[test]
    fn nothing_and_one() {
        check(&[]);
        check(&[7]);
        check(&[7, 7]);
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
}
