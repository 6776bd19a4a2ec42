// SPDX-License-Identifier: GPL-2.0-or-later

//! Gets a staged version into the disk, and the one before back, and repairs it, whether it is in use or not.

use crate::commands::cow::online;
pub use crate::commands::cow::online::How;
use crate::output::Output;
use crate::progress;
use crate::update::Session;
use dmholey_cow::apply::Applied;
use dmholey_update::client::Repaired;
use dmholey_update::state::Phase;
use dmholey_update::Client;
use std::path::Path;

/// Gets the staged version into the disk. Returns which way that went: offline or online.
pub fn apply(client: &mut Client, how: &How, output: Output) -> anyhow::Result<&'static str> {
    let watch = &progress::watch(output);
    if !how.is_online(client.disk())? {
        client.apply(watch)?;
        return Ok("offline");
    }
    let store = client.staged();
    if !goes_on(&store, client)? {
        client.begin(watch)?;
    }
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
    let (store, staged) = (client.back(), client.staged());
    if client.state().phase == Phase::Applying && staged.exists() {
        // Of an apply that was killed; the way back brings back also what it has done.
        online::stop(&staged, client.disk())?;
    }
    if !goes_on(&store, client)? {
        client.begin_back(watch)?;
    }
    merge(&store, client.disk(), how, output)?;
    client.is_back()?;
    Ok("online")
}

/// Makes the disk version `to`, or the one that it should be, whatever it is now. What an earlier run was interrupted in
/// goes on, or is given up if it is to be made `afresh`. Returns also which way that went.
pub fn repair(
    session: &mut Session,
    to: Option<u64>,
    afresh: bool,
    how: &How,
    output: Output,
) -> anyhow::Result<(Repaired, &'static str)> {
    let watch = &progress::watch(output);
    let Session {
        client,
        trust,
        mirrors,
    } = session;
    let online = how.is_online(client.disk())?;
    let way = if online { "online" } else { "offline" };
    let mut begun = None;
    if afresh || !client.repair_goes_on(to)? {
        let catalog = trust.ask(mirrors)?.catalog;
        if afresh {
            client.expect_repair(mirrors, &catalog, to)?;
            give_up(client, online)?;
        }
        if !online {
            return Ok((client.repair(mirrors, &catalog, to, watch)?, way));
        }
        let repaired = client.begin_repair(mirrors, &catalog, to, watch)?;
        if client.state().phase != Phase::Repairing {
            return Ok((repaired, way));
        }
        begun = Some(repaired);
    }
    let target = client.state().target.map(|target| target.number);
    let applied = if online {
        if begun.is_none() && !goes_on(&client.staged(), client)? {
            client.expect_mended(watch)?;
        }
        let applied = merge(&client.staged(), client.disk(), how, output)?;
        client.repaired()?;
        applied
    } else {
        client.end_repair(watch)?
    };
    // What an earlier run has fetched and written is not known any more.
    let rest = Repaired {
        version: target.unwrap_or_default(),
        blocks: applied.exceptions,
        fetched: 0,
    };
    Ok((begun.unwrap_or(rest), way))
}

/// Whether the kernel merges a store already; if it does not, the snapshots of the disk have room for that.
fn goes_on(store: &Path, client: &Client) -> anyhow::Result<bool> {
    Ok(store.exists() && online::goes_on(store, client.disk())?)
}

/// Gives up whatever goes on with the disk, which has to be repaired then.
fn give_up(client: &mut Client, online: bool) -> anyhow::Result<()> {
    for store in [client.staged(), client.back()] {
        if online && store.exists() {
            online::stop(&store, client.disk())?;
        }
    }
    Ok(client.begin_afresh()?)
}

/// Merges a store, which is empty after that. Interrupted, it has what is left.
fn merge(store: &Path, disk: &Path, how: &How, output: Output) -> anyhow::Result<Applied> {
    let merging = online::Merging {
        image: store,
        disk,
        consume: true,
        copy_in: None,
        how,
    };
    online::merge(&merging, output)
}
