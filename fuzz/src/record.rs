// SPDX-License-Identifier: GPL-2.0-or-later

//! What a target and its agent say to each other, and what a writer asks for because of it.

use holey_core::agent::Event;
use holey_core::agent::Order;
use holey_core::agent::LEN;
use holey_core::stable::Bits;
use holey_core::stable::Chunks;
use holey_core::stable::Range;
use holey_core::stable::Requests;
use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;

/// Chunks of the volume, and ranges that there is room for.
const CHUNKS: u64 = 1 << 12;
const ROOM: usize = 16;

fn bits() -> Bits<Vec<AtomicU64>> {
    let words = Bits::<Vec<AtomicU64>>::words_for(CHUNKS);
    Bits::new((0..words).map(|_| AtomicU64::new(0)).collect())
}

/// Reads records; what is an order drives the requests of a writer: `Keep` is a write that waits, `Stable` an answer,
/// `Epoch` an epoch. No chunk is asked for twice in one, and none that is not on the volume.
pub fn record(data: &[u8]) {
    let chunks = Chunks {
        stable: bits(),
        asked: bits(),
    };
    let mut requests = Requests::new(vec![Range::default(); ROOM], CHUNKS, 64);
    let mut asked = BTreeSet::new();
    for bytes in data.chunks(LEN) {
        if let Ok(event) = Event::decode(bytes) {
            assert_eq!(Event::decode(&event.encode()), Ok(event));
        }
        let Ok(order) = Order::decode(bytes) else {
            continue;
        };
        assert_eq!(Order::decode(&order.encode()), Ok(order));
        match order {
            Order::Bind { .. } => {}
            Order::Keep { number, range } => {
                let end = range.end().min(CHUNKS);
                let first = range.first.min(end);
                if number % 2 == 0 {
                    let room = requests.want(&chunks, first, end);
                    let covered = |chunk| chunks.stable.is_set(chunk) || chunks.asked.is_set(chunk);
                    assert!(!room || (first..end).all(covered));
                } else if (first..end).contains(&requests.marker()) {
                    requests.advance(&chunks, end);
                }
            }
            Order::Stable { epoch, range } => {
                let mut room = epoch % 8;
                requests.fetch(|range| {
                    if room == 0 {
                        return false;
                    }
                    room -= 1;
                    for chunk in range.first..range.end() {
                        assert!(chunk < CHUNKS && asked.insert(chunk));
                    }
                    true
                });
                chunks.stable.set(range);
            }
            Order::Epoch { .. } => {
                requests.clear();
                chunks.stable.clear();
                chunks.asked.clear();
                asked.clear();
            }
        }
    }
}
