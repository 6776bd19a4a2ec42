// SPDX-License-Identifier: GPL-2.0-or-later

//! The thread for the target, with a kernel that is none.

use super::*;
use dmholey::dm::Error;
use dmholey::dm::Info;
use dmholey_cluster::event::Content;
use holey_core::agent::Order as Record;
use holey_core::agent::LEN;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

const NAME: &str = "disk";
const HELPER: &str = "disk-writer";
const OWN: Attachment = Attachment(7);

fn ballot(number: u64) -> Ballot {
    Ballot { number, node: 1 }
}

/// A handle to a thread that only says how preparing a target went.
pub(crate) fn stand_in(
    inlets: &Inlets,
    mut prepare: impl FnMut() -> Done + Send + 'static,
) -> Handle {
    let (jobs, queue) = mpsc::channel();
    thread::spawn(move || {
        for job in queue {
            match job {
                Job::Prepare(_, done) => done.send(prepare()).unwrap(),
                Job::Settled(done) => done.send(Ok(())).unwrap(),
                _ => {}
            }
        }
    });
    Handle {
        jobs,
        waiting: Arc::default(),
        failed: inlets.failed.clone(),
        outcome: Arc::new(Mutex::new(Ok(()))),
    }
}

#[derive(Default)]
struct Device {
    table: Option<Line>,
    loaded: Option<Line>,
    suspended: bool,
}

#[derive(Default)]
struct State {
    devices: BTreeMap<String, Device>,
    /// Devices that somebody has open.
    open: Vec<&'static str>,
    /// How often the list of a merge cannot be written.
    failures: usize,
    /// There is nothing left to merge.
    merged: bool,
    /// A table that is not accepted.
    refused: Option<&'static str>,
    agents: Vec<UnixStream>,
    /// What is known of copiers, as long as there is a writer's target: the epoch.
    remote: Option<u64>,
    /// Epochs that were not above that.
    stale: Vec<u64>,
}

/// What device-mapper and the module do, as far as the thread can tell.
#[derive(Clone, Default)]
struct Machine(Arc<Mutex<State>>);

impl Machine {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// The target of a device; none if there is no such device.
    fn target(&self, name: &str) -> Option<String> {
        let state = self.state();
        let table = state.devices.get(name)?.table.as_ref();
        Some(table.map_or_else(String::new, |line| line.target.clone()))
    }

    fn is_suspended(&self) -> bool {
        self.state().devices[NAME].suspended
    }

    /// The module's device, opened anew.
    fn open(&self) -> io::Result<File> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        self.state().agents.push(theirs);
        Ok(File::from(OwnedFd::from(ours)))
    }

    /// Does what agents have told, and says which epoch it is.
    fn epoch(&self) -> Option<u64> {
        let state = &mut *self.state();
        for agent in &mut state.agents {
            let mut record = [0; LEN];
            while agent.read_exact(&mut record).is_ok() {
                if let Ok(Record::Epoch { epoch }) = Record::decode(&record) {
                    match &mut state.remote {
                        Some(last) if *last < epoch => *last = epoch,
                        _ => state.stale.push(epoch),
                    }
                }
            }
        }
        state.remote
    }

    fn about<R>(&self, name: &str, act: impl FnOnce(&mut Device) -> R) -> dm::Result<R> {
        self.epoch();
        let state = &mut *self.state();
        let device = state.devices.get_mut(name);
        let done = act(device.ok_or_else(|| Error::NoDevice(name.to_owned()))?);
        let tables = state
            .devices
            .values()
            .filter_map(|device| device.table.as_ref());
        let is_driven = { tables }.any(|line| line.target == "holey-writer");
        state.remote = is_driven.then(|| state.remote.unwrap_or_default());
        Ok(done)
    }
}

fn refused(name: &str, action: &'static str) -> Error {
    Error::Refused {
        device: name.to_owned(),
        action,
        said: "because".to_owned(),
        source: io::ErrorKind::Other.into(),
    }
}

