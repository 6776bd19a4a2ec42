// SPDX-License-Identifier: GPL-2.0-or-later

//! What is remembered of targets, in files.

use dmholey_cluster::ids::Attachment;
use dmholey_cluster::ids::Ballot;
use serde::de::DeserializeOwned;
use serde::Deserialize;
use serde::Serialize;
use std::io;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// Where a copier's attachment is remembered.
const ATTACHED: &str = "attached.toml";
/// Where a merge is remembered that has not ended.
const MERGING: &str = "merging.toml";
/// Where it is remembered that a copier has begun to start over.
const RECYCLING: &str = "recycling.toml";
/// Tells whether the machine has started anew.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What is remembered of a copier that serves.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Attached {
    pub(super) boot: String,
    pub(super) attachment: Attachment,
    pub(super) ballot: Ballot,
}

/// What is remembered of a merge that has begun, until it has ended, also when the machine starts anew.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Merging {
    /// With which the node became the writer.
    pub ballot: Ballot,
}

impl Merging {
    /// What is remembered in a folder.
    pub fn read(folder: &Path) -> io::Result<Option<Self>> {
        read_toml(&folder.join(MERGING))
    }

    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        write_toml(self, folder, MERGING)?;
        std::fs::File::open(folder)?.sync_all()
    }

    /// Whether it counts no more, as there was a later writer: whoever that is, it has had a whole view. A later ballot of
    /// this node says nothing, as it has begun with the same half.
    pub fn is_over(&self, known: Ballot) -> bool {
        known > self.ballot && known.node != self.ballot.node
    }

    /// It has ended, or counts no more: not after a power cut either, when the COW device may hold something else.
    pub fn forget(folder: &Path) -> io::Result<()> {
        forget(folder, MERGING)?;
        std::fs::File::open(folder)?.sync_all()
    }
}

fn read_toml<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        text => toml::from_str(&text?)
            .map(Some)
            .map_err(|error| io::Error::other(format!("{}: {error}", path.display()))),
    }
}

/// Writes a file as a whole or not at all; its content is durable, its name is not.
fn write_toml<T: Serialize>(value: &T, folder: &Path, name: &str) -> io::Result<()> {
    let text = toml::to_string(value).map_err(io::Error::other)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(folder.join(name))?;
    Ok(())
}

pub(super) fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string(BOOT_ID)?.trim().to_owned())
}

impl Attached {
    pub(super) fn read(folder: &Path) -> io::Result<Option<Self>> {
        let boot = boot_id()?;
        let attached: Option<Self> = read_toml(&folder.join(ATTACHED))?;
        Ok(attached.filter(|attached| attached.boot == boot))
    }

    /// What is there already is replaced, and its age kept: that is the copier's.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let path = folder.join(ATTACHED);
        let since = std::fs::metadata(&path).and_then(|there| there.modified());
        write_toml(self, folder, ATTACHED)?;
        match since {
            Ok(since) => std::fs::File::open(&path)?.set_modified(since),
            Err(_) => Ok(()),
        }
    }

    /// It is one no more.
    pub(super) fn forget(folder: &Path) -> io::Result<()> {
        forget(folder, ATTACHED)
    }
}

/// For how long a copier has been serving.
pub(crate) fn age(folder: &Path) -> Option<Duration> {
    let written = std::fs::metadata(folder.join(ATTACHED)).ok()?.modified();
    written.ok()?.elapsed().ok()
}

/// What is remembered of a copier that starts over, from when its application is told to let go of the device until it
/// may have it again, or the node is told to leave.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recycling {
    boot: String,
    /// Why it does.
    pub(crate) reason: String,
}

impl Recycling {
    /// What an agent of this boot has begun.
    pub(crate) fn read(folder: &Path) -> io::Result<Option<Self>> {
        let boot = boot_id()?;
        let recycling: Option<Self> = read_toml(&folder.join(RECYCLING))?;
        Ok(recycling.filter(|recycling| recycling.boot == boot))
    }

    pub(crate) fn begin(folder: &Path, reason: &str) -> io::Result<()> {
        let recycling = Self {
            boot: boot_id()?,
            reason: reason.to_owned(),
        };
        write_toml(&recycling, folder, RECYCLING)
    }

    /// It has ended.
    pub(crate) fn end(folder: &Path) -> io::Result<()> {
        forget(folder, RECYCLING)
    }
}

fn forget(folder: &Path, name: &str) -> io::Result<()> {
    match std::fs::remove_file(folder.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn whom_a_copier_follows_changes_and_its_age_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let attached = |number| Attached {
            boot: boot_id().unwrap(),
            attachment: Attachment(7),
            ballot: Ballot { number, node: 0 },
        };
        attached(1).write(folder.path()).unwrap();
        let hour = Duration::from_secs(3600);
        let file = std::fs::File::open(folder.path().join(ATTACHED)).unwrap();
        file.set_modified(SystemTime::now() - hour).unwrap();
        attached(2).write(folder.path()).unwrap();
        let now = Attached::read(folder.path()).unwrap().unwrap();
        assert_eq!(now.ballot.number, 2);
        assert!(age(folder.path()).unwrap() >= hour);
        // The next view is a new one.
        Attached::forget(folder.path()).unwrap();
        attached(3).write(folder.path()).unwrap();
        assert!(age(folder.path()).unwrap() < hour);
    }
}
