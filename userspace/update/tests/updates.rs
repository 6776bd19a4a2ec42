// SPDX-License-Identifier: GPL-2.0-or-later

//! A disk comes from any version to any later one and back, wherever that is interrupted, and whatever some
//! of the mirrors say.

mod lab;

use dmholey_cow::disk::Access;
use dmholey_cow::Device;
use dmholey_cow::Kind;
use dmholey_cow::Progress;
use dmholey_cow::Store;
use dmholey_delta::delta::Plan;
use dmholey_delta::Delta;
use dmholey_repository::catalog;
use dmholey_repository::manifest::EMPTY;
use dmholey_update::client::Repaired;
use dmholey_update::source::Folder;
use dmholey_update::source::Got;
use dmholey_update::source::Sink;
use dmholey_update::stage;
use dmholey_update::state::Phase;
use dmholey_update::Client;
use dmholey_update::Mirrors;
use dmholey_update::Result;
use dmholey_update::Source;
use dmholey_update::Watch;
use lab::quiet;
use lab::Fuse;
use lab::Lab;
use lab::CHUNK;
use proptest::prelude::*;
use std::fs;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::Arc;

#[test]
fn a_disk_goes_through_an_update() {
    let lab = Lab::new();
    let mut client = lab.client();
    let pulled = client.pull(&lab.mirrors(), &lab.catalog, None, &quiet);
    let pulled = pulled.unwrap();
    assert_eq!((pulled.version, pulled.steps.as_slice()), (3, &[1][..]));
    lab.is(1);
    // Again is nothing.
    let again = client.pull(&lab.mirrors(), &lab.catalog, None, &quiet);
    assert_eq!(again.unwrap().fetched, 0);
    client.apply(&quiet).unwrap();
    lab.is(3);
    assert_eq!(client.state().phase, Phase::Applied);
    assert!(client
        .pull(&lab.mirrors(), &lab.catalog, None, &quiet)
        .is_err());
    client.roll_back(&quiet).unwrap();
    lab.is(1);
    // That is remembered by whoever looks next, until it is asked for again.
    drop(client);
    let mut client = lab.client();
    assert_eq!(client.state().refused.map(|v| v.number), Some(3));
    // What was fetched is still there.
    let pulled = client.pull(&lab.mirrors(), &lab.catalog, None, &quiet);
    assert_eq!(pulled.unwrap().fetched, 0);
    assert_eq!(client.state().refused, None);
    client.apply(&quiet).unwrap();
    client.commit().unwrap();
    lab.is(3);
    assert_eq!(client.state().installed.unwrap().number, 3);
    assert!(client.roll_back(&quiet).is_err());
    let pulled = client.pull(&lab.mirrors(), &lab.catalog, None, &quiet);
    assert_eq!(pulled.unwrap().steps, Vec::<u64>::new());
}

#[test]
fn a_chain_is_one_change() {
    let images = Lab::new().images;
    let lab = Lab::of(images, false);
    let mut client = lab.client();
    let pulled = client.pull(&lab.mirrors(), &lab.catalog, None, &quiet);
    assert_eq!(pulled.unwrap().steps, [1, 2]);
    client.apply(&quiet).unwrap();
    lab.is(3);
    client.roll_back(&quiet).unwrap();
    lab.is(1);
    let pulled = client.pull(&lab.mirrors(), &lab.catalog, Some(2), &quiet);
    assert_eq!(pulled.unwrap().version, 2);
    client.apply(&quiet).unwrap();
    lab.is(2);
}

#[test]
fn a_disk_that_is_larger_keeps_what_is_behind_the_image() {
    let lab = Lab::new();
    let mut disk = lab.images[0].clone();
    disk.extend([7; 5000]);
    fs::write(lab.path("disk"), &disk).unwrap();
    let mut client = lab.client();
    client
        .pull(&lab.mirrors(), &lab.catalog, None, &quiet)
        .unwrap();
    client.apply(&quiet).unwrap();
    let mut expected = lab.images[2].clone();
    expected.extend([7; 5000]);
    assert!(lab.disk() == expected);
    client.roll_back(&quiet).unwrap();
    assert!(lab.disk() == disk);
}

