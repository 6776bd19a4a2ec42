// SPDX-License-Identifier: GPL-2.0-or-later

//! An application of a node: reads, writes and flushes at random, compares what it reads, and logs what it does.
//!
//! ```text
//! load DEVICE --seed SEED --node NODE --first NUMBER [--threads N] [--pause MILLISECONDS]
//! ```
//!
//! Every sector carries a record with the seed, its number and a generation, as those of stamp.rs. A generation is the
//! number of one write of one node: NODE * 100,000,000 + NUMBER, so each tells who wrote it. First it reads the whole
//! device: that is its model, in which each sector has one generation that it must hold, or several after a write failed.
//!
//! The log, on the standard output, is whole lines. What is logged before something is done, was logged before it began:
//!
//! ```text
//! b START COUNT GENERATION   what was there at first; B is the end of that
//! w GENERATION START COUNT D it writes this; D is 1 if that is to be durable when it is acknowledged
//! a GENERATION               the write is acknowledged
//! e GENERATION ERRNO         it failed
//! f NUMBER                   it flushes
//! F NUMBER / g NUMBER ERRNO  the flush is acknowledged, or failed
//! r START COUNT ERRNO        a read failed
//! x SECTOR WANT FOUND        a sector is not as it must be
//! c SECTORS WRONG READS      all has been compared
//! m                          `mark` was read
//! ```
//!
//! Commands come from the standard input: `check` waits for what is under way, compares all and stops; `go` goes on;
//! `mark`; `end`.

#[path = "../vm/numbers.rs"]
mod numbers;
#[path = "../vm/sectors.rs"]
mod sectors;

use numbers::Numbers;
use sectors::head;
use sectors::stamp;
use sectors::Buffer;
use sectors::MOST;
use sectors::O_DIRECT;
use sectors::O_DSYNC;
use sectors::RECORD;
use sectors::SECTOR;
use std::collections::HashMap;
use std::env;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::BufRead;
use std::io::Seek;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::RwLock;
use std::thread;
use std::time::Duration;

/// Largest request of the load.
const LARGEST: u64 = 64;
/// What was not written by such a program.
const GARBAGE: u32 = u32::MAX;
/// Generations of a node.
const PER_NODE: u64 = 100_000_000;
/// How long nothing is done after an error: a device that is gone is not asked without a pause.
const AFTER_ERROR: Duration = Duration::from_millis(100);

type Outcome<T> = Result<T, String>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("load: {why}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    device: String,
    seed: u64,
    node: u64,
    first: u64,
    threads: u64,
    pause: Duration,
}

fn parse() -> Outcome<Options> {
    let mut args = env::args().skip(1);
    let device = args
        .next()
        .ok_or("usage: load DEVICE --seed SEED --node NODE --first NUMBER ...")?;
    let mut options = Options {
        device,
        seed: 0,
        node: 0,
        first: 1,
        threads: 4,
        pause: Duration::from_millis(5),
    };
    while let Some(arg) = args.next() {
        let value = args.next().ok_or(format!("{arg} needs a value"))?;
        let value: u64 = value.parse().map_err(|_| format!("not a number: {value}"))?;
        match arg.as_str() {
            "--seed" => options.seed = value,
            "--node" => options.node = value,
            "--first" => options.first = value,
            "--threads" => options.threads = value.max(1),
            "--pause" => options.pause = Duration::from_millis(value),
            _ => return Err(format!("unknown option {arg}")),
        }
    }
    Ok(options)
}

/// The generation of a sector that was read.
fn generation(seed: u64, sector: u64, bytes: &[u8]) -> u32 {
    if bytes.iter().all(|byte| *byte == 0) {
        return 0;
    }
    let record = &bytes[..RECORD];
    let head = head(seed, sector);
    let whole = bytes.chunks_exact(RECORD).all(|other| other == record);
    match std::str::from_utf8(record) {
        Ok(text) if whole && text.starts_with(&head) => text[head.len()..].trim_end().parse().unwrap_or(GARBAGE),
        _ => GARBAGE,
    }
}

/// What each sector must hold.
struct Model {
    must: Vec<u32>,
    /// Of some sectors, what else they may hold.
    may: HashMap<u64, Vec<u32>>,
}

impl Model {
    fn written(&mut self, start: u64, count: u64, generation: u32) {
        for sector in start..start + count {
            self.must[sector as usize] = generation;
            self.may.remove(&sector);
        }
    }

    fn perhaps(&mut self, start: u64, count: u64, generation: u32) {
        for sector in start..start + count {
            self.may.entry(sector).or_default().push(generation);
        }
    }

