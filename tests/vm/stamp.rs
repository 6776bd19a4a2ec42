// SPDX-License-Identifier: GPL-2.0-or-later

//! Writes and checks data that says where and when it was written.
//!
//! Every sector carries, repeated over its whole length, a record with the run's seed, the sector's
//! number and a generation. A *model* is a file with the generation that each sector of a device
//! should have; copying the model is taking a snapshot of it. So a test needs no second copy of the
//! data, compares all of it, and a wrong sector tells whether it is old, new, from elsewhere or garbage.
//!
//! ```text
//! stamp fill   DEVICE MODEL GENERATION [--from SECTOR] [--count SECTORS] ...
//! stamp random DEVICE MODEL GENERATION --ops N [--max SECTORS] [--align SECTORS] [--threads N] ...
//! stamp check  DEVICE MODEL [--or MODEL2] [--from SECTOR] [--count SECTORS]
//! stamp make   MODEL SECTORS [GENERATION]
//! stamp set    MODEL GENERATION [--from SECTOR] [--count SECTORS]
//! stamp list   FILE EXCEPTIONS: a store of 4 KiB chunks that lists every other chunk; its data are holes
//! ```
//!
//! A model of generation 0 stands for zeroes, [`UNKNOWN`] for a sector whose write has failed.
//! The seed comes from the environment variable `STAMP_SEED`.

mod numbers;
mod sectors;

use numbers::Numbers;
use sectors::stamp;
use sectors::Buffer;
use sectors::MOST;
use sectors::O_DIRECT;
use sectors::O_DSYNC;
use sectors::RECORD;
use sectors::SECTOR;
use std::env;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::Mutex;
use std::thread;

/// The generation of a sector that may hold anything.
const UNKNOWN: u32 = u32::MAX;

type Outcome<T> = Result<T, String>;

/// What the command line asks for.
struct Options {
    seed: u64,
    from: u64,
    count: Option<u64>,
    ops: usize,
    max: u64,
    align: u64,
    threads: usize,
    block: u64,
    flags: i32,
    may_fail: bool,
    or: Option<String>,
}

fn main() -> ExitCode {
    match run(env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("stamp: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Vec<String>) -> Outcome<()> {
    let (options, words) = parse(args)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["fill", device, model, generation] => fill(&options, device, model, number(generation)?),
        ["random", device, model, generation] => random(&options, device, model, number(generation)?),
        ["check", device, model] => check(&options, device, model),
        ["list", file, exceptions] => list(file, number(exceptions)?),
        ["set", model, generation] => set(&options, model, number(generation)?),
        ["make", model, sectors] => make(model, number(sectors)?, 0),
        ["make", model, sectors, generation] => make(model, number(sectors)?, number(generation)?),
        _ => Err("usage: stamp fill|random|check|make ... (see the head of stamp.rs)".into()),
    }
}

fn parse(args: Vec<String>) -> Outcome<(Options, Vec<String>)> {
    let seed = env::var("STAMP_SEED").map_err(|_| "STAMP_SEED is not set")?;
    let mut options = Options {
        seed: number(&seed)?,
        from: 0,
        count: None,
        ops: 100,
        max: 256,
        align: 1,
        threads: 4,
        block: MOST,
        flags: O_DIRECT,
        may_fail: false,
        or: None,
    };
    let mut words = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--from" => options.from = number(&value()?)?,
            "--count" => options.count = Some(number(&value()?)?),
            "--ops" => options.ops = number(&value()?)?,
            "--max" => options.max = number::<u64>(&value()?)?.clamp(1, MOST),
            "--align" => options.align = number::<u64>(&value()?)?.max(1),
            "--threads" => options.threads = number::<usize>(&value()?)?.max(1),
            "--block" => options.block = number::<u64>(&value()?)?.clamp(1, MOST),
            "--or" => options.or = Some(value()?),
            "--dsync" => options.flags |= O_DSYNC,
            "--buffered" => options.flags &= !O_DIRECT,
            "--may-fail" => options.may_fail = true,
            _ if arg.starts_with("--") => return Err(format!("unknown option {arg}")),
            _ => words.push(arg),
        }
    }
    Ok((options, words))
}

fn number<T: std::str::FromStr>(text: &str) -> Outcome<T> {
    text.parse().map_err(|_| format!("not a number: {text}"))
}