/// The whole image is a way from any version to any other, and back.
#[test]
fn the_whole_image_is_taken_where_no_delta_leads() {
    let images = Lab::new().images;
    let mut lab = Lab::of(images, true);
    let whole = |delta: &catalog::Delta| delta.from == EMPTY;
    lab.catalog.deltas.retain(whole);
    let mut client = lab.client();
    let pulled = client.pull(&lab.mirrors(), &lab.catalog, None, &quiet);
    assert_eq!(pulled.unwrap().steps, [EMPTY]);
    // Only what differs gets into the disk: 35 + 70 + 30 chunks at most, of 300.
    let staged = Store::open(Device::open(&client.staged(), Access::Read).unwrap()).unwrap();
    let staged = staged.survey().unwrap().exceptions;
    assert!(staged < 180, "{staged} chunks are staged");
    client.apply(&quiet).unwrap();
    lab.is(3);
    client.roll_back(&quiet).unwrap();
    lab.is(1);
    client
        .pull(&lab.mirrors(), &lab.catalog, Some(3), &quiet)
        .unwrap();
    client.apply(&quiet).unwrap();
    client.commit().unwrap();
    // To an older one.
    let pulled = client.pull(&lab.mirrors(), &lab.catalog, Some(1), &quiet);
    assert_eq!(pulled.unwrap().steps, [EMPTY]);
    client.apply(&quiet).unwrap();
    lab.is(1);
    // There is none of version 2.
    client.commit().unwrap();
    let error = client.pull(&lab.mirrors(), &lab.catalog, Some(2), &quiet);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("neither deltas nor a whole image"),
        "{error}"
    );
}

/// Versions that grow and shrink, on a disk that has other things behind them.
#[test]
fn versions_have_sizes_of_their_own() {
    let lab = Lab::new();
    let mut images = lab.images.clone();
    // It grows by zeros and by data, then it shrinks.
    images[1].resize(340 * CHUNK, 0);
    images[1][330 * CHUNK..335 * CHUNK].fill(9);
    images[2].truncate(250 * CHUNK);
    for squashed in [true, false] {
        let lab = Lab::of(images.clone(), squashed);
        let mut disk = images[0].clone();
        disk.resize(400 * CHUNK, 7);
        fs::write(lab.path("disk"), &disk).unwrap();
        let mut client = lab.client();
        for (to, back) in [(2, true), (3, true), (2, false), (3, false)] {
            let before = lab.disk();
            client
                .pull(&lab.mirrors(), &lab.catalog, Some(to), &quiet)
                .unwrap();
            assert!(lab.disk() == before);
            client.apply(&quiet).unwrap();
            let image = &images[to as usize - 1];
            assert!(lab.disk()[..image.len()] == image[..], "version {to}");
            assert!(lab.disk()[340 * CHUNK..] == disk[340 * CHUNK..]);
            if back {
                client.roll_back(&quiet).unwrap();
                assert!(lab.disk() == before);
            } else {
                client.commit().unwrap();
            }
        }
        // The disk tells what it is.
        fs::remove_dir_all(lab.path("client")).unwrap();
        drop(client);
        let mut client = lab.client();
        assert_eq!(client.identify(&lab.catalog, &quiet).unwrap().number, 3);
        // One that is too small is told before anything is fetched.
        let lab = Lab::of(images.clone(), squashed);
        let mut client = lab.client();
        let error = client.pull(&lab.mirrors(), &lab.catalog, Some(2), &quiet);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("the image has"), "{error}");
        assert_eq!(client.state().phase, Phase::Idle);
    }
}

