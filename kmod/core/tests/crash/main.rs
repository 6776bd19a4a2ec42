// SPDX-License-Identifier: GPL-2.0

//! Power cuts: whatever is left on the disks, the devices show what they may show.
//!
//! The disks are simulated, with volatile caches and requests that fail; the code that decides what
//! is written when is the core's, and is driven in the order in which the module drives it. After
//! every change of a disk the power is cut in many ways: every subset of the sectors that are not
//! safe yet if they are few, a sample of them if not. The remains are judged by code of their own;
//! on some of them the machine is started again and its power cut while it recovers.
//!
//! `rules.rs` lists the rules that are checked, and faults by which the tests show that they would
//! tell. The environment says how much is done: `CRASH_CUTS` is the number of cuts of each test,
//! `HOLEY_SEED` runs just one seed.

mod cuts;
mod disk;
mod host;
mod judge;
mod machine;
mod merging;
mod origin;
mod random;
mod rules;
mod scenarios;
mod snapshot;
mod snapshot_io;
mod store;
mod summary;
mod view;

use cuts::Cuts;
use rules::Fault;
use rules::Rule;
use rules::Violation;
use scenarios::Scenario;
use std::io::Write;

/// How many cuts a test makes if the environment does not say.
const CUTS: u64 = 400_000;
/// How many cuts it may take to find a fault.
const CUTS_FOR_FAULT: u64 = 3_000_000;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number: {text}")),
    )
}

/// Nanoseconds that this thread has been running, so that a rate does not depend on what else the
/// machine does.
fn busy_time() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// Lives lives of one kind until there were enough cuts, and says how that went.
fn run(scenario: Scenario, rules: &[Rule]) {
    let (only, most) = (number("HOLEY_SEED"), number("CRASH_CUTS").unwrap_or(CUTS));
    let start = busy_time();
    let mut cuts = Cuts::default();
    let mut seed = only.unwrap_or(0);
    loop {
        if let Err(violation) = scenario.live(None, seed, &mut cuts) {
            panic!(
                "{scenario:?}, HOLEY_SEED={seed}, cut {}: {violation}",
                cuts.count
            );
        }
        seed += 1;
        if only.is_some() || cuts.count >= most {
            break;
        }
    }
    let seconds = (busy_time() - start) as f64 / 1e9;
    let checks: Vec<_> = rules
        .iter()
        .map(|rule| format!("{rule:?} {}", cuts.checks(*rule)))
        .collect();
    // Not by a macro: what a test prints is seen only when it fails.
    let _ = writeln!(
        std::io::stderr(),
        "{scenario:?}: {} power cuts in {seconds:.1} s of one core, {:.1} million a minute; {}",
        cuts.count,
        cuts.count as f64 / seconds * 60.0 / 1e6,
        checks.join(", ")
    );
    for rule in rules.iter().filter(|_| only.is_none() && most >= CUTS) {
        assert!(cuts.checks(*rule) != 0, "{rule} was not put to the test");
    }
}

/// A store is fresh or whole while it is being made.
#[test]
fn making_a_store() {
    run(Scenario::Making, &[Rule::C1]);
}

/// Several snapshots with different chunk sizes; early acknowledgement, flush and FUA.
#[test]
fn copy_on_write() {
    use Rule::*;
    run(
        Scenario::CopyOnWrite,
        &[C2, C3, C4, C5, C6, C7, C8, C9, C10, C12],
    );
}

/// Failed requests.
#[test]
fn copy_on_write_with_errors() {
    use Rule::*;
    run(Scenario::CopyOnWriteWithErrors, &[C8, C9, C10, C11, C12]);
}

/// A merge that is cut off again and again, while the device and a snapshot are written to.
#[test]
fn merge() {
    use Rule::*;
    run(Scenario::Merge, &[C10, M1, M2, M3, M4, M5, M6, M7, M9]);
}

/// A merge whose requests fail.
#[test]
fn merge_with_errors() {
    use Rule::*;
    run(
        Scenario::MergeWithErrors,
        &[C10, M1, M2, M4, M5, M7, M8, M9],
    );
}

/// Looks for a fault in the kind of life in which it may be found.
fn find(fault: Fault, rules: &[Rule]) -> Option<(Scenario, u64, Violation)> {
    let scenario = match rules {
        [Rule::C1] => Scenario::Making,
        [Rule::C9 | Rule::C11] => Scenario::CopyOnWriteWithErrors,
        [Rule::M8] => Scenario::MergeWithErrors,
        [.., Rule::M4] if rules.contains(&Rule::C12) => Scenario::Merge,
        rules if rules.iter().all(|rule| *rule >= Rule::M1) => Scenario::Merge,
        _ => Scenario::CopyOnWrite,
    };
    let mut cuts = Cuts::default();
    let mut seed = 0;
    while cuts.count < CUTS_FOR_FAULT {
        if let Err(violation) = scenario.live(Some(fault), seed, &mut cuts) {
            return Some((scenario, cuts.count, violation));
        }
        seed += 1;
    }
    None
}

/// The tests can tell: whatever is done wrong breaks a rule that it may be found to break.
#[test]
fn every_fault_is_found() {
    let mut missed = Vec::new();
    for (fault, rules) in Fault::ALL {
        let start = busy_time();
        match find(*fault, rules) {
            None => missed.push(format!("{fault:?} was not found")),
            Some((scenario, cuts, violation)) => {
                let seconds = (busy_time() - start) as f64 / 1e9;
                println!("{fault:?}: {scenario:?}, cut {cuts}, {seconds:.1} s: {violation}");
                if !rules.contains(&violation.rule) {
                    missed.push(format!("{fault:?} was found as {violation}"));
                }
            }
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
