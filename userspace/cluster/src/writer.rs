// SPDX-License-Identifier: GPL-2.0-or-later

//! The writer's part of the protocol.
//!
//! The target holds back a write to a chunk that is not stable and asks for the chunk. Its members, the copiers, are
//! asked to keep it; when all have, the target is told that it is stable, until somebody joins.
//!
//! Who joins has kept nothing yet. So nothing is stable any more: a new epoch begins, in which the target first lets
//! the writes end that are on their way to the volume, and then asks anew. What the volume holds between the two is
//! the view of the new member.
//!
//! While an overlay is being merged the volume is half of one thing and half of another, so nobody joins.

use crate::board::Board;
use crate::event::Action;
use crate::event::Outbox;
use crate::ids::Attachment;
use crate::ids::Ballot;
use crate::ids::Epoch;
use crate::ids::NodeId;
use crate::ids::NodeSet;
use crate::ids::Range;
use crate::ids::Seq;
use crate::message::Message;
use crate::message::MAX_ITEMS;
use std::collections::BTreeMap;
use std::time::Duration;

/// A copier, seen from its writer.
#[derive(Clone, Copy, Debug)]
struct Member {
    attachment: Attachment,
    /// The epoch that began because it joined, until that is drained.
    joining: Option<Epoch>,
    heard: Duration,
    /// Since then it could have answered: it did, or a stream to it was there again.
    answered: Duration,
    /// It is suspected because nothing was heard of it,
    silent: bool,
    /// or because it says that it is there and keeps nothing.
    idle: bool,
}

impl Member {
    fn new(attachment: Attachment, joining: Option<Epoch>, now: Duration) -> Self {
        Self {
            attachment,
            joining,
            heard: now,
            answered: now,
            silent: false,
            idle: false,
        }
    }
}

/// Whether the volume answers, if that is of interest: no copier answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Volume {
    Unasked,
    /// Since when.
    Asked(Duration),
    Answers,
}

/// What a writer knows.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) ballot: Ballot,
    pub(crate) epoch: Epoch,
    members: BTreeMap<NodeId, Member>,
    /// The last attachment of each node that was dropped. It may not know, and cannot become a member again: what is
    /// in its overlay is from before.
    ended: BTreeMap<NodeId, Attachment>,
    board: Board,
    /// Until the overlay that its target had is in the volume.
    pub(crate) merging: bool,
    since: Duration,
    volume: Volume,
    /// Whose turn to start over it is, and when they said so last. There is more than one only if one was silent.
    turns: BTreeMap<NodeId, Duration>,
}

impl Writer {
    /// A writer with members whose views are fixed.
    pub(crate) fn new(
        ballot: Ballot,
        epoch: Epoch,
        members: &BTreeMap<NodeId, Attachment>,
        merging: bool,
        now: Duration,
    ) -> Self {
        let member = |(&node, &attachment): (&NodeId, &Attachment)| {
            (node, Member::new(attachment, None, now))
        };
        Self {
            ballot,
            epoch,
            members: members.iter().map(member).collect(),
            ended: BTreeMap::new(),
            board: Board::default(),
            merging,
            since: now,
            volume: Volume::Unasked,
            turns: BTreeMap::new(),
        }
    }

    /// Requests that are not answered.
    pub(crate) fn outstanding(&self) -> usize {
        self.board.len()
    }

    /// Those that each member has not answered.
    pub(crate) fn outstanding_by_member(&self) -> BTreeMap<NodeId, u64> {
        let open = |&node: &NodeId| (node, self.board.unanswered(node).count() as u64);
        self.members.keys().map(open).collect()
    }

    /// Those that are suspected.
    pub(crate) fn suspected(&self) -> NodeSet {
        let members = self.members.iter();
        members
            .filter(|(_, member)| member.silent || member.idle)
            .map(|(&node, _)| node)
            .collect()
    }

