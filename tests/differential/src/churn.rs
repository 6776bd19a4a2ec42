// SPDX-License-Identifier: GPL-2.0-or-later

//! Makes snapshots and removes them, in numbers that no shell gets to.

use crate::blockio::Block;
use crate::blockio::Buffer;
use crate::data::SECTOR;
use anyhow::Context;
use dmholey::dm::flow;
use dmholey::dm::ioctl::Dm;
use dmholey::dm::node;
use dmholey::dm::node::DevMapper;
use dmholey::dm::table::Family;
use dmholey::dm::table::Overlay;
use dmholey::dm::table::Role;
use dmholey::dm::table::Table;
use holey_core::table::Features;
use holey_core::table::StoreKind;

const NAME: &str = "churn";
const CHUNK: u32 = 8;
/// A store is blank if its first 4 KiB are zero.
const BLANK: usize = 4096;

/// Makes a snapshot of `base` in `store`, writes to the origin and to it, and removes it, so many
/// times. All of them are names in `/dev/mapper`; the origin has `sectors`.
pub(crate) fn run(base: &str, origin: &str, store: &str, times: u64) -> anyhow::Result<()> {
    let kernel = Dm::open()?;
    let open = |name: &str| Block::open(&node::path(name)).with_context(|| name.to_owned());
    let (written, kept) = (open(origin)?, open(store)?);
    let report = flow::reports(&kernel, &[origin.to_owned()])?;
    let sectors = report.first().context("no origin")?.sectors;
    let zeros = Buffer::new(BLANK);
    let mut sector = Buffer::new(SECTOR);
    let table = Table {
        role: Role::Snapshot,
        family: Family::Holey,
        len: sectors,
        origin: node::path(base).display().to_string(),
        overlay: Some(Overlay {
            cow: node::path(store).display().to_string(),
            store: StoreKind::Persistent,
            chunk: CHUNK,
            features: Features::default(),
        }),
    };
    for round in 0..times {
        let mut one = || -> anyhow::Result<()> {
            kept.write(0, &zeros, false)?;
            flow::create(&kernel, &DevMapper, NAME, "", &table)?;
            let place = round % sectors;
            sector.fill(round as u8);
            written.write(place, &sector, false)?;
            let snapshot = open(NAME)?;
            let other = (place + u64::from(CHUNK)) % sectors;
            snapshot.write(other, &sector, false)?;
            drop(snapshot);
            flow::remove(&kernel, &DevMapper, NAME, false)?;
            Ok(())
        };
        one().with_context(|| format!("snapshot {round}"))?;
    }
    Ok(())
}
