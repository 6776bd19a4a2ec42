// SPDX-License-Identifier: GPL-2.0-or-later

//! One script after the other.

use crate::compare::Difference;
use crate::generate::generate;
use crate::lockstep::Care;
use crate::lockstep::Pair;
use crate::lockstep::Verdict;
use crate::pool::Pool;
use crate::script::Script;
use crate::shrink::shrink;
use crate::shrink::tidy;
use crate::Common;
use anyhow::anyhow;
use anyhow::Context;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

/// Shrinking ends after this time.
const SHRINKING: Duration = Duration::from_secs(90);
/// A difference that does not show again in so many runs is told as it is.
const TRIES: usize = 5;
/// How often progress is told in a long run.
const PROGRESS: Duration = Duration::from_secs(60);

/// When a run ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    Cases(u64),
    Minutes(u64),
}

struct Bench {
    pair: Pair,
    slow: u32,
    _pools: [Pool; 2],
}

impl Bench {
    fn new(common: &Common) -> anyhow::Result<Self> {
        let pools = [Pool::new("stock")?, Pool::new("ours")?];
        let numbers = [pools[0].number, pools[1].number];
        Ok(Self {
            pair: Pair::new(numbers, common.sabotage, common.slow)?,
            slow: common.slow,
            _pools: pools,
        })
    }

    /// Runs a script. A difference is told, and the devices of a hanging one are left alone.
    fn run(&mut self, script: &Script, care: Care) -> anyhow::Result<Option<(usize, Difference)>> {
        match self.pair.run(script, care)? {
            Verdict::Same => Ok(None),
            Verdict::Different(n, difference) => Ok(Some((n, difference))),
            Verdict::Hangs(n, side) => {
                println!(
                    "{side} hangs in operation {} of this script:\n\n{script}",
                    n + 1
                );
                flush();
                // Threads that wait for the kernel cannot be joined, and devices not be removed.
                std::process::exit(1);
            }
        }
    }

    /// The shortest script that can be found, with the difference that it shows.
    fn shrink(
        &mut self,
        script: &Script,
        found: &Difference,
    ) -> anyhow::Result<Option<(Script, Difference)>> {
        let end = Instant::now() + SHRINKING * self.slow;
        let mut last = None;
        for _ in 0..TRIES {
            last = self
                .run(script, Care::Full)?
                .filter(|(_, other)| other.is_like(found));
            if last.is_some() {
                break;
            }
        }
        let Some((_, mut difference)) = last else {
            return Ok(None);
        };
        let mut error = None;
        let small = shrink(script, |candidate| {
            if Instant::now() > end {
                return None;
            }
            match self.run(candidate, Care::Full) {
                Ok(Some((_, other))) if other.is_like(found) => {
                    difference = other;
                    Some(true)
                }
                Ok(_) => Some(false),
                Err(e) => {
                    error = Some(e);
                    None
                }
            }
        });
        match error {
            Some(error) => Err(error),
            None => Ok(Some((small, difference))),
        }
    }
}

/// Runs random scripts. False if a difference was found.
pub(crate) fn run(
    seed: u64,
    first: u64,
    limit: Limit,
    ops: usize,
    save: Option<&Path>,
    common: &Common,
) -> anyhow::Result<bool> {
    let mut bench = Bench::new(common)?;
    let begin = Instant::now();
    let mut told = begin;
    let mut number = first;
    loop {
        let over = match limit {
            Limit::Cases(cases) => number - first >= cases,
            Limit::Minutes(minutes) => begin.elapsed() > Duration::from_secs(60 * minutes),
        };
        if over {
            println!("{}", sum(seed, number - first, &bench.pair, begin));
            return Ok(true);
        }
        if told.elapsed() > PROGRESS {
            told = Instant::now();
            println!("{}", sum(seed, number - first, &bench.pair, begin));
            flush();
        }
        // Whatever the kernel reports can be told from the script in which it did.
        note(&format!("differential: seed {seed} script {number}"));
        let script = tidy(&generate(seed, number, ops));
        if let Some((at, difference)) = bench.run(&script, Care::Quick)? {
            println!(
                "seed {seed}, script {number}, operation {}: {difference}",
                at + 1
            );
            report(&mut bench, &script, at, &difference, save)?;
            return Ok(false);
        }
        number += 1;
    }
}

/// Runs a script from a file. False if a difference was found.
pub(crate) fn replay(
    path: &Path,
    times: u64,
    shrink: bool,
    common: &Common,
) -> anyhow::Result<bool> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let script: Script = text
        .parse()
        .map_err(|why| anyhow!("{}: {why}", path.display()))?;
    let tidy = tidy(&script);
    for op in script.ops.iter().filter(|op| !tidy.ops.contains(op)) {
        eprintln!("left out, as it does not fit: {op}");
    }
    let mut bench = Bench::new(common)?;
    for _ in 0..times {
        if let Some((at, difference)) = bench.run(&tidy, Care::Full)? {
            let op = tidy
                .ops
                .get(at)
                .map_or("the end".to_owned(), ToString::to_string);
            println!("operation {}, {op}: {difference}", at + 1);
            if shrink {
                report(&mut bench, &tidy, at, &difference, None)?;
            }
            return Ok(false);
        }
    }
    println!("no difference in {} operations", bench.pair.done);
    Ok(true)
}

/// Prints the shortest script that shows a difference.
fn report(
    bench: &mut Bench,
    script: &Script,
    at: usize,
    difference: &Difference,
    save: Option<&Path>,
) -> anyhow::Result<()> {
    flush();
    let mut cut = script.clone();
    cut.ops.truncate(at + 1);
    let (small, text) = match bench.shrink(&cut, difference)? {
        Some((small, difference)) => {
            println!("\nshrunk to {} operations: {difference}", small.ops.len());
            let text = small.to_string();
            (small, text)
        }
        None => {
            println!("\nit does not show again in {TRIES} runs; the script was");
            let text = cut.to_string();
            (cut, text)
        }
    };
    println!("\n{text}\nto run it again: dmholey-differential replay SCRIPT");
    flush();
    if let Some(path) = save {
        fs::write(path, small.to_string()).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn sum(seed: u64, cases: u64, pair: &Pair, begin: Instant) -> String {
    let seconds = begin.elapsed().as_secs_f64();
    let rate = pair.done as f64 / seconds;
    format!(
        "seed {seed}: no difference in {cases} scripts, {} operations ({seconds:.0} s, {rate:.0} a second)",
        pair.done
    )
}

/// Says something in the kernel's log.
fn note(text: &str) {
    // Nobody but a reader of the log misses it.
    let _ = fs::write("/dev/kmsg", format!("<6>{text}\n"));
}

fn flush() {
    // A reader that is gone is told by the next println.
    let _ = std::io::stdout().flush();
}
