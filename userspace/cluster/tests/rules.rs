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
use dmholey_cluster::ids::Epoch;
use dmholey_cluster::ids::NodeId;
use dmholey_cluster::ids::NodeSet;
use dmholey_cluster::ids::Range;
use dmholey_cluster::ids::Seq;
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
struct Subject(Node, Duration);

impl Subject {
    fn new(promised: &[(u8, Ballot)]) -> Self {
        let config = Config {
            me: id(0),
            peers: [id(1), id(2)].into_iter().collect(),
            chunks: 100,
            beat: Duration::from_secs(1),
            patience: Duration::from_secs(5),
            keep_patience: Duration::from_secs(20),
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
        let mut subject = Self(node, Duration::ZERO);
        for peer in [1, 2] {
            assert_eq!(subject.input(Input::Up(id(peer))), []);
        }
        subject
    }

    fn input(&mut self, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        self.0.handle(input, self.1, &mut actions);
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

const CLAIM: Input = Input::Claim {
    fenced: NodeSet::EMPTY,
    half_merged: None,
};

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
    let own = ballot(9, 0);
    let said = subject.input(CLAIM);
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

#[test]
fn a_fence_counts_for_its_claim_only() {
    let mut subject = Subject::new(&[]);
    subject.input(CLAIM);
    assert_eq!(subject.0.claim_ballot(), Some(ballot(1, 0)));
    subject.input(Input::Demote);
    subject.input(CLAIM);
    // Node 1 may have started anew since, and would not be asked.
    assert_eq!(subject.input(Input::FencedFor(id(1), ballot(1, 0))), []);
    assert!(subject.0.waiting().contains(id(1)));
    subject.input(Input::FencedFor(id(1), ballot(2, 0)));
    assert!(!subject.0.waiting().contains(id(1)));
    subject.input(Input::FencedFor(id(2), ballot(2, 0)));
    assert_eq!(subject.0.role(), RoleName::Writer);
    assert_eq!(subject.input(Input::FencedFor(id(2), ballot(2, 0))), []);
}

/// A writer with nodes 1 and 2 as its copiers, of the attachments 1 and 2, which has asked them for one chunk.
fn asking_writer() -> Subject {
    let mut subject = Subject::new(&[]);
    subject.input(CLAIM);
    for node in [1, 2] {
        let accept = Message::Accept {
            ballot: ballot(1, 0),
            attachment: Some(Attachment(node.into())),
        };
        subject.hears(node, accept);
    }
    assert_eq!(subject.0.role(), RoleName::Writer);
    let chunk = Range { first: 5, len: 1 };
    let asked = subject.input(Input::Need(Epoch(1), vec![chunk]));
    assert_eq!(asked.len(), 2);
    subject
}

#[test]
fn who_has_left_since_it_accepted_is_no_copier_of_the_new_writer() {
    let mut subject = Subject::new(&[]);
    subject.input(CLAIM);
    let ballot = ballot(1, 0);
    let accept = |attachment| Message::Accept { ballot, attachment };
    subject.hears(1, accept(Some(Attachment(1))));
    for gone in [2, 1] {
        let attachment = Attachment(gone);
        assert_eq!(subject.hears(1, Message::Left { attachment }), []);
    }
    subject.hears(2, accept(None));
    assert_eq!(subject.0.role(), RoleName::Writer);
    assert_eq!(subject.0.members(), []);
}

#[test]
fn a_new_writer_asks_its_copiers_whether_they_are_there() {
    let mut subject = Subject::new(&[]);
    subject.input(CLAIM);
    let ballot = ballot(1, 0);
    let accept = |attachment| Message::Accept { ballot, attachment };
    subject.hears(1, accept(Some(Attachment(1))));
    let ask = Message::Keep {
        ballot,
        attachment: Attachment(1),
        requests: Vec::new(),
    };
    let said = subject.hears(2, accept(None));
    assert_eq!(said.last(), Some(&Action::Send(id(1), ask)));
}

#[test]
fn who_leaves_tells_those_who_have_its_word() {
    let mut subject = Subject::new(&[]);
    let (old, new) = (ballot(1, 1), ballot(2, 2));
    subject.asks(old);
    assert_eq!(subject.hears(1, joined(old)), [Action::Serve]);
    subject.hears(2, Message::Claim { ballot: new });
    let attachment = ATTACHMENT;
    let left = |node| Action::Send(id(node), Message::Left { attachment });
    let said = subject.input(Input::Detached(attachment));
    assert_eq!(said, [left(1), left(2)]);
}

#[test]
fn who_joins_may_be_asked_whether_it_is_there() {
    let mut subject = Subject::new(&[]);
    let ballot = ballot(1, 1);
    subject.asks(ballot);
    let keep = |requests| Message::Keep {
        ballot,
        attachment: ATTACHMENT,
        requests,
    };
    assert_eq!(subject.hears(1, keep(Vec::new())), []);
    let chunk = Range { first: 5, len: 1 };
    let said = subject.hears(1, keep(vec![(Seq(0), chunk)]));
    assert_eq!(said, [Action::Detach]);
}

fn kept(attachment: u64) -> Message {
    Message::Kept {
        ballot: ballot(1, 0),
        attachment: Attachment(attachment),
        seqs: vec![Seq(0)],
    }
}

/// Both say that they are there, and time has passed.
fn suspects(subject: &mut Subject, seconds: u64) -> Vec<Action> {
    subject.1 = Duration::from_secs(seconds);
    for node in [1, 2] {
        let attachment = Attachment(node.into());
        assert_eq!(subject.hears(node, Message::Alive { attachment }), []);
    }
    let mut said = subject.input(Input::Tick);
    said.retain(|action| !matches!(action, Action::Send(..)));
    said
}

#[test]
fn who_keeps_nothing_while_others_do_is_suspected() {
    let mut subject = asking_writer();
    subject.hears(2, kept(2));
    assert_eq!(suspects(&mut subject, 20), []);
    let suspect = Action::Suspect(id(1), Attachment(1));
    assert_eq!(suspects(&mut subject, 21), [suspect]);
    assert_eq!(suspects(&mut subject, 40), []);
    assert!(subject.0.suspected().contains(id(1)));
    subject.hears(1, kept(1));
    assert_eq!(subject.0.suspected(), NodeSet::EMPTY);
}

#[test]
fn if_nobody_answers_it_may_be_the_volume() {
    let mut subject = asking_writer();
    assert_eq!(suspects(&mut subject, 20), []);
    assert_eq!(suspects(&mut subject, 21), [Action::ReadVolume]);
    assert_eq!(suspects(&mut subject, 22), []);
    // It does not answer, or not in time: they have their time anew.
    for (well, at) in [(false, 23), (true, 50)] {
        subject.1 = Duration::from_secs(at);
        assert_eq!(subject.input(Input::VolumeRead(well)), []);
        assert_eq!(suspects(&mut subject, at + 20), []);
        assert_eq!(suspects(&mut subject, at + 21), [Action::ReadVolume]);
    }
    // It does.
    assert_eq!(subject.input(Input::VolumeRead(true)), []);
    let suspect = |node: u8| Action::Suspect(id(node), Attachment(node.into()));
    assert_eq!(suspects(&mut subject, 72), [suspect(1), suspect(2)]);
    // Once somebody has answered it is asked anew.
    subject.hears(1, kept(1));
    subject.hears(2, kept(2));
    let chunk = Range { first: 6, len: 1 };
    subject.input(Input::Need(Epoch(1), vec![chunk]));
    assert_eq!(suspects(&mut subject, 92), []);
    assert_eq!(suspects(&mut subject, 93), [Action::ReadVolume]);
}

#[test]
fn one_that_has_nobody_to_be_compared_with_is_suspected_too() {
    let mut subject = asking_writer();
    subject.input(Input::Fenced(id(2), Some(Attachment(2))));
    let suspect = Action::Suspect(id(1), Attachment(1));
    let mut said = Vec::new();
    for seconds in [21, 22] {
        subject.1 = Duration::from_secs(seconds);
        let attachment = Attachment(1);
        subject.hears(1, Message::Alive { attachment });
        said = subject.input(Input::Tick);
        subject.input(Input::VolumeRead(true));
    }
    assert!(said.contains(&suspect), "{said:?}");
}

/// A writer that has been one for long enough to know whose turn it was.
fn settled_writer() -> Subject {
    let mut subject = asking_writer();
    subject.hears(1, kept(1));
    subject.hears(2, kept(2));
    assert_eq!(suspects(&mut subject, 6), []);
    subject
}

fn wish(asked: u64, begun: bool) -> Message {
    Message::Wish { asked, begun }
}

#[test]
fn one_starts_over_at_a_time() {
    let mut subject = settled_writer();
    let turn = |node: u8, asked| {
        let ballot = ballot(1, 0);
        Action::Send(id(node), Message::Turn { ballot, asked })
    };
    assert_eq!(subject.hears(1, wish(50, false)), [turn(1, 50)]);
    assert_eq!(subject.hears(2, wish(60, false)), []);
    // The answer was lost.
    assert_eq!(subject.hears(1, wish(70, false)), [turn(1, 70)]);
    assert_eq!(subject.hears(1, Message::Over), []);
    assert_eq!(subject.hears(2, wish(80, false)), [turn(2, 80)]);
    assert_eq!(suspects(&mut subject, 10), []);
    assert_eq!(subject.hears(2, wish(90, true)), []);
    assert_eq!(suspects(&mut subject, 15), []);
    assert_eq!(subject.hears(1, wish(95, false)), []);
    // Nothing is heard of its turn any more.
    assert_eq!(suspects(&mut subject, 16), []);
    assert_eq!(subject.hears(1, wish(97, false)), [turn(1, 97)]);
}

#[test]
fn a_new_writer_waits_until_it_knows_whose_turn_it_is() {
    let mut subject = asking_writer();
    assert_eq!(subject.hears(2, wish(1, false)), []);
    assert_eq!(subject.hears(1, wish(1, true)), []);
    assert_eq!(suspects(&mut subject, 4), []);
    assert_eq!(subject.hears(1, wish(2, true)), []);
    assert_eq!(suspects(&mut subject, 8), []);
    assert_eq!(subject.hears(2, wish(2, false)), []);
    assert_eq!(subject.0.turns(), [id(1)].into_iter().collect());
}

#[test]
fn a_turn_that_was_long_on_its_way_is_none() {
    let mut subject = Subject::new(&[]);
    let ballot = ballot(1, 1);
    subject.asks(ballot);
    assert_eq!(subject.hears(1, joined(ballot)), [Action::Serve]);
    let wished = |seconds: u64, begun| {
        let asked = seconds * 1_000_000;
        Action::Send(id(1), wish(asked, begun))
    };
    let turn = |seconds: u64| {
        let asked = seconds * 1_000_000;
        Message::Turn { ballot, asked }
    };
    subject.1 = Duration::from_secs(10);
    subject.hears(1, Message::Beat { ballot });
    let begun = false;
    assert_eq!(subject.input(Input::Recycle { begun }), [wished(10, false)]);
    subject.1 = Duration::from_secs(13);
    assert_eq!(subject.input(Input::Tick), [wished(13, false)]);
    assert_eq!(subject.hears(1, turn(10)), []);
    let mine = [wished(13, true), Action::Turn];
    assert_eq!(subject.hears(1, turn(13)), mine);
    assert_eq!(subject.hears(1, turn(13)), []);
    let over = [Action::Send(id(1), Message::Over)];
    assert_eq!(subject.input(Input::Recycled), over);
    // It comes once more, and is given back.
    assert_eq!(subject.hears(1, turn(13)), over);
}
