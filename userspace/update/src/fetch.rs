// SPDX-License-Identifier: GPL-2.0-or-later

//! Gets a delta, and goes on where it was interrupted.
//!
//! The catalog tells the digest of the header, the header that of the index, and the index that of each unit;
//! so every part is checked when it arrives, wherever it comes from, and a part that is in the file already
//! counts if its digest says so. Nothing else has to be remembered.

use crate::error::Error;
use crate::error::Result;
use crate::source::Mirrors;
use crate::source::Source;
use dmholey_cow::disk;
use dmholey_cow::disk::Access;
use dmholey_cow::format::SECTOR_SIZE;
use dmholey_cow::progress;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use dmholey_cow::Kind;
use dmholey_cow::Progress;
use dmholey_delta::delta::Plan;
use dmholey_delta::format::Header;
use dmholey_delta::format::HEADER_LEN;
use dmholey_delta::index::Unit;
use dmholey_delta::Delta;
use dmholey_delta::Digest;
use dmholey_repository::catalog;
use dmholey_repository::catalog::TARGETS;
use std::cell::Cell;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes asked for at a time, unless one unit has more.
const REQUEST: u64 = 16 << 20;
/// Bytes that arrive between two flushes: as much, and the unit that it belongs to, may have to be fetched again after
/// a power cut.
const FLUSH: u64 = 1 << 20;

/// What was fetched, and what was there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes that came from a mirror.
    pub fetched: u64,
    /// Bytes that an earlier run had fetched.
    pub found: u64,
}

/// Where a delta is in `dir` when it is complete.
pub fn path(dir: &Path, delta: &catalog::Delta) -> PathBuf {
    dir.join(format!("{}.delta", delta.identity))
}

/// What there may be of a delta in `dir`.
pub fn files(dir: &Path, delta: &catalog::Delta) -> [PathBuf; 2] {
    [path(dir, delta), part(dir, delta)]
}

/// What a delta is called in a mirror.
pub fn name(delta: &catalog::Delta) -> String {
    format!("{TARGETS}/{}", delta.file())
}

