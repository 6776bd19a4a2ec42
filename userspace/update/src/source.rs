// SPDX-License-Identifier: GPL-2.0-or-later

//! Where published files are.

use crate::error::Error;
use crate::error::Result;
use dmholey_cow::disk;
use dmholey_cow::disk::Access;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use dmholey_cow::Kind;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

/// A place that has published files.
pub trait Source: Debug + Send + Sync {
    /// Its name for messages.
    fn name(&self) -> String;

    /// Exactly `len` bytes of a file from `offset` on.
    fn read(&self, file: &str, offset: u64, len: usize) -> Result<Vec<u8>>;
}

/// A folder, such as one that is mounted.
#[derive(Clone, Debug)]
pub struct Folder(pub PathBuf);

impl Source for Folder {
    fn name(&self) -> String {
        self.0.display().to_string()
    }

    fn read(&self, file: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        let file = Device::open(&self.0.join(file), Access::Read)?;
        if offset.saturating_add(len as u64) > file.size() {
            let why = format!("has {} bytes only", file.size());
            return Err(Error::broken(file.name(), why));
        }
        let mut bytes = vec![0; len];
        disk::read(&file, offset, &mut bytes)?;
        Ok(bytes)
    }
}

/// Several places that should have the same files. The one that worked last is asked first.
#[derive(Debug)]
pub struct Mirrors {
    all: Vec<Box<dyn Source>>,
    first: AtomicUsize,
}

impl Mirrors {
    /// These places, the first of which is asked first.
    pub fn new(all: Vec<Box<dyn Source>>) -> Self {
        Self {
            all,
            first: AtomicUsize::new(0),
        }
    }

    /// Reads a part of a file and makes something of it. A place that does not have it, and one whose bytes
    /// `check` refuses, is passed over for the next one. Fails when all have failed, with all reasons.
    pub fn read<T>(
        &self,
        file: &str,
        offset: u64,
        len: usize,
        check: impl Fn(&[u8]) -> std::result::Result<T, String>,
    ) -> Result<T> {
        let first = self.first.load(Ordering::Relaxed);
        let order = (0..self.all.len()).map(|n| (first + n) % self.all.len().max(1));
        let mut reasons = Vec::new();
        for number in order {
            let Some(source) = self.all.get(number) else {
                continue;
            };
            let checked = match source.read(file, offset, len) {
                Ok(bytes) => check(&bytes),
                Err(error) if error.kind() == Kind::Interrupted => return Err(error),
                Err(error) => Err(error.to_string()),
            };
            match checked {
                Ok(value) => {
                    self.first.store(number, Ordering::Relaxed);
                    return Ok(value);
                }
                Err(why) => reasons.push(format!("{}: {why}", source.name())),
            }
        }
        if reasons.is_empty() {
            reasons.push("none is named".to_owned());
        }
        Err(Error::Unavailable {
            file: file.to_owned(),
            why: reasons.join("; "),
        })
    }
}