impl Kernel for Machine {
    fn targets(&self) -> dm::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn devices(&self) -> dm::Result<Vec<(String, DevNum)>> {
        Ok(Vec::new())
    }

    fn create(&self, name: &str, _: &str) -> dm::Result<DevNum> {
        let device = Device::default();
        self.state().devices.insert(name.to_owned(), device);
        Ok(DevNum { major: 1, minor: 1 })
    }

    fn load(&self, name: &str, line: &Line) -> dm::Result<()> {
        if self.state().refused == Some(line.target.as_str()) {
            return Err(refused(name, "accept its table"));
        }
        self.about(name, |device| device.loaded = Some(line.clone()))
    }

    fn resume(&self, name: &str) -> dm::Result<()> {
        self.wake(name)
    }

    fn resume_hidden(&self, name: &str) -> dm::Result<()> {
        self.wake(name)
    }

    fn remove(&self, name: &str, _: bool) -> dm::Result<()> {
        if self.state().open.contains(&name) {
            return Err(Error::Busy(name.to_owned()));
        }
        self.about(name, |device| *device = Device::default())?;
        self.state().devices.remove(name);
        Ok(())
    }

    fn table(&self, name: &str) -> dm::Result<Vec<Line>> {
        self.about(name, |device| device.table.clone().into_iter().collect())
    }

    fn status(&self, name: &str) -> dm::Result<Vec<Line>> {
        let mut lines = self.table(name)?;
        let epoch = self.epoch().unwrap_or_default();
        let allocated = if self.state().merged { 8 } else { 16 };
        for line in &mut lines {
            line.params = match line.target.as_str() {
                "holey-writer" => format!("{epoch} open agent 0/100 0 0 0 0"),
                _ => format!("{allocated}/64 8"),
            };
        }
        Ok(lines)
    }

    fn info(&self, name: &str) -> dm::Result<Info> {
        self.about(name, |device| Info {
            number: DevNum { major: 1, minor: 1 },
            uuid: String::new(),
            suspended: device.suspended,
            inactive: device.loaded.is_some(),
            events: 0,
        })
    }

    fn suspend(&self, name: &str, _: bool) -> dm::Result<()> {
        self.about(name, |device| device.suspended = true)
    }

    /// As the core does: tables are exchanged first, and a target that refuses to be resumed stays suspended.
    fn wake(&self, name: &str) -> dm::Result<()> {
        let is_merge = self.about(name, |device| {
            if let Some(loaded) = device.loaded.take() {
                device.table = Some(loaded);
                device.suspended = true;
            }
            let target = device.table.as_ref().map(|line| line.target.as_str());
            device.suspended && target == Some("holey-merge")
        })?;
        let failures = self.state().failures;
        if is_merge && failures > 0 {
            self.state().failures = failures - 1;
            return Err(refused(name, "resume it"));
        }
        self.about(name, |device| device.suspended = false)
    }

    fn clear(&self, name: &str) -> dm::Result<()> {
        self.about(name, |device| device.loaded = None)
    }

    fn reload(&self, name: &str, lines: &[Line]) -> dm::Result<()> {
        self.load(name, &lines[0])?;
        self.wake(name)
    }
}

impl Nodes for Machine {
    fn add(&self, _: &str, _: DevNum) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
}

