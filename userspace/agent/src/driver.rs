// SPDX-License-Identifier: GPL-2.0-or-later

//! Gives a node what happens, and does what it says.
//!
//! One task has the node. What it waits for comes through queues with a limit; what it says to peers goes into queues
//! without waiting: if one is full its stream is given up, and the next stream begins with what is still of interest.
//! So no peer can make it wait, or take more memory than the limits allow.

use crate::clock::Clock;
use crate::config::Config;
use crate::link::Event;
use crate::link::Outgoing;
use crate::metrics::Figures;
use crate::metrics::PeerFigures;
use crate::names::Names;
use crate::promises::Promises;
use dmholey_cluster::event::Action;
use dmholey_cluster::event::Before;
use dmholey_cluster::event::Content;
use dmholey_cluster::event::Input;
use dmholey_cluster::event::Refusal;
use dmholey_cluster::event::RoleName;
use dmholey_cluster::ids::Attachment;
use dmholey_cluster::ids::Ballot;
use dmholey_cluster::ids::Epoch;
use dmholey_cluster::ids::NodeId;
use dmholey_cluster::ids::NodeSet;
use dmholey_cluster::ids::Range;
use dmholey_cluster::ids::Seq;
use dmholey_cluster::message::Message;
use dmholey_cluster::message::MAX_ITEMS;
use dmholey_cluster::node::Node;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::interval;
use tokio::time::MissedTickBehavior;
use tracing::error;
use tracing::info;
use tracing::warn;

/// Requests of a target that may wait for copiers.
pub(crate) const MOST_REQUESTS: usize = 1 << 16;
/// After so long there is a stream to every node that lives.
const RECONNECTED: Duration = Duration::from_secs(5);
/// What waits in each queue to the driver.
const QUEUE: usize = 1024;

/// What an agent tells its target. The words are those of [`Action`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// See [`Action::Keep`].
    Keep(Ballot, Vec<(Seq, Range)>),
    /// See [`Action::Stable`].
    Stable(Epoch, Vec<Range>),
    /// See [`Action::Epoch`].
    Epoch(Epoch),
    /// See [`Action::Promote`].
    Promote(Ballot, Epoch, Content),
    /// See [`Action::Demote`].
    Demote,
    /// See [`Action::Serve`]; the ballot of the writer, for [`Before::Copier`].
    Serve(Ballot),
    /// See [`Action::Detach`].
    Detach,
    /// See [`Action::ReadVolume`].
    ReadVolume,
}

/// The target of this node. It answers through [`Inlets::target`] and [`Inlets::needs`].
pub trait Target: Send {
    /// Takes an order, without waiting.
    fn act(&mut self, order: Order);
}

/// What the engine is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// See [`Action::Suspect`].
    Suspect(NodeId, Attachment),
    /// See [`Action::WriterLost`].
    WriterLost(NodeId),
    /// See [`Action::Refused`].
    Refused(Refusal),
    /// The claim of this ballot waits for a node that does not answer.
    Awaited(NodeId, Ballot),
    /// See [`Action::Turn`].
    Turn,
    /// The node has another role.
    Role(RoleName),
}

/// What the engine wants.
#[derive(Debug)]
pub enum Command {
    /// One of its inputs.
    Input(Input),
    /// To know how things are.
    Status(oneshot::Sender<Status>),
}

/// How things are at a node.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its role.
    pub role: RoleName,
    /// The ballot of the writer that it knows.
    pub ballot: Ballot,
    /// The peers that it is connected with.
    pub connected: NodeSet,
    /// A writer's copiers, and whether they have joined.
    pub members: Vec<(NodeId, Attachment, bool)>,
    /// Those of them that are suspected.
    pub suspected: NodeSet,
    /// How many requests they have not answered.
    pub outstanding: BTreeMap<NodeId, u64>,
    /// The ballot of its claim, if it claims.
    pub claim: Option<Ballot>,
    /// Those for whom that waits.
    pub waiting: NodeSet,
    /// Whether an overlay is being merged into the volume.
    pub merging: bool,
    /// Whose turn to start over it is, as far as the node knows.
    pub recycling: Option<NodeId>,
}

