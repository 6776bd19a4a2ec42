// SPDX-License-Identifier: GPL-2.0-or-later

//! The cluster engine: who is fenced, who is to be the writer.

use super::Event;
use super::Host;
use super::Local;
use super::Outcome;
use super::World;
use super::CLAIM_PATIENCE;
use super::MS;
use crate::target::Target;
use dmholey_cluster::event::Input;
use dmholey_cluster::event::RoleName;
use dmholey_cluster::ids::Attachment;
use dmholey_cluster::ids::NodeId;
use dmholey_cluster::ids::NodeSet;
use dmholey_cluster::node::Node;

impl World {
    pub(super) fn fence(&mut self, node: usize, power: bool) {
        self.note(|| format!("engine: fences node {node}, power {power}"));
        self.counts.add(if power {
            "fenced by power"
        } else {
            "fenced at the volume"
        });
        self.hosts[node].fenced = true;
        self.hosts[node].refused = self.random.one_in(2);
        let boot = self.hosts[node].boot;
        if power {
            self.crash(node);
        }
        self.after(100 * MS, 900 * MS, Event::Reboot(node, boot));
    }

    pub(super) fn suspected(&mut self, by: usize, node: usize, attachment: Attachment) {
        let host = &self.hosts[node];
        if host.target.attachment == Some(attachment) && !host.fenced {
            let power = self.random.one_in(2);
            self.fence(node, power);
        }
        let id = NodeId::new(node as u8).unwrap();
        let agents = self.hosts[by].agents;
        let fenced = Local::Agent(agents, Input::Fenced(id, Some(attachment)));
        self.local(by, MS, 30 * MS, fenced);
    }

    pub(super) fn engine(&mut self) -> Outcome {
        if let Some((claimant, since)) = self.claim {
            return self.watch_claim(claimant, since);
        }
        let writes = |host: &Host| host.alive && host.target.is_writer() && !host.fenced;
        let is_there = self.writer.is_some_and(|node| writes(&self.hosts[node]));
        if !is_there {
            return self.promote_somebody();
        }
        for node in 0..self.hosts.len() {
            let host = &self.hosts[node];
            let idle = host
                .agent
                .as_ref()
                .is_some_and(|agent| agent.role() == RoleName::Idle);
            let free = !host.fenced && self.half_merged != Some(node) && !host.target.is_writer();
            if host.alive && idle && free && host.target.attachment.is_none() {
                self.attachments += 1;
                let attachment = Attachment(self.attachments);
                self.hosts[node].target = Target::attach(attachment);
                self.hosts[node].view = None;
                self.input(node, Input::Attach(attachment))?;
            }
        }
        Ok(())
    }

    pub(super) fn promote_somebody(&mut self) -> Outcome {
        if let Some(last) = self.writer {
            let host = &self.hosts[last];
            if !host.fenced && (!host.alive || host.target.is_writer()) {
                let power = self.random.one_in(2);
                self.fence(last, power);
                return Ok(());
            }
        }
        let can = |node: &usize| {
            let host = &self.hosts[*node];
            let role = host.agent.as_ref().map(Node::role);
            let ready = match role {
                Some(RoleName::Copier) => true,
                Some(RoleName::Idle) => self.half_merged.is_none_or(|half| half == *node),
                _ => false,
            };
            host.alive && !host.fenced && ready && host.paused_until <= self.now
        };
        let able: Vec<usize> = (0..self.hosts.len()).filter(can).collect();
        let Some(node) = self.random.pick(&able) else {
            return Ok(());
        };
        let fenced = self.fenced();
        let half_merged = self.half_merged.and_then(|node| NodeId::new(node as u8));
        self.claim = Some((node, self.now));
        self.counts.add("claims");
        // Two are told at the same time, now and then.
        let other = self.random.pick(&able).filter(|_| self.random.one_in(4));
        for node in [node]
            .into_iter()
            .chain(other.filter(|&other| other != node))
        {
            let claim = Input::Claim {
                fenced,
                half_merged,
            };
            let agents = self.hosts[node].agents;
            self.local(node, 0, 5 * MS, Local::Agent(agents, claim));
        }
        Ok(())
    }

    pub(super) fn fenced(&self) -> NodeSet {
        let is_fenced = |&node: &usize| self.hosts[node].fenced;
        (0..self.hosts.len())
            .filter(is_fenced)
            .filter_map(|node| NodeId::new(node as u8))
            .collect()
    }

    pub(super) fn watch_claim(&mut self, claimant: usize, since: u64) -> Outcome {
        let host = &self.hosts[claimant];
        let claims = |agent: &Node| agent.role() == RoleName::Claiming;
        let waiting = self.now - since;
        if !host.alive
            || host.fenced
            || (!host.agent.as_ref().is_some_and(claims) && waiting > 20 * MS)
        {
            self.claim = None;
            return Ok(());
        }
        if waiting < CLAIM_PATIENCE {
            return Ok(());
        }
        let missing: Vec<NodeId> = host
            .agent
            .iter()
            .flat_map(|agent| agent.waiting().iter())
            .collect();
        let ballot = host.agent.as_ref().and_then(Node::claim_ballot);
        for node in missing {
            if !self.hosts[usize::from(node.number())].fenced {
                let power = self.random.one_in(2);
                self.fence(usize::from(node.number()), power);
            }
            // What has it fenced may take so long to end that the node has started anew.
            let time = if self.random.one_in(4) { 500 * MS } else { MS };
            let agents = self.hosts[claimant].agents;
            if let Some(ballot) = ballot {
                let fenced = Local::Agent(agents, Input::FencedFor(node, ballot));
                self.local(claimant, 0, time, fenced);
            }
        }
        Ok(())
    }
}
