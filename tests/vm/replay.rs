// SPDX-License-Identifier: GPL-2.0-or-later

//! Replays what a disk has recorded (record.rs): what it holds when its power fails at any point.
//!
//! A power cut at entry K leaves everything that was written before the last flush and with FUA; of the sectors that
//! were written since, and of those of entry K, any may be there or not.
//!
//! ```text
//! replay points LOG                     every entry: number, kind (flush, fua, write, mark), mark
//! replay apply LOG DEVICE FROM TO       writes the entries FROM..TO to DEVICE, in order
//! replay part LOG DEVICE K RANDOM BLOCK completes what a cut at K leaves, given that FROM..durable(K) were applied;
//!                                       the sectors of a block of so many are there all or none
//! replay durable LOG K                  says how far to apply for that
//! replay judge LOG START --origin START:SECTORS[:MODEL] --cow START:SECTORS:MODEL ...
//!              [--samples N] [--every N] [--sabotage areas|order]
//! ```
//!
//! `judge` builds, in memory, what is left at every flush, every FUA write and every Nth other entry, each with N
//! random parts, over what the device START holds. It reads the COW stores there and compares what they would show
//! with the models (stamp.rs) of the last mark and of the next one: MODEL.MARK.model in `$WORK`. What was durable at
//! a mark has to be there, what came later may be. Judging begins at mark 0.
//!
//! `--sabotage` shows that it can tell: it leaves all writes of exception areas out, or moves writes of the origin
//! in front of the area write before them; and it succeeds only if that is found.

mod numbers;

use numbers::Numbers;
use std::collections::HashMap;
use std::env;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

const SECTOR: usize = 512;
const RECORD: usize = 32;
const ZEROS: u64 = 0;
const OTHER: u64 = u64::MAX;
/// The generation of a sector that may hold anything (stamp.rs).
const UNKNOWN: u32 = u32::MAX;

type Outcome<T> = Result<T, String>;

