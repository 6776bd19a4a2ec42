// SPDX-License-Identifier: GPL-2.0-or-later

//! The target of a node in its kernel.
//!
//! Applications use one device, whose table is what the node is at the time:
//!
//! | node | table |
//! | --- | --- |
//! | nothing | `error`; with `write_back_mib`, `holey-nothing` |
//! | copier | `holey-copier`, over the volume and the COW device |
//! | writer, merging | `holey-merge`, over the same; and a second device, `NAME-writer`, with `holey-writer` |
//! | writer | `holey-writer` |
//!
//! Tables are exchanged while the device is open. Reads and writes wait meanwhile, and fail when the node is nothing.
//!
//! What it is told is done by a thread of its own, in order: device-mapper's calls wait for I/O.

use crate::config::Config;
use crate::control::Failure;
use crate::driver::Failed;
use crate::driver::Inlets;
use crate::driver::Order;
use crate::driver::Target;
use crate::port;
use crate::port::Port;
use crate::port::Stop;
use crate::promises::Promises;
use dmholey::blockdev::BlockDev;
use dmholey::dm;
use dmholey::dm::ioctl::Dm;
use dmholey::dm::node::DevMapper;
use dmholey::dm::status::State;
use dmholey::dm::DevNum;
use dmholey::dm::Kernel;
use dmholey::dm::Line;
use dmholey::dm::Nodes;
use dmholey_cluster::event::Before;
use dmholey_cluster::event::Input;
use dmholey_cluster::ids::Attachment;
use dmholey_cluster::ids::Ballot;
use dmholey_cluster::ids::Epoch;
use dmholey_cluster::ids::Range;
use dmholey_cluster::ids::Seq;
use holey_core::agent::Event;
use holey_core::agent::Role;
use holey_core::format::ChunkSize;
use holey_core::stable;
use holey_core::table::MOST_WRITE_BACK;
use serde::Deserialize;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tracing::error;
use tracing::info;
use tracing::warn;

mod keeps;
pub(crate) mod memory;
mod promote;
#[cfg(test)]
pub(crate) mod tests;

use keeps::Keeps;
use keeps::MOST as MOST_KEEPS;
use memory::boot_id;
use memory::Attached;
pub use memory::Merging;
use promote::Promotion;

/// How often a merge, or whether an overlay is still valid, is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How soon the target is told again what it had no room for.
const RETRY: Duration = Duration::from_millis(5);
const ENDED: &str = "the thread for the target has ended";

/// The devices of a node, as its configuration names them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Devices {
    /// The name of the device for applications, in /dev/mapper.
    pub name: String,
    /// The shared volume.
    pub volume: PathBuf,
    /// The COW device of this node.
    pub cow: PathBuf,
    /// The size of the writer's write-back buffer, if it is to have one.
    pub write_back_mib: Option<u32>,
}

impl Devices {
    /// The name of the second device that there is while an overlay is being merged.
    pub fn helper(&self) -> String {
        format!("{}-writer", self.name)
    }
}

/// What happens to a target.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The kernel does not do it.
    #[error(transparent)]
    Dm(#[from] dm::Error),
    /// A file or the module's device.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The volume, or what the configuration says of it.
    #[error("{0}")]
    Wrong(String),
}

impl TargetError {
    /// Whether it may go another time.
    fn may_pass(&self) -> bool {
        !matches!(self, Self::Wrong(_))
    }
}

type Result<T> = std::result::Result<T, TargetError>;

/// How something went; why not.
type Done = std::result::Result<(), Failure>;

/// Says how a job went.
type Answer = oneshot::Sender<Done>;

/// What the thread is to do.
enum Job {
    Order(Order),
    /// Make a target for an attachment, and say whether that could be done.
    Prepare(Attachment, Answer),
    /// Say how the last order that changed the target went.
    Settled(Answer),
    Fenced,
}

