// SPDX-License-Identifier: GPL-2.0-or-later

//! How a node becomes the writer, and what it answers others who want to.

use super::Claim;
use super::Copier;
use super::Node;
use super::Role;
use super::IMPOSSIBLE;
use crate::event::Action;
use crate::event::Content;
use crate::event::Refusal;
use crate::ids::Attachment;
use crate::ids::Ballot;
use crate::ids::Epoch;
use crate::ids::NodeId;
use crate::ids::NodeSet;
use crate::message::Message;
use crate::writer::Writer;
use std::collections::BTreeMap;
use std::time::Duration;

impl Node {
    pub(super) fn claim(
        &mut self,
        fenced: NodeSet,
        half_merged: Option<NodeId>,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let copier = match &self.role {
            Role::Idle => None,
            Role::Copier(copier) if copier.joined => Some(*copier),
            Role::Copier(_) => {
                actions.push(Action::Refused(Refusal::NotJoined));
                return;
            }
            _ => {
                actions.push(Action::Refused(Refusal::Busy));
                return;
            }
        };
        match half_merged {
            // Its own overlay, or a view that the merge has left as it was, is as good as a clean volume.
            Some(node) if node != self.config.me && copier.is_none() => {
                actions.push(Action::Refused(Refusal::HalfMerged(node)));
            }
            _ => {
                let merging = copier.is_some() || half_merged.is_some();
                self.begin_claim(fenced, copier, None, merging, now, actions);
            }
        }
    }

    pub(super) fn begin_claim(
        &mut self,
        fenced: NodeSet,
        copier: Option<Copier>,
        writing: Option<(Ballot, Epoch)>,
        merging: bool,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let ballot = Ballot {
            number: self.seen.number.saturating_add(1),
            node: self.config.me.number(),
        };
        self.seen = ballot;
        actions.push(Action::Promise(self.config.me, ballot));
        self.role = Role::Claiming(Claim {
            ballot,
            waiting: self.config.peers.without(fenced),
            members: BTreeMap::new(),
            copier,
            writing,
            merging,
        });
        let mut out = self.outbox(actions);
        for node in self.config.peers.without(fenced).iter() {
            out.send(node, Message::Claim { ballot });
        }
        self.end_claim_if_won(now, actions);
    }

    /// Another node wants to be the writer.
    pub(super) fn hear_claim(&mut self, node: NodeId, ballot: Ballot, actions: &mut Vec<Action>) {
        if ballot.node != node.number() {
            actions.push(Action::Fault(node, "it claims with another node's ballot"));
            return;
        }
        if !ballot.is_possible() {
            actions.push(Action::Fault(node, IMPOSSIBLE));
            return;
        }
        self.seen = self.seen.max(ballot);
        let before = match &self.role {
            Role::Writer(writer) => Some(writer.ballot),
            Role::Demoting(ballot) => Some(*ballot),
            // A target that writes goes before any claim.
            Role::Claiming(claim) if claim.writing.is_some() || claim.ballot > ballot => {
                Some(claim.ballot)
            }
            _ => Some(self.followed).filter(|&followed| followed >= ballot),
        };
        if let Some(before) = before {
            let reject = Message::Reject {
                refused: ballot,
                ballot: before,
            };
            self.outbox(actions).send(node, reject);
            return;
        }
        if let Role::Claiming(_) = self.role {
            self.end_claim(Some(Refusal::Outbid(ballot)), actions);
        }
        self.promised.insert(node, ballot);
        actions.push(Action::Promise(node, ballot));
        let attachment = self
            .copier()
            .filter(|copier| copier.joined)
            .map(|copier| copier.attachment);
        self.outbox(actions)
            .send(node, Message::Accept { ballot, attachment });
    }

    pub(super) fn accepted(
        &mut self,
        node: NodeId,
        ballot: Ballot,
        attachment: Option<Attachment>,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        if let Role::Claiming(claim) = &mut self.role {
            if claim.ballot == ballot && claim.waiting.remove(node) {
                if let Some(attachment) = attachment {
                    claim.members.insert(node, attachment);
                }
                self.end_claim_if_won(now, actions);
            }
        }
    }

    pub(super) fn end_claim_if_won(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let Role::Claiming(claim) = &self.role else {
            return;
        };
        if !claim.waiting.is_empty() {
            return;
        }
        let ballot = claim.ballot;
        let content = match (claim.writing, &claim.copier) {
            (Some(_), _) => Content::AsItIs,
            (None, Some(_)) => Content::View,
            (None, None) if claim.merging => Content::List,
            (None, None) => Content::Volume,
        };
        let (_, before) = claim.writing.unwrap_or_default();
        let epoch = Epoch(before.0 + 1);
        let writer = Writer::new(ballot, epoch, &claim.members, claim.merging, now);
        self.role = Role::Writer(writer);
        self.follow(ballot);
        self.last_beat = now;
        actions.push(Action::Won(ballot));
        actions.push(Action::Promote(ballot, epoch, content));
        self.outbox(actions).send_all(&Message::Beat { ballot });
        // Who has left since it accepted, and could not say so, says it now.
        self.as_writer(actions, |writer, out| writer.ask_all(out));
    }

    pub(super) fn rejected(
        &mut self,
        node: NodeId,
        refused: Ballot,
        ballot: Ballot,
        actions: &mut Vec<Action>,
    ) {
        if !ballot.is_possible() {
            actions.push(Action::Fault(node, IMPOSSIBLE));
            return;
        }
        self.seen = self.seen.max(ballot);
        match &self.role {
            // A fenced one that does not know it has no say.
            Role::Claiming(claim) if claim.ballot == refused && claim.waiting.contains(node) => {
                self.end_claim(Some(Refusal::Outbid(ballot)), actions);
            }
            Role::Writer(writer) if writer.ballot == refused && ballot > refused => {
                self.step_down(actions);
            }
            _ => {}
        }
    }

    /// Gives a claim up; why, if the engine is to know.
    pub(super) fn end_claim(&mut self, why: Option<Refusal>, actions: &mut Vec<Action>) {
        self.abandon(actions);
        let Role::Claiming(claim) = &self.role else {
            return;
        };
        let next = match (claim.writing, claim.copier) {
            (Some((written, _)), _) => {
                actions.push(Action::Demote);
                Role::Demoting(written)
            }
            (None, Some(copier)) => Role::Copier(copier),
            (None, None) => Role::Idle,
        };
        self.role = next;
        actions.extend(why.map(Action::Refused));
    }

    /// Tells everybody that a claim, if there is one, is not pursued.
    pub(super) fn abandon(&mut self, actions: &mut Vec<Action>) {
        if let Role::Claiming(claim) = &self.role {
            let abandon = Message::Abandon {
                ballot: claim.ballot,
                followed: self.followed,
            };
            self.outbox(actions).send_all(&abandon);
        }
    }
}
