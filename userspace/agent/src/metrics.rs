// SPDX-License-Identifier: GPL-2.0-or-later

//! Figures for operators, in the text format of Prometheus (OpenMetrics).
//!
//! What happens is counted where it happens, in [`Figures`]. How things are is asked for when somebody looks.

use crate::driver::Inlets;
use crate::driver::Status;
use crate::names::role_name;
use crate::names::Names;
use crate::names::ROLES;
use crate::observe::Observed;
use crate::observe::Observer;
use dmholey_cluster::ids::Ballot;
use dmholey_cluster::ids::Seq;
use dmholey_cluster::message::Message;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::exponential_buckets;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use tokio::time::timeout;

/// What all names begin with.
const PREFIX: &str = "dmholey_cluster";
/// How long the kernel may take to say how its targets are.
const KERNEL: Duration = Duration::from_secs(2);

/// From which peer, or about which.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Peer {
    peer: String,
}

/// How something went.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Role {
    role: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Info {
    cluster: String,
    node: String,
    version: &'static str,
}

fn round_trips() -> Histogram {
    // From 64 us to 33 s.
    Histogram::new(exponential_buckets(64e-6, 2.0, 20))
}

/// What has happened so far.
#[derive(Clone, Debug)]
pub struct Figures {
    sent: Family<Peer, Counter>,
    answered: Family<Peer, Counter>,
    frames_sent: Family<Peer, Counter>,
    frames_received: Family<Peer, Counter>,
    round_trips: Family<Peer, Histogram, fn() -> Histogram>,
    claims: Family<Outcome, Counter>,
    promotions: Family<Outcome, Counter>,
    fences: Family<Outcome, Counter>,
    drains: Family<Outcome, Counter>,
    /// The node has become a copier.
    pub joins: Counter,
    /// A copier was dropped because it is fenced.
    pub evictions: Counter,
    /// The node has left in order to join again.
    pub recycles: Counter,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            sent: Family::default(),
            answered: Family::default(),
            frames_sent: Family::default(),
            frames_received: Family::default(),
            round_trips: Family::new_with_constructor(round_trips),
            claims: Family::default(),
            promotions: Family::default(),
            fences: Family::default(),
            drains: Family::default(),
            joins: Counter::default(),
            evictions: Counter::default(),
            recycles: Counter::default(),
        }
    }
}

impl Figures {
    /// Those of one peer.
    pub fn peer(&self, name: &str) -> PeerFigures {
        let peer = Peer {
            peer: name.to_owned(),
        };
        PeerFigures {
            sent: self.sent.get_or_create_owned(&peer),
            answered: self.answered.get_or_create_owned(&peer),
            frames_sent: self.frames_sent.get_or_create_owned(&peer),
            frames_received: self.frames_received.get_or_create_owned(&peer),
            round_trips: self.round_trips.get_or_create_owned(&peer),
            sample: None,
        }
    }

    /// A claim of this node has ended.
    pub fn claim(&self, won: bool) {
        let result = if won { "won" } else { "lost" };
        self.claims.get_or_create(&Outcome { result }).inc();
    }

    /// The kernel was to make this node's target the writer's.
    pub fn promotion(&self, well: bool) {
        self.promotions.get_or_create(&outcome(well)).inc();
    }

    /// The command that fences has ended.
    pub fn fence(&self, well: bool) {
        self.fences.get_or_create(&outcome(well)).inc();
    }

    /// The application was asked to let go of the device.
    pub fn drain(&self, well: bool) {
        self.drains.get_or_create(&outcome(well)).inc();
    }
}

const fn outcome(well: bool) -> Outcome {
    Outcome {
        result: if well { "ok" } else { "failed" },
    }
}

/// What was said to a peer, and by it.
#[derive(Debug)]
pub struct PeerFigures {
    sent: Counter,
    answered: Counter,
    frames_sent: Counter,
    frames_received: Counter,
    round_trips: Histogram,
    /// The request that is timed: one at a time is enough, and costs nothing.
    sample: Option<(Ballot, Seq, Instant)>,
}

