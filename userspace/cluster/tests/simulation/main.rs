// SPDX-License-Identifier: GPL-2.0-or-later

//! Clusters with faults of every kind, each from a seed that repeats it.
//!
//! Two to five nodes read and write a small volume for some seconds of their time, while nodes lose power, agents are
//! killed, nodes are paused and come back, streams break, the volume fails now and then, overlays are lost, and an engine
//! fences and promotes. The writer's target has the bits, the ring, the counts and the write-back buffer of the module.
//! Every read of every node is held against what it may see; nobody overwrites the volume but the last that was promoted;
//! what a writer has acknowledged, and flushed if it has a buffer, is there for the next; no flush hides a loss; and when
//! the faults end all nodes are well again.
//!
//! `CLUSTER_RUNS` says how many, `CLUSTER_SEED` which one, with all that happens in it.

mod model;
mod random;
mod target;
mod world;

use world::Counts;
use world::World;

const RUNS: u64 = 2000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
    )
}

fn run(seed: u64, trace: bool) -> Counts {
    let mut world = World::new(seed, trace);
    if let Err(what) = world.run() {
        panic!("{what}\nCLUSTER_SEED={seed} repeats it and shows what happened");
    }
    world.counts
}

#[test]
fn nobody_sees_what_it_must_not() {
    if let Some(seed) = number("CLUSTER_SEED") {
        run(seed, true);
        return;
    }
    let mut counts = Counts::default();
    for seed in 0..number("CLUSTER_RUNS").unwrap_or(RUNS) {
        counts.join(run(seed, false));
    }
    for (what, count) in &counts.0 {
        println!("{count:>9} {what}");
    }
    // A simulation in which something never happens shows nothing about it.
    for what in [
        "agent killed",
        "agents without room",
        "buffered writes lost",
        "buffered writes lost with power",
        "claim outbid",
        "copier recycled",
        "copier stuck",
        "copier suspected",
        "copiers that started over",
        "disk error: keep",
        "disk error: merge",
        "disk error: probe",
        "disk error: read",
        "disk error: write",
        "disk error: write from the buffer",
        "epochs without a probe",
        "fenced at the volume",
        "fenced by power",
        "fenced, says the target",
        "flushes",
        "flushes failed",
        "flushes that wait",
        "merges that failed",
        "no room in the ring",
        "node cut off",
        "node paused",
        "overlay full",
        "overlays lost",
        "overlays merged",
        "pieces buffered",
        "power lost",
        "promotions of copiers",
        "promotions refused",
        "promotions to end a merge",
        "ranges asked ahead",
        "ranges of several chunks",
        "stream cut",
        "turns not used",
        "volume read: no copier answers",
        "writer demoted",
        "writer's agent restarted",
        "writes behind what is buffered",
        "writes failed",
        "writes in a row",
        "writes of several chunks",
    ] {
        assert!(counts.0.contains_key(what), "never happened: {what}");
    }
}
