// SPDX-License-Identifier: GPL-2.0-or-later

//! Makes a delta.
//!
//! 1. `scan`: both images are read once; each block gets a hash, each image its digest.
//! 2. `blocks`: what has become zero, and what is elsewhere in the old image, needs no bytes.
//! 3. `pieces`: the rest is put in order by the files it belongs to, and each piece is given the blocks
//!    that it is likely to be made from: the old version of its file, or what was in its place.
//! 4. `units`: pieces of a kind are put together to units, within the limits of the format.
//! 5. `encode`: each unit is encoded in the ways that may be the smallest, decoded again and compared.
//!
//! The same two images give the same delta, whatever the number of threads.

mod blocks;
mod diff;
mod encode;
mod pieces;
mod scan;
mod similar;
mod units;

use crate::digest::Digest;
use crate::error::Broken;
use crate::error::Error;
use crate::error::Result;
use crate::format::Header;
use crate::format::HEADER_LEN;
use crate::format::MAX_INDEX;
use crate::index::Index;
use crate::pack;
use dmholey_cow::disk;
use dmholey_cow::Disk;
use dmholey_cow::Error as CowError;
use dmholey_cow::Progress;
use serde::Serialize;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use tempfile::SpooledTempFile;

/// How hard zstd works if nothing else is asked for.
pub const DEFAULT_LEVEL: i32 = 19;
/// The levels that can be asked for.
pub const LEVELS: std::ops::RangeInclusive<i64> = 1..=22;
/// Compressed units are kept in memory up to this many bytes, and in a file beyond.
const SPOOL: usize = 64 << 20;
/// Bytes copied at a time.
const BATCH: usize = 1 << 20;
/// Threads at most: each needs some 300 MB.
const MAX_THREADS: usize = 4;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// zstd's level.
    pub level: i32,
    /// Whether file systems are read.
    pub files: bool,
    /// Whether compressed files are inflated.
    pub gzip: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            level: DEFAULT_LEVEL,
            files: true,
            gzip: true,
        }
    }
}

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Bytes of the delta.
    pub bytes: u64,
    /// Bytes of its index.
    pub index_bytes: u64,
    /// Its identity.
    pub identity: Digest,
    /// Blocks that become zero.
    pub zero_blocks: u64,
    /// Blocks that come from elsewhere.
    pub copied_blocks: u64,
    /// Blocks that units make.
    pub made_blocks: u64,
    /// Number of units.
    pub units: usize,
    /// Files whose old version was found.
    pub paired_files: usize,
    /// Compressed files that are made again from their content.
    pub gzip_files: usize,
}

/// Writes the delta from `old` to `new` to `output`, from its start on.
pub fn make<O: Disk, N: Disk, W: Disk>(
    old: &O,
    new: &N,
    output: &W,
    options: Options,
    watch: &dyn Progress,
) -> Result<Report> {
    let pair = Pair { old, new };
    let total = old.size().saturating_add(new.size());
    let scanned_old = scan::scan(old, watch, 0, total)?;
    let scanned_new = scan::scan(new, watch, old.size(), total)?;
    let mut map = blocks::Map::new(&scanned_old, &scanned_new);
    let (mut files, mut report) = (pieces::Files::default(), pieces::Found::default());
    if options.files {
        files = pieces::Files::read(&pair);
    }
    let pieces = pieces::pieces(&pair, &files, &mut map, options, &mut report)?;
    let drafts = units::group(pieces);
    let mut spool = SpooledTempFile::new(SPOOL);
    let (units, places) = encode::all(&pair, drafts, options, &mut spool, watch)?;
    let index = Index {
        zero: map.zero(),
        groups: encode::groups(old, map.copies())?,
        units,
    };
    let header = Header {
        old_len: old.size(),
        new_len: new.size(),
        index_packed: 0,
        index_len: 0,
        file_len: 0,
        old: scanned_old.digest,
        new: scanned_new.digest,
        index: Digest::of(&[]),
    };
    let header = write(output, header, &index, &places, &mut spool)?;
    Ok(Report {
        bytes: header.file_len,
        index_bytes: header.index_packed.into(),
        identity: header.identity(),
        zero_blocks: index.zero.iter().map(|run| u64::from(run.len)).sum(),
        copied_blocks: index.groups.iter().map(|group| group.blocks()).sum(),
        made_blocks: index.units.iter().map(|unit| unit.blocks()).sum(),
        units: index.units.len(),
        paired_files: report.paired,
        gzip_files: report.gzip,
    })
}

/// The two images.
struct Pair<'a, O, N> {
    old: &'a O,
    new: &'a N,
}

/// Threads for the work.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS))
}

/// Writes header, index and the units, each of which is somewhere in `spool`.
fn write<W: Disk>(
    output: &W,
    mut header: Header,
    index: &Index,
    places: &[u64],
    spool: &mut SpooledTempFile,
) -> Result<Header> {
    let fail = |reason| Error::format(output.name(), reason);
    let bytes = index.encode();
    let packed = pack::encode(&bytes, &[], DEFAULT_LEVEL).map_err(fail)?;
    let largest = bytes.len().max(packed.len()) as u64;
    if largest > MAX_INDEX {
        return Err(too_many(output));
    }
    header.index_packed = packed.len() as u32;
    header.index_len = bytes.len() as u32;
    header.index = Digest::of(&packed);
    header.file_len = header.units_at() + index.units_len();
    // What readers would refuse is not written.
    Index::parse(&bytes, &header).map_err(|why| match why {
        Broken::TooMany(_) => too_many(output),
        why => fail(why),
    })?;
    output
        .reserve(header.file_len)
        .map_err(|e| CowError::io("make the delta fit on", output.name(), e))?;
    disk::write(output, HEADER_LEN as u64, &packed)?;
    let mut at = header.units_at();
    for (unit, &place) in index.units.iter().zip(places) {
        copy(spool, place, unit.packed, output, at)?;
        at += unit.packed;
    }
    disk::write(output, 0, &header.encode())?;
    disk::flush(output)?;
    Ok(header)
}

fn too_many<W: Disk>(output: &W) -> Error {
    let why = "the versions differ in too many places for one delta; make the steps between them smaller, or ship the \
               image whole";
    CowError::refused(output.name(), why).into()
}

fn copy<W: Disk>(
    spool: &mut SpooledTempFile,
    place: u64,
    len: u64,
    output: &W,
    mut at: u64,
) -> Result<()> {
    let fail = |e| CowError::io("read", "temporary file", e);
    spool.seek(SeekFrom::Start(place)).map_err(fail)?;
    let mut left = len;
    let mut buf = vec![0; BATCH];
    while left > 0 {
        let part = buf
            .get_mut(..left.min(BATCH as u64) as usize)
            .unwrap_or_default();
        spool.read_exact(part).map_err(fail)?;
        disk::write(output, at, part)?;
        at += part.len() as u64;
        left -= part.len() as u64;
    }
    Ok(())
}

/// What a failure of an encoder means: nothing in the images can cause it.
fn internal(reason: Broken) -> Error {
    Error::format("delta in the making", reason)
}

#[cfg(test)]
mod tests;