    /// The copiers, and whether their views are fixed.
    pub(crate) fn members(&self) -> impl Iterator<Item = (NodeId, Attachment, bool)> + '_ {
        self.members
            .iter()
            .map(|(&node, member)| (node, member.attachment, member.joining.is_none()))
    }

    /// The target cannot go on before these chunks are stable.
    pub(crate) fn need(
        &mut self,
        epoch: Epoch,
        ranges: Vec<Range>,
        now: Duration,
        out: &mut Outbox<'_>,
    ) {
        if epoch != self.epoch || ranges.is_empty() {
            // It will ask again, in the epoch that it does not know of yet.
            return;
        }
        if self.members.is_empty() {
            out.act(Action::Stable(epoch, ranges));
            return;
        }
        let everybody: NodeSet = self.members.keys().copied().collect();
        let requests: Vec<_> = ranges
            .into_iter()
            .map(|range| (self.board.ask(range, everybody, now), range))
            .collect();
        for (&node, member) in &self.members {
            self.send_requests(node, member.attachment, &requests, out);
        }
    }

    fn send_requests(
        &self,
        node: NodeId,
        attachment: Attachment,
        requests: &[(Seq, Range)],
        out: &mut Outbox<'_>,
    ) {
        for requests in requests.chunks(MAX_ITEMS) {
            let keep = Message::Keep {
                ballot: self.ballot,
                attachment,
                requests: requests.to_vec(),
            };
            out.send(node, keep);
        }
    }

    /// A copier has kept what it was asked to.
    pub(crate) fn kept(
        &mut self,
        node: NodeId,
        attachment: Attachment,
        seqs: &[Seq],
        now: Duration,
        out: &mut Outbox<'_>,
    ) {
        let members = self.members.get_mut(&node);
        let Some(member) = members.filter(|member| member.attachment == attachment) else {
            return;
        };
        member.answered = now;
        member.idle = false;
        let answered = |&seq| self.board.answered(node, seq);
        let stable: Vec<Range> = seqs.iter().filter_map(answered).collect();
        self.stable(stable, out);
    }

    fn stable(&self, ranges: Vec<Range>, out: &mut Outbox<'_>) {
        if !ranges.is_empty() {
            out.act(Action::Stable(self.epoch, ranges));
        }
    }

    fn attachment(&self, node: NodeId) -> Option<Attachment> {
        self.members.get(&node).map(|member| member.attachment)
    }

    /// A node has a new attachment, or has not heard that its view is fixed.
    pub(crate) fn join(
        &mut self,
        node: NodeId,
        attachment: Attachment,
        now: Duration,
        out: &mut Outbox<'_>,
    ) {
        if self.ended.get(&node) == Some(&attachment) {
            self.send_evicted(node, attachment, out);
            return;
        }
        match self.members.get(&node) {
            Some(member) if member.attachment == attachment => {
                if member.joining.is_none() {
                    self.send_joined(node, attachment, out);
                }
                return;
            }
            // It asks again with the next beat.
            _ if self.merging => return,
            // It says itself that its older attachment has ended.
            Some(_) | None => self.members.remove(&node),
        };
        self.epoch = Epoch(self.epoch.0 + 1);
        self.board.clear();
        let member = Member::new(attachment, Some(self.epoch), now);
        self.members.insert(node, member);
        out.act(Action::Epoch(self.epoch));
    }

    /// The target has no write under way that was admitted before this epoch.
    pub(crate) fn drained(&mut self, epoch: Epoch, out: &mut Outbox<'_>) {
        let mut fixed = Vec::new();
        for (&node, member) in &mut self.members {
            if member.joining.is_some_and(|since| since <= epoch) {
                member.joining = None;
                fixed.push((node, member.attachment));
            }
        }
        for (node, attachment) in fixed {
            self.send_joined(node, attachment, out);
        }
    }

    fn send_joined(&self, node: NodeId, attachment: Attachment, out: &mut Outbox<'_>) {
        let ballot = self.ballot;
        out.send(node, Message::Joined { ballot, attachment });
    }

    /// An attachment has ended, or its node can no longer reach the volume.
    pub(crate) fn gone(&mut self, node: NodeId, attachment: Attachment, out: &mut Outbox<'_>) {
        if self.attachment(node) == Some(attachment) {
            self.members.remove(&node);
            self.ended.insert(node, attachment);
            let ranges = self.board.drop_node(node);
            self.stable(ranges, out);
        }
    }

    /// A node says that it is attached.
    pub(crate) fn alive(&self, node: NodeId, attachment: Attachment, out: &mut Outbox<'_>) {
        if self.attachment(node) != Some(attachment) {
            self.send_evicted(node, attachment, out);
        }
    }

    fn send_evicted(&self, node: NodeId, attachment: Attachment, out: &mut Outbox<'_>) {
        let ballot = self.ballot;
        out.send(node, Message::Evicted { ballot, attachment });
    }

    /// A node has said something.
    pub(crate) fn heard(&mut self, node: NodeId, now: Duration) {
        if let Some(member) = self.members.get_mut(&node) {
            member.heard = now;
            member.silent = false;
        }
    }

    /// A stream to a node is there; what went over the one before may be lost.
    pub(crate) fn up(&mut self, node: NodeId, now: Duration, out: &mut Outbox<'_>) {
        if let Some(member) = self.members.get_mut(&node) {
            member.answered = now;
        }
        let ballot = self.ballot;
        out.send(node, Message::Beat { ballot });
        if let Some(attachment) = self.attachment(node) {
            // What a request is for has to be its view, which it may not have heard of.
            if self
                .members
                .get(&node)
                .is_some_and(|member| member.joining.is_none())
            {
                self.send_joined(node, attachment, out);
            }
            let requests: Vec<_> = self.board.unanswered(node).collect();
            if requests.is_empty() {
                self.ask(node, attachment, out);
            }
            self.send_requests(node, attachment, &requests, out);
        }
    }

    /// Asks all copiers whether they are there.
    pub(crate) fn ask_all(&self, out: &mut Outbox<'_>) {
        for (node, attachment, _) in self.members() {
            self.ask(node, attachment, out);
        }
    }

    /// One that has left answers, if what it said then was lost.
    fn ask(&self, node: NodeId, attachment: Attachment, out: &mut Outbox<'_>) {
        let (ballot, requests) = (self.ballot, Vec::new());
        out.send(
            node,
            Message::Keep {
                ballot,
                attachment,
                requests,
            },
        );
    }

    /// Those whose turn to start over it is.
    pub(crate) fn turns(&self) -> NodeSet {
        self.turns.keys().copied().collect()
    }

    /// A copier wants to start over, or does. It may if nobody else does, and if it can join again. Whose turn it was
    /// under the writer before says so within its patience.
    pub(crate) fn wish(
        &mut self,
        node: NodeId,
        asked: u64,
        begun: bool,
        now: Duration,
        patience: Duration,
        out: &mut Outbox<'_>,
    ) {
        if begun {
            self.turns.insert(node, now);
            return;
        }
        let member = self.members.get(&node);
        let has_joined = member.is_some_and(|member| member.joining.is_none());
        let is_free = self.turns.keys().all(|&other| other == node);
        let knows_all = now.saturating_sub(self.since) > patience;
        if has_joined && is_free && knows_all && !self.merging {
            self.turns.insert(node, now);
            let ballot = self.ballot;
            out.send(node, Message::Turn { ballot, asked });
        }
    }

    /// A copier has started over, or does not want to.
    pub(crate) fn over(&mut self, node: NodeId) {
        self.turns.remove(&node);
    }

    /// What was to be read of the volume was, or could not be.
    pub(crate) fn volume_read(&mut self, well: bool, now: Duration, patience: Duration) {
        let Volume::Asked(since) = self.volume else {
            return;
        };
        if well && now.saturating_sub(since) <= patience {
            self.volume = Volume::Answers;
        } else {
            // They have waited for it as well, and have time from now on.
            self.volume = Volume::Unasked;
            for member in self.members.values_mut() {
                member.answered = now;
            }
        }
    }

    /// Tells who has been silent for too long, or has answered nothing. If nobody answers, it may be the volume that they
    /// wait for, and that is found out first.
    pub(crate) fn suspect(
        &mut self,
        now: Duration,
        patience: Duration,
        keep_patience: Duration,
        out: &mut Outbox<'_>,
    ) {
        self.turns
            .retain(|_, said| now.saturating_sub(*said) <= patience);
        let is_idle = |(node, member): (&NodeId, &Member)| {
            let since = self.board.waits_since(*node)?.max(member.answered);
            (now.saturating_sub(since) > keep_patience).then_some(*node)
        };
        let idle: NodeSet = self.members.iter().filter_map(is_idle).collect();
        let nobody_answers = idle != NodeSet::EMPTY && idle.iter().count() == self.members.len();
        match self.volume {
            Volume::Unasked if nobody_answers => {
                self.volume = Volume::Asked(now);
                out.act(Action::ReadVolume);
            }
            Volume::Answers if !nobody_answers => self.volume = Volume::Unasked,
            _ => {}
        }
        let volume_answers = !nobody_answers || self.volume == Volume::Answers;
        for (&node, member) in &mut self.members {
            let silent = now.saturating_sub(member.heard) > patience;
            let is_idle = volume_answers && idle.contains(node);
            let news = (silent && !member.silent) || (is_idle && !member.idle);
            member.silent |= silent;
            member.idle |= is_idle;
            if news {
                out.act(Action::Suspect(node, member.attachment));
            }
        }
    }
}
