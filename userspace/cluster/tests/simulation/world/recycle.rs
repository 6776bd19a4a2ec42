// SPDX-License-Identifier: GPL-2.0-or-later

//! Copiers that start over by themselves, one at a time.

use super::Local;
use super::Outcome;
use super::World;
use super::MS;
use super::PATIENCE;
use dmholey_cluster::event::Input;
use dmholey_cluster::event::RoleName;
use dmholey_cluster::ids::Attachment;
use dmholey_cluster::node::Node;

/// When nothing has been in the way for so long, a turn is known to the writer.
const SETTLED: u64 = 2 * PATIENCE;

impl World {
    fn role(&self, node: usize) -> Option<RoleName> {
        self.hosts[node].agent.as_ref().map(Node::role)
    }

    /// Some copier finds that its overlay is too large.
    pub(super) fn policy(&mut self) -> Outcome {
        let node = self.random.below(self.hosts.len() as u64) as usize;
        let host = &self.hosts[node];
        if host.paused_until > self.now || host.turn || self.role(node) != Some(RoleName::Copier) {
            return Ok(());
        }
        self.counts.add("wishes to start over");
        self.input(node, Input::Recycle { begun: false })
    }

    /// It is its turn: that of no other may be known to the writer.
    pub(super) fn turn(&mut self, node: usize) -> Outcome {
        self.counts.add("turns");
        if !self.hosts[node].fenced {
            let has_turn = |other: &usize| *other != node && self.hosts[*other].turn;
            let others: Vec<usize> = (0..self.hosts.len()).filter(has_turn).collect();
            for other in others {
                if self.is_heard(other) {
                    return Err(format!(
                        "nodes {node} and {other} start over at the same time"
                    ));
                }
                self.counts.add("turns of nodes that are not heard");
            }
        }
        self.hosts[node].turn = true;
        let well = !self.random.one_in(6);
        self.local(node, MS, 60 * MS, Local::Drained(well));
        Ok(())
    }

    /// Whether the writer has been hearing a node, for long enough to know whose turn it is.
    fn is_heard(&self, node: usize) -> bool {
        let Some(writer) = self.writer else {
            return false;
        };
        let host = &self.hosts[node];
        if writer == node || !host.alive || host.fenced || host.agent.is_none() {
            return false;
        }
        let stream = self.stream(node, writer);
        let since = [
            host.disturbed,
            self.hosts[writer].disturbed,
            self.promoted_at,
            stream.disturbed,
        ];
        stream.open && since.iter().all(|since| since + SETTLED < self.now)
    }

    pub(super) fn drained(&mut self, node: usize, well: bool) -> Outcome {
        if !self.hosts[node].turn {
            return Ok(());
        }
        if !well {
            self.counts.add("turns not used");
            return self.end_turn(node);
        }
        match self.role(node) {
            // Its agent starts anew.
            None | Some(RoleName::Claiming) => {
                self.local(node, 5 * MS, 15 * MS, Local::Drained(well));
                Ok(())
            }
            Some(RoleName::Writer | RoleName::Demoting) => self.end_turn(node),
            role => {
                // If it is no copier any more, it has begun anew already.
                let is_copier = role == Some(RoleName::Copier);
                let old = self.hosts[node].target.attachment.filter(|_| is_copier);
                self.local(node, 5 * MS, 15 * MS, Local::Rejoin(old));
                if is_copier {
                    self.input(node, Input::Detach)?;
                }
                Ok(())
            }
        }
    }

    pub(super) fn rejoins(&mut self, node: usize, old: Option<Attachment>) -> Outcome {
        let has_another = self.hosts[node].target.attachment != old;
        match self.role(node) {
            Some(RoleName::Copier) if has_another => {
                self.counts.add("copiers that started over");
                self.end_turn(node)
            }
            Some(RoleName::Writer | RoleName::Demoting) => self.end_turn(node),
            _ => {
                self.local(node, 5 * MS, 15 * MS, Local::Rejoin(old));
                Ok(())
            }
        }
    }

    fn end_turn(&mut self, node: usize) -> Outcome {
        self.hosts[node].turn = false;
        self.input(node, Input::Recycled)
    }
}
