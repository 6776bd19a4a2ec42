// SPDX-License-Identifier: GPL-2.0-or-later

//! Gets a staged version into the disk, and the one before back, whether the disk is in use or not.

use crate::commands::cow::online;
use crate::commands::line::FamilyArgs;
use crate::commands::merge::Pace;
use crate::output::Output;
use crate::progress;
use clap::Args;
use dmholey_update::Client;
use std::path::Path;

/// How a store gets into the disk.
#[derive(Clone, Debug, Args)]
pub struct How {
    /// Let the kernel merge; default if the disk is the origin of live snapshots
    #[arg(long, conflicts_with = "offline")]
    online: bool,
    /// Copy, even if the disk is the origin of live snapshots
    #[arg(long)]
    offline: bool,
    /// Name of the merge device, if not the disk's name with -apply
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    family: FamilyArgs,
    #[command(flatten)]
    pace: Pace,
}

impl How {
    /// Gets the staged version into the disk. Returns how: offline or online.
    pub fn apply(&self, client: &mut Client, output: Output) -> anyhow::Result<&'static str> {
        let watch = &progress::watch(output);
        if !self.is_online(client.disk())? {
            client.apply(watch)?;
            return Ok("offline");
        }
        let store = client.begin(watch)?;
        self.merge(&store, client.disk(), output)?;
        client.applied()?;
        Ok("online")
    }

    /// Gets the version before back into the disk, or drops what is staged.
    pub fn roll_back(&self, client: &mut Client, output: Output) -> anyhow::Result<&'static str> {
        let watch = &progress::watch(output);
        if !client.is_touched() || !self.is_online(client.disk())? {
            client.roll_back(watch)?;
            return Ok("offline");
        }
        let store = client.begin_back()?;
        self.merge(&store, client.disk(), output)?;
        client.is_back()?;
        Ok("online")
    }

    fn is_online(&self, disk: &Path) -> anyhow::Result<bool> {
        if self.online || self.offline {
            return Ok(self.online);
        }
        online::is_origin(disk)
    }

    /// Merges a store, which is empty after that. Interrupted, it has what is left.
    fn merge(&self, store: &Path, disk: &Path, output: Output) -> anyhow::Result<()> {
        let merging = online::Merging {
            image: store,
            disk,
            consume: true,
            copy_in: None,
            name: self.name.as_deref(),
            family: &self.family,
            pace: self.pace,
        };
        online::merge(&merging, output)?;
        Ok(())
    }
}