/// What the thread has not come to, as long as it waits for the kernel.
#[derive(Debug, Default)]
struct Waiting {
    /// Requests to keep chunks.
    requests: AtomicUsize,
    /// There were too many of them.
    given_up: AtomicBool,
}

/// The way to the thread that has the target. The thread ends with the process, and the target stays.
#[derive(Clone, Debug)]
pub struct Handle {
    jobs: mpsc::Sender<Job>,
    waiting: Arc<Waiting>,
    failed: Failed,
    outcome: Arc<Mutex<Done>>,
}

impl Target for Handle {
    fn act(&mut self, order: Order) {
        if let Order::Keep(_, requests) = &order {
            let before = self.waiting.requests.load(Ordering::Acquire);
            if before + requests.len() > MOST_KEEPS {
                // What is left out here is never answered, so the copier has to end.
                if !self.waiting.given_up.swap(true, Ordering::AcqRel) {
                    error!(
                        "the copier is given up: its target takes no requests, and too many wait"
                    );
                    self.give(Job::Order(Order::Detach));
                }
                return;
            }
            let requests = requests.len();
            self.waiting.requests.fetch_add(requests, Ordering::AcqRel);
        }
        self.give(Job::Order(order));
    }
}

impl Handle {
    /// Makes a target for an attachment; it serves when it is told to.
    pub async fn prepare(&self, attachment: Attachment) -> Done {
        self.ask(|done| Job::Prepare(attachment, done)).await
    }

    /// Waits until the target is what it was told to be; an error says why it is not.
    pub async fn settled(&self) -> Done {
        self.ask(Job::Settled).await
    }

    /// Why the target is not what it was told to be, if that is so, without waiting.
    pub fn trouble(&self) -> Option<String> {
        let failure = lock(&self.outcome).clone().err();
        failure.map(|failure| failure.text().to_owned())
    }

    async fn ask(&self, job: impl FnOnce(Answer) -> Job) -> Done {
        let (done, answer) = oneshot::channel();
        self.give(job(done));
        let gone = |_| Failure::Later(ENDED.to_owned());
        answer.await.map_err(gone)?
    }

    fn give(&self, job: Job) {
        if self.jobs.send(job).is_err() {
            self.failed.tell(ENDED);
        }
    }
}

/// Reads the first block of a device from the device itself.
fn read_block(path: &Path) -> io::Result<()> {
    let mut command = Command::new("dd");
    command.arg(format!("if={}", path.display()));
    command.args([
        "of=/dev/null",
        "bs=4096",
        "count=1",
        "iflag=direct,fullblock",
        "status=none",
    ]);
    match command.stdin(Stdio::null()).status()? {
        status if status.success() => Ok(()),
        status => Err(io::Error::other(format!("dd: {status}"))),
    }
}

pub(crate) fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread's own.
struct Worker {
    dm: Box<dyn Kernel + Send>,
    nodes: Box<dyn Nodes + Send>,
    /// Opens the module's device.
    open: Box<dyn Fn() -> io::Result<File> + Send>,
    name: String,
    helper: String,
    volume: DevNum,
    volume_path: PathBuf,
    /// The volume is being read.
    reading: Arc<AtomicBool>,
    cow: DevNum,
    chunk: ChunkSize,
    write_back: Option<u32>,
    sectors: u64,
    state: PathBuf,
    inlets: Inlets,
    jobs: mpsc::Sender<Job>,
    waiting: Arc<Waiting>,
    port: Option<Port>,
    /// Orders that the target has had no room for.
    backlog: VecDeque<holey_core::agent::Order>,
    keeps: Arc<Mutex<Keeps>>,
    attachment: Option<Attachment>,
    ballot: Ballot,
    merging: bool,
    /// What the target is to become, and has not yet.
    promotion: Option<Promotion>,
    /// How the last order that changed the target went.
    outcome: Arc<Mutex<Done>>,
}

