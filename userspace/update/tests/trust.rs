// SPDX-License-Identifier: GPL-2.0-or-later

//! What a client believes, when several places say different things. That the library refuses what it should is
//! tested where things are published (userspace/publish/tests/attacks.rs).

mod lab;

use dmholey_cow::Kind;
use dmholey_publish::keys::RoleType;
use dmholey_update::source::Folder;
use dmholey_update::source::Got;
use dmholey_update::source::Sink;
use dmholey_update::state::Phase;
use dmholey_update::Mirrors;
use dmholey_update::Result;
use dmholey_update::Source;
use jiff::Timestamp;
use lab::quiet;
use lab::Lab;
use lab::DAY;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::sync::Arc;

fn mirrors(folders: &[&Path]) -> Mirrors {
    let folders = folders
        .iter()
        .map(|&folder| Arc::new(Folder(folder.to_owned())) as Arc<dyn Source>);
    Mirrors::new(folders.collect())
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, part: &str) {
    let error = result.unwrap_err().to_string();
    assert!(error.contains(part), "{error}");
}

/// The newest file of the metadata with this end.
fn newest(web: &Path, end: &str) -> std::path::PathBuf {
    let entries = fs::read_dir(web.join("metadata")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let number = |path: &std::path::PathBuf| -> Option<u64> {
        path.file_name()?.to_str()?.strip_suffix(end)?.parse().ok()
    };
    paths.max_by_key(number).unwrap()
}

#[test]
fn an_older_place_is_passed_over() {
    let lab = Lab::published();
    let (web, old) = (lab.path("web"), lab.path("old"));
    lab::copy(&web, &old);
    lab.publish(Timestamp::now());
    let trust = lab.trust();
    // At first nobody knows better.
    trust.ask(&mirrors(&[&old])).unwrap();
    let known = trust.ask(&mirrors(&[&web])).unwrap();
    refused(trust.ask(&mirrors(&[&old])), "version");
    assert_eq!(
        trust.ask(&mirrors(&[&old, &web])).unwrap().catalog,
        known.catalog
    );
}

#[test]
fn half_of_a_newer_place_spoils_nothing() {
    let lab = Lab::published();
    let (web, half) = (lab.path("web"), lab.path("half"));
    let trust = lab.trust();
    trust.ask(&mirrors(&[&web])).unwrap();
    lab::copy(&web, &half);
    // It has the newer timestamp already, and not what belongs to it.
    lab.publish(Timestamp::now());
    fs::copy(
        web.join("metadata/timestamp.json"),
        half.join("metadata/timestamp.json"),
    )
    .unwrap();
    let old = lab.path("old");
    lab::copy(&web, &old);
    fs::copy(newest(&half, ".snapshot.json"), old.join("metadata/x")).unwrap();
    refused(trust.ask(&mirrors(&[&half])), "snapshot.json");
    // What was believed before is believed still: the place that was good is.
    trust.ask(&mirrors(&[&half, &web])).unwrap();
}

#[test]
fn keys_that_nobody_named_are_refused() {
    let lab = Lab::published();
    let other = Lab::published();
    let trust = lab.trust();
    refused(trust.ask(&mirrors(&[&other.path("web")])), "cannot be used");
    trust
        .ask(&mirrors(&[&other.path("web"), &lab.path("web")]))
        .unwrap();
    fs::write(lab.path("root.json"), "{}").unwrap();
    refused(
        lab.trust().ask(&mirrors(&[&lab.path("web")])),
        "cannot be used",
    );
}

/// A place that says that nothing has changed, whatever there is.
#[derive(Debug)]
struct Frozen {
    folder: Folder,
    asked: AtomicU32,
}

impl Source for Frozen {
    fn name(&self) -> String {
        "frozen".to_owned()
    }

    fn read(&self, file: &str, offset: u64, len: u64, sink: Sink<'_>) -> Result<()> {
        self.folder.read(file, offset, len, sink)
    }

    fn get(&self, file: &str, max: u64, tag: Option<&str>) -> Result<Got> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if tag.is_some() {
            return Ok(Got::Same);
        }
        Ok(match self.folder.get(file, max, None)? {
            Got::File { bytes, .. } => Got::File {
                bytes,
                tag: Some("tag".to_owned()),
            },
            other => other,
        })
    }
}