/// The ways to a driver.
#[derive(Clone, Debug)]
pub struct Inlets {
    /// From the streams.
    pub events: mpsc::Sender<Event>,
    /// From the target: everything but its needs.
    pub target: mpsc::Sender<Input>,
    /// From a writer's target: the chunks that it needs. Nothing is taken from here while too much is unanswered.
    pub needs: mpsc::Sender<(Epoch, Vec<Range>)>,
    /// From the engine.
    pub engine: mpsc::Sender<Command>,
    /// For what the agent cannot go on without.
    pub failed: Failed,
    /// What happens is counted here.
    pub figures: Figures,
}

/// Ends the driver, and with it the agent: the next one finds out how things are.
#[derive(Clone, Debug)]
pub struct Failed(mpsc::Sender<String>);

impl Failed {
    /// Says what has failed; only the first counts.
    pub fn tell(&self, what: &str) {
        // Without room, or a driver, it is about to end.
        let _ = self.0.try_send(what.to_owned());
    }
}

impl Inlets {
    /// How things are; `None` if the driver has ended.
    pub async fn status(&self) -> Option<Status> {
        let (answer, status) = oneshot::channel();
        self.engine.send(Command::Status(answer)).await.ok()?;
        status.await.ok()
    }
}

/// The other ends of [`Inlets`], for [`Driver::new`].
#[derive(Debug)]
pub struct Queues {
    events: mpsc::Receiver<Event>,
    target: mpsc::Receiver<Input>,
    needs: mpsc::Receiver<(Epoch, Vec<Range>)>,
    pub(crate) engine: mpsc::Receiver<Command>,
    failed: mpsc::Receiver<String>,
    figures: Figures,
}

/// Queues to a driver.
pub fn queues() -> (Inlets, Queues) {
    let (events, event_queue) = mpsc::channel(QUEUE);
    let (target, target_queue) = mpsc::channel(QUEUE);
    let (needs, need_queue) = mpsc::channel(QUEUE);
    let (engine, engine_queue) = mpsc::channel(QUEUE);
    let (failed, failures) = mpsc::channel(1);
    let figures = Figures::default();
    let inlets = Inlets {
        events,
        target,
        needs,
        engine,
        failed: Failed(failed),
        figures: figures.clone(),
    };
    let queues = Queues {
        events: event_queue,
        target: target_queue,
        needs: need_queue,
        engine: engine_queue,
        failed: failures,
        figures,
    };
    (inlets, queues)
}

/// A stream to a peer.
#[derive(Debug)]
struct Link {
    number: u64,
    outgoing: Outgoing,
    since: Duration,
}

/// A node, and all that it speaks with.
#[derive(Debug)]
pub struct Driver<T> {
    node: Node,
    target: T,
    promises: Promises,
    names: Names,
    links: BTreeMap<NodeId, Link>,
    counted: BTreeMap<NodeId, PeerFigures>,
    reports: mpsc::UnboundedSender<Report>,
    queues: Queues,
    role: RoleName,
    /// Since when it is that.
    since: Duration,
    /// Those that were reported to keep a claim waiting.
    awaited: NodeSet,
    clock: Clock,
    tick: Duration,
    patience: Duration,
}

impl<T: Target> Driver<T> {
    /// A driver for a node whose target is in the state `before`.
    pub fn new(
        config: &Config,
        before: Before,
        target: T,
        queues: Queues,
        reports: mpsc::UnboundedSender<Report>,
    ) -> io::Result<Self> {
        let promises = Promises::open(&config.state)?;
        let settings = dmholey_cluster::event::Config {
            me: config.me,
            peers: config.peers().map(|peer| peer.id).collect(),
            chunks: config.volume.chunks,
            beat: config.beat,
            patience: config.patience,
            keep_patience: config.keep_patience,
            most_requests: MOST_REQUESTS,
        };
        let mut actions = Vec::new();
        let memory = promises.memory().clone();
        let node = Node::new(settings, before, memory, Duration::ZERO, &mut actions);
        let counted = config.peers().map(|peer| {
            let figures = queues.figures.peer(&peer.name);
            (peer.id, figures)
        });
        let mut driver = Self {
            node,
            target,
            promises,
            names: Names::of(config),
            links: BTreeMap::new(),
            counted: counted.collect(),
            reports,
            queues,
            role: RoleName::Idle,
            since: Duration::ZERO,
            awaited: NodeSet::EMPTY,
            // Twice what is between two ticks, or more.
            clock: Clock::new(config.patience / 4),
            tick: config.beat / 4,
            patience: config.patience,
        };
        driver.act(actions)?;
        Ok(driver)
    }

