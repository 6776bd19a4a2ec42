// SPDX-License-Identifier: GPL-2.0-or-later

//! The streams between nodes. Each is in order and without gaps, until it breaks.

use super::Event;
use super::Local;
use super::Stream;
use super::World;
use super::MS;
use dmholey_cluster::message::Message;

impl World {
    pub(super) fn stream(&self, one: usize, other: usize) -> Stream {
        self.streams[&(one.min(other), one.max(other))]
    }

    pub(super) fn connect(&mut self, low: usize, high: usize) {
        let ready = [low, high]
            .iter()
            .all(|&node| self.hosts[node].alive && self.hosts[node].agent.is_some());
        let stream = self.stream(low, high);
        if stream.open {
            return;
        }
        if !ready || stream.cut_until > self.now {
            self.after(10 * MS, 30 * MS, Event::Connect(low, high));
            return;
        }
        let number = stream.number + 1;
        let up = [
            self.now + self.random.between(100, 3 * MS),
            self.now + self.random.between(100, 3 * MS),
        ];
        // Nothing arrives before the receiver knows of the stream.
        let new = Stream {
            number,
            open: true,
            cut_until: 0,
            last: [up[1], up[0]],
            disturbed: up[0].max(up[1]),
        };
        self.streams.insert((low, high), new);
        for (at, node, peer) in [(up[0], low, high), (up[1], high, low)] {
            let boot = self.hosts[node].boot;
            self.at(at, Event::Local(node, boot, Local::Up(peer, number)));
        }
    }

    /// What is on its way is lost.
    pub(super) fn cut(&mut self, one: usize, other: usize, time: u64) {
        let (low, high) = (one.min(other), one.max(other));
        let mut stream = self.stream(low, high);
        stream.cut_until = stream.cut_until.max(self.now + time);
        if !std::mem::take(&mut stream.open) {
            self.streams.insert((low, high), stream);
            return;
        }
        self.streams.insert((low, high), stream);
        for (node, peer) in [(low, high), (high, low)] {
            self.local(node, 0, 10 * MS, Local::Down(peer, stream.number));
        }
        self.after(10 * MS + 1, 30 * MS, Event::Connect(low, high));
    }

    pub(super) fn send(&mut self, node: usize, peer: usize, message: Message) {
        let mut stream = self.stream(node, peer);
        if !stream.open {
            return;
        }
        let side = usize::from(node > peer);
        let slow = if self.random.one_in(50) { 20 * MS } else { MS };
        let time = (self.now + self.random.between(50, slow)).max(stream.last[side]);
        stream.last[side] = time;
        self.streams
            .insert((node.min(peer), node.max(peer)), stream);
        let boot = self.hosts[peer].boot;
        let message = Local::Message(node, stream.number, message);
        self.at(time, Event::Local(peer, boot, message));
    }

    /// What `node` says to `peer` takes so long, and nobody notices.
    pub(super) fn stall(&mut self, node: usize, peer: usize, time: u64) {
        let mut stream = self.stream(node, peer);
        let last = &mut stream.last[usize::from(node > peer)];
        *last = (*last).max(self.now + time);
        stream.disturbed = stream.disturbed.max(self.now + time);
        self.streams
            .insert((node.min(peer), node.max(peer)), stream);
    }
}