fn open(options: &Options, path: &str, write: bool) -> Outcome<File> {
    let mut how = OpenOptions::new();
    how.read(!write).write(write).custom_flags(options.flags);
    how.open(path).map_err(|error| format!("{path}: {error}"))
}

fn device_sectors(path: &str) -> Outcome<u64> {
    use std::io::Seek;
    let mut file = File::open(path).map_err(|error| format!("{path}: {error}"))?;
    let end = file.seek(io::SeekFrom::End(0));
    Ok(end.map_err(|error| format!("{path}: {error}"))? / SECTOR as u64)
}

/// The generations that the sectors of a device should have.
struct Model(Vec<u32>);

impl Model {
    fn load(path: &str) -> Outcome<Self> {
        let bytes = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
        let words = bytes.chunks_exact(4);
        Ok(Self(words.map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()))
    }

    fn save(&self, path: &str) -> Outcome<()> {
        let bytes: Vec<u8> = self.0.iter().flat_map(|word| word.to_le_bytes()).collect();
        std::fs::write(path, bytes).map_err(|error| format!("{path}: {error}"))
    }

    fn set(&mut self, start: u64, count: u64, generation: u32) {
        let end = (start + count) as usize;
        if self.0.len() < end {
            self.0.resize(end, UNKNOWN);
        }
        self.0[start as usize..end].fill(generation);
    }
}

fn make(path: &str, sectors: usize, generation: u32) -> Outcome<()> {
    Model(vec![generation; sectors]).save(path)
}

fn list(path: &str, exceptions: u64) -> Outcome<()> {
    const CHUNK: u64 = 4096;
    const ENTRIES: u64 = CHUNK / 16;
    let failed = |error| format!("{path}: {error}");
    let file = File::create(path).map_err(failed)?;
    let header = [0x7041_6e53u32, 1, 1, 8].map(u32::to_le_bytes);
    file.write_all_at(header.as_flattened(), 0).map_err(failed)?;
    let areas = exceptions / ENTRIES + 1;
    for area in 0..areas {
        let chunk = 1 + area * (ENTRIES + 1);
        let first = area * ENTRIES;
        let entries: Vec<u8> = (first..exceptions.min(first + ENTRIES))
            .flat_map(|n| [n * 2, chunk + 1 + (n - first)])
            .flat_map(u64::to_le_bytes)
            .collect();
        file.write_all_at(&entries, chunk * CHUNK).map_err(failed)?;
    }
    // Room for as many again.
    file.set_len((1 + 2 * areas * (ENTRIES + 1)) * CHUNK).map_err(failed)
}

/// Changes a model only: something else than us has written.
fn set(options: &Options, path: &str, generation: u32) -> Outcome<()> {
    let mut model = Model::load(path)?;
    let rest = (model.0.len() as u64).saturating_sub(options.from);
    model.set(options.from, options.count.unwrap_or(rest), generation);
    model.save(path)
}

/// The model for writing to a device: made on first use.
fn model_for(path: &str, device: &str) -> Outcome<Model> {
    if std::path::Path::new(path).exists() {
        return Model::load(path);
    }
    Ok(Model(vec![UNKNOWN; device_sectors(device)? as usize]))
}

fn end_of(options: &Options, sectors: u64) -> u64 {
    options.count.map_or(sectors, |count| sectors.min(options.from + count))
}

fn write(options: &Options, file: &File, buffer: &mut Buffer, start: u64, count: u64, generation: u32) -> io::Result<()> {
    let bytes = buffer.sectors(count);
    for (sector, place) in (start..).zip(bytes.chunks_exact_mut(SECTOR)) {
        stamp(options.seed, sector, generation, place);
    }
    file.write_all_at(bytes, start * SECTOR as u64)
}

/// Writes a range from end to end.
fn fill(options: &Options, device: &str, path: &str, generation: u32) -> Outcome<()> {
    let mut model = model_for(path, device)?;
    let end = end_of(options, device_sectors(device)?);
    let mut ops = Vec::new();
    let mut start = options.from;
    while start < end {
        let count = options.block.min(end - start);
        ops.push((start, count));
        start += count;
    }
    perform(options, device, &mut model, generation, &ops)?;
    model.save(path)
}

