// SPDX-License-Identifier: GPL-2.0-or-later

//! What is published is what clients get, and what is not is refused: the attacks that TUF's specification
//! lists, each made on the files of a place and met by a client.

use dmholey_cow::progress::Silent;
use dmholey_cow::MemDisk;
use dmholey_cow::Progress;
use dmholey_delta::make;
use dmholey_publish::keys::Signers;
use dmholey_publish::publish::publish;
use dmholey_publish::publish::refresh;
use dmholey_publish::publish::Options;
use dmholey_publish::publish::Published;
use dmholey_publish::Keys;
use dmholey_publish::Place;
use dmholey_publish::Result;
use dmholey_publish::CATALOG;
use dmholey_repository::checkpoint::checkpoint;
use dmholey_repository::prune::prune;
use dmholey_repository::squash::squash;
use dmholey_repository::Catalog;
use dmholey_repository::Repository;
use futures_util::TryStreamExt;
use jiff::SignedDuration;
use jiff::Timestamp;
use rustix::fs::FlockOperation;
use std::collections::HashMap;
use std::fs;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use tough::schema::RoleType;
use tough::FilesystemTransport;
use tough::RepositoryLoader;
use tough::TargetName;
use url::Url;

const DAY: SignedDuration = SignedDuration::from_hours(24);

fn quiet(_: &str) -> Box<dyn Progress> {
    Box::new(Silent)
}

/// A master, its keys, the place where it publishes, and a client.
struct Lab {
    dir: tempfile::TempDir,
    options: Options,
}

impl Lab {
    /// With two versions that are published.
    fn new() -> Self {
        let lab = Self {
            dir: tempfile::tempdir().unwrap(),
            options: Options {
                now: Timestamp::now(),
                targets: DAY * 365,
                snapshot: DAY * 30,
                timestamp: DAY * 7,
                grace: DAY * 7,
            },
        };
        Keys::create(
            &lab.path("keys"),
            &HashMap::new(),
            lab.options.now + DAY * 365,
        )
        .unwrap();
        fs::create_dir(lab.path("client")).unwrap();
        // What a client is shipped with.
        fs::copy(lab.path("keys/1.root.json"), lab.path("root.json")).unwrap();
        lab.version(1);
        lab.version(2);
        lab.publish().unwrap();
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn version(&self, fill: u8) {
        let mut repository = Repository::create(&self.path("master")).unwrap();
        let options = dmholey_repository::checkpoint::Options {
            delta: Some(make::Options {
                level: 1,
                ..make::Options::default()
            }),
            ..dmholey_repository::checkpoint::Options::default()
        };
        let image = MemDisk::new(vec![fill; 20_000]);
        checkpoint(&mut repository, &image, &options, &quiet).unwrap();
    }

    fn place(&self) -> Place {
        Place::folder(&self.path("web")).unwrap()
    }

    fn keys(&self) -> Keys {
        Keys::open(&self.path("keys")).unwrap()
    }

    fn publish(&self) -> Result<Published> {
        let repository = Repository::open(&self.path("master")).unwrap();
        publish(
            &repository,
            &self.place(),
            &self.keys(),
            self.options,
            &Silent,
        )
    }

    /// What a client gets that has been here before.
    fn client(&self) -> std::result::Result<Catalog, String> {
        self.client_of(&self.path("web"), &self.path("root.json"))
    }

    fn client_of(&self, web: &Path, root: &Path) -> std::result::Result<Catalog, String> {
        let url = |part: &str| Url::from_directory_path(web.join(part)).unwrap();
        let root = fs::read(root).unwrap();
        let loader = RepositoryLoader::new(&root, url("metadata"), url("targets"))
            .transport(FilesystemTransport)
            .datastore(self.path("client"));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let repository = loader.load().await.map_err(|e| e.to_string())?;
            let read = |name: String| {
                let repository = &repository;
                async move {
                    let name = TargetName::new(name).unwrap();
                    let stream = repository.read_target(&name).await;
                    let stream = stream.map_err(|e| e.to_string())?.ok_or("not listed")?;
                    let parts: Vec<_> = stream.try_collect().await.map_err(|e| e.to_string())?;
                    Ok::<_, String>(parts.concat())
                }
            };
            let catalog = Catalog::parse(&read(CATALOG.to_owned()).await?)?;
            for delta in &catalog.deltas {
                let bytes = read(delta.target()).await?;
                assert_eq!(bytes.len() as u64, delta.bytes);
            }
            Ok(catalog)
        })
    }

    /// Copies what is published now.
    fn keep(&self, name: &str) {
        copy(&self.path("web"), &self.path(name));
    }

    /// Publishes what was kept, in place of what is there.
    fn bring_back(&self, name: &str) {
        fs::remove_dir_all(self.path("web")).unwrap();
        copy(&self.path(name), &self.path("web"));
    }

    fn metadata(&self, ends: &str) -> PathBuf {
        let entries = fs::read_dir(self.path("web/metadata")).unwrap();
        let mut names: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
        names.retain(|path| path.to_string_lossy().ends_with(ends));
        names.sort();
        names.pop().unwrap()
    }
}

