// SPDX-License-Identifier: GPL-2.0-or-later

//! What a node does about what happens to it.
//!
//! [`Node::handle`] takes one [`Input`] and gives the [`Action`]s that follow from it. Inputs come from four sides:
//!
//! - **Peers.** With each there is one stream at a time, in order and without gaps. When it breaks, its last messages
//!   may be lost: whoever needs an answer asks again over the next one. Who is at its other end is proven.
//! - **The target** in this node's kernel, which holds writes back, keeps chunks and serves reads.
//! - **The cluster engine**, which decides who is to be writer and who is fenced, and sees to the latter.
//! - **The clock.**
//!
//! A node becomes writer when each other node of the configuration has accepted its claim or is fenced. It accepts
//! unless its target is a writer's, it claims with a higher ballot, or it knows of a writer with one as high. So of two
//! claimants one gives way, as each needs the
//! other; and the new writer knows every copier there is, because who accepts tells.

use crate::event::Action;
use crate::event::Before;
use crate::event::Config;
use crate::event::Input;
use crate::event::Memory;
use crate::event::Outbox;
use crate::event::Refusal;
use crate::event::RoleName;
use crate::ids::Attachment;
use crate::ids::Ballot;
use crate::ids::Epoch;
use crate::ids::NodeId;
use crate::ids::NodeSet;
use crate::message::Message;
use crate::writer::Writer;
use std::collections::BTreeMap;
use std::time::Duration;

mod claim;
mod copier;
mod turn;

use turn::Turn;

const IMPOSSIBLE: &str = "no node has counted so far";

#[derive(Clone, Copy, Debug)]
struct Copier {
    attachment: Attachment,
    joined: bool,
    /// The writer that was asked to fix the view.
    asked: Option<Ballot>,
    writer_lost: bool,
}

#[derive(Debug)]
struct Claim {
    ballot: Ballot,
    waiting: NodeSet,
    members: BTreeMap<NodeId, Attachment>,
    copier: Option<Copier>,
    /// The target is a writer's already, of an older ballot.
    writing: Option<(Ballot, Epoch)>,
    /// There is an overlay to be merged.
    merging: bool,
}

impl Claim {
    /// A node is a copier no more, with this attachment; it may have another one now.
    fn left(&mut self, node: NodeId, ended: Attachment) {
        self.members
            .retain(|&member, own| (member, *own) != (node, ended));
    }
}

#[derive(Debug)]
enum Role {
    Idle,
    Copier(Copier),
    Claiming(Claim),
    Writer(Writer),
    /// Until the target has stopped.
    Demoting(Ballot),
}

/// A node.
#[derive(Debug)]
pub struct Node {
    config: Config,
    role: Role,
    up: NodeSet,
    /// The highest ballot that was seen anywhere.
    seen: Ballot,
    /// The highest ballot of a writer that has spoken to this node, or that this node was.
    followed: Ballot,
    /// Claims that were accepted and may still succeed: no writer of a lower ballot may fix a view.
    promised: BTreeMap<NodeId, Ballot>,
    writer_heard: Duration,
    last_beat: Duration,
    turn: Turn,
    last_wish: Duration,
}

impl Node {
    /// A node that has just started.
    pub fn new(
        config: Config,
        before: Before,
        memory: Memory,
        now: Duration,
        actions: &mut Vec<Action>,
    ) -> Self {
        let Memory { mut promised, won } = memory;
        let seen = promised.values().copied().fold(won, Ballot::max);
        // Its own claims have ended with its last agent.
        promised.remove(&config.me);
        let mut node = Self {
            config,
            role: Role::Idle,
            up: NodeSet::EMPTY,
            seen,
            followed: won,
            promised,
            writer_heard: now,
            last_beat: now,
            turn: Turn::No,
            last_wish: now,
        };
        match before {
            Before::Nothing => {}
            Before::Copier(attachment, ballot) => {
                node.follow(ballot);
                node.role = Role::Copier(Copier {
                    attachment,
                    joined: true,
                    asked: None,
                    writer_lost: false,
                });
            }
            // Who its copiers are they tell when it claims again.
            Before::Writer(ballot, epoch, merging) => {
                node.follow(ballot);
                let writing = Some((ballot, epoch));
                node.begin_claim(NodeSet::EMPTY, None, writing, merging, now, actions);
            }
        }
        node
    }

    /// Its role.
    pub fn role(&self) -> RoleName {
        match &self.role {
            Role::Idle => RoleName::Idle,
            Role::Copier(copier) if !copier.joined => RoleName::Joining,
            Role::Copier(_) => RoleName::Copier,
            Role::Claiming(_) => RoleName::Claiming,
            Role::Writer(_) => RoleName::Writer,
            Role::Demoting(_) => RoleName::Demoting,
        }
    }

    /// The highest ballot of a writer that it knows.
    pub fn ballot(&self) -> Ballot {
        self.followed
    }

