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
use crate::dm::Kernel;
use crate::dm::Nodes;
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
    let taken = take(&Device::open(&moment.path(), Access::Still)?);
    explained(&moment, taken)
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
    let numbers = [number(one)?, number(other)?];
    if numbers[0] == numbers[1] {
        let text = "--live: both are the same device; name two".to_owned();
        return Err(refuse(Exit::Refused, text));
    }
    let known = repository.manifest().recorder.as_deref();
    let (store, last) = match last_recorder(&dm, &node::DevMapper, origin.number, known, numbers)? {
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
    // From here on it is in use, and nobody else takes it for one that was left behind.
    let snapshot = Device::open(&moment.path(), Access::Still)?;
    let mut places = None;
    if let Some((recorder, store)) = last {
        // What was written up to the moment is in its list, or the list is not whole. What is written from now on is in
        // that of the new one, too.
        let is_whole = recorder.is_whole(&dm)?;
        recorder.end(&dm, nodes)?;
        if is_whole {
            // One that cannot be read is as good as none.
            places = changes(store).ok().flatten();
        }
    }
    let recorded = Recorded {
        places,
        recorder: Some(uuid.clone()),
    };
    let taken = explained(&moment, take(repository, &snapshot, recorded))?;
    drop(snapshot);
    moment.stay()?;
    Ok(taken)
}

/// The reason behind an error that reading has met.
fn explained(moment: &Moment<'_>, taken: anyhow::Result<Exit>) -> anyhow::Result<Exit> {
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

/// What has recorded from the newest version on, which is the one that is known, and which of the stores it has. What
/// else records there goes: a run that was killed has left it behind.
fn last_recorder(
    kernel: &dyn Kernel,
    nodes: &dyn Nodes,
    origin: DevNum,
    known: Option<&str>,
    stores: [DevNum; 2],
) -> anyhow::Result<Option<(Recorder, usize)>> {
    let mut last = None;
    for recorder in Recorder::all(kernel)? {
        let is_last = known == Some(&*recorder.uuid) && recorder.store.origin == origin;
        let at = stores.iter().position(|&store| store == recorder.store.cow);
        match (is_last, at) {
            (true, Some(at)) => last = Some((recorder, at)),
            (true, None) => {
                let text = format!(
                    "{}: records the changes since the newest version in another device than the two of --live; name \
                     that one, or remove it (dmholey remove {0}): then all is compared",
                    recorder.name
                );
                return Err(refuse(Exit::Refused, text));
            }
            (false, Some(_)) => recorder.end(kernel, nodes)?,
            (false, None) => {}
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
    Ok(Some(store.places()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dm::fake::Fake;

    const fn device(minor: u32) -> DevNum {
        DevNum { major: 8, minor }
    }

    #[test]
    fn only_who_has_recorded_this_image_is_believed() {
        let kernel = Fake::new().with("r", "holey-snapshot", "8:1 8:3 P 8");
        let uuid = recorder_uuid(7);
        let mut uuids = kernel.uuids.borrow_mut();
        uuids.insert("r".to_owned(), uuid.clone());
        drop(uuids);
        let look = |image, known, store| {
            let stores = [device(2), device(store)];
            last_recorder(&kernel, &kernel, device(image), known, stores)
        };
        let (_, at) = look(1, Some(&*uuid), 3).unwrap().unwrap();
        assert_eq!(at, 1);
        let error = look(1, Some(&*uuid), 9).unwrap_err();
        assert!(error.to_string().contains("dmholey remove r"), "{error}");
        assert!(look(1, None, 9).unwrap().is_none());
        assert_eq!(kernel.devices.borrow().len(), 1);
        // It has recorded another image, in a store that is wanted now.
        assert!(look(4, Some(&*uuid), 3).unwrap().is_none());
        assert!(kernel.devices.borrow().is_empty());
    }
}
