// SPDX-License-Identifier: GPL-2.0-or-later

//! How a copier gets its turn to start over.
//!
//! It tells its writer again and again that it wants to, and then that it does. The writer lets one have its turn, and
//! takes it to be over when it hears nothing for as long as it takes to be suspected.

use super::Node;
use super::Role;
use crate::event::Action;
use crate::ids::Ballot;
use crate::ids::NodeId;
use crate::ids::NodeSet;
use crate::message::Message;
use std::time::Duration;

/// Whether a copier starts over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It does not want to.
    No,
    /// It wants to, since then.
    Wanted(Duration),
    /// It is its turn.
    Now,
}

impl Node {
    /// Those whose turn it is, as far as this node knows.
    pub fn turns(&self) -> NodeSet {
        match (&self.role, self.turn) {
            (Role::Writer(writer), _) => writer.turns(),
            (_, Turn::Now) => [self.config.me].into_iter().collect(),
            _ => NodeSet::EMPTY,
        }
    }

    pub(super) fn recycle(&mut self, begun: bool, now: Duration, actions: &mut Vec<Action>) {
        if begun {
            self.turn = Turn::Now;
        } else if self.turn == Turn::No {
            self.turn = Turn::Wanted(now);
        }
        self.wish(now, actions);
    }

    pub(super) fn recycled(&mut self, actions: &mut Vec<Action>) {
        self.turn = Turn::No;
        if let Some(writer) = self.followed_writer() {
            self.outbox(actions).send(writer, Message::Over);
        }
    }

    /// Tells the writer, if there is something to tell.
    pub(super) fn wish(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.turn == Turn::No {
            return;
        }
        self.last_wish = now;
        if let Some(writer) = self.followed_writer() {
            let wish = Message::Wish {
                asked: u64::try_from(now.as_micros()).unwrap_or(u64::MAX),
                begun: self.turn == Turn::Now,
            };
            self.outbox(actions).send(writer, wish);
        }
    }

    fn followed_writer(&self) -> Option<NodeId> {
        NodeId::new(self.followed.node).filter(|&node| node != self.config.me)
    }

    /// A writer says that it is this node's turn. What has been on its way for long may not be true any more, nor what one
    /// says that may have a successor.
    pub(super) fn has_turn(
        &mut self,
        node: NodeId,
        ballot: Ballot,
        asked: u64,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let asked = Duration::from_micros(asked);
        let is_fresh = asked <= now && now - asked < self.config.patience / 2;
        let is_last = self.promised.values().all(|promised| *promised <= ballot);
        match self.turn {
            // Not for an earlier time, which it has said is over.
            Turn::Wanted(since) if is_fresh && is_last && asked >= since => {
                self.turn = Turn::Now;
                self.wish(now, actions);
                actions.push(Action::Turn);
            }
            Turn::No => self.outbox(actions).send(node, Message::Over),
            Turn::Wanted(_) | Turn::Now => {}
        }
    }
}
