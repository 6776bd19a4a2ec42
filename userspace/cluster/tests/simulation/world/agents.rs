// SPDX-License-Identifier: GPL-2.0-or-later

//! Agents and targets: what each is told, and what becomes of what it wants.

use super::Event;
use super::Local;
use super::Outcome;
use super::World;
use super::LOOK;
use super::MS;
use crate::model::View;
use crate::target::Chunk;
use crate::target::Effect;
use crate::target::Target;
use crate::target::Work;
use dmholey_cluster::event::Action;
use dmholey_cluster::event::Content;
use dmholey_cluster::event::Input;
use dmholey_cluster::event::Refusal;
use dmholey_cluster::ids::Attachment;
use dmholey_cluster::ids::Ballot;
use dmholey_cluster::message::Message;
use dmholey_cluster::node::Node;
use std::time::Duration;

impl World {
    pub(super) fn input(&mut self, node: usize, input: Input) -> Outcome {
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

    pub(super) fn at_target(
        &mut self,
        node: usize,
        act: impl FnOnce(&mut Target, &mut Vec<Effect>),
    ) -> Outcome {
        let mut effects = Vec::new();
        act(&mut self.hosts[node].target, &mut effects);
        self.effects(node, effects)
    }

    pub(super) fn work(&mut self, node: usize, work: Work) -> Outcome {
        let host = &mut self.hosts[node];
        host.queued.retain(|&queued| queued != work);
        let has_room = host.agent.as_ref().is_some_and(|agent| agent.room() > 0);
        let fetched = if has_room { self.settings.fetched } else { 0 };
        self.at_target(node, |target, out| {
            target.work(work, fetched, out);
            if work == Work::Fetch && !has_room {
                out.push(Effect::Count("agents without room"));
                target.fetch_later(out);
            }
        })
    }

    pub(super) fn act(&mut self, node: usize, actions: Vec<Action>) -> Outcome {
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
                Action::Promote(ballot, epoch, content) => {
                    let listed = self.half_merged == Some(node);
                    if target.has(content, listed) {
                        self.promoted(node, content)?;
                        let host = &mut self.hosts[node];
                        if content != Content::AsItIs {
                            // Its buffer is a new one.
                            host.untold = false;
                        }
                        host.target
                            .promote(ballot, epoch, &self.settings, &mut effects);
                    } else {
                        self.counts.add("promotions refused");
                        target.refuse(ballot, &mut effects);
                        self.claim = None;
                    }
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
                    let fails = self.fails(10, "disk error: look at the volume");
                    let host = &self.hosts[node];
                    let (agents, well) = (host.agents, !host.fenced && !fails);
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

    pub(super) fn effects(&mut self, node: usize, effects: Vec<Effect>) -> Outcome {
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
                Effect::Write(job, chunk, value, cause) => {
                    self.note(|| format!("node {node}:     writes {chunk} = {value}, {cause:?}"));
                    let boot = self.hosts[node].boot;
                    self.after(
                        50,
                        3 * MS,
                        Event::Land(node, boot, job, chunk, value, cause),
                    );
                }
                Effect::Written(write, well, buffered) => {
                    self.written(node, write, well, buffered);
                }
                Effect::Flushed(id, well) => self.flushed(node, id, well)?,
                Effect::Lost(chunks) => self.lost(node, &chunks),
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
                Effect::Probe(epoch) => {
                    let boot = self.hosts[node].boot;
                    self.after(50, 3 * MS, Event::Probe(node, boot, epoch));
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
                Effect::Listed => {
                    let host = &mut self.hosts[node];
                    if let Some(store) = &mut host.store {
                        store.clone_from(&host.target.overlay);
                    }
                }
                Effect::MergeFailed => {
                    self.counts.add("merges that failed");
                    self.local(node, MS, LOOK, Local::MergeAgain);
                }
                Effect::Count(what) => self.counts.add(what),
                Effect::Work(work) => {
                    let queued = &mut self.hosts[node].queued;
                    if !queued.contains(&work) {
                        queued.push(work);
                        let agent = self.hosts[node].agent.as_ref();
                        let is_full = agent.is_some_and(|agent| agent.room() == 0);
                        let most = if self.random.one_in(30) { 8 * MS } else { 500 };
                        let least = if work == Work::Fetch && is_full {
                            MS
                        } else {
                            10
                        };
                        self.local(node, least, most, Local::Work(work));
                    }
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
    fn promoted(&mut self, node: usize, content: Content) -> Outcome {
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
        if content == Content::AsItIs {
            self.counts.add("writer's agent restarted");
            return Ok(());
        }
        self.counts.add("promotions");
        if content == Content::View {
            self.check_view(node)?;
            // Its overlay is made durable before it is merged.
            let overlay = self.hosts[node].target.overlay.clone();
            self.half_merged = (!overlay.is_empty()).then_some(node);
            self.hosts[node].store = (!overlay.is_empty()).then_some(overlay);
            self.counts.add("promotions of copiers");
        } else if content == Content::List {
            self.counts.add("promotions to end a merge");
        } else {
            if self.half_merged.is_some() {
                return Err(format!("node {node} is promoted on half an overlay"));
            }
            // It sees what the last writer has left.
            if let Some(mut view) = self.writer.and_then(|last| self.hosts[last].view.clone()) {
                view.lose_all();
                for (chunk, &value) in self.disk.iter().enumerate() {
                    view.read(chunk as Chunk, value)
                        .map_err(|what| format!("the last writer's {what}"))?;
                }
            }
            self.hosts[node].view = Some(View::of(&self.disk));
            self.hosts[node].target = Target::default();
        }
        if let Some(view) = &mut self.hosts[node].view {
            view.promoted(self.settings.buffer.is_some());
        }
        if let Some(last) = self.writer.filter(|&last| last != node) {
            self.hosts[last].store = None;
        }
        self.writer = Some(node);
        self.claim = None;
        Ok(())
    }
}
