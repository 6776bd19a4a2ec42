// SPDX-License-Identifier: GPL-2.0-or-later

//! What commands do, at a node without peers and without a kernel.

use super::*;
use crate::config::Peer as ConfigPeer;
use crate::config::Volume;
use crate::driver::queues;
use crate::kernel::lock;
use crate::kernel::tests::stand_in;
use rustls::server::ResolvesServerCertUsingSni;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::ServerConfig;
use std::sync::Mutex as StdMutex;

const ME: NodeId = NodeId::new(0).unwrap();
const OTHER: NodeId = NodeId::new(1).unwrap();
const THEIRS: Attachment = Attachment(7);

/// How things are, and what the node was told.
pub(crate) struct Node {
    pub(crate) status: Status,
    pub(crate) told: Vec<Input>,
    /// It does not leave when it is told to.
    pub(crate) hangs: bool,
    /// Why no target can be made, if so.
    pub(crate) refuses: Option<&'static str>,
}

/// A node that is at once what it is told to be.
pub(crate) struct Stand {
    pub(crate) control: Arc<Control>,
    pub(crate) node: Arc<StdMutex<Node>>,
    pub(crate) folder: tempfile::TempDir,
    reports: mpsc::UnboundedSender<Report>,
}

fn config(state: &Path) -> Config {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = &[&rustls::version::TLS13];
    let client = ClientConfig::builder_with_provider(provider.clone());
    let client = client.with_protocol_versions(versions).unwrap();
    let server = ServerConfig::builder_with_provider(provider);
    let server = server.with_protocol_versions(versions).unwrap();
    let peer = |id: NodeId| ConfigPeer {
        id,
        name: format!("n{}", id.number()),
        address: String::new(),
    };
    Config {
        cluster: "test".to_owned(),
        me: ME,
        nodes: [ME, OTHER].map(|id| (id, peer(id))).into_iter().collect(),
        state: state.to_owned(),
        volume: Volume {
            chunks: 100,
            chunk_sectors: 8,
        },
        devices: None,
        listen: None,
        metrics: None,
        fence: None,
        fence_limit: Duration::from_secs(60),
        recycle: None,
        beat: Duration::from_millis(50),
        patience: Duration::from_millis(500),
        keep_patience: Duration::from_secs(5),
        client: client
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth()
            .into(),
        server: server
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()))
            .into(),
    }
}

impl Stand {
    pub(crate) fn new(role: RoleName) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (inlets, mut queues) = queues();
        let (reports, reported) = mpsc::unbounded_channel();
        let node = Arc::new(StdMutex::new(Node {
            status: Status {
                role,
                ballot: Ballot::default(),
                connected: NodeSet::EMPTY,
                members: Vec::new(),
                suspected: NodeSet::EMPTY,
                outstanding: std::collections::BTreeMap::new(),
                claim: None,
                waiting: NodeSet::EMPTY,
                merging: false,
                recycling: None,
            },
            told: Vec::new(),
            hangs: false,
            refuses: None,
        }));
        let asked = node.clone();
        let target = stand_in(&inlets, move || match lock(&asked).refuses {
            Some(why) => Err(why.to_owned().into()),
            None => Ok(()),
        });
        let config = Arc::new(config(folder.path()));
        let control = Control::new(config, inlets, target, String::new(), None, reported);
        let stand = Self {
            control,
            node,
            folder,
            reports,
        };
        stand.become_role(role);
        let (node, reports) = (stand.node.clone(), stand.reports.clone());
        tokio::spawn(async move {
            while let Some(command) = queues.engine.recv().await {
                match command {
                    Command::Status(answer) => drop(answer.send(lock(&node).status.clone())),
                    Command::Input(input) => lock(&node).hear(input, &reports),
                }
            }
        });
        stand
    }

    pub(crate) fn become_role(&self, role: RoleName) {
        lock(&self.node).become_role(role, &self.reports);
    }

    pub(crate) fn role(&self) -> RoleName {
        lock(&self.node).status.role
    }

    pub(crate) fn was_told(&self, what: impl Fn(&Input) -> bool) -> bool {
        lock(&self.node).told.iter().any(what)
    }

    pub(crate) async fn asks(&self, request: Request) -> Result<(), Failure> {
        self.control.handle(request).await.map(|_| ())
    }
}

impl Node {
    fn become_role(&mut self, role: RoleName, reports: &mpsc::UnboundedSender<Report>) {
        self.status.role = role;
        reports.send(Report::Role(role)).unwrap();
    }

