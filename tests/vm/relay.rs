// SPDX-License-Identifier: GPL-2.0-or-later

//! The agents of a whole cluster in one program, for tests of the targets: what the writer's target needs is asked
//! of the copiers' targets on the same machine, without a network in between. The benchmarks use it as well, and what
//! it does counts in their time: it moves as many records at once as there are.
//!
//! ```text
//! relay serve VOLUME CHUNK CONTROL       speaks for the writer on VOLUME until it is told to stop
//! relay tell  CONTROL join VOLUME NAME   begins an epoch, resumes the device NAME, a copier on VOLUME, and goes on
//! relay tell  CONTROL drop VOLUME        asks the copiers on VOLUME for nothing any more
//! relay tell  CONTROL epoch              begins an epoch
//! relay tell  CONTROL delay MICROSECONDS answers take so much longer
//! relay tell  CONTROL hold               keeps answers back
//! relay tell  CONTROL release            no longer
//! relay tell  CONTROL stop
//! relay record VOLUME CHUNK ROLE KIND LEN NUMBER FIRST
//!                                        writes a record as an agent of ROLE (writer, copier, none)
//! ```

use std::collections::VecDeque;
use std::env;
use std::ffi::c_int;
use std::ffi::c_long;
use std::ffi::c_ulong;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::process::ExitCode;
use std::ptr;
use std::time::Duration;
use std::time::Instant;

const LEN: usize = 24;
const RECORDS: usize = 512;
const BIND_WRITER: u32 = 1;
const BIND_COPIER: u32 = 2;
const KEEP: u32 = 3;
const STABLE: u32 = 4;
const EPOCH: u32 = 5;
const NEED: u32 = 16;
const DRAINED: u32 = 17;
const FENCED: u32 = 18;
const KEPT: u32 = 19;
const POLLIN: i16 = 1;
const POLLOUT: i16 = 4;
const PR_SET_TIMERSLACK: c_int = 29;
/// How long it sleeps when nothing is due.
const IDLE: Duration = Duration::from_secs(1);

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: i16,
    revents: i16,
}

#[repr(C)]
struct TimeSpec {
    seconds: c_long,
    nanoseconds: c_long,
}

extern "C" {
    fn ppoll(fds: *mut PollFd, count: c_ulong, timeout: *const TimeSpec, mask: *const u8) -> c_int;
    fn fcntl(fd: c_int, command: c_int, argument: c_int) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
}

type Outcome<T> = Result<T, String>;

#[derive(Clone, Copy, Debug)]
struct Record {
    kind: u32,
    len: u32,
    number: u64,
    first: u64,
}

impl Record {
    fn encode(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..4].copy_from_slice(&self.kind.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.len.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.number.to_ne_bytes());
        bytes[16..].copy_from_slice(&self.first.to_ne_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Self {
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        Self {
            kind: word(0),
            len: word(4),
            number: long(8),
            first: long(16),
        }
    }
}

/// The device, opened for the targets on a volume.
struct Port {
    volume: String,
    file: File,
    /// Records that the target has not taken yet.
    outgoing: Vec<u8>,
    /// The bit of a copier in what a request lacks.
    bit: u64,
}

fn open() -> Outcome<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).open("/dev/dmholey");
    file.map_err(|error| format!("/dev/dmholey: {error}"))
}

fn bind(volume: &str, chunk: u64, kind: u32) -> Outcome<Record> {
    let number = std::fs::metadata(volume).map_err(|error| format!("{volume}: {error}"))?.rdev();
    let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00);
    Ok(Record {
        kind,
        len: 1,
        number: major << 32 | minor,
        first: chunk,
    })
}

impl Port {
    fn new(volume: &str, chunk: u64, kind: u32) -> Outcome<Self> {
        let mut port = Self {
            volume: volume.to_owned(),
            file: open()?,
            outgoing: Vec::new(),
            bit: 0,
        };
        port.file
            .write_all(&bind(volume, chunk, kind)?.encode())
            .map_err(|error| format!("{volume}: cannot be bound: {error}"))?;
        Ok(port)
    }

    fn send(&mut self, record: Record) {
        self.outgoing.extend_from_slice(&record.encode());
    }