/// A host, and what it remembers.
struct Host {
    machine: Machine,
    state: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        Self {
            machine: Machine::default(),
            state: tempfile::tempdir().unwrap(),
        }
    }

    /// The thread of a new agent; what its target was.
    fn agent(&self, won: Ballot) -> (Worker, Before) {
        let (inlets, _) = crate::driver::queues();
        let machine = self.machine.clone();
        let mut worker = Worker {
            dm: Box::new(machine.clone()),
            nodes: Box::new(machine.clone()),
            open: Box::new(move || machine.open()),
            name: NAME.to_owned(),
            helper: HELPER.to_owned(),
            volume: DevNum { major: 8, minor: 0 },
            volume_path: PathBuf::new(),
            reading: Arc::default(),
            cow: DevNum { major: 8, minor: 1 },
            chunk: ChunkSize::new(8).unwrap(),
            write_back: None,
            sectors: 800,
            state: self.state.path().to_owned(),
            inlets,
            jobs: mpsc::channel().0,
            waiting: Arc::default(),
            port: None,
            backlog: VecDeque::new(),
            keeps: Arc::default(),
            attachment: None,
            ballot: Ballot::default(),
            merging: false,
            promotion: None,
            outcome: Arc::new(Mutex::new(Ok(()))),
        };
        let before = worker.before(won).unwrap();
        (worker, before)
    }

    fn copier(&self) -> Worker {
        let (mut worker, before) = self.agent(Ballot::default());
        assert_eq!(before, Before::Nothing);
        worker.prepare().unwrap();
        worker.attachment = Some(OWN);
        worker.serve(Ballot { number: 1, node: 0 });
        assert_eq!(self.target(), "holey-copier");
        worker
    }

    fn target(&self) -> String {
        self.machine.target(NAME).unwrap()
    }

    fn merging(&self) -> Option<Merging> {
        Merging::read(self.state.path()).unwrap()
    }
}

fn promote(worker: &mut Worker, number: u64, epoch: u64, content: Content) {
    let order = Order::Promote(ballot(number), Epoch(epoch), content);
    worker.act(Job::Order(order));
}

fn trouble(worker: &Worker) -> String {
    let outcome = lock(&worker.outcome).clone();
    outcome
        .err()
        .map_or_else(String::new, |failure| failure.text().to_owned())
}

#[test]
fn half_a_merge_outlives_later_ballots_of_its_node() {
    let host = Host::new();
    let mut worker = host.copier();
    promote(&mut worker, 2, 1, Content::View);
    assert_eq!(host.target(), "holey-merge");
    drop(worker);
    // The next agent claims once more.
    let (mut worker, before) = host.agent(ballot(2));
    assert_eq!(before, Before::Writer(ballot(2), Epoch(1), true));
    promote(&mut worker, 3, 2, Content::AsItIs);
    assert!(worker.merging);
    drop(worker);
    // Power is lost, and the volume is half of one thing and half of another.
    host.machine.state().devices.clear();
    let (mut worker, before) = host.agent(ballot(3));
    assert_eq!(before, Before::Nothing);
    let merging = host.merging().unwrap();
    assert!(!merging.is_over(ballot(3)));
    assert!(merging.is_over(Ballot { number: 4, node: 0 }));
    assert!(!merging.is_over(Ballot { number: 1, node: 0 }));
    // A promotion that does not come to pass changes nothing.
    host.machine.state().refused = Some("holey-writer");
    promote(&mut worker, 4, 1, Content::List);
    worker.act(Job::Order(Order::Demote));
    assert!(!host.merging().unwrap().is_over(ballot(4)));
    host.machine.state().refused = None;
    promote(&mut worker, 5, 1, Content::List);
    assert_eq!(host.target(), "holey-merge");
    assert!(worker.merging);
}

#[test]
fn a_merge_that_has_ended_is_forgotten() {
    let host = Host::new();
    let mut worker = host.copier();
    promote(&mut worker, 2, 1, Content::View);
    let merging = host.merging().unwrap();
    host.machine.state().merged = true;
    worker.look();
    assert_eq!(host.target(), "holey-writer");
    assert!(host.merging().is_none());
    // As if the agent had ended just before that.
    merging.write(host.state.path()).unwrap();
    drop(worker);
    let (mut worker, before) = host.agent(ballot(2));
    assert!(matches!(before, Before::Writer(_, _, false)));
    promote(&mut worker, 3, 2, Content::AsItIs);
    assert!(host.merging().is_none());
}