/// The names in a folder of the client.
fn names(lab: &Lab, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(lab.path(folder)).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<String> = entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What a power cut leaves goes when the client is opened the next time.
#[test]
fn leftovers_are_removed() {
    let lab = Lab::new();
    let mut client = lab.client();
    client
        .pull(&lab.mirrors(), &lab.catalog, None, &quiet)
        .unwrap();
    drop(client);
    let before = (names(&lab, "client"), names(&lab, "client/deltas"));
    for name in [
        ".staged.step-0.a1B2c3.part",
        ".staged.cow.a1B2c3.part",
        ".state.json.a1B2c3.part",
        "trust/.seen.json.a1B2c3.part",
        "trust/.tmpa1B2c3/timestamp.json",
    ] {
        let path = lab.path("client").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    for name in ["trust/seen.json", "trust/.tmp", "deltas/x.part"] {
        fs::write(lab.path("client").join(name), "x").unwrap();
    }
    // Nothing is removed beside somebody who is at work.
    let locked = lab.client();
    fs::write(lab.path("client/.back.cow.a1B2c3.part"), "x").unwrap();
    Client::open(&lab.path("client"), &lab.path("disk")).unwrap_err();
    assert!(lab.path("client/.back.cow.a1B2c3.part").exists());
    drop(locked);
    let client = lab.client();
    assert_eq!(client.state().phase, Phase::Staged);
    let mut after = names(&lab, "client");
    after.retain(|name| name != "trust");
    assert_eq!(after, before.0);
    assert_eq!(names(&lab, "client/trust"), [".tmp", "seen.json"]);
    assert_eq!(names(&lab, "client/deltas").len(), before.1.len() + 1);
}

/// Who only pulls has the deltas of one way, and not of each version that was the newest one once.
#[test]
fn deltas_of_another_way_are_dropped() {
    let lab = Lab::new();
    let file = |from, to, end: &str| {
        let delta = lab
            .catalog
            .deltas
            .iter()
            .find(|d| (d.from, d.to) == (from, to));
        format!("{}.{end}", delta.unwrap().identity)
    };
    let mut client = lab.client();
    client
        .pull(&lab.mirrors(), &lab.catalog, Some(2), &quiet)
        .unwrap();
    assert_eq!(names(&lab, "client/deltas"), [file(1, 2, "delta")]);
    // What is there in part stays for who goes on.
    let nobody = Mirrors::new(vec![Arc::new(Liar(Folder(lab.path("web")), 100_000))]);
    client
        .pull(&nobody, &lab.catalog, None, &quiet)
        .unwrap_err();
    assert_eq!(names(&lab, "client/deltas"), [file(1, 3, "part")]);
    client
        .pull(&nobody, &lab.catalog, None, &quiet)
        .unwrap_err();
    let pulled = client.pull(&lab.mirrors(), &lab.catalog, None, &quiet);
    assert!(pulled.unwrap().found > 0);
    assert_eq!(names(&lab, "client/deltas"), [file(1, 3, "delta")]);
    client.apply(&quiet).unwrap();
    client.commit().unwrap();
    assert!(names(&lab, "client/deltas").is_empty());
}

/// A delta that was kept and has suffered since is mended, wherever that is.
#[test]
fn a_delta_that_was_damaged_is_mended() {
    let images = Lab::new().images;
    let lab = Lab::of(images, false);
    let mut client = lab.client();
    let mut pull = |mirrors: &Mirrors| {
        let pulled = client.pull(mirrors, &lab.catalog, None, &quiet);
        pulled.inspect(|_| client.roll_back(&quiet).unwrap())
    };
    let all = pull(&lab.mirrors()).unwrap().fetched;
    let way = lab.catalog.way(1, 3).unwrap();
    let path = dmholey_update::fetch::path(&lab.path("client/deltas"), &way[1]);
    let good = fs::read(&path).unwrap();
    // In the header, in the index, and in the last unit.
    for place in [20, 300, good.len() - 1] {
        let mut bad = good.clone();
        bad[place] ^= 1;
        fs::write(&path, &bad).unwrap();
        let pulled = pull(&lab.mirrors()).unwrap();
        assert!(pulled.fetched > 0 && pulled.fetched < all, "{pulled:?}");
        assert!(fs::read(&path).unwrap() == good);
    }
    // Cut off, and another one.
    let other = fs::read(path.with_file_name(format!("{}.delta", way[0].identity))).unwrap();
    for bad in [&good[..100], &good[..good.len() - 1], &other] {
        fs::write(&path, bad).unwrap();
        pull(&lab.mirrors()).unwrap();
        assert!(fs::read(&path).unwrap()[..good.len()] == good);
        fs::write(&path, &good).unwrap();
    }
    // Nobody has what is needed for that; it is tried again when somebody has.
    fs::write(&path, &good[..good.len() - 1]).unwrap();
    let nobody = Mirrors::new(vec![Arc::new(Folder(lab.path("nowhere")))]);
    let error = pull(&nobody).unwrap_err().to_string();
    assert!(error.contains("no mirror has it"), "{error}");
    pull(&lab.mirrors()).unwrap();
}

/// The plans of the deltas that lead from version 1 to `to`.
fn plans(lab: &Lab, to: u64) -> Vec<Plan> {
    let way = lab.catalog.cheapest(1, to).unwrap();
    let plan = |delta: &catalog::Delta| {
        let path = lab.path("web/targets").join(delta.file());
        let file = Device::open(&path, Access::Read).unwrap();
        Delta::open(file).unwrap().plan
    };
    way.iter().map(plan).collect()
}

/// What is counted beforehand is enough for the stores, whatever the versions are made of, and not much more.
#[test]
fn the_room_is_what_the_stores_take() {
    let mut images = Lab::new().images;
    // Nearly all of it moves, so that hardly anything is made by units; then much becomes zero.
    let image = images[1].clone();
    images[1][..150 * CHUNK].copy_from_slice(&image[150 * CHUNK..]);
    images[2] = images[1].clone();
    images[2][20 * CHUNK..220 * CHUNK].fill(0);
    let mut longer = images.clone();
    longer[1].resize(340 * CHUNK, 9);
    longer[2].truncate(250 * CHUNK);
    for (images, squashed) in [(&images, false), (&images, true), (&longer, false)] {
        let lab = Lab::of(images.clone(), squashed);
        let mut disk = images[0].clone();
        disk.resize(400 * CHUNK, 7);
        fs::write(lab.path("disk"), disk).unwrap();
        for to in [2, 3] {
            let room = stage::room(&plans(&lab, to), images[0].len() as u64).unwrap();
            let mut client = lab.client();
            client
                .pull(&lab.mirrors(), &lab.catalog, Some(to), &quiet)
                .unwrap();
            client.begin(&quiet).unwrap();
            let len = |path| fs::metadata(path).unwrap().len();
            let stores = len(client.staged()) + len(client.back());
            assert!(stores > 100 * CHUNK as u64);
            assert!(room >= stores, "{room} for {stores}");
            assert!(room < 2 * stores, "{room} for {stores}");
            client.roll_back(&quiet).unwrap();
        }
    }
    assert_eq!(stage::room(&[], 0).unwrap(), 6 * CHUNK as u64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn interruptions_cost_nothing_but_time(first in 0i64..12, to in 2u64..4, squashed in any::<bool>()) {
        let images = Lab::new().images;
        let lab = Lab::of(images, squashed);
        let fetched = AtomicUsize::new(0);
        lab.insist(first, |client, fuse| {
            let watch = |_: &str| -> Box<dyn Progress> { Box::new(fuse.clone()) };
            let pulled = client.pull(&lab.mirrors(), &lab.catalog, Some(to), &watch);
            pulled.inspect(|pulled| {
                fetched.fetch_add(pulled.fetched as usize, Ordering::Relaxed);
            })
        });
        lab.is(1);
        lab.insist(first, |client, fuse| {
            client.apply(&|_: &str| -> Box<dyn Progress> { Box::new(fuse.clone()) })
        });
        lab.is(to as usize);
        lab.insist(first, |client, fuse| {
            client.roll_back(&|_: &str| -> Box<dyn Progress> { Box::new(fuse.clone()) })
        });
        lab.is(1);
        prop_assert_eq!(lab.client().state().phase, Phase::Idle);
    }

    #[test]
    fn half_applied_goes_back_or_on(steps in 0i64..10, back in any::<bool>()) {
        let lab = Lab::new();
        let mut client = lab.client();
        client.pull(&lab.mirrors(), &lab.catalog, None, &quiet).unwrap();
        let fuse = Fuse::new(steps);
        let _ = client.apply(&|_: &str| -> Box<dyn Progress> { Box::new(fuse.clone()) });
        drop(client);
        let mut client = lab.client();
        if back {
            client.roll_back(&quiet).unwrap();
            lab.is(1);
        } else {
            if client.state().phase != Phase::Applied {
                client.apply(&quiet).unwrap();
            }
            client.commit().unwrap();
            lab.is(3);
        }
    }

    #[test]
    fn a_disk_that_drifted_is_repaired(
        blocks in prop::collection::vec((0usize..300, any::<u8>()), 1..6),
        steps in 0i64..20,
        number in prop_oneof![Just(1u64), Just(3)],
        in_place in any::<bool>(),
    ) {
        let lab = Lab::new();
        let mut disk = lab.images[number as usize - 1].clone();
        let mut changed = std::collections::BTreeSet::new();
        for (block, fill) in blocks {
            disk[block * CHUNK..(block + 1) * CHUNK].fill(fill);
            changed.insert(block);
        }
        fs::write(lab.path("disk"), &disk).unwrap();
        let repaired = lab.insist(steps, |client, fuse| {
            let watch = |_: &str| -> Box<dyn Progress> { Box::new(fuse.clone()) };
            if in_place {
                return client.repair(&lab.mirrors(), &lab.catalog, Some(number), &watch);
            }
            repair_in_use(&lab, client, &lab.mirrors(), Some(number), &watch)
        });
        lab.is(number as usize);
        prop_assert!(repaired.blocks as usize <= changed.len());
        let installed = lab.client().state().installed;
        prop_assert_eq!(installed.map(|version| version.number), Some(number));
    }
}

/// Repairs as it is done under live snapshots, but that nobody else has the disk.
fn repair_in_use(
    lab: &Lab,
    client: &mut Client,
    mirrors: &Mirrors,
    to: Option<u64>,
    watch: Watch<'_>,
) -> Result<Repaired> {
    let mut repaired = Repaired {
        version: client.state().target.map_or(0, |target| target.number),
        blocks: 0,
        fetched: 0,
    };
    if !client.repair_goes_on(to)? {
        let before = lab.disk();
        let begun = client.begin_repair(mirrors, &lab.catalog, to, watch);
        assert!(lab.disk() == before);
        repaired = begun?;
        if repaired.blocks == 0 {
            return Ok(repaired);
        }
    }
    client.end_repair(watch)?;
    Ok(repaired)
}

/// Versions of more than one unit, and a disk that is the last one but for two blocks.
fn drifted() -> (Lab, Vec<u8>) {
    let mut images = Lab::new().images;
    for (number, image) in images.iter_mut().enumerate() {
        for copy in 0..8 {
            let more: Vec<u8> = image[..250 * CHUNK]
                .chunks(8)
                .flat_map(|word| {
                    let word = u64::from_le_bytes(word.try_into().unwrap());
                    (word.wrapping_mul(2 * copy + 3) >> 7).to_le_bytes()
                })
                .collect();
            image.extend(more);
        }
        image[0] = number as u8;
    }
    let lab = Lab::of(images, true);
    let mut disk = lab.images[2].clone();
    disk[70 * CHUNK] ^= 1;
    // One that has to be zero.
    disk[210 * CHUNK + 5] = 1;
    fs::write(lab.path("disk"), &disk).unwrap();
    (lab, disk)
}

/// Bytes of the delta that makes version 3 of nothing.
fn whole_bytes(lab: &Lab) -> u64 {
    let mut deltas = lab.catalog.deltas.iter();
    let whole = deltas.find(|d| (d.from, d.to) == (EMPTY, 3));
    whole.unwrap().bytes
}

#[test]
fn a_disk_in_use_is_repaired_with_what_differs() {
    let (lab, _) = drifted();
    let mut client = lab.client();
    let bytes = whole_bytes(&lab);
    let repaired = client
        .begin_repair(&lab.mirrors(), &lab.catalog, None, &quiet)
        .unwrap();
    assert_eq!((repaired.version, repaired.blocks), (3, 2));
    let fetched = repaired.fetched;
    assert!(
        fetched > 0 && fetched < bytes * 3 / 4,
        "{fetched} of {bytes}"
    );
    let staged = Store::open(Device::open(&client.staged(), Access::Read).unwrap()).unwrap();
    let entries: Vec<_> = staged.entries().map(|e| e.unwrap().origin).collect();
    assert_eq!(entries, [70, 210]);
    // There is no way back, and none past it.
    let state = client.state();
    assert_eq!((state.phase, state.installed), (Phase::Repairing, None));
    for result in [
        client.roll_back(&quiet),
        client.commit(),
        client.apply(&quiet).map(drop),
        client
            .pull(&lab.mirrors(), &lab.catalog, None, &quiet)
            .map(drop),
        client
            .repair(&lab.mirrors(), &lab.catalog, Some(1), &quiet)
            .map(drop),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.to_string().contains("repair"), "{error}");
    }
    // Whoever goes on asks nobody.
    drop(client);
    let mut client = lab.client();
    assert!(client.repair_goes_on(None).unwrap());
    client.end_repair(&quiet).unwrap();
    lab.is(3);
    assert_eq!(client.state().installed.map(|v| v.number), Some(3));
    assert!(names(&lab, "client/deltas").is_empty());
    assert!(!client.staged().exists());
    // Again is nothing.
    let nothing = client.begin_repair(&lab.mirrors(), &lab.catalog, None, &quiet);
    assert_eq!(nothing.unwrap().blocks, 0);
    assert_eq!(client.state().phase, Phase::Idle);
}

/// What has come counts, also if it was not used yet.
#[test]
fn a_repair_that_was_interrupted_fetches_no_more_than_is_missing() {
    let (lab, disk) = drifted();
    let stops = |title: &str| -> Box<dyn Progress> {
        let steps = if title.starts_with("making") {
            0
        } else {
            i64::MAX
        };
        Box::new(Fuse::new(steps))
    };
    let mut client = lab.client();
    let error = client.begin_repair(&lab.mirrors(), &lab.catalog, None, &stops);
    assert_eq!(error.unwrap_err().kind(), Kind::Interrupted);
    assert_eq!(client.state().phase, Phase::Idle);
    assert!(lab.disk() == disk);
    let repaired = repair_in_use(&lab, &mut client, &lab.mirrors(), None, &quiet);
    assert_eq!(repaired.unwrap().fetched, 0);
    lab.is(3);
    // In place it is remembered which version it was to be.
    fs::write(lab.path("disk"), &lab.images[0]).unwrap();
    let stops = |title: &str| -> Box<dyn Progress> {
        let steps = if title == "mending" { 1 } else { i64::MAX };
        Box::new(Fuse::new(steps))
    };
    let error = client.repair(&lab.mirrors(), &lab.catalog, Some(1), &quiet);
    assert_eq!(error.unwrap().blocks, 0);
    fs::write(lab.path("disk"), vec![0; lab.images[0].len()]).unwrap();
    let error = client.repair(&lab.mirrors(), &lab.catalog, None, &stops);
    assert_eq!(error.unwrap_err().kind(), Kind::Interrupted);
    assert_eq!(client.state().phase, Phase::Repairing);
    assert!(!client.repair_goes_on(None).unwrap());
    let left = client.repair(&lab.mirrors(), &lab.catalog, None, &quiet);
    assert!(left.unwrap().blocks < lab.images[0].len() as u64 / CHUNK as u64);
    lab.is(1);
}

#[test]
fn a_unit_that_is_damaged_repairs_nothing() {
    let (lab, disk) = drifted();
    let folder = Folder(lab.path("web"));
    let index = 20_000;
    let alone = Mirrors::new(vec![Arc::new(Liar(folder.clone(), index))]);
    let mut client = lab.client();
    for in_place in [false, true] {
        let error = if in_place {
            client.repair(&alone, &lab.catalog, None, &quiet)
        } else {
            client.begin_repair(&alone, &lab.catalog, None, &quiet)
        };
        let error = error.unwrap_err().to_string();
        assert!(error.contains("the unit at byte"), "{error}");
        assert!(lab.disk() == disk);
        assert!(!client.staged().exists());
    }
    let honest = Mirrors::new(vec![
        Arc::new(Liar(folder.clone(), index)),
        Arc::new(folder),
    ]);
    repair_in_use(&lab, &mut client, &honest, None, &quiet).unwrap();
    lab.is(3);
}

/// Whatever was going on when a store was damaged: the disk becomes a version, the one that it was on the way to.
#[test]
fn what_cannot_go_on_is_begun_afresh() {
    let phases = [
        (Phase::Staged, 1),
        (Phase::Applying, 3),
        (Phase::RollingBack, 1),
    ];
    for (phase, version) in phases {
        let lab = Lab::new();
        let mut client = lab.client();
        client.identify(&lab.catalog, &quiet).unwrap();
        let mirrors = lab.mirrors();
        client.pull(&mirrors, &lab.catalog, None, &quiet).unwrap();
        if phase != Phase::Staged {
            client.begin(&quiet).unwrap();
        }
        if phase == Phase::RollingBack {
            client.begin_back(&quiet).unwrap();
        }
        if phase != Phase::Staged {
            let mut disk = lab.disk();
            disk[..20 * CHUNK].fill(9);
            fs::write(lab.path("disk"), disk).unwrap();
        }
        assert_eq!(client.state().phase, phase);
        for store in [client.staged(), client.back()] {
            if store.exists() {
                fs::write(store, [0; 8192]).unwrap();
            }
        }
        if phase != Phase::Staged {
            let repaired = client.repair(&mirrors, &lab.catalog, None, &quiet);
            assert_eq!(repaired.unwrap_err().kind(), Kind::Refused);
        }
        client.expect_repair(&mirrors, &lab.catalog, None).unwrap();
        client.begin_afresh().unwrap();
        // It may be interrupted here.
        drop(client);
        let mut client = lab.client();
        client.begin_afresh().unwrap();
        assert!(!client.repair_goes_on(None).unwrap());
        let repaired = client.repair(&mirrors, &lab.catalog, None, &quiet);
        assert_eq!(repaired.unwrap().version, version);
        lab.is(usize::try_from(version).unwrap());
        assert_eq!(client.state().phase, Phase::Idle);
        let refused = client.state().refused.map(|refused| refused.number);
        assert_eq!(refused, (phase == Phase::RollingBack).then_some(3));
        assert!(!client.staged().exists() && !client.back().exists());
    }
}

#[test]
fn a_disk_that_is_written_to_meanwhile_is_not_repaired() {
    let (lab, _) = drifted();
    let writes = |title: &str| -> Box<dyn Progress> {
        if title == "fetching what differs" {
            let mut disk = lab.disk();
            *disk.last_mut().unwrap() ^= 1;
            fs::write(lab.path("disk"), &disk).unwrap();
        }
        quiet(title)
    };
    let mut client = lab.client();
    let error = client.begin_repair(&lab.mirrors(), &lab.catalog, None, &writes);
    let error = error.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("repair it again"), "{error}");
    assert_eq!(client.state().phase, Phase::Idle);
    assert!(!client.staged().exists());
    repair_in_use(&lab, &mut client, &lab.mirrors(), None, &quiet).unwrap();
    lab.is(3);
}

#[test]
fn a_disk_that_drifted_is_not_updated() {
    let lab = Lab::new();
    // Known before it drifts.
    lab.client().identify(&lab.catalog, &quiet).unwrap();
    let mut disk = lab.disk();
    disk[150 * CHUNK] ^= 1;
    fs::write(lab.path("disk"), &disk).unwrap();
    let mut client = lab.client();
    let error = client.pull(&lab.mirrors(), &lab.catalog, None, &quiet);
    assert_eq!(error.unwrap_err().kind(), Kind::Refused);
    assert!(lab.disk() == disk);
    // Also where no delta reads.
    disk = lab.images[0].clone();
    disk[299 * CHUNK] ^= 1;
    fs::write(lab.path("disk"), &disk).unwrap();
    let error = client.pull(&lab.mirrors(), &lab.catalog, None, &quiet);
    let error = error.unwrap_err();
    assert!(error.to_string().contains("repair it"), "{error}");
    // Nor is it any version that is known.
    fs::remove_dir_all(lab.path("client")).unwrap();
    let error = lab.client().identify(&lab.catalog, &quiet).unwrap_err();
    assert!(
        error.to_string().contains("no version that is published"),
        "{error}"
    );
}

/// Between the pull and the apply.
#[test]
fn a_disk_that_drifted_since_is_not_updated() {
    let lab = Lab::new();
    let mut client = lab.client();
    client
        .pull(&lab.mirrors(), &lab.catalog, None, &quiet)
        .unwrap();
    let mut disk = lab.disk();
    disk[299 * CHUNK] ^= 1;
    fs::write(lab.path("disk"), &disk).unwrap();
    let error = client.apply(&quiet).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("update repair"), "{error}");
    assert!(lab.disk() == disk);
    assert_eq!(client.state().phase, Phase::Staged);
    client
        .repair(&lab.mirrors(), &lab.catalog, Some(3), &quiet)
        .unwrap();
    lab.is(3);
    // What changed where the store writes makes no difference, and comes back with the way back.
    fs::remove_dir_all(lab.path("client")).unwrap();
    drop(client);
    fs::write(lab.path("disk"), &lab.images[0]).unwrap();
    let mut client = lab.client();
    client
        .pull(&lab.mirrors(), &lab.catalog, None, &quiet)
        .unwrap();
    disk = lab.disk();
    disk[210 * CHUNK] ^= 1;
    fs::write(lab.path("disk"), &disk).unwrap();
    client.apply(&quiet).unwrap();
    lab.is(3);
    client.roll_back(&quiet).unwrap();
    assert!(lab.disk() == disk);
}

