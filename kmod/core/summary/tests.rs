// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

const CHUNK: u32 = 8;

fn layout() -> Layout {
    Layout::new(ChunkSize::new(CHUNK).unwrap())
}

fn bounds() -> PageBounds {
    PageBounds {
        layout: layout(),
        origin_chunks: u64::MAX,
        next_free: MAX_COW_CHUNKS,
    }
}

fn run(origin: u64, cow: u64, len: u64) -> Run {
    Run { origin, cow, len }
}

/// The pages and fences of runs.
fn pack(runs: &[Run]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let (mut pages, mut fences) = (Vec::new(), Vec::new());
    let mut writer = PageWriter::new(vec![0; PAGE_LEN]);
    let mut flush = |writer: &mut PageWriter<Vec<u8>>| {
        let (page, fence) = writer.finish();
        pages.push(page.clone());
        fences.extend_from_slice(&fence);
        writer.clear();
    };
    for run in runs {
        if !writer.push(*run) {
            flush(&mut writer);
            assert!(writer.push(*run));
        }
    }
    if !writer.is_empty() {
        flush(&mut writer);
    }
    (pages, fences)
}

fn summary(fences: &[u8]) -> Summary {
    Summary {
        pages: (fences.len() / FENCE_LEN) as u32,
        top: 1 << 30,
        listed: 0,
        next_free: 2,
        fences: crc32c(fences),
        last: 0,
    }
}

fn unpack(pages: &[Vec<u8>], fences: &Fences<Vec<u8>>) -> Result<Vec<Run>, SummaryError> {
    (0..)
        .zip(pages)
        .map(|(n, page)| fences.read(n, page, bounds())?.collect())
        .collect::<Result<Vec<Vec<Run>>, _>>()
        .map(|runs| runs.concat())
}

/// Runs in the order of the origin that name data chunks; what is random are the steps.
fn runs() -> impl Strategy<Value = Vec<Run>> {
    let step = prop_oneof![0..4u64, 0..5000u64, 0..1u64 << 40];
    let cow = prop_oneof![0..100u64, 0..MAX_COW_CHUNKS - 10_000];
    let len = prop_oneof![1..3u64, 1..256u64];
    prop::collection::vec((step, len, cow), 0..3000).prop_map(|steps| {
        let mut origin = 0;
        let runs = steps.into_iter().map(|(step, len, cow)| {
            let cow = layout().skip_metadata(cow);
            let len = len.min(layout().data_from(cow));
            let run = run(origin + step, cow, len);
            origin = run.end();
            run
        });
        runs.collect()
    })
}

proptest! {
    #[test]
    fn what_is_packed_is_unpacked(runs in runs()) {
        let (pages, fences) = pack(&runs);
        let fences = Fences::new(fences.clone(), &summary(&fences)).unwrap();
        prop_assert_eq!(unpack(&pages, &fences).unwrap(), runs.clone());
        // The page of a chunk is the one that names it.
        for run in runs.into_iter().step_by(37) {
            let page = fences.page_of(run.end() - 1);
            let mut found = fences.read(page, &pages[page as usize], bounds()).unwrap();
            prop_assert!(found.any(|other| other == Ok(run)));
        }
    }

    #[test]
    fn damage_is_noticed(runs in runs(), at in any::<prop::sample::Index>(), bit in 0..8u32) {
        prop_assume!(!runs.is_empty());
        let (mut pages, mut fences) = pack(&runs);
        let whole = summary(&fences);
        let place = at.index(pages.len() * PAGE_LEN + fences.len());
        match pages.get_mut(place / PAGE_LEN) {
            Some(page) => {
                page[place % PAGE_LEN] ^= 1u8 << bit;
                let fences = Fences::new(fences, &whole).unwrap();
                let n = (place / PAGE_LEN) as u64;
                prop_assert_eq!(unpack(&pages, &fences), Err(SummaryError::Page(n)));
            }
            None => {
                let at = place - pages.len() * PAGE_LEN;
                fences[at] ^= 1u8 << bit;
                let damaged = Fences::new(fences, &whole).err();
                prop_assert_eq!(damaged, Some(SummaryError::Fences));
            }
        }
    }

    /// Whoever makes the checksums, too, gets runs within the bounds or an error.
    #[test]
    fn hostile_pages(bytes in prop::collection::vec(any::<u8>(), 0..200), first in any::<u64>(), next in any::<u64>()) {
        let mut page = vec![0; PAGE_LEN];
        page[..bytes.len()].copy_from_slice(&bytes);
        let mut fences = Vec::from(fence_of(first, &page));
        fences.extend_from_slice(&fence_of(next, &page));
        let Ok(fences) = Fences::new(fences.clone(), &summary(&fences)) else {
            prop_assert!(first >= next);
            return Ok(());
        };
        let bounds = PageBounds { layout: layout(), origin_chunks: 1 << 40, next_free: 1 << 30 };
        let mut end = first;
        for run in fences.read(0, &page, bounds).unwrap() {
            let Ok(run) = run else { break };
            prop_assert!(run.len >= 1 && run.origin >= end && run.end() <= next.min(1 << 40));
            prop_assert!((run.cow..run.cow + run.len).all(|cow| (2..1 << 30).contains(&cow) && !layout().is_metadata(cow)) || run.len > 256);
            prop_assert!(run.len <= layout().entries());
            end = run.end();
        }
    }

    #[test]
    fn headers(pages in 0..=MOST_PAGES, places in any::<[u64; 3]>(), sums in any::<[u32; 2]>(), bit in 0..SUMMARY_HEADER_LEN * 8) {
        let [top, listed, next_free] = places;
        let [fences, last] = sums;
        let summary = Summary { pages, top, listed, next_free, fences, last };
        let chunk = ChunkSize::new(CHUNK).unwrap();
        let mut bytes = summary.encode(chunk);
        prop_assert_eq!(Header::parse(&bytes), Ok(Some(Header { valid: true, chunk })));
        prop_assert_eq!(Summary::parse(&bytes), Ok(Some(summary)));
        bytes[bit / 8] ^= 1 << (bit % 8);
        // Without its version it is a header of another version.
        let damaged = Summary::parse(&bytes);
        let is_version = (64..96).contains(&bit);
        prop_assert_eq!(damaged, if is_version { Ok(None) } else { Err(SummaryError::Header) });
    }

    #[test]
    fn sets_of_pages(there in prop::collection::btree_set(0..200u64, 0..200)) {
        let set = PageSet::new((0..PageSet::<Vec<AtomicU64>>::words_for(200)).map(|_| AtomicU64::new(0)).collect::<Vec<_>>());
        for n in &there {
            set.add(*n);
        }
        for from in 0..=200 {
            let next = there.range(from..).next().copied();
            prop_assert_eq!(set.next(from, 200, true), next);
            let gap = (from..200).find(|n| !there.contains(n));
            prop_assert_eq!(set.next(from, 200, false), gap);
            prop_assert_eq!(set.has(from), there.contains(&from));
        }
        for n in &there {
            set.remove(*n);
        }
        prop_assert_eq!(set.next(0, 200, true), None);
    }
}

