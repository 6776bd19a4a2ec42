// SPDX-License-Identifier: GPL-2.0-or-later

//! A disk comes from any version to any later one and back, wherever that is interrupted, and whatever some
//! of the mirrors say.

use dmholey_cow::progress::Silent;
use dmholey_cow::Kind;
use dmholey_cow::MemDisk;
use dmholey_cow::Progress;
use dmholey_delta::digest::Hasher;
use dmholey_delta::make;
use dmholey_repository::checkpoint::checkpoint;
use dmholey_repository::checkpoint::Options;
use dmholey_repository::squash::squash;
use dmholey_repository::Catalog;
use dmholey_repository::Repository;
use dmholey_update::source::Folder;
use dmholey_update::state::Phase;
use dmholey_update::Client;
use dmholey_update::Mirrors;
use dmholey_update::Result;
use dmholey_update::Source;
use proptest::prelude::*;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::Arc;

const CHUNK: usize = 4096;
const FAST: make::Options = make::Options {
    level: 1,
    files: false,
    gzip: false,
};

fn quiet(_: &str) -> Box<dyn Progress> {
    Box::new(Silent)
}

/// Lets work go on for some steps only.
#[derive(Clone)]
struct Fuse(Arc<AtomicI64>);

impl Fuse {
    fn new(steps: i64) -> Self {
        Self(Arc::new(AtomicI64::new(steps)))
    }
}

impl Progress for Fuse {
    fn update(&self, _done: u64, _total: u64) {}

    fn stop(&self) -> bool {
        self.0.fetch_sub(1, Ordering::Relaxed) <= 0
    }
}

/// Versions that are published, and a disk that has the first one.
struct Lab {
    dir: tempfile::TempDir,
    images: Vec<Vec<u8>>,
    catalog: Catalog,
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

impl Lab {
    /// With three versions: chunks change, move and become zero.
    fn new() -> Self {
        let mut image = noise(1, 300 * CHUNK);
        let mut images = vec![image.clone()];
        image[5 * CHUNK..40 * CHUNK].copy_from_slice(&noise(2, 35 * CHUNK));
        image.copy_within(100 * CHUNK..180 * CHUNK, 110 * CHUNK);
        images.push(image.clone());
        image[200 * CHUNK..230 * CHUNK].fill(0);
        image[20 * CHUNK..60 * CHUNK].copy_from_slice(&noise(3, 40 * CHUNK));
        images.push(image);
        Self::of(images, true)
    }

