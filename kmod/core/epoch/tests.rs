// SPDX-License-Identifier: GPL-2.0

//! Tests of epochs.

use super::*;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::thread;

#[test]
fn old_readers_are_waited_for_and_new_ones_are_not() {
    let epochs = Epochs::new();
    let early = epochs.enter();
    let old = epochs.turn();
    let late = epochs.enter();
    assert!(!epochs.is_quiet(old));
    assert!(!epochs.leave(late));
    assert!(epochs.leave(early));
    assert!(epochs.is_quiet(old));
}

#[test]
fn those_under_way_are_counted_over_both_epochs() {
    let epochs = Epochs::new();
    assert_eq!(epochs.under_way(), 0);
    let (one, two) = (epochs.enter(), epochs.enter());
    assert_eq!(epochs.under_way(), 2);
    epochs.turn();
    let three = epochs.enter();
    assert_eq!(epochs.under_way(), 3);
    for (ticket, left) in [(one, 2), (three, 1), (two, 0)] {
        epochs.leave(ticket);
        assert_eq!(epochs.under_way(), left);
    }
    epochs.turn();
    assert_eq!(epochs.under_way(), 0);
}

#[test]
fn no_reader_sees_the_old_state_after_the_wait() {
    struct Shared {
        epochs: Epochs,
        mapped: AtomicBool,
        overwritten: AtomicBool,
    }
    for _ in 0..2000 {
        let shared = Arc::new(Shared {
            epochs: Epochs::new(),
            mapped: AtomicBool::new(false),
            overwritten: AtomicBool::new(false),
        });
        let reader = {
            let shared = shared.clone();
            thread::spawn(move || {
                let ticket = shared.epochs.enter();
                if !shared.mapped.load(SeqCst) {
                    assert!(!shared.overwritten.load(SeqCst));
                }
                shared.epochs.leave(ticket);
            })
        };
        shared.mapped.store(true, SeqCst);
        let old = shared.epochs.turn();
        while !shared.epochs.is_quiet(old) {
            thread::yield_now();
        }
        shared.overwritten.store(true, SeqCst);
        reader.join().unwrap();
    }
}
