// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey delta`

pub mod apply;
pub mod check;
pub mod from_cow;
pub mod info;
pub mod make;
pub mod to_cow;

use crate::commands::cow::not_an_input;
use crate::exit::Exit;
use crate::output::Output;
use clap::Subcommand;
use dmholey_cow::disk::Access;
use dmholey_cow::Device;
use std::path::Path;

/// Work with deltas
#[derive(Debug, Subcommand)]
pub enum Delta {
    /// Make a delta that brings one image to another
    ///
    /// What is elsewhere in OLD is not in the delta, and what is like something in OLD is told by its
    /// difference. Where both images hold an ext4 file system, files are compared with their old
    /// versions, wherever those are; gzip files by their content, if they can be made again to the bit.
    /// The images may differ in size.
    Make(make::Make),
    /// Describe a delta
    Info(info::Info),
    /// Look whether a delta is whole, and whether it fits an image
    ///
    /// Without --base, the parts of the delta are compared with their digests. With it, everything is made
    /// in memory and compared, too. Problems are listed, and then the exit status is 3.
    Check(check::Check),
    /// Make the new image out of the old one
    ///
    /// Each part is checked before it is written, and the old image is only read. The new image appears
    /// under its name when it is complete.
    Apply(apply::Apply),
    /// Make a COW image of a delta, which a disk can merge
    ///
    /// The COW image, as a snapshot over OLD, shows the new image.
    ToCow(to_cow::ToCow),
    /// Make a delta of a COW image
    FromCow(from_cow::FromCow),
}

/// Runs the command.
pub fn run(args: &Delta, output: Output) -> anyhow::Result<Exit> {
    match args {
        Delta::Make(args) => make::run(args, output),
        Delta::Info(args) => info::run(args, output),
        Delta::Check(args) => check::run(args, output),
        Delta::Apply(args) => apply::run(args, output),
        Delta::ToCow(args) => to_cow::run(args, output),
        Delta::FromCow(args) => from_cow::run(args, output),
    }
}

/// Opens a delta for reading.
fn open_delta(path: &Path) -> anyhow::Result<dmholey_delta::Delta<Device>> {
    Ok(dmholey_delta::Delta::open(open(path)?)?)
}

/// Opens an image for reading.
fn open(path: &Path) -> anyhow::Result<Device> {
    Ok(Device::open(path, Access::Read)?)
}
