// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey image checkpoint --live`: the image is written to meanwhile.

use super::checkpoint::Recorded;
use crate::blockdev::BlockDev;
use crate::dm::ioctl::Dm;
use crate::dm::moment::recorder_uuid;
use crate::dm::moment::Moment;
use crate::dm::moment::Recorder;
use crate::dm::node;
use crate::dm::DevNum;
use crate::exit::refuse;
use crate::exit::Exit;
use anyhow::Context;
use dmholey_cow::disk;
use dmholey_cow::disk::Access;
use dmholey_cow::Device;
use dmholey_cow::Store;
use dmholey_repository::Repository;
use rustix::rand::GetRandomFlags;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;

/// What a store begins with that the kernel is to take for a new one.
const NEW: [u8; 4096] = [0; 4096];

/// Has `take` read the image as it is now, from a snapshot that goes after that.
pub(super) fn once(
    image: &Path,
    store: &Path,
    take: impl FnOnce(&Device) -> anyhow::Result<Exit>,
) -> anyhow::Result<Exit> {
    let (origin, _) = BlockDev::open(image)?;
    // Alone: what is on it is lost.
    let cow = DevNum::from_rdev(Device::open(store, Access::Write)?.rdev());
    let dm = Dm::open()?;
    let moment = Moment::take(
        &dm,
        &node::DevMapper,
        origin.number,
        origin.sectors,
        cow,
        None,
    )?;
    through(&moment, take)
}

/// The same, from a snapshot that stays to record what is changed. Where the one before has recorded from the newest
/// version on, `take` is told what.
pub(super) fn recorded(
    image: &Path,
    stores: [&PathBuf; 2],
    repository: &mut Repository,
    take: impl FnOnce(&mut Repository, &Device, Recorded) -> anyhow::Result<Exit>,
) -> anyhow::Result<Exit> {
    let (origin, _) = BlockDev::open(image)?;
    let dm = Dm::open()?;
    let [one, other] = stores;
    let (store, last) = match last_recorder(&dm, repository, [number(one)?, number(other)?])? {
        Some((recorder, 0)) => (other, Some((recorder, one))),
        Some((recorder, _)) => (one, Some((recorder, other))),
        None => (one, None),
    };
    let cow = renew(store)?;
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random, GetRandomFlags::empty()).context("no random numbers")?;
    let uuid = recorder_uuid(u128::from_ne_bytes(random));
    let (nodes, records) = (&node::DevMapper, Some(uuid.as_str()));
    let moment = Moment::take(&dm, nodes, origin.number, origin.sectors, cow, records)?;
    let mut places = None;
    if let Some((recorder, store)) = last {
        // What is changed from now on is in the list of the new one, too.
        recorder.end(&dm, nodes)?;
        if recorder.is_whole {
            places = changes(store)?;
        }
    }
    let recorded = Recorded {
        places,
        recorder: Some(uuid.clone()),
    };
    let taken = through(&moment, |image| take(repository, image, recorded))?;
    moment.stay()?;
    Ok(taken)
}

fn through(
    moment: &Moment<'_>,
    take: impl FnOnce(&Device) -> anyhow::Result<Exit>,
) -> anyhow::Result<Exit> {
    let taken = take(&Device::open(&moment.path(), Access::Still)?);
    // The reason behind an error that reading has met.
    taken.or_else(|error| moment.check().map_err(Into::into).and(Err(error)))
}

/// Has the kernel take a store for a new one.
fn renew(store: &Path) -> anyhow::Result<DevNum> {
    let cow = Device::open(store, Access::Write)?;
    disk::write(&cow, 0, &NEW)?;
    disk::flush(&cow)?;
    Ok(DevNum::from_rdev(cow.rdev()))
}

fn number(store: &Path) -> anyhow::Result<DevNum> {
    Ok(BlockDev::open(store)?.0.number)
}

/// What has recorded from the newest version on, and which of the stores it has. What a run has left behind on them that
/// was killed goes.
fn last_recorder(
    dm: &Dm,
    repository: &Repository,
    stores: [DevNum; 2],
) -> anyhow::Result<Option<(Recorder, usize)>> {
    if stores[0] == stores[1] {
        let text = "--live: both are the same device; name two".to_owned();
        return Err(refuse(Exit::Refused, text));
    }
    let mut last = None;
    for recorder in Recorder::all(dm)? {
        let is_last = repository.manifest().recorder.as_ref() == Some(&recorder.uuid);
        let at = recorder
            .cow
            .map(|cow| stores.iter().position(|&store| store == cow));
        match (is_last, at) {
            (true, Some(Some(at))) => last = Some((recorder, at)),
            (true, Some(None)) => {
                let text = format!(
                    "{}: records the changes since the newest version in another device than the two of --live; name \
                     that one, or remove it (dmholey remove {0}): then all is compared",
                    recorder.name
                );
                return Err(refuse(Exit::Refused, text));
            }
            (false, Some(Some(_))) | (_, None) => recorder.end(dm, &node::DevMapper)?,
            (false, Some(None)) => {}
        }
    }
    Ok(last)
}

/// What a store lists, as ascending ranges of bytes; none if it has become full.
fn changes(store: &Path) -> anyhow::Result<Option<Vec<Range<u64>>>> {
    let store = Store::open(Device::open(store, Access::Read)?)?;
    if !store.header().valid {
        return Ok(None);
    }
    let chunk = store.chunk_bytes();
    let mut places = Vec::new();
    for run in store.runs() {
        let run = run?;
        places.push(run.origin * chunk..(run.origin + run.len) * chunk);
    }
    places.sort_unstable_by_key(|place| place.start);
    Ok(Some(places))
}
