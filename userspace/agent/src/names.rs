// SPDX-License-Identifier: GPL-2.0-or-later

//! What people call nodes and roles.

use crate::config::Config;
use crate::control::Failure;
use dmholey_cluster::event::Refusal;
use dmholey_cluster::event::RoleName;
use dmholey_cluster::ids::NodeId;
use std::collections::BTreeMap;

/// All roles.
pub const ROLES: [RoleName; 6] = [
    RoleName::Idle,
    RoleName::Joining,
    RoleName::Copier,
    RoleName::Claiming,
    RoleName::Writer,
    RoleName::Demoting,
];

/// A role, as it is shown.
pub const fn role_name(role: RoleName) -> &'static str {
    match role {
        RoleName::Idle => "idle",
        RoleName::Joining => "joining",
        RoleName::Copier => "copier",
        RoleName::Claiming => "claiming",
        RoleName::Writer => "writer",
        RoleName::Demoting => "demoting",
    }
}

/// The names of a cluster and of its nodes.
#[derive(Clone, Debug)]
pub struct Names {
    /// That of the cluster.
    pub cluster: String,
    me: NodeId,
    nodes: BTreeMap<NodeId, String>,
}

impl Names {
    /// As the configuration has them.
    pub fn of(config: &Config) -> Self {
        let nodes = config.nodes.values();
        Self {
            cluster: config.cluster.clone(),
            me: config.me,
            nodes: nodes.map(|peer| (peer.id, peer.name.clone())).collect(),
        }
    }

    /// A node's.
    pub fn name(&self, node: NodeId) -> &str {
        self.nodes.get(&node).map_or("?", String::as_str)
    }

    /// The number of this node.
    pub const fn id(&self) -> NodeId {
        self.me
    }

    /// This node's.
    pub fn me(&self) -> &str {
        self.name(self.me)
    }

    /// The node of this name.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        let mut nodes = self.nodes.iter();
        nodes.find(|(_, own)| *own == name).map(|(&node, _)| node)
    }

    /// All others.
    pub fn peers(&self) -> impl Iterator<Item = (NodeId, &str)> {
        self.nodes
            .iter()
            .filter(|(node, _)| **node != self.me)
            .map(|(&node, name)| (node, name.as_str()))
    }

    /// Why something is refused, in these names.
    pub fn refusal(&self, refusal: Refusal) -> Failure {
        let text = match refusal {
            Refusal::HalfMerged(node) => format!(
                "{} has merged a part of its overlay; promote it, or a copier",
                self.name(node)
            ),
            Refusal::Outbid(ballot) => format!(
                "ballot {ballot} of {} goes before; fence that node first if it is dead",
                NodeId::new(ballot.node).map_or("?", |node| self.name(node))
            ),
            _ => refusal.to_string(),
        };
        match refusal {
            Refusal::NotJoined => Failure::Later(text),
            _ => Failure::Refused(text),
        }
    }
}
