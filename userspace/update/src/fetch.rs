// SPDX-License-Identifier: GPL-2.0-or-later

//! Gets a delta, and goes on where it was interrupted.
//!
//! The catalog tells the digest of the header, the header that of the index, and the index that of each unit;
//! so every part is checked when it arrives, wherever it comes from, and a part that is in the file already
//! counts if its digest says so. Nothing else has to be remembered.

use crate::error::Error;
use crate::error::Result;
use crate::source::Mirrors;
use dmholey_cow::disk;
use dmholey_cow::disk::Access;
use dmholey_cow::progress;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use dmholey_cow::Progress;
use dmholey_delta::delta::Plan;
use dmholey_delta::format::Header;
use dmholey_delta::format::HEADER_LEN;
use dmholey_delta::index::Unit;
use dmholey_delta::Delta;
use dmholey_delta::Digest;
use dmholey_repository::catalog;
use std::fs::OpenOptions;
use std::path::Path;
use std::path::PathBuf;

/// Bytes asked for at a time, unless one unit has more.
const REQUEST: u64 = 4 << 20;

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

/// Gets a delta into `dir`. `folder` is that of the targets in a mirror.
pub fn fetch(
    mirrors: &Mirrors,
    folder: &str,
    delta: &catalog::Delta,
    dir: &Path,
    watch: &dyn Progress,
) -> Result<(Delta<Device>, Fetched)> {
    let whole = path(dir, delta);
    let name = format!("{folder}/{}", delta.file());
    let mut sum = Fetched::default();
    if !whole.exists() {
        let part = dir.join(format!("{}.part", delta.identity));
        let file = part_file(&part, delta.bytes)?;
        let plan = head(mirrors, &name, delta, &file, &mut sum)?;
        units(mirrors, &name, &plan, &file, &mut sum, watch)?;
        disk::flush(&file)?;
        std::fs::rename(&part, &whole).map_err(|e| Error::path("name", &whole, e))?;
    }
    let found = Delta::open(Device::open(&whole, Access::Read)?)?;
    if found.plan.header.identity() != delta.identity {
        let why = "is another delta than its name says; remove it";
        return Err(Error::broken(whole.display(), why));
    }
    Ok((found, sum))
}

/// Gets the header and the index of a delta alone.
pub fn plan(mirrors: &Mirrors, folder: &str, delta: &catalog::Delta, dir: &Path) -> Result<Plan> {
    let path = dir.join(format!("{}.part", delta.identity));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| Error::path("open", &path, e))?;
    let file = Device::from_file(file, &path)?;
    let name = format!("{folder}/{}", delta.file());
    head(mirrors, &name, delta, &file, &mut Fetched::default())
}

/// The file of a delta that may be there in part. There is room for all of it, or there is no file.
fn part_file(path: &Path, bytes: u64) -> Result<Device> {
    let fail = |e| Error::path("make room in", path, e);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.open(path).map_err(fail)?;
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
    let header = part(mirrors, name, 0, HEADER_LEN, file, sum, check_header)?;
    let check_index = |bytes: &[u8]| Plan::parse(header, bytes).map_err(|e| e.to_string());
    let len = header.index_packed as usize;
    part(
        mirrors,
        name,
        HEADER_LEN as u64,
        len,
        file,
        sum,
        check_index,
    )
}

/// A part of the delta that `check` knows.
fn part<T>(
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

/// All units, those that follow each other in one request.
fn units(
    mirrors: &Mirrors,
    name: &str,
    plan: &Plan,
    file: &Device,
    sum: &mut Fetched,
    watch: &dyn Progress,
) -> Result<()> {
    let total = plan.header.file_len;
    let mut missing: Vec<&Unit> = Vec::new();
    for unit in &plan.index.units {
        let len: u64 = missing.iter().map(|unit| unit.packed).sum();
        if len + unit.packed > REQUEST {
            request(mirrors, name, &missing, file, sum)?;
            missing.clear();
        }
        if is_there(unit, file)? {
            sum.found += unit.packed;
            request(mirrors, name, &missing, file, sum)?;
            missing.clear();
        } else {
            missing.push(unit);
        }
        progress::step(watch, sum.fetched + sum.found, total)?;
    }
    request(mirrors, name, &missing, file, sum)?;
    Ok(progress::step(watch, total, total)?)
}

fn is_there(unit: &Unit, file: &Device) -> Result<bool> {
    let mut bytes = vec![0; usize::try_from(unit.packed).unwrap_or(0)];
    disk::read(file, unit.offset, &mut bytes)?;
    Ok(Digest::of(&bytes) == unit.digest)
}

/// Gets units that follow each other.
fn request(
    mirrors: &Mirrors,
    name: &str,
    units: &[&Unit],
    file: &Device,
    sum: &mut Fetched,
) -> Result<()> {
    let Some(first) = units.first() else {
        return Ok(());
    };
    let len: u64 = units.iter().map(|unit| unit.packed).sum();
    let bytes = mirrors.read(
        name,
        first.offset,
        usize::try_from(len).unwrap_or(0),
        |bytes| {
            let mut rest = bytes;
            for unit in units {
                let len = usize::try_from(unit.packed).unwrap_or(0);
                let (part, behind) = rest.split_at(len.min(rest.len()));
                if Digest::of(part) != unit.digest {
                    return Err(format!("the unit at byte {} is damaged", unit.offset));
                }
                rest = behind;
            }
            Ok(bytes.to_vec())
        },
    )?;
    disk::write(file, first.offset, &bytes)?;
    sum.fetched += len;
    Ok(())
}