    /// How many more requests of its target a node takes now.
    pub fn room(&self) -> usize {
        match &self.role {
            Role::Writer(writer) => self
                .config
                .most_requests
                .saturating_sub(writer.outstanding()),
            // They are ignored.
            _ => self.config.most_requests,
        }
    }

    /// Those for whom a claim waits.
    pub fn waiting(&self) -> NodeSet {
        match &self.role {
            Role::Claiming(claim) => claim.waiting,
            _ => NodeSet::EMPTY,
        }
    }

    /// The ballot of its claim, if it claims.
    pub fn claim_ballot(&self) -> Option<Ballot> {
        match &self.role {
            Role::Claiming(claim) => Some(claim.ballot),
            _ => None,
        }
    }

    /// Whether a writer's overlay is not in the volume yet.
    pub fn is_merging(&self) -> bool {
        matches!(&self.role, Role::Writer(writer) if writer.merging)
    }

    /// A writer's copiers, and whether their views are fixed.
    pub fn members(&self) -> Vec<(NodeId, Attachment, bool)> {
        match &self.role {
            Role::Writer(writer) => writer.members().collect(),
            _ => Vec::new(),
        }
    }

    /// A writer's copiers that are suspected.
    pub fn suspected(&self) -> NodeSet {
        match &self.role {
            Role::Writer(writer) => writer.suspected(),
            _ => NodeSet::EMPTY,
        }
    }

    /// How many requests each of a writer's copiers has not answered.
    pub fn outstanding(&self) -> BTreeMap<NodeId, u64> {
        match &self.role {
            Role::Writer(writer) => writer.outstanding_by_member(),
            _ => BTreeMap::new(),
        }
    }

    /// Does what follows from an input.
    pub fn handle(&mut self, input: Input, now: Duration, actions: &mut Vec<Action>) {
        match input {
            Input::Up(node) => self.peer_up(node, now, actions),
            Input::Down(node) => {
                self.up.remove(node);
            }
            Input::Message(node, message) => self.message(node, message, now, actions),
            Input::Tick => self.tick(now, actions),
            Input::Need(epoch, ranges) => self.as_writer(actions, |writer, out| {
                writer.need(epoch, ranges, now, out);
            }),
            Input::Drained(epoch) => self.as_writer(actions, |writer, out| {
                writer.drained(epoch, out);
            }),
            Input::Kept(ballot, seqs) => self.kept(ballot, seqs, actions),
            Input::Detached(attachment) => self.detached(attachment, actions),
            Input::Merged => self.as_writer(actions, |writer, _| writer.merging = false),
            Input::Demoted(ballot) => {
                let own = match &self.role {
                    Role::Demoting(own) => *own == ballot,
                    Role::Writer(writer) => writer.ballot == ballot,
                    Role::Claiming(claim) => claim.writing.is_some_and(|(own, _)| own == ballot),
                    _ => false,
                };
                if own {
                    self.abandon(actions);
                    self.role = Role::Idle;
                }
            }
            Input::VolumeRead(well) => {
                let patience = self.config.patience;
                self.as_writer(actions, |writer, _| {
                    writer.volume_read(well, now, patience);
                });
            }
            Input::Attach(attachment) => self.attach(attachment, now, actions),
            Input::Detach => match self.role {
                Role::Copier(_) => actions.push(Action::Detach),
                _ => actions.push(Action::Refused(Refusal::NotThat)),
            },
            Input::Claim {
                fenced,
                half_merged,
            } => self.claim(fenced, half_merged, now, actions),
            Input::Demote => match &self.role {
                Role::Writer(_) => self.step_down(actions),
                Role::Claiming(_) => self.end_claim(None, actions),
                _ => actions.push(Action::Refused(Refusal::NotThat)),
            },
            Input::Recycle { begun } => self.recycle(begun, now, actions),
            Input::Recycled => self.recycled(actions),
            Input::Fenced(node, attachment) => self.fenced(node, attachment, now, actions),
            Input::FencedFor(node, ballot) => {
                if self.claim_ballot() == Some(ballot) {
                    self.fenced(node, None, now, actions);
                }
            }
        }
    }

