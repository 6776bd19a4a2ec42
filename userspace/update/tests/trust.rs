// SPDX-License-Identifier: GPL-2.0-or-later

//! What a client believes, when several places say different things. That the library refuses what it should is
//! tested where things are published (userspace/publish/tests/attacks.rs).

mod lab;

use dmholey_update::source::Folder;
use dmholey_update::source::Got;
use dmholey_update::source::Sink;
use dmholey_update::Mirrors;
use dmholey_update::Result;
use dmholey_update::Source;
use jiff::Timestamp;
use lab::Lab;
use lab::DAY;
use std::collections::HashMap;
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
    ] {
        fs::write(lab.path("client/trust").join(name), "{").unwrap();
        assert_eq!(trust.ask(&mirrors).unwrap().catalog, known.catalog);
    }
}

#[test]
fn keys_are_rotated() {
    use dmholey_publish::keys::RoleType;
    let lab = Lab::published();
    let trust = lab.trust();
    let mirrors = mirrors(&[&lab.path("web")]);
    trust.ask(&mirrors).unwrap();
    let mut keys = dmholey_publish::Keys::open(&lab.path("keys")).unwrap();
    let expires = Timestamp::now() + DAY * 365;
    keys.rotate(
        &[RoleType::Timestamp, RoleType::Snapshot, RoleType::Targets],
        &HashMap::new(),
        expires,
    )
    .unwrap();
    lab.publish(Timestamp::now());
    trust.ask(&mirrors).unwrap();
    // A client that was shipped with the first root only.
    fs::remove_dir_all(lab.path("client")).unwrap();
    lab.trust().ask(&mirrors).unwrap();
}
