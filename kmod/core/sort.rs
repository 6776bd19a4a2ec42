// SPDX-License-Identifier: GPL-2.0

//! Sorting of exceptions by their place on the origin.
//!
//! By radix, in few passes over the bits that differ: it needs no recursion, for which a kernel's
//! stack is too small (what `core` has for slices overflows it), and time that only grows with the
//! number of entries.

use super::format::Exception;
use core::mem;

/// How many places are best for so many entries: 8 bits a pass, or 11 where their cost does not
/// show.
pub const fn places_for(entries: usize) -> usize {
    if entries < 1 << 14 {
        1 << 8
    } else {
        1 << 11
    }
}

/// Sorts `entries` by [`Exception::origin`]. `scratch` is to be as long, `places` of the length that
/// [`places_for`] says, or another power of two above one; what they hold does not matter, before and
/// after.
pub fn sort_by_origin(entries: &mut [Exception], scratch: &mut [Exception], places: &mut [u32]) {
    let most_bits = places.len().checked_ilog2().unwrap_or(0);
    let Some(first) = entries.first().map(|entry| entry.origin) else {
        return;
    };
    let differ = entries
        .iter()
        .fold(0, |bits, entry| bits | (entry.origin ^ first));
    if differ == 0 || most_bits == 0 {
        return;
    }
    let (low, end) = (differ.trailing_zeros(), differ.ilog2() + 1);
    let passes = (end - low).div_ceil(most_bits);
    let width = (end - low).div_ceil(passes.max(1));
    let (mut from, mut to) = (entries, scratch);
    for pass in 0..passes {
        scatter(from, to, low + pass * width, width, places);
        mem::swap(&mut from, &mut to);
    }
    if passes % 2 == 1 {
        // The result is in the scratch memory, which is called `from` now.
        for (place, entry) in to.iter_mut().zip(from.iter()) {
            *place = *entry;
        }
    }
}

/// Puts entries in the order of the `width` bits from `shift` on; those in which they are the same
/// stay in order.
fn scatter(from: &[Exception], to: &mut [Exception], shift: u32, width: u32, places: &mut [u32]) {
    let mask = (1 << width) - 1;
    let places = places.get_mut(..1 << width).unwrap_or(&mut []);
    let digit = |entry: &Exception| ((entry.origin >> shift) & mask) as usize;
    places.fill(0);
    for entry in from {
        if let Some(count) = places.get_mut(digit(entry)) {
            *count += 1;
        }
    }
    let mut sum = 0;
    for place in places.iter_mut() {
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
mod tests;
