// SPDX-License-Identifier: GPL-2.0-or-later

//! The agent on its host: what the commands ask of it, and what it does when a node is silent.
//!
//! Commands come over a socket that only its owner may use; see [`dmholey::cluster`].

use crate::config::Config;
use crate::driver::Command;
use crate::driver::Inlets;
use crate::driver::Report;
use crate::driver::Status;
use crate::engine;
use crate::engine::News;
use crate::kernel::memory::Recycling;
use crate::kernel::Handle;
use crate::kernel::Merging;
use crate::names::role_name;
use crate::names::Names;
use crate::observe::Observed;
use crate::observe::Observer;
use dmholey::cluster::Peer;
use dmholey::cluster::Reply;
use dmholey::cluster::Request;
use dmholey_cluster::event::Input;
use dmholey_cluster::event::RoleName;
use dmholey_cluster::ids::Attachment;
use dmholey_cluster::ids::Ballot;
use dmholey_cluster::ids::NodeId;
use dmholey_cluster::ids::NodeSet;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::net::UnixListener;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::info;
use tracing::warn;

/// Why a node does not become something.
const BUSY: &str = "this node has another role already; end that first";
const NO_COPIER: &str = "this node is no copier";
const TOLD: &str = "this node was told to leave; it joins when it is told to";
/// How often it is looked whether a node has joined.
const LOOK: Duration = Duration::from_millis(100);
/// The longest request.
const MOST_BYTES: u64 = 1 << 16;
/// How long the kernel may take to say how its targets are.
const KERNEL: Duration = Duration::from_secs(2);
/// How long a request may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(10);

/// What commands are given.
#[derive(Debug)]
pub struct Control {
    pub(crate) config: Arc<Config>,
    pub(crate) names: Names,
    pub(crate) inlets: Inlets,
    target: Handle,
    pub(crate) device: String,
    observer: Option<Arc<Observer>>,
    news: watch::Receiver<News>,
    /// Whether it was told to leave, and not to join since. From the look at what the node is to its attachment this is
    /// held, so that nobody else attaches anything, and nothing is attached by itself after it was told.
    told_to_leave: Mutex<bool>,
    /// One at a time.
    pub(crate) recycling: Arc<Mutex<()>>,
}

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It cannot be, as things are.
    Refused(String),
    /// It is a matter of time.
    Later(String),
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Refused(text)
    }
}

impl Failure {
    /// The reason.
    pub fn text(&self) -> &str {
        match self {
            Self::Refused(text) | Self::Later(text) => text,
        }
    }
}

type Outcome<T> = Result<T, Failure>;

/// Who has started it may start it again.
fn ended() -> Failure {
    Failure::Later("the agent ends".to_owned())
}

impl Control {
    /// The control of an agent whose driver reports to `reports`. Without an observer nothing is known of its targets.
    pub fn new(
        config: Arc<Config>,
        inlets: Inlets,
        target: Handle,
        device: String,
        observer: Option<Arc<Observer>>,
        reports: mpsc::UnboundedReceiver<Report>,
    ) -> Arc<Self> {
        let (told, news) = watch::channel(News::default());
        tokio::spawn(engine::listen(
            config.clone(),
            inlets.clone(),
            reports,
            told,
        ));
        Arc::new(Self {
            names: Names::of(&config),
            config,
            inlets,
            target,
            device,
            observer,
            news,
            told_to_leave: Mutex::new(false),
            recycling: Arc::default(),
        })
    }