/// While an update goes on, or after it.
#[test]
fn another_disk_is_not_written_to() {
    let lab = Lab::new();
    let mut client = lab.client();
    client
        .pull(&lab.mirrors(), &lab.catalog, None, &quiet)
        .unwrap();
    client.begin(&quiet).unwrap();
    let other = vec![8; lab.images[0].len()];
    let refused = |error: dmholey_update::Error, disk: &[u8]| {
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.to_string().contains("--afresh"), "{error}");
        assert!(lab.disk() == disk);
    };
    fs::write(lab.path("disk"), &other).unwrap();
    refused(client.apply(&quiet).unwrap_err(), &other);
    fs::write(lab.path("disk"), &lab.images[0]).unwrap();
    client.apply(&quiet).unwrap();
    lab.is(3);
    let mut written = lab.disk();
    written[299 * CHUNK] ^= 1;
    fs::write(lab.path("disk"), &written).unwrap();
    refused(client.roll_back(&quiet).unwrap_err(), &written);
    assert_eq!(client.state().phase, Phase::Applied);
    fs::write(lab.path("disk"), &lab.images[2]).unwrap();
    client.roll_back(&quiet).unwrap();
    lab.is(1);
}

#[test]
fn what_is_staged_stays_until_something_newer_has_come() {
    let lab = Lab::new();
    let mut client = lab.client();
    let mirrors = lab.mirrors();
    client
        .pull(&mirrors, &lab.catalog, Some(2), &quiet)
        .unwrap();
    let nowhere = Mirrors::new(vec![Arc::new(Folder(lab.path("nowhere")))]);
    let failed = client.pull(&nowhere, &lab.catalog, None, &quiet);
    failed.unwrap_err();
    let mut catalog = lab.catalog.clone();
    catalog.deltas.clear();
    client.pull(&mirrors, &catalog, None, &quiet).unwrap_err();
    assert_eq!(client.state().phase, Phase::Staged);
    client.apply(&quiet).unwrap();
    lab.is(2);
}

