// SPDX-License-Identifier: GPL-2.0-or-later

//! The engine that there is without another one: it remembers what the node reports, and has silent nodes fenced.

use crate::config::Config;
use crate::control::Failure;
use crate::driver::Command;
use crate::driver::Inlets;
use crate::driver::Report;
use crate::kernel::lock;
use crate::names::Names;
use crate::shell;
use dmholey_cluster::event::Input;
use dmholey_cluster::event::RoleName;
use dmholey_cluster::ids::Attachment;
use dmholey_cluster::ids::Ballot;
use dmholey_cluster::ids::NodeId;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::error;
use tracing::info;

/// Time until a node is fenced again that could not be.
const RETRY: Duration = Duration::from_secs(5);

/// What the node has said last.
#[derive(Clone, Debug)]
pub struct News {
    pub(crate) role: RoleName,
    /// How often something was refused, and the last reason.
    pub(crate) refusals: u64,
    pub(crate) refusal: Option<Failure>,
    /// How often it was this node's turn to start over.
    pub(crate) turns: u64,
}

impl Default for News {
    fn default() -> Self {
        Self {
            role: RoleName::Idle,
            refusals: 0,
            refusal: None,
            turns: 0,
        }
    }
}

/// Remembers what the driver reports, and has silent copiers fenced if there is a command for that.
pub(crate) async fn listen(
    config: Arc<Config>,
    inlets: Inlets,
    mut reports: mpsc::UnboundedReceiver<Report>,
    told: watch::Sender<News>,
) {
    let names = Names::of(&config);
    let under_way = UnderWay::default();
    while let Some(report) = reports.recv().await {
        match report {
            Report::Role(role) => {
                told.send_modify(|news| news.role = role);
            }
            Report::Refused(refusal) => {
                told.send_modify(|news| {
                    news.refusals += 1;
                    news.refusal = Some(names.refusal(refusal));
                });
            }
            Report::Suspect(node, attachment) => {
                let what = Fencing::Suspect(node, attachment);
                begin_fencing(&config, &under_way, what, &inlets);
            }
            Report::Awaited(node, ballot) => {
                let what = Fencing::Claim(node, ballot);
                begin_fencing(&config, &under_way, what, &inlets);
            }
            Report::Turn => told.send_modify(|news| news.turns += 1),
            // Who is to be the writer then is for the engine to say.
            Report::WriterLost(_) => {}
        }
    }
}

/// Why a node is fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fencing {
    /// It is suspected, with this attachment.
    Suspect(NodeId, Attachment),
    /// The claim of this ballot waits for it.
    Claim(NodeId, Ballot),
}

impl Fencing {
    fn node(self) -> NodeId {
        match self {
            Self::Suspect(node, _) | Self::Claim(node, _) => node,
        }
    }

    /// What is said when it is done.
    fn done(self) -> Input {
        match self {
            Self::Suspect(node, attachment) => Input::Fenced(node, Some(attachment)),
            Self::Claim(node, ballot) => Input::FencedFor(node, ballot),
        }
    }

    /// Whether somebody still waits for it.
    async fn is_wanted(self, inlets: &Inlets) -> bool {
        let Some(status) = inlets.status().await else {
            return false;
        };
        match self {
            Self::Suspect(node, attachment) => {
                let is_that =
                    |&(id, own, _): &(NodeId, Attachment, bool)| (id, own) == (node, attachment);
                status.suspected.contains(node) && status.members.iter().any(is_that)
            }
            Self::Claim(node, ballot) => {
                status.claim == Some(ballot) && status.waiting.contains(node)
            }
        }
    }
}

/// What is being fenced.
type UnderWay = Arc<Mutex<BTreeSet<Fencing>>>;

/// Has a node fenced, if there is a command for that and it does not run already.
fn begin_fencing(config: &Arc<Config>, under_way: &UnderWay, what: Fencing, inlets: &Inlets) {
    if let (Some(text), true) = (config.fence.clone(), lock(under_way).insert(what)) {
        let (config, under_way, inlets) = (config.clone(), under_way.clone(), inlets.clone());
        tokio::spawn(async move {
            let name = config.nodes.get(&what.node()).map_or("", |peer| &peer.name);
            fence(&text, name, config.fence_limit, what, &under_way, &inlets).await;
        });
    }
}