impl PeerFigures {
    /// This goes to it.
    pub fn sends(&mut self, message: &Message) {
        self.frames_sent.inc();
        if let Message::Keep {
            ballot, requests, ..
        } = message
        {
            self.sent.inc_by(requests.len() as u64);
            if let (None, Some((seq, _))) = (self.sample, requests.first()) {
                self.sample = Some((*ballot, *seq, Instant::now()));
            }
        }
    }

    /// This came from it.
    pub fn receives(&mut self, message: &Message) {
        self.frames_received.inc();
        if let Message::Kept { ballot, seqs, .. } = message {
            self.answered.inc_by(seqs.len() as u64);
            if let Some((timed, seq, since)) = self.sample {
                if timed == *ballot && seqs.contains(&seq) {
                    self.round_trips.observe(since.elapsed().as_secs_f64());
                    self.sample = None;
                }
            }
        }
    }

    /// Its stream is gone, and perhaps the request with it.
    pub fn loses(&mut self) {
        self.sample = None;
    }
}

/// How things are, when somebody looks.
#[derive(Debug, Default)]
struct Gauges {
    role: Family<Role, Gauge>,
    ballot: Gauge,
    merging: Gauge,
    members: Gauge,
    connected: Family<Peer, Gauge>,
    suspected: Family<Peer, Gauge>,
    copier: Family<Peer, Gauge>,
    recycling: Gauge,
    outstanding: Family<Peer, Gauge>,
    writer_epoch: Gauge,
    writer_open: Gauge,
    writer_stable: Gauge,
    writer_chunks: Gauge,
    writer_waiting: Gauge,
    writer_in_flight: Gauge,
    writer_held: Counter,
    writer_requests: Counter,
    writer_buffered: Gauge,
    writer_written: Counter,
    writer_lost: Counter,
    overlay_valid: Gauge,
    overlay_used: Gauge,
    overlay_total: Gauge,
}

/// Tells the figures to whoever asks.
pub struct Exporter {
    names: Names,
    inlets: Inlets,
    observer: Option<Arc<Observer>>,
    gauges: Gauges,
    registry: Registry,
}

impl fmt::Debug for Exporter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Exporter").finish_non_exhaustive()
    }
}

impl Exporter {
    /// For an agent; without an observer nothing is said of the kernel.
    pub fn new(names: Names, inlets: Inlets, observer: Option<Arc<Observer>>) -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let info = Info {
            cluster: names.cluster.clone(),
            node: names.me().to_owned(),
            version: env!("CARGO_PKG_VERSION"),
        };
        let known = Family::<Info, Gauge>::default();
        known.get_or_create(&info).set(1);
        registry.register("node", "Who says this; always 1", known);
        inlets.figures.register(&mut registry);
        let gauges = Gauges::default();
        gauges.register(&mut registry);
        if observer.is_some() {
            gauges.register_kernel(&mut registry);
        }
        Self {
            names,
            inlets,
            observer,
            gauges,
            registry,
        }
    }

    /// The text; `None` if the agent ends.
    pub async fn text(&self) -> Option<String> {
        let status = self.inlets.status().await?;
        let observed = match self.observer.clone() {
            Some(observer) => {
                let look = tokio::task::spawn_blocking(move || observer.look());
                timeout(KERNEL, look).await.ok()?.ok()?
            }
            None => Observed::default(),
        };
        self.gauges.set(&status, &self.names);
        self.gauges.set_observed(&observed);
        let mut text = String::new();
        // Only what writes to the string could fail, and that does not.
        encode(&mut text, &self.registry).ok()?;
        Some(text)
    }
}