/// From a backup, say.
#[test]
fn a_disk_that_became_another_version_is_known_again() {
    let lab = Lab::new();
    lab.client().identify(&lab.catalog, &quiet).unwrap();
    fs::write(lab.path("disk"), &lab.images[2]).unwrap();
    let mut client = lab.client();
    let pulled = client.pull(&lab.mirrors(), &lab.catalog, None, &quiet);
    assert_eq!(pulled.unwrap().steps, Vec::<u64>::new());
    assert_eq!(client.state().installed.map(|v| v.number), Some(3));
    // There is a way from there, too.
    fs::write(lab.path("disk"), &lab.images[0]).unwrap();
    let pulled = client.pull(&lab.mirrors(), &lab.catalog, Some(2), &quiet);
    assert_eq!(pulled.unwrap().version, 2);
    client.apply(&quiet).unwrap();
    client.commit().unwrap();
    lab.is(2);
}

/// A mirror that changes a byte of everything from some offset on.
#[derive(Debug)]
struct Liar(Folder, u64);

impl Source for Liar {
    fn name(&self) -> String {
        "liar".to_owned()
    }

    fn read(&self, file: &str, offset: u64, len: u64, sink: Sink<'_>) -> Result<()> {
        let lies = offset + len > self.1;
        self.0.read(file, offset, len, &mut |piece| {
            let mut piece = piece.to_vec();
            if lies {
                let middle = piece.len() / 2;
                piece[middle] ^= 1;
            }
            sink(&piece)
        })
    }