    fn outbox<'a>(&self, actions: &'a mut Vec<Action>) -> Outbox<'a> {
        Outbox {
            up: self.up,
            actions,
        }
    }

    fn as_writer(
        &mut self,
        actions: &mut Vec<Action>,
        act: impl FnOnce(&mut Writer, &mut Outbox<'_>),
    ) {
        let mut out = self.outbox(actions);
        if let Role::Writer(writer) = &mut self.role {
            act(writer, &mut out);
        }
    }

    fn peer_up(&mut self, node: NodeId, now: Duration, actions: &mut Vec<Action>) {
        if !self.config.peers.contains(node) {
            actions.push(Action::Fault(node, "it is not in the configuration"));
            return;
        }
        self.up.insert(node);
        let mut out = self.outbox(actions);
        match &mut self.role {
            Role::Writer(writer) => writer.up(node, now, &mut out),
            Role::Claiming(claim) if claim.waiting.contains(node) => {
                let ballot = claim.ballot;
                out.send(node, Message::Claim { ballot });
            }
            _ => {}
        }
    }

    fn tick(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if now.saturating_sub(self.last_wish) >= self.config.beat {
            self.wish(now, actions);
        }
        let due = now.saturating_sub(self.last_beat) >= self.config.beat;
        let (patience, keep_patience) = (self.config.patience, self.config.keep_patience);
        let silence = now.saturating_sub(self.writer_heard);
        let mut out = self.outbox(actions);
        match &mut self.role {
            Role::Writer(writer) => {
                if due {
                    self.last_beat = now;
                    out.send_all(&Message::Beat {
                        ballot: writer.ballot,
                    });
                }
                writer.suspect(now, patience, keep_patience, &mut out);
            }
            Role::Copier(copier) if !copier.writer_lost && silence > patience => {
                copier.writer_lost = true;
                let heard_of = self.followed != Ballot::default();
                if let Some(writer) = NodeId::new(self.followed.node).filter(|_| heard_of) {
                    out.act(Action::WriterLost(writer));
                }
            }
            _ => {}
        }
    }

    fn message(
        &mut self,
        node: NodeId,
        message: Message,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        if !self.up.contains(node) {
            return;
        }
        if let Role::Writer(writer) = &mut self.role {
            writer.heard(node, now);
        }
        match message {
            Message::Beat { ballot } => {
                if self.hear_writer(node, ballot, now, actions) {
                    self.answer_beat(node, actions);
                }
            }
            Message::Alive { attachment } => self.as_writer(actions, |writer, out| {
                writer.alive(node, attachment, out);
            }),
            Message::Join { attachment } => self.as_writer(actions, |writer, out| {
                writer.join(node, attachment, now, out);
            }),
            Message::Joined { ballot, attachment } => {
                if self.hear_writer(node, ballot, now, actions) {
                    self.joined(ballot, attachment, actions);
                }
            }
            Message::Evicted { ballot, attachment } => {
                if self.hear_writer(node, ballot, now, actions)
                    && self.copier().map(|copier| copier.attachment) == Some(attachment)
                {
                    actions.push(Action::Detach);
                }
            }
            Message::Left { attachment } => self.left(node, attachment, actions),
            Message::Keep {
                ballot,
                attachment,
                requests,
            } => {
                if self.hear_writer(node, ballot, now, actions) {
                    self.keep(node, ballot, attachment, requests, actions);
                }
            }
            Message::Kept {
                ballot,
                attachment,
                seqs,
            } => self.as_writer(actions, |writer, out| {
                if writer.ballot == ballot {
                    writer.kept(node, attachment, &seqs, now, out);
                }
            }),
            Message::Claim { ballot } => self.hear_claim(node, ballot, actions),
            Message::Accept { ballot, attachment } => {
                self.accepted(node, ballot, attachment, now, actions);
            }
            Message::Reject { refused, ballot } => self.rejected(node, refused, ballot, actions),
            Message::Abandon { ballot, followed } => {
                if !followed.is_possible() {
                    actions.push(Action::Fault(node, IMPOSSIBLE));
                    return;
                }
                self.follow(followed);
                if self.promised.get(&node) == Some(&ballot) {
                    self.promised.remove(&node);
                }
            }
            Message::Wish { asked, begun } => {
                let patience = self.config.patience;
                self.as_writer(actions, |writer, out| {
                    writer.wish(node, asked, begun, now, patience, out);
                });
            }
            Message::Turn { ballot, asked } => {
                if self.hear_writer(node, ballot, now, actions) {
                    self.has_turn(node, ballot, asked, now, actions);
                }
            }
            Message::Over => self.as_writer(actions, |writer, _| writer.over(node)),
            Message::Recall { ballot } => {
                let pursued = match &self.role {
                    Role::Claiming(claim) => claim.ballot == ballot,
                    _ => self.followed == ballot,
                };
                if !pursued {
                    let followed = self.followed;
                    self.outbox(actions)
                        .send(node, Message::Abandon { ballot, followed });
                }
            }
        }
    }

    fn step_down(&mut self, actions: &mut Vec<Action>) {
        if let Role::Writer(writer) = &self.role {
            self.role = Role::Demoting(writer.ballot);
            actions.push(Action::Demote);
        }
    }

    fn left(&mut self, node: NodeId, ended: Attachment, actions: &mut Vec<Action>) {
        if let Role::Claiming(claim) = &mut self.role {
            claim.left(node, ended);
        }
        self.as_writer(actions, |writer, out| writer.gone(node, ended, out));
    }

    fn fenced(
        &mut self,
        node: NodeId,
        attachment: Option<Attachment>,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        if let Role::Claiming(claim) = &mut self.role {
            match attachment {
                Some(ended) => claim.left(node, ended),
                None => {
                    claim.waiting.remove(node);
                    claim.members.remove(&node);
                }
            }
            self.end_claim_if_won(now, actions);
        } else if let Some(attachment) = attachment {
            self.as_writer(actions, |writer, out| writer.gone(node, attachment, out));
        }
    }
}
