// SPDX-License-Identifier: GPL-2.0-or-later

//! Damaged and hostile stores: an error, never a panic, never a write.

mod common;

use common::diff;
use common::pattern;
use common::CHUNK;
use dmholey_cow::apply;
use dmholey_cow::check;
use dmholey_cow::check::Severity;
use dmholey_cow::format::Exception;
use dmholey_cow::format::ENTRY_LEN;
use dmholey_cow::info::Info;
use dmholey_cow::progress::Silent;
use dmholey_cow::Kind;
use dmholey_cow::MemDisk;
use dmholey_cow::Store;
use proptest::prelude::*;
use std::sync::LazyLock;

/// Chunks of the images that are compared.
const CHUNKS: usize = 300;

static OLD: LazyLock<Vec<u8>> = LazyLock::new(|| pattern(CHUNKS * CHUNK, 1));
static NEW: LazyLock<Vec<u8>> = LazyLock::new(|| pattern(CHUNKS * CHUNK, 2));
static IMAGE: LazyLock<Vec<u8>> = LazyLock::new(|| diff(&OLD, &NEW));

fn image() -> Vec<u8> {
    IMAGE.clone()
}

/// Applies `image` and says whether it worked; a failure must have left the target alone.
fn try_apply(image: Vec<u8>) -> Result<Vec<u8>, Kind> {
    let target = MemDisk::new(OLD.clone());
    let result = Store::open(MemDisk::new(image))
        .and_then(|mut store| apply::apply(&mut store, &target, &Silent));
    let after = target.into_bytes();
    match result {
        Ok(_) => Ok(after),
        Err(error) => {
            assert!(after == *OLD, "a failed apply wrote to its target");
            Err(error.kind())
        }
    }
}

/// The codes of the errors and warnings of a check.
fn codes(image: Vec<u8>) -> Vec<&'static str> {
    let report = check::check(MemDisk::new(image), Some((CHUNKS * CHUNK) as u64)).unwrap();
    let problems = report.findings.into_iter();
    problems
        .filter(|finding| finding.severity != Severity::Note)
        .map(|finding| finding.code)
        .collect()
}

fn put_entry(image: &mut [u8], slot: usize, origin: u64, cow: u64) {
    let at = CHUNK + slot * ENTRY_LEN;
    image[at..at + ENTRY_LEN].copy_from_slice(&Exception { origin, cow }.encode());
}

#[test]
fn a_store_cut_anywhere_is_refused() {
    let whole = image();
    assert!(try_apply(whole.clone()).is_ok());
    let metadata = (0..2 * CHUNK).step_by(191);
    let chunk_ends = (2..whole.len() / CHUNK).step_by(17).map(|n| n * CHUNK);
    for len in metadata.chain(chunk_ends).chain([whole.len() - 1]) {
        let kind = try_apply(whole[..len].to_vec()).unwrap_err();
        assert_eq!(kind, Kind::Store, "cut to {len}");
        assert!(!codes(whole[..len].to_vec()).is_empty(), "cut to {len}");
    }
}

#[test]
fn every_byte_of_the_header_counts() {
    let whole = image();
    for at in 0..16 {
        for bit in 0..8 {
            let mut image = whole.clone();
            image[at] ^= 1 << bit;
            assert_eq!(
                try_apply(image.clone()),
                Err(Kind::Store),
                "byte {at} bit {bit}"
            );
            assert!(!codes(image).is_empty());
        }
    }
}

#[test]
fn a_changed_area_byte_never_reaches_a_wrong_chunk_twice() {
    let whole = image();
    for at in (CHUNK..2 * CHUNK).step_by(67) {
        for value in [0, 0xff, whole[at] ^ 1] {
            let mut image = whole.clone();
            image[at] = value;
            let Ok(after) = try_apply(image) else {
                continue;
            };
            // What passes can only have become shorter (an end where none was), or is unchanged.
            let chunks = after
                .chunks(CHUNK)
                .zip(OLD.chunks(CHUNK))
                .zip(NEW.chunks(CHUNK));
            for ((after, old), new) in chunks {
                assert!(after == old || after == new, "byte {at} value {value}");
            }
        }
    }
}

#[test]
fn hostile_entries_are_named() {
    let cases: [(u64, u64, &str); 9] = [
        (0, u64::MAX, "cow-chunk"),
        (0, 1, "cow-chunk"),
        (0, 258, "cow-chunk"),
        (0, 1 << 56, "cow-chunk"),
        (0, 100_000, "cow-chunk"),
        (0, 5, "cow-twice"),
        (7, 2, "origin-twice"),
        (300, 2, "origin-chunk"),
        (u64::MAX, 2, "origin-chunk"),
    ];
    for (origin, cow, code) in cases {
        let mut image = image();
        put_entry(&mut image, 0, origin, cow);
        let found = codes(image.clone());
        assert!(found.contains(&code), "{origin} -> {cow}: {found:?}");
        assert!(try_apply(image).is_err());
    }
}

#[test]
fn an_early_end_with_entries_behind_it_is_a_warning() {
    let mut image = image();
    put_entry(&mut image, 10, 0, 0);
    assert_eq!(codes(image), ["stale-entries"]);
}

#[test]
fn a_list_without_end_is_refused() {
    let old = pattern(256 * CHUNK, 1);
    let mut image = diff(&old, &pattern(256 * CHUNK, 2));
    image.truncate(258 * CHUNK);
    let error = Store::open(MemDisk::new(image.clone()))
        .and_then(|store| store.survey())
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Store);
    assert_eq!(codes(image), ["no-end"]);
}

#[test]
fn an_absurd_chunk_size_allocates_nothing() {
    let mut image = image();
    image[12..16].copy_from_slice(&(1u32 << 17).to_le_bytes());
    assert_eq!(codes(image), ["cow-too-small"]);
}

#[test]
fn foreign_and_fresh_devices_are_told_apart() {
    assert_eq!(codes(vec![0; 8 * CHUNK]), ["fresh"]);
    assert_eq!(codes(vec![0x5a; 8 * CHUNK]), ["magic"]);
    assert_eq!(codes(vec![]), ["too-short"]);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..5 * CHUNK), magic in any::<bool>()) {
        if magic && bytes.len() >= 16 {
            bytes[..16].copy_from_slice(b"SnAp\x01\0\0\0\x01\0\0\0\x08\0\0\0");
        }
        let found = check::check(MemDisk::new(bytes.clone()), None).unwrap();
        let info = Store::open(MemDisk::new(bytes.clone())).and_then(|store| Info::of(&store));
        let errors = found.findings.iter().filter(|f| f.severity == Severity::Error).count();
        let usable = info.is_ok_and(|info| info.valid);
        prop_assert_eq!(usable, errors == 0);
        let _ = try_apply(bytes);
    }

    #[test]
    fn arbitrary_areas_never_panic(
        entries in prop::collection::vec((0u64..400, 0u64..12), 0..257),
    ) {
        let mut bytes = vec![0; 12 * CHUNK];
        bytes[..16].copy_from_slice(b"SnAp\x01\0\0\0\x01\0\0\0\x08\0\0\0");
        for (slot, (origin, cow)) in entries.into_iter().enumerate().take(256) {
            put_entry(&mut bytes, slot, origin, cow);
        }
        let found = codes(bytes.clone());
        let errors = found.iter().filter(|code| **code != "stale-entries").count();
        prop_assert_eq!(try_apply(bytes).is_ok(), errors == 0);
    }
}
