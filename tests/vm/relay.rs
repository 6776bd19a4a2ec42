// SPDX-License-Identifier: GPL-2.0-or-later

//! The agents of a whole cluster in one program, for tests of the targets: what the writer's target needs is asked
//! of the copiers' targets on the same machine, without a network in between.
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

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::env;
use std::ffi::c_int;
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

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: i16,
    revents: i16,
}

extern "C" {
    fn poll(fds: *mut PollFd, count: c_ulong, timeout: c_int) -> c_int;
    fn fcntl(fd: c_int, command: c_int, argument: c_int) -> c_int;
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
    fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LEN);
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend(self.len.to_ne_bytes());
        bytes.extend(self.number.to_ne_bytes());
        bytes.extend(self.first.to_ne_bytes());
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
    outgoing: VecDeque<Record>,
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
            outgoing: VecDeque::new(),
        };
        port.file
            .write_all(&bind(volume, chunk, kind)?.encode())
            .map_err(|error| format!("{volume}: cannot be bound: {error}"))?;
        Ok(port)
    }

    /// Writes what the target takes now.
    fn flush(&mut self) -> Outcome<()> {
        while !self.outgoing.is_empty() {
            let records = self.outgoing.iter().take(RECORDS);
            let bytes: Vec<u8> = records.flat_map(|record| record.encode()).collect();
            match self.file.write(&bytes) {
                Ok(count) => drop(self.outgoing.drain(..count / LEN)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(format!("{}: {error}", self.volume)),
            }
        }
        Ok(())
    }

    fn read(&mut self) -> Outcome<Vec<Record>> {
        let mut bytes = [0; LEN * RECORDS];
        match self.file.read(&mut bytes) {
            Ok(count) => Ok(bytes[..count].chunks(LEN).map(Record::decode).collect()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Vec::new()),
            Err(error) => Err(format!("{}: {error}", self.volume)),
        }
    }
}

/// A request that is not answered by all.
struct Request {
    need: Record,
    missing: Vec<String>,
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
    requests: BTreeMap<u64, Request>,
    next: u64,
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
        self.requests.clear();
        self.answers.clear();
        self.early.clear();
        self.writer.outgoing.push_back(Record {
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
        self.copiers.push(Port::new(&volume, self.chunk, BIND_COPIER)?);
        Ok(format!("epoch {}", self.epoch))
    }

    fn need(&mut self, need: Record) {
        if self.copiers.is_empty() {
            self.stable(need);
            return;
        }
        let number = self.next;
        self.next += 1;
        let keep = Record {
            kind: KEEP,
            number,
            ..need
        };
        for copier in &mut self.copiers {
            copier.outgoing.push_back(keep);
        }
        let missing = self.copiers.iter().map(|copier| copier.volume.clone()).collect();
        self.requests.insert(number, Request { need, missing });
    }

    fn stable(&mut self, need: Record) {
        let stable = Record {
            kind: STABLE,
            ..need
        };
        self.answers.push_back((Instant::now() + self.delay, stable));
    }

    fn kept(&mut self, volume: &str, number: u64) {
        let Some(request) = self.requests.get_mut(&number) else {
            return;
        };
        request.missing.retain(|other| other != volume);
        if request.missing.is_empty() {
            let need = request.need;
            self.requests.remove(&number);
            self.stable(need);
        }
    }

    fn drop_copier(&mut self, volume: &str) {
        self.copiers.retain(|copier| copier.volume != volume);
        let numbers: Vec<u64> = self.requests.keys().copied().collect();
        for number in numbers {
            self.kept(volume, number);
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

    fn run(&mut self, listener: &UnixListener) -> Outcome<()> {
        loop {
            let now = Instant::now();
            while !self.held && self.answers.front().is_some_and(|(due, _)| *due <= now) {
                let (_, record) = self.answers.pop_front().unwrap();
                self.writer.outgoing.push_back(record);
            }
            self.writer.flush()?;
            let mut blocked = false;
            for copier in &mut self.copiers {
                copier.flush()?;
                blocked |= !copier.outgoing.is_empty();
            }
            let wait = match self.answers.front() {
                _ if blocked => 1,
                Some((due, _)) if !self.held => due.saturating_duration_since(now).as_millis() as c_int + 1,
                _ => 1000,
            };
            let fds = [listener.as_raw_fd(), self.writer.file.as_raw_fd()].into_iter();
            let fds = fds.chain(self.copiers.iter().map(|copier| copier.file.as_raw_fd()));
            let mut fds: Vec<PollFd> = fds
                .map(|fd| PollFd {
                    fd,
                    events: POLLIN,
                    revents: 0,
                })
                .collect();
            // SAFETY: The pointer and the count are those of the vector.
            unsafe { poll(fds.as_mut_ptr(), fds.len() as c_ulong, wait) };
            for record in self.writer.read()? {
                self.from_writer(record)?;
            }
            let mut kept = Vec::new();
            for copier in &mut self.copiers {
                for record in copier.read()? {
                    if record.kind != KEPT {
                        return Err(format!("a copier's target says {}", record.kind));
                    }
                    kept.push((copier.volume.clone(), record.number));
                }
            }
            for (volume, number) in kept {
                self.kept(&volume, number);
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
        requests: BTreeMap::new(),
        next: 0,
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
