// SPDX-License-Identifier: GPL-2.0-or-later

//! The loop: look at all snapshots, do what their tracks say, and wait for an event or the time of the next look.

use super::backing;
use super::backing::Sysfs;
use super::config::Config;
use super::config::Wanted;
use super::event;
use super::event::Event;
use super::event::Kind;
use super::event::Voice;
use super::extend;
use super::extend::Snapshot;
use super::policy;
use super::track::Seen;
use super::track::Step;
use super::track::Told;
use super::track::Track;
use crate::dm::flow;
use crate::dm::flow::Report;
use crate::dm::flow::StoreFacts;
use crate::dm::ioctl::Dm;
use crate::dm::status::State;
use crate::dm::table::Role;
use crate::dm::DevNum;
use crate::dm::Error;
use crate::dm::Kernel;
use crate::exit::Exit;
use crate::signals;
use crate::units::human;
use anyhow::anyhow;
use anyhow::Context;
use dmholey_cow::format::ChunkSize;
use dmholey_cow::format::SECTOR_SIZE;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::mm::MlockAllFlags;
use sd_notify::NotifyState;
use std::collections::BTreeMap;
use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

/// However many events there are, between two looks there is at least so much time.
const BREATH: Duration = Duration::from_millis(10);

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only these devices; all if there are none.
    pub names: Vec<String>,
    /// The file.
    pub config: Config,
    /// What was said on the command line.
    pub wanted: Wanted,
    /// Time between two looks.
    pub interval: Duration,
    /// A command for the shell.
    pub hook: Option<String>,
    /// Nothing is done, only told.
    pub dry_run: bool,
}

/// What a thread has to tell.
#[derive(Debug)]
enum Message {
    /// An extension has ended.
    Done {
        name: String,
        device: DevNum,
        result: Result<(), String>,
    },
    /// A call of the hook has ended.
    Hook {
        event: Event,
        result: Result<(), String>,
    },
}

/// A snapshot or a merge that is watched.
#[derive(Debug)]
struct Watched {
    device: DevNum,
    track: Track,
    /// Whether it was there at the last look.
    present: bool,
}

/// The monitor.
#[derive(Debug)]
pub struct Watch {
    dm: Arc<Dm>,
    options: Options,
    voice: Voice,
    begin: Instant,
    watched: BTreeMap<String, Watched>,
    /// What is wrong with devices that cannot be looked at.
    odd: BTreeMap<String, String>,
    messages: mpsc::Receiver<Message>,
    sender: mpsc::Sender<Message>,
    /// Whatever is written to the second can be read from the first: it ends a wait.
    woken: UnixStream,
    waker: UnixStream,
    /// Threads that run.
    threads: usize,
    /// The worst that was told.
    exit: Exit,
}

impl Watch {
    /// A monitor that has not looked yet.
    pub fn new(dm: Dm, options: Options, voice: Voice) -> anyhow::Result<Self> {
        let (sender, messages) = mpsc::channel();
        let (woken, waker) = UnixStream::pair().context("cannot make a socket")?;
        woken.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        Ok(Self {
            dm: Arc::new(dm),
            options,
            voice,
            begin: Instant::now(),
            watched: BTreeMap::new(),
            odd: BTreeMap::new(),
            messages,
            sender,
            woken,
            waker,
            threads: 0,
            exit: Exit::Ok,
        })
    }

    /// Looks once, and does what has to be done.
    pub fn once(mut self) -> anyhow::Result<Exit> {
        for name in &self.options.names {
            self.dm.info(name)?;
        }
        self.lock_memory();
        self.look(true)?;
        self.wait_for_threads()?;
        // This shows what has come of it.
        self.look(false)?;
        self.wait_for_threads()?;
        Ok(self.exit)
    }

    /// What it is made of may be on what it suspends.
    fn lock_memory(&self) {
        let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE;
        if let Err(error) = rustix::mm::mlockall(all) {
            let text = format!("the monitor cannot lock its memory ({error}): it may get stuck when the root file system waits for space");
            self.voice.tell(&Event::problem(text));
        }
    }

    /// Watches until a signal comes.
    pub fn run(mut self) -> anyhow::Result<Exit> {
        signals::install_with(&self.waker)?;
        self.lock_memory();
        let watchdog = sd_notify::watchdog_enabled();
        let mut state = NotifyState::Ready;
        while !signals::stopped() {
            self.dm.arm_poll()?;
            self.look(true)?;
            // Without systemd there is nobody to notify.
            let _ = sd_notify::notify(&[state]);
            state = NotifyState::Watchdog;
            self.wait(watchdog.map(|time| time / 3))?;
            self.receive();
        }
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        // Only what was begun.
        while self.watched.values().any(|watched| watched.track.is_busy()) && self.threads > 0 {
            self.wait(None)?;
            self.receive();
        }
        Ok(Exit::Ok)
    }

