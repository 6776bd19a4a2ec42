// SPDX-License-Identifier: GPL-2.0-or-later

//! What can be said on the command line.

use crate::commands::cluster;
use crate::commands::completions;
use crate::commands::cow;
use crate::commands::create;
use crate::commands::delta;
use crate::commands::image;
use crate::commands::man;
use crate::commands::merge;
use crate::commands::monitor;
use crate::commands::remove;
use crate::commands::status;
use crate::commands::table;
use crate::commands::update;
use crate::exit;
use clap::Parser;
use clap::Subcommand;

/// Creates, watches and merges copy-on-write overlays, and handles their images.
///
/// An overlay is an origin device plus a COW store that holds the chunks in which a snapshot
/// differs from it. A COW image is such a store in a file: the difference between two versions of
/// a disk, to be carried elsewhere and applied there. A delta is the same difference, made small.
#[derive(Debug, Parser)]
#[command(name = "dmholey", version, after_help = exit::help(), disable_help_subcommand = true)]
pub struct Cli {
    /// Print facts as JSON.
    #[arg(long, global = true)]
    pub json: bool,

    /// Print no progress and no remarks.
    #[arg(short, long, global = true)]
    pub quiet: bool,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a device: an origin, a snapshot or a merge
    #[command(subcommand)]
    Create(create::Create),
    /// Remove devices
    Remove(remove::Remove),
    /// Show devices and how full their stores are
    Status(status::Status),
    /// Print the table line that 'create' would load, and load nothing
    #[command(subcommand)]
    Table(table::TableOf),
    /// Show how far a merge is, or wait for its end
    Merge(merge::Merge),
    /// Extend the stores of snapshots before they are full
    Monitor(monitor::Monitor),
    /// Share a volume with other nodes
    Cluster(cluster::Cluster),
    /// Work with COW images
    #[command(subcommand)]
    Cow(cow::Cow),
    /// Work with deltas, the small form of the difference between two images
    #[command(subcommand)]
    Delta(delta::Delta),
    /// Make images of file systems
    #[command(subcommand)]
    Image(image::Image),
    /// Bring a disk to the newest published version of its image
    #[command(subcommand)]
    Update(update::Update),
    /// Print a completion script for a shell
    #[command(hide = true)]
    Completions(completions::Completions),
    /// Write the manual pages
    #[command(hide = true)]
    Man(man::Man),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
