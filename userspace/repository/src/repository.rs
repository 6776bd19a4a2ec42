// SPDX-License-Identifier: GPL-2.0-or-later

//! The folder of a repository: its lock, its files, and the content of each version.

use crate::error::Error;
use crate::error::Result;
use crate::manifest::Manifest;
use crate::manifest::Version;
use crate::manifest::EMPTY;
use crate::manifest::MAX_LEN;
use dmholey_cow::disk;
use dmholey_cow::disk::Access;
use dmholey_cow::output;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use dmholey_cow::Stack;
use dmholey_cow::Store;
use dmholey_delta::Delta;
use dmholey_delta::Digest;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;

/// The list of what is there.
const MANIFEST: &str = "repository.json";
/// The image at the bottom.
const BASE: &str = "base";
/// Whose lock says that somebody reads or changes the repository.
const LOCK: &str = "lock";

/// A version's content, which can be read.
pub type Content = Stack<Device, Device>;

/// A repository that is open, and locked: against changes, or against everybody if it may change.
#[derive(Debug)]
pub struct Repository {
    dir: PathBuf,
    manifest: Manifest,
    _lock: File,
}

impl Repository {
    /// Opens the repository in `dir` for reading.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::at(dir, FlockOperation::NonBlockingLockShared)
    }

    /// Opens the repository in `dir` for changing it, and removes what an earlier change has left over.
    pub fn change(dir: &Path) -> Result<Self> {
        let repository = Self::at(dir, FlockOperation::NonBlockingLockExclusive)?;
        repository.remove_leftovers()?;
        Ok(repository)
    }

    /// The same; a folder that is missing or empty becomes a repository.
    pub fn create(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| Error::path("make the folder", dir, e))?;
        if dir.join(MANIFEST).exists() {
            return Self::change(dir);
        }
        // A lock may be left over from a creation that was interrupted.
        let foreign = |entry: io::Result<std::fs::DirEntry>| match entry {
            Ok(entry) if is_ours(&entry.file_name().to_string_lossy()) => None,
            other => Some(other),
        };
        let mut entries = std::fs::read_dir(dir).map_err(|e| Error::path("read", dir, e))?;
        match entries.find_map(foreign) {
            Some(Ok(_)) => {
                let why = "holds something that is no repository; name a new or empty folder";
                return Err(Error::refused(dir, why));
            }
            Some(Err(e)) => return Err(Error::path("read", dir, e)),
            None => {}
        }
        let lock = lock(dir, FlockOperation::NonBlockingLockExclusive)?;
        if dir.join(MANIFEST).exists() {
            // Somebody else has been faster.
            drop(lock);
            return Self::change(dir);
        }
        let repository = Self {
            dir: dir.to_owned(),
            manifest: Manifest::default(),
            _lock: lock,
        };
        repository.write(&repository.manifest)?;
        Ok(repository)
    }

    fn at(dir: &Path, operation: FlockOperation) -> Result<Self> {
        let path = dir.join(MANIFEST);
        if !path.exists() {
            let why =
                "is no repository; 'dmholey image checkpoint' makes one with its first version";
            return Err(Error::refused(dir, why));
        }
        let lock = lock(dir, operation)?;
        let file = Device::open(&path, Access::Read)?;
        if file.size() > MAX_LEN {
            return Err(Error::broken(path.display(), "is too large"));
        }
        let mut bytes = vec![0; usize::try_from(file.size()).unwrap_or(0)];
        disk::read(&file, 0, &mut bytes)?;
        let manifest = Manifest::parse(&bytes).map_err(|e| Error::broken(path.display(), e))?;
        Ok(Self {
            dir: dir.to_owned(),
            manifest,
            _lock: lock,
        })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The list of what is there.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The digest of a version; of nothing for [`EMPTY`].
    pub fn digest(&self, number: u64) -> Result<Digest> {
        match number {
            EMPTY => Ok(Digest::of(&[])),
            _ => Ok(self.version(number)?.digest),
        }
    }

    /// The version with this number, or a refusal that tells the numbers there are.
    pub fn version(&self, number: u64) -> Result<&Version> {
        self.manifest.version(number).ok_or_else(|| {
            let numbers: Vec<String> = self
                .manifest
                .versions
                .iter()
                .map(|v| v.number.to_string())
                .collect();
            let why = format!("has no version {number}, but {}", numbers.join(", "));
            Error::refused(&self.dir, why)
        })
    }

    /// The content of a version; nothing for [`EMPTY`].
    pub fn content(&self, number: u64) -> Result<Content> {
        let manifest = &self.manifest;
        let bytes = match number {
            EMPTY => 0,
            _ => {
                self.version(number)?;
                manifest.base.map_or(0, |base| base.bytes)
            }
        };
        let mut stack = Stack::new(Device::open(&self.base(), Access::Read)?, bytes);
        for layer in &manifest.layers {
            if layer.version <= number {
                stack.resize(layer.bytes);
                stack.push(self.open_layer(layer.version)?)?;
            }
        }
        Ok(stack)
    }

    /// The store that makes a version of the one before.
    pub fn open_layer(&self, version: u64) -> Result<Store<Device>> {
        Ok(Store::open(Device::open(
            &self.layer(version),
            Access::Read,
        )?)?)
    }

    /// The delta between two versions, which must be in the list.
    pub fn open_delta(&self, from: u64, to: u64) -> Result<Delta<Device>> {
        let path = self.delta(from, to);
        let Some(link) = self.manifest.delta(from, to) else {
            let why = format!(
                "has no delta from {from} to {to}; 'dmholey image squash {} {from} {to}' makes it",
                self.dir.display()
            );
            return Err(Error::refused(&self.dir, why));
        };
        let delta = Delta::open(Device::open(&path, Access::Read)?)?;
        if delta.plan.header.identity() != link.identity {
            let why = format!(
                "is another delta than the one in the list; 'dmholey image squash {} {from} {to}' makes it anew",
                self.dir.display()
            );
            return Err(Error::broken(path.display(), why));
        }
        Ok(delta)
    }

    /// Where the base is.
    pub(crate) fn base(&self) -> PathBuf {
        self.dir.join(BASE)
    }

    /// Where the store of a version is.
    pub(crate) fn layer(&self, version: u64) -> PathBuf {
        self.dir.join(format!("cow-{version}"))
    }

    /// Where the delta between two versions is.
    pub fn delta(&self, from: u64, to: u64) -> PathBuf {
        self.dir.join(format!("delta-{from}-{to}"))
    }

    /// Puts another list in place of the old one. Everything it names must be durable already.
    pub(crate) fn commit(&mut self, manifest: Manifest) -> Result<()> {
        self.write(&manifest)?;
        self.manifest = manifest;
        Ok(())
    }

    fn write(&self, manifest: &Manifest) -> Result<()> {
        Ok(output::put(
            &self.dir.join(MANIFEST),
            &manifest.encode(),
            true,
        )?)
    }

    /// Removes files of ours that the list does not name.
    pub(crate) fn remove_leftovers(&self) -> Result<()> {
        let fail = |e| Error::path("read", &self.dir, e);
        for entry in std::fs::read_dir(&self.dir).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if is_ours(&name) && !self.is_named(&name) {
                std::fs::remove_file(&path).map_err(|e| Error::path("remove", &path, e))?;
            }
        }
        Ok(())
    }

    fn is_named(&self, name: &str) -> bool {
        let manifest = &self.manifest;
        match name {
            MANIFEST | LOCK => true,
            BASE => manifest.base.is_some(),
            _ => {
                let is = |path: PathBuf| path.ends_with(name);
                let layers = &manifest.layers;
                layers.iter().any(|l| is(self.layer(l.version)))
                    || manifest.deltas.iter().any(|d| is(self.delta(d.from, d.to)))
            }
        }
    }
}