#[test]
fn scattered_chunks_take_few_bytes() {
    let runs: Vec<_> = (0..100_000)
        .map(|n| run(4 * n, layout().skip_metadata(2 + n + n / 256), 1))
        .collect();
    let (pages, _) = pack(&runs);
    assert_eq!(pages.len(), 100_000 * 3 / PAGE_LEN + 1);
}

#[test]
fn places() {
    let summary = Summary {
        pages: 400,
        top: 8 * 1000,
        listed: 256 * 3 + 5,
        next_free: 700,
        fences: 0,
        last: 0,
    };
    assert_eq!(summary.page_sector(0), Some(8 * 999));
    assert_eq!(summary.page_sector(399), Some(8 * 600));
    assert_eq!(summary.page_sector(1000), None);
    // 400 fences take two pages.
    assert_eq!(summary.start(), Some(8 * 598));
    assert_eq!(summary.end(layout()), (3, 5));
    let bounds = |chunks: u64| Bounds::new(layout().chunk(), 8 << 20, 8 * chunks).unwrap();
    let check = |summary: Summary, chunks| summary.check(layout(), bounds(chunks), 8 * chunks);
    // The data reaches into it.
    assert_eq!(check(summary, 1000), Err(SummaryError::Place));
    // Below chunk 598 are the header and three areas.
    let summary = Summary {
        listed: 594,
        next_free: 598,
        ..summary
    };
    assert_eq!(check(summary, 1000), Ok(()));
    assert_eq!(check(summary, 999), Err(SummaryError::Place));
    for wrong in [
        Summary {
            next_free: 599,
            ..summary
        },
        Summary {
            next_free: 1,
            ..summary
        },
        Summary {
            listed: 595,
            ..summary
        },
        Summary {
            top: 8 * 1000 - 1,
            ..summary
        },
        Summary {
            pages: 1000,
            ..summary
        },
    ] {
        assert_eq!(check(wrong, 1000), Err(SummaryError::Place), "{wrong:?}");
    }
}

#[test]
fn a_list_that_has_changed_is_noticed() {
    let entries: Vec<u8> = (0..256u64)
        .flat_map(|n| {
            Exception {
                origin: n,
                cow: n + 2,
            }
            .encode()
        })
        .collect();
    let mut summary = Summary {
        pages: 0,
        top: 0,
        listed: 256 + 7,
        next_free: 2,
        fences: 0,
        last: crc32c(&entries[..7 * ENTRY_LEN]),
    };
    let mut content = entries.clone();
    assert_eq!(summary.check_end(layout(), &content), Ok(()));
    content[7 * ENTRY_LEN..].fill(0);
    assert_eq!(summary.check_end(layout(), &content), Ok(()));
    content[6 * ENTRY_LEN..].fill(0);
    assert_eq!(
        summary.check_end(layout(), &content),
        Err(SummaryError::Stale)
    );
    assert_eq!(
        summary.check_end(layout(), &entries[..50]),
        Err(SummaryError::Stale)
    );
    // An area that is full is looked at as well.
    summary.listed = 256;
    summary.last = crc32c(&entries);
    assert_eq!(summary.end(layout()), (0, 256));
    assert_eq!(summary.check_end(layout(), &entries), Ok(()));
    let cut = [&entries[..4080], &[0; 16]].concat();
    assert_eq!(summary.check_end(layout(), &cut), Err(SummaryError::Stale));
    summary.listed = 0;
    summary.last = crc32c(&[]);
    assert_eq!(summary.end(layout()), (0, 0));
    assert_eq!(summary.check_end(layout(), &[0; 4096]), Ok(()));
}

#[test]
fn errors_say_what_is_wrong() {
    for error in [
        SummaryError::Header,
        SummaryError::Place,
        SummaryError::Stale,
        SummaryError::Fences,
        SummaryError::Page(3),
        SummaryError::Run(3),
    ] {
        assert!(!error.to_string().is_empty());
    }
}
