// SPDX-License-Identifier: GPL-2.0-or-later

//! Makes a unit's output.
//!
//! Everything is checked on the way: the unit's bytes before they are decoded, the source before it is
//! used, the output before anybody sees it. Memory is at most that of a source, an output, the streams
//! that the output is made of, and the unit itself; [`crate::format`] has their limits.

use crate::digest::Digest;
use crate::digest::Hasher;
use crate::error::Broken;
use crate::error::Error;
use crate::error::Result;
use crate::format::BLOCK;
use crate::format::BLOCK_LEN;
use crate::gzip;
use crate::index::bytes_of;
use crate::index::Copy;
use crate::index::Group;
use crate::index::Method;
use crate::index::Output;
use crate::index::Run;
use crate::index::Source;
use crate::index::Unit;
use crate::pack;
use crate::program::Program;
use dmholey_cow::disk;
use dmholey_cow::Disk;

/// Reads blocks; what lies behind the end of the image is zero.
pub(crate) fn read_blocks<D: Disk + ?Sized>(disk: &D, start: u64, buf: &mut [u8]) -> Result<()> {
    let offset = start * BLOCK_LEN;
    let there = disk.size().saturating_sub(offset).min(buf.len() as u64);
    let (there, rest) = buf.split_at_mut(there as usize);
    rest.fill(0);
    if !there.is_empty() {
        disk::read(disk, offset, there)?;
    }
    Ok(())
}

/// Appends what is in `runs`.
pub(crate) fn read_runs<D: Disk + ?Sized>(disk: &D, runs: &[Run], out: &mut Vec<u8>) -> Result<()> {
    for run in runs {
        let at = out.len();
        out.resize(at + run.bytes() as usize, 0);
        read_blocks(disk, run.start, out.get_mut(at..).unwrap_or_default())?;
    }
    Ok(())
}

/// The content of a group of copies, checked.
pub fn copied<D: Disk + ?Sized>(group: &Group, base: &D) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(group.blocks() as usize * BLOCK);
    for &Copy { source, len, .. } in &group.copies {
        let run = Run { start: source, len };
        read_runs(base, &[run], &mut out)?;
    }
    if Digest::of(&out) == group.digest {
        return Ok(out);
    }
    let first = group.copies.first().map_or(0, |copy| copy.source);
    Err(drift(base, first))
}

fn drift<D: Disk + ?Sized>(base: &D, block: u64) -> Error {
    Error::Drift {
        object: base.name(),
        what: format!("something at block {block} or behind it"),
    }
}

/// A unit's output.
#[derive(Debug)]
pub struct Made<'a> {
    unit: &'a Unit,
    /// What was decoded.
    bytes: Vec<u8>,
    /// The compressed files among it, made again, in their order.
    files: Vec<Vec<u8>>,
}

impl Made<'_> {
    /// The parts of the output, each with its place.
    pub fn parts(&self) -> impl Iterator<Item = (&Output, &[u8])> {
        let mut at = 0;
        let mut files = self.files.iter();
        self.unit.outputs.iter().map(move |output| {
            let start = at;
            at += output.bytes() as usize;
            let part = match output.gzip {
                Some(_) => files.next().map(Vec::as_slice),
                None => self.bytes.get(start..at),
            };
            (output, part.unwrap_or_default())
        })
    }

    /// The same, cut into runs.
    pub fn runs(&self) -> impl Iterator<Item = (Run, &[u8])> {
        self.parts().flat_map(|(output, mut part)| {
            output.runs.iter().map(move |&run| {
                let (bytes, rest) = part.split_at(part.len().min(run.bytes() as usize));
                part = rest;
                (run, bytes)
            })
        })
    }
}

/// Makes the output of `unit`, whose bytes in the delta are `packed`, out of the old image `base`.
/// `object` is the delta's name, for messages.
pub fn decode<'a, D: Disk + ?Sized>(
    unit: &'a Unit,
    packed: &[u8],
    base: &D,
    object: &dyn Fn() -> String,
) -> Result<Made<'a>> {
    let fail = |reason| Error::format(object(), reason);
    if packed.len() as u64 != unit.packed || Digest::of(packed) != unit.digest {
        return Err(fail(Broken::Digest("a unit")));
    }
    let source = read_sources(unit, base, object)?;
    let bytes = decode_bytes(unit, packed, &source).map_err(fail)?;
    drop(source);
    let made = Made {
        files: remake_files(unit, &bytes).map_err(fail)?,
        unit,
        bytes,
    };
    let mut hasher = Hasher::default();
    made.parts().for_each(|(_, part)| hasher.update(part));
    if hasher.finish() != unit.output {
        return Err(fail(Broken::Digest("a unit's output")));
    }
    Ok(made)
}

/// Reads a unit's source and checks it.
///
/// A file may be inflated before it is known whether it is the right one. If it is not, that is what is
/// told, and not that it cannot be inflated.
fn read_sources<D: Disk + ?Sized>(
    unit: &Unit,
    base: &D,
    object: &dyn Fn() -> String,
) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(unit.source_bytes() as usize + 1);
    let mut hasher = Hasher::default();
    let mut inflated = Ok(());
    for source in &unit.sources {
        let at = out.len();
        match source.inflate {
            None => {
                read_runs(base, &source.runs, &mut out)?;
                hasher.update(out.get(at..).unwrap_or_default());
            }
            Some(len) => {
                let packed = read_source(source, base)?;
                hasher.update(&packed);
                inflated = inflated.and(gzip::inflate(&packed, len as usize, &mut out));
            }
        }
    }
    if hasher.finish() != unit.source {
        let first = unit.sources.iter().flat_map(|source| &source.runs).next();
        return Err(drift(base, first.map_or(0, |run| run.start)));
    }
    inflated.map_err(|reason| Error::format(object(), reason))?;
    Ok(out)
}

fn read_source<D: Disk + ?Sized>(source: &Source, base: &D) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(bytes_of(&source.runs) as usize);
    read_runs(base, &source.runs, &mut bytes)?;
    Ok(bytes)
}

/// What the method makes of a unit's bytes and its source.
pub(crate) fn decode_bytes(
    unit: &Unit,
    packed: &[u8],
    source: &[u8],
) -> std::result::Result<Vec<u8>, Broken> {
    let len = unit.output_bytes() as usize;
    match unit.method {
        Method::Data => pack::decode(packed, &[], len, "unit"),
        Method::Prefix => pack::decode(packed, source, len, "unit"),
        Method::Program => Program::decode(packed, len)?.run(source),
    }
}

fn remake_files(unit: &Unit, mut bytes: &[u8]) -> std::result::Result<Vec<Vec<u8>>, Broken> {
    let mut files = Vec::new();
    for output in &unit.outputs {
        let (part, rest) = bytes
            .split_at_checked(output.bytes() as usize)
            .ok_or(Broken::Program)?;
        bytes = rest;
        if let Some((_, recipe)) = output.gzip {
            files.push(gzip::remake(part, recipe, bytes_of(&output.runs) as usize)?);
        }
    }
    Ok(files)
}
