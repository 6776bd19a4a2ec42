// SPDX-License-Identifier: GPL-2.0

//! Tests of the planning of a merge.

use super::super::format::ChunkSize;
use super::super::sort::sort_by_origin;
use super::*;
use std::vec::Vec;

fn layout() -> Layout {
    Layout::new(ChunkSize::new(8).unwrap())
}

fn entry(origin: u64, cow: u64) -> Exception {
    Exception { origin, cow }
}

#[test]
fn a_pause_makes_the_copies_their_share() {
    assert_eq!(pause(300, 25), 900);
    assert_eq!(
        (pause(300, 100), pause(300, 1000), pause(-1, 50)),
        (0, 0, 0)
    );
    assert_eq!((pause(100, 1), pause(100, 0)), (9900, 9900));
    assert_eq!(pause(i64::MAX, 1), LONGEST_PAUSE);
}

#[test]
fn windows_begin_at_an_area_if_one_is_in_reach() {
    let at = |area, slot| Position { area, slot };
    assert_eq!(window_start(layout(), 1000, 4096), at(0, 0));
    assert_eq!(window_start(layout(), 1000, 512), at(2, 0));
    assert_eq!(window_start(layout(), 1000, 100), at(3, 132));
    assert_eq!(window_start(layout(), 1, 0), at(0, 0));
    assert_eq!(at(3, 132).index(layout()), 900);
}

#[test]
fn windows_are_short_while_writes_are_held() {
    let mut length = FIRST_LENGTH;
    for _ in 0..20 {
        length = next_length(length, false, 10_000_000, 11_000_000);
    }
    assert_eq!(length, MOST_LENGTH);
    let copying = 4 * HELD_TIME;
    assert_eq!(next_length(length, true, copying, copying), length / 4);
    assert_eq!(next_length(length, true, copying, 3 * copying), length);
    assert_eq!(
        next_length(length, true, copying, copying * 3 / 2),
        length / 2
    );
    assert_eq!(next_length(length, true, u64::MAX, 0), LEAST_LENGTH);
    assert_eq!(next_length(u64::MAX, true, 0, 0), MOST_LENGTH);
}

#[test]
fn runs_join_what_is_consecutive_on_both_sides() {
    let mut entries = [
        entry(7, 5),
        entry(3, 10),
        entry(4, 11),
        entry(5, 13),
        entry(6, 14),
        entry(8, 6),
    ];
    sort_by_origin(&mut entries, &mut [entry(0, 0); 6], &mut [0; 256]);
    let window = Window::new(&entries);
    let runs: Vec<_> = window.runs(100).map(|r| (r.origin, r.cow, r.len)).collect();
    assert_eq!(runs, [(3, 10, 2), (5, 13, 2), (7, 5, 2)]);
    assert_eq!(window.runs(1).count(), 6);
    assert!(window.touches(0, 3) && window.touches(8, 20) && window.touches(4, 4));
    assert!(!window.touches(0, 2) && !window.touches(9, 20));
}
