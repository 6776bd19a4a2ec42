// SPDX-License-Identifier: GPL-2.0-or-later

use super::*;
use crate::apply;
use crate::cow;
use crate::delta::Delta;
use crate::digest;
use crate::gzip;
use crate::gzip::Recipe;
use crate::index::Method;
use dmholey_cow::progress::Silent;
use dmholey_cow::writer::Ground;
use dmholey_cow::MemDisk;
use dmholey_cow::Stack;
use dmholey_cow::Store;
use proptest::prelude::*;

const FAST: Options = Options {
    level: 1,
    files: true,
    gzip: true,
};

/// Makes a delta, and everything that can be made of it.
fn round_trip(old: &[u8], new: &[u8]) -> Delta<MemDisk> {
    let (old_disk, new_disk) = (MemDisk::new(old.to_vec()), MemDisk::new(new.to_vec()));
    let file = MemDisk::default();
    let report = make(&old_disk, &new_disk, &file, FAST, &Silent).unwrap();
    assert_eq!(report.bytes, file.size());
    let delta = Delta::open(file).unwrap();
    assert_eq!(delta.plan.header.identity(), report.identity);
    for (ground, before) in [(Ground::Zero, 0), (Ground::Used, new.len() + 5000)] {
        let output = MemDisk::new(vec![0xa5; before]);
        apply::apply(&delta, &old_disk, &output, ground, &Silent).unwrap();
        let mut bytes = output.into_bytes();
        bytes.truncate(new.len());
        assert!(bytes == new, "{ground:?}");
    }
    assert_eq!(
        digest::image(&new_disk, &Silent).unwrap(),
        delta.plan.header.new
    );
    if old.len() == new.len() {
        through_cow(&delta, &old_disk, new);
    }
    delta
}

fn through_cow(delta: &Delta<MemDisk>, old: &MemDisk, new: &[u8]) {
    let store = MemDisk::default();
    let (store, ..) = cow::to_cow(delta, old, store, Ground::Zero, &Silent).unwrap();
    let mut shown = Stack::new(old, old.size());
    shown.push(Store::open(store).unwrap()).unwrap();
    let mut bytes = vec![0; new.len()];
    shown.read_at(0, &mut bytes).unwrap();
    assert!(bytes == new);
    let again = MemDisk::default();
    make(old, &shown, &again, FAST, &Silent).unwrap();
    let again = Delta::open(again).unwrap();
    assert_eq!(again.plan.header.old, delta.plan.header.old);
    assert_eq!(again.plan.header.new, delta.plan.header.new);
}

/// Bytes that hardly compress.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    });
    next.take(len).collect()
}

#[test]
fn nothing_becomes_something_and_back() {
    let some = noise(3 * 4096 + 17, 1);
    for (old, new) in [
        (&[][..], &[][..]),
        (&[], &some),
        (&some, &[]),
        (&some, &some),
        (&some, &some[..4097]),
        (&some[..4097], &some),
        (&[0; 5000], &[0; 9000]),
    ] {
        round_trip(old, new);
    }
}

#[test]
fn what_is_the_same_costs_nothing() {
    let some = noise(400 * 4096, 1);
    let delta = round_trip(&some, &some);
    assert_eq!(delta.plan.index, Index::default());
    let mut moved = some[100 * 4096..].to_vec();
    moved.extend_from_slice(&some[..100 * 4096]);
    let delta = round_trip(&some, &moved);
    let index = &delta.plan.index;
    assert!(index.units.is_empty());
    let copies: usize = index.groups.iter().map(|group| group.copies.len()).sum();
    assert_eq!(copies, 2);
}

#[test]
fn what_has_moved_by_some_bytes_is_found() {
    let some = noise(600 * 4096, 1);
    let mut moved = some[..200 * 4096].to_vec();
    moved.extend_from_slice(b"a few bytes more");
    moved.extend_from_slice(&some[200 * 4096..]);
    moved.truncate(some.len());
    let delta = round_trip(&some, &moved);
    assert!(
        delta.plan.header.file_len < 8000,
        "{}",
        delta.plan.header.file_len
    );
    // Far from its place, too.
    let mut old = vec![0; 1500 * 4096];
    old[1000 * 4096 + 77..][..300 * 4096].copy_from_slice(&some[..300 * 4096]);
    let mut new = vec![0; 1500 * 4096];
    new[10 * 4096 + 1234..][..300 * 4096].copy_from_slice(&some[..300 * 4096]);
    let delta = round_trip(&old, &new);
    assert!(
        delta.plan.header.file_len < 60_000,
        "{}",
        delta.plan.header.file_len
    );
}

#[test]
fn what_is_new_is_split_to_units() {
    let new = noise(10 << 20, 1);
    let delta = round_trip(&[], &new);
    let units = &delta.plan.index.units;
    assert!(units.len() >= 4 && units.iter().all(|unit| unit.method == Method::Data));
}

#[test]
fn a_drifted_base_is_told() {
    let old = noise(500 * 4096, 1);
    let mut new = old[4096..].to_vec();
    new.iter_mut().step_by(50_000).for_each(|byte| *byte ^= 1);
    let (old_disk, new_disk) = (MemDisk::new(old.clone()), MemDisk::new(new));
    let file = MemDisk::default();
    make(&old_disk, &new_disk, &file, FAST, &Silent).unwrap();
    let delta = Delta::open(file).unwrap();
    let mut drifted = old.clone();
    drifted[300 * 4096] ^= 1;
    let result = apply::apply(
        &delta,
        &MemDisk::new(drifted),
        &MemDisk::default(),
        Ground::Zero,
        &Silent,
    );
    assert!(matches!(result, Err(Error::Drift { .. })), "{result:?}");
    let short = MemDisk::new(old[..4096].to_vec());
    let result = apply::apply(&delta, &short, &MemDisk::default(), Ground::Zero, &Silent);
    assert_eq!(result.unwrap_err().kind(), dmholey_cow::Kind::Refused);
}