#[test]
fn a_view_whose_list_is_not_taken_stays() {
    let host = Host::new();
    let mut worker = host.copier();
    host.machine.state().failures = usize::MAX;
    promote(&mut worker, 2, 1, Content::View);
    for _ in 0..3 {
        worker.look();
        assert_eq!(host.target(), "holey-merge");
        assert!(host.machine.is_suspended() && !worker.merging);
        assert!(trouble(&worker).contains("is tried again"));
    }
    drop(worker);
    // Nor does the next agent end it.
    let (mut worker, before) = host.agent(ballot(2));
    assert!(matches!(before, Before::Writer(_, _, true)));
    promote(&mut worker, 3, 2, Content::AsItIs);
    worker.look();
    assert_eq!(host.target(), "holey-merge");
    host.machine.state().failures = 0;
    worker.look();
    assert!(!host.machine.is_suspended() && worker.merging);
    assert_eq!(trouble(&worker), "");
}

#[test]
fn a_list_that_is_taken_the_second_time_is_taken() {
    let host = Host::new();
    let mut worker = host.copier();
    host.machine.state().failures = 1;
    promote(&mut worker, 2, 1, Content::View);
    worker.look();
    assert_eq!(host.target(), "holey-merge");
    assert!(!host.machine.is_suspended() && worker.merging);
    assert_eq!(trouble(&worker), "");
}

#[test]
fn a_copier_whose_new_table_is_refused_goes_on() {
    let host = Host::new();
    let mut worker = host.copier();
    host.machine.state().refused = Some("holey-merge");
    promote(&mut worker, 2, 1, Content::View);
    assert_eq!(host.target(), "holey-copier");
    assert!(!host.machine.is_suspended());
    host.machine.state().refused = None;
    worker.look();
    assert_eq!(host.target(), "holey-merge");
}

/// A merging writer of epoch 5 is demoted while somebody has the helper open.
fn demoted() -> (Host, Worker) {
    let host = Host::new();
    let mut worker = host.copier();
    promote(&mut worker, 2, 1, Content::View);
    worker.act(Job::Order(Order::Epoch(Epoch(5))));
    assert_eq!(host.machine.epoch(), Some(5));
    host.machine.state().open = vec![HELPER];
    worker.act(Job::Order(Order::Demote));
    assert_eq!(host.target(), "error");
    assert_eq!(host.machine.target(HELPER).as_deref(), Some("error"));
    (host, worker)
}

#[test]
fn epochs_begin_anew_though_somebody_has_the_helper_open() {
    for (content, driver) in [(Content::List, HELPER), (Content::Volume, NAME)] {
        let (host, mut worker) = demoted();
        promote(&mut worker, 3, 1, content);
        assert_eq!(trouble(&worker), "");
        assert_eq!(host.machine.target(driver).as_deref(), Some("holey-writer"));
        assert_eq!(host.machine.epoch(), Some(1));
        assert!(host.machine.state().stale.is_empty());
    }
}

#[test]
fn an_agent_starts_though_somebody_has_the_helper_open() {
    let (host, worker) = demoted();
    drop(worker);
    let (_, before) = host.agent(ballot(2));
    assert_eq!(before, Before::Nothing);
    host.machine.state().open = Vec::new();
    host.agent(ballot(2));
    assert_eq!(host.machine.target(HELPER), None);
}

#[test]
fn a_writer_that_asks_a_target_that_waits_loses_its_copier() {
    let host = Host::new();
    let mut worker = host.copier();
    let (jobs, queue) = mpsc::channel();
    let mut handle = Handle {
        jobs,
        waiting: worker.waiting.clone(),
        failed: worker.inlets.failed.clone(),
        outcome: worker.outcome.clone(),
    };
    let range = Range { first: 0, len: 1 };
    let mut seqs = (0..).map(Seq);
    let mut asks = || {
        let requests = seqs.by_ref().take(1 << 13).map(|seq| (seq, range));
        handle.act(Order::Keep(ballot(1), requests.collect()));
    };
    let most = MOST_KEEPS >> 13;
    (0..2 * most).for_each(|_| asks());
    let waiting: Vec<Job> = queue.try_iter().collect();
    assert_eq!(waiting.len(), most + 1);
    waiting.into_iter().for_each(|job| worker.act(job));
    assert_eq!(host.target(), "error");
    // There is room for the next one.
    asks();
    assert_eq!(queue.try_iter().count(), 1);
}
