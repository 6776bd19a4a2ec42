// SPDX-License-Identifier: GPL-2.0-or-later

//! What the lab needs inside the virtual machine and no other program does: stores of any size, made
//! in an instant, and times of single device-mapper calls.

#![deny(unsafe_code)]

use anyhow::anyhow;
use anyhow::bail;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use clap::Parser;
use clap::ValueEnum;
use dmholey::dm::ioctl::Dm;
use dmholey::dm::merge;
use dmholey::dm::Kernel;
use dmholey::dm::Line;
use holey_core::format::ChunkSize;
use holey_core::format::Exception;
use holey_core::format::Header;
use holey_core::format::Layout;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

/// A prime larger than any number of exceptions here, near 2^32 divided by the golden ratio:
/// multiples of it, modulo that number, come in no order that a disk could profit from.
const STEP: u64 = 2_654_435_761;

/// Shorter than this, asking costs more than it tells.
const SHORTEST_NAP: Duration = Duration::from_millis(1);

/// Tools for the virtual machine of the benchmarks
#[derive(Debug, Parser)]
#[command(name = "holey-lab", version)]
enum Command {
    /// Write the metadata of a store whose data is whatever the device holds
    Store {
        /// The COW device
        device: PathBuf,
        /// How many exceptions
        #[arg(long)]
        exceptions: u64,
        /// Chunks of the origin
        #[arg(long)]
        origin: u64,
        /// Which chunks of the origin they are
        #[arg(long, value_enum)]
        pattern: Pattern,
        /// Chunk size in sectors
        #[arg(long, default_value_t = 8)]
        chunk: u32,
        /// Chunks of a run
        #[arg(long, default_value_t = 1024)]
        run: u64,
    },
    /// Make a device and tell how many seconds loading its table and resuming it took
    Activate {
        /// And reading 4 KiB from this sector on
        #[arg(long, value_name = "SECTOR")]
        read: Option<u64>,
        #[command(flatten)]
        device: Device,
    },
    /// Make a merging device and tell how many seconds the merge took, from its resume on
    Merge(Device),
    /// Wait for the end of a merge and tell how many seconds that took
    Wait {
        /// The device
        name: String,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Pattern {
    /// Single chunks, never two next to each other, in no order
    Scattered,
    /// Runs of consecutive chunks, the runs in no order
    Runs,
}

#[derive(Debug, clap::Args)]
struct Device {
    /// Its name
    name: String,
    /// Its table, one line
    #[arg(trailing_var_arg = true, required = true)]
    table: Vec<String>,
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Store {
            device,
            exceptions,
            origin,
            pattern,
            chunk,
            run,
        } => {
            let chunk = ChunkSize::new(chunk).map_err(|why| anyhow!("{why}"))?;
            let origins = match pattern {
                Pattern::Scattered => scattered(exceptions, origin)?,
                Pattern::Runs => runs(exceptions, origin, run)?,
            };
            write_store(&device, chunk, &origins)
        }
        Command::Activate { read, device } => {
            let dm = Dm::open()?;
            let number = dm.create(&device.name, "")?;
            let line = parse_line(&device.table)?;
            let begun = Instant::now();
            dm.load(&device.name, &line)?;
            dm.resume(&device.name)?;
            if let Some(sector) = read {
                // Nothing of a new device is in memory.
                let file = File::open(format!("/dev/dm-{}", number.minor))?;
                file.read_exact_at(&mut [0; 4096], sector * 512)?;
            }
            tell(begun);
            Ok(())
        }
        Command::Merge(device) => {
            let dm = Dm::open()?;
            dm.create(&device.name, "")?;
            dm.load(&device.name, &parse_line(&device.table)?)?;
            let begun = Instant::now();
            dm.resume(&device.name)?;
            wait(&dm, &device.name, begun)
        }
        Command::Wait { name } => wait(&Dm::open()?, &name, Instant::now()),
    }
}

/// Waits for the end of a merge, and tells how long it has been since `begun`: half a percent too
/// long at most, so that the asking does not hold up what is asked for.
fn wait(dm: &Dm, name: &str, begun: Instant) -> Result<()> {
    while !merge::look(dm, name)?.finished {
        sleep(SHORTEST_NAP.max(begun.elapsed() / 200));
    }
    tell(begun);
    Ok(())
}

fn tell(begun: Instant) {
    println!("{:.6}", begun.elapsed().as_secs_f64());
}

fn parse_line(words: &[String]) -> Result<Line> {
    let text = words.join(" ");
    let mut words = text.splitn(4, ' ');
    let mut next = || words.next().context("the table has too few words");
    Ok(Line {
        start: next()?.parse()?,
        len: next()?.parse()?,
        target: next()?.to_owned(),
        params: next()?.to_owned(),
    })
}

/// The origin chunks of single exceptions.
fn scattered(exceptions: u64, origin: u64) -> Result<Vec<u64>> {
    ensure!(exceptions > 0, "no exceptions");
    let stride = origin / exceptions;
    ensure!(stride >= 2, "the origin is too small for single chunks");
    Ok((0..exceptions)
        .map(|n| shuffled(n, exceptions) * stride)
        .collect())
}

/// The origin chunks of runs.
fn runs(exceptions: u64, origin: u64, run: u64) -> Result<Vec<u64>> {
    if run == 0 || exceptions == 0 || exceptions % run != 0 {
        bail!("{exceptions} exceptions make no runs of {run}");
    }
    ensure!(exceptions <= origin, "the origin is too small");
    let count = exceptions / run;
    let start = |n| shuffled(n, count) * run;
    Ok((0..count).flat_map(|n| start(n)..start(n) + run).collect())
}

/// Place of element `n` of `count`, a permutation.
fn shuffled(n: u64, count: u64) -> u64 {
    n * STEP % count
}

/// Writes header and areas; the data chunks follow each other.
fn write_store(device: &Path, chunk: ChunkSize, origins: &[u64]) -> Result<()> {
    let file = File::options().write(true).open(device);
    let file = file.with_context(|| format!("open {}", device.display()))?;
    let layout = Layout::new(chunk);
    let at = |number: u64| number * chunk.bytes() as u64;
    let mut cow = layout.first_data();
    let per_area = layout.entries() as usize;
    // The area behind a full one ends the list.
    for area in 0..origins.len() / per_area + 1 {
        let mut image = vec![0; chunk.bytes()];
        let listed = origins.iter().skip(area * per_area).take(per_area);
        for (&origin, entry) in listed.zip(image.chunks_exact_mut(16)) {
            cow = layout.skip_metadata(cow);
            entry.copy_from_slice(&Exception { origin, cow }.encode());
            cow += 1;
        }
        file.write_all_at(&image, at(layout.area_chunk(area as u64)))?;
    }
    let mut header = vec![0; chunk.bytes()];
    let bytes = Header { valid: true, chunk }.encode();
    header[..bytes.len()].copy_from_slice(&bytes);
    file.write_all_at(&header, 0)?;
    file.sync_all().context("sync the store")
}