    fn allows(&self, sector: u64, generation: u32) -> bool {
        self.must[sector as usize] == generation
            || self.may.get(&sector).is_some_and(|other| other.contains(&generation))
    }
}

/// What the threads share.
struct Load {
    options: Options,
    plain: File,
    durable: File,
    sectors: u64,
    model: Mutex<Model>,
    /// Ranges with a request under way: no two touch each other.
    taken: Mutex<Vec<(u64, u64)>>,
    freed: Condvar,
    /// Held by each request; who has it alone knows that nothing is under way.
    gate: RwLock<()>,
    next: AtomicU64,
    flushes: AtomicU64,
    reads: AtomicU64,
    stopped: AtomicBool,
    ended: AtomicBool,
    log: Mutex<io::Stdout>,
}

fn open(device: &str, flags: i32) -> Outcome<File> {
    let mut how = OpenOptions::new();
    how.read(true).write(true).custom_flags(O_DIRECT | flags);
    how.open(device).map_err(|error| format!("{device}: {error}"))
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

impl Load {
    fn new(options: Options) -> Outcome<Self> {
        let plain = open(&options.device, 0)?;
        let durable = open(&options.device, O_DSYNC)?;
        let end = (&plain)
            .seek(io::SeekFrom::End(0))
            .map_err(|error| format!("{}: {error}", options.device))?;
        Ok(Self {
            plain,
            durable,
            sectors: end / SECTOR as u64,
            model: Mutex::new(Model {
                must: Vec::new(),
                may: HashMap::new(),
            }),
            taken: Mutex::new(Vec::new()),
            freed: Condvar::new(),
            gate: RwLock::new(()),
            next: AtomicU64::new(options.first),
            flushes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            log: Mutex::new(io::stdout()),
            options,
        })
    }

    fn say(&self, text: &str) {
        let mut log = self.log.lock().unwrap();
        // Without the program outside there is nobody to load anything for.
        if log.write_all(text.as_bytes()).and_then(|()| log.flush()).is_err() {
            std::process::exit(1);
        }
    }

    /// Reads the whole device into the model.
    fn begin(&self) -> Outcome<()> {
        let mut buffer = Buffer::new();
        let mut found = Vec::new();
        self.read_all(&mut buffer, |sector, bytes| {
            found.push(generation(self.options.seed, sector, bytes))
        })?;
        let (mut text, mut start) = (String::new(), 0);
        while start < found.len() {
            let count = found[start..]
                .iter()
                .take_while(|other| **other == found[start])
                .count();
            text += &format!("b {start} {count} {}\n", found[start]);
            start += count;
        }
        self.model.lock().unwrap().must = found;
        self.say(&(text + "B\n"));
        Ok(())
    }

    fn read_all(&self, buffer: &mut Buffer, mut each: impl FnMut(u64, &[u8])) -> Outcome<()> {
        let mut start = 0;
        while start < self.sectors {
            let count = MOST.min(self.sectors - start);
            let bytes = buffer.sectors(count);
            self.plain
                .read_exact_at(bytes, start * SECTOR as u64)
                .map_err(|error| {
                    self.say(&format!("r {start} {count} {}\n", errno(&error)));
                    format!("reading {count} sectors at {start}: {error}")
                })?;
            for (sector, bytes) in (start..).zip(bytes.chunks_exact(SECTOR)) {
                each(sector, bytes);
            }
            start += count;
        }
        Ok(())
    }

    fn take(&self, start: u64, count: u64) {
        let touches = |taken: &[(u64, u64)]| taken.iter().any(|(from, to)| start < *to && *from < start + count);
        let mut taken = self.taken.lock().unwrap();
        while touches(&taken) {
            taken = self.freed.wait(taken).unwrap();
        }
        taken.push((start, start + count));
    }

    fn free(&self, start: u64) {
        self.taken.lock().unwrap().retain(|(from, _)| *from != start);
        self.freed.notify_all();
    }

    /// A place for a request: everywhere, but half of the time in an eighth of the device; half of the time whole chunks.
    fn place(&self, numbers: &mut Numbers) -> (u64, u64) {
        let room = if numbers.below(2) == 0 {
            self.sectors / 8
        } else {
            self.sectors
        };
        let most = 1 << (1 + numbers.below(u64::from(LARGEST.ilog2())));
        let (mut start, mut count) = (numbers.below(room), 1 + numbers.below(most));
        if numbers.below(2) == 0 {
            start -= start % 8;
            count = count.next_multiple_of(8);
        }
        (start, count.min(self.sectors - start))
    }

    fn work(&self, thread: u64) {
        let mut numbers = Numbers(self.options.seed ^ self.options.first << 32 ^ self.options.node << 24 ^ thread);
        let mut buffer = Buffer::new();
        while !self.ended.load(Ordering::SeqCst) {
            let inside = self.gate.read().unwrap();
            let mut done = true;
            if !self.stopped.load(Ordering::SeqCst) {
                done = match numbers.below(100) {
                    0..55 => self.write(&mut numbers, &mut buffer),
                    55..94 => self.read(&mut numbers, &mut buffer),
                    _ => self.flush(),
                };
            }
            drop(inside);
            thread::sleep(if done { self.options.pause } else { AFTER_ERROR });
        }
    }

    fn write(&self, numbers: &mut Numbers, buffer: &mut Buffer) -> bool {
        let (start, count) = self.place(numbers);
        let durable = numbers.below(8) == 0;
        self.take(start, count);
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let generation = (self.options.node * PER_NODE + number) as u32;
        let bytes = buffer.sectors(count);
        for (sector, place) in (start..).zip(bytes.chunks_exact_mut(SECTOR)) {
            stamp(self.options.seed, sector, generation, place);
        }
        self.say(&format!("w {generation} {start} {count} {}\n", i32::from(durable)));
        let file = if durable { &self.durable } else { &self.plain };
        let done = file.write_all_at(bytes, start * SECTOR as u64);
        {
            let mut model = self.model.lock().unwrap();
            match &done {
                Ok(()) => model.written(start, count, generation),
                Err(_) => model.perhaps(start, count, generation),
            }
        }
        match &done {
            Ok(()) => self.say(&format!("a {generation}\n")),
            Err(error) => self.say(&format!("e {generation} {}\n", errno(error))),
        }
        self.free(start);
        done.is_ok()
    }

    fn read(&self, numbers: &mut Numbers, buffer: &mut Buffer) -> bool {
        let (start, count) = self.place(numbers);
        self.take(start, count);
        let bytes = buffer.sectors(count);
        let done = self.plain.read_exact_at(bytes, start * SECTOR as u64);
        match &done {
            Ok(()) => {
                for (sector, bytes) in (start..).zip(bytes.chunks_exact(SECTOR)) {
                    self.compare(sector, bytes);
                }
                self.reads.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => self.say(&format!("r {start} {count} {}\n", errno(error))),
        }
        self.free(start);
        done.is_ok()
    }

    fn flush(&self) -> bool {
        let number = self.flushes.fetch_add(1, Ordering::SeqCst);
        self.say(&format!("f {number}\n"));
        let done = self.plain.sync_data();
        match &done {
            Ok(()) => self.say(&format!("F {number}\n")),
            Err(error) => self.say(&format!("g {number} {}\n", errno(error))),
        }
        done.is_ok()
    }

    /// Whether a sector is as it must be.
    fn compare(&self, sector: u64, bytes: &[u8]) -> bool {
        let found = generation(self.options.seed, sector, bytes);
        let (right, want) = {
            let model = self.model.lock().unwrap();
            (model.allows(sector, found), model.must[sector as usize])
        };
        if !right {
            self.say(&format!("x {sector} {want} {found}\n"));
        }
        right
    }

    fn check(&self) -> Outcome<()> {
        self.stopped.store(true, Ordering::SeqCst);
        let _alone = self.gate.write().unwrap();
        let (mut wrong, mut buffer) = (0, Buffer::new());
        self.read_all(&mut buffer, |sector, bytes| {
            wrong += u64::from(!self.compare(sector, bytes))
        })?;
        self.say(&format!(
            "c {} {wrong} {}\n",
            self.sectors,
            self.reads.load(Ordering::Relaxed)
        ));
        Ok(())
    }

    fn obey(&self) -> Outcome<()> {
        for line in io::stdin().lock().lines() {
            match line.map_err(|error| error.to_string())?.as_str() {
                "check" => {
                    if let Err(why) = self.check() {
                        eprintln!("load: {why}");
                    }
                }
                "go" => self.stopped.store(false, Ordering::SeqCst),
                "mark" => self.say("m\n"),
                _ => break,
            }
        }
        Ok(())
    }
}

fn run() -> Outcome<()> {
    let load = Load::new(parse()?)?;
    load.begin()?;
    thread::scope(|scope| {
        for thread in 0..load.options.threads {
            let load = &load;
            scope.spawn(move || load.work(thread));
        }
        let done = load.obey();
        load.ended.store(true, Ordering::SeqCst);
        done
    })
}