    /// Runs it, until nobody holds [`Inlets::engine`] any more. An error means that a promise cannot be remembered: then the
    /// node must not give it.
    pub async fn run(mut self) -> io::Result<()> {
        let mut ticks = interval(self.tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let has_room = self.node.room() > 0;
            tokio::select! {
                Some(event) = self.queues.events.recv() => self.event(event)?,
                Some(input) = self.queues.target.recv() => self.input(input)?,
                // Outside of a writer they are taken and ignored: behind them may be what the target has to say.
                Some(need) = self.queues.needs.recv(), if has_room => self.need(need)?,
                command = self.queues.engine.recv() => match command {
                    Some(Command::Input(input)) => self.command(input)?,
                    Some(Command::Status(answer)) => {
                        // Whoever asked may not wait any more.
                        let _ = answer.send(self.status());
                    }
                    None => return Ok(()),
                },
                Some(what) = self.queues.failed.recv() => return Err(io::Error::other(what)),
                _ = ticks.tick() => {
                    self.input(Input::Tick)?;
                    self.report_awaited();
                }
            }
        }
    }

    fn command(&mut self, input: Input) -> io::Result<()> {
        let members = self.node.members().len();
        let fences = matches!(input, Input::Fenced(..));
        self.input(input)?;
        if fences && self.node.members().len() < members {
            self.queues.figures.evictions.inc();
        }
        Ok(())
    }

    fn status(&self) -> Status {
        Status {
            role: self.node.role(),
            ballot: self.node.ballot(),
            connected: self.links.keys().copied().collect(),
            members: self.node.members(),
            suspected: self.node.suspected(),
            outstanding: self.node.outstanding(),
            claim: self.node.claim_ballot(),
            waiting: self.node.waiting(),
            merging: self.node.is_merging(),
            recycling: self.node.turns().iter().next(),
        }
    }

