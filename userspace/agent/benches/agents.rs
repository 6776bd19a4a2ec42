// SPDX-License-Identifier: GPL-2.0-or-later

//! How many requests for stability a second a writer's agent gets answered, by the number of its copiers and by how
//! many its target has under way: over TLS on this machine, with targets that keep nothing and answer at once.

#![allow(missing_docs)]

#[path = "../tests/cluster/mod.rs"]
#[allow(dead_code)]
mod cluster;

use cluster::Agent;
use cluster::Cluster;
use criterion::criterion_group;
use criterion::criterion_main;
use criterion::BenchmarkId;
use criterion::Criterion;
use criterion::Throughput;
use dmholey_agent::driver::Order;
use dmholey_cluster::ids::Epoch;
use dmholey_cluster::ids::NodeSet;
use dmholey_cluster::ids::Range;
use std::time::Duration;
use std::time::Instant;
use tokio::runtime::Runtime;

/// Requests under way: as many as the threads of a busy service, and as many as a queue of a fast disk.
const UNDER_WAY: [u64; 2] = [64, 1024];
const COPIERS: [usize; 4] = [0, 1, 2, 4];

/// The time in which `count` requests are answered, each for a chunk, a new one when one is done.
async fn flood(writer: &mut Agent, epoch: Epoch, under_way: u64, count: u64) -> Duration {
    let chunks = |first: u64, len: u64| {
        let chunk = |at| Range {
            first: (first + at) % cluster::CHUNKS,
            len: 1,
        };
        (0..len).map(chunk).collect::<Vec<_>>()
    };
    let begun = Instant::now();
    let mut asked = under_way.min(count);
    let mut stable = 0;
    let first = (epoch, chunks(0, asked));
    writer.inlets.needs.send(first).await.expect("a driver");
    while stable < count {
        let done = writer
            .order(|order| match order {
                Order::Stable(_, ranges) => Some(ranges.len() as u64),
                _ => None,
            })
            .await;
        stable += done;
        let more = done.min(count - asked);
        if more > 0 {
            let need = (epoch, chunks(asked, more));
            writer.inlets.needs.send(need).await.expect("a driver");
            asked += more;
        }
    }
    begun.elapsed()
}

/// A writer with so many copiers.
async fn agents(copiers: usize) -> (Vec<Agent>, Epoch) {
    let mut cluster = Cluster::new(copiers + 1).await;
    let mut agents: Vec<Agent> = (0..=copiers).map(|node| cluster.start(node)).collect();
    let mut epoch = agents[0].promote(NodeSet::EMPTY).await;
    for (copier, agent) in agents.iter_mut().enumerate().skip(1) {
        agent.join(copier as u64).await;
    }
    for _ in 0..copiers {
        epoch = agents[0].epoch().await;
    }
    (agents, epoch)
}

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("agents");
    group.throughput(Throughput::Elements(1));
    group.sample_size(10);
    group.measurement_time(Duration::from_secs(5));
    let runtime = Runtime::new().expect("a runtime");
    for copiers in COPIERS {
        let (mut agents, epoch) = runtime.block_on(agents(copiers));
        for under_way in UNDER_WAY {
            let name = BenchmarkId::new(format!("{copiers} copiers"), under_way);
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|count| {
                    runtime.block_on(flood(&mut agents[0], epoch, under_way, count))
                });
            });
        }
    }
}

criterion_group!(benches, requests);
criterion_main!(benches);