impl Figures {
    fn register(&self, to: &mut Registry) {
        let mut by_peer = |name, help, family: &Family<Peer, Counter>| {
            to.register(name, help, family.clone());
        };
        by_peer("requests_sent", "Requests to keep chunks", &self.sent);
        by_peer("requests_answered", "Answers to them", &self.answered);
        by_peer("frames_sent", "Messages to a peer", &self.frames_sent);
        by_peer("frames_received", "Messages of it", &self.frames_received);
        let help = "From a request to its answer, of one request at a time";
        to.register("round_trip_seconds", help, self.round_trips.clone());
        let mut by_result = |name, help, family: &Family<Outcome, Counter>| {
            to.register(name, help, family.clone());
        };
        by_result("claims", "Claims of this node that ended", &self.claims);
        let help = "Attempts to make the target of this node the writer's";
        by_result("promotions", help, &self.promotions);
        by_result("fences", "Runs of the command that fences", &self.fences);
        by_result("drains", "Runs of the command that drains", &self.drains);
        let mut alone = |name, help, counter: &Counter| to.register(name, help, counter.clone());
        alone("joins", "This node became a copier", &self.joins);
        alone("evictions", "Copiers dropped as fenced", &self.evictions);
        let help = "This node left in order to join again";
        alone("recycles", help, &self.recycles);
    }
}

impl Gauges {
    fn register(&self, to: &mut Registry) {
        to.register("role", "1 for the role that it has", self.role.clone());
        let mut alone = |name, help, gauge: &Gauge| to.register(name, help, gauge.clone());
        let help = "Number of the ballot of the writer that it knows";
        alone("ballot", help, &self.ballot);
        alone("merging", "An overlay is being merged", &self.merging);
        alone("members", "A writer's copiers", &self.members);
        alone("recycling", "It starts over", &self.recycling);
        let mut by_peer = |name, help, family: &Family<Peer, Gauge>| {
            to.register(name, help, family.clone());
        };
        by_peer("peer_connected", "There is a stream", &self.connected);
        let help = "It is a copier that is silent, or keeps nothing";
        by_peer("peer_suspected", help, &self.suspected);
        let help = "It is a copier that has joined";
        by_peer("peer_copier", help, &self.copier);
        let help = "Requests that it has not answered";
        by_peer("requests_outstanding", help, &self.outstanding);
    }

    fn register_kernel(&self, to: &mut Registry) {
        let mut gauge = |name, help, gauge: &Gauge| to.register(name, help, gauge.clone());
        gauge("writer_epoch", "Epoch of the target", &self.writer_epoch);
        let help = "The target lets writes through";
        gauge("writer_open", help, &self.writer_open);
        let help = "Chunks that are overwritten without asking";
        gauge("writer_stable_chunks", help, &self.writer_stable);
        let help = "Chunks of the volume";
        gauge("writer_chunks", help, &self.writer_chunks);
        let help = "Writes that wait for copiers";
        gauge("writer_waiting", help, &self.writer_waiting);
        let help = "Writes on their way to the volume";
        gauge("writer_in_flight", help, &self.writer_in_flight);
        let help = "Sectors in the write-back buffer";
        gauge("writer_buffered_sectors", help, &self.writer_buffered);
        let help = "There is an overlay that can be read";
        gauge("overlay_valid", help, &self.overlay_valid);
        let help = "Sectors of the COW device in use";
        gauge("overlay_used_sectors", help, &self.overlay_used);
        let help = "Sectors of the COW device";
        gauge("overlay_sectors", help, &self.overlay_total);
        let mut counter = |name, help, counter: &Counter| to.register(name, help, counter.clone());
        let help = "Writes that ever waited for copiers";
        counter("writer_held", help, &self.writer_held);
        let help = "Ranges that the target ever asked for";
        counter("writer_requests", help, &self.writer_requests);
        let help = "Sectors written from the write-back buffer";
        counter("writer_written_sectors", help, &self.writer_written);
        let help = "Sectors that were acknowledged in it and lost";
        counter("writer_lost_sectors", help, &self.writer_lost);
    }