/// Looks what the target is, and starts the thread for it.
pub fn start(config: &Config, devices: &Devices, inlets: &Inlets) -> Result<(Before, Handle)> {
    let (jobs, queue) = mpsc::channel();
    let mut worker = Worker::new(config, devices, inlets.clone(), jobs.clone())?;
    let before = worker.before(Promises::open(&config.state)?.memory().won)?;
    info!(?before, device = worker.name, "target");
    let (outcome, waiting) = (worker.outcome.clone(), worker.waiting.clone());
    thread::Builder::new()
        .name("dmholey-target".to_owned())
        .spawn(move || worker.run(&queue))?;
    let handle = Handle {
        jobs,
        waiting,
        failed: inlets.failed.clone(),
        outcome,
    };
    Ok((before, handle))
}

impl Worker {
    fn new(
        config: &Config,
        devices: &Devices,
        inlets: Inlets,
        jobs: mpsc::Sender<Job>,
    ) -> Result<Self> {
        let wrong = |error: anyhow::Error| TargetError::Wrong(format!("{error:#}"));
        let (volume, _) = BlockDev::open(&devices.volume).map_err(wrong)?;
        let (cow, _) = BlockDev::open(&devices.cow).map_err(wrong)?;
        let chunk = ChunkSize::new(config.volume.chunk_sectors)
            .map_err(|error| TargetError::Wrong(error.to_string()))?;
        let sectors = config.volume.chunks.saturating_mul(chunk.sectors().into());
        if sectors > volume.sectors {
            let path = devices.volume.display();
            return Err(TargetError::Wrong(format!(
                "{path} has {} sectors, which are fewer than the {} chunks of [volume]",
                volume.sectors, config.volume.chunks
            )));
        }
        let write_back = devices.write_back_mib;
        if write_back.is_some_and(|mib| !(1..=MOST_WRITE_BACK).contains(&mib)) {
            return Err(TargetError::Wrong(format!(
                "write_back_mib of [devices] has to be from 1 to {MOST_WRITE_BACK}"
            )));
        }
        Ok(Self {
            dm: Box::new(Dm::open()?),
            nodes: Box::new(DevMapper),
            open: Box::new(port::open_device),
            name: devices.name.clone(),
            helper: devices.helper(),
            volume: volume.number,
            volume_path: devices.volume.clone(),
            reading: Arc::default(),
            cow: cow.number,
            chunk,
            write_back,
            sectors,
            state: config.state.clone(),
            inlets,
            jobs,
            waiting: Arc::default(),
            port: None,
            backlog: VecDeque::new(),
            keeps: Arc::default(),
            attachment: None,
            ballot: Ballot::default(),
            merging: false,
            promotion: None,
            outcome: Arc::new(Mutex::new(Ok(()))),
        })
    }

    fn line(&self, target: &str, params: String) -> Line {
        Line {
            start: 0,
            len: self.sectors,
            target: target.to_owned(),
            params,
        }
    }

    fn error_line(&self) -> Line {
        // Flushes of what was acknowledged have to fail, too.
        let target = self.write_back.map_or("error", |_| "holey-nothing");
        self.line(target, String::new())
    }

    fn writer_line(&self) -> Line {
        let features = self
            .write_back
            .map_or_else(String::new, |mib| format!(" 2 write_back {mib}"));
        self.line(
            "holey-writer",
            format!("{} {}{features}", self.volume, self.chunk.sectors()),
        )
    }

    fn overlay_line(&self, target: &str) -> Line {
        let (volume, cow, chunk) = (self.volume, self.cow, self.chunk.sectors());
        self.line(target, format!("{volume} {cow} P {chunk}"))
    }

    /// The target type of a device, `error` for both that fail all; `None` if there is no such device.
    fn target_of(&self, name: &str) -> Result<Option<String>> {
        match self.dm.table(name) {
            Err(dm::Error::NoDevice(_)) => Ok(None),
            lines => Ok(Some(lines?.first().map_or_else(String::new, |line| {
                line.target.replace("holey-nothing", "error")
            }))),
        }
    }

