// SPDX-License-Identifier: GPL-2.0-or-later

//! The bytes below a store or an image.

use crate::error::Error;
use crate::error::Result;
use rustix::fs::Advice;
use rustix::fs::FlockOperation;
use rustix::fs::OFlags;
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

/// Something with numbered bytes. Calls may come from several threads.
///
/// One that is only read leaves out what is for writing.
pub trait Disk: Sync {
    /// Name for messages.
    fn name(&self) -> String;

    /// Size in bytes.
    fn size(&self) -> u64;

    /// Fills `buf` from `offset`; fails if the end is in between.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Writes all of `buf` at `offset`.
    fn write_at(&self, _offset: u64, _buf: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    /// Makes everything written durable.
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    /// Makes sure that `size` bytes are there, those that were not as zeros.
    fn reserve(&self, _size: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    /// Where the next bytes from `offset` on may be anything but zero; the size if nowhere.
    fn next_data(&self, offset: u64) -> u64 {
        offset
    }
}

impl<D: Disk + ?Sized> Disk for &D {
    fn name(&self) -> String {
        (**self).name()
    }

    fn size(&self) -> u64 {
        (**self).size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        (**self).write_at(offset, buf)
    }

    fn flush(&self) -> io::Result<()> {
        (**self).flush()
    }

    fn reserve(&self, size: u64) -> io::Result<()> {
        (**self).reserve(size)
    }

    fn next_data(&self, offset: u64) -> u64 {
        (**self).next_data(offset)
    }
}

/// [`Disk::read_at`] with an error that names the place.
pub fn read(disk: &(impl Disk + ?Sized), offset: u64, buf: &mut [u8]) -> Result<()> {
    disk.read_at(offset, buf)
        .map_err(|e| Error::io("read", at(disk, offset), e))
}

/// [`Disk::write_at`] with an error that names the place.
pub fn write(disk: &(impl Disk + ?Sized), offset: u64, buf: &[u8]) -> Result<()> {
    disk.write_at(offset, buf)
        .map_err(|e| Error::io("write", at(disk, offset), e))
}

/// [`Disk::flush`] with an error that names the disk.
pub fn flush(disk: &(impl Disk + ?Sized)) -> Result<()> {
    disk.flush().map_err(|e| Error::io("flush", disk.name(), e))
}

fn at(disk: &(impl Disk + ?Sized), offset: u64) -> String {
    format!("{} at byte {offset}", disk.name())
}

/// How a [`Device`] is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For reading, beside anybody.
    Read,
    /// For reading what must not change meanwhile: a block device that is mounted or part of another
    /// one is refused.
    Still,
    /// For reading and writing, alone: a block device that is mounted or part of another one is
    /// refused, and so is a file that another instance writes to.
    Write,
}

/// A regular file or a block device.
#[derive(Debug)]
pub struct Device {
    file: File,
    path: PathBuf,
    block: bool,
    size: u64,
    rdev: u64,
}

impl Device {
    /// Opens `path`, which must exist and be a regular file or a block device.
    pub fn open(path: &Path, access: Access) -> Result<Self> {
        let meta = std::fs::metadata(path).map_err(|e| Error::path("open", path, e))?;
        let kind = meta.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let what = if kind.is_dir() {
                "is a directory"
            } else {
                "is no image"
            };
            let why = format!("{what}; name a regular file or a block device");
            return Err(Error::refused(path.display(), why));
        }
        let write = access == Access::Write;
        let mut options = OpenOptions::new();
        options.read(true).write(write);
        if access != Access::Read && kind.is_block_device() {
            // Only this meaning of O_EXCL exists without O_CREAT: nobody else claims the device.
            options.custom_flags(OFlags::EXCL.bits() as i32);
        }
        let file = options.open(path).map_err(|e| Self::open_error(path, e))?;
        if write && kind.is_file() {
            Self::lock(&file, path)?;
        }
        if kind.is_block_device() {
            // What device-mapper has written to it, below its page cache, is not known there. Where this is not
            // possible digests tell what is old; and a device that nobody else has open begins with an empty cache.
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        }
        Self::from_file(file, path)
    }

    /// Takes a file that is open already; `path` is its name for messages.
    pub fn from_file(file: File, path: &Path) -> Result<Self> {
        let stat = |e| Error::path("look at", path, e);
        let meta = file.metadata().map_err(stat)?;
        let block = meta.file_type().is_block_device();
        let size = if block {
            rustix::fs::seek(&file, SeekFrom::End(0)).map_err(|e| stat(e.into()))?
        } else {
            meta.len()
        };
        Ok(Self {
            file,
            path: path.to_path_buf(),
            block,
            size,
            rdev: meta.rdev(),
        })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether it is a block device.
    pub fn is_block(&self) -> bool {
        self.block
    }

    /// Device number of a block device, as `stat` encodes it.
    pub fn rdev(&self) -> u64 {
        self.rdev
    }

    fn open_error(path: &Path, source: io::Error) -> Error {
        if source.raw_os_error() == Some(Errno::BUSY.raw_os_error()) {
            return Error::refused(
                path.display(),
                "in use: it is mounted or part of another device; stop that first",
            );
        }
        Error::path("open", path, source)
    }

    fn lock(file: &File, path: &Path) -> Result<()> {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(()),
            Err(Errno::WOULDBLOCK) => Err(Error::refused(
                path.display(),
                "in use: another program holds its lock; wait for it to end",
            )),
            // A file system without locks is no reason to refuse.
            Err(_) => Ok(()),
        }
    }
}

impl Disk for Device {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn reserve(&self, size: u64) -> io::Result<()> {
        if !self.block {
            return if self.file.metadata()?.len() < size {
                self.file.set_len(size)
            } else {
                Ok(())
            };
        }
        if size > self.size {
            let why = format!("{size} bytes are needed and {} are there", self.size);
            return Err(io::Error::new(io::ErrorKind::StorageFull, why));
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> u64 {
        if self.block {
            return offset;
        }
        match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(found) => found,
            Err(Errno::NXIO) => self.size,
            // A file system that cannot tell: everything may be data.
            Err(_) => offset,
        }
    }
}

/// A disk in memory, for tests and small stores.
#[derive(Debug, Default)]
pub struct MemDisk {
    bytes: Mutex<Vec<u8>>,
}

impl MemDisk {
    /// A disk with this content.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes: Mutex::new(bytes),
        }
    }

    /// Its content.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of its content.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of memory at `offset`, as indices.
fn span(offset: u64, len: usize) -> io::Result<std::ops::Range<usize>> {
    let start = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let end = start.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(start..end)
}

impl Disk for MemDisk {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn size(&self) -> u64 {
        self.lock().len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let bytes = self.lock();
        let from = bytes
            .get(span(offset, buf.len())?)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(from);
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let span = span(offset, buf.len())?;
        let mut bytes = self.lock();
        if bytes.len() < span.end {
            bytes.resize(span.end, 0);
        }
        let to = bytes.get_mut(span).ok_or(io::ErrorKind::InvalidInput)?;
        to.copy_from_slice(buf);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn reserve(&self, size: u64) -> io::Result<()> {
        let size = usize::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut bytes = self.lock();
        if bytes.len() < size {
            bytes.resize(size, 0);
        }
        Ok(())
    }
}
