// SPDX-License-Identifier: GPL-2.0-or-later

//! What a block device is.

use crate::dm::DevNum;
use crate::exit::refuse;
use crate::exit::Exit;
use dmholey_cow::disk::Access;
use dmholey_cow::format::SECTOR_SIZE;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use std::path::Path;
use std::path::PathBuf;

/// A block device that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDev {
    /// The path it was found by.
    pub path: PathBuf,
    /// Its number.
    pub number: DevNum,
    /// Its size in sectors.
    pub sectors: u64,
    /// Its logical block size in bytes.
    pub block: u32,
}

impl BlockDev {
    /// Looks at `path`, which must be a block device.
    pub fn open(path: &Path) -> anyhow::Result<(Self, Device)> {
        let device = Device::open(path, Access::Read)?;
        if !device.is_block() {
            let text = format!(
                "{}: is a regular file; make it a block device first: losetup -f --show {0}",
                path.display()
            );
            return Err(refuse(Exit::Refused, text));
        }
        let block = rustix::fs::ioctl_blksszget(device.file()).unwrap_or(512);
        let found = Self {
            path: path.to_path_buf(),
            number: DevNum::from_rdev(device.rdev()),
            sectors: device.size() / SECTOR_SIZE,
            block,
        };
        Ok((found, device))
    }
}
