// SPDX-License-Identifier: GPL-2.0-or-later

//! Encodes units, several at a time.

use super::diff;
use super::internal;
use super::units::Draft;
use super::Options;
use super::Pair;
use crate::digest::Digest;
use crate::digest::Hasher;
use crate::error::Broken;
use crate::error::Result;
use crate::format::MAX_GROUP;
use crate::format::MAX_PACKED;
use crate::gzip;
use crate::index::bytes_of;
use crate::index::Copy;
use crate::index::Group;
use crate::index::Method;
use crate::index::Output;
use crate::index::Run;
use crate::index::Unit;
use crate::pack;
use crate::program::Program;
use crate::unit;
use crate::unit::read_runs;
use dmholey_cow::progress;
use dmholey_cow::Disk;
use dmholey_cow::Error as CowError;
use dmholey_cow::Progress;
use std::io::Write;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::Mutex;
use std::sync::PoisonError;
use tempfile::SpooledTempFile;

/// If more than one byte of so many is new, the source may serve better as a prefix.
const MANY_NEW: usize = 12;

/// Encodes all drafts. Returns the units, in the order of the drafts, and where each is in `spool`.
pub(super) fn all<O: Disk, N: Disk>(
    pair: &Pair<'_, O, N>,
    drafts: Vec<Draft>,
    options: Options,
    spool: &mut SpooledTempFile,
    watch: &dyn Progress,
) -> Result<(Vec<Unit>, Vec<u64>)> {
    let total = drafts.iter().map(written).sum();
    let work = Work {
        pair,
        drafts: &drafts,
        options,
        watch,
        total,
        next: AtomicUsize::new(0),
        done: AtomicU64::new(0),
        spool: Mutex::new((spool, 0)),
    };
    let threads = super::threads().min(drafts.len());
    let results = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| work.run())).collect();
        let results: Vec<_> = workers.into_iter().map(crate::join).collect();
        results.into_iter().collect::<Result<Vec<_>>>()
    })?;
    let mut units: Vec<(usize, Unit, u64)> = results.into_iter().flatten().collect();
    units.sort_by_key(|&(n, _, _)| n);
    Ok(units
        .into_iter()
        .map(|(_, unit, place)| (unit, place))
        .unzip())
}

fn written(draft: &Draft) -> u64 {
    draft
        .outputs
        .iter()
        .map(|output| bytes_of(&output.runs))
        .sum()
}

struct Work<'a, O, N> {
    pair: &'a Pair<'a, O, N>,
    drafts: &'a [Draft],
    options: Options,
    watch: &'a dyn Progress,
    total: u64,
    next: AtomicUsize,
    done: AtomicU64,
    /// The file, and how long it is.
    spool: Mutex<(&'a mut SpooledTempFile, u64)>,
}

