// SPDX-License-Identifier: GPL-2.0-or-later

//! A cluster: nodes, their streams, the shared volume, an engine that fences and promotes, and what goes wrong.
//!
//! Time is in microseconds. All that happens is an event; the seed decides when. A node that is paused gets its events
//! later, in their order; what it has sent to the volume lands all the same, until it is fenced.

use crate::model::Mark;
use crate::model::View;
use crate::random::Random;
use crate::target::Cause;
use crate::target::Chunk;
use crate::target::Landing;
use crate::target::Overlay;
use crate::target::Settings;
use crate::target::Target;
use crate::target::Value;
use crate::target::Work;
use dmholey_cluster::event::Config;
use dmholey_cluster::event::Input;
use dmholey_cluster::event::Memory;
use dmholey_cluster::event::RoleName;
use dmholey_cluster::ids::Attachment;
use dmholey_cluster::ids::Ballot;
use dmholey_cluster::ids::Epoch;
use dmholey_cluster::ids::NodeId;
use dmholey_cluster::ids::Range;
use dmholey_cluster::ids::Seq;
use dmholey_cluster::message::Message;
use dmholey_cluster::node::Node;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

mod agents;
mod application;
mod engine;
mod faults;
mod recycle;
mod streams;
mod volume;

const MS: u64 = 1000;
const BEAT: u64 = 20 * MS;
const PATIENCE: u64 = 120 * MS;
/// More than a copier that is only slow takes.
const KEEP_PATIENCE: u64 = 300 * MS;
const CHAOS_ENDS: u64 = 6_000 * MS;
/// After this nobody wants to start over any more.
const POLICY_ENDS: u64 = 10_500 * MS;
const ALL_ENDS: u64 = 12_000 * MS;
/// A claim that waits for longer has those fenced that it waits for.
const CLAIM_PATIENCE: u64 = 200 * MS;
/// Agents look at their targets so often.
const LOOK: u64 = 150 * MS;
/// No flush waits for longer at the end.
const FLUSH_PATIENCE: u64 = 500 * MS;