/// Bytes for which there is no room in `dir` yet: what is there in part has its room.
pub fn missing(delta: &catalog::Delta, dir: &Path) -> Result<u64> {
    if path(dir, delta).exists() {
        return Ok(0);
    }
    let part = part(dir, delta);
    match std::fs::metadata(&part) {
        Ok(meta) => Ok(delta
            .bytes
            .saturating_sub(meta.blocks().saturating_mul(SECTOR_SIZE))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(delta.bytes),
        Err(e) => Err(Error::path("look at", &part, e)),
    }
}

/// Gets a delta into `dir`.
pub fn fetch(
    mirrors: &Mirrors,
    delta: &catalog::Delta,
    dir: &Path,
    watch: &dyn Progress,
) -> Result<(Delta<Device>, Fetched)> {
    let mut sum = Fetched::default();
    if let Some(found) = whole(delta, dir)? {
        return Ok((found, sum));
    }
    let (path, name) = (path(dir, delta), name(delta));
    let part = part(dir, delta);
    let file = part_file(&part, delta.bytes)?;
    let plan = head(mirrors, &name, delta, &file, &mut sum)?;
    units(mirrors, &name, &plan, &file, &mut sum, watch)?;
    disk::flush(&file)?;
    std::fs::rename(&part, &path).map_err(|e| Error::path("name", &path, e))?;
    Ok((Delta::new(Device::open(&path, Access::Read)?, plan), sum))
}

/// Looks at all of a delta that is complete in `dir`. If something of it is damaged, it is one that is there in part, of
/// which only the damaged parts are fetched again. Returns whether that is so.
pub fn doubt(delta: &catalog::Delta, dir: &Path) -> Result<bool> {
    let Some(found) = whole(delta, dir)? else {
        return Ok(true);
    };
    let file = Device::open(&path(dir, delta), Access::Read)?;
    let damaged = !missing_units(&found.plan.index.units, &file)?.is_empty();
    if damaged {
        set_aside(delta, dir)?;
    }
    Ok(damaged)
}

/// The delta if it is complete in `dir`, as far as header and index say. Otherwise, if they are damaged, it is there in
/// part.
fn whole(delta: &catalog::Delta, dir: &Path) -> Result<Option<Delta<Device>>> {
    let path = path(dir, delta);
    if !path.exists() {
        return Ok(None);
    }
    match Delta::open(Device::open(&path, Access::Read)?) {
        Ok(found) if found.plan.header.identity() == delta.identity => return Ok(Some(found)),
        Err(error) if error.kind() != Kind::Store => return Err(error.into()),
        Ok(_) | Err(_) => set_aside(delta, dir)?,
    }
    Ok(None)
}

/// Makes a delta one that is there in part.
fn set_aside(delta: &catalog::Delta, dir: &Path) -> Result<()> {
    let [whole, part] = files(dir, delta);
    std::fs::rename(&whole, part).map_err(|e| Error::path("rename", &whole, e))
}

/// Gets the header and the index of a delta alone.
pub fn plan(
    mirrors: &Mirrors,
    delta: &catalog::Delta,
    dir: &Path,
    sum: &mut Fetched,
) -> Result<Plan> {
    if let Some(found) = whole(delta, dir)? {
        return Ok(found.plan);
    }
    let part = part(dir, delta);
    let file = open(&part).map_err(|e| Error::path("open", &part, e))?;
    let file = Device::from_file(file, &part)?;
    head(mirrors, &name(delta), delta, &file, sum)
}

/// The file of a delta in `dir` of which only some units are needed; it takes no more room than what is there.
pub fn sparse(delta: &catalog::Delta, dir: &Path) -> Result<Device> {
    let [whole, part] = files(dir, delta);
    let path = if whole.exists() { whole } else { part };
    let fail = |e| Error::path("open", &path, e);
    let file = open(&path).map_err(fail)?;
    if file.metadata().map_err(fail)?.len() < delta.bytes {
        file.set_len(delta.bytes).map_err(fail)?;
    }
    Ok(Device::from_file(file, &path)?)
}

/// Bytes of units that are not in a file yet.
pub fn missing_of(units: &[Unit], file: &Device) -> Result<u64> {
    Ok(packed(missing_units(units, file)?))
}

/// Gets some of the units of a delta into its file: those that are in `plan`.
pub fn fetch_some(
    mirrors: &Mirrors,
    delta: &catalog::Delta,
    plan: Plan,
    file: Device,
    watch: &dyn Progress,
) -> Result<(Delta<Device>, Fetched)> {
    let mut sum = Fetched::default();
    units(mirrors, &name(delta), &plan, &file, &mut sum, watch)?;
    Ok((Delta::new(file, plan), sum))
}

/// Where a delta is in `dir` while parts of it are missing.
fn part(dir: &Path, delta: &catalog::Delta) -> PathBuf {
    dir.join(format!("{}.part", delta.identity))
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path)
}

/// The file of a delta that may be there in part. There is room for all of it, or there is no file.
fn part_file(path: &Path, bytes: u64) -> Result<Device> {
    let fail = |e| Error::path("make room in", path, e);
    let file = open(path).map_err(fail)?;
    let mode = rustix::fs::FallocateFlags::empty();
    match rustix::fs::fallocate(&file, mode, 0, bytes.max(1)) {
        Ok(()) => {}
        // A file system that cannot promise room.
        Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(bytes).map_err(fail)?,
        Err(e) => {
            // What was fetched before stays only if there is room for the rest.
            return Err(fail(e.into()));
        }
    }
    Ok(Device::from_file(file, path)?)
}

/// Header and index: from the file if they are there, else from a mirror.
fn head(
    mirrors: &Mirrors,
    name: &str,
    delta: &catalog::Delta,
    file: &Device,
    sum: &mut Fetched,
) -> Result<Plan> {
    let check_header = |bytes: &[u8]| {
        let header = Header::parse(bytes).map_err(|e| e.to_string())?;
        let same = header.identity() == delta.identity && header.file_len == delta.bytes;
        let why = || "its header is another one than the catalog says".to_owned();
        same.then_some(header).ok_or_else(why)
    };
    let header = piece(mirrors, name, 0, HEADER_LEN, file, sum, check_header)?;
    let check_index = |bytes: &[u8]| Plan::parse(header, bytes).map_err(|e| e.to_string());
    let len = header.index_packed as usize;
    let at = HEADER_LEN as u64;
    piece(mirrors, name, at, len, file, sum, check_index)
}

