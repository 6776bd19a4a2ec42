// SPDX-License-Identifier: GPL-2.0

//! Tests of pending exceptions.

use super::*;
use std::vec;
use std::vec::Vec;

type Table = Pending<Vec<Slot<Vec<u32>>>, Vec<u32>>;

fn table(slots: usize) -> Table {
    Pending::new((0..slots).map(|_| Slot::new()).collect(), vec![0; 4])
}

fn exception(n: u64) -> Exception {
    Exception {
        origin: n,
        cow: n + 100,
    }
}

#[test]
fn a_full_table_refuses_and_a_settled_slot_is_used_again() {
    let mut table = table(2);
    assert!(table.insert(exception(1)) && table.insert(exception(2)));
    assert!(!table.insert(exception(3)));
    assert!(!table.insert(exception(1)));
    table.find(2).unwrap().waiters.push(7);
    assert_eq!(table.ready(2).unwrap().ticket(), 1);
    assert!(table.ready(2).is_none());
    assert_eq!(table.take(|_| true), 1);
    assert_eq!(table.durable(), 0);
    assert_eq!(table.settle(), Some((exception(2), vec![7])));
    assert_eq!(table.settle(), None);
    assert_eq!((table.durable(), table.room()), (1, 1));
    assert!(table.insert(exception(3)));
    assert!(table.find(2).is_none());
}

#[test]
fn commits_take_tickets_in_order_and_only_as_many_as_fit() {
    let mut table = table(10);
    for n in 0..10 {
        assert!(table.insert(exception(n)));
    }
    for n in [5, 3, 9, 0] {
        table.ready(n);
    }
    let mut got = Vec::new();
    let accept = |got: &mut Vec<u64>, e: Exception| {
        got.len() < 3 && {
            got.push(e.origin);
            true
        }
    };
    assert_eq!(table.take(|e| accept(&mut got, e)), 3);
    assert_eq!(got, [5, 3, 9]);
    assert_eq!((table.ready_len(), table.issued()), (1, 4));
    assert!(table.is_committing());
    while table.settle().is_some() {}
    assert_eq!(table.durable(), 3);
    assert_eq!(table.abandon(0), None);
    assert_eq!(table.abandon(1).unwrap().0, exception(1));
    assert_eq!(table.give_up().unwrap().0, exception(0));
    assert_eq!(table.give_up(), None);
}
