// SPDX-License-Identifier: GPL-2.0-or-later

//! What a tree is laid over: a copy of the base, or a new and empty file system.

use crate::error::Error;
use crate::error::Result;
use crate::progress::OnlyStop;
use dmholey_cow::copy;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use dmholey_cow::Progress;
use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

/// Bytes in a block of a new file system.
const BLOCK: u64 = 4096;
/// The smallest file system that is made: a smaller one has no room for a journal.
const SMALLEST: u64 = 8 << 20;

/// What mke2fs is told, so that the machine's own configuration does not matter. These are Debian's
/// defaults.
const MKE2FS_CONF: &str = "\
[defaults]
base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
default_mntopts = acl,user_xattr
enable_periodic_fsck = 0
blocksize = 4096
inode_size = 256
inode_ratio = 16384
[fs_types]
ext4 = {
    features = has_journal,extent,huge_file,flex_bg,metadata_csum,metadata_csum_seed,64bit,dir_nlink,extra_isize,orphan_file
}
floppy = {
    inode_ratio = 8192
}
small = {
    inode_ratio = 4096
}
big = {
    inode_ratio = 32768
}
huge = {
    inode_ratio = 65536
}
";

/// Makes `to` a copy of `from`: one that shares its blocks where the file system below can do that, else
/// one that leaves out what is zero.
pub(crate) fn duplicate(from: &Device, to: &Device, progress: &dyn Progress) -> Result<()> {
    if !from.is_block() && rustix::fs::ioctl_ficlone(to.file(), from.file()).is_ok() {
        return Ok(());
    }
    let watch = OnlyStop(progress);
    copy::data(from, to, from.size(), BLOCK as usize, &watch)?;
    Ok(())
}

/// What a new file system is to be.
pub(crate) struct New<'a> {
    pub(crate) size: u64,
    /// Features beside Debian's, as mke2fs takes them.
    pub(crate) features: Option<&'a str>,
    pub(crate) label: Option<&'a str>,
    pub(crate) uuid: [u8; 16],
    /// The time that everything in it has.
    pub(crate) epoch: u64,
}

/// Makes an empty file system in the file at `path`.
pub(crate) fn make(path: &Path, name: &Path, new: &New<'_>) -> Result<()> {
    if new.size < SMALLEST || new.size % BLOCK != 0 {
        let why = format!(
            "{} bytes are no size for an image: it is a multiple of {BLOCK} and at least {SMALLEST}",
            new.size
        );
        return Err(Error::refused(name.display(), why));
    }
    let failed = |e| Error::io("write", "a temporary file", e);
    let mut config = tempfile::NamedTempFile::new().map_err(failed)?;
    config.write_all(MKE2FS_CONF.as_bytes()).map_err(failed)?;
    let uuid = uuid_text(&new.uuid);
    let mut command = program("mke2fs", new.epoch);
    command.env("MKE2FS_CONFIG", config.path());
    command.args(["-q", "-F", "-t", "ext4", "-U", &uuid]);
    // The kernel would otherwise write inode tables at the first mount: into a client's snapshot.
    command.args(["-E", &format!("hash_seed={uuid},lazy_itable_init=0")]);
    if let Some(features) = new.features {
        command.args(["-O", features]);
    }
    if let Some(label) = new.label {
        command.args(["-L", label]);
    }
    command.arg(path).arg(format!("{}K", new.size / 1024));
    run(command, "mke2fs", name)
}

/// Makes the file system in the file at `path` as large as `size`; the file is that large already.
pub(crate) fn grow(path: &Path, name: &Path, size: u64, epoch: u64) -> Result<()> {
    let mut command = program("resize2fs", epoch);
    command.arg("-f").arg(path).arg(format!("{}s", size / 512));
    run(command, "resize2fs", name)
}

/// A program of e2fsprogs, for which it is always the same time.
fn program(name: &str, epoch: u64) -> Command {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(OsStr::new(":/usr/sbin:/sbin"));
    let mut command = Command::new(name);
    command.env("PATH", path);
    command.env("SOURCE_DATE_EPOCH", epoch.to_string());
    command.env("E2FSPROGS_FAKE_TIME", epoch.to_string());
    command.env("LC_ALL", "C").stdin(Stdio::null());
    command
}

fn run(mut command: Command, name: &'static str, image: &Path) -> Result<()> {
    let output = command.output().map_err(|e| {
        let object = format!("{name} (is e2fsprogs installed?)");
        Error::io("run", object, e)
    })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .next_back();
    let why = format!("{name} failed: {}", last.unwrap_or("without a word"));
    Err(Error::input(image.display(), why))
}

/// Bytes as text, two digits each.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let add = |text: String, byte: &u8| text + &format!("{byte:02x}");
    bytes.iter().fold(String::new(), add)
}

/// A UUID as text.
pub(crate) fn uuid_text(uuid: &[u8; 16]) -> String {
    let hex = hex(uuid);
    let mut text = String::new();
    for (i, c) in hex.chars().enumerate() {
        if [8, 12, 16, 20].contains(&i) {
            text.push('-');
        }
        text.push(c);
    }
    text
}

/// A UUID from text.
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let hex: String = text.chars().filter(|&c| c != '-').collect();
    if hex.len() != 32 || !hex.is_ascii() {
        return None;
    }
    let mut uuid = [0; 16];
    for (i, byte) in uuid.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(i * 2..i * 2 + 2)?, 16).ok()?;
    }
    Some(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_read_and_written() {
        let text = "00112233-4455-6677-8899-aabbccddeeff";
        assert_eq!(uuid_text(&parse_uuid(text).unwrap()), text);
        assert_eq!(parse_uuid("0011"), None);
        assert_eq!(parse_uuid(&"x".repeat(32)), None);
    }
}
