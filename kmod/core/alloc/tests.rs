// SPDX-License-Identifier: GPL-2.0

//! Tests of the allocator.

use super::super::format::ChunkSize;
use super::*;
use std::vec;
use std::vec::Vec;

fn layout() -> Layout {
    Layout::new(ChunkSize::new(8).unwrap())
}

#[test]
fn runs_stop_at_metadata_and_at_the_end() {
    let mut alloc = Allocator::new(layout(), vec![0; 4]);
    assert_eq!(alloc.take(300, 1000), Some(Run { first: 2, len: 256 }));
    assert_eq!(alloc.next_free(), 259);
    assert_eq!(alloc.take(300, 262), Some(Run { first: 259, len: 3 }));
    assert_eq!(alloc.take(1, 262), None);
    assert_eq!(alloc.take(1, 263), Some(Run { first: 262, len: 1 }));
}

#[test]
fn last_slot_of_an_area_needs_the_next_area() {
    // Header, area 0 and 256 data chunks: area 1 is not on the device.
    let mut alloc = Allocator::new(layout(), vec![0; 4]);
    assert_eq!(alloc.take(256, 258), Some(Run { first: 2, len: 255 }));
    assert_eq!(alloc.take(1, 258), None);
    assert_eq!(alloc.take(1, 259), Some(Run { first: 257, len: 1 }));
}

#[test]
fn holes_are_found_and_used_first() {
    let mut words = vec![0; 16];
    let mut used = UsedMap::new(&mut words);
    for chunk in [2, 3, 6, 260] {
        assert!(used.claim(chunk));
    }
    let mut alloc = Allocator::new(layout(), vec![0; 1000]);
    alloc.restore(4, 260, &used);
    assert_eq!(alloc.next_free(), 261);
    let mut got: Vec<u64> = Vec::new();
    while alloc.next_free() == 261 {
        got.push(alloc.take(1, 600).unwrap().first);
    }
    let fresh = got.pop();
    assert_eq!(fresh, Some(261));
    got.sort_unstable();
    let mut want: Vec<u64> = vec![4, 5];
    want.extend(7..258);
    want.push(259);
    assert_eq!(got, want);
}

#[test]
fn a_transient_store_is_data_from_end_to_end() {
    let layout = Layout::transient(ChunkSize::new(1).unwrap());
    let mut alloc = Allocator::new(layout, vec![0; 4]);
    assert_eq!(alloc.next_free(), 0);
    assert_eq!(alloc.take(300, 1000), Some(Run { first: 0, len: 300 }));
    assert_eq!(
        alloc.take(800, 1000),
        Some(Run {
            first: 300,
            len: 700
        })
    );
    assert_eq!(alloc.next_free(), 1000);
    assert_eq!(alloc.take(1, 1000), None);
    assert_eq!(
        alloc.take(1, 1001),
        Some(Run {
            first: 1000,
            len: 1
        })
    );
}

#[test]
fn given_back_chunks_are_taken_again() {
    let mut alloc = Allocator::new(layout(), vec![0; 4]);
    let run = alloc.take(2, 100).unwrap();
    alloc.give_back(run);
    assert_eq!(alloc.in_use(), 0);
    let first = alloc.take(1, 100).unwrap().first;
    let second = alloc.take(1, 100).unwrap().first;
    assert_eq!(first + second, 5);
}