    fn hear(&mut self, input: Input, reports: &mpsc::UnboundedSender<Report>) {
        match &input {
            Input::Attach(_) => self.become_role(RoleName::Copier, reports),
            Input::Detach if !self.hangs => self.become_role(RoleName::Idle, reports),
            Input::Recycle { .. } => {
                self.status.recycling = Some(ME);
                reports.send(Report::Turn).unwrap();
            }
            Input::Recycled => self.status.recycling = None,
            _ => {}
        }
        self.told.push(input);
    }
}

fn is_fenced(input: &Input, attachment: Option<Attachment>) -> bool {
    matches!(input, Input::Fenced(OTHER, ended) if *ended == attachment)
}

#[tokio::test]
async fn a_copier_that_is_there_is_not_evicted() {
    let stand = Stand::new(RoleName::Writer);
    let evict = || {
        let node = "n1".to_owned();
        stand.asks(Request::Evict { node })
    };
    let other: NodeSet = [OTHER].into_iter().collect();
    assert!(matches!(evict().await, Err(Failure::Refused(_))));
    lock(&stand.node).status.members = vec![(OTHER, THEIRS, true)];
    lock(&stand.node).status.connected = other;
    let refused = evict().await.unwrap_err();
    assert!(matches!(refused, Failure::Later(_)));
    assert!(refused.text().starts_with("n1 is connected"), "{refused:?}");
    assert!(!stand.was_told(|input| is_fenced(input, Some(THEIRS))));
    lock(&stand.node).status.suspected = other;
    evict().await.unwrap();
    assert!(stand.was_told(|input| is_fenced(input, Some(THEIRS))));
    // Or there is no stream to it.
    lock(&stand.node).told.clear();
    lock(&stand.node).status.suspected = NodeSet::EMPTY;
    lock(&stand.node).status.connected = NodeSet::EMPTY;
    evict().await.unwrap();
    assert!(stand.was_told(|input| is_fenced(input, Some(THEIRS))));
}

#[tokio::test]
async fn whom_a_claim_waits_for_is_evicted() {
    let stand = Stand::new(RoleName::Claiming);
    let other: NodeSet = [OTHER].into_iter().collect();
    lock(&stand.node).status.connected = other;
    lock(&stand.node).status.waiting = other;
    let node = "n1".to_owned();
    stand.asks(Request::Evict { node }).await.unwrap();
    assert!(stand.was_told(|input| is_fenced(input, None)));
}

#[tokio::test]
async fn half_a_merge_is_forgotten_for_a_later_writer_only() {
    let stand = Stand::new(RoleName::Idle);
    let file = stand.folder.path().join("merging.toml");
    std::fs::write(&file, "ballot = { number = 2, node = 0 }").unwrap();
    let takeover = || {
        stand.asks(Request::Takeover {
            fenced: Vec::new(),
            half_merged: None,
            wait: 0,
        })
    };
    // A ballot of its own, with which it has gone on with the merge.
    lock(&stand.node).status.ballot = Ballot { number: 3, node: 0 };
    for _ in 0..2 {
        let refused = takeover().await.unwrap_err();
        assert!(refused.text().contains("--half-merged n0"), "{refused:?}");
    }
    let refused = stand.asks(Request::Join { wait: 0 }).await.unwrap_err();
    assert!(refused.text().contains("--half-merged n0"), "{refused:?}");
    lock(&stand.node).status.ballot = Ballot { number: 4, node: 1 };
    // Nobody answers the claim.
    assert!(matches!(takeover().await, Err(Failure::Later(_))));
    assert!(stand.was_told(|input| matches!(input, Input::Claim { .. })));
    assert!(!file.exists());
}

#[tokio::test]
async fn who_was_told_to_leave_joins_when_it_is_told_to() {
    let stand = Stand::new(RoleName::Copier);
    stand.asks(Request::Leave { wait: 60 }).await.unwrap();
    assert_eq!(stand.role(), RoleName::Idle);
    let refused = stand.control.join_again(60).await.unwrap_err();
    assert_eq!(refused.text(), TOLD);
    assert_eq!(stand.role(), RoleName::Idle);
    stand.asks(Request::Join { wait: 60 }).await.unwrap();
    stand.asks(Request::Recycle { wait: 60 }).await.unwrap();
    assert_eq!(stand.role(), RoleName::Copier);
}

#[tokio::test]
async fn who_is_no_copier_cannot_leave() {
    for role in [RoleName::Idle, RoleName::Claiming, RoleName::Writer] {
        let stand = Stand::new(role);
        let refused = stand.asks(Request::Leave { wait: 60 }).await.unwrap_err();
        assert_eq!(refused.text(), NO_COPIER);
        // What it was when it claimed it may become again.
        let told = stand.control.is_told_to_leave().await;
        assert_eq!(told, role == RoleName::Idle);
    }
}