    /// Writes what the target takes now.
    fn flush(&mut self) -> Outcome<()> {
        let mut sent = 0;
        while sent < self.outgoing.len() {
            let end = self.outgoing.len().min(sent + LEN * RECORDS);
            match self.file.write(&self.outgoing[sent..end]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(format!("{}: {error}", self.volume)),
            }
        }
        self.outgoing.drain(..sent);
        Ok(())
    }

    /// Reads what the target says now.
    fn read(&mut self, records: &mut Vec<Record>) -> Outcome<()> {
        let mut bytes = [0; LEN * RECORDS];
        records.clear();
        match self.file.read(&mut bytes) {
            Ok(count) => records.extend(bytes[..count].chunks(LEN).map(Record::decode)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(format!("{}: {error}", self.volume)),
        }
        Ok(())
    }

    fn poll(&self) -> PollFd {
        let blocked = if self.outgoing.is_empty() { 0 } else { POLLOUT };
        PollFd {
            fd: self.file.as_raw_fd(),
            events: POLLIN | blocked,
            revents: 0,
        }
    }
}

/// A request that is not answered by all.
struct Request {
    need: Record,
    /// Bits of copiers.
    missing: u64,
}

struct Relay {
    chunk: u64,
    writer: Port,
    copiers: Vec<Port>,
    epoch: u64,
    /// Whether the epoch has been drained.
    open: bool,
    /// Needs are kept back until a copier has been resumed.
    early: Vec<Record>,
    /// By their numbers, from `first` on.
    requests: VecDeque<Option<Request>>,
    first: u64,
    /// When it woke up.
    now: Instant,
    delay: Duration,
    /// Answers are kept back.
    held: bool,
    answers: VecDeque<(Instant, Record)>,
    joining: Option<(UnixStream, Option<(String, String)>)>,
}

impl Relay {
    fn begin_epoch(&mut self) {
        self.epoch += 1;
        self.open = false;
        self.first += self.requests.len() as u64;
        self.requests.clear();
        self.answers.clear();
        self.early.clear();
        self.writer.send(Record {
            kind: EPOCH,
            len: 0,
            number: self.epoch,
            first: 0,
        });
    }

    fn from_writer(&mut self, record: Record) -> Outcome<()> {
        match record.kind {
            NEED if record.number == self.epoch && self.open => self.need(record),
            NEED if record.number == self.epoch => self.early.push(record),
            NEED => {}
            DRAINED if record.number == self.epoch => {
                if let Some((mut stream, join)) = self.joining.take() {
                    let done = self.join(join);
                    answer(&mut stream, done);
                }
                self.open = true;
                for record in std::mem::take(&mut self.early) {
                    self.need(record);
                }
            }
            DRAINED => {}
            FENCED => match self.joining.take() {
                Some((mut stream, _)) => answer(&mut stream, Err("fenced".into())),
                None => println!("fenced"),
            },
            kind => return Err(format!("the writer's target says {kind}")),
        }
        Ok(())
    }

    fn join(&mut self, join: Option<(String, String)>) -> Outcome<String> {
        let Some((volume, name)) = join else {
            return Ok(format!("epoch {}", self.epoch));
        };
        let resumed = Command::new("dmsetup").args(["resume", &name]).status();
        if !resumed.map_err(|error| error.to_string())?.success() {
            return Err(format!("{name} cannot be resumed"));
        }
        let mut copier = Port::new(&volume, self.chunk, BIND_COPIER)?;
        copier.bit = 1 << self.copiers.iter().fold(0, |taken, copier| taken | copier.bit).trailing_ones();
        self.copiers.push(copier);
        Ok(format!("epoch {}", self.epoch))
    }

    fn need(&mut self, need: Record) {
        if self.copiers.is_empty() {
            self.stable(need);
            return;
        }
        let keep = Record {
            kind: KEEP,
            number: self.first + self.requests.len() as u64,
            ..need
        };
        let mut missing = 0;
        for copier in &mut self.copiers {
            copier.send(keep);
            missing |= copier.bit;
        }
        self.requests.push_back(Some(Request { need, missing }));
    }

    fn stable(&mut self, need: Record) {
        let stable = Record {
            kind: STABLE,
            ..need
        };
        self.answers.push_back((self.now + self.delay, stable));
    }

