// SPDX-License-Identifier: GPL-2.0-or-later

use super::*;
use crate::digest::Digest;
use proptest::prelude::*;
use std::process::Command;

/// A text with words that recur, the same everywhere.
fn text(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let mut out = Vec::new();
    while out.len() < len {
        // Small numbers are frequent.
        let word = next() % (1 + next() % 800);
        out.extend_from_slice(format!("w{:x} ", word * word * 77_777).as_bytes());
        if next() % 11 == 0 {
            out.push(b'\n');
        }
        if next() % 97 == 0 {
            out.extend((0..next() % 200).map(|n| (n * n * word) as u8));
        }
    }
    out.truncate(len);
    out
}

#[test]
fn the_bits_are_those_of_the_others() {
    let mut wrong = Vec::new();
    for line in include_str!("tests.txt").lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [family, level, len, seed, digest] = words[..] else {
            panic!("{line}");
        };
        let recipe = Recipe::parse([family.parse().unwrap(), level.parse().unwrap()]).unwrap();
        let plain = text(len.parse().unwrap(), seed.parse().unwrap());
        let packed = deflate(&plain, recipe, usize::MAX).unwrap();
        if Digest::of(&packed).to_string() != digest {
            wrong.push(line);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The digests are of 1.12; this is the one that is here.
#[test]
fn the_bits_are_those_of_gzip() {
    let dir = tempfile::tempdir().unwrap();
    for (seed, len) in [(5, 40_000), (8, 150_000)] {
        let path = dir.path().join("text");
        let plain = text(len, seed);
        std::fs::write(&path, &plain).unwrap();
        for level in 1..=9 {
            let mut gzip = Command::new("gzip");
            gzip.args(["-nc", &format!("-{level}")]).arg(&path);
            let made = gzip.output().unwrap().stdout;
            let family = Family::Gzip;
            let packed = deflate(&plain, Recipe { family, level }, usize::MAX).unwrap();
            // Between ten bytes of header and eight of checksum and length.
            assert!(made[10..made.len() - 8] == packed, "level {level}");
        }
    }
}

fn inflated(packed: &[u8]) -> Vec<u8> {
    miniz_oxide::inflate::decompress_to_vec(packed).unwrap()
}

#[test]
fn all_recipes_make_what_inflates() {
    for family in [
        Family::Gzip,
        Family::Zlib(1),
        Family::Zlib(8),
        Family::Zlib(9),
    ] {
        for level in 1..=9 {
            for len in [0, 1, 2, 3, 300, 70_000] {
                let plain = text(len, 7);
                let packed = deflate(&plain, Recipe { family, level }, usize::MAX).unwrap();
                assert_eq!(inflated(&packed), plain, "{family:?} {level} {len}");
            }
        }
    }
}

proptest! {
    #[test]
    fn anything_inflates_to_itself(
        parts in prop::collection::vec((any::<u8>(), 0usize..2000, any::<bool>()), 0..30),
        recipe in 0..Recipe::LIKELY.len(),
    ) {
        let mut plain = Vec::new();
        for (byte, len, plain_run) in parts {
            plain.extend((0..len).map(|n| if plain_run { byte } else { ((n * n * usize::from(byte)) >> 3) as u8 }));
        }
        let packed = deflate(&plain, Recipe::LIKELY[recipe], usize::MAX).unwrap();
        prop_assert_eq!(inflated(&packed), plain);
        prop_assert!(deflate(&[1; 3000], Recipe::LIKELY[recipe], 3).is_none());
    }
}