/// How often something was tried.
#[derive(Debug, Default)]
pub(crate) struct Counts(pub(crate) BTreeMap<&'static str, u64>);

impl Counts {
    fn add(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub(crate) fn join(&mut self, others: Counts) {
        for (what, count) in others.0 {
            *self.0.entry(what).or_default() += count;
        }
    }
}

#[derive(Debug)]
enum Event {
    /// At a node, while it runs: lost when it is started anew.
    Local(usize, u64, Local),
    /// A write reaches the volume. (Node, its boot, ...)
    Land(usize, u64, u64, Chunk, Value, Cause),
    Probe(usize, u64, Epoch),
    /// A stream could be there again.
    Connect(usize, usize),
    Reboot(usize, u64),
    Fence(usize, bool),
    Engine,
    Policy,
    Chaos,
}

#[derive(Debug)]
enum Local {
    Up(usize, u64),
    Down(usize, u64),
    Message(usize, u64, Message),
    Tick(u64),
    Agent(u64, Input),
    StartAgent,
    Landed(u64, Landing),
    Probed(Epoch, bool),
    Work(Work),
    /// The agent looks whether the overlay of this attachment is lost,
    Look(Attachment),
    /// or has a merge tried again that has failed.
    MergeAgain,
    Keep(Option<Attachment>, Ballot, Seq, Range),
    Read(Chunk),
    Application,
    /// It is its turn to start over, and the application has ended, or has not.
    Drained(bool),
    /// Whether it has another attachment than this one.
    Rejoin(Option<Attachment>),
}

struct Host {
    alive: bool,
    boot: u64,
    agent: Option<Node>,
    /// Counts starts of the agent.
    agents: u64,
    target: Target,
    /// The overlay of a merge that was cut off.
    store: Option<Overlay>,
    view: Option<View>,
    busy: BTreeSet<Chunk>,
    /// Where it goes on to write in a row, and how many more writes that are.
    row: (Chunk, u64),
    /// Flushes under way: what was acknowledged when they began, and when that was.
    flushes: BTreeMap<u64, (Mark, u64)>,
    /// Something that was acknowledged is lost, and no flush has failed since.
    untold: bool,
    /// Work of the target that is to be done.
    queued: Vec<Work>,
    paused_until: u64,
    slow_until: u64,
    /// It answers no request before.
    stuck_until: u64,
    /// The volume takes nothing from it,
    fenced: bool,
    /// and says why.
    refused: bool,
    /// On its disk: what its agents have promised.
    memory: Memory,
    /// When its kernel has told its agent the last thing.
    told: u64,
    /// It is its turn to start over.
    turn: bool,
    /// Before that it could not be heard.
    disturbed: u64,
}

/// A stream between two nodes.
#[derive(Clone, Copy, Default)]
struct Stream {
    number: u64,
    open: bool,
    /// It cannot be opened before.
    cut_until: u64,
    /// When the last message arrives, from the lower node and from the higher. Later ones arrive later.
    last: [u64; 2],
    /// Before that something may have taken long.
    disturbed: u64,
}

pub(crate) struct World {
    random: Random,
    settings: Settings,
    now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    events: u64,
    hosts: Vec<Host>,
    streams: BTreeMap<(usize, usize), Stream>,
    disk: Vec<Value>,
    /// The node that was promoted last.
    writer: Option<usize>,
    promoted_at: u64,
    half_merged: Option<usize>,
    /// The claim that the engine waits for, since when.
    claim: Option<(usize, u64)>,
    /// Who joins in which epoch of which writer.
    joining: Vec<(Attachment, Ballot, u64)>,
    views: BTreeMap<Attachment, View>,
    values: u64,
    attachments: u64,
    pub(crate) counts: Counts,
    trace: bool,
}

type Outcome = Result<(), String>;

fn settings(random: &mut Random) -> Settings {
    let mut pick = |from: &[u64]| from[random.below(from.len() as u64) as usize];
    Settings {
        chunks: pick(&[24, 24, 24, 24, 24, 100]),
        ring: pick(&[1, 2, 4, 64]) as usize,
        most_ahead: pick(&[2, 4, 8, 24]),
        fetched: pick(&[1, 4, 64]) as usize,
        most_requests: pick(&[2, 8, 1 << 20]) as usize,
        buffer: Some(pick(&[0, 0, 0, 0, 2, 4, 16]) as usize).filter(|&slots| slots != 0),
        longest: pick(&[1, 3, 6]),
        errors: pick(&[0, 1]) == 1,
    }
}

impl World {
    pub(crate) fn new(seed: u64, trace: bool) -> Self {
        let mut random = Random::new(seed);
        let nodes = random.between(2, 6) as usize;
        let host = |_| Host {
            alive: true,
            boot: 0,
            agent: None,
            agents: 0,
            target: Target::default(),
            store: None,
            view: None,
            busy: BTreeSet::new(),
            row: (0, 0),
            flushes: BTreeMap::new(),
            untold: false,
            queued: Vec::new(),
            paused_until: 0,
            slow_until: 0,
            stuck_until: 0,
            fenced: false,
            refused: false,
            memory: Memory::default(),
            told: 0,
            turn: false,
            disturbed: 0,
        };
        let settings = settings(&mut random);
        let mut world = Self {
            random,
            settings,
            now: 0,
            queue: BTreeMap::new(),
            events: 0,
            hosts: (0..nodes).map(host).collect(),
            streams: BTreeMap::new(),
            disk: (0..settings.chunks).collect(),
            writer: None,
            promoted_at: 0,
            half_merged: None,
            claim: None,
            joining: Vec::new(),
            views: BTreeMap::new(),
            values: 1000,
            attachments: 0,
            counts: Counts::default(),
            trace,
        };
        for node in 0..nodes {
            for peer in node + 1..nodes {
                world.streams.insert((node, peer), Stream::default());
                world.after(0, 5 * MS, Event::Connect(node, peer));
            }
            world.local(node, 0, MS, Local::StartAgent);
            world.local(node, 0, 10 * MS, Local::Application);
        }
        world.after(5 * MS, 20 * MS, Event::Engine);
        world.after(50 * MS, 300 * MS, Event::Policy);
        world.after(50 * MS, 100 * MS, Event::Chaos);
        world
    }

    /// Runs it to its end; what was wrong, if something was.
    pub(crate) fn run(&mut self) -> Outcome {
        while let Some(((time, _), event)) = self.queue.pop_first() {
            if time > ALL_ENDS {
                break;
            }
            self.now = time;
            self.step(event)
                .map_err(|what| format!("at {time} us: {what}"))?;
        }
        self.judge_end()
    }

    /// After the last fault there was time for all to be well again.
    fn judge_end(&mut self) -> Outcome {
        let Some(writer) = self.writer else {
            return Err("there is no writer in the end".into());
        };
        for (node, host) in self.hosts.iter().enumerate() {
            let role = host.agent.as_ref().map(Node::role);
            let want = if node == writer {
                RoleName::Writer
            } else {
                RoleName::Copier
            };
            if role != Some(want) || host.fenced {
                return Err(format!(
                    "node {node} is {role:?} in the end, not {want:?}; fenced {}, half merged {:?}",
                    host.fenced, self.half_merged
                ));
            }
            if host.turn {
                return Err(format!("node {node} has its turn for good"));
            }
            if host.target.held() > 8 || host.target.is_merging() {
                return Err(format!("node {node} holds back writes for good"));
            }
            let is_late = |&(_, since): &(Mark, u64)| since + FLUSH_PATIENCE < self.now;
            if host.flushes.values().any(is_late) {
                return Err(format!("node {node} does not end a flush"));
            }
        }
        Ok(())
    }

    fn note(&self, text: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>9} {}", self.now, text());
        }
    }

    // --- time ---

    fn at(&mut self, time: u64, event: Event) {
        self.events += 1;
        self.queue.insert((time, self.events), event);
    }

    fn after(&mut self, least: u64, most: u64, event: Event) {
        let time = self.now + self.random.between(least, most.max(least + 1));
        self.at(time, event);
    }

    fn local(&mut self, node: usize, least: u64, most: u64, what: Local) {
        let boot = self.hosts[node].boot;
        self.after(least, most, Event::Local(node, boot, what));
    }

    fn step(&mut self, event: Event) -> Outcome {
        match event {
            Event::Local(node, boot, what) => {
                let host = &self.hosts[node];
                if !host.alive || host.boot != boot {
                    return Ok(());
                }
                if host.paused_until > self.now {
                    self.at(host.paused_until, Event::Local(node, boot, what));
                    return Ok(());
                }
                self.at_node(node, what)
            }
            Event::Land(node, boot, job, chunk, value, cause) => {
                self.land(node, boot, job, chunk, value, cause)
            }
            Event::Probe(node, boot, epoch) => {
                let host = &self.hosts[node];
                if host.boot == boot && host.alive {
                    let fails = self.fails(20, "disk error: probe");
                    let well = !self.hosts[node].fenced && !fails;
                    self.local(node, 10, 500, Local::Probed(epoch, well));
                }
                Ok(())
            }
            Event::Connect(node, peer) => {
                self.connect(node, peer);
                Ok(())
            }
            Event::Reboot(node, boot) => {
                if self.hosts[node].boot == boot {
                    self.crash(node);
                    self.reboot(node);
                }
                Ok(())
            }
            Event::Fence(node, power) => {
                self.fence(node, power);
                Ok(())
            }
            Event::Engine => {
                self.after(10 * MS, 60 * MS, Event::Engine);
                self.engine()
            }
            Event::Policy => {
                if self.now < POLICY_ENDS {
                    self.after(20 * MS, 200 * MS, Event::Policy);
                    self.policy()
                } else {
                    Ok(())
                }
            }
            Event::Chaos => {
                if self.now < CHAOS_ENDS {
                    self.after(20 * MS, 250 * MS, Event::Chaos);
                    self.chaos();
                }
                Ok(())
            }
        }
    }

    fn at_node(&mut self, node: usize, what: Local) -> Outcome {
        match what {
            Local::StartAgent => {
                let host = &mut self.hosts[node];
                let agents = host.agents;
                let id = |node: usize| NodeId::new(node as u8).unwrap();
                let config = Config {
                    me: id(node),
                    peers: (0..self.hosts.len())
                        .filter(|&peer| peer != node)
                        .map(id)
                        .collect(),
                    chunks: self.settings.chunks,
                    beat: Duration::from_micros(BEAT),
                    patience: Duration::from_micros(PATIENCE),
                    keep_patience: Duration::from_micros(KEEP_PATIENCE),
                    most_requests: self.settings.most_requests,
                };
                let host = &mut self.hosts[node];
                let mut actions = Vec::new();
                let now = Duration::from_micros(self.now);
                let before = host.target.before();
                let memory = host.memory.clone();
                host.agent = Some(Node::new(config, before, memory, now, &mut actions));
                self.note(|| format!("node {node}: agent starts with {before:?}"));
                self.local(node, MS, 5 * MS, Local::Tick(agents));
                // A target that did not serve yet is ended.
                let host = &mut self.hosts[node];
                if before == dmholey_cluster::event::Before::Nothing
                    && host.target.attachment.is_some()
                {
                    let mut effects = Vec::new();
                    host.target.detach(&mut effects);
                    self.effects(node, effects)?;
                }
                self.act(node, actions)?;
                let host = &mut self.hosts[node];
                host.disturbed = self.now;
                if host.turn {
                    self.input(node, Input::Recycle { begun: true })?;
                }
                Ok(())
            }
            Local::Up(peer, number) => {
                if self.stream(node, peer).number == number {
                    let id = NodeId::new(peer as u8).unwrap();
                    self.input(node, Input::Up(id))?;
                }
                Ok(())
            }
            Local::Down(peer, number) => {
                if self.stream(node, peer).number == number {
                    self.input(node, Input::Down(NodeId::new(peer as u8).unwrap()))?;
                    let (low, high) = (node.min(peer), node.max(peer));
                    self.after(MS, 20 * MS, Event::Connect(low, high));
                }
                Ok(())
            }
            Local::Message(peer, number, message) => {
                let stream = self.stream(node, peer);
                if stream.number == number && stream.open {
                    let id = NodeId::new(peer as u8).unwrap();
                    self.input(node, Input::Message(id, message))?;
                }
                Ok(())
            }
            Local::Tick(agents) => {
                if self.hosts[node].agents == agents {
                    self.local(node, 5 * MS, 10 * MS, Local::Tick(agents));
                    self.input(node, Input::Tick)?;
                }
                Ok(())
            }
            Local::Agent(agents, input) => {
                if self.hosts[node].agents == agents {
                    self.input(node, input)?;
                }
                Ok(())
            }
            Local::Landed(job, landing) => {
                self.at_target(node, |target, out| target.landed(job, landing, out))
            }
            Local::Probed(epoch, well) => {
                self.at_target(node, |target, out| target.probed(epoch, well, out))
            }
            Local::Work(work) => self.work(node, work),
            Local::Look(attachment) => {
                let target = &self.hosts[node].target;
                if target.attachment == Some(attachment) && target.lost {
                    self.at_target(node, Target::detach)?;
                }
                Ok(())
            }
            Local::MergeAgain => self.at_target(node, Target::merge_again),
            Local::Keep(attachment, ballot, seq, range) => {
                if self.hosts[node].target.attachment == attachment {
                    self.keep(node, ballot, seq, range)?;
                }
                Ok(())
            }
            Local::Read(chunk) => self.read_ends(node, chunk),
            Local::Application => self.application(node),
            Local::Drained(well) => self.drained(node, well),
            Local::Rejoin(old) => self.rejoins(node, old),
        }
    }
}
