// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey image`

pub mod build;

use crate::exit::Exit;
use crate::output::Output;
use clap::Subcommand;

/// Make images of file systems
#[derive(Debug, Subcommand)]
pub enum Image {
    /// Build an ext4 image from a tree of files
    ///
    /// With --base, the tree is laid over the image of the version before: files that did not change
    /// keep their blocks and inodes, so that the difference of the two images is small. The base is
    /// only read. Neither root nor mounting is needed.
    ///
    /// The image depends on the base, the tree and SOURCE_DATE_EPOCH alone, and appears under its name
    /// when it is complete.
    Build(build::Build),
}

/// Runs the command.
pub fn run(args: &Image, output: Output) -> anyhow::Result<Exit> {
    match args {
        Image::Build(args) => build::run(args, output),
    }
}
