// SPDX-License-Identifier: GPL-2.0-or-later

//! Where a new store goes.

use crate::disk::Access;
use crate::disk::Device;
use crate::disk::Disk;
use crate::error::Error;
use crate::error::Result;
use crate::writer::Ground;
use std::fs::File;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use tempfile::TempPath;

/// A block device this long is looked at before it is overwritten, in bytes.
const PROBE: usize = 4096;

/// A place for a new store: a file that gets its name when it is complete, or a block device.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    temp: Option<TempPath>,
    force: bool,
}

impl Output {
    /// Prepares `path`. Without `force`, an existing file and a block device that does not start
    /// with zeros are refused.
    ///
    /// Returns the disk to write to and what is on it; call [`Output::commit`] afterwards.
    pub fn create(path: &Path, force: bool) -> Result<(Self, Device, Ground)> {
        match std::fs::metadata(path) {
            Ok(meta) if meta.file_type().is_block_device() => Self::device(path, force),
            Ok(meta) if meta.is_dir() => Err(Error::refused(
                path.display(),
                "is a directory; name the file to make in it",
            )),
            Ok(meta) if !meta.is_file() => Err(Error::refused(
                path.display(),
                "is neither a regular file nor a block device",
            )),
            Ok(_) if !force => Err(exists(path)),
            Ok(_) => Self::file(path, force),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Self::file(path, force),
            Err(e) => Err(Error::path("look at", path, e)),
        }
    }

    fn file(path: &Path, force: bool) -> Result<(Self, Device, Ground)> {
        let stem = path.file_name().unwrap_or_default().to_string_lossy();
        let temp = tempfile::Builder::new()
            .prefix(&format!(".{stem}."))
            .suffix(".part")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder(path))
            .map_err(|e| Error::path("make a temporary file beside", path, e))?;
        let (file, temp) = temp.into_parts();
        let device = Device::from_file(file, path)?;
        let output = Self {
            path: path.to_path_buf(),
            temp: Some(temp),
            force,
        };
        Ok((output, device, Ground::Zero))
    }

    fn device(path: &Path, force: bool) -> Result<(Self, Device, Ground)> {
        let device = Device::open(path, Access::Write)?;
        if !force && !is_blank(&device)? {
            return Err(Error::refused(
                path.display(),
                "holds something: its first 4 KiB are not zero; --force overwrites it",
            ));
        }
        let output = Self {
            path: path.to_path_buf(),
            temp: None,
            force,
        };
        Ok((output, device, Ground::Used))
    }

    /// Where it is until it is complete.
    pub fn path(&self) -> &Path {
        self.temp.as_deref().unwrap_or(&self.path)
    }

    /// The store is complete and durable: gives a file its name.
    pub fn commit(self) -> Result<()> {
        let Some(temp) = self.temp else {
            return Ok(());
        };
        let named = if self.force {
            temp.persist(&self.path)
        } else {
            temp.persist_noclobber(&self.path)
        };
        named.map_err(|e| match e.error.kind() {
            io::ErrorKind::AlreadyExists => exists(&self.path),
            _ => Error::path("name", &self.path, e.error),
        })?;
        let parent = folder(&self.path);
        File::open(parent)
            .and_then(|dir| dir.sync_all())
            .map_err(|e| Error::path("flush the folder", parent, e))
    }
}

/// Puts a file with these bytes at `path`, durably and in one step; without `force`, not over another one.
pub fn put(path: &Path, bytes: &[u8], force: bool) -> Result<()> {
    let (output, file, _) = Output::create(path, force)?;
    crate::disk::write(&file, 0, bytes)?;
    crate::disk::flush(&file)?;
    output.commit()
}

/// What a file was to be called that has this name until it is complete; none if it is not such a name. After a power
/// cut it keeps that name, and whoever knows that nobody is at work removes it.
pub fn meant(name: &str) -> Option<&str> {
    let name = name.strip_prefix('.')?.strip_suffix(".part")?;
    let (meant, _random) = name.rsplit_once('.')?;
    (!meant.is_empty()).then_some(meant)
}

fn exists(path: &Path) -> Error {
    Error::refused(path.display(), "exists; --force replaces it")
}

/// The folder of a path.
pub(crate) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Whether a device begins with 4 KiB of zeros, as most do not that hold something: ext4, XFS, swap, LVM, partitions, stores.
pub fn is_blank(device: &Device) -> crate::Result<bool> {
    let mut start = vec![0; PROBE.min(usize::try_from(device.size()).unwrap_or(PROBE))];
    crate::disk::read(device, 0, &mut start)?;
    Ok(crate::writer::is_zero(&start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_until_they_are_complete_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let (output, ..) = Output::create(&dir.path().join("a.cow"), false).unwrap();
        let name = output.path().file_name().unwrap().to_string_lossy();
        assert_eq!(meant(&name), Some("a.cow"));
        for name in ["a.cow", "a.part", ".a.part", "..x.part", ".a.x", "a.x.part"] {
            assert_eq!(meant(name), None, "{name}");
        }
    }
}