    fn kept(&mut self, bit: u64, number: u64) {
        let place = number.checked_sub(self.first).and_then(|at| self.requests.get_mut(at as usize));
        let Some(place) = place else {
            return;
        };
        if let Some(request) = place {
            request.missing &= !bit;
            if request.missing == 0 {
                let need = request.need;
                *place = None;
                self.stable(need);
            }
        }
        while let Some(None) = self.requests.front() {
            self.requests.pop_front();
            self.first += 1;
        }
    }

    fn drop_copier(&mut self, volume: &str) {
        let is_it = |copier: &Port| copier.volume == volume;
        let bits = self.copiers.iter().filter(|copier| is_it(copier)).fold(0, |bits, copier| bits | copier.bit);
        self.copiers.retain(|copier| !is_it(copier));
        let (first, len) = (self.first, self.requests.len() as u64);
        for number in first..first + len {
            self.kept(bits, number);
        }
    }

    /// True when it is to stop.
    fn command(&mut self, mut stream: UnixStream) -> Outcome<bool> {
        let mut line = String::new();
        stream.read_to_string(&mut line).map_err(|error| error.to_string())?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["epoch"] => {
                self.joining = Some((stream, None));
                self.begin_epoch();
                return Ok(false);
            }
            ["join", volume, name] => {
                self.joining = Some((stream, Some((volume.into(), name.into()))));
                self.begin_epoch();
                return Ok(false);
            }
            ["drop", volume] => self.drop_copier(volume),
            ["delay", micros] => {
                let micros = micros.parse().map_err(|_| "no number".to_owned())?;
                self.delay = Duration::from_micros(micros);
            }
            ["hold"] => self.held = true,
            ["release"] => self.held = false,
            ["stop"] => {
                answer(&mut stream, Ok("stopped".into()));
                return Ok(true);
            }
            _ => {
                answer(&mut stream, Err(format!("not understood: {line}")));
                return Ok(false);
            }
        }
        answer(&mut stream, Ok("done".into()));
        Ok(false)
    }

    /// Writes what there is to write, then sleeps until there is something to read or an answer is due.
    fn wait(&mut self, listener: &UnixListener) -> Outcome<Vec<PollFd>> {
        let now = Instant::now();
        while !self.held && self.answers.front().is_some_and(|(due, _)| *due <= now) {
            let (_, record) = self.answers.pop_front().unwrap();
            self.writer.send(record);
        }
        self.writer.flush()?;
        for copier in &mut self.copiers {
            copier.flush()?;
        }
        let wait = match self.answers.front() {
            Some((due, _)) if !self.held => due.saturating_duration_since(Instant::now()),
            _ => IDLE,
        };
        let wait = TimeSpec {
            seconds: wait.as_secs() as c_long,
            nanoseconds: wait.subsec_nanos().into(),
        };
        let mut fds = vec![PollFd {
            fd: listener.as_raw_fd(),
            events: POLLIN,
            revents: 0,
        }];
        fds.extend([&self.writer].into_iter().chain(&self.copiers).map(Port::poll));
        // SAFETY: The pointer and the count are those of the vector, the time is there, and no mask is meant.
        unsafe { ppoll(fds.as_mut_ptr(), fds.len() as c_ulong, &wait, ptr::null()) };
        Ok(fds)
    }

