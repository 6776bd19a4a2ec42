// SPDX-License-Identifier: GPL-2.0-or-later

//! A folder that a web server serves.

use super::Store;
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
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

/// Who publishes holds this. It is beside the metadata, where all of them may make files.
const LOCK: &str = "lock";
/// Between two looks at the clock.
const NAP: Duration = Duration::from_millis(20);

/// A folder. Files appear in it whole, and durably.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
}

impl Folder {
    /// A folder, which is made if it is missing.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        for part in [crate::METADATA, crate::TARGETS] {
            let part = dir.join(part);
            std::fs::create_dir_all(&part).map_err(|e| Error::path("make the folder", &part, e))?;
        }
        Ok(Self {
            dir: dir.to_owned(),
        })
    }
}

impl Store for Folder {
    fn name(&self) -> String {
        self.dir.display().to_string()
    }

    fn lock(&self) -> Result<Option<File>> {
        let path = self.dir.join(crate::METADATA).join(LOCK);
        // NFS locks only what can be written; elsewhere, who may only read the file can lock it, too.
        let mut options = File::options();
        options.write(true).create(true).truncate(false);
        let file = options.open(&path).or_else(|_| File::open(&path));
        let file = file.map_err(|e| Error::path("open", &path, e))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(Errno::WOULDBLOCK) => {
                let why = "in use: another program publishes there; wait for it to end";
                Err(Error::refused(&self.dir, why))
            }
            Err(e) => Err(Error::path("lock", &path, e.into())),
        }
    }

    fn size(&self, name: &str) -> Result<Option<u64>> {
        let path = self.dir.join(name);
        match std::fs::metadata(&path) {
            Ok(meta) => Ok(Some(meta.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::path("look at", &path, e)),
        }
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.dir.join(name);
        wait_for_another_second(&path);
        Ok(output::put(&path, bytes, true)?)
    }

    fn put_file(&self, name: &str, from: &Device, watch: &dyn Progress) -> Result<()> {
        let (output, file, _) = Output::create(&self.dir.join(name), true)?;
        copy::all(from, &file, from.size(), watch)?;
        disk::flush(&file)?;
        Ok(output.commit()?)
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = self.dir.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::path("remove", &path, e)),
            _ => Ok(()),
        }
    }

    fn get(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>> {
        if self.size(name)?.is_none() {
            return Ok(None);
        }
        let file = Device::open(&self.dir.join(name), Access::Read)?;
        if file.size() > max {
            return Err(Error::broken(file.name(), "is too large"));
        }
        let mut bytes = vec![0; usize::try_from(file.size()).unwrap_or(0)];
        disk::read(&file, 0, &mut bytes)?;
        Ok(Some(bytes))
    }
}

/// Web servers tell a file from what it was before by its length and the second in which it was made; so that has to be
/// another one.
fn wait_for_another_second(path: &Path) {
    let second = |time: SystemTime| Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs());
    let made = std::fs::metadata(path).and_then(|meta| meta.modified());
    let made = made.ok().and_then(second);
    while made.is_some() && made == second(SystemTime::now()) {
        std::thread::sleep(NAP);
    }
}