    fn wait_for_threads(&mut self) -> anyhow::Result<()> {
        while self.threads > 0 {
            let message = self.messages.recv().context("a thread is gone")?;
            self.take(message);
        }
        Ok(())
    }

    /// Waits for an event, a thread, a signal, or the time of the next look.
    fn wait(&mut self, most: Option<Duration>) -> anyhow::Result<()> {
        std::thread::sleep(BREATH);
        let now = self.begin.elapsed();
        let latest = now
            + most.map_or(self.options.interval, |most| {
                most.min(self.options.interval)
            });
        let present = self.watched.values().filter(|watched| watched.present);
        let next = present.map(|watched| watched.track.next(now, latest)).min();
        let timeout = next.unwrap_or(latest).saturating_sub(now);
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let mut fds = [
            PollFd::new(&*self.dm, PollFlags::IN),
            PollFd::new(&self.woken, PollFlags::IN),
        ];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(anyhow!(error).context("cannot wait for events")),
        }
        let mut bytes = [0; 64];
        while matches!((&self.woken).read(&mut bytes), Ok(1..)) {}
        Ok(())
    }

    fn receive(&mut self) {
        while let Ok(message) = self.messages.try_recv() {
            self.take(message);
        }
    }

    fn take(&mut self, message: Message) {
        self.threads = self.threads.saturating_sub(1);
        match message {
            Message::Done {
                name,
                device,
                result,
            } => {
                let watched = self.watched.get_mut(&name);
                if let Some(watched) = watched.filter(|watched| watched.device == device) {
                    watched.track.done(result);
                }
            }
            Message::Hook { event, result } => {
                if let Err(why) = result {
                    self.voice.tell(&Event {
                        message: format!(
                            "the hook has failed to take '{}': {why}",
                            event.event.word()
                        ),
                        event: Kind::HookFailed,
                        ..event
                    });
                }
            }
        }
    }

    fn look(&mut self, may_act: bool) -> anyhow::Result<()> {
        let mut devices = self.dm.devices()?;
        devices.sort();
        for watched in self.watched.values_mut() {
            watched.present = false;
        }
        let mut odd = BTreeMap::new();
        for (name, number) in devices {
            let names = &self.options.names;
            if !names.is_empty() && !names.contains(&name) {
                continue;
            }
            match flow::report(&*self.dm, &name, number) {
                Ok(Some(report)) => self.look_at(&report, may_act),
                // None of ours, or gone since the list was made.
                Ok(None) | Err(Error::NoDevice(_)) => {}
                Err(error) => {
                    let text = format!("{error:#}");
                    if self.odd.get(&name) != Some(&text) {
                        self.voice.tell(&Event::problem(text.clone()));
                    }
                    odd.insert(name, text);
                }
            }
        }
        self.odd = odd;
        self.forget_absent();
        Ok(())
    }

    fn forget_absent(&mut self) {
        let voice = &self.voice;
        self.watched.retain(|name, watched| {
            if !watched.present && !watched.track.is_busy() {
                voice.tell(&Event {
                    event: Kind::Gone,
                    name: name.clone(),
                    device: Some(watched.device),
                    ..Event::problem("gone".to_owned())
                });
            }
            watched.present || watched.track.is_busy()
        });
    }

    fn look_at(&mut self, report: &Report, may_act: bool) {
        let Some(store) = report
            .store
            .as_ref()
            .filter(|_| report.role != Role::Origin)
        else {
            return;
        };
        let name = &report.name;
        let Some(policy) = self.options.config.policy(name, self.options.wanted) else {
            return;
        };
        let known = self.watched.get(name).map(|watched| watched.device);
        if known != Some(report.device) {
            let fresh = Watched {
                device: report.device,
                track: Track::new(policy),
                present: true,
            };
            self.watched.insert(name.clone(), fresh);
            let text = format!("watching this {}: {}", report.target, report.state);
            self.tell(report, Kind::Watching, None, text);
        }
        let chunk = store
            .chunk_sectors
            .and_then(|sectors| ChunkSize::new(sectors).ok());
        let seen = Seen {
            role: report.role,
            state: report.state,
            useful: chunk.map(|chunk| policy::useful_sectors(report.sectors, chunk, store.kind)),
            chunk: store.chunk_sectors.unwrap_or(1).into(),
        };
        let now = self.begin.elapsed();
        let Some(watched) = self.watched.get_mut(name) else {
            return;
        };
        watched.present = true;
        for step in watched.track.look(now, seen) {
            match step {
                Step::Extend { to } if may_act => self.extend(report, store, to),
                Step::Extend { .. } => {}
                Step::Tell(told) => self.tell_of(report, told),
            }
        }
    }

    fn extend(&mut self, report: &Report, store: &StoreFacts, to: u64) {
        let size = human(to.saturating_mul(SECTOR_SIZE));
        if self.options.dry_run {
            let text = format!("{}; it would be extended to {size}", report.state);
            self.tell(report, Kind::WouldExtend, Some(to), text);
            return;
        }
        let text = format!("{}; extending it to {size}", report.state);
        let event = self.tell(report, Kind::Extend, Some(to), text);
        let (dm, hook) = (Arc::clone(&self.dm), self.options.hook.clone());
        let snapshot = Snapshot {
            name: report.name.clone(),
            origin: store.origin,
        };
        let (name, device) = (report.name.clone(), report.device);
        let job = move || {
            let result = grow(&dm, &event, to, &snapshot, hook.as_deref());
            Message::Done {
                name,
                device,
                result: result.map_err(|error| format!("{error:#}")),
            }
        };
        if let Err(error) = self.spawn(job) {
            if let Some(watched) = self.watched.get_mut(&report.name) {
                watched
                    .track
                    .done(Err(format!("cannot make a thread: {error}")));
            }
        }
    }

    fn spawn(&mut self, job: impl FnOnce() -> Message + Send + 'static) -> std::io::Result<()> {
        let sender = self.sender.clone();
        let mut waker = self.waker.try_clone()?;
        let run = move || {
            // The receiver is gone when the monitor ends.
            let _ = sender.send(job());
            // Full means that it is awake already.
            let _ = waker.write(&[1]);
        };
        std::thread::Builder::new()
            .stack_size(event::STACK)
            .spawn(run)?;
        self.threads += 1;
        Ok(())
    }

    fn tell_of(&mut self, report: &Report, told: Told) {
        let state = report.state;
        let size = |sectors: u64| human(sectors.saturating_mul(SECTOR_SIZE));
        let (kind, text) = match told {
            Told::Extended { from } => {
                let text = format!("extended from {}: {state}", size(from));
                (Kind::Extended, text)
            }
            Told::Failed { why, retry } => {
                let text = format!(
                    "cannot be extended ({state}), next try in {} s: {why}",
                    retry.as_secs()
                );
                (Kind::Failed, text)
            }
            Told::Maximum => {
                let text = format!("{state}; it is not extended, this is its maximum");
                (Kind::Maximum, text)
            }
            Told::Invalid => (Kind::Invalid, "the snapshot is invalid".to_owned()),
            Told::Overflow => {
                let text = "the store was full; the snapshot can only be read".to_owned();
                (Kind::Overflow, text)
            }
            Told::MergeFailed => {
                let text = "the merge has failed; the log of the kernel says where".to_owned();
                (Kind::MergeFailed, text)
            }
        };
        match kind {
            Kind::Failed => self.exit = Exit::Failed,
            Kind::Extended => {}
            _ if self.exit == Exit::Ok => self.exit = Exit::Findings,
            _ => {}
        }
        let event = self.tell(report, kind, None, text);
        let Some(hook) = self.options.hook.clone() else {
            return;
        };
        if self.options.dry_run || !kind.is_for_hook() {
            return;
        }
        let call = move || Message::Hook {
            result: event::call_hook(&hook, &event),
            event,
        };
        if let Err(error) = self.spawn(call) {
            let text = format!("cannot make a thread for the hook: {error}");
            self.tell(report, Kind::HookFailed, None, text);
        }
    }

    fn tell(&self, report: &Report, kind: Kind, wanted: Option<u64>, message: String) -> Event {
        let usage = match report.state {
            State::Ok(usage) => Some(usage),
            _ => None,
        };
        let event = Event {
            event: kind,
            name: report.name.clone(),
            device: Some(report.device),
            cow: report.store.as_ref().map(|store| store.cow),
            allocated_sectors: usage.map(|usage| usage.allocated),
            total_sectors: usage.map(|usage| usage.total),
            wanted_sectors: wanted,
            message,
        };
        self.voice.tell(&event);
        event
    }
}

/// Makes a COW device larger, by itself or by the hook.
fn grow(
    dm: &Dm,
    event: &Event,
    to: u64,
    snapshot: &Snapshot,
    hook: Option<&str>,
) -> anyhow::Result<()> {
    let cow = event.cow.ok_or_else(|| anyhow!("it has no COW device"))?;
    match backing::find(dm, &Sysfs, cow)? {
        Ok(backing) => extend::extend(dm, &Sysfs, &backing, to, snapshot),
        Err(what) => {
            let hook = hook.ok_or_else(|| {
                anyhow!("its COW device {cow} is {what}, which only a --hook could extend")
            })?;
            event::call_hook(hook, event).map_err(|why| anyhow!("the hook: {why}"))
        }
    }
}
