// SPDX-License-Identifier: GPL-2.0-or-later

//! Every version stays what it was, whatever is done beside it and wherever that is interrupted.

use dmholey_cow::progress::Silent;
use dmholey_cow::Disk;
use dmholey_cow::Kind;
use dmholey_cow::MemDisk;
use dmholey_cow::Progress;
use dmholey_delta::apply;
use dmholey_delta::make;
use dmholey_repository::check::check;
use dmholey_repository::checkpoint::checkpoint;
use dmholey_repository::checkpoint::Options;
use dmholey_repository::checkpoint::Taken;
use dmholey_repository::compare::compare;
use dmholey_repository::prune::prune;
use dmholey_repository::squash::squash;
use dmholey_repository::Repository;
use dmholey_repository::Result;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// Makes deltas in no time.
const FAST: make::Options = make::Options {
    level: 1,
    files: true,
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

    fn burnt(&self) -> bool {
        self.0.load(Ordering::Relaxed) < 0
    }
}

impl Progress for Fuse {
    fn update(&self, _done: u64, _total: u64) {}

    fn stop(&self) -> bool {
        self.0.fetch_sub(1, Ordering::Relaxed) <= 0
    }
}

/// The images that a repository must have.
type Model = BTreeMap<u64, Vec<u8>>;

fn verify(dir: &Path, model: &Model) {
    let repository = Repository::open(dir).unwrap();
    let numbers: Vec<u64> = repository
        .manifest()
        .versions
        .iter()
        .map(|v| v.number)
        .collect();
    assert_eq!(numbers, model.keys().copied().collect::<Vec<_>>());
    for (&number, image) in model {
        assert_eq!(
            repository.version(number).unwrap().bytes,
            image.len() as u64
        );
        let content = repository.content(number).unwrap();
        let mut bytes = vec![0; image.len()];
        content.read_at(0, &mut bytes).unwrap();
        assert!(bytes == *image, "version {number} is another one");
    }
    let report = check(&repository, &quiet).unwrap();
    assert_eq!(report.findings, Vec::<String>::new());
    assert_eq!(report.versions, model.len());
    for link in &repository.manifest().deltas {
        let delta = repository.open_delta(link.from, link.to).unwrap();
        let old = MemDisk::new(model.get(&link.from).cloned().unwrap_or_default());
        let new = MemDisk::default();
        apply::apply(
            &delta,
            &old,
            &new,
            dmholey_cow::writer::Ground::Zero,
            &Silent,
        )
        .unwrap();
        let mut made = new.into_bytes();
        made.truncate(model[&link.to].len());
        assert!(made == model[&link.to], "{link:?} makes another version");
    }
}

fn take(dir: &Path, image: &[u8], delta: bool, steps: i64) -> (Result<Taken>, bool) {
    let options = Options {
        delta: delta.then_some(FAST),
        ..options()
    };
    take_as(dir, image, &options, steps)
}

fn options() -> Options {
    Options {
        made: 1_700_000_000,
        note: "nightly".to_owned(),
        ..Options::default()
    }
}

fn take_as(dir: &Path, image: &[u8], options: &Options, steps: i64) -> (Result<Taken>, bool) {
    let fuse = Fuse::new(steps);
    let watch = |_: &str| -> Box<dyn Progress> { Box::new(fuse.clone()) };
    let result = Repository::create(dir).and_then(|mut repository| {
        let source = MemDisk::new(image.to_vec());
        checkpoint(&mut repository, &source, options, &watch)
    });
    (result, fuse.burnt())
}

#[derive(Clone, Debug)]
enum Step {
    /// Change some blocks, perhaps the size, and take a checkpoint.
    Take {
        size: Option<usize>,
        blocks: Vec<(u16, u8)>,
        delta: bool,
        /// It is told where the image has changed.
        recorded: bool,
        steps: i64,
    },
    Squash(prop::sample::Index, prop::sample::Index),
    Prune(prop::sample::Index, i64),
}

