// SPDX-License-Identifier: GPL-2.0-or-later

//! A cluster: nodes, their streams, the shared volume, an engine that fences and promotes, and what goes wrong.
//!
//! Time is in microseconds. All that happens is an event; the seed decides when. A node that is paused gets its events
//! later, in their order; what it has sent to the volume lands all the same, until it is fenced.

use crate::model::View;
use crate::random::Random;
use crate::target::Cause;
use crate::target::Chunk;
use crate::target::Effect;
use crate::target::Overlay;
use crate::target::Target;
use crate::target::Value;
use dmholey_cluster::event::Action;
use dmholey_cluster::event::Config;
use dmholey_cluster::event::Input;
use dmholey_cluster::event::Memory;
use dmholey_cluster::event::Refusal;
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

mod engine;
mod faults;
mod recycle;
mod streams;
mod volume;

pub(crate) const CHUNKS: u64 = 24;
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
    Land(usize, u64, Chunk, Value, Cause),
    Probe(usize, u64, Ballot, Epoch),
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
    Landed(Chunk, Value, Cause, bool),
    Probed(Ballot, Epoch, bool),
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
    paused_until: u64,
    slow_until: u64,
    /// It answers no request before.
    stuck_until: u64,
    /// The volume takes nothing from it.
    fenced: bool,
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
            paused_until: 0,
            slow_until: 0,
            stuck_until: 0,
            fenced: false,
            memory: Memory::default(),
            told: 0,
            turn: false,
            disturbed: 0,
        };
        let mut world = Self {
            random,
            now: 0,
            queue: BTreeMap::new(),
            events: 0,
            hosts: (0..nodes).map(host).collect(),
            streams: BTreeMap::new(),
            disk: (0..CHUNKS).collect(),
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
            Event::Land(node, boot, chunk, value, cause) => {
                self.land(node, boot, chunk, value, cause)
            }
            Event::Probe(node, boot, ballot, epoch) => {
                let host = &self.hosts[node];
                let well = !host.fenced;
                if host.boot == boot && host.alive {
                    self.local(node, 10, 500, Local::Probed(ballot, epoch, well));
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
                    chunks: CHUNKS,
                    beat: Duration::from_micros(BEAT),
                    patience: Duration::from_micros(PATIENCE),
                    keep_patience: Duration::from_micros(KEEP_PATIENCE),
                    most_requests: 1 << 20,
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
            Local::Landed(chunk, value, cause, well) => {
                let mut effects = Vec::new();
                self.hosts[node]
                    .target
                    .landed(chunk, value, cause, well, &mut effects);
                self.effects(node, effects)
            }
            Local::Probed(ballot, epoch, well) => {
                let mut effects = Vec::new();
                let target = &mut self.hosts[node].target;
                target.probed(ballot, epoch, well, &mut effects);
                self.effects(node, effects)
            }
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

    // --- agents and targets ---

    fn input(&mut self, node: usize, input: Input) -> Outcome {
        let now = Duration::from_micros(self.now);
        let mut actions = Vec::new();
        if let Some(agent) = &mut self.hosts[node].agent {
            let before = agent.role();
            agent.handle(input.clone(), now, &mut actions);
            let after = agent.role();
            if before != after || !actions.is_empty() {
                self.note(|| format!("node {node}: {input:?}: {before:?} -> {after:?}"));
            }
        }
        if let Input::Message(_, Message::Join { attachment }) = input {
            for action in &actions {
                if let Action::Epoch(epoch) = action {
                    let ballot = self.hosts[node].agent.as_ref().map(Node::ballot);
                    self.joining
                        .push((attachment, ballot.unwrap_or_default(), epoch.0));
                }
            }
        }
        self.act(node, actions)
    }

    fn act(&mut self, node: usize, actions: Vec<Action>) -> Outcome {
        for action in actions {
            self.note(|| format!("node {node}:     {action:?}"));
            let mut effects = Vec::new();
            let target = &mut self.hosts[node].target;
            match action {
                Action::Send(peer, message) => {
                    self.send(node, usize::from(peer.number()), message);
                }
                Action::Keep(ballot, requests) => target.keep(ballot, requests, &mut effects),
                Action::Stable(epoch, ranges) => target.stable(epoch, &ranges, &mut effects),
                Action::Epoch(epoch) => target.turn(epoch, &mut effects),
                Action::Promote(ballot, epoch, _) => {
                    self.promoted(node)?;
                    self.hosts[node].target.promote(ballot, epoch, &mut effects);
                }
                Action::Demote => target.demote(&mut effects),
                Action::Promise(peer, ballot) => {
                    self.hosts[node].memory.promised.insert(peer, ballot);
                }
                Action::Won(ballot) => self.hosts[node].memory.won = ballot,
                Action::Serve => self.serve(node)?,
                Action::Detach => target.detach(&mut effects),
                Action::ReadVolume => {
                    self.counts.add("volume read: no copier answers");
                    let (agents, well) = (self.hosts[node].agents, !self.hosts[node].fenced);
                    let read = Local::Agent(agents, Input::VolumeRead(well));
                    self.local(node, 50, 4 * MS, read);
                }
                Action::Suspect(peer, attachment) => {
                    self.counts.add("copier suspected");
                    self.suspected(node, usize::from(peer.number()), attachment);
                }
                Action::WriterLost(_) => {
                    self.counts.add("writer missed");
                    if let Some(writer) = self.writer.filter(|_| self.random.one_in(2)) {
                        if self.claim.is_none() {
                            let power = self.random.one_in(2);
                            self.after(0, 20 * MS, Event::Fence(writer, power));
                        }
                    }
                }
                Action::Turn => self.turn(node)?,
                Action::Refused(refusal) => {
                    if matches!(refusal, Refusal::Outbid(_)) {
                        self.counts.add("claim outbid");
                    }
                    if self.claim.is_some_and(|(claimant, _)| claimant == node) {
                        self.claim = None;
                    }
                }
                Action::Fault(peer, what) => return Err(format!("{peer}: {what}")),
            }
            self.effects(node, effects)?;
        }
        Ok(())
    }

    fn effects(&mut self, node: usize, effects: Vec<Effect>) -> Outcome {
        for effect in effects {
            match effect {
                Effect::Tell(input) => {
                    let time = self.now + self.random.between(10, MS);
                    let host = &mut self.hosts[node];
                    host.told = host.told.max(time);
                    let (told, boot, agents) = (host.told, host.boot, host.agents);
                    let local = Local::Agent(agents, input);
                    self.at(told, Event::Local(node, boot, local));
                }
                Effect::Write(chunk, value, cause) => {
                    self.note(|| format!("node {node}:     writes {chunk} = {value}, {cause:?}"));
                    let boot = self.hosts[node].boot;
                    self.after(50, 3 * MS, Event::Land(node, boot, chunk, value, cause));
                }
                Effect::Written(chunk, value, well) => {
                    let host = &mut self.hosts[node];
                    host.busy.remove(&chunk);
                    if let Some(view) = &mut host.view {
                        view.ends(chunk, value, well);
                    }
                    self.counts
                        .add(if well { "writes" } else { "writes failed" });
                }
                Effect::Keep(ballot, seq, range) => {
                    let slow = self.hosts[node].slow_until > self.now;
                    let most = if slow { 50 * MS } else { 2 * MS };
                    let stuck = self.hosts[node].stuck_until.saturating_sub(self.now);
                    let attachment = self.hosts[node].target.attachment;
                    self.local(
                        node,
                        stuck + 50,
                        stuck + most,
                        Local::Keep(attachment, ballot, seq, range),
                    );
                }
                Effect::Probe(ballot, epoch) => {
                    let boot = self.hosts[node].boot;
                    self.after(50, 3 * MS, Event::Probe(node, boot, ballot, epoch));
                }
                Effect::Drained(ballot, epoch) => {
                    let disk = View::of(&self.disk);
                    let half = self.hosts[node].target.is_merging();
                    let is_due = |&(_, by, since): &(Attachment, Ballot, u64)| {
                        by == ballot && since <= epoch.0
                    };
                    for (attachment, ..) in self.joining.iter().filter(|join| is_due(join)) {
                        if half {
                            return Err(format!("{attachment:?} joins half a merge"));
                        }
                        self.views.insert(*attachment, disk.clone());
                    }
                    self.joining.retain(|join| !is_due(join));
                }
                Effect::Merged => {
                    self.counts.add("overlays merged");
                    self.hosts[node].store = None;
                    if self.half_merged == Some(node) {
                        self.half_merged = None;
                    }
                }
            }
        }
        Ok(())
    }

    fn serve(&mut self, node: usize) -> Outcome {
        self.counts.add("joins");
        let host = &mut self.hosts[node];
        let Some(attachment) = host.target.attachment else {
            // It has ended by itself, and its agent does not know yet.
            return Ok(());
        };
        let Some(view) = self.views.get(&attachment) else {
            return Err(format!("node {node} is to serve a view that is not fixed"));
        };
        host.view = Some(view.clone());
        host.target.serving = true;
        host.target.followed = host.agent.as_ref().map(Node::ballot).unwrap_or_default();
        Ok(())
    }

    /// A node is writer now: nobody else may be one.
    fn promoted(&mut self, node: usize) -> Outcome {
        if self.hosts[node].fenced {
            // It was, after its claim had begun. Nothing that it writes arrives.
            self.counts.add("promotions in vain");
            return Ok(());
        }
        for (other, host) in self.hosts.iter().enumerate() {
            if other != node && host.alive && host.target.is_writer() && !host.fenced {
                return Err(format!("node {node} is promoted while node {other} writes"));
            }
        }
        self.promoted_at = self.now;
        if self.hosts[node].target.is_writer() {
            self.counts.add("writer's agent restarted");
            return Ok(());
        }
        self.counts.add("promotions");
        let attached = self.hosts[node].target.attachment.is_some();
        let own = self.half_merged == Some(node);
        if attached {
            self.check_view(node)?;
            // Its overlay is made durable before it is merged.
            let overlay = self.hosts[node].target.overlay.clone();
            self.half_merged = (!overlay.is_empty()).then_some(node);
            self.hosts[node].store = (!overlay.is_empty()).then_some(overlay);
            self.counts.add("promotions of copiers");
        } else if own {
            self.counts.add("promotions to end a merge");
        } else {
            if self.half_merged.is_some() {
                return Err(format!("node {node} is promoted on half an overlay"));
            }
            // It sees what the last writer has left.
            if let Some(mut view) = self.writer.and_then(|last| self.hosts[last].view.clone()) {
                for (chunk, &value) in self.disk.iter().enumerate() {
                    view.read(chunk as Chunk, value)
                        .map_err(|what| format!("the last writer's {what}"))?;
                }
            }
            self.hosts[node].view = Some(View::of(&self.disk));
            self.hosts[node].target = Target::default();
        }
        if let Some(last) = self.writer.filter(|&last| last != node) {
            self.hosts[last].store = None;
        }
        self.writer = Some(node);
        self.claim = None;
        Ok(())
    }
}