impl<O: Disk, N: Disk> Work<'_, O, N> {
    fn run(&self) -> Result<Vec<(usize, Unit, u64)>> {
        let mut units = Vec::new();
        loop {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(draft) = self.drafts.get(n) else {
                return Ok(units);
            };
            self.units(draft, &mut |unit, packed| {
                units.push((n, unit, self.store(&packed)?));
                Ok(())
            })?;
            let len = written(draft);
            let done = self.done.fetch_add(len, Ordering::Relaxed) + len;
            progress::step(self.watch, done, self.total)?;
        }
    }

    fn store(&self, packed: &[u8]) -> Result<u64> {
        let mut spool = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
        let place = spool.1;
        spool
            .0
            .write_all(packed)
            .map_err(|e| CowError::io("write", "temporary file", e))?;
        spool.1 += packed.len() as u64;
        Ok(place)
    }

    /// Encodes a draft; in parts, if a unit of it would be too large.
    fn units(
        &self,
        draft: &Draft,
        take: &mut dyn FnMut(Unit, Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let (unit, packed) = self.unit(draft)?;
        if unit.packed <= MAX_PACKED {
            return take(unit, packed);
        }
        drop(packed);
        let too_large = || internal(Broken::Limit("a unit's length"));
        let (first, second) = draft.halves().ok_or_else(too_large)?;
        self.units(&first, take)?;
        self.units(&second, take)
    }

    fn unit(&self, draft: &Draft) -> Result<(Unit, Vec<u8>)> {
        let (source, source_digest) = self.source(draft)?;
        let (output, output_digest) = self.output(draft)?;
        let (method, packed) = self.smallest(&source, &output)?;
        let unit = Unit {
            method,
            offset: 0,
            packed: packed.len() as u64,
            digest: Digest::of(&packed),
            sources: draft.sources.clone(),
            source: source_digest,
            outputs: draft.outputs.clone(),
            output: output_digest,
        };
        let unit = match method {
            // A source that is not used is not read.
            Method::Data => Unit {
                sources: Vec::new(),
                source: Digest::of(&[]),
                ..unit
            },
            _ => unit,
        };
        // A client does the same; what it could not do must not be published.
        let made = unit::decode(&unit, &packed, self.pair.old, &|| "delta".to_owned())?;
        drop(made);
        Ok((unit, packed))
    }

    fn source(&self, draft: &Draft) -> Result<(Vec<u8>, Digest)> {
        let mut hasher = Hasher::default();
        let mut bytes = Vec::new();
        for source in &draft.sources {
            let mut read = Vec::new();
            read_runs(self.pair.old, &source.runs, &mut read)?;
            hasher.update(&read);
            match source.inflate {
                None => bytes.append(&mut read),
                Some(len) => {
                    gzip::inflate(&read, len as usize, &mut bytes).map_err(internal)?;
                }
            }
        }
        Ok((bytes, hasher.finish()))
    }

    fn output(&self, draft: &Draft) -> Result<(Vec<u8>, Digest)> {
        let mut hasher = Hasher::default();
        let mut bytes = Vec::new();
        for Output { gzip, runs } in &draft.outputs {
            let mut read = Vec::new();
            read_runs(self.pair.new, runs, &mut read)?;
            hasher.update(&read);
            match *gzip {
                None => bytes.append(&mut read),
                Some((len, _)) => {
                    gzip::inflate(&read, len as usize, &mut bytes).map_err(internal)?;
                }
            }
        }
        Ok((bytes, hasher.finish()))
    }

    /// Tries the methods that may be the smallest.
    fn smallest(&self, source: &[u8], output: &[u8]) -> Result<(Method, Vec<u8>)> {
        let level = self.options.level;
        if source.is_empty() {
            let packed = pack::encode(output, &[], level).map_err(internal)?;
            return Ok((Method::Data, packed));
        }
        let program = diff::program(source, output);
        let mut best = None;
        if program.fits() {
            let packed = program.encode(level).map_err(internal)?;
            best = Some((Method::Program, packed));
        }
        if !program.fits() || is_poor(&program, output) {
            let packed = pack::encode(output, source, level).map_err(internal)?;
            if best
                .as_ref()
                .is_none_or(|(_, best)| packed.len() < best.len())
            {
                best = Some((Method::Prefix, packed));
            }
        }
        if let Some(best) = best.filter(|(_, packed)| packed.len() as u64 <= MAX_PACKED) {
            return Ok(best);
        }
        let packed = pack::encode(output, &[], level).map_err(internal)?;
        Ok((Method::Data, packed))
    }
}

fn is_poor(program: &Program, output: &[u8]) -> bool {
    program.put_len() > output.len() / MANY_NEW
}

/// Puts copies together to groups, and digests them.
pub(super) fn groups<O: Disk>(old: &O, copies: Vec<Copy>) -> Result<Vec<Group>> {
    let mut groups: Vec<Vec<Copy>> = Vec::new();
    let mut room = 0;
    for mut copy in copies {
        while copy.len > 0 {
            if room == 0 {
                groups.push(Vec::new());
                room = MAX_GROUP as u32;
            }
            let len = copy.len.min(room);
            if let Some(group) = groups.last_mut() {
                group.push(Copy { len, ..copy });
            }
            room -= len;
            copy.target += u64::from(len);
            copy.source += u64::from(len);
            copy.len -= len;
        }
    }
    let digested = groups.into_iter().map(|copies| {
        let mut bytes = Vec::new();
        for &Copy { source, len, .. } in &copies {
            read_runs(old, &[Run { start: source, len }], &mut bytes)?;
        }
        Ok(Group {
            digest: Digest::of(&bytes),
            copies,
        })
    });
    digested.collect()
}