    /// With these versions, and perhaps with squashed deltas.
    fn of(images: Vec<Vec<u8>>, squashed: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let web = dir.path().join("web/targets");
        fs::create_dir_all(&web).unwrap();
        let mut repository = Repository::create(&dir.path().join("master")).unwrap();
        let options = Options {
            delta: Some(FAST),
            ..Options::default()
        };
        for image in &images {
            let disk = MemDisk::new(image.clone());
            checkpoint(&mut repository, &disk, &options, &quiet).unwrap();
        }
        if squashed {
            let last = images.len() as u64;
            squash(&mut repository, 1, last, FAST, &quiet).unwrap();
            squash(&mut repository, 0, last, FAST, &quiet).unwrap();
            squash(&mut repository, 0, 1, FAST, &quiet).unwrap();
        }
        let sha256 = |from, to| {
            let mut hasher = Hasher::default();
            hasher.update(&fs::read(repository.delta(from, to)).unwrap());
            hasher.finish()
        };
        let catalog = Catalog::new(repository.manifest(), |link| {
            Some(sha256(link.from, link.to))
        });
        for delta in &catalog.deltas {
            fs::copy(
                repository.delta(delta.from, delta.to),
                web.join(delta.file()),
            )
            .unwrap();
        }
        let lab = Self {
            dir,
            images,
            catalog,
        };
        fs::write(lab.path("disk"), &lab.images[0]).unwrap();
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn mirrors(&self) -> Mirrors {
        Mirrors::new(vec![Box::new(Folder(self.path("web")))])
    }

    fn client(&self) -> Client {
        Client::open(&self.path("client"), &self.path("disk")).unwrap()
    }

    fn disk(&self) -> Vec<u8> {
        fs::read(self.path("disk")).unwrap()
    }

    #[track_caller]
    fn is(&self, version: usize) {
        assert!(
            self.disk() == self.images[version - 1],
            "the disk is not version {version}"
        );
    }

    /// Does something until it is not interrupted any more, and each time a little longer.
    fn insist<T>(&self, first: i64, work: impl Fn(&mut Client, &Fuse) -> Result<T>) -> T {
        let mut steps = first;
        loop {
            let fuse = Fuse::new(steps);
            match work(&mut self.client(), &fuse) {
                Ok(value) => return value,
                Err(error) => assert_eq!(error.kind(), Kind::Interrupted, "{error}"),
            }
            steps = steps * 2 + 1;
        }
    }
}

#[test]
fn a_disk_goes_through_an_update() {
    let lab = Lab::new();
    let mut client = lab.client();
    let pulled = client.pull(&lab.mirrors(), "targets", &lab.catalog, None, &quiet);
    let pulled = pulled.unwrap();
    assert_eq!((pulled.version, pulled.steps.as_slice()), (3, &[1][..]));
    lab.is(1);
    // Again is nothing.
    let again = client.pull(&lab.mirrors(), "targets", &lab.catalog, None, &quiet);
    assert_eq!(again.unwrap().fetched, 0);
    client.apply(&quiet).unwrap();
    lab.is(3);
    assert_eq!(client.state().phase, Phase::Applied);
    assert!(client
        .pull(&lab.mirrors(), "targets", &lab.catalog, None, &quiet)
        .is_err());
    client.roll_back(&quiet).unwrap();
    lab.is(1);
    // What was fetched is still there.
    let pulled = client.pull(&lab.mirrors(), "targets", &lab.catalog, None, &quiet);
    assert_eq!(pulled.unwrap().fetched, 0);
    client.apply(&quiet).unwrap();
    client.commit().unwrap();
    lab.is(3);
    assert_eq!(client.state().installed.unwrap().number, 3);
    assert!(client.roll_back(&quiet).is_err());
    let pulled = client.pull(&lab.mirrors(), "targets", &lab.catalog, None, &quiet);
    assert_eq!(pulled.unwrap().steps, Vec::<u64>::new());
}

#[test]
fn a_chain_is_one_change() {
    let images = Lab::new().images;
    let lab = Lab::of(images, false);
    let mut client = lab.client();
    let pulled = client.pull(&lab.mirrors(), "targets", &lab.catalog, None, &quiet);
    assert_eq!(pulled.unwrap().steps, [1, 2]);
    client.apply(&quiet).unwrap();
    lab.is(3);
    client.roll_back(&quiet).unwrap();
    lab.is(1);
    let pulled = client.pull(&lab.mirrors(), "targets", &lab.catalog, Some(2), &quiet);
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
        .pull(&lab.mirrors(), "targets", &lab.catalog, None, &quiet)
        .unwrap();
    client.apply(&quiet).unwrap();
    let mut expected = lab.images[2].clone();
    expected.extend([7; 5000]);
    assert!(lab.disk() == expected);
    client.roll_back(&quiet).unwrap();
    assert!(lab.disk() == disk);
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
            let pulled = client.pull(&lab.mirrors(), "targets", &lab.catalog, Some(to), &watch);
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
        client.pull(&lab.mirrors(), "targets", &lab.catalog, None, &quiet).unwrap();
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
    ) {
        let lab = Lab::new();
        let mut disk = lab.images[number as usize - 1].clone();
        let mut changed = std::collections::BTreeSet::new();
        for (block, fill) in blocks {
            disk[block * CHUNK..(block + 1) * CHUNK].fill(fill);
            changed.insert(block);
        }
        fs::write(lab.path("disk"), &disk).unwrap();
        let mended = lab.insist(steps, |client, fuse| {
            let watch = |_: &str| -> Box<dyn Progress> { Box::new(fuse.clone()) };
            client.repair(&lab.mirrors(), "targets", &lab.catalog, number, &watch)
        });
        lab.is(number as usize);
        prop_assert!(mended.blocks as usize <= changed.len());
        let installed = lab.client().state().installed;
        prop_assert_eq!(installed.map(|version| version.number), Some(number));
    }
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
    let error = client.pull(&lab.mirrors(), "targets", &lab.catalog, None, &quiet);
    assert_eq!(error.unwrap_err().kind(), Kind::Refused);
    assert!(lab.disk() == disk);
    // Also where no delta reads.
    disk = lab.images[0].clone();
    disk[299 * CHUNK] ^= 1;
    fs::write(lab.path("disk"), &disk).unwrap();
    let error = client.pull(&lab.mirrors(), "targets", &lab.catalog, None, &quiet);
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

/// A mirror that changes a byte of everything from some offset on.
#[derive(Debug)]
struct Liar(Folder, u64);

impl Source for Liar {
    fn name(&self) -> String {
        "liar".to_owned()
    }

    fn read(&self, file: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = self.0.read(file, offset, len)?;
        if offset + len as u64 > self.1 {
            bytes[len / 2] ^= 1;
        }
        Ok(bytes)
    }
}

#[test]
fn a_mirror_that_lies_is_passed_over() {
    let lab = Lab::new();
    for from in [0, 150, 200, 5000, 100_000] {
        let liar = Liar(Folder(lab.path("web")), from);
        let nobody = Folder(lab.path("nowhere"));
        let alone = Mirrors::new(vec![Box::new(Liar(liar.0.clone(), from)), Box::new(nobody)]);
        let mut client = lab.client();
        let error = client
            .pull(&alone, "targets", &lab.catalog, None, &quiet)
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("liar: ") && text.contains("nowhere"),
            "{text}"
        );
        assert_eq!(client.state().phase, Phase::Idle);
        let honest = Folder(lab.path("web"));
        let both = Mirrors::new(vec![Box::new(liar), Box::new(honest)]);
        client
            .pull(&both, "targets", &lab.catalog, None, &quiet)
            .unwrap();
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
    let error = client.pull(&lab.mirrors(), "targets", &lab.catalog, Some(9), &quiet);
    assert!(error.unwrap_err().to_string().contains("no version 9"));
    let second = Client::open(&lab.path("client"), &lab.path("disk")).unwrap_err();
    assert!(second.to_string().contains("another update"), "{second}");
    fs::write(lab.path("client/state.json"), "{}").unwrap();
    drop(client);
    let broken = Client::open(&lab.path("client"), &lab.path("disk")).unwrap_err();
    assert_eq!(broken.kind(), Kind::Store);
}
