// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey cow`

pub mod apply;
pub mod check;
pub mod diff;
pub mod dump;
pub mod info;
pub mod online;
mod room;

use crate::exit::refuse;
use crate::exit::Exit;
use crate::output::Output;
use clap::Subcommand;
use dmholey_cow::disk::Access;
use dmholey_cow::Device;
use dmholey_cow::Store;
use std::path::Path;

/// Work with COW images
#[derive(Debug, Subcommand)]
pub enum Cow {
    /// Describe an image
    Info(info::Info),
    /// List the runs of chunks in an image
    ///
    /// Each line has the first origin chunk, the first COW chunk, and how many chunks follow each other
    /// on both sides.
    Dump(dump::Dump),
    /// Look for everything that is wrong with an image
    ///
    /// The image is only read. Problems are listed, and then the exit status is 3.
    Check(check::Check),
    /// Make an image of the difference between two disks
    ///
    /// The image, as a snapshot over OLD, shows NEW. Applied to OLD or merged into it, it makes it NEW.
    /// The image is sparse and appears under its name when it is complete.
    Diff(diff::Diff),
    /// Bring a disk from the old version to the new one
    ///
    /// The image is checked to its end before anything is written. An interrupted run is repeated as it
    /// was and ends with the same content.
    ///
    /// Offline, chunks are copied to a file or to a block device that nobody uses. Online, the kernel
    /// merges them into the origin of live snapshots, which keep the old version: this is the way when
    /// the running system is itself on a snapshot of the disk.
    Apply(apply::Apply),
}

/// Runs the command.
pub fn run(args: &Cow, output: Output) -> anyhow::Result<Exit> {
    match args {
        Cow::Info(args) => info::run(args, output),
        Cow::Dump(args) => dump::run(args, output),
        Cow::Check(args) => check::run(args, output),
        Cow::Diff(args) => diff::run(args, output),
        Cow::Apply(args) => apply::run(args, output),
    }
}

/// Opens an image for reading.
fn open_store(path: &Path) -> anyhow::Result<Store<Device>> {
    Ok(Store::open(Device::open(path, Access::Read)?)?)
}

/// Whether two paths lead to the same file or device.
fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    use std::os::unix::fs::MetadataExt;
    let (Ok(a), Ok(b)) = (std::fs::metadata(a), std::fs::metadata(b)) else {
        return false;
    };
    let block = a.file_type().is_block_device() && b.file_type().is_block_device();
    (a.dev(), a.ino()) == (b.dev(), b.ino()) || (block && a.rdev() == b.rdev())
}

/// Fails if the output is one of the inputs.
pub(crate) fn not_an_input(output: &Path, inputs: &[&Path]) -> anyhow::Result<()> {
    if inputs.iter().any(|input| same_file(input, output)) {
        let text = format!("{}: is also an input", output.display());
        return Err(refuse(Exit::Refused, text));
    }
    Ok(())
}
