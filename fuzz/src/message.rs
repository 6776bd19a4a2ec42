// SPDX-License-Identifier: GPL-2.0-or-later

//! Messages from peers of a cluster, to a node in any role.

use crate::input::Input as Bytes;
use dmholey_cluster::event::Before;
use dmholey_cluster::event::Config;
use dmholey_cluster::event::Input;
use dmholey_cluster::event::Memory;
use dmholey_cluster::hello::Hello;
use dmholey_cluster::ids::Attachment;
use dmholey_cluster::ids::Ballot;
use dmholey_cluster::ids::Epoch;
use dmholey_cluster::ids::NodeId;
use dmholey_cluster::ids::NodeSet;
use dmholey_cluster::ids::Range;
use dmholey_cluster::message::Message;
use dmholey_cluster::node::Node;
use std::time::Duration;

/// The peers; this node is 0.
const PEERS: [u8; 2] = [1, 2];
/// The length of the volume.
const CHUNKS: u64 = 1000;
/// A node does no more than this about one message: it may tell its peers, its target and its engine.
const MOST_ACTIONS: usize = 8;

/// Reads the first words of a stream, or messages, each a length and so many bytes: what is one has to survive being written. A node hears it from a
/// peer and must not panic, nor do much about it.
pub fn message(data: &[u8]) {
    if let Ok(hello) = Hello::decode(data) {
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
    }
    let mut bytes = Bytes::new(data);
    let mut actions = Vec::new();
    let mut node = node(&mut bytes, &mut actions);
    while !bytes.is_empty() {
        let peer = NodeId::new(PEERS[usize::from(bytes.byte()) % PEERS.len()]).unwrap();
        let length = usize::from(bytes.byte());
        let Ok(message) = Message::decode(bytes.slice(length)) else {
            continue;
        };
        let again = message.encode(Vec::new());
        assert_eq!(Message::decode(&again).as_ref(), Ok(&message));
        actions.clear();
        node.handle(Input::Message(peer, message), Duration::ZERO, &mut actions);
        assert!(actions.len() <= MOST_ACTIONS, "{actions:?}");
    }
}

/// A node with both peers there, and some past.
fn node(bytes: &mut Bytes<'_>, actions: &mut Vec<dmholey_cluster::event::Action>) -> Node {
    let id = |number| NodeId::new(number).unwrap();
    let config = Config {
        me: id(0),
        peers: PEERS.into_iter().map(id).collect(),
        chunks: CHUNKS,
        beat: Duration::from_secs(1),
        patience: Duration::from_secs(5),
        keep_patience: Duration::from_secs(20),
        most_requests: 100,
    };
    let ballot = Ballot { number: 2, node: 1 };
    let kind = bytes.byte() % 6;
    let before = match kind {
        1 => Before::Copier(Attachment(1), ballot),
        2 => Before::Writer(Ballot { number: 2, node: 0 }, Epoch(1), true),
        _ => Before::Nothing,
    };
    let mut node = Node::new(config, before, Memory::default(), Duration::ZERO, actions);
    let claim = |fenced: &[u8]| Input::Claim {
        fenced: fenced.iter().copied().map(id).collect::<NodeSet>(),
        half_merged: None,
    };
    let whole = Range {
        first: 0,
        len: CHUNKS as u32,
    };
    let attachment = Attachment(1);
    let mut past = vec![Input::Up(id(1)), Input::Up(id(2))];
    match kind {
        3 => past.push(Input::Attach(attachment)),
        4 => past.push(claim(&[2])),
        5 => past.extend([
            claim(&[1, 2]),
            Input::Message(id(1), Message::Join { attachment }),
            Input::Need(Epoch(2), vec![whole; 3]),
        ]),
        _ => {}
    }
    for input in past {
        node.handle(input, Duration::ZERO, actions);
    }
    node
}