/// Blocks that stay where they are and as they are were looked at by nobody.
#[test]
fn drift_where_nothing_changes_is_told_too() {
    let old = noise(50 * 4096, 1);
    let mut new = old.clone();
    new[0] ^= 1;
    let file = MemDisk::default();
    make(
        &MemDisk::new(old.clone()),
        &MemDisk::new(new.clone()),
        &file,
        FAST,
        &Silent,
    )
    .unwrap();
    let delta = Delta::open(file).unwrap();
    let mut drifted = old.clone();
    drifted[40 * 4096] ^= 1;
    for (base, well) in [(old, true), (drifted, false)] {
        let (base, made) = (MemDisk::new(base), MemDisk::default());
        let applied = apply::apply(&delta, &base, &made, Ground::Zero, &Silent);
        let store = cow::to_cow(&delta, &base, MemDisk::default(), Ground::Zero, &Silent);
        if well {
            applied.unwrap();
            store.unwrap();
            assert!(made.into_bytes() == new);
        } else {
            let kind = applied.unwrap_err().kind();
            assert_eq!(kind, dmholey_cow::Kind::Refused);
            assert!(matches!(store, Err(Error::Drift { .. })));
        }
    }
}

#[test]
fn every_damaged_byte_is_found() {
    let old = noise(20 * 4096, 1);
    let mut new = old.clone();
    new.iter_mut().step_by(9000).for_each(|byte| *byte ^= 1);
    let file = MemDisk::default();
    make(
        &MemDisk::new(old.clone()),
        &MemDisk::new(new),
        &file,
        FAST,
        &Silent,
    )
    .unwrap();
    let bytes = file.into_bytes();
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x40;
        let result = Delta::open(MemDisk::new(bytes)).and_then(|delta| {
            apply::apply(
                &delta,
                &MemDisk::new(old.clone()),
                &MemDisk::default(),
                Ground::Zero,
                &Silent,
            )
        });
        assert!(result.is_err(), "byte {at}");
    }
}

#[test]
fn units_with_compressed_files_are_made_and_checked() {
    use crate::index::Output;
    use crate::index::Run;
    use crate::index::Source;
    let text = |seed: u64| -> Vec<u8> {
        let words = noise(4000, seed);
        words
            .iter()
            .flat_map(|word| format!("{word:03} ").into_bytes())
            .collect()
    };
    let gzip = |plain: &[u8]| {
        let mut inflated = b"\x1f\x8b\x08\0\0\0\0\0\x02\x03".to_vec();
        inflated.extend_from_slice(plain);
        gzip::remake(&inflated, Recipe::LIKELY[0], 4 * 4096).unwrap()
    };
    let (old, mut plain) = (gzip(&text(5)), text(5));
    plain.splice(1000..1003, *b"new");
    let new = gzip(&plain);
    let (old, new) = (MemDisk::new(old), MemDisk::new(new));
    let run = Run { start: 0, len: 4 };
    let (inflated, recipe) = gzip::recipe(&new.to_bytes(), 1 << 20).unwrap();
    let piece = units::Piece {
        class: units::Class::Inflated,
        output: Output {
            gzip: Some((inflated.len() as u64, recipe)),
            runs: vec![run],
        },
        sources: vec![Source {
            inflate: Some(inflated.len() as u64),
            runs: vec![run],
        }],
    };
    let mut spool = SpooledTempFile::new(SPOOL);
    let pair = Pair {
        old: &old,
        new: &new,
    };
    let drafts = units::group(vec![piece]);
    let (made, _) = encode::all(&pair, drafts, FAST, &mut spool, &Silent).unwrap();
    assert_eq!(made.len(), 1);
    assert!(made[0].packed < 200, "{}", made[0].packed);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn applied_to_the_old_image_it_makes_the_new_one(
        blocks in prop::collection::vec(0u8..6, 0..40),
        edits in prop::collection::vec((any::<u16>(), any::<u16>(), 0u16..9000, any::<u8>()), 0..8),
        tail in 0usize..4096,
        cut in 0usize..9000,
    ) {
        let mut old: Vec<u8> = blocks
            .iter()
            .flat_map(|&kind| if kind == 0 { vec![0; 4096] } else { noise(4096, u64::from(kind) * 77) })
            .collect();
        old.extend(noise(tail, 3));
        let mut new = old.clone();
        for (at, to, len, kind) in edits {
            let at = usize::from(at) % (new.len() + 1);
            let end = (at + usize::from(len)).min(new.len());
            let to = usize::from(to) % (new.len() + 1);
            match kind % 6 {
                0 => new[at..end].fill(0),
                1 => new[at..end].iter_mut().step_by(97).for_each(|byte| *byte = byte.wrapping_add(1)),
                2 => { new.splice(at..at, noise(usize::from(len), u64::from(kind))); }
                3 => { new.drain(at..end); }
                4 => { let part = new[at / 4096 * 4096..end].to_vec(); new.splice(to / 4096 * 4096..to / 4096 * 4096, part); }
                _ => new[at..end].reverse(),
            }
        }
        if cut % 3 == 0 {
            new.truncate(new.len().saturating_sub(cut));
        }
        round_trip(&old, &new);
    }
}