fn step() -> impl Strategy<Value = Step> {
    let steps = || prop_oneof![3 => Just(i64::MAX), 1 => 0i64..6];
    let take = (
        prop::option::weighted(0.3, 1usize..300_000),
        prop::collection::vec(any::<(u16, u8)>(), 0..12),
        any::<bool>(),
        any::<bool>(),
        steps(),
    );
    prop_oneof![
        4 => take.prop_map(|(size, blocks, delta, recorded, steps)| Step::Take { size, blocks, delta, recorded, steps }),
        1 => any::<(prop::sample::Index, prop::sample::Index)>().prop_map(|(a, b)| Step::Squash(a, b)),
        1 => (any::<prop::sample::Index>(), steps()).prop_map(|(n, steps)| Step::Prune(n, steps)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn versions_stay_what_they_were(
        first in 1usize..300_000,
        steps in prop::collection::vec(step(), 1..10),
    ) {
        let lab = tempfile::tempdir().unwrap();
        let dir = lab.path().join("repository");
        let mut image: Vec<u8> = (0..first).map(|i| (i / 700) as u8).collect();
        let mut model = Model::new();
        let mut last = 1;
        let (taken, _) = take(&dir, &image, true, i64::MAX);
        prop_assert!(matches!(taken, Ok(Taken::New(version, None)) if version.number == 1));
        model.insert(1, image.clone());
        for step in steps {
            let numbers: Vec<u64> = model.keys().copied().collect();
            match step {
                Step::Take { size, blocks, delta, recorded, steps } => {
                    image.resize(size.unwrap_or(image.len()), 0);
                    for (block, fill) in blocks {
                        let start = block as usize * 4096 % image.len();
                        let end = image.len().min(start + 4096);
                        image[start..end].fill(fill);
                    }
                    let options = Options {
                        delta: delta.then_some(FAST),
                        places: recorded.then(|| differences(&model[&last], &image)),
                        ..options()
                    };
                    let (taken, burnt) = take_as(&dir, &image, &options, steps);
                    match taken {
                        Ok(Taken::New(version, link)) => {
                            last += 1;
                            prop_assert_eq!(version.number, last);
                            prop_assert_eq!(link.is_some(), delta);
                            model.insert(last, image.clone());
                        }
                        Ok(Taken::Same(version)) => {
                            prop_assert_eq!(version.number, last);
                            prop_assert!(model[&last] == image);
                        }
                        Err(error) => prop_assert!(burnt && error.kind() == Kind::Interrupted, "{}", error),
                    }
                }
                Step::Squash(a, b) => {
                    let from = [&[0], numbers.as_slice()].concat();
                    let (from, to) = (*a.get(&from), *b.get(&numbers));
                    let mut repository = Repository::change(&dir).unwrap();
                    let made = squash(&mut repository, from, to, FAST, &quiet);
                    prop_assert_eq!(made.is_ok(), from < to);
                }
                Step::Prune(n, steps) => {
                    let oldest = *n.get(&numbers);
                    let fuse = Fuse::new(steps);
                    let watch = |_: &str| -> Box<dyn Progress> { Box::new(fuse.clone()) };
                    let mut repository = Repository::change(&dir).unwrap();
                    let pruned = prune(&mut repository, oldest, &watch);
                    prop_assert!(pruned.is_ok() || fuse.burnt());
                    model.retain(|&number, _| number >= oldest);
                }
            }
            verify(&dir, &model);
        }
        // What was interrupted has left nothing behind once something is changed.
        let oldest = *model.keys().next().unwrap();
        prune(&mut Repository::change(&dir).unwrap(), oldest, &quiet).unwrap();
        verify(&dir, &model);
        let files = std::fs::read_dir(&dir).unwrap().count();
        let repository = Repository::open(&dir).unwrap();
        let manifest = repository.manifest();
        prop_assert_eq!(manifest.base.map(|base| base.version), Some(oldest));
        prop_assert_eq!(files, 3 + manifest.layers.len() + manifest.deltas.len());
    }
}

/// Where an image differs from another one, as far as both go.
fn differences(old: &[u8], new: &[u8]) -> Vec<Range<u64>> {
    let both = 0..old.len().min(new.len());
    let differing = both.filter(|&n| old[n] != new[n]);
    differing.map(|n| n as u64..n as u64 + 1).collect()
}

#[test]
fn only_what_was_recorded_is_compared() {
    let lab = lab(&[&[1; 50_000]]);
    let mut image = vec![1; 50_000];
    image[9_000] = 2;
    image[40_000] = 2;
    let options = |recorder: &str, places: Option<Vec<Range<u64>>>| Options {
        places,
        recorder: Some(recorder.to_owned()),
        ..options()
    };
    let recorder = || {
        Repository::open(lab.path())
            .unwrap()
            .manifest()
            .recorder
            .clone()
    };
    assert_eq!(recorder(), None);
    // What is not told is not seen.
    let told = options("first", Some(vec![0..1, 8_192..9_001]));
    let (taken, _) = take_as(lab.path(), &image, &told, i64::MAX);
    assert!(matches!(taken, Ok(Taken::New(version, _)) if version.changed_bytes == 4096));
    assert_eq!(recorder().as_deref(), Some("first"));
    image[40_000] = 1;
    // What is added needs nobody to tell.
    image.resize(60_000, 3);
    let told = options("larger", Some(Vec::new()));
    let (taken, _) = take_as(lab.path(), &image, &told, i64::MAX);
    assert!(matches!(taken, Ok(Taken::New(version, _)) if version.changed_bytes == 3 * 4096));
    let unchanged = options("second", None);
    let (taken, _) = take_as(lab.path(), &image, &unchanged, i64::MAX);
    assert!(matches!(taken, Ok(Taken::Same(version)) if version.number == 3));
    assert_eq!(recorder().as_deref(), Some("second"));
    // Who records nothing ends that: the newest version is another one.
    image[0] = 2;
    take(lab.path(), &image, false, i64::MAX).0.unwrap();
    assert_eq!(recorder(), None);
}

fn lab(images: &[&[u8]]) -> tempfile::TempDir {
    let lab = tempfile::tempdir().unwrap();
    for image in images {
        take(lab.path(), image, true, i64::MAX).0.unwrap();
    }
    lab
}

#[test]
fn an_unchanged_image_is_no_new_version() {
    let lab = lab(&[&[1; 10_000], &[2; 10_000]]);
    let (taken, _) = take(lab.path(), &[2; 10_000], true, i64::MAX);
    assert!(matches!(taken, Ok(Taken::Same(version)) if version.number == 2));
    let (taken, _) = take(lab.path(), &[2; 10_001], true, i64::MAX);
    assert!(matches!(taken, Ok(Taken::New(version, Some(_))) if version.number == 3));
}

#[test]
fn what_somebody_reads_is_not_changed() {
    let lab = lab(&[&[1; 5000]]);
    let reader = Repository::open(lab.path()).unwrap();
    Repository::open(lab.path()).unwrap();
    let error = Repository::change(lab.path()).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("wait for it"), "{error}");
    drop(reader);
    let writer = Repository::change(lab.path()).unwrap();
    assert!(Repository::open(lab.path()).is_err());
    drop(writer);
}

#[test]
fn other_folders_are_left_alone() {
    let lab = tempfile::tempdir().unwrap();
    let error = Repository::open(lab.path()).unwrap_err();
    assert!(error.to_string().contains("is no repository"), "{error}");
    std::fs::write(lab.path().join("thesis.tex"), "x").unwrap();
    let error = Repository::create(lab.path()).unwrap_err();
    assert!(error.to_string().contains("new or empty folder"), "{error}");
    assert_eq!(std::fs::read_dir(lab.path()).unwrap().count(), 1);
}

#[test]
fn leftovers_go_and_foreign_files_stay() {
    let lab = lab(&[&[1; 5000], &[2; 5000]]);
    let names = ["cow-3", "delta-2-3", ".cow-3.abc.part", "notes.txt"];
    for name in names {
        std::fs::write(lab.path().join(name), "x").unwrap();
    }
    drop(Repository::change(lab.path()).unwrap());
    let left = names.map(|name| lab.path().join(name).exists());
    assert_eq!(left, [false, false, false, true]);
    verify(
        lab.path(),
        &Model::from([(1, vec![1; 5000]), (2, vec![2; 5000])]),
    );
}

#[test]
fn damage_is_found() {
    let images = [[1; 9000], [2; 9000], [3; 9000]];
    let lab = lab(&[&images[0], &images[1], &images[2]]);
    let damage = |name: &str, at: usize| {
        let path = lab.path().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    };
    let findings = || {
        let repository = Repository::open(lab.path()).unwrap();
        check(&repository, &quiet).unwrap().findings
    };
    assert!(findings().is_empty());
    damage("base", 8999);
    assert!(findings()
        .iter()
        .any(|f| f.contains("version 1: its content")));
    damage("base", 8999);
    damage("cow-2", 8192);
    assert!(findings().iter().any(|f| f.contains("version 2")));
    // The version after it has all its blocks anew.
    assert!(!findings().iter().any(|f| f.contains("version 3:")));
    damage("cow-2", 8192);
    damage("delta-1-2", 200);
    assert!(findings().iter().any(|f| f.contains("delta-1-2")));
    damage("delta-1-2", 200);
    std::fs::copy(lab.path().join("delta-1-2"), lab.path().join("delta-2-3")).unwrap();
    assert!(findings().iter().any(|f| f.contains("another delta")));
    std::fs::write(lab.path().join("repository.json"), "{}").unwrap();
    let error = Repository::open(lab.path()).unwrap_err();
    assert_eq!(error.kind(), Kind::Store);
    assert!(error.to_string().contains("repository.json"), "{error}");
}

#[test]
fn a_base_that_has_changed_makes_no_delta() {
    let lab = lab(&[&[1; 9000]]);
    std::fs::write(lab.path().join("base"), [7; 9000]).unwrap();
    let error = take(lab.path(), &[2; 9000], true, i64::MAX).0.unwrap_err();
    assert!(error.to_string().contains("version 1"), "{error}");
    let repository = Repository::change(lab.path()).unwrap();
    assert_eq!(repository.manifest().versions.len(), 1);
}

#[test]
fn differences_are_counted_in_blocks() {
    let old = vec![1; 40_960];
    let mut new = old.clone();
    new[5000] = 2;
    new[36_864..].fill(3);
    new.resize(45_056, 4);
    let lab = lab(&[&old, &new, &old]);
    let repository = Repository::open(lab.path()).unwrap();
    let bytes = |from, to| {
        let comparison = compare(&repository, from, to, &Silent).unwrap();
        assert!(!comparison.file_system && comparison.files.is_empty());
        comparison.changed_bytes
    };
    assert_eq!(bytes(1, 2), 3 * 4096);
    assert_eq!(bytes(2, 1), 2 * 4096);
    assert_eq!(bytes(1, 3), 0);
    let error = compare(&repository, 1, 9, &Silent).unwrap_err();
    assert!(error.to_string().contains("but 1, 2, 3"), "{error}");
}