fn main() -> ExitCode {
    match run(&env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("replay: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Outcome<()> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["points", log] => points(&Log::open(log)?),
        ["apply", log, device, from, to] => apply(&Log::open(log)?, device, number(from)?, number(to)?),
        ["part", log, device, k, random, block] => {
            part(&Log::open(log)?, device, number(k)?, number(random)?, number(block)?)
        }
        ["durable", log, k] => {
            println!("{}", Log::open(log)?.durable(number(k)?));
            Ok(())
        }
        ["judge", log, start, ref options @ ..] => judge(log, start, options),
        _ => Err("usage: replay points|apply|part|durable|judge ... (see the head of replay.rs)".into()),
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Outcome<T> {
    text.parse().map_err(|_| format!("not a number: {text}"))
}

/// What an entry of the log is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Write,
    Fua,
    Flush,
    Mark(u64),
}

/// One entry of the log.
struct Entry {
    kind: Kind,
    sector: u64,
    data: Vec<u8>,
}

impl Entry {
    fn sectors(&self) -> impl Iterator<Item = (u64, &[u8])> {
        (self.sector..).zip(self.data.chunks_exact(SECTOR))
    }
}

struct Log {
    entries: Vec<Entry>,
}

impl Log {
    fn open(path: &str) -> Outcome<Self> {
        let bytes = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
        let mut rest = &bytes[..];
        let mut entries = Vec::new();
        while let Some((head, behind)) = rest.split_at_checked(32) {
            let word = |n: usize| u64::from_le_bytes(head[n * 8..n * 8 + 8].try_into().unwrap());
            let kind = match word(0) {
                0 => Kind::Write,
                1 => Kind::Fua,
                2 => Kind::Flush,
                3 => Kind::Mark(word(3)),
                other => return Err(format!("{path}: an entry of kind {other}")),
            };
            let data = behind.split_at_checked(word(2) as usize);
            let (data, behind) = data.ok_or(format!("{path}: the last entry is cut off"))?;
            entries.push(Entry {
                kind,
                sector: word(1),
                data: data.to_vec(),
            });
            rest = behind;
        }
        Ok(Self { entries })
    }

    /// Up to which entry everything is durable when power is cut at entry `k`.
    fn durable(&self, k: usize) -> usize {
        let flush = self.entries[..k].iter().rposition(|entry| entry.kind == Kind::Flush);
        flush.map_or(0, |n| n + 1)
    }
}

fn points(log: &Log) -> Outcome<()> {
    for (n, entry) in log.entries.iter().enumerate() {
        match entry.kind {
            Kind::Write => println!("{n} write"),
            Kind::Fua => println!("{n} fua"),
            Kind::Flush => println!("{n} flush"),
            Kind::Mark(mark) => println!("{n} mark {mark}"),
        }
    }
    Ok(())
}

fn open_for_writing(path: &str) -> Outcome<File> {
    let file = OpenOptions::new().write(true).open(path);
    file.map_err(|error| format!("{path}: {error}"))
}

fn apply(log: &Log, device: &str, from: usize, to: usize) -> Outcome<()> {
    let file = open_for_writing(device)?;
    for entry in &log.entries[from..to] {
        file.write_all_at(&entry.data, entry.sector * SECTOR as u64)
            .map_err(|error| format!("{device}: {error}"))?;
    }
    file.sync_all().map_err(|error| format!("{device}: {error}"))
}

fn part(log: &Log, device: &str, k: usize, random: u64, block: u64) -> Outcome<()> {
    let file = open_for_writing(device)?;
    let mut numbers = Numbers(random);
    let chance = chance(&mut numbers);
    for n in log.durable(k)..log.entries.len().min(k + 1) {
        let entry = &log.entries[n];
        let (mut last, mut there) = (None, false);
        for (at, sector) in entry.sectors() {
            if last.replace(at / block) != Some(at / block) {
                there = n < k && entry.kind == Kind::Fua || numbers.below(100) < chance;
            }
            if there {
                file.write_all_at(sector, at * SECTOR as u64)
                    .map_err(|error| format!("{device}: {error}"))?;
            }
        }
    }
    file.sync_all().map_err(|error| format!("{device}: {error}"))
}

/// What a sector holds, in one word: the sector number and generation of a stamp.
fn decode(seed: u32, sector: &[u8]) -> u64 {
    let first = &sector[..RECORD];
    if sector.chunks_exact(RECORD).any(|record| record != first) {
        return OTHER;
    }
    if first.iter().all(|byte| *byte == 0) {
        return ZEROS;
    }
    let fields = || {
        let text = std::str::from_utf8(first).ok()?.strip_suffix('\n')?;
        let mut words = text.split(' ');
        let from = u32::from_str_radix(words.next()?, 16).ok()?;
        let (sector, generation): (u64, u64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        (from == seed && words.next().is_none()).then_some(sector << 32 | generation)
    };
    fields().unwrap_or(OTHER)
}

/// A disk: its bytes, and what they are.
struct Disk {
    seed: u32,
    bytes: Vec<u8>,
    words: Vec<u64>,
}

impl Disk {
    fn load(path: &str, seed: u32) -> Outcome<Self> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .map_err(|error| format!("{path}: {error}"))?;
        let words = bytes.chunks_exact(SECTOR).map(|sector| decode(seed, sector)).collect();
        Ok(Self { seed, bytes, words })
    }

    /// Writes a sector and returns what was there.
    fn put(&mut self, at: u64, sector: &[u8]) -> (u64, Vec<u8>) {
        let place = &mut self.bytes[at as usize * SECTOR..][..SECTOR];
        let old = place.to_vec();
        if old != sector {
            place.copy_from_slice(sector);
            self.words[at as usize] = decode(self.seed, sector);
        }
        (at, old)
    }
}

/// A part of the disk, and the model of what it shows.
struct Device {
    start: usize,
    sectors: usize,
    model: Option<String>,
}

impl Device {
    fn parse(text: &str) -> Outcome<Self> {
        let words: Vec<_> = text.split(':').collect();
        let [start, sectors, model @ ..] = &words[..] else {
            return Err(format!("not START:SECTORS[:MODEL]: {text}"));
        };
        Ok(Self {
            start: number(start)?,
            sectors: number(sectors)?,
            model: model.first().map(|name| name.to_string()),
        })
    }
}

/// The models, as far as they are there, by name and mark.
#[derive(Default)]
struct Models(HashMap<(String, u64), Option<Vec<u32>>>);

impl Models {
    fn get(&mut self, name: &str, mark: u64) -> Option<&[u32]> {
        let load = || {
            let folder = env::var("WORK").unwrap_or_default();
            let bytes = std::fs::read(format!("{folder}/{name}.{mark}.model")).ok()?;
            let words = bytes.chunks_exact(4);
            Some(words.map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect())
        };
        self.0.entry((name.to_owned(), mark)).or_insert_with(load).as_deref()
    }
}

struct Judge {
    disk: Disk,
    origin: Device,
    cows: Vec<Device>,
    models: Models,
    mark: Option<u64>,
    states: u64,
}

impl Judge {
    /// Judges the disk as it is with those sectors of some entries that are chosen.
    fn with(&mut self, entries: &[Entry], mut choose: impl FnMut(usize, &Entry) -> bool) -> Outcome<()> {
        let mut undo = Vec::new();
        for (n, entry) in entries.iter().enumerate() {
            for (at, sector) in entry.sectors() {
                if choose(n, entry) {
                    undo.push(self.disk.put(at, sector));
                }
            }
        }
        let judged = self.judge();
        for (at, sector) in undo.into_iter().rev() {
            self.disk.put(at, &sector);
        }
        judged
    }

    /// Judges the disk as it is.
    fn judge(&mut self) -> Outcome<()> {
        let Some(mark) = self.mark else {
            return Ok(());
        };
        self.states += 1;
        let all = self.origin.start..self.origin.start + self.origin.sectors;
        if let Some(model) = &self.origin.model {
            compare(&mut self.models, model, mark, |n| self.disk.words[all.start + n])?;
        }
        for cow in &self.cows {
            let model = cow.model.as_deref().ok_or("a COW device needs a model")?;
            let listed = list_of(&self.disk, cow, self.origin.sectors);
            let (chunk, list) = listed.map_err(|why| format!("{model}: {why}"))?;
            let mut places: Vec<usize> = all.clone().step_by(chunk).collect();
            for (origin, at) in list {
                places[origin] = cow.start + at * chunk;
            }
            compare(&mut self.models, model, mark, |n| self.disk.words[places[n / chunk] + n % chunk])?;
        }
        Ok(())
    }
}

/// Compares what a device shows with the models of this mark and the next.
fn compare(models: &mut Models, name: &str, mark: u64, shown: impl Fn(usize) -> u64) -> Outcome<()> {
    let old = models.get(name, mark).ok_or(format!("no model {name}.{mark}"))?.to_vec();
    let new = models.get(name, mark + 1).unwrap_or(&old);
    for (n, (old, new)) in old.iter().zip(new).enumerate() {
        let (old, new, found) = (*old, *new, shown(n));
        let fits = |generation: u32| match generation {
            0 => found == ZEROS,
            UNKNOWN => true,
            _ => found == (n as u64) << 32 | u64::from(generation),
        };
        if !fits(old) && !fits(new) {
            let found = describe(found);
            return Err(format!("{name}: sector {n}: want generation {old} or {new}, found {found}"));
        }
    }
    Ok(())
}

/// Reads a store: its chunk size and its list of origin and COW chunks.
fn list_of(disk: &Disk, cow: &Device, origin_sectors: usize) -> Outcome<(usize, Vec<(usize, usize)>)> {
    let bytes = &disk.bytes[cow.start * SECTOR..(cow.start + cow.sectors) * SECTOR];
    let word = |n: usize| u32::from_le_bytes(bytes[n * 4..n * 4 + 4].try_into().unwrap());
    if (word(0), word(1), word(2)) != (0x7041_6e53, 1, 1) {
        return Err(format!("a header of {:x} {} {}", word(0), word(1), word(2)));
    }
    let chunk = word(3) as usize;
    let (per_area, chunks) = (chunk * SECTOR / 16, cow.sectors / chunk);
    let mut list = Vec::new();
    let (mut origins, mut cows) = (vec![false; origin_sectors.div_ceil(chunk)], vec![false; chunks]);
    let claim = |used: &mut Vec<bool>, n: usize| used.get_mut(n).is_some_and(|used| !std::mem::replace(used, true));
    for area in 0.. {
        let at = 1 + area * (per_area + 1);
        if at >= chunks {
            return Err(format!("the list has no end: area {area}"));
        }
        for entry in bytes[at * chunk * SECTOR..(at + 1) * chunk * SECTOR].chunks_exact(16) {
            let half = |n: usize| u64::from_le_bytes(entry[n..n + 8].try_into().unwrap()) as usize;
            let (origin, place) = (half(0), half(8));
            if place == 0 {
                return Ok((chunk, list));
            }
            let data = place >= 2 && place < chunks && place % (per_area + 1) != 1;
            if !data || !claim(&mut origins, origin) || !claim(&mut cows, place) {
                return Err(format!("entry {} is {origin} -> {place}", list.len()));
            }
            list.push((origin, place));
        }
    }
    unreachable!("the list ends or the device does")
}

fn judge(log: &str, start: &str, options: &[&str]) -> Outcome<()> {
    let seed: u64 = number(&env::var("STAMP_SEED").map_err(|_| "STAMP_SEED is not set")?)?;
    let (mut origin, mut cows) = (None, Vec::new());
    let (mut samples, mut every, mut sabotage) = (1, 1, None);
    for pair in options.chunks(2) {
        match pair {
            ["--origin", text] => origin = Some(Device::parse(text)?),
            ["--cow", text] => cows.push(Device::parse(text)?),
            ["--samples", text] => samples = number(text)?,
            ["--every", text] => every = number(text)?,
            ["--sabotage", text] => sabotage = Some(*text),
            _ => return Err(format!("unknown option {}", pair.join(" "))),
        }
    }
    let mut judge = Judge {
        disk: Disk::load(start, seed as u32)?,
        origin: origin.ok_or("--origin is missing")?,
        cows,
        models: Models::default(),
        mark: None,
        states: 0,
    };
    let mut log = Log::open(log)?;
    match sabotage {
        None => {}
        Some("areas") => leave_areas_out(&mut log, &judge),
        Some("order") => move_origin_writes(&mut log, &judge),
        Some(other) => return Err(format!("unknown sabotage {other}")),
    }
    let verdict = judge_log(&log, &mut judge, samples, every, &mut Numbers(seed));
    if let (None, Err((n, _))) = (sabotage, &verdict) {
        tell(&log, *n, seed as u32);
    }
    let verdict = verdict.map_err(|(n, why)| format!("power cut at entry {n}: {why}"));
    let count = |kind| log.entries.iter().filter(|entry| entry.kind == kind).count();
    println!(
        "replay: {} entries, {} flushes, {} with FUA: {} states judged",
        log.entries.len(),
        count(Kind::Flush),
        count(Kind::Fua),
        judge.states
    );
    match (sabotage, verdict) {
        (None, verdict) => verdict,
        (Some(what), Ok(())) => Err(format!("sabotage ({what}) was not found")),
        (Some(what), Err(why)) => {
            println!("replay: sabotage ({what}) was found: {why}");
            Ok(())
        }
    }
}

/// Says what the log has up to an entry.
fn tell(log: &Log, k: usize, seed: u32) {
    for n in k.saturating_sub(40)..log.entries.len().min(k + 5) {
        let entry = &log.entries[n];
        let what = match (entry.kind, entry.sectors().next()) {
            (Kind::Mark(mark), _) => format!("mark {mark}"),
            (Kind::Flush, _) => "flush".to_owned(),
            (_, None) => "nothing".to_owned(),
            (kind, Some((at, sector))) => {
                let fua = if kind == Kind::Fua { " with FUA" } else { "" };
                let content = describe(decode(seed, sector));
                format!("{} sectors at {at}{fua}: {content}", entry.data.len() / SECTOR)
            }
        };
        println!("replay: entry {n}: {what}");
    }
}

fn describe(word: u64) -> String {
    match word {
        ZEROS => "zeroes".to_owned(),
        OTHER => "something else".to_owned(),
        _ => format!("sector {} of generation {}", word >> 32, word & 0xffff_ffff),
    }
}

/// Goes through the log and judges what a cut at each entry leaves.
fn judge_log(log: &Log, judge: &mut Judge, samples: usize, every: usize, numbers: &mut Numbers) -> Result<(), (usize, String)> {
    // The first entry that is not durable yet.
    let mut first = 0;
    for (n, entry) in log.entries.iter().enumerate() {
        let at = |why| (n, why);
        let chosen = entry.kind != Kind::Write || n % every == 0;
        // In it, with a part of what is not durable.
        for _ in 0..if chosen { samples } else { 0 } {
            let chance = chance(numbers);
            let part = &log.entries[first..=n];
            let state = judge.with(part, |m, entry| {
                entry.kind == Kind::Fua && first + m < n || numbers.below(100) < chance
            });
            state.map_err(at)?;
        }
        // Behind it, with nothing that is not durable.
        match entry.kind {
            Kind::Mark(mark) => judge.mark = Some(mark),
            Kind::Flush => {
                for (at, sector) in log.entries[first..n].iter().flat_map(Entry::sectors) {
                    judge.disk.put(at, sector);
                }
                first = n + 1;
            }
            _ => {}
        }
        if chosen && entry.kind != Kind::Write {
            let part = &log.entries[first..n + 1];
            judge.with(part, |_, entry| entry.kind == Kind::Fua).map_err(at)?;
        }
    }
    Ok(())
}

/// Whether an entry writes metadata.
fn is_area(entry: &Entry, judge: &Judge) -> bool {
    let at = entry.sector as usize;
    let inside = judge.cows.iter().any(|cow| (cow.start..cow.start + cow.sectors).contains(&at));
    // Data of the tests is known; what is not are headers and areas.
    let data = entry.sectors().any(|(_, sector)| decode(judge.disk.seed, sector) != OTHER);
    inside && entry.kind == Kind::Fua && !data
}

fn leave_areas_out(log: &mut Log, judge: &Judge) {
    for entry in &mut log.entries {
        if is_area(entry, judge) {
            entry.data.clear();
        }
    }
}

/// Moves every write of the origin in front of the last area write before it.
fn move_origin_writes(log: &mut Log, judge: &Judge) {
    let origin = judge.origin.start..judge.origin.start + judge.origin.sectors;
    let mut area = None;
    for n in 0..log.entries.len() {
        let entry = &log.entries[n];
        if is_area(entry, judge) {
            area = Some(n);
        } else if let (true, Kind::Write, Some(at)) = (origin.contains(&(entry.sector as usize)), entry.kind, area) {
            let mut moved = log.entries.remove(n);
            moved.kind = Kind::Fua;
            log.entries.insert(at, moved);
            area = Some(at + 1);
        }
    }
}

/// How likely it is that a sector is kept, in a hundred.
fn chance(numbers: &mut Numbers) -> u64 {
    [10, 50, 90][numbers.below(3) as usize]
}
