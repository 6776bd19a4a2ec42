// SPDX-License-Identifier: GPL-2.0-or-later

//! Rules whose use is too rare for the simulation to need them often.

use dmholey_cluster::event::Action;
use dmholey_cluster::event::Before;
use dmholey_cluster::event::Config;
use dmholey_cluster::event::Input;
use dmholey_cluster::event::Memory;
use dmholey_cluster::event::Refusal;
use dmholey_cluster::event::RoleName;
use dmholey_cluster::ids::Attachment;
use dmholey_cluster::ids::Ballot;
use dmholey_cluster::ids::NodeId;
use dmholey_cluster::ids::NodeSet;
use dmholey_cluster::message::Message;
use dmholey_cluster::node::Node;
use std::collections::BTreeMap;
use std::time::Duration;

const ATTACHMENT: Attachment = Attachment(7);

fn id(number: u8) -> NodeId {
    NodeId::new(number).unwrap()
}

fn ballot(number: u64, node: u8) -> Ballot {
    Ballot { number, node }
}

/// Node 0 of three, connected to both others.
struct Subject(Node);

impl Subject {
    fn new(promised: &[(u8, Ballot)]) -> Self {
        let config = Config {
            me: id(0),
            peers: [id(1), id(2)].into_iter().collect(),
            chunks: 100,
            beat: Duration::from_secs(1),
            patience: Duration::from_secs(5),
            most_requests: 10,
        };
        let promised: BTreeMap<_, _> = promised
            .iter()
            .map(|&(node, ballot)| (id(node), ballot))
            .collect();
        let memory = Memory {
            promised,
            won: Ballot::default(),
        };
        let mut actions = Vec::new();
        let node = Node::new(
            config,
            Before::Nothing,
            memory,
            Duration::ZERO,
            &mut actions,
        );
        assert_eq!(actions, []);
        let mut subject = Self(node);
        for peer in [1, 2] {
            assert_eq!(subject.input(Input::Up(id(peer))), []);
        }
        subject
    }

    fn input(&mut self, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        self.0.handle(input, Duration::ZERO, &mut actions);
        actions
    }

    fn hears(&mut self, from: u8, message: Message) -> Vec<Action> {
        self.input(Input::Message(id(from), message))
    }

    /// It has asked node 1, the writer with this ballot, to let it join.
    fn asks(&mut self, ballot: Ballot) {
        assert_eq!(self.input(Input::Attach(ATTACHMENT)), []);
        let join = Message::Join {
            attachment: ATTACHMENT,
        };
        let said = self.hears(1, Message::Beat { ballot });
        assert_eq!(said, [Action::Send(id(1), join)]);
    }
}

fn joined(ballot: Ballot) -> Message {
    let attachment = ATTACHMENT;
    Message::Joined { ballot, attachment }
}

#[test]
fn who_has_promised_does_not_join_below() {
    let mut subject = Subject::new(&[]);
    let (old, new) = (ballot(1, 1), ballot(2, 2));
    subject.asks(old);
    let accept = Message::Accept {
        ballot: new,
        attachment: None,
    };
    assert_eq!(
        subject.hears(2, Message::Claim { ballot: new }),
        [Action::Promise(id(2), new), Action::Send(id(2), accept)]
    );
    // The claimant may be the writer by now, and does not know of this attachment.
    let recall = Action::Send(id(2), Message::Recall { ballot: new });
    assert_eq!(subject.hears(1, joined(old)), [recall]);
    assert_eq!(subject.0.role(), RoleName::Joining);
    // It is not.
    let abandon = Message::Abandon {
        ballot: new,
        followed: Ballot::default(),
    };
    assert_eq!(subject.hears(2, abandon), []);
    assert_eq!(subject.hears(1, joined(old)), [Action::Serve]);
}

#[test]
fn a_promise_outlives_the_agent() {
    let mut subject = Subject::new(&[(2, ballot(2, 2))]);
    subject.asks(ballot(1, 1));
    let recall = Message::Recall {
        ballot: ballot(2, 2),
    };
    let said = subject.hears(1, joined(ballot(1, 1)));
    assert_eq!(said, [Action::Send(id(2), recall)]);
}

#[test]
fn a_claim_goes_above_all_that_was_heard_of() {
    let mut subject = Subject::new(&[(0, ballot(8, 0)), (2, ballot(5, 2))]);
    let claim = Input::Claim {
        fenced: NodeSet::EMPTY,
        half_merged: None,
    };
    let own = ballot(9, 0);
    let said = subject.input(claim);
    assert_eq!(said[0], Action::Promise(id(0), own));
    assert_eq!(said[1], Action::Send(id(1), Message::Claim { ballot: own }));
    assert_eq!(said.len(), 3);
}

#[test]
fn half_a_merge_is_nothing_to_begin_with() {
    let mut subject = Subject::new(&[]);
    let claim = Input::Claim {
        fenced: [id(1), id(2)].into_iter().collect(),
        half_merged: Some(id(1)),
    };
    let refusal = Refusal::HalfMerged(id(1));
    assert_eq!(subject.input(claim), [Action::Refused(refusal)]);
    assert_eq!(subject.0.role(), RoleName::Idle);
}

#[test]
fn a_ballot_belongs_to_its_node() {
    let mut subject = Subject::new(&[]);
    for message in [
        Message::Beat {
            ballot: ballot(1, 2),
        },
        Message::Claim {
            ballot: ballot(1, 0),
        },
    ] {
        let said = subject.hears(1, message);
        assert!(matches!(said[..], [Action::Fault(..)]), "{said:?}");
    }
    assert_eq!(subject.0.ballot(), Ballot::default());
}