    fn status_of(&self, name: &str) -> Result<String> {
        let lines = self.dm.status(name)?;
        Ok(lines
            .first()
            .map_or_else(String::new, |line| line.params.clone()))
    }

    /// What the target is. What cannot go on is ended.
    fn before(&mut self, won: Ballot) -> Result<Before> {
        self.tidy()?;
        let epoch = |status: String| {
            let word = status.split(' ').next().and_then(|word| word.parse().ok());
            Epoch(word.unwrap_or_default())
        };
        match self.target_of(&self.name)?.as_deref() {
            None => {
                let number = self.dm.create(&self.name, "")?;
                self.dm.load(&self.name, &self.error_line())?;
                self.dm.resume(&self.name)?;
                self.nodes.add(&self.name, number)?;
                Ok(Before::Nothing)
            }
            Some("holey-copier") => {
                let valid = self.is_valid()?;
                match Attached::read(&self.state)?.filter(|_| valid) {
                    Some(attached) => {
                        self.attachment = Some(attached.attachment);
                        self.ballot = attached.ballot;
                        self.open_as_copier()?;
                        Ok(Before::Copier(attached.attachment, attached.ballot))
                    }
                    None => self.end().map(|()| Before::Nothing),
                }
            }
            Some("holey-writer") => {
                self.ballot = won;
                Ok(Before::Writer(
                    won,
                    epoch(self.status_of(&self.name)?),
                    false,
                ))
            }
            Some("holey-merge") if self.target_of(&self.helper)?.is_some() => {
                self.ballot = won;
                Ok(Before::Writer(
                    won,
                    epoch(self.status_of(&self.helper)?),
                    true,
                ))
            }
            Some("error" | "" | "holey-merge") => self.end().map(|()| Before::Nothing),
            Some(other) => Err(TargetError::Wrong(format!(
                "{} is a {other}, not a device of this agent's; choose another name in [devices]",
                self.name
            ))),
        }
    }

    /// Takes back what an agent has left that ended half-way: a table that was not put to use, a suspend, a helper
    /// that nobody needs.
    fn tidy(&self) -> Result<()> {
        let target = self.target_of(&self.name)?;
        if target.is_some() {
            self.dm.clear(&self.name)?;
            if self.dm.info(&self.name)?.suspended {
                let woken = self.dm.wake(&self.name);
                // A merge may not have written its list yet. That is tried again with its promotion.
                if target.as_deref() != Some("holey-merge") {
                    woken?;
                }
            }
        }
        if target.as_deref() != Some("holey-merge") {
            self.end_helper()?;
        }
        Ok(())
    }

    /// Makes the device that writes while an overlay is being merged. It shows the volume as it is, so nobody should
    /// look for file systems on it.
    fn create_helper(&self) -> Result<()> {
        let number = self.dm.create(&self.helper, "")?;
        let loaded = self.dm.load(&self.helper, &self.writer_line());
        let started = loaded.and_then(|()| self.dm.resume_hidden(&self.helper));
        if let Err(refused) = started {
            // Without a table it is nothing; that it stays, too, is the lesser trouble.
            let _ = self.dm.remove(&self.helper, false);
            return Err(refused.into());
        }
        Ok(self.nodes.add(&self.helper, number)?)
    }

    /// A signal may end the wait of a suspend.
    fn suspend(&self, name: &str) -> Result<()> {
        loop {
            match self.dm.suspend(name, true) {
                Err(error) if error.is_interrupted() => {}
                done => return Ok(done?),
            }
        }
    }

    /// Gives a device another table.
    fn exchange(&self, name: &str, line: Line) -> Result<()> {
        self.suspend(name)?;
        Ok(self.dm.reload(name, &[line])?)
    }