    fn run(&mut self, listener: &UnixListener) -> Outcome<()> {
        let mut records = Vec::with_capacity(RECORDS);
        loop {
            let fds = self.wait(listener)?;
            self.now = Instant::now();
            let is_ready = |n: usize| fds[n].revents & !POLLOUT != 0;
            if is_ready(1) {
                self.writer.read(&mut records)?;
                for &record in &records {
                    self.from_writer(record)?;
                }
            }
            // One that has joined meanwhile comes behind those that were polled.
            for n in 0..fds.len() - 2 {
                if !is_ready(n + 2) {
                    continue;
                }
                self.copiers[n].read(&mut records)?;
                let bit = self.copiers[n].bit;
                for record in &records {
                    if record.kind != KEPT {
                        return Err(format!("a copier's target says {}", record.kind));
                    }
                    self.kept(bit, record.number);
                }
            }
            if !is_ready(0) {
                continue;
            }
            match listener.accept() {
                Ok((stream, _)) => {
                    if self.command(stream)? {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

fn answer(stream: &mut UnixStream, done: Outcome<String>) {
    let text = match done {
        Ok(text) => format!("ok {text}\n"),
        Err(text) => format!("error {text}\n"),
    };
    // Whoever asked may not wait any more.
    let _ = stream.write_all(text.as_bytes());
}

/// The epoch of the writer on a volume, as its target's status says.
fn last_epoch(volume: &str) -> Outcome<u64> {
    let number = std::fs::metadata(volume).map_err(|error| error.to_string())?.rdev();
    let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00);
    let run = |what: &str| -> Outcome<String> {
        let output = Command::new("dmsetup").args([what, "--target", "holey-writer"]).output();
        let output = output.map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let table = run("table")?;
    let device = format!("{major}:{minor}");
    let name = table
        .lines()
        .find(|line| line.split_whitespace().nth(4) == Some(&device))
        .and_then(|line| line.split(':').next());
    let Some(name) = name else {
        return Err(format!("no holey-writer on {volume}"));
    };
    let status = run("status")?;
    let line = status.lines().find(|line| line.split(':').next() == Some(name));
    line.and_then(|line| line.split_whitespace().nth(4)?.parse().ok())
        .ok_or(format!("no epoch in: {status}"))
}

fn serve(volume: &str, chunk: &str, control: &str) -> Outcome<()> {
    let chunk = chunk.parse().map_err(|_| format!("{chunk}: no number"))?;
    let mut relay = Relay {
        chunk,
        writer: Port::new(volume, chunk, BIND_WRITER)?,
        copiers: Vec::new(),
        epoch: last_epoch(volume)?,
        open: false,
        early: Vec::new(),
        requests: VecDeque::new(),
        first: 0,
        now: Instant::now(),
        delay: Duration::ZERO,
        held: false,
        answers: VecDeque::new(),
        joining: None,
    };
    let _ = std::fs::remove_file(control);
    let listener = UnixListener::bind(control).map_err(|error| format!("{control}: {error}"))?;
    // O_NONBLOCK by F_SETFL.
    // SAFETY: The file is open.
    unsafe { fcntl(listener.as_raw_fd(), 4, 0o4000) };
    // So that an answer is not late.
    // SAFETY: A number is all that this takes.
    unsafe { prctl(PR_SET_TIMERSLACK, 1 as c_ulong) };
    relay.run(&listener)
}

fn tell(control: &str, words: &[String]) -> Outcome<()> {
    let failed = |error: io::Error| format!("{control}: {error}");
    let mut stream = UnixStream::connect(control).map_err(failed)?;
    stream.write_all(words.join(" ").as_bytes()).map_err(failed)?;
    stream.shutdown(std::net::Shutdown::Write).map_err(failed)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(failed)?;
    match text.strip_prefix("ok ") {
        Some(text) => {
            print!("{text}");
            Ok(())
        }
        None => Err(text.trim_start_matches("error ").trim_end().to_owned()),
    }
}

fn record(volume: &str, chunk: &str, role: &str, fields: &[String]) -> Outcome<()> {
    let mut file = open()?;
    let chunk = chunk.parse().map_err(|_| format!("{chunk}: no number"))?;
    let kind = match role {
        "writer" => Some(BIND_WRITER),
        "copier" => Some(BIND_COPIER),
        _ => None,
    };
    let write = |file: &mut File, record: Record| {
        file.write_all(&record.encode()).map_err(|error| error.to_string())
    };
    if let Some(kind) = kind {
        write(&mut file, bind(volume, chunk, kind)?)?;
    }
    let number = |n: usize| fields[n].parse::<u64>().map_err(|_| format!("{}: no number", fields[n]));
    write(
        &mut file,
        Record {
            kind: number(0)? as u32,
            len: number(1)? as u32,
            number: number(2)?,
            first: number(3)?,
        },
    )
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["serve", volume, chunk, control] => serve(volume, chunk, control),
        ["tell", control, _, ..] => tell(control, &arguments[2..]),
        ["record", volume, chunk, role, _, _, _, _] => record(volume, chunk, role, &arguments[4..]),
        _ => Err("usage: see the head of relay.rs".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("relay: {error}");
            ExitCode::FAILURE
        }
    }
}
