// SPDX-License-Identifier: GPL-2.0-or-later

//! What goes wrong.

use super::Event;
use super::Local;
use super::World;
use super::KEEP_PATIENCE;
use super::MS;
use crate::target::Target;
use dmholey_cluster::event::Input;
use dmholey_cluster::event::RoleName;
use dmholey_cluster::node::Node;

impl World {
    pub(super) fn crash(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        if !std::mem::take(&mut host.alive) {
            return;
        }
        if host.target.is_merging() {
            host.store = Some(host.target.overlay.clone());
        }
        let writer = host.target.writer.as_ref();
        if writer.is_some_and(|writer| writer.buffered() != 0) {
            self.counts.add("buffered writes lost with power");
        }
        host.agent = None;
        host.agents += 1;
        host.turn = false;
        host.target = Target::default();
        host.busy.clear();
        host.row = (0, 0);
        host.flushes.clear();
        host.untold = false;
        host.queued.clear();
        for peer in 0..self.hosts.len() {
            if peer != node {
                self.cut(node, peer, 0);
            }
        }
    }

    pub(super) fn reboot(&mut self, node: usize) {
        self.note(|| format!("node {node} starts"));
        let host = &mut self.hosts[node];
        host.alive = true;
        host.boot += 1;
        host.fenced = false;
        host.paused_until = 0;
        host.stuck_until = 0;
        host.told = 0;
        if let Some(store) = &host.store {
            host.target.overlay = store.clone();
        } else if self.writer != Some(node) {
            host.view = None;
        }
        self.local(node, 0, 20 * MS, Local::StartAgent);
        self.local(node, 0, 10 * MS, Local::Application);
    }

    pub(super) fn restart_agent(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        if !host.alive || host.agent.take().is_none() {
            return;
        }
        host.agents += 1;
        host.target.unbind();
        for peer in 0..self.hosts.len() {
            if peer != node {
                self.cut(node, peer, 0);
            }
        }
        self.local(node, MS, 150 * MS, Local::StartAgent);
    }

    pub(super) fn chaos(&mut self) {
        let count = self.hosts.len() as u64;
        let node = self.random.below(count) as usize;
        let peer = self.random.below(count) as usize;
        let what = self.random.below(10);
        self.note(|| format!("chaos {what} at node {node}"));
        match what {
            0 => {
                self.counts.add("power lost");
                self.crash(node);
                let boot = self.hosts[node].boot;
                self.after(10 * MS, 500 * MS, Event::Reboot(node, boot));
            }
            1 => {
                self.counts.add("agent killed");
                self.restart_agent(node);
            }
            2 => {
                self.counts.add("node paused");
                let time = self.random.between(10 * MS, 600 * MS);
                self.hosts[node].paused_until = self.now + time;
                self.hosts[node].disturbed = self.now + time;
            }
            3 | 4 if node != peer => {
                self.counts.add("stream cut");
                let time = self.random.between(0, 400 * MS);
                self.cut(node, peer, time);
            }
            9 if node != peer => {
                self.counts.add("stream stalled one way");
                let time = self.random.between(0, 300 * MS);
                self.stall(node, peer, time);
            }
            5 => {
                self.counts.add("node cut off");
                let time = self.random.between(50 * MS, 400 * MS);
                for peer in 0..self.hosts.len() {
                    if peer != node {
                        self.cut(node, peer, time);
                    }
                }
            }
            6 => {
                let stuck = self.random.one_in(4);
                self.counts
                    .add(if stuck { "copier stuck" } else { "copier slow" });
                let all = stuck && self.random.one_in(3);
                for (number, host) in self.hosts.iter_mut().enumerate() {
                    if number != node && !all {
                        continue;
                    }
                    if stuck {
                        host.stuck_until = self.now + 4 * KEEP_PATIENCE;
                    } else {
                        host.slow_until = self.now + 300 * MS;
                    }
                }
            }
            7 => {
                if self.hosts[node].alive && self.hosts[node].target.attachment.is_some() {
                    self.counts.add("overlay full");
                    self.lose(node);
                }
            }
            8 => {
                let role = self.hosts[node].agent.as_ref().map(Node::role);
                let input = match role {
                    Some(RoleName::Writer) if self.random.one_in(2) => Input::Demote,
                    Some(RoleName::Copier) => Input::Detach,
                    _ => return,
                };
                self.counts.add(if role == Some(RoleName::Writer) {
                    "writer demoted"
                } else {
                    "copier recycled"
                });
                let agents = self.hosts[node].agents;
                self.local(node, 0, MS, Local::Agent(agents, input));
            }
            _ => {}
        }
    }
}