/// The number in the name of a file of metadata.
fn number(file: &Path, role: &str) -> u64 {
    let name = file.file_name().unwrap().to_str().unwrap();
    let number = name.strip_suffix(role).unwrap();
    number.strip_suffix('.').unwrap().parse().unwrap()
}

fn copy(from: &Path, to: &Path) {
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

#[track_caller]
fn refused(result: std::result::Result<Catalog, String>, text: &str) {
    let error = result.expect_err("it was believed");
    assert!(error.contains(text), "{error}");
}

#[test]
fn clients_get_what_is_published() {
    let lab = Lab::new();
    let catalog = lab.client().unwrap();
    assert_eq!(catalog.last().unwrap().number, 2);
    assert_eq!(catalog.deltas.len(), 1);
    lab.version(3);
    let next = number(&lab.metadata("snapshot.json"), "snapshot.json") + 1;
    let published = lab.publish().unwrap();
    assert_eq!((published.version, published.snapshot), (Some(3), next));
    assert_eq!(published.added.len(), 1);
    assert_eq!(lab.client().unwrap().last().unwrap().number, 3);
    // Nothing new is nothing to upload.
    let published = lab.publish().unwrap();
    assert_eq!((published.added.len(), published.bytes), (0, 0));
    lab.client().unwrap();
}

/// Two that publish at the same time would undo each other's work.
#[test]
fn one_publishes_at_a_time() {
    let lab = Lab::new();
    let other = File::open(lab.path("web/metadata/lock")).unwrap();
    rustix::fs::flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
    for error in [
        lab.publish().unwrap_err(),
        refresh(&lab.place(), &lab.keys(), lab.options).unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(error.contains("web: in use"), "{error}");
    }
    lab.client().unwrap();
    drop(other);
    lab.publish().unwrap();
    refresh(&lab.place(), &lab.keys(), lab.options).unwrap();
    lab.client().unwrap();
}

#[test]
fn what_is_withdrawn_stays_for_a_while() {
    let mut lab = Lab::new();
    lab.version(3);
    lab.publish().unwrap();
    let before = lab.client().unwrap();
    let file = lab.path("web/targets").join(before.deltas[0].file());
    let mut repository = Repository::change(&lab.path("master")).unwrap();
    prune(&mut repository, 2, &quiet).unwrap();
    drop(repository);
    let published = lab.publish().unwrap();
    assert_eq!(published.removed, Vec::<String>::new());
    assert!(file.exists());
    let catalog = lab.client().unwrap();
    // The other ones are catalogs.
    assert_eq!((catalog.deltas.len(), catalog.withdrawn.len()), (1, 3));
    lab.options.now += DAY * 6;
    lab.publish().unwrap();
    assert!(file.exists());
    lab.options.now += DAY * 2;
    let published = lab.publish().unwrap();
    assert_eq!(published.removed, [before.deltas[0].file()]);
    assert!(!file.exists());
    // The first two catalogs are gone with it, and nothing else is there than what is offered or withdrawn.
    let catalog = lab.client().unwrap();
    assert_eq!((catalog.deltas.len(), catalog.withdrawn.len()), (1, 1));
    assert_eq!(fs::read_dir(lab.path("web/targets")).unwrap().count(), 3);
}

/// Caches may have asked for what an interrupted run has left.
#[test]
fn no_name_is_used_twice() {
    let lab = Lab::new();
    lab.version(3);
    let left = lab.metadata("snapshot.json");
    let next = number(&left, "snapshot.json") + 1;
    let left = left.with_file_name(format!("{next}.snapshot.json"));
    assert!(!left.exists());
    fs::write(&left, "left").unwrap();
    lab.publish().unwrap();
    assert_eq!(fs::read(&left).unwrap(), b"left");
    assert_eq!(lab.client().unwrap().last().unwrap().number, 3);
}

#[test]
fn a_damaged_delta_is_not_published() {
    let lab = Lab::new();
    lab.version(3);
    let path = lab.path("master/delta-2-3");
    let whole = fs::read(&path).unwrap();
    let mut bytes = whole.clone();
    *bytes.last_mut().unwrap() ^= 1;
    for damaged in [Some(bytes), None] {
        match damaged {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        lab.publish().unwrap_err();
        assert_eq!(lab.client().unwrap().last().unwrap().number, 2);
        let mut repository = Repository::change(&lab.path("master")).unwrap();
        let how = make::Options {
            level: 1,
            ..make::Options::default()
        };
        squash(&mut repository, 2, 3, how, &quiet).unwrap();
        assert!(fs::read(&path).unwrap() == whole);
    }
    lab.publish().unwrap();
    assert_eq!(lab.client().unwrap().last().unwrap().number, 3);
}

#[test]
fn old_metadata_goes() {
    let lab = Lab::new();
    let newest = |role| number(&lab.metadata(role), role);
    let first = newest("targets.json");
    assert_eq!(newest("snapshot.json"), first);
    for _ in 0..20 {
        lab.publish().unwrap();
        refresh(&lab.place(), &lab.keys(), lab.options).unwrap();
    }
    let names = |role: &str| {
        let files = fs::read_dir(lab.path("web/metadata")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut numbers: Vec<u64> = names
            .filter_map(|name| name.strip_suffix(role)?.parse().ok())
            .collect();
        numbers.sort_unstable();
        numbers
    };
    let last_16 = |last: u64| (last - 15..=last).collect::<Vec<_>>();
    assert_eq!(names(".targets.json"), last_16(first + 20));
    assert_eq!(names(".snapshot.json"), last_16(first + 40));
    assert_eq!(names(".root.json"), [1]);
    lab.client().unwrap();
}

#[test]
fn rollback_is_refused() {
    let lab = Lab::new();
    lab.keep("old");
    lab.version(3);
    lab.publish().unwrap();
    lab.client().unwrap();
    lab.bring_back("old");
    refused(lab.client(), "version");
    // A timestamp that fits the new metadata, with the old snapshot behind it, is no better.
    lab.publish().unwrap();
    lab.client().unwrap();
}

/// Clients know what was there before, and would refuse what begins with smaller numbers.
#[test]
fn a_place_that_was_lost_is_filled_anew() {
    let mut lab = Lab::new();
    for _ in 0..3 {
        lab.publish().unwrap();
    }
    lab.client().unwrap();
    fs::remove_dir_all(lab.path("web")).unwrap();
    lab.options.now += SignedDuration::from_secs(60);
    lab.version(3);
    lab.publish().unwrap();
    assert_eq!(lab.client().unwrap().last().unwrap().number, 3);
}

#[test]
fn freezing_is_noticed() {
    let mut lab = Lab::new();
    lab.client().unwrap();
    // So long ago that the timestamp has expired by now.
    lab.options.now -= DAY * 8;
    refresh(&lab.place(), &lab.keys(), lab.options).unwrap();
    refused(lab.client(), "expired");
    lab.options.now = Timestamp::now();
    refresh(&lab.place(), &lab.keys(), lab.options).unwrap();
    lab.client().unwrap();
}

#[test]
fn mixed_metadata_is_refused() {
    let lab = Lab::new();
    let old_targets = fs::read(lab.metadata("targets.json")).unwrap();
    let old_snapshot = fs::read(lab.metadata("snapshot.json")).unwrap();
    lab.version(3);
    lab.publish().unwrap();
    let (targets, snapshot) = (lab.metadata("targets.json"), lab.metadata("snapshot.json"));
    let (new_targets, new_snapshot) = (fs::read(&targets).unwrap(), fs::read(&snapshot).unwrap());
    fs::write(&targets, old_targets).unwrap();
    assert!(lab.client().is_err());
    fs::write(&targets, new_targets).unwrap();
    fs::write(&snapshot, old_snapshot).unwrap();
    assert!(lab.client().is_err());
    fs::write(&snapshot, new_snapshot).unwrap();
    lab.client().unwrap();
}

#[test]
fn other_keys_are_refused() {
    let lab = Lab::new();
    let other = Lab::new();
    other.version(3);
    other.publish().unwrap();
    let web = other.path("web");
    refused(lab.client_of(&web, &lab.path("root.json")), "signature");
    // Nor may the one who holds the online keys alone change the root.
    let root = fs::read_to_string(lab.path("web/metadata/1.root.json")).unwrap();
    fs::write(
        lab.path("web/metadata/2.root.json"),
        root.replace("\"version\": 1", "\"version\": 2"),
    )
    .unwrap();
    refused(lab.client(), "signature");
}

#[test]
fn endless_data_is_cut() {
    let lab = Lab::new();
    let path = lab.metadata("timestamp.json");
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend(vec![b' '; 2 << 20]);
    fs::write(&path, bytes).unwrap();
    refused(lab.client(), "exceeded");
}

#[test]
fn a_changed_file_is_refused() {
    let lab = Lab::new();
    let catalog = lab.client().unwrap();
    let file = lab.path("web/targets").join(catalog.deltas[0].file());
    let good = fs::read(&file).unwrap();
    let mut bad = good.clone();
    bad[100] ^= 1;
    fs::write(&file, bad).unwrap();
    assert!(lab.client().is_err());
    let mut long = good.clone();
    long.push(0);
    fs::write(&file, long).unwrap();
    assert!(lab.client().is_err());
    fs::write(&file, good).unwrap();
    lab.client().unwrap();
    // A file that nobody signed is not there.
    fs::write(lab.path("web/targets/evil"), "x").unwrap();
    assert_eq!(lab.client().unwrap(), catalog);
}

#[test]
fn keys_are_rotated() {
    let lab = Lab::new();
    lab.client().unwrap();
    let expires = lab.options.now + DAY * 365;
    for roles in [
        &[RoleType::Timestamp, RoleType::Snapshot][..],
        &[RoleType::Targets],
        &[RoleType::Root],
        &[RoleType::Root, RoleType::Targets],
        &[],
    ] {
        lab.keys().rotate(roles, &HashMap::new(), expires).unwrap();
        if roles.contains(&RoleType::Targets) {
            // The list has to be signed anew.
            lab.publish().unwrap();
        } else {
            refresh(&lab.place(), &lab.keys(), lab.options).unwrap();
        }
        lab.client().unwrap();
    }
    assert_eq!(lab.keys().version(), 6);
    // Clients come there from any root.
    fs::remove_dir_all(lab.path("client")).unwrap();
    fs::create_dir(lab.path("client")).unwrap();
    lab.client().unwrap();
}

#[test]
fn a_key_that_was_taken_is_worth_nothing_after_rotation() {
    let lab = Lab::new();
    copy(&lab.path("keys"), &lab.path("stolen"));
    let expires = lab.options.now + DAY * 365;
    let roles = [RoleType::Timestamp, RoleType::Snapshot, RoleType::Targets];
    lab.keys().rotate(&roles, &HashMap::new(), expires).unwrap();
    lab.publish().unwrap();
    lab.client().unwrap();
    // The thief signs with the old keys, and leaves the new root where it is.
    lab.version(66);
    let repository = Repository::open(&lab.path("master")).unwrap();
    let keys = Keys::open(&lab.path("stolen")).unwrap();
    fs::remove_file(lab.path("web/metadata/timestamp.json")).unwrap();
    publish(&repository, &lab.place(), &keys, lab.options, &Silent).unwrap();
    refused(lab.client(), "signature");
}

#[test]
fn signing_needs_the_right_keys() {
    let lab = Lab::new();
    let entries = fs::read_dir(lab.path("keys")).unwrap();
    for path in entries.map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("root-") || name.starts_with("targets-") {
            fs::remove_file(path).unwrap();
        }
    }
    let error = lab.publish().unwrap_err().to_string();
    let lacks = "the role 'targets' needs its key here; missing: targets-";
    assert!(error.contains(lacks), "{error}");
    refresh(&lab.place(), &lab.keys(), lab.options).unwrap();
    lab.client().unwrap();
    let error = lab
        .keys()
        .rotate(&[], &HashMap::new(), lab.options.now)
        .unwrap_err();
    assert!(error.to_string().contains("the role 'root'"), "{error}");
    // Other keys do not publish here by mistake.
    Keys::create(&lab.path("others"), &HashMap::new(), lab.options.now + DAY).unwrap();
    let repository = Repository::open(&lab.path("master")).unwrap();
    let others = Keys::open(&lab.path("others")).unwrap();
    let error = publish(&repository, &lab.place(), &others, lab.options, &Silent);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("with other keys"), "{error}");
    assert!(Keys::create(&lab.path("others"), &HashMap::new(), lab.options.now).is_err());
}

#[test]
fn several_keys_have_to_sign() {
    let lab = Lab::new();
    let keys = lab.path("safe");
    let expires = lab.options.now + DAY * 365;
    let two_of_three = Signers::new(2, 3).unwrap();
    let signers = HashMap::from([
        (RoleType::Root, two_of_three),
        (RoleType::Targets, two_of_three),
    ]);
    Keys::create(&keys, &signers, expires).unwrap();
    let (root, targets) = (keys_of(&keys, "root"), keys_of(&keys, "targets"));
    assert_eq!((root.len(), targets.len()), (3, 3));
    let published = |web: &str, keys: &Path| {
        let place = Place::folder(&lab.path(web)).unwrap();
        let repository = Repository::open(&lab.path("master")).unwrap();
        let keys = Keys::open(keys).unwrap();
        publish(&repository, &place, &keys, lab.options, &Silent)
    };
    let first = keys.join("1.root.json");
    let client = |web: &str| {
        fs::remove_dir_all(lab.path("client")).unwrap();
        fs::create_dir(lab.path("client")).unwrap();
        lab.client_of(&lab.path(web), &first)
    };
    // Any two of the keys will do, and one will not.
    fs::rename(&targets[0], lab.path("away-0")).unwrap();
    published("several", &keys).unwrap();
    client("several").unwrap();
    fs::rename(&targets[1], lab.path("away-1")).unwrap();
    let error = published("several", &keys).unwrap_err().to_string();
    let lacks = "the role 'targets' needs 2 of its 3 keys here, and has 1; missing: ";
    assert!(error.contains(lacks), "{error}");
    for path in &targets[..2] {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(error.contains(name), "{error}");
    }
    // Whoever has one of them, and all keys that need not be in a safe, can make metadata that fit together.
    let stolen = lab.path("stolen");
    copy(&keys, &stolen);
    for path in keys_of(&stolen, "root") {
        fs::remove_file(path).unwrap();
    }
    change_role(&stolen, "targets", |role| role["threshold"] = 1.into());
    published("forged", &stolen).unwrap();
    refused(
        client("forged"),
        "threshold of 2 not met for role targets (1 valid",
    );
    // With one key of the root instead, a root follows that names other keys for everything.
    let stolen = lab.path("stolen-root");
    copy(&keys, &stolen);
    for path in [&root[1], &root[2], &targets[2]] {
        fs::remove_file(stolen.join(path.file_name().unwrap())).unwrap();
    }
    change_role(&stolen, "root", |role| role["threshold"] = 1.into());
    let mut thief = Keys::open(&stolen).unwrap();
    let roles = [RoleType::Root, RoleType::Targets];
    thief.rotate(&roles, &HashMap::new(), expires).unwrap();
    published("forged-root", &stolen).unwrap();
    refused(
        client("forged-root"),
        "threshold of 2 not met for role root (1 valid",
    );
    // The root is changed by two of its keys, and gets as many as it had.
    fs::rename(lab.path("away-1"), &targets[1]).unwrap();
    fs::rename(&root[0], lab.path("away-root")).unwrap();
    let rotate = |roles: &[RoleType]| {
        let mut keys = Keys::open(&keys).unwrap();
        keys.rotate(roles, &HashMap::new(), expires)
    };
    rotate(&[RoleType::Root]).unwrap();
    let (old, new): (Vec<_>, Vec<_>) = keys_of(&keys, "root")
        .into_iter()
        .partition(|path| root.contains(path));
    assert_eq!((old.len(), new.len()), (2, 3));
    published("several", &keys).unwrap();
    client("several").unwrap();
    // The old ones do not count any more: with both of them and one new one it is not changed.
    for path in &new[1..] {
        fs::remove_file(path).unwrap();
    }
    let error = rotate(&[RoleType::Timestamp]).unwrap_err().to_string();
    let lacks = "the role 'root' needs 2 of its 3 keys here, and has 1; missing: root-";
    assert!(error.contains(lacks), "{error}");
}

/// One key under two names is one key, and a root that clients would refuse is not written.
#[test]
fn a_copy_of_a_key_does_not_sign() {
    let dir = tempfile::tempdir().unwrap();
    let expires = Timestamp::now() + DAY;
    let signers = HashMap::from([(RoleType::Root, Signers::new(2, 3).unwrap())]);
    let mut keys = Keys::create(dir.path(), &signers, expires).unwrap();
    let root = keys_of(dir.path(), "root");
    let good: Vec<_> = root.iter().map(|path| fs::read(path).unwrap()).collect();
    let files = || fs::read_dir(dir.path()).unwrap().count();
    let mut refused = |roles: &[RoleType], text: &str| {
        let before = files();
        let error = keys.rotate(roles, &HashMap::new(), expires).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(files(), before);
    };
    fs::remove_file(&root[2]).unwrap();
    fs::copy(&root[0], &root[1]).unwrap();
    for roles in [&[][..], &[RoleType::Timestamp], &[RoleType::Root]] {
        refused(roles, "does not have the key of its name, but that of ");
    }
    // Nor are there two keys if the root names one twice.
    for (path, good) in root.iter().zip(good) {
        fs::write(path, good).unwrap();
    }
    change_role(dir.path(), "root", |role| {
        let id = role["keyids"].as_array().unwrap()[0].clone();
        role["keyids"] = vec![id.clone(), id].into();
    });
    refused(
        &[],
        "would refuse it: Signature threshold of 2 not met for role root (1 valid",
    );
}

/// The keys of a role that are in a folder.
fn keys_of(dir: &Path, role: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.strip_prefix(role).is_some_and(|n| n.starts_with('-'))
    });
    found.sort();
    found
}

/// Changes what the first root in a folder says of a role.
fn change_role(dir: &Path, role: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let path = dir.join("1.root.json");
    let mut root: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut root["signed"]["roles"][role]);
    fs::write(&path, root.to_string()).unwrap();
}

#[test]
fn signers_that_cannot_be_are_refused() {
    for (needed, keys) in [(0, 1), (1, 0), (2, 1), (1, 17)] {
        assert!(Signers::new(needed, keys).is_none(), "{needed} of {keys}");
    }
    assert_eq!(Signers::new(1, 1), Some(Signers::ONE));
    assert!(Signers::new(16, 16).is_some());
}