    fn set(&self, status: &Status, names: &Names) {
        for role in ROLES {
            let name = role_name(role);
            let is_that = role == status.role;
            self.role
                .get_or_create(&Role { role: name })
                .set(is_that.into());
        }
        self.ballot
            .set(status.ballot.number.try_into().unwrap_or(i64::MAX));
        self.merging.set(status.merging.into());
        self.members.set(status.members.len() as i64);
        let recycling = status.recycling == Some(names.id());
        self.recycling.set(recycling.into());
        for (node, name) in names.peers() {
            let peer = Peer {
                peer: name.to_owned(),
            };
            let joined = status
                .members
                .iter()
                .any(|&(id, _, joined)| id == node && joined);
            let set = |family: &Family<Peer, Gauge>, value| {
                family.get_or_create(&peer).set(value);
            };
            set(&self.connected, status.connected.contains(node).into());
            set(&self.suspected, status.suspected.contains(node).into());
            set(&self.copier, joined.into());
            let open = status.outstanding.get(&node).copied().unwrap_or_default();
            set(&self.outstanding, open.try_into().unwrap_or(i64::MAX));
        }
    }

    fn set_observed(&self, observed: &Observed) {
        let set = |gauge: &Gauge, value: u64| gauge.set(value.try_into().unwrap_or(i64::MAX));
        let writer = observed.writer.clone().unwrap_or_default();
        set(&self.writer_epoch, writer.epoch);
        set(&self.writer_open, u64::from(writer.phase == "open"));
        set(&self.writer_stable, writer.stable);
        set(&self.writer_chunks, writer.chunks);
        set(&self.writer_waiting, writer.waiting);
        set(&self.writer_in_flight, writer.in_flight);
        let count = |counter: &Counter, value| counter.inner().store(value, Ordering::Relaxed);
        count(&self.writer_held, writer.held);
        count(&self.writer_requests, writer.requests);
        let buffer = writer.buffer.unwrap_or_default();
        set(&self.writer_buffered, buffer.buffered);
        count(&self.writer_written, buffer.written);
        count(&self.writer_lost, buffer.lost);
        let overlay = observed.overlay;
        set(&self.overlay_valid, u64::from(overlay.is_some()));
        set(
            &self.overlay_used,
            overlay.map_or(0, |usage| usage.allocated),
        );
        set(&self.overlay_total, overlay.map_or(0, |usage| usage.total));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmholey_cluster::ids::Attachment;
    use dmholey_cluster::ids::Range;

    #[test]
    fn one_request_at_a_time_is_timed() {
        let figures = Figures::default();
        let mut peer = figures.peer("n2");
        let (ballot, attachment) = (Ballot { number: 3, node: 1 }, Attachment(1));
        let keep = |seqs: std::ops::Range<u64>| Message::Keep {
            ballot,
            attachment,
            requests: seqs
                .map(|seq| (Seq(seq), Range { first: seq, len: 1 }))
                .collect(),
        };
        let kept = |seqs: std::ops::Range<u64>| Message::Kept {
            ballot,
            attachment,
            seqs: seqs.map(Seq).collect(),
        };
        peer.sends(&keep(0..5));
        peer.sends(&keep(5..7));
        peer.receives(&kept(1..7));
        assert!(peer.sample.is_some());
        peer.receives(&kept(0..1));
        assert!(peer.sample.is_none());
        peer.sends(&keep(7..8));
        peer.loses();
        let mut registry = Registry::with_prefix(PREFIX);
        figures.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            r#"dmholey_cluster_requests_sent_total{peer="n2"} 8"#,
            r#"dmholey_cluster_requests_answered_total{peer="n2"} 7"#,
            r#"dmholey_cluster_round_trip_seconds_count{peer="n2"} 1"#,
            r#"dmholey_cluster_frames_received_total{peer="n2"} 2"#,
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
    }
}