/// A piece of the delta that `check` knows.
fn piece<T>(
    mirrors: &Mirrors,
    name: &str,
    offset: u64,
    len: usize,
    file: &Device,
    sum: &mut Fetched,
    check: impl Fn(&[u8]) -> std::result::Result<T, String>,
) -> Result<T> {
    let mut bytes = vec![0; len];
    if file.read_at(offset, &mut bytes).is_ok() {
        if let Ok(found) = check(&bytes) {
            sum.found += len as u64;
            return Ok(found);
        }
    }
    let (bytes, found) = mirrors.read(name, offset, len, |bytes| {
        check(bytes).map(|found| (bytes.to_vec(), found))
    })?;
    disk::write(file, offset, &bytes)?;
    sum.fetched += len as u64;
    Ok(found)
}

/// All units that are not there yet. What arrives is in the file at once, and its digest tells whether it is right:
/// then, and when the work goes on after an interruption.
fn units(
    mirrors: &Mirrors,
    name: &str,
    plan: &Plan,
    file: &Device,
    sum: &mut Fetched,
    watch: &dyn Progress,
) -> Result<()> {
    let units = &plan.index.units;
    let total = packed(units);
    // What was there when the first place was asked.
    let (found, arrived) = (Cell::new(None), Cell::new(0));
    let step = |bytes: u64| -> Result<()> {
        arrived.set(arrived.get() + bytes);
        // A place whose bytes were refused makes this more than there is.
        Ok(progress::step(
            watch,
            total.min(found.get().unwrap_or(0) + arrived.get()),
            total,
        )?)
    };
    mirrors.ask(name, |source| {
        // Also what another place has sent before it failed is there.
        let missing = missing_units(units, file)?;
        found.set(
            found
                .get()
                .or(Some(total - packed(missing.iter().copied()))),
        );
        let mut rest = missing.as_slice();
        while let Some(first) = rest.first() {
            let mut end = first.offset;
            let together = rest.iter().take_while(|unit| {
                let fits = end == first.offset || end - first.offset + unit.packed <= REQUEST;
                let next = unit.offset == end;
                end += unit.packed;
                next && fits
            });
            let (now, later) = rest.split_at(together.count().max(1));
            request(source, name, now, file, &step)?;
            rest = later;
        }
        Ok(())
    })?;
    sum.found += found.get().unwrap_or(0);
    sum.fetched += arrived.get();
    step(0)
}

fn packed<'a>(units: impl IntoIterator<Item = &'a Unit>) -> u64 {
    units.into_iter().map(|unit| unit.packed).sum()
}

fn missing_units<'a>(units: &'a [Unit], file: &Device) -> Result<Vec<&'a Unit>> {
    let mut missing = Vec::new();
    for unit in units {
        if !is_there(unit, file)? {
            missing.push(unit);
        }
    }
    Ok(missing)
}

fn is_there(unit: &Unit, file: &Device) -> Result<bool> {
    let mut bytes = vec![0; usize::try_from(unit.packed).unwrap_or(0)];
    disk::read(file, unit.offset, &mut bytes)?;
    Ok(Digest::of(&bytes) == unit.digest)
}

/// Gets units that follow each other, and checks them.
fn request(
    source: &Arc<dyn Source>,
    name: &str,
    units: &[&Unit],
    file: &Device,
    step: &dyn Fn(u64) -> Result<()>,
) -> Result<()> {
    let Some(first) = units.first() else {
        return Ok(());
    };
    let len = units.iter().map(|unit| unit.packed).sum();
    let (mut at, mut durable) = (first.offset, first.offset);
    let mut coming = units.iter().peekable();
    source.read(name, at, len, &mut |piece| {
        disk::write(file, at, piece)?;
        at += piece.len() as u64;
        step(piece.len() as u64)?;
        // No more than one unit is taken from a place that lies.
        while let Some(unit) = coming.next_if(|unit| unit.offset.saturating_add(unit.packed) <= at)
        {
            if !is_there(unit, file)? {
                let why = format!("the unit at byte {} is damaged", unit.offset);
                return Err(Error::broken(name, why));
            }
        }
        if at - durable >= FLUSH {
            disk::flush(file)?;
            durable = at;
        }
        Ok(())
    })
}