    fn event(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::Up(peer, number, outgoing) => {
                let link = Link {
                    number,
                    outgoing,
                    since: self.clock.now(),
                };
                if self.links.insert(peer, link).is_some() {
                    self.down(peer)?;
                }
                self.input(Input::Up(peer))
            }
            Event::Message(peer, number, message) if self.is_current(peer, number) => {
                if let Some(figures) = self.counted.get_mut(&peer) {
                    figures.receives(&message);
                }
                self.input(Input::Message(peer, message))
            }
            Event::Down(peer, number) if self.is_current(peer, number) => {
                self.links.remove(&peer);
                self.down(peer)
            }
            // From a stream that was given up.
            Event::Message(..) | Event::Down(..) => Ok(()),
        }
    }

    fn down(&mut self, peer: NodeId) -> io::Result<()> {
        if let Some(figures) = self.counted.get_mut(&peer) {
            figures.loses();
        }
        self.input(Input::Down(peer))
    }

    fn is_current(&self, peer: NodeId, number: u64) -> bool {
        self.links
            .get(&peer)
            .is_some_and(|link| link.number == number)
    }

    /// Takes what else is needed along: one message to each copier asks for all of it.
    fn need(&mut self, (epoch, mut ranges): (Epoch, Vec<Range>)) -> io::Result<()> {
        // What the target has said before it: that the epoch is drained, say.
        while let Ok(input) = self.queues.target.try_recv() {
            self.input(input)?;
        }
        while ranges.len() < MAX_ITEMS {
            match self.queues.needs.try_recv() {
                Ok((other, more)) if other == epoch => ranges.extend(more),
                Ok((other, more)) => {
                    self.input(Input::Need(epoch, ranges))?;
                    return self.input(Input::Need(other, more));
                }
                Err(_) => break,
            }
        }
        self.input(Input::Need(epoch, ranges))
    }

    fn input(&mut self, input: Input) -> io::Result<()> {
        let mut actions = Vec::new();
        let now = self.clock.now();
        self.node.handle(input, now, &mut actions);
        self.act(actions)?;
        let role = self.node.role();
        let before = std::mem::replace(&mut self.role, role);
        if before != role {
            self.since = now;
            self.count(before, role);
            self.awaited = NodeSet::EMPTY;
            info!(role = ?role, ballot = %self.node.ballot(), "role");
            self.report(Report::Role(role));
        }
        Ok(())
    }

    fn count(&self, before: RoleName, now: RoleName) {
        let figures = &self.queues.figures;
        match (before, now) {
            (_, RoleName::Writer) => figures.claim(true),
            (RoleName::Claiming, _) => figures.claim(false),
            (RoleName::Joining, RoleName::Copier) => {
                figures.joins.inc();
            }
            _ => {}
        }
    }

    /// Reports, once for each claim, the nodes that it waits for and that have not answered for long: who has a stream
    /// has been asked over it.
    fn report_awaited(&mut self) {
        // Streams are opened anew meanwhile, also by those who have just started.
        let patience = self.patience.max(RECONNECTED);
        let Some(ballot) = self.node.claim_ballot() else {
            return;
        };
        let now = self.clock.now();
        if now.saturating_sub(self.since) < patience {
            return;
        }
        for node in self.node.waiting().without(self.awaited).iter() {
            let asked = self.links.get(&node);
            if asked.is_none_or(|link| now.saturating_sub(link.since) >= patience) {
                let name = self.names.name(node);
                warn!("{name} does not answer; the claim waits for it");
                self.awaited.insert(node);
                self.report(Report::Awaited(node, ballot));
            }
        }
    }

    fn report(&self, report: Report) {
        if let Err(lost) = self.reports.send(report) {
            warn!("nobody listens to {:?}", lost.0);
        }
    }

    fn act(&mut self, actions: Vec<Action>) -> io::Result<()> {
        for action in actions {
            match action {
                Action::Send(peer, message) => self.send(peer, message)?,
                Action::Keep(ballot, requests) => self.target.act(Order::Keep(ballot, requests)),
                Action::Stable(epoch, ranges) => self.target.act(Order::Stable(epoch, ranges)),
                Action::Epoch(epoch) => self.target.act(Order::Epoch(epoch)),
                Action::Promote(ballot, epoch, content) => {
                    self.target.act(Order::Promote(ballot, epoch, content));
                }
                Action::Demote => self.target.act(Order::Demote),
                Action::Promise(node, ballot) => {
                    self.promises.keep(node, ballot).inspect_err(|error| {
                        let name = self.names.name(node);
                        error!("cannot remember the ballot {ballot} of {name}: {error}");
                    })?;
                }
                Action::Won(ballot) => self.promises.won(ballot).inspect_err(|error| {
                    error!("cannot remember the ballot {ballot} of this node: {error}");
                })?,
                Action::Serve => self.target.act(Order::Serve(self.node.ballot())),
                Action::Detach => self.target.act(Order::Detach),
                Action::ReadVolume => self.target.act(Order::ReadVolume),
                Action::Suspect(node, attachment) => {
                    warn!(
                        "{} is silent, or keeps nothing; writes wait for it",
                        self.names.name(node)
                    );
                    self.report(Report::Suspect(node, attachment));
                }
                Action::WriterLost(node) => {
                    warn!("the writer, {}, is silent", self.names.name(node));
                    self.report(Report::WriterLost(node));
                }
                Action::Turn => self.report(Report::Turn),
                Action::Refused(refusal) => {
                    warn!("{}", self.names.refusal(refusal).text());
                    self.report(Report::Refused(refusal));
                }
                Action::Fault(node, what) => {
                    let name = self.names.name(node);
                    warn!("{name} is not to be understood: {what}");
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, peer: NodeId, message: Message) -> io::Result<()> {
        let Some(link) = self.links.get(&peer) else {
            return Ok(());
        };
        if let Some(figures) = self.counted.get_mut(&peer) {
            figures.sends(&message);
        }
        if link.outgoing.queue.try_send(message).is_err() {
            // It takes nothing, or it has ended and that has not been said yet.
            warn!("the stream to {} is given up", self.names.name(peer));
            self.links.remove(&peer);
            self.down(peer)?;
        }
        Ok(())
    }
}
