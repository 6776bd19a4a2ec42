// SPDX-License-Identifier: GPL-2.0

//! Tests of the stable bitmap and its requests.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::vec;
use std::vec::Vec;

fn bits(chunks: u64) -> Bits<Vec<AtomicU64>> {
    let words = Bits::<Vec<AtomicU64>>::words_for(chunks);
    Bits::new((0..words).map(|_| AtomicU64::new(0)).collect())
}

fn volume(chunks: u64) -> Chunks<Vec<AtomicU64>> {
    Chunks {
        stable: bits(chunks),
        asked: bits(chunks),
    }
}

fn requests(chunks: u64, room: usize) -> Requests<Vec<Range>> {
    Requests::new(vec![Range::default(); room], chunks, 256)
}

fn fetch_all(requests: &mut Requests<Vec<Range>>) -> Vec<Range> {
    let mut all = Vec::new();
    requests.fetch(|range| {
        all.push(range);
        true
    });
    all
}

#[test]
fn slices_make_up_the_range() {
    let range = |first, len| Range { first, len };
    let slices: Vec<_> = range(10, 9).slices(4).collect();
    assert_eq!(slices, [range(10, 4), range(14, 4), range(18, 1)]);
    assert_eq!(range(10, 8).slices(8).collect::<Vec<_>>(), [range(10, 8)]);
    assert_eq!(range(10, 0).slices(8).count(), 0);
}

#[test]
fn a_chunk_is_asked_for_once() {
    let volume = volume(100);
    let mut requests = requests(100, 8);
    assert!(requests.want(&volume, 10, 13));
    assert!(requests.want(&volume, 11, 12));
    assert!(requests.want(&volume, 60, 61));
    assert!(requests.want(&volume, 9, 11));
    let range = |first, len| Range { first, len };
    assert_eq!(
        fetch_all(&mut requests),
        [range(10, 3), range(60, 1), range(9, 1)]
    );
    assert!(requests.want(&volume, 10, 12));
    assert!(requests.is_empty());
    requests.clear();
    volume.asked.clear();
    assert!(requests.want(&volume, 10, 12));
    assert!(!requests.is_empty());
}

#[test]
fn who_writes_in_a_row_is_ahead() {
    let volume = volume(1 << 16);
    let mut requests = requests(1 << 16, 64);
    let mut waits = 0;
    for chunk in 0..5000 {
        if !volume.stable.is_set(chunk) {
            waits += 1;
            assert!(requests.want(&volume, chunk, chunk + 1));
        } else if chunk == requests.marker() {
            requests.advance(&volume, chunk + 1);
        }
        for range in fetch_all(&mut requests) {
            volume.stable.set(range);
        }
    }
    assert_eq!(waits, 2);
    // And not for ever: who goes elsewhere starts anew.
    assert!(requests.want(&volume, 30000, 30001));
    assert_eq!(
        fetch_all(&mut requests),
        [Range {
            first: 30000,
            len: 1
        }]
    );
    assert_eq!(requests.marker(), NOWHERE);
}

#[test]
fn who_is_faster_than_the_answers_is_let_further_ahead() {
    let volume = volume(1 << 16);
    let mut requests = requests(1 << 16, 64);
    let (mut waits, mut chunk) = (0, 0);
    while chunk < 5000 {
        if volume.stable.is_set(chunk) {
            if chunk == requests.marker() {
                requests.advance(&volume, chunk + 1);
            }
            chunk += 1;
            continue;
        }
        // All that was asked for before this is answered while it waits.
        waits += 1;
        assert!(requests.want(&volume, chunk, chunk + 1));
        for range in fetch_all(&mut requests) {
            volume.stable.set(range);
        }
    }
    assert!(waits < 50, "{waits}");
}

#[test]
fn at_the_end_of_the_volume_it_stops() {
    let volume = volume(20);
    let mut requests = requests(20, 8);
    for chunk in [10, 11, 12] {
        assert!(requests.want(&volume, chunk, chunk + 1));
    }
    let last = fetch_all(&mut requests)
        .iter()
        .map(|range| range.end())
        .max();
    assert_eq!(last, Some(20));
    assert_eq!(requests.marker(), NOWHERE);
    assert!(requests.want(&volume, 19, u64::MAX));
}

proptest! {
    /// Whatever is written where, every chunk is asked for that a write waits for, none twice,
    /// and with little room nothing is lost but time.
    #[test]
    fn all_that_is_needed_is_asked_for(
        writes in proptest::collection::vec((0u64..300, 1u64..40, any::<bool>()), 1..200),
        room in 1usize..20,
    ) {
        let chunks = 310;
        let volume = volume(chunks);
        let mut requests = requests(chunks, room);
        let mut asked = BTreeSet::new();
        for (first, len, fetch) in writes {
            let end = (first + len).min(chunks);
            let had_room = requests.want(&volume, first, end);
            if fetch || !had_room {
                for range in fetch_all(&mut requests) {
                    for chunk in range.first..range.end() {
                        prop_assert!(chunk < chunks);
                        prop_assert!(asked.insert(chunk), "{chunk} twice");
                        volume.stable.set(Range { first: chunk, len: 1 });
                    }
                }
            }
            if had_room && fetch {
                prop_assert!(volume.stable.all_set(first, end));
                prop_assert_eq!(volume.stable.first_clear(first, end), None);
            }
        }
    }

    #[test]
    fn ranges_of_bits(ranges in proptest::collection::vec((0u64..500, 0u64..200), 1..20)) {
        let bits = bits(512);
        let mut model = BTreeSet::new();
        for (first, len) in ranges {
            let end = (first + len).min(512);
            let fresh = (first..end).filter(|&bit| model.insert(bit)).count() as u64;
            prop_assert_eq!(bits.set(Range { first, len }), fresh);
        }
        for bit in 0..520 {
            prop_assert_eq!(bits.is_set(bit), model.contains(&bit));
            for end in [bit, bit + 1, bit + 63, bit + 64, bit + 200] {
                let clear = (bit..end).find(|bit| !model.contains(bit));
                prop_assert_eq!(bits.first_clear(bit, end), clear);
            }
        }
    }
}