    fn get(&self, file: &str, max: u64, tag: Option<&str>) -> Result<Got> {
        self.0.get(file, max, tag)
    }
}

#[test]
fn a_mirror_that_lies_is_passed_over() {
    let lab = Lab::new();
    for from in [0, 150, 200, 5000, 100_000] {
        let liar = Liar(Folder(lab.path("web")), from);
        let nobody = Folder(lab.path("nowhere"));
        let alone = Mirrors::new(vec![Arc::new(Liar(liar.0.clone(), from)), Arc::new(nobody)]);
        let mut client = lab.client();
        let error = client.pull(&alone, &lab.catalog, None, &quiet).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("liar: ") && text.contains("nowhere"),
            "{text}"
        );
        assert_eq!(client.state().phase, Phase::Idle);
        let honest = Folder(lab.path("web"));
        let both = Mirrors::new(vec![Arc::new(liar), Arc::new(honest)]);
        client.pull(&both, &lab.catalog, None, &quiet).unwrap();
        client.apply(&quiet).unwrap();
        lab.is(3);
        client.roll_back(&quiet).unwrap();
        drop(client);
        fs::remove_dir_all(lab.path("client")).unwrap();
    }
}

#[test]
fn steps_come_in_their_order() {
    let lab = Lab::new();
    let mut client = lab.client();
    for result in [
        client.apply(&quiet).map(drop),
        client.roll_back(&quiet),
        client.commit(),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.to_string().contains("nothing was pulled"), "{error}");
    }
    let error = client.pull(&lab.mirrors(), &lab.catalog, Some(9), &quiet);
    assert!(error.unwrap_err().to_string().contains("no version 9"));
    let second = Client::open(&lab.path("client"), &lab.path("disk")).unwrap_err();
    assert!(second.to_string().contains("another update"), "{second}");
    fs::write(lab.path("client/state.json"), "{}").unwrap();
    drop(client);
    let broken = Client::open(&lab.path("client"), &lab.path("disk")).unwrap_err();
    assert_eq!(broken.kind(), Kind::Store);
}
