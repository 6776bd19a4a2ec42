// SPDX-License-Identifier: GPL-2.0-or-later

//! Gets a staged version into the disk, and the one before back, whether the disk is in use or not.

use crate::commands::cow::online;
pub use crate::commands::cow::online::How;
use crate::output::Output;
use crate::progress;
use dmholey_update::Client;
use std::path::Path;

/// Gets the staged version into the disk. Returns which way that went: offline or online.
pub fn apply(client: &mut Client, how: &How, output: Output) -> anyhow::Result<&'static str> {
    let watch = &progress::watch(output);
    if !how.is_online(client.disk())? {
        client.apply(watch)?;
        return Ok("offline");
    }
    let store = client.begin(watch)?;
    merge(&store, client.disk(), how, output)?;
    client.applied()?;
    Ok("online")
}

/// Gets the version before back into the disk, or drops what is staged.
pub fn roll_back(client: &mut Client, how: &How, output: Output) -> anyhow::Result<&'static str> {
    let watch = &progress::watch(output);
    if !client.is_touched() || !how.is_online(client.disk())? {
        client.roll_back(watch)?;
        return Ok("offline");
    }
    let store = client.begin_back()?;
    let staged = client.staged();
    if staged.exists() {
        // Of an apply that was killed; the way back brings back also what it has done.
        online::stop(&staged, client.disk())?;
    }
    merge(&store, client.disk(), how, output)?;
    client.is_back()?;
    Ok("online")
}

/// Merges a store, which is empty after that. Interrupted, it has what is left.
fn merge(store: &Path, disk: &Path, how: &How, output: Output) -> anyhow::Result<()> {
    let merging = online::Merging {
        image: store,
        disk,
        consume: true,
        copy_in: None,
        how,
    };
    online::merge(&merging, output)?;
    Ok(())
}