/// Runs the command, of which the exit status tells whether the node is fenced, until it is or need not be any more.
async fn fence(
    text: &str,
    name: &str,
    limit: Duration,
    what: Fencing,
    under_way: &UnderWay,
    inlets: &Inlets,
) {
    loop {
        info!("{name} is being fenced");
        let mut command = shell::command(text);
        command.env("DMHOLEY_NODE", name);
        let done = shell::run(command, limit).await;
        inlets.figures.fence(done.is_ok());
        let Err(error) = done else {
            info!("{name} is fenced");
            lock(under_way).remove(&what);
            if inlets
                .engine
                .send(Command::Input(what.done()))
                .await
                .is_err()
            {
                info!("the agent ends");
            }
            return;
        };
        error!("{name} could not be fenced, which is tried again: {text}: {error}");
        sleep(RETRY).await;
        // Whoever wants it from here on begins it, and whoever did before is asked.
        lock(under_way).remove(&what);
        if !what.is_wanted(inlets).await {
            info!("{name} need not be fenced any more");
            return;
        }
        if !lock(under_way).insert(what) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::queues;
    use crate::driver::Status;
    use dmholey_cluster::ids::NodeSet;
    use std::fs;

    const NODE: NodeId = NodeId::new(2).unwrap();
    const OWN: Attachment = Attachment(7);

    const SUSPECT: Fencing = Fencing::Suspect(NODE, OWN);
    const CLAIM: Ballot = Ballot { number: 4, node: 1 };

    /// How things are at a node that waits for node 2, because it is suspected or for its claim, or does not.
    fn status(waits: bool) -> Status {
        Status {
            role: RoleName::Writer,
            ballot: Ballot::default(),
            connected: NodeSet::EMPTY,
            members: vec![(NODE, OWN, true)],
            suspected: [NODE].into_iter().filter(|_| waits).collect(),
            outstanding: std::collections::BTreeMap::new(),
            waiting: [NODE].into_iter().filter(|_| waits).collect(),
            claim: Some(CLAIM),
            merging: false,
            recycling: None,
        }
    }

    /// Fences it by a command that says whom, and fails the first time. What the engine says then.
    fn fences(what: Fencing, waits: bool) -> (Option<Input>, String) {
        let dir = tempfile::tempdir().unwrap();
        let said = dir.path().join("said");
        let path = said.display();
        let text = format!("echo $DMHOLEY_NODE >> {path}; test $(wc -l < {path}) = 2");
        let (inlets, mut queues) = queues();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let input = runtime.block_on(async move {
            let limit = Duration::from_secs(60);
            let under_way = UnderWay::default();
            lock(&under_way).insert(what);
            let fencing = tokio::spawn(async move {
                fence(&text, "n2", limit, what, &under_way, &inlets).await;
                assert!(lock(&under_way).is_empty());
            });
            let mut last = None;
            while let Some(command) = queues.engine.recv().await {
                match command {
                    Command::Status(answer) => answer.send(status(waits)).unwrap(),
                    Command::Input(input) => last = Some(input),
                }
            }
            fencing.await.unwrap();
            last
        });
        (input, fs::read_to_string(said).unwrap())
    }

    #[test]
    fn a_node_is_fenced_until_it_is() {
        let (input, said) = fences(SUSPECT, true);
        assert!(matches!(input, Some(Input::Fenced(NODE, Some(OWN)))));
        assert_eq!(said, "n2\nn2\n");
        let (input, _) = fences(Fencing::Claim(NODE, CLAIM), true);
        assert!(matches!(input, Some(Input::FencedFor(NODE, CLAIM))));
    }

    #[test]
    fn a_node_that_nobody_waits_for_any_more_is_left_alone() {
        let older = Ballot { number: 3, node: 1 };
        for (what, waits) in [(SUSPECT, false), (Fencing::Claim(NODE, older), true)] {
            let (input, said) = fences(what, waits);
            assert!(input.is_none());
            assert_eq!(said, "n2\n");
        }
    }
}