    fn remove_helper(&self) -> Result<()> {
        if self.target_of(&self.helper)?.is_some() {
            self.dm.remove(&self.helper, false)?;
            self.nodes.remove(&self.helper)?;
        }
        Ok(())
    }

    /// What the kernel knows of copiers goes with the last target that asks them: who has the helper open must not keep
    /// it for the next writer, whose epochs begin anew.
    fn end_helper(&self) -> Result<()> {
        let Err(error) = self.remove_helper() else {
            return Ok(());
        };
        self.exchange(&self.helper, self.error_line())?;
        warn!(
            "{} stays, with a table that gives errors: {error}",
            self.helper
        );
        Ok(())
    }

    fn run(mut self, queue: &mpsc::Receiver<Job>) {
        let mut looked = Instant::now();
        loop {
            let patience = if self.backlog.is_empty() { LOOK } else { RETRY };
            match queue.recv_timeout(patience) {
                Ok(job) => self.act(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.pass_on();
            if looked.elapsed() >= LOOK {
                self.look();
                looked = Instant::now();
            }
        }
    }

    fn act(&mut self, job: Job) {
        match job {
            Job::Order(Order::Keep(ballot, requests)) => {
                let waiting = &self.waiting.requests;
                waiting.fetch_sub(requests.len(), Ordering::AcqRel);
                self.keep(ballot, &requests);
            }
            Job::Order(Order::Stable(epoch, ranges)) => {
                let number = epoch.0;
                let orders = ranges.iter().map(|range| holey_core::agent::Order::Stable {
                    epoch: number,
                    range: to_kernel(*range),
                });
                self.tell(orders);
            }
            Job::Order(Order::Epoch(epoch)) => {
                if let Some(promotion) = &mut self.promotion {
                    promotion.epoch = epoch;
                }
                self.begin_epoch(epoch);
            }
            Job::Order(Order::Promote(ballot, epoch, content)) => {
                self.ballot = ballot;
                self.promotion = Some(Promotion { epoch, content });
                self.try_to_promote();
            }
            Job::Order(Order::Demote) => self.demote(),
            Job::Order(Order::Serve(ballot)) => self.serve(ballot),
            Job::Order(Order::Detach) => {
                self.waiting.given_up.store(false, Ordering::Release);
                self.detach();
            }
            Job::Order(Order::ReadVolume) => self.read_volume(),
            Job::Prepare(attachment, done) => {
                let prepared = self.prepare();
                if prepared.is_ok() {
                    self.attachment = Some(attachment);
                }
                // Whoever asked may not wait any more.
                let _ = done.send(prepared.map_err(|error| error.to_string().into()));
            }
            Job::Settled(done) => {
                // Whoever asked may not wait any more.
                let _ = done.send(lock(&self.outcome).clone());
            }
            Job::Fenced => {
                warn!("the volume takes no writes from this node");
                self.demote();
            }
        }
    }

    /// Remembers how an order went; whether that is news.
    fn settle(&self, done: Done) -> bool {
        let mut outcome = lock(&self.outcome);
        let news = *outcome != done;
        *outcome = done;
        news
    }

    /// By a program of its own: it may have to wait for the volume, and nothing can end it then. One at a time is enough.
    fn read_volume(&self) {
        let (path, reading) = (self.volume_path.clone(), self.reading.clone());
        let target = self.inlets.target.clone();
        if reading.swap(true, Ordering::AcqRel) {
            return;
        }
        let read = move || {
            let read = read_block(&path);
            if let Err(error) = &read {
                warn!("{} cannot be read: {error}", path.display());
            }
            reading.store(false, Ordering::Release);
            let input = Input::VolumeRead(read.is_ok());
            if target.blocking_send(input).is_err() {
                info!("the agent ends");
            }
        };
        let thread = thread::Builder::new().name("dmholey-read".to_owned());
        if let Err(error) = thread.spawn(read) {
            warn!("no thread can be made: {error}");
            self.reading.store(false, Ordering::Release);
            self.say(Input::VolumeRead(false));
        }
    }

    fn say(&self, input: Input) {
        if self.inlets.target.blocking_send(input).is_err() {
            info!("the agent ends");
        }
    }

    /// Tells the target, after all that it was told before and has not had room for.
    fn tell(&mut self, orders: impl Iterator<Item = holey_core::agent::Order>) {
        self.backlog.extend(orders);
        self.pass_on();
    }

    fn pass_on(&mut self) {
        match &self.port {
            Some(port) => {
                // It is tried again.
                if let Err(error) = port.tell(&mut self.backlog) {
                    error!("the target does not take an order now: {error}");
                }
            }
            // Nobody waits for what it was to do.
            None => self.backlog.clear(),
        }
    }

    /// Closes the device for agents.
    fn close(&mut self) {
        self.port = None;
        self.backlog.clear();
    }

    fn speaks_for_writer(&self) -> bool {
        let port = self.port.as_ref();
        port.is_some_and(|port| port.role() == Role::Writer)
    }

    fn keep(&mut self, ballot: Ballot, requests: &[(Seq, Range)]) {
        if ballot > self.ballot && self.attachment.is_some() {
            // An agent that starts anew must not listen to the writer before this one.
            self.ballot = ballot;
            if let Err(error) = self.remember() {
                error!(
                    "{} is given up: whom it follows cannot be written down: {error}",
                    self.name
                );
                self.detach();
                return;
            }
        }
        let begun = lock(&self.keeps).begin(ballot, requests);
        let Some(begun) = begun else {
            error!(
                "{} is given up: it is asked for more than a writer can wait for",
                self.name
            );
            self.detach();
            return;
        };
        let order = |(number, range)| holey_core::agent::Order::Keep {
            number,
            range: to_kernel(range),
        };
        self.tell(begun.into_iter().map(order));
    }

    fn begin_epoch(&mut self, epoch: Epoch) {
        self.tell([holey_core::agent::Order::Epoch { epoch: epoch.0 }].into_iter());
    }

    fn open_as_copier(&mut self) -> Result<()> {
        self.keeps = Arc::default();
        let (keeps, inlets) = (self.keeps.clone(), self.inlets.clone());
        let failed = self.inlets.failed.clone();
        let heard = move |events: &[Event], _: &Stop| {
            let mut by_ballot: HashMap<Ballot, Vec<Seq>> = HashMap::new();
            let mut keeps = lock(&keeps);
            for event in events {
                if let Event::Kept { number } = event {
                    if let Some((ballot, seq)) = keeps.end(*number) {
                        by_ballot.entry(ballot).or_default().push(seq);
                    }
                }
            }
            drop(keeps);
            for (ballot, seqs) in by_ballot {
                // The agent may be about to end.
                let _ = inlets.target.blocking_send(Input::Kept(ballot, seqs));
            }
        };
        let file = (self.open)()?;
        let port = Port::open(file, Role::Copier, self.volume, self.chunk, heard, failed)?;
        self.port = Some(port);
        Ok(())
    }

    fn open_as_writer(&self) -> Result<Port> {
        let (inlets, jobs) = (self.inlets.clone(), self.jobs.clone());
        let failed = self.inlets.failed.clone();
        let heard = move |events: &[Event], stop: &Stop| {
            let mut needs: Vec<(Epoch, Vec<Range>)> = Vec::new();
            for event in events {
                // The agent may be about to end: then nobody takes it.
                match *event {
                    Event::Need { epoch, range } => match needs.last_mut() {
                        Some((last, ranges)) if last.0 == epoch => ranges.push(from_kernel(range)),
                        _ => needs.push((Epoch(epoch), vec![from_kernel(range)])),
                    },
                    Event::Drained { epoch } => {
                        let _ = inlets.target.blocking_send(Input::Drained(Epoch(epoch)));
                    }
                    Event::Fenced { .. } => {
                        let _ = jobs.send(Job::Fenced);
                    }
                    Event::Kept { .. } => {}
                }
            }
            for mut need in needs {
                // There is no room while copiers answer nothing; who closes the port does not wait for that.
                while let Err(TrySendError::Full(rest)) = inlets.needs.try_send(need) {
                    if stop.is_said() {
                        return;
                    }
                    need = rest;
                    thread::sleep(RETRY);
                }
            }
        };
        let file = (self.open)()?;
        let port = Port::open(file, Role::Writer, self.volume, self.chunk, heard, failed)?;
        Ok(port)
    }

    /// The view is fixed.
    fn serve(&mut self, ballot: Ballot) {
        self.ballot = ballot;
        let served = self.start_serving();
        let served = served.map_err(|error| format!("{} cannot serve: {error}", self.name));
        if let Err(text) = &served {
            error!("{text}");
            self.detach();
        }
        self.settle(served.map_err(Failure::Refused));
    }

    /// Loads the table of a copier, in the place of one that was not put to use.
    fn prepare(&self) -> Result<()> {
        self.dm.clear(&self.name)?;
        self.dm
            .load(&self.name, &self.overlay_line("holey-copier"))?;
        Ok(())
    }

    fn start_serving(&mut self) -> Result<()> {
        Attached::forget(&self.state)?;
        self.remember()?;
        self.dm.wake(&self.name)?;
        self.open_as_copier()
    }

    /// Writes down what it is a copier of, and whom it follows.
    fn remember(&self) -> Result<()> {
        let Some(attachment) = self.attachment else {
            return Err(TargetError::Wrong("nothing was prepared".to_owned()));
        };
        let attached = Attached {
            boot: boot_id()?,
            attachment,
            ballot: self.ballot,
        };
        Ok(attached.write(&self.state)?)
    }

    /// Nothing is read through the target from here on.
    fn end(&mut self) -> Result<()> {
        self.close();
        self.merging = false;
        self.exchange(&self.name, self.error_line())?;
        self.end_helper()
    }

    /// As long as the kernel does not do it, nobody is told that it is done.
    fn end_for_sure(&mut self) {
        while let Err(error) = self.end() {
            error!(
                "{} cannot be ended, which is tried again: {error}",
                self.name
            );
            thread::sleep(LOOK);
        }
    }

    fn detach(&mut self) {
        self.end_for_sure();
        if let Some(attachment) = self.attachment.take() {
            self.say(Input::Detached(attachment));
        }
    }

    fn demote(&mut self) {
        if self.promotion.take().is_some() {
            self.settle(Ok(()));
        }
        self.end_for_sure();
        self.attachment = None;
        self.say(Input::Demoted(self.ballot));
    }

    /// Sees whether something has come to its end.
    fn look(&mut self) {
        self.try_to_promote();
        let looked = if self.merging {
            self.look_at_merge()
        } else if self.attachment.is_some() && self.port.is_some() {
            self.is_valid().map(|valid| {
                if !valid {
                    error!("the overlay is lost: its COW device is full, or has failed");
                    self.detach();
                }
            })
        } else {
            Ok(())
        };
        if let Err(error) = looked {
            error!("{}: {error}", self.name);
        }
    }

    fn is_valid(&self) -> Result<bool> {
        Ok(!matches!(
            State::parse(&self.status_of(&self.name)?),
            Some(State::Invalid)
        ))
    }
}

fn to_kernel(range: Range) -> stable::Range {
    stable::Range {
        first: range.first,
        len: range.len.into(),
    }
}

fn from_kernel(range: stable::Range) -> Range {
    Range {
        first: range.first,
        // The records have no room for more.
        len: u32::try_from(range.len).unwrap_or(u32::MAX),
    }
}
