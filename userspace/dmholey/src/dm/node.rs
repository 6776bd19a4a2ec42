// SPDX-License-Identifier: GPL-2.0-or-later

//! Nodes in /dev/mapper, on machines where no udev makes them.
//!
//! With udev the ioctls wait for it, so its link is there (or gone) when they return, and nothing is
//! left to do here.

use super::DevNum;
use super::Nodes;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::CWD;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

/// The folder of device-mapper's nodes.
pub const FOLDER: &str = "/dev/mapper";

/// The node of a device.
pub fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// The name of a device that was given by name or by its node.
pub fn name(text: &str) -> &str {
    text.strip_prefix(FOLDER)
        .and_then(|rest| rest.strip_prefix('/'))
        .unwrap_or(text)
}

/// The real nodes.
#[derive(Clone, Copy, Debug, Default)]
pub struct DevMapper;

impl Nodes for DevMapper {
    fn add(&self, name: &str, number: DevNum) -> io::Result<()> {
        let path = path(name);
        match fs::metadata(&path) {
            Ok(meta) if meta.file_type().is_block_device() && meta.rdev() == number.to_rdev() => {
                return Ok(());
            }
            Ok(_) => remove_node(&path)?,
            Err(_) => {}
        }
        let mode = Mode::RUSR | Mode::WUSR;
        match rustix::fs::mknodat(CWD, &path, FileType::BlockDevice, mode, number.to_rdev()) {
            // Somebody else made it in between.
            Err(rustix::io::Errno::EXIST) => Ok(()),
            other => Ok(other?),
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        remove_node(&path(name))
    }
}

/// Removes a node or a link, but nothing else.
fn remove_node(path: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(meta) => meta.file_type(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    if !kind.is_block_device() && !kind.is_symlink() {
        return Ok(());
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_stands_for_its_name() {
        assert_eq!(name("/dev/mapper/x"), "x");
        assert_eq!(name("x"), "x");
        assert_eq!(name("/dev/mapperx"), "/dev/mapperx");
        assert_eq!(path("x"), Path::new("/dev/mapper/x"));
    }
}
