// SPDX-License-Identifier: GPL-2.0-or-later

//! Versions of an image that are published, and a client.

// Each test uses a part of it.
#![allow(dead_code)]

use dmholey_cow::progress::Silent;
use dmholey_cow::Kind;
use dmholey_cow::MemDisk;
use dmholey_cow::Progress;
use dmholey_delta::digest::Hasher;
use dmholey_delta::make;
use dmholey_publish::keys::RoleType;
use dmholey_publish::publish;
use dmholey_publish::Keys;
use dmholey_publish::Place;
use dmholey_repository::checkpoint::checkpoint;
use dmholey_repository::checkpoint::Options;
use dmholey_repository::squash::squash;
use dmholey_repository::Catalog;
use dmholey_repository::Repository;
use dmholey_update::source::Folder;
use dmholey_update::Client;
use dmholey_update::Mirrors;
use dmholey_update::Result;
use dmholey_update::Trust;
use jiff::SignedDuration;
use jiff::Timestamp;
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering;
use std::sync::Arc;

pub(crate) const CHUNK: usize = 4096;
const FAST: make::Options = make::Options {
    level: 1,
    files: false,
    gzip: false,
};

pub(crate) fn quiet(_: &str) -> Box<dyn Progress> {
    Box::new(Silent)
}

/// Lets work go on for some steps only.
#[derive(Clone)]
pub(crate) struct Fuse(Arc<AtomicI64>);

impl Fuse {
    pub(crate) fn new(steps: i64) -> Self {
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
pub(crate) struct Lab {
    dir: tempfile::TempDir,
    pub(crate) images: Vec<Vec<u8>>,
    pub(crate) catalog: Catalog,
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
    pub(crate) fn new() -> Self {
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
    pub(crate) fn of(images: Vec<Vec<u8>>, squashed: bool) -> Self {
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

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn mirrors(&self) -> Mirrors {
        Mirrors::new(vec![Arc::new(Folder(self.path("web")))])
    }

    pub(crate) fn client(&self) -> Client {
        Client::open(&self.path("client"), &self.path("disk")).unwrap()
    }

    pub(crate) fn disk(&self) -> Vec<u8> {
        fs::read(self.path("disk")).unwrap()
    }

    #[track_caller]
    pub(crate) fn is(&self, version: usize) {
        assert!(
            self.disk() == self.images[version - 1],
            "the disk is not version {version}"
        );
    }

    /// Does something until it is not interrupted any more, and each time a little longer.
    pub(crate) fn insist<T>(
        &self,
        first: i64,
        work: impl Fn(&mut Client, &Fuse) -> Result<T>,
    ) -> T {
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

    /// The folder of everything.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// With three versions that are published, signed by keys in `keys`, and larger changes.
    pub(crate) fn published() -> Self {
        let mut image = noise(1, 500 * CHUNK);
        let mut images = vec![image.clone()];
        image[5 * CHUNK..80 * CHUNK].copy_from_slice(&noise(5, 75 * CHUNK));
        images.push(image.clone());
        image[60 * CHUNK..120 * CHUNK].copy_from_slice(&noise(9, 60 * CHUNK));
        image[300 * CHUNK..330 * CHUNK].fill(0);
        images.push(image);
        let lab = Self::of(images, true);
        fs::remove_dir_all(lab.path("web")).unwrap();
        Keys::create(
            &lab.path("keys"),
            &HashMap::new(),
            Timestamp::now() + DAY * 365,
        )
        .unwrap();
        fs::copy(lab.path("keys/1.root.json"), lab.path("root.json")).unwrap();
        lab.publish(Timestamp::now());
        lab
    }

    /// Publishes what there is, as if it were `now`.
    pub(crate) fn publish(&self, now: Timestamp) {
        self.publish_as("master", "web", "keys", now);
    }

    /// Publishes another repository, elsewhere, or with other keys.
    pub(crate) fn publish_as(&self, master: &str, web: &str, keys: &str, now: Timestamp) {
        let options = publish::Options {
            now,
            targets: DAY * 365,
            snapshot: DAY * 30,
            timestamp: DAY * 7,
            grace: DAY * 7,
        };
        let repository = Repository::open(&self.path(master)).unwrap();
        let place = Place::folder(&self.path(web)).unwrap();
        let keys = Keys::open(&self.path(keys)).unwrap();
        publish::publish(&repository, &place, &keys, options, &Silent).unwrap();
    }

    /// Replaces the keys of these roles, which makes the next root.
    pub(crate) fn rotate(&self, roles: &[RoleType]) {
        let mut keys = Keys::open(&self.path("keys")).unwrap();
        let expires = Timestamp::now() + DAY * 365;
        keys.rotate(roles, &HashMap::new(), expires).unwrap();
    }

    /// What the client believes.
    pub(crate) fn trust(&self) -> Trust {
        Trust::open(&self.path("client/trust"), &self.path("root.json")).unwrap()
    }
}

/// A day.
pub(crate) const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Copies a folder.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(path, to).unwrap();
        }
    }
}