/// Whether a file of this name is one of a repository, or was to become one.
fn is_ours(name: &str) -> bool {
    let name = output::meant(name).unwrap_or(name);
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let delta = name.strip_prefix("delta-").and_then(|n| n.split_once('-'));
    [BASE, LOCK, MANIFEST].contains(&name)
        || name.strip_prefix("cow-").is_some_and(number)
        || delta.is_some_and(|(from, to)| number(from) && number(to))
}

fn lock(dir: &Path, operation: FlockOperation) -> Result<File> {
    let path = dir.join(LOCK);
    // Whoever may only read the folder can still lock a file that is there.
    let file = File::open(&path).or_else(|_| File::create(&path));
    let file = file.map_err(|e| Error::path("open", &path, e))?;
    match rustix::fs::flock(&file, operation) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            let why = "in use: another program reads or changes it; wait for it to end";
            Err(Error::refused(dir, why))
        }
        Err(e) => Err(Error::path("lock", &path, e.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_files_are_told_from_others() {
        for name in [
            "base",
            "lock",
            "repository.json",
            "cow-12",
            "delta-1-2",
            ".cow-3.x8Yz.part",
            ".repository.json.abc.part",
            ".base.1.part",
        ] {
            assert!(is_ours(name), "{name}");
        }
        for name in [
            "cow-",
            "cow-1a",
            "delta-1",
            "delta--1",
            "delta-1-2-3",
            ".cow-3",
            "notes",
            ".x.part",
        ] {
            assert!(!is_ours(name), "{name}");
        }
    }
}
