// SPDX-License-Identifier: GPL-2.0-or-later

//! Whether the snapshots of an origin have room for what a merge makes them keep.

use crate::dm::flow;
use crate::dm::flow::Report;
use crate::dm::flow::StoreFacts;
use crate::dm::status::State;
use crate::dm::table::Family;
use crate::dm::table::Role;
use crate::dm::DevNum;
use crate::dm::Kernel;
use crate::exit::refuse;
use crate::exit::Exit;
use crate::monitor::backing::Sysfs;
use crate::units::human;
use dmholey_cow::disk::Access;
use dmholey_cow::format::ChunkSize;
use dmholey_cow::format::Layout;
use dmholey_cow::format::SECTOR_SIZE;
use dmholey_cow::Device;
use dmholey_cow::Store;
use holey_core::table::StoreKind;
use std::ops::Range;
use std::path::Path;

/// Seconds that those wait who find a store full if its table says nothing about it.
const QUEUE: &str = "/sys/module/dm_holey/parameters/queue_if_no_space";

/// Fails if a snapshot of `origin` may become full, and so invalid, when `image` is merged into it: what the snapshot has
/// not kept yet is kept before it is overwritten. Those where that waits for room are left to whoever gives them some.
pub(super) fn expect(
    kernel: &dyn Kernel,
    origin: DevNum,
    image: &Store<Device>,
) -> anyhow::Result<()> {
    let queue = std::fs::read_to_string(QUEUE).unwrap_or_default();
    let waits = queue.trim().parse().is_ok_and(|seconds: u32| seconds > 0);
    if waits && !(flow::stock_is_there() && has_stock(kernel, origin)?) {
        return Ok(());
    }
    expect_beside(kernel, origin, &image.places()?, &kept)
}

/// Whether the origin has snapshots of dm-snapshot, which wait for nothing.
fn has_stock(kernel: &dyn Kernel, origin: DevNum) -> anyhow::Result<bool> {
    let users = flow::users_of(kernel, origin)?;
    Ok(users.iter().any(|(_, _, family)| *family == Family::Stock))
}

fn expect_beside(
    kernel: &dyn Kernel,
    origin: DevNum,
    merged: &[Range<u64>],
    kept: &dyn Fn(&StoreFacts) -> Vec<Range<u64>>,
) -> anyhow::Result<()> {
    for Report {
        name, state, store, ..
    } in flow::reports(kernel, &[])?
        .into_iter()
        .filter(|report| report.role == Role::Snapshot)
    {
        let (Some(store), State::Ok(usage)) = (store, state) else {
            continue;
        };
        let chunk = store.chunk_sectors.map(ChunkSize::new);
        let Some(Ok(chunk)) = chunk.filter(|_| store.origin == origin && !store.waits()) else {
            continue;
        };
        let layout = match store.kind {
            StoreKind::Transient => Layout::transient(chunk),
            StoreKind::Persistent | StoreKind::Overflow => Layout::new(chunk),
        };
        let chunks = to_keep(merged, &kept(&store), chunk.bytes() as u64);
        let areas = match layout.is_transient() {
            true => 0,
            false => chunks.div_ceil(layout.entries()),
        };
        let need = (chunks + areas) * chunk.bytes() as u64;
        let free = usage.free() * SECTOR_SIZE;
        if need > free {
            let why = format!(
                "{name}: has to keep {} of what is to be overwritten, and has room for {}; nothing was changed. Give its \
                 COW device more room, or remove it (dmholey remove {name})",
                human(need),
                human(free),
            );
            return Err(refuse(Exit::Refused, why));
        }
    }
    Ok(())
}

/// Chunks in which `merged` lies and `kept` does not. Both ascend; what is kept is whole chunks.
fn to_keep(merged: &[Range<u64>], kept: &[Range<u64>], chunk: u64) -> u64 {
    let mut kept = kept
        .iter()
        .map(|range| range.start / chunk..range.end / chunk)
        .peekable();
    let (mut count, mut from) = (0, 0);
    for range in merged {
        let first = from.max(range.start / chunk);
        let end = first.max(range.end.div_ceil(chunk));
        count += end - first;
        while let Some(has) = kept.peek() {
            count -= has.end.min(end).saturating_sub(has.start.max(first));
            if has.end > end {
                break;
            }
            kept.next();
        }
        from = end;
    }
    count
}

/// What a snapshot has kept or changed already; nothing if that cannot be read. While the kernel adds to its list, it
/// has that at least.
fn kept(store: &StoreFacts) -> Vec<Range<u64>> {
    let read = |path: &Path| Store::open(Device::open(path, Access::Read)?)?.places();
    let path = Sysfs::node(store.cow).filter(|_| store.kind != StoreKind::Transient);
    path.and_then(|path| read(&path).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dm::fake::Fake;

    const ORIGIN: DevNum = DevNum { major: 8, minor: 1 };
    const KIB: u64 = 1 << 10;

    type Kib = &'static [(u64, u64)];

    fn kib(ranges: Kib) -> Vec<Range<u64>> {
        let ranges = ranges.iter();
        ranges.map(|(start, end)| start * KIB..end * KIB).collect()
    }

    #[test]
    fn a_chunk_is_kept_once() {
        let cases: [(Kib, Kib, u64); 8] = [
            (&[], &[], 0),
            (&[(0, 4)], &[], 1),
            // Two ranges in one chunk, and one over the end of it.
            (&[(16, 20), (24, 36)], &[], 2),
            (&[(16, 20), (24, 36)], &[(16, 32)], 1),
            (&[(16, 20), (24, 36)], &[(0, 64)], 0),
            (&[(0, 64)], &[(16, 32), (48, 64)], 2),
            (&[(0, 16), (64, 80)], &[(16, 64)], 2),
            (&[(0, 16), (32, 48), (64, 80)], &[(0, 48), (64, 96)], 0),
        ];
        for (merged, kept, count) in cases {
            assert_eq!(
                to_keep(&kib(merged), &kib(kept), 16 * KIB),
                count,
                "{merged:?} {kept:?}"
            );
        }
    }

    #[test]
    fn a_snapshot_without_room_is_named() {
        let look = |params, status| {
            let kernel = Fake::new().with("s", "holey-snapshot", params);
            let kernel = kernel.says(&[status]);
            let kept = |_: &StoreFacts| kib(&[(0, 32)]);
            // Ten chunks of 4 KiB, eight of which it has: two, and an area.
            expect_beside(&kernel, ORIGIN, &kib(&[(0, 40)]), &kept)
        };
        let error = look("8:1 8:2 P 8", "100/123 16").unwrap_err();
        assert!(
            error.to_string().starts_with("s: has to keep 12 KiB"),
            "{error}"
        );
        assert_eq!(Exit::of(&error), Exit::Refused);
        look("8:1 8:2 P 8", "100/124 16").unwrap();
        // In memory there are no areas.
        look("8:1 8:2 N 8", "100/116 0").unwrap();
        look("8:9 8:2 P 8", "100/123 16").unwrap();
        look("8:1 8:2 P 8", "Invalid").unwrap();
        look("8:1 8:2 P 8 1 queue_if_no_space", "100/123 16").unwrap();
    }
}
