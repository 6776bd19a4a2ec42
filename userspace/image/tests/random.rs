// SPDX-License-Identifier: GPL-2.0-or-later

//! Random trees, one over the other: e2fsck finds nothing, others read what the model says, what did not
//! change keeps its blocks, and the same inputs give the same bytes.

mod common;

use common::*;
use dmholey_image::Options;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Bytes in pieces: of zeros, or made from a seed. Few seeds, so that contents meet again.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let piece = (
        0u64..4,
        prop_oneof![Just(4096usize), 1usize..9000, Just(40_000)],
    );
    prop::collection::vec(piece, 0..4).prop_map(|pieces| {
        let mut bytes = Vec::new();
        for (seed, len) in pieces {
            bytes.extend(if seed == 0 {
                vec![0; len]
            } else {
                pattern(len, seed)
            });
        }
        bytes
    })
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        6 => content().prop_map(What::File),
        3 => Just(What::Dir),
        2 => prop::collection::vec(1u8..=255, 1..100).prop_map(What::Symlink),
        1 => (0u32..4096, 0u32..1 << 20).prop_map(|(major, minor)| What::Char(major, minor)),
        1 => (0u32..300, 0u32..300).prop_map(|(major, minor)| What::Block(major, minor)),
        1 => Just(What::Fifo),
    ]
}

fn attributes() -> impl Strategy<Value = BTreeMap<String, Vec<u8>>> {
    let name = prop_oneof![
        Just("user.a"),
        Just("user.b"),
        Just("security.capability"),
        Just("trusted.x")
    ];
    let value = prop::collection::vec(any::<u8>(), 0..300);
    let some = prop::collection::btree_map(name.prop_map(str::to_owned), value, 1..3);
    prop_oneof![4 => Just(BTreeMap::new()), 1 => some]
}

fn spec() -> impl Strategy<Value = Spec> {
    // ext4-view takes no time of which bit 31 is set: from 2038 to 2106, say.
    let time = (
        prop_oneof![Just(1_700_000_000i64), 0..1i64 << 31, 1 << 32..3i64 << 31],
        prop_oneof![Just(0u32), 0u32..1_000_000_000],
    );
    let owner = prop_oneof![Just(0u32), any::<u32>()];
    (
        what(),
        0u16..0o10000,
        owner.clone(),
        owner,
        time,
        attributes(),
    )
        .prop_map(|(what, mode, uid, gid, mtime, attributes)| Spec {
            what,
            mode,
            uid,
            gid,
            mtime,
            attributes,
        })
}

/// A name: from few short ones, so that trees meet, or any bytes.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = (1u8..=255).prop_filter("a slash", |byte| *byte != b'/');
    prop_oneof![
        6 => "[a-f]".prop_map(String::into_bytes),
        1 => prop::collection::vec(byte, 1..=255),
    ]
    .prop_filter("a dot", |name| !matches!(name.as_slice(), b"." | b".."))
}

/// Adds to a tree what fits: the folder of a path has to be one.
fn put(model: &mut Model, path: &[Vec<u8>], spec: Spec) {
    for end in 1..path.len() {
        let dir = path[..end].join(&b'/');
        if !matches!(model.get(&dir), Some(spec) if spec.what == What::Dir) {
            return;
        }
    }
    let path = path.join(&b'/');
    if !model.contains_key(&path) && path != b"lost+found" {
        model.insert(path, spec);
    }
}

type Step = (Vec<Vec<u8>>, Spec, usize);

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let path = prop::collection::vec(name(), 1..4);
    prop::collection::vec((path, spec(), any::<usize>()), 0..most)
}

fn grown(mut model: Model, steps: &[Step]) -> Model {
    for (path, spec, link) in steps {
        let files: Vec<Vec<u8>> = model
            .iter()
            .filter(|(_, spec)| !matches!(spec.what, What::Dir | What::Link(_)))
            .map(|(path, _)| path.clone())
            .collect();
        if link % 5 == 0 && !files.is_empty() {
            let target = files[link / 5 % files.len()].clone();
            put(&mut model, path, Spec::new(What::Link(target)));
        } else {
            put(&mut model, path, spec.clone());
        }
    }
    model
}

/// Takes some paths out, with all that is below them and all links to them.
fn thinned(mut model: Model, which: &[usize]) -> Model {
    for n in which {
        let paths: Vec<Vec<u8>> = model.keys().skip(1).cloned().collect();
        let Some(path) = paths.get(n % paths.len().max(1)) else {
            break;
        };
        let below = [path, &b"/"[..]].concat();
        let goes = |other: &Vec<u8>| other == path || other.starts_with(&below);
        model.retain(|other, spec| {
            !goes(other) && !matches!(&spec.what, What::Link(to) if goes(to))
        });
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn trees_over_trees(
        first in steps(40),
        second in steps(20),
        third in steps(20),
        gone in prop::collection::vec(any::<usize>(), 0..12),
        small: bool,
    ) {
        let lab = Lab::new();
        let a = grown(model(&[]), &first);
        let b = grown(thinned(a.clone(), &gone), &second);
        let c = grown(thinned(b.clone(), &gone), &third);
        if small {
            lab.mke2fs("empty.img", "16M", &["-b", "1024"]);
            lab.over("empty.img", &a, "a.img");
        } else {
            lab.fresh(&a, "a.img");
        }
        lab.over("a.img", &b, "b.img");
        lab.over("a.img", &b, "b-too.img");
        prop_assert!(lab.read("b.img") == lab.read("b-too.img"));
        let kept = |old: &Model, new: &Model, before: &str, after: &str| {
            let (was, is) = (blocks(&lab.path(before), old), blocks(&lab.path(after), new));
            for (path, blocks) in &is {
                let same = old.get(path).is_some_and(|spec| {
                    resolve(old, spec).what == resolve(new, &new[path]).what && plain(old, path) && plain(new, path)
                });
                if same {
                    prop_assert_eq!(blocks, &was[path]);
                }
            }
            Ok(())
        };
        kept(&a, &b, "a.img", "b.img")?;
        lab.over("b.img", &c, "c.img");
        kept(&b, &c, "b.img", "c.img")?;
        let built = lab.over("c.img", &c, "c-too.img");
        prop_assert_eq!(built.counts.unchanged, built.counts.files);
        prop_assert!(lab.read("c.img") == lab.read("c-too.img"));
        let options = Options { zero_free: true, ..over("c.img") };
        lab.build(&tar(&a), "a-again.img", &options).unwrap();
        check(&lab.path("a-again.img"), &a);
    }
}

/// Whether a file has one name only: which of several keeps the inode is another question.
fn plain(model: &Model, path: &[u8]) -> bool {
    let spec = &model[path];
    let linked = model
        .values()
        .any(|other| matches!(&other.what, What::Link(to) if to.as_slice() == path));
    !linked && !matches!(spec.what, What::Link(_))
}