    /// Serves commands at a socket, which is made anew.
    pub fn serve(self: &Arc<Self>, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
        let control = self.clone();
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        tokio::spawn(control.clone().answer(stream));
                    }
                    Err(error) => {
                        warn!("cannot accept a command: {error}");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
        });
        Ok(())
    }

    async fn answer(self: Arc<Self>, stream: UnixStream) {
        let (from, mut to) = stream.into_split();
        let mut line = String::new();
        let mut from = BufReader::new(from.take(MOST_BYTES));
        if !matches!(timeout(ARRIVAL, from.read_line(&mut line)).await, Ok(Ok(_))) {
            return;
        }
        let done = match serde_json::from_str(&line) {
            Ok(request) => self.handle(request).await,
            Err(error) => Err(format!("a request is not to be understood: {error}").into()),
        };
        let reply = match done {
            Ok(status) => Reply::Done(Box::new(status)),
            Err(Failure::Refused(why)) => Reply::Failed(why),
            Err(Failure::Later(why)) => Reply::Later(why),
        };
        if let Ok(text) = serde_json::to_vec(&reply) {
            // Whoever asked may not wait any more.
            let _ = to.write_all(&text).await;
        }
    }

    async fn handle(self: &Arc<Self>, request: Request) -> Outcome<dmholey::cluster::Status> {
        match request {
            Request::Status => {}
            Request::Join { wait } => self.join(wait).await?,
            Request::Leave { wait } => self.leave(wait).await?,
            Request::Recycle { wait } => self.recycle(wait).await?,
            Request::Takeover {
                fenced,
                half_merged,
                wait,
            } => {
                let fenced = fenced.iter().map(|name| self.node(name));
                let fenced: NodeSet = fenced.collect::<Outcome<_>>()?;
                let half_merged = half_merged.map(|name| self.node(&name)).transpose()?;
                let status = self.ask().await?;
                match status.role {
                    RoleName::Writer | RoleName::Demoting => return Err(BUSY.to_owned().into()),
                    RoleName::Idle => self.check_merge(half_merged, status.ballot)?,
                    _ => {}
                }
                let claim = Input::Claim {
                    fenced,
                    half_merged,
                };
                self.become_role(claim, RoleName::Writer, wait).await?;
                self.target.settled().await?;
            }
            Request::Demote { wait } => self.demote(wait).await?,
            Request::Evict { node } => self.evict(self.node(&node)?).await?,
        }
        let status = self.ask().await?;
        Ok(self.describe(&status, self.observe().await))
    }

    async fn evict(&self, node: NodeId) -> Outcome<()> {
        let status = self.ask().await?;
        let member = status.members.iter().find(|(id, ..)| *id == node);
        let attachment = member.map(|&(_, attachment, _)| attachment);
        let is_awaited = status.waiting.contains(node);
        if attachment.is_none() && !is_awaited {
            let text = "this node has no such copier, and waits for no such node";
            return Err(text.to_owned().into());
        }
        // It may have been fenced, have started anew, and be a copier again.
        let is_missed = is_awaited || status.suspected.contains(node);
        if status.connected.contains(node) && !is_missed {
            return Err(Failure::Later(format!(
                "{} is connected and not suspected: a node that is fenced is silent. What it was before it started anew \
                 ends by itself; if it has just been fenced, try again after patience_ms",
                self.name(node)
            )));
        }
        self.send(Input::Fenced(node, attachment)).await
    }

    async fn join(&self, wait: u64) -> Outcome<()> {
        let mut told = self.told_to_leave.lock().await;
        self.attach().await?;
        *told = false;
        drop(told);
        self.await_joined(wait).await
    }

    /// Joins after it has left by itself.
    pub(crate) async fn join_again(&self, wait: u64) -> Outcome<()> {
        let told = self.told_to_leave.lock().await;
        if *told {
            return Err(TOLD.to_owned().into());
        }
        self.attach().await?;
        drop(told);
        self.await_joined(wait).await
    }

    async fn attach(&self) -> Outcome<()> {
        let status = self.ask().await?;
        if status.role != RoleName::Idle {
            return Err(BUSY.to_owned().into());
        }
        self.check_merge(None, status.ballot)?;
        let mut number = [0; 8];
        rustix::rand::getrandom(&mut number, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| format!("no random numbers: {error}"))?;
        let attachment = Attachment(u64::from_ne_bytes(number));
        self.target.prepare(attachment).await?;
        self.send(Input::Attach(attachment)).await?;
        self.ask().await.map(|_| ())
    }

    async fn await_joined(&self, wait: u64) -> Outcome<()> {
        self.await_role(RoleName::Copier, None, wait).await?;
        self.target.settled().await
    }

    /// A copier that claims is a copier again.
    async fn demote(&self, wait: u64) -> Outcome<()> {
        let status = self.ask().await?;
        if status.role != RoleName::Claiming {
            return self.become_role(Input::Demote, RoleName::Idle, wait).await;
        }
        self.send(Input::Demote).await?;
        match self.ask().await?.role {
            RoleName::Claiming => Err("the claim cannot be taken back".to_owned().into()),
            RoleName::Writer => Err("the claim has succeeded".to_owned().into()),
            _ => Ok(()),
        }
    }

    /// Leaves and joins again, when it is this node's turn.
    async fn recycle(self: &Arc<Self>, wait: u64) -> Outcome<()> {
        let only = self.recycling.clone().try_lock_owned();
        let only = only.map_err(|_| Failure::Later("this node starts over already".to_owned()))?;
        self.take_turn(wait).await?;
        let done = async {
            self.detach(wait).await?;
            self.inlets.figures.recycles.inc();
            self.join_again(wait).await
        };
        let done = done.await;
        let control = self.clone();
        tokio::spawn(async move {
            // It is on its way, perhaps.
            while matches!(control.ask().await, Ok(status) if status.role == RoleName::Joining) {
                tokio::time::sleep(LOOK).await;
            }
            control.end_turn().await;
            drop(only);
        });
        done
    }

    /// Waits until it is the turn of this copier to start over. [`Self::end_turn`] has to follow.
    pub(crate) async fn take_turn(&self, wait: u64) -> Outcome<()> {
        if self.ask().await?.role != RoleName::Copier {
            return Err(NO_COPIER.to_owned().into());
        }
        if self.is_told_to_leave().await {
            return Err(TOLD.to_owned().into());
        }
        let mut news = self.news.clone();
        let before = news.borrow_and_update().turns;
        self.send(Input::Recycle { begun: false }).await?;
        let turn = news.wait_for(|news| news.turns != before);
        let turn = async { turn.await.map(|_| ()) };
        match timeout(Duration::from_secs(wait), turn).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(_)) => return Err(ended()),
            Err(_) => {}
        }
        self.end_turn().await;
        Err(Failure::Later(format!(
            "after {wait} s it is not this node's turn to start over: another one does, a merge goes on, or there is no \
             writer"
        )))
    }

    pub(crate) async fn end_turn(&self) {
        if let Err(failure) = self.send(Input::Recycled).await {
            info!("{}", failure.text());
        }
    }

    /// Leaves. Who asks for that does not want it to join again by itself.
    async fn leave(&self, wait: u64) -> Outcome<()> {
        let mut told = self.told_to_leave.lock().await;
        *told = true;
        Recycling::end(&self.config.state).map_err(|error| {
            format!("it cannot be forgotten that this node starts over: {error}")
        })?;
        drop(told);
        let starts_over = self.recycling.try_lock().is_err();
        if starts_over {
            self.end_turn().await;
        }
        let done = self.detach(wait).await;
        match self.ask().await?.role {
            // It has left by itself already.
            RoleName::Idle if starts_over => return Ok(()),
            // It stays what it is.
            RoleName::Claiming | RoleName::Writer => *self.told_to_leave.lock().await = false,
            _ => {}
        }
        done
    }

    /// Whether it was told to leave, and not to join since.
    pub(crate) async fn is_told_to_leave(&self) -> bool {
        *self.told_to_leave.lock().await
    }

    /// Remembers that this node starts over.
    pub(crate) async fn begin_recycling(&self, reason: &str) -> Outcome<()> {
        let told = self.told_to_leave.lock().await;
        if *told {
            return Err(TOLD.to_owned().into());
        }
        Recycling::begin(&self.config.state, reason).map_err(|error| {
            format!("it cannot be remembered that this node starts over: {error}").into()
        })
    }

    /// Stops being a copier.
    pub(crate) async fn detach(&self, wait: u64) -> Outcome<()> {
        match self.ask().await?.role {
            RoleName::Joining | RoleName::Copier => {
                self.become_role(Input::Detach, RoleName::Idle, wait).await
            }
            _ => Err(NO_COPIER.to_owned().into()),
        }
    }

    /// A node that is nothing, and has begun a merge that has not ended, is the only one that can end it, unless a
    /// later writer is known.
    fn check_merge(&self, half_merged: Option<NodeId>, known: Ballot) -> Outcome<()> {
        let begun = Merging::read(&self.config.state).map_err(|error| error.to_string())?;
        match begun {
            Some(merging) if merging.is_over(known) => {
                Ok(Merging::forget(&self.config.state).map_err(|error| error.to_string())?)
            }
            Some(_) if half_merged != Some(self.config.me) => Err(format!(
                "this node has merged a part of its overlay, and knows of no later writer: end that by takeover \
                 --half-merged {}, or connect it to the writer that there is",
                self.name(self.config.me)
            )
            .into()),
            _ => Ok(()),
        }
    }

    /// Waits until the node is what it was asked to be, or says why not.
    async fn become_role(&self, input: Input, role: RoleName, wait: u64) -> Outcome<()> {
        let before = self.news.borrow().refusals;
        self.send(input).await?;
        self.await_role(role, Some(before), wait).await
    }

    /// Waits until it is that, or until something is refused after the first `before` refusals.
    async fn await_role(&self, role: RoleName, before: Option<u64>, wait: u64) -> Outcome<()> {
        let mut news = self.news.clone();
        let before = before.unwrap_or_else(|| news.borrow_and_update().refusals);
        let reached = news.wait_for(|news| news.role == role || news.refusals != before);
        let reached = async { reached.await.map(|news| news.clone()) };
        let reached = timeout(Duration::from_secs(wait), reached).await;
        let Ok(reached) = reached else {
            let status = self.ask().await?;
            let names: Vec<&str> = status.waiting.iter().map(|node| self.name(node)).collect();
            let waiting = match names[..] {
                [] => String::new(),
                _ => format!(", and waits for {}", names.join(", ")),
            };
            return Err(Failure::Later(format!(
                "after {wait} s it is still {}{waiting}; it goes on",
                role_name(status.role)
            )));
        };
        let news = reached.map_err(|_| ended())?;
        match &news.refusal {
            Some(refusal) if news.refusals != before => Err(refusal.clone()),
            _ => Ok(()),
        }
    }

    pub(crate) async fn send(&self, input: Input) -> Outcome<()> {
        let sent = self.inlets.engine.send(Command::Input(input)).await;
        sent.map_err(|_| ended())
    }

    pub(crate) async fn ask(&self) -> Outcome<Status> {
        let status = self.inlets.status().await;
        status.ok_or_else(ended)
    }

    fn node(&self, name: &str) -> Outcome<NodeId> {
        let node = self.names.find(name);
        let unknown = || format!("there is no node {name} in the configuration").into();
        node.ok_or_else(unknown)
    }

    fn name(&self, node: NodeId) -> &str {
        self.names.name(node)
    }

    /// What the kernel says; nothing if it takes too long.
    pub(crate) async fn observe(&self) -> Observed {
        let Some(observer) = self.observer.clone() else {
            return Observed::default();
        };
        let look = tokio::task::spawn_blocking(move || observer.look());
        let looked = timeout(KERNEL, look).await.ok();
        looked.and_then(Result::ok).unwrap_or_default()
    }

    fn describe(&self, status: &Status, observed: Observed) -> dmholey::cluster::Status {
        let news = self.news.borrow().clone();
        let peers = self.config.peers().map(|peer| Peer {
            node: peer.name.clone(),
            connected: status.connected.contains(peer.id),
            copier: status
                .members
                .iter()
                .find(|(id, ..)| *id == peer.id)
                .map(|&(_, _, joined)| joined),
            suspected: status.suspected.contains(peer.id),
            awaited: status.waiting.contains(peer.id),
        });
        dmholey::cluster::Status {
            cluster: self.config.cluster.clone(),
            node: self.name(self.config.me).to_owned(),
            role: role_name(status.role).to_owned(),
            ballot: status.ballot.to_string(),
            merging: status.merging,
            peers: peers.collect(),
            device: self.device.clone(),
            overlay: observed.overlay,
            recycling: status.recycling.map(|node| self.name(node).to_owned()),
            trouble: self.target.trouble(),
            refusal: news.refusal.map(|refusal| refusal.text().to_owned()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
