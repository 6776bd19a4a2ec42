// SPDX-License-Identifier: GPL-2.0-or-later

//! Where files are published: a folder that a web server serves.

use crate::error::Error;
use crate::error::Result;
use dmholey_cow::copy;
use dmholey_cow::disk;
use dmholey_cow::disk::Access;
use dmholey_cow::output;
use dmholey_cow::output::Output;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use dmholey_cow::Progress;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use url::Url;

/// A folder. Files appear in it whole, and durably.
#[derive(Clone, Debug)]
pub struct Place {
    dir: PathBuf,
}

impl Place {
    /// A folder, which is made if it is missing.
    pub fn folder(dir: &Path) -> Result<Self> {
        for part in [crate::METADATA, crate::TARGETS] {
            let part = dir.join(part);
            std::fs::create_dir_all(&part).map_err(|e| Error::path("make the folder", &part, e))?;
        }
        let dir = dir
            .canonicalize()
            .map_err(|e| Error::path("find", dir, e))?;
        Ok(Self { dir })
    }

    /// Its name for messages.
    pub fn name(&self) -> String {
        self.dir.display().to_string()
    }

    /// The URL of a folder in it, with a slash at the end.
    pub(crate) fn url(&self, part: &str) -> Result<Url> {
        let path = self.dir.join(part);
        // Only a path that is not absolute has none.
        Url::from_directory_path(&path).map_err(|()| Error::refused(&path, "has no URL"))
    }

    /// Bytes of a file, if it is there.
    pub(crate) fn size(&self, name: &str) -> Result<Option<u64>> {
        let path = self.dir.join(name);
        match std::fs::metadata(&path) {
            Ok(meta) => Ok(Some(meta.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::path("look at", &path, e)),
        }
    }

    /// Puts bytes into a file, in one step.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        Ok(output::put(&self.dir.join(name), bytes, true)?)
    }

    /// Puts a copy of a file there, in one step.
    pub(crate) fn put_file(&self, name: &str, from: &Path, watch: &dyn Progress) -> Result<()> {
        let from = Device::open(from, Access::Read)?;
        let (output, file, _) = Output::create(&self.dir.join(name), true)?;
        copy::all(&from, &file, from.size(), watch)?;
        disk::flush(&file)?;
        Ok(output.commit()?)
    }

    /// Removes a file, if it is there.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let path = self.dir.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::path("remove", &path, e)),
            _ => Ok(()),
        }
    }

    /// Bytes of a small file.
    pub(crate) fn get(&self, name: &str, max: u64) -> Result<Vec<u8>> {
        let file = Device::open(&self.dir.join(name), Access::Read)?;
        if file.size() > max {
            return Err(Error::broken(file.name(), "is too large"));
        }
        let mut bytes = vec![0; usize::try_from(file.size()).unwrap_or(0)];
        disk::read(&file, 0, &mut bytes)?;
        Ok(bytes)
    }
}
