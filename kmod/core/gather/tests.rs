// SPDX-License-Identifier: GPL-2.0

//! Tests of when a commit is due.

use super::*;

#[test]
fn a_commit_waits_for_what_is_being_filled_when_it_is_due() {
    let mut gather = Gather::new();
    gather.committed(10 * QUICK);
    gather.begin(2, 3);
    assert!(!gather.is_over(2, 3));
    // Those that were begun later are not waited for, and do not count as the others either
    // way round: as many as there were have become ready.
    gather.begin(4, 9);
    assert!(!gather.is_over(4, 9));
    assert!(gather.is_over(5, 9));
    assert!(gather.is_over(3, 0));
    gather.give_up();
    assert!(gather.is_over(1, 1));
    gather.committed(10 * QUICK);
    gather.begin(1, 1);
    assert!(!gather.is_over(1, 1));
}

#[test]
fn only_slow_commits_wait_for_writers_to_come_back() {
    let mut gather = Gather::new();
    gather.committed(100);
    assert_eq!(gather.hold(10, 10), 0);
    for _ in 0..20 {
        gather.committed(4000);
    }
    let hold = gather.hold(10, 10);
    assert!((900..=1000).contains(&hold), "{hold}");
    assert_eq!((gather.hold(0, 10), gather.hold(10, 0)), (0, 0));
    for _ in 0..20 {
        gather.committed(1_000_000);
    }
    assert_eq!(gather.hold(1, 1), LONGEST_HOLD);
}