/// Writes `--ops` ranges that do not overlap, from several threads.
fn random(options: &Options, device: &str, path: &str, generation: u32) -> Outcome<()> {
    let mut model = model_for(path, device)?;
    let end = end_of(options, device_sectors(device)?);
    let range = end.saturating_sub(options.from) / options.align;
    if range == 0 {
        return Err("the range is empty".into());
    }
    let mut numbers = Numbers(options.seed ^ u64::from(generation) << 32);
    let mut taken = vec![false; end as usize];
    let mut ops = Vec::new();
    for _ in 0..options.ops {
        let start = options.from + numbers.below(range) * options.align;
        // Sizes of all magnitudes.
        let most = numbers.below(u64::from((options.max / options.align).max(1).ilog2()) + 1);
        let count = (1 + numbers.below(1 << most)) * options.align;
        let count = count.min(options.max).min(end - start);
        let places = start as usize..(start + count) as usize;
        if !taken[places.clone()].contains(&true) {
            taken[places].fill(true);
            ops.push((start, count));
        }
    }
    perform(options, device, &mut model, generation, &ops)?;
    model.save(path)
}

fn perform(options: &Options, device: &str, model: &mut Model, generation: u32, ops: &[(u64, u64)]) -> Outcome<()> {
    let file = open(options, device, true)?;
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let work = || {
        let mut buffer = Buffer::new();
        while let Some(&(start, count)) = ops.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = write(options, &file, &mut buffer, start, count, generation) {
                failures.lock().unwrap().push((start, count, error));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..options.threads.min(ops.len()) {
            scope.spawn(work);
        }
    });
    for &(start, count) in ops {
        model.set(start, count, generation);
    }
    let failures = failures.into_inner().unwrap();
    for (start, count, error) in &failures {
        model.set(*start, *count, UNKNOWN);
        if !options.may_fail {
            return Err(format!("{device}: writing {count} sectors at {start}: {error}"));
        }
    }
    println!("stamp: {device}: generation {generation}: {} writes, {} failed", ops.len(), failures.len());
    Ok(())
}

/// Compares a device, all of it, with the model.
fn check(options: &Options, device: &str, path: &str) -> Outcome<()> {
    let model = Model::load(path)?;
    let other = options.or.as_deref().map(Model::load).transpose()?;
    let sectors = device_sectors(device)?;
    if sectors != model.0.len() as u64 {
        return Err(format!("{device} has {sectors} sectors, {path} is for {}", model.0.len()));
    }
    let file = open(options, device, false)?;
    let (end, mut start) = (end_of(options, sectors), options.from);
    let mut buffer = Buffer::new();
    let mut want = [0; SECTOR];
    let (mut wrong, mut unknown) = (0u64, 0u64);
    while start < end {
        let count = options.block.min(end - start);
        let bytes = buffer.sectors(count);
        file.read_exact_at(bytes, start * SECTOR as u64)
            .map_err(|error| format!("{device}: reading {count} sectors at {start}: {error}"))?;
        for (sector, found) in (start..).zip(bytes.chunks_exact(SECTOR)) {
            let alternatives = [Some(&model), other.as_ref()];
            let mut fits = false;
            for generation in alternatives.into_iter().flatten().map(|model| model.0[sector as usize]) {
                if generation == UNKNOWN {
                    unknown += 1;
                    fits = true;
                    break;
                }
                stamp(options.seed, sector, generation, &mut want);
                fits |= want == *found;
            }
            if !fits {
                wrong += 1;
                if wrong <= 8 {
                    complain(options.seed, sector, model.0[sector as usize], found);
                }
            }
        }
        start += count;
    }
    if wrong != 0 {
        return Err(format!("{device}: {wrong} of {} sectors are not as in {path}", end - options.from));
    }
    if unknown != 0 {
        println!("stamp: {device}: {unknown} sectors of unknown content passed over");
    }
    Ok(())
}

fn complain(seed: u64, sector: u64, generation: u32, found: &[u8]) {
    let (first, last) = (&found[..RECORD], &found[SECTOR - RECORD..]);
    let uniform = found.chunks_exact(RECORD).all(|record| record == first);
    let describe = |record: &[u8]| {
        if record.iter().all(|byte| *byte == 0) {
            return "zeroes".to_owned();
        }
        let text = String::from_utf8_lossy(record);
        match text.strip_prefix(&format!("{:08x} ", seed as u32)) {
            Some(rest) => format!("sector and generation {}", rest.trim_end()),
            None => format!("{:?}, not written by this test", text),
        }
    };
    eprint!("stamp: sector {sector}: want generation {generation}, found {}", describe(first));
    if uniform {
        eprintln!();
    } else {
        eprintln!(" (not all the same; its end: {})", describe(last));
    }
}
