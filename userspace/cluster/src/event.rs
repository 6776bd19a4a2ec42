// SPDX-License-Identifier: GPL-2.0-or-later

//! What a node is told, and what it wants done.

use crate::ids::Attachment;
use crate::ids::Ballot;
use crate::ids::Epoch;
use crate::ids::NodeId;
use crate::ids::NodeSet;
use crate::ids::Range;
use crate::ids::Seq;
use crate::message::Message;
use std::collections::BTreeMap;
use std::time::Duration;

/// What does not change while a node runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub me: NodeId,
    /// All others that may ever use the volume.
    pub peers: NodeSet,
    /// The length of the volume.
    pub chunks: u64,
    /// Time between two signs of life.
    pub beat: Duration,
    /// After so much silence somebody is suspected.
    pub patience: Duration,
    /// And so is a copier that has answered no request for so long, while others do or the volume answers.
    pub keep_patience: Duration,
    /// A writer takes no more requests from its target while so many are not answered.
    pub most_requests: usize,
}

/// What has happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// There is a stream to a peer.
    Up(NodeId),
    /// It has broken.
    Down(NodeId),
    /// Something came over it.
    Message(NodeId, Message),
    /// Time has passed.
    Tick,

    /// The writer's target needs these chunks to be stable.
    Need(Epoch, Vec<Range>),
    /// No write is on its way to the volume that was admitted before this epoch, and then the volume has taken
    /// another one from this node: it is not fenced. No chunk is asked for in the epoch before.
    Drained(Epoch),
    /// The copier's target has kept the chunks of these requests, made under this ballot: they are in the overlay,
    /// and no read of them from the volume is under way.
    Kept(Ballot, Vec<Seq>),
    /// The copier's target of this attachment reads nothing from the volume any more, and never will again: it was
    /// told so, or its overlay is lost.
    Detached(Attachment),
    /// The writer's target has merged all of the overlay that it had when it was promoted.
    Merged,
    /// The writer's target of this ballot has no write on its way to the volume, and will begin none: it was told so,
    /// or the volume takes nothing from it any more.
    Demoted(Ballot),
    /// What was to be read of the volume was, or could not be.
    VolumeRead(bool),

    /// The engine: become a copier. The target is there, with an empty overlay, and serves nothing yet.
    Attach(Attachment),
    /// The engine: end that.
    Detach,
    /// The engine: become the writer.
    Claim {
        /// Nodes that cannot reach the volume now, and will not before they have started anew. Until the claim is
        /// decided the engine attaches nobody: a node that starts anew would not be asked.
        fenced: NodeSet,
        /// The node that was made writer and has not ended the merge of its overlay, if there is one.
        half_merged: Option<NodeId>,
    },
    /// The engine: stop being the writer.
    Demote,
    /// The engine: this copier is to start over, by [`Input::Detach`] and another [`Input::Attach`], as soon as no other
    /// does.
    Recycle {
        /// It was its turn when an earlier agent of this node ended.
        begun: bool,
    },
    /// The engine: it has joined again, or is not to start over any more.
    Recycled,
    /// The engine: a node cannot reach the volume, and will not before it has started anew. With an attachment: that of
    /// a suspicion, which has ended. Without: the node, for which a claim waits.
    Fenced(NodeId, Option<Attachment>),
    /// The engine: the same of a node for which the claim of this ballot waits. For a later one it says nothing: the node
    /// may have started anew.
    FencedFor(NodeId, Ballot),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this over the stream to a peer.
    Send(NodeId, Message),

    /// The target is to keep these chunks and to answer with the same ballot. It may have been told before.
    Keep(Ballot, Vec<(Seq, Range)>),
    /// These chunks are stable, if the target is still in this epoch.
    Stable(Epoch, Vec<Range>),
    /// No chunk is stable any more. The target admits no write before those under way have ended, says so, and then
    /// asks anew for what it needs.
    Epoch(Epoch),
    /// The target is the writer's from now on, in this epoch, in which no chunk is stable. If it is a copier's it
    /// merges its overlay, which has to be durable before, and asks for chunks before it overwrites them like for any
    /// other; what it was keeping at the time it need not.
    Promote(Ballot, Epoch, Content),
    /// The target is to admit no more writes, to fail those that it holds back, and to let the others end.
    Demote,
    /// To be on stable media before any later action is done, like a promise: the node is the writer of this ballot.
    Won(Ballot),
    /// To be on stable media before any later action is done: the next agent of this node, also after the node has
    /// started anew, is given it. Of those with the same node, which may be this one, only the last counts.
    Promise(NodeId, Ballot),
    /// The view is fixed: the target may serve.
    Serve,
    /// The target is to end: nothing is to be read through it any more.
    Detach,
    /// To be read: any block of the volume, from the volume itself. Whatever read ends next is the answer.
    ReadVolume,

    /// For the engine: a copier has not been heard of, or keeps nothing; writes wait for it until it does or is fenced.
    Suspect(NodeId, Attachment),
    /// For the engine: the writer has not been heard of.
    WriterLost(NodeId),
    /// For the engine: it is the turn of this copier to start over.
    Turn,
    /// For the engine: what it wanted cannot be done.
    Refused(Refusal),
    /// For the log: a peer has sent what no peer that works would send. It was ignored.
    Fault(NodeId, &'static str),
}

