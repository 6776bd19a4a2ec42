// SPDX-License-Identifier: GPL-2.0-or-later

//! What a node does as a copier, and as one that hears of a writer.

use super::Claim;
use super::Copier;
use super::Node;
use super::Role;
use super::IMPOSSIBLE;
use crate::event::Action;
use crate::event::Refusal;
use crate::ids::Attachment;
use crate::ids::Ballot;
use crate::ids::NodeId;
use crate::ids::NodeSet;
use crate::ids::Range;
use crate::ids::Seq;
use crate::message::Message;
use crate::message::MAX_ITEMS;
use std::time::Duration;

impl Node {
    pub(super) fn copier(&self) -> Option<&Copier> {
        match &self.role {
            Role::Copier(copier) => Some(copier),
            Role::Claiming(claim) => claim.copier.as_ref(),
            _ => None,
        }
    }

    pub(super) fn follow(&mut self, ballot: Ballot) {
        self.seen = self.seen.max(ballot);
        self.followed = self.followed.max(ballot);
        self.promised.retain(|_, promised| *promised > ballot);
    }

    /// A writer has said something. False if it is not one to listen to.
    pub(super) fn hear_writer(
        &mut self,
        node: NodeId,
        ballot: Ballot,
        now: Duration,
        actions: &mut Vec<Action>,
    ) -> bool {
        if ballot.node != node.number() {
            actions.push(Action::Fault(node, "it speaks with another node's ballot"));
            return false;
        }
        if !ballot.is_possible() {
            actions.push(Action::Fault(node, IMPOSSIBLE));
            return false;
        }
        // A ballot of its own with which it was the writer is among those.
        if ballot < self.followed {
            let reject = Message::Reject {
                refused: ballot,
                ballot: self.followed,
            };
            self.outbox(actions).send(node, reject);
            return false;
        }
        self.follow(ballot);
        self.writer_heard = now;
        match &mut self.role {
            Role::Copier(copier) => copier.writer_lost = false,
            Role::Claiming(claim) if claim.ballot < ballot => {
                self.end_claim(Some(Refusal::Outbid(ballot)), actions);
            }
            Role::Writer(_) => self.step_down(actions),
            _ => {}
        }
        true
    }

    pub(super) fn answer_beat(&mut self, node: NodeId, actions: &mut Vec<Action>) {
        let followed = self.followed;
        let mut out = self.outbox(actions);
        let copier = match &mut self.role {
            Role::Copier(copier) => copier,
            Role::Claiming(Claim {
                copier: Some(copier),
                ..
            }) => copier,
            _ => return,
        };
        let attachment = copier.attachment;
        if copier.joined {
            out.send(node, Message::Alive { attachment });
        } else if *copier.asked.get_or_insert(followed) == followed {
            out.send(node, Message::Join { attachment });
        } else {
            // Another writer may have had it keep something already, which is not what the volume holds now.
            out.act(Action::Detach);
        }
    }

    pub(super) fn attach(
        &mut self,
        attachment: Attachment,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        if !matches!(self.role, Role::Idle) {
            actions.push(Action::Refused(Refusal::Busy));
            return;
        }
        self.writer_heard = now;
        // The next beat of the writer is answered with a wish to join.
        self.role = Role::Copier(Copier {
            attachment,
            joined: false,
            asked: None,
            writer_lost: false,
        });
    }

    pub(super) fn joined(
        &mut self,
        ballot: Ballot,
        attachment: Attachment,
        actions: &mut Vec<Action>,
    ) {
        let mut out = self.outbox(actions);
        let Role::Copier(copier) = &mut self.role else {
            return;
        };
        if copier.attachment != attachment || copier.joined {
            return;
        }
        // A claim that was accepted without this attachment may succeed, and its writer would not ask here. Joining is
        // tried again with the next beat.
        let mut free = true;
        for (&claimant, &promised) in &self.promised {
            if promised > ballot {
                free = false;
                out.send(claimant, Message::Recall { ballot: promised });
            }
        }
        if free {
            copier.joined = true;
            out.act(Action::Serve);
        }
    }

    pub(super) fn keep(
        &mut self,
        node: NodeId,
        ballot: Ballot,
        attachment: Attachment,
        requests: Vec<(Seq, Range)>,
        actions: &mut Vec<Action>,
    ) {
        let copier = self.copier();
        if copier.map(|copier| copier.attachment) != Some(attachment) {
            self.outbox(actions)
                .send(node, Message::Left { attachment });
        } else if requests.is_empty() {
            // The writer wanted to know whether it is there.
        } else if copier.is_some_and(|copier| !copier.joined) {
            // It could not take the view when that was fixed, and what that was is about to be overwritten.
            actions.push(Action::Detach);
        } else if requests
            .iter()
            .all(|(_, range)| range.is_within(self.config.chunks))
        {
            actions.push(Action::Keep(ballot, requests));
        } else {
            actions.push(Action::Fault(node, "it asks for chunks behind the end"));
        }
    }

    pub(super) fn kept(&mut self, ballot: Ballot, seqs: Vec<Seq>, actions: &mut Vec<Action>) {
        let Some(&Copier { attachment, .. }) = self.copier() else {
            return;
        };
        if let Some(writer) = NodeId::new(ballot.node).filter(|_| ballot == self.followed) {
            let mut out = self.outbox(actions);
            for seqs in seqs.chunks(MAX_ITEMS) {
                let kept = Message::Kept {
                    ballot,
                    attachment,
                    seqs: seqs.to_vec(),
                };
                out.send(writer, kept);
            }
        }
    }

    pub(super) fn detached(&mut self, attachment: Attachment, actions: &mut Vec<Action>) {
        if self.copier().map(|copier| copier.attachment) != Some(attachment) {
            return;
        }
        if let Role::Claiming(_) = self.role {
            self.end_claim(Some(Refusal::Lost), actions);
        }
        self.role = Role::Idle;
        // Whoever has its word for that attachment, too, is the writer soon.
        let claimants = self.promised.keys().copied();
        let mut told: NodeSet = claimants.collect();
        if let Some(writer) = NodeId::new(self.followed.node) {
            told.insert(writer);
        }
        let mut out = self.outbox(actions);
        for node in told.iter() {
            out.send(node, Message::Left { attachment });
        }
    }
}