#[test]
fn freezing_ends_when_the_timestamp_expires() {
    let lab = Lab::published();
    let frozen = Arc::new(Frozen {
        folder: Folder(lab.path("web")),
        asked: AtomicU32::new(0),
    });
    let mirrors = Mirrors::new(vec![Arc::clone(&frozen) as Arc<dyn Source>]);
    let trust = lab.trust();
    // It expires soon; how soon is too soon depends on the machine.
    let known = (1..8).find_map(|n| {
        let soon = jiff::SignedDuration::from_secs(1 << n);
        lab.publish(Timestamp::now() - DAY * 7 + soon);
        let known = trust.ask(&mirrors).ok()?;
        frozen.asked.store(0, Ordering::Relaxed);
        trust.ask(&mirrors).ok()?.is_same.then_some(known)
    });
    let known = known.unwrap();
    assert_eq!(frozen.asked.load(Ordering::Relaxed), 1);
    // It is known to the second.
    while known.expires + jiff::SignedDuration::from_secs(1) > Timestamp::now() {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    refused(trust.ask(&mirrors), "expired");
    // Which is known without asking, too.
    assert_eq!(trust.known().unwrap().expires, known.expires);
}

#[test]
fn what_was_kept_and_is_damaged_is_asked_for_again() {
    let lab = Lab::published();
    let trust = lab.trust();
    let mirrors = mirrors(&[&lab.path("web")]);
    let known = trust.ask(&mirrors).unwrap();
    for name in [
        "seen.json",
        "catalog.json",
        "timestamp.json",
        "snapshot.json",
        "targets.json",
        "roots.json",
    ] {
        fs::write(lab.path("client/trust").join(name), "{").unwrap();
        assert_eq!(trust.ask(&mirrors).unwrap().catalog, known.catalog);
    }
}

/// The roles whose keys are where things are published.
const ONLINE: [RoleType; 3] = [RoleType::Timestamp, RoleType::Snapshot, RoleType::Targets];

/// Why everything is refused that was signed by keys that a root has replaced.
fn with_root(version: u64) -> String {
    format!("cannot be used with root {version}, the newest that is known")
}

#[test]
fn keys_are_rotated() {
    let lab = Lab::published();
    let trust = lab.trust();
    let mirrors = mirrors(&[&lab.path("web")]);
    trust.ask(&mirrors).unwrap();
    lab.rotate(&ONLINE);
    lab.publish(Timestamp::now());
    trust.ask(&mirrors).unwrap();
    // A client that was shipped with the first root only.
    fs::remove_dir_all(lab.path("client")).unwrap();
    lab.trust().ask(&mirrors).unwrap();
}

/// A place that signs with the keys of the first root, and does not show that there is another one.
fn steal(lab: &Lab) {
    lab::copy(&lab.path("web"), &lab.path("evil"));
    lab::copy(&lab.path("keys"), &lab.path("stolen"));
    for _ in 0..5 {
        lab.publish_as("master", "evil", "stolen", Timestamp::now());
    }
}

#[test]
fn keys_that_were_replaced_are_not_believed_again() {
    let lab = Lab::published();
    let (web, evil) = (lab.path("web"), lab.path("evil"));
    let trust = lab.trust();
    trust.ask(&mirrors(&[&web])).unwrap();
    steal(&lab);
    lab.rotate(&ONLINE);
    lab.publish(Timestamp::now());
    let known = trust.ask(&mirrors(&[&web])).unwrap();
    // Also by a client that starts again.
    for trust in [trust, lab.trust()] {
        refused(trust.ask(&mirrors(&[&evil])), &with_root(2));
        let both = trust.ask(&mirrors(&[&evil, &web])).unwrap();
        assert_eq!(both.catalog, known.catalog);
    }
}

#[test]
fn a_root_counts_even_if_its_place_has_nothing_else() {
    let lab = Lab::published();
    let (web, evil, half) = (lab.path("web"), lab.path("evil"), lab.path("half"));
    let trust = lab.trust();
    trust.ask(&mirrors(&[&web])).unwrap();
    steal(&lab);
    lab.rotate(&ONLINE);
    // It has the newer root, and nothing that was signed by the keys that it names.
    lab::copy(&web, &half);
    let root = "metadata/2.root.json";
    fs::copy(lab.path("keys/2.root.json"), half.join(root)).unwrap();
    refused(trust.ask(&mirrors(&[&half])), &with_root(2));
    refused(lab.trust().ask(&mirrors(&[&evil])), &with_root(2));
    // A root that those before did not sign is not one, and does no harm.
    let other = Lab::published();
    other.rotate(&[]);
    other.rotate(&[]);
    fs::copy(
        other.path("keys/3.root.json"),
        evil.join("metadata/3.root.json"),
    )
    .unwrap();
    refused(trust.ask(&mirrors(&[&evil])), &with_root(2));
    lab.publish(Timestamp::now());
    trust.ask(&mirrors(&[&evil, &web])).unwrap();
}

#[test]
fn after_a_rotation_an_older_place_is_passed_over_still() {
    let lab = Lab::published();
    let (web, old) = (lab.path("web"), lab.path("old"));
    let trust = lab.trust();
    trust.ask(&mirrors(&[&web])).unwrap();
    lab.rotate(&[RoleType::Timestamp, RoleType::Snapshot]);
    lab.publish(Timestamp::now());
    trust.ask(&mirrors(&[&web])).unwrap();
    lab::copy(&web, &old);
    lab.publish(Timestamp::now());
    let known = trust.ask(&mirrors(&[&web])).unwrap();
    refused(trust.ask(&mirrors(&[&old])), "version");
    let both = lab.trust().ask(&mirrors(&[&old, &web])).unwrap();
    assert_eq!(both.catalog, known.catalog);
}

#[test]
fn a_newer_root_that_is_shipped_counts() {
    let lab = Lab::published();
    let (web, old) = (lab.path("web"), lab.path("old"));
    lab::copy(&web, &old);
    // One that says that nothing has changed.
    let frozen: Arc<dyn Source> = Arc::new(Frozen {
        folder: Folder(old.clone()),
        asked: AtomicU32::new(0),
    });
    let frozen = Mirrors::new(vec![frozen]);
    lab.trust().ask(&frozen).unwrap();
    assert!(lab.trust().ask(&frozen).unwrap().is_same);
    lab.rotate(&ONLINE);
    let ship = |version: u64| {
        let root = lab.path(&format!("keys/{version}.root.json"));
        fs::copy(root, lab.path("root.json")).unwrap();
    };
    ship(2);
    refused(lab.trust().ask(&frozen), &with_root(2));
    lab.publish(Timestamp::now());
    lab.trust().ask(&mirrors(&[&old, &web])).unwrap();
    // And still does when the older one is there again, as after going back to an older image.
    ship(1);
    refused(lab.trust().ask(&mirrors(&[&old])), &with_root(2));
    lab.trust().ask(&mirrors(&[&web])).unwrap();
}

#[test]
fn a_root_of_others_is_believed_when_somebody_says_so() {
    let lab = Lab::published();
    let other = Lab::published();
    let (web, others) = (mirrors(&[&lab.path("web")]), mirrors(&[&other.path("web")]));
    lab.trust().ask(&web).unwrap();
    // Nobody knows whether it is an older one.
    fs::copy(other.path("root.json"), lab.path("root.json")).unwrap();
    for places in [&web, &others] {
        let error = lab.trust().ask(places).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        let part = format!("remove {}", lab.path("client/trust").display());
        assert!(error.to_string().contains(&part), "{error}");
    }
    fs::remove_dir_all(lab.path("client/trust")).unwrap();
    lab.trust().ask(&others).unwrap();
    refused(lab.trust().ask(&web), &with_root(1));
    // One that is newer is meant.
    lab.rotate(&[]);
    lab.publish(Timestamp::now());
    fs::copy(lab.path("keys/2.root.json"), lab.path("root.json")).unwrap();
    lab.trust().ask(&web).unwrap();
    refused(lab.trust().ask(&others), &with_root(2));
}

#[test]
fn roots_that_are_damaged_are_not_there() {
    let lab = Lab::published();
    let web = mirrors(&[&lab.path("web")]);
    lab.rotate(&ONLINE);
    lab.publish(Timestamp::now());
    for damage in ["", "{", r#"{"newest":{},"before":[]}"#] {
        fs::create_dir_all(lab.path("client/trust")).unwrap();
        fs::write(lab.path("client/trust/roots.json"), damage).unwrap();
        // The shipped one leads to the newest again.
        lab.trust().ask(&web).unwrap();
        let kept = fs::read_to_string(lab.path("client/trust/roots.json")).unwrap();
        assert!(kept.contains(r#""version":2"#), "{kept}");
    }
}

#[test]
fn a_lower_last_version_is_taken_only_if_it_is_asked_for() {
    let lab = Lab::published();
    let mirrors = mirrors(&[&lab.path("web")]);
    let trust = lab.trust();
    let known = trust.ask(&mirrors).unwrap();
    fs::write(lab.path("disk"), &lab.images[2]).unwrap();
    let mut client = lab.client();
    client.identify(&known.catalog, &quiet).unwrap();
    // What is published comes from an older copy of the repository.
    let older = Lab::of(lab.images[..2].to_vec(), true);
    lab::copy(&older.path("master"), &lab.path("older"));
    lab.publish_as("older", "web", "keys", Timestamp::now());
    let known = trust.ask(&mirrors).unwrap();
    assert_eq!(known.catalog.last().unwrap().number, 2);
    let plan = client.plan(&known.catalog, None).unwrap();
    assert!(plan.is_done(), "{plan:?}");
    let pulled = client.pull(&mirrors, &known.catalog, None, &quiet).unwrap();
    assert_eq!((pulled.version, pulled.steps.len()), (3, 0));
    assert_eq!(client.state().phase, Phase::Idle);
    let pulled = client.pull(&mirrors, &known.catalog, Some(2), &quiet);
    assert_eq!(pulled.unwrap().version, 2);
    client.apply(&quiet).unwrap();
    lab.is(2);
}