/// What the volume is to hold when a node becomes its writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// What it holds.
    Volume,
    /// What the copier of this node sees.
    View,
    /// What the overlay of this node says that it has begun to merge.
    List,
    /// The node has been the writer all the time, and only its agent has started anew.
    AsItIs,
}

/// Why the engine does not get what it wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The node is writer, claims to be, or is attached already.
    #[error("this node has another role already; end that first")]
    Busy,
    /// It has no such role.
    #[error("this node does not have the role that is to end")]
    NotThat,
    /// The view is not fixed yet.
    #[error("this node has not joined yet; wait for that, or detach it first")]
    NotJoined,
    /// A node began to merge its overlay, and half of it is in the volume.
    #[error("{0} has merged a part of its overlay; promote it, or a copier")]
    HalfMerged(NodeId),
    /// The overlay that was to become the volume is lost.
    #[error("this node has lost its overlay; promote another one")]
    Lost,
    /// There is a writer, or a claim that goes before.
    #[error("ballot {0} goes before; fence its node first if it is dead")]
    Outbid(Ballot),
}

/// Where actions go, and which of them make sense.
#[derive(Debug)]
pub(crate) struct Outbox<'a> {
    pub(crate) up: NodeSet,
    pub(crate) actions: &'a mut Vec<Action>,
}

impl Outbox<'_> {
    pub(crate) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// Without a stream it is not sent: what is needed all the same follows from [`Input::Up`] or the next beat.
    pub(crate) fn send(&mut self, node: NodeId, message: Message) {
        if self.up.contains(node) {
            self.act(Action::Send(node, message));
        }
    }

    pub(crate) fn send_all(&mut self, message: &Message) {
        for node in self.up.iter() {
            self.send(node, message.clone());
        }
    }
}

/// What was going on in the kernel before the agent started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing.
    Nothing,
    /// A copier's target that serves: its attachment, and the ballot of its writer. (One that did not serve yet has to
    /// be ended.)
    Copier(Attachment, Ballot),
    /// A writer's target: its ballot, its epoch, and whether it still merges its overlay.
    Writer(Ballot, Epoch, bool),
}

/// What a node must not forget, also when it starts anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The last [`Action::Promise`] to each node.
    pub promised: BTreeMap<NodeId, Ballot>,
    /// The last [`Action::Won`].
    pub won: Ballot,
}

/// The role of a node, for people and for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleName {
    /// It has nothing to do with the volume.
    Idle,
    /// It waits for its view to be fixed.
    Joining,
    /// It has a view of its own.
    Copier,
    /// It wants to be the writer.
    Claiming,
    /// It is the writer.
    Writer,
    /// It stops being the writer.
    Demoting,
}
