// SPDX-License-Identifier: GPL-2.0

//! Tests of areas.

use super::super::format::ChunkSize;
use super::*;
use std::vec;
use std::vec::Vec;

fn image() -> AreaImage<Vec<u8>> {
    AreaImage::new(Layout::new(ChunkSize::new(8).unwrap()), vec![0xff; 4096])
}

fn entry(n: u64) -> Exception {
    Exception {
        origin: n,
        cow: n + 2,
    }
}

#[test]
fn last_slot_waits_for_the_zeroed_next_area() {
    let mut image = image();
    let put = (0..300).take_while(|&n| image.push(entry(n))).count();
    assert_eq!(put, 255);
    image.next_is_zeroed();
    assert!(image.push(entry(255)));
    assert!(image.is_full() && !image.push(entry(256)));
    image.wrote();
    assert_eq!((image.area(), image.filled(), image.listed()), (1, 0, 256));
    assert!(image.bytes().iter().all(|&b| b == 0));
}

#[test]
fn only_changed_blocks_are_written() {
    let mut image = image();
    assert_eq!(image.unwritten(512), 0..0);
    image.push(entry(0));
    assert_eq!(image.unwritten(512), 0..512);
    image.wrote();
    for n in 1..33 {
        image.push(entry(n));
    }
    assert_eq!(image.unwritten(512), 0..1024);
    image.wrote();
    image.push(entry(33));
    assert_eq!(image.unwritten(512), 512..1024);
    assert_eq!(image.unwritten(4096), 0..4096);
}

#[test]
fn loading_drops_what_stands_behind_the_hole() {
    let mut disk = vec![0; 4096];
    for slot in [0usize, 1, 3, 200] {
        disk[slot * 16..slot * 16 + 16].copy_from_slice(&entry(slot as u64).encode());
    }
    let mut image = image();
    assert_eq!(image.load(5, &disk, usize::MAX), 2);
    assert!(image.bytes()[32..].iter().all(|&b| b == 0));
    assert_eq!(image.stale(512), 0..3584);
    image.scrubbed();
    assert_eq!(image.stale(512), 0..0);
    assert_eq!(image.load(5, &disk, 1), 1);
    assert_eq!(image.entry(0), Some(entry(0)));
    assert_eq!(image.entry(1), None);
}
