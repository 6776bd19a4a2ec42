// SPDX-License-Identifier: GPL-2.0

//! The modules of the core, each against a model that is too simple to be wrong.

use holey_core::alloc::Allocator;
use holey_core::alloc::Run;
use holey_core::area::AreaImage;
use holey_core::format::Bounds;
use holey_core::format::ChunkSize;
use holey_core::format::Exception;
use holey_core::format::Header;
use holey_core::format::Layout;
use holey_core::format::UsedMap;
use holey_core::format::VERSION;
use holey_core::merge::window_start;
use holey_core::merge::Window;
use holey_core::pending::Pending;
use holey_core::pending::Slot;
use holey_core::pending::State;
use holey_core::sort::sort_by_origin;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;

/// The smallest chunks: 256 entries an area.
fn layout() -> Layout {
    Layout::new(ChunkSize::new(8).unwrap())
}

fn is_metadata(chunk: u64) -> bool {
    chunk == 0 || chunk % 257 == 1
}

/// How many exceptions can be listed, found by trying: each takes the next data chunk, and the
/// entry that fills an area needs the next area to be there.
fn capacity(cow_chunks: u64) -> u64 {
    let mut listed = 0;
    for chunk in (2..cow_chunks).filter(|chunk| !is_metadata(*chunk)) {
        let fills = listed % 256 == 255;
        let next_area = 1 + (listed / 256 + 1) * 257;
        if fills && next_area >= cow_chunks {
            break;
        }
        assert!(chunk > listed);
        listed += 1;
    }
    listed
}

#[test]
fn layout_as_counted() {
    for cow_chunks in (3..1200).chain([2570, 2571, 2572, 2573]) {
        assert_eq!(
            layout().capacity(cow_chunks),
            capacity(cow_chunks),
            "{cow_chunks}"
        );
        let areas = (0..cow_chunks).filter(|chunk| chunk % 257 == 1).count();
        assert_eq!(layout().areas_within(cow_chunks), areas as u64);
    }
    for chunk in 0..1000 {
        assert_eq!(layout().is_metadata(chunk), is_metadata(chunk));
        let next = (chunk..).find(|chunk| !is_metadata(*chunk)).unwrap();
        assert_eq!(layout().skip_metadata(chunk), next);
    }
    for exceptions in 0..1000 {
        let need = layout().chunks_for(exceptions);
        assert!(capacity(need) >= exceptions, "{exceptions} in {need}");
        assert!(
            capacity(need - 1) < exceptions || need <= 3,
            "{exceptions} in {need}"
        );
    }
}

/// One thing that is done to an allocator.
#[derive(Clone, Debug)]
enum Allocate {
    Take(u64),
    GiveBack(usize),
    Grow(u64),
    Reload(u64),
}

fn allocations() -> impl Strategy<Value = Vec<Allocate>> {
    let op = prop_oneof![
        8 => (0u64..40).prop_map(Allocate::Take),
        2 => (0u64..600).prop_map(Allocate::Take),
        5 => any::<usize>().prop_map(Allocate::GiveBack),
        1 => (0u64..300).prop_map(Allocate::Grow),
        1 => any::<u64>().prop_map(Allocate::Reload),
    ];
    prop::collection::vec(op, 0..120)
}

/// What is handed out is free data on the device, and all of it is found if holes are remembered.
fn allocate(ops: Vec<Allocate>, mut cow_chunks: u64, holes: usize) {
    let mut alloc = Allocator::new(layout(), vec![0; holes]);
    let mut used: BTreeSet<u64> = BTreeSet::new();
    let mut runs: Vec<Run> = Vec::new();
    for op in ops {
        match op {
            Allocate::Take(want) => match alloc.take(want, cow_chunks) {
                Some(run) => {
                    assert!((1..=want).contains(&run.len));
                    for chunk in run.first..run.first + run.len {
                        assert!(!is_metadata(chunk) && chunk < cow_chunks, "{run:?}");
                        assert!(used.insert(chunk), "{chunk} is in use");
                    }
                    runs.push(run);
                }
                None if want > 0 && holes > 2000 => {
                    assert!(used.len() as u64 >= capacity(cow_chunks), "not full");
                }
                None => {}
            },
            Allocate::GiveBack(n) if !runs.is_empty() => {
                let run = runs.swap_remove(n % runs.len());
                for chunk in run.first..run.first + run.len {
                    used.remove(&chunk);
                }
                alloc.give_back(run);
            }
            Allocate::GiveBack(_) => {}
            Allocate::Grow(by) => cow_chunks += by,
            // Only some of what was taken has been listed before a crash.
            Allocate::Reload(bits) => {
                runs.retain(|run| (bits >> (run.first % 64)) & 1 == 0);
                used = runs
                    .iter()
                    .flat_map(|run| run.first..run.first + run.len)
                    .collect();
                let mut words = vec![0; UsedMap::words_for(cow_chunks) as usize];
                let mut map = UsedMap::new(&mut words);
                assert!(used.iter().all(|chunk| map.claim(*chunk)));
                let highest = used.last().copied().unwrap_or(0);
                alloc.restore(used.len() as u64, highest, &map);
            }
        }
        assert_eq!(alloc.in_use(), used.len() as u64);
        assert!(used.last().is_none_or(|last| *last < alloc.next_free()));
        assert!(!is_metadata(alloc.next_free()));
    }
}

/// One thing that is done to a table of pending exceptions.
#[derive(Clone, Debug)]
enum Pend {
    Insert(u64),
    Wait(u64),
    Ready(u64),
    Abandon(u64),
    Take(usize),
    Settle(usize),
    GiveUp,
    Grow(usize),
}

fn pends() -> impl Strategy<Value = Vec<Pend>> {
    let op = prop_oneof![
        10 => (0u64..40).prop_map(Pend::Insert),
        6 => (0u64..40).prop_map(Pend::Wait),
        8 => (0u64..40).prop_map(Pend::Ready),
        2 => (0u64..40).prop_map(Pend::Abandon),
        4 => (0usize..8).prop_map(Pend::Take),
        4 => (0usize..8).prop_map(Pend::Settle),
    ];
    prop::collection::vec(
        prop_oneof![
            200 => op,
            1 => Just(Pend::GiveUp),
            4 => (0usize..45).prop_map(Pend::Grow),
        ],
        0..400,
    )
}

/// The table as a map and two queues.
#[derive(Default)]
struct Model {
    chunks: BTreeMap<u64, (State, u64, Vec<u32>)>,
    ready: VecDeque<u64>,
    committing: VecDeque<u64>,
    issued: u64,
    durable: u64,
}

impl Model {
    fn settle(&mut self) -> Option<(Exception, Vec<u32>)> {
        let chunk = self.committing.pop_front()?;
        self.durable += 1;
        let (_, _, waiters) = self.chunks.remove(&chunk)?;
        Some((exception(chunk), waiters))
    }
}

fn exception(origin: u64) -> Exception {
    Exception {
        origin,
        cow: origin + 1000,
    }
}

fn pend(ops: Vec<Pend>, slots: usize, buckets: usize) {
    let table_of = |slots: usize| {
        let slots = (0..slots).map(|_| Slot::new());
        let slots: Vec<Slot<Vec<u32>>> = slots.collect();
        Pending::new(slots, vec![0; buckets])
    };
    let mut most = slots;
    let mut table = table_of(most);
    let mut model = Model::default();
    for (n, op) in (0u32..).zip(ops) {
        match op {
            Pend::Insert(chunk) => {
                let fits = model.chunks.len() < most && !model.chunks.contains_key(&chunk);
                assert_eq!(table.insert(exception(chunk)), fits);
                if fits {
                    model.chunks.insert(chunk, (State::Filling, 0, Vec::new()));
                }
            }
            Pend::Wait(chunk) => {
                let slot = table.find(chunk);
                let expected = model.chunks.get_mut(&chunk);
                assert_eq!(slot.is_some(), expected.is_some());
                if let (Some(slot), Some((_, _, waiters))) = (slot, expected) {
                    slot.waiters.push(n);
                    waiters.push(n);
                }
            }
            Pend::Ready(chunk) => {
                let ticket = table.ready(chunk).map(|slot| slot.ticket());
                match model.chunks.get_mut(&chunk) {
                    Some((state, expected, _)) if *state == State::Filling => {
                        model.issued += 1;
                        model.ready.push_back(chunk);
                        (*state, *expected) = (State::Ready, model.issued);
                        assert_eq!(ticket, Some(model.issued));
                    }
                    _ => assert_eq!(ticket, None),
                }
            }
            Pend::Abandon(chunk) => {
                let expected = match model.chunks.get(&chunk) {
                    Some((State::Filling, _, _)) => model.chunks.remove(&chunk),
                    _ => None,
                };
                let expected = expected.map(|(_, _, waiters)| (exception(chunk), waiters));
                assert_eq!(table.abandon(chunk), expected);
            }
            Pend::Take(count) => {
                let mut taken = Vec::new();
                let got = table.take(|entry| {
                    let accept = taken.len() < count;
                    if accept {
                        taken.push(entry.origin);
                    }
                    accept
                });
                assert_eq!(got, taken.len());
                let expected: Vec<u64> =
                    model.ready.drain(..count.min(model.ready.len())).collect();
                assert_eq!(taken, expected);
                for chunk in taken {
                    model.chunks.get_mut(&chunk).unwrap().0 = State::Committing;
                    model.committing.push_back(chunk);
                }
            }
            Pend::Settle(count) => {
                for _ in 0..count {
                    assert_eq!(table.settle(), model.settle());
                }
            }
            Pend::Grow(slots) => {
                let left = table.grow(table_of(slots));
                assert_eq!(left.capacity(), most.min(slots));
                most = most.max(slots);
            }
            Pend::GiveUp => {
                while let Some(chunk) = model.ready.pop_front() {
                    model.committing.push_back(chunk);
                }
                loop {
                    let (got, expected) = (table.give_up(), model.settle());
                    assert_eq!(got, expected);
                    if got.is_none() {
                        break;
                    }
                }
            }
        }
        compare(&mut table, &model, most);
    }
}

fn compare(table: &mut Pending<Vec<Slot<Vec<u32>>>, Vec<u32>>, model: &Model, most: usize) {
    assert_eq!(table.len(), model.chunks.len());
    assert_eq!(table.room(), most - model.chunks.len());
    assert_eq!(table.issued(), model.issued);
    assert_eq!(table.durable(), model.durable);
    assert_eq!(table.ready_len(), model.ready.len() as u64);
    assert_eq!(table.is_committing(), !model.committing.is_empty());
    for chunk in 0..40 {
        let slot = table.find(chunk);
        let got = slot.map(|slot| (slot.state(), slot.ticket(), slot.waiters.clone()));
        assert_eq!(got, model.chunks.get(&chunk).cloned());
    }
}

/// Writes the given part of the image to the disk.
fn store(disk: &mut [u8], image: &AreaImage<Vec<u8>>, part: std::ops::Range<usize>) {
    assert!(part.end <= disk.len() && part.start % 512 == 0 && part.end % 512 == 0);
    disk[part.clone()].copy_from_slice(&image.bytes()[part]);
}

proptest! {
    #[test]
    fn allocator(ops in allocations(), chunks in 3u64..1200, few in any::<bool>()) {
        allocate(ops, chunks, if few { 20 } else { 3000 });
    }

    #[test]
    fn pending(ops in pends(), slots in 0usize..30, buckets in 1usize..20) {
        pend(ops, slots, buckets);
    }

    /// The disk follows the image through parts alone, from any content that a crash has left.
    #[test]
    fn area(
        listed in 0usize..=255,
        stale in prop::collection::vec((0usize..256, any::<bool>()), 0..20),
        pushes in prop::collection::vec(0usize..50, 0..12),
        block in prop::sample::select(vec![512usize, 1024, 4096]),
    ) {
        let mut disk = vec![0; 4096];
        let entry = |n: usize| Exception { origin: n as u64, cow: n as u64 + 2 };
        for slot in (0..listed).chain(stale.iter().map(|(slot, _)| *slot)) {
            disk[slot * 16..][..16].copy_from_slice(&entry(slot).encode());
        }
        // A hole: what has a zero COW chunk ends the list, whatever the other half says.
        disk[listed * 16 + 8..][..8].fill(0);
        let mut image = AreaImage::new(layout(), vec![0xff; 4096]);
        prop_assert_eq!(image.load(3, &disk, usize::MAX), listed);
        let part = image.stale(block);
        store(&mut disk, &image, part);
        image.scrubbed();
        prop_assert!(image.stale(block).is_empty());
        prop_assert_eq!(&disk[..], image.bytes());
        let mut next = listed;
        for count in pushes {
            if count == 49 {
                image.next_is_zeroed();
            }
            for _ in 0..count {
                let room = image.room();
                let pushed = image.push(entry(next));
                prop_assert_eq!(pushed, room > 0);
                next += usize::from(pushed);
            }
            let part = image.unwritten(block);
            store(&mut disk, &image, part);
            prop_assert_eq!(&disk[..], image.bytes());
            prop_assert_eq!(image.listed(), 3 * 256 + next as u64);
            let was_full = image.is_full();
            image.wrote();
            prop_assert!(image.unwritten(block).is_empty());
            if was_full {
                prop_assert_eq!((image.area(), image.filled()), (4, 0));
                break;
            }
        }
    }

    /// Whatever stands in an area, its list is what comes before the first hole.
    #[test]
    fn area_of_noise(bytes in prop::collection::vec(any::<u8>(), 4096), limit in 0usize..300) {
        let mut image = AreaImage::new(layout(), vec![0; 4096]);
        let count = image.load(0, &bytes, limit);
        let hole = bytes.chunks(16).position(|entry| entry[8..] == [0; 8]).unwrap_or(256);
        prop_assert_eq!(count, hole.min(limit));
        prop_assert_eq!(&image.bytes()[..count * 16], &bytes[..count * 16]);
        prop_assert!(image.bytes()[count * 16..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn windows(listed in 0u64..5000, most in 0u64..2000) {
        let mut end = listed;
        let mut windows = 0;
        while end > 0 {
            let start = window_start(layout(), end, most).index(layout());
            prop_assert!(start < end && end - start <= most.max(1));
            end = start;
            windows += 1;
        }
        prop_assert!(windows <= 2 * (listed / most.max(1) + listed / 256) + 2);
    }

    #[test]
    fn merge_runs(
        steps in prop::collection::vec((1u64..3, 0u64..3), 0..200),
        most in 0u64..20,
        probes in prop::collection::vec((0u64..500, 0u64..5), 50),
    ) {
        let (mut origin, mut cow) = (0, 2);
        let mut entries = Vec::new();
        for (step, jump) in steps {
            origin += step;
            cow += 1 + jump / 2 * 7;
            entries.push(Exception { origin, cow });
        }
        let sorted = entries.clone();
        entries.sort_by_key(|entry| entry.cow.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        sort_by_origin(&mut entries, &mut sorted.clone(), &mut [0; 256]);
        let window = Window::new(&entries);
        let mut rest = sorted.iter().copied();
        let mut last: Option<(u64, u64, u64)> = None;
        for run in window.runs(most) {
            prop_assert!(run.len >= 1 && run.len <= most.max(1));
            if let Some((origin, cow, len)) = last {
                let follows = origin + len == run.origin && cow + len == run.cow;
                prop_assert!(!follows || len == most.max(1), "could have been one run");
            }
            last = Some((run.origin, run.cow, run.len));
            for n in 0..run.len {
                let entry = Exception { origin: run.origin + n, cow: run.cow + n };
                prop_assert_eq!(rest.next(), Some(entry));
            }
        }
        prop_assert_eq!(rest.next(), None);
        for (first, more) in probes {
            let last = first + more;
            let expected = sorted.iter().any(|entry| (first..=last).contains(&entry.origin));
            prop_assert_eq!(window.touches(first, last), expected);
        }
    }

    /// Whatever stands in a header, it is refused or survives a round, as version 1: what is written
    /// has no summary.
    #[test]
    fn header_of_noise(
        noise in prop::collection::vec(any::<u8>(), 0..40),
        words in prop::collection::vec(prop::sample::select(vec![0u32, 1, 2, 8, 16, 1 << 17, 1 << 18, 0x7041_6e53]), 4),
    ) {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        for bytes in [&noise, &bytes] {
            if let Ok(Some(header)) = Header::parse(bytes) {
                let mut want = bytes[..16].to_vec();
                want[8..12].copy_from_slice(&VERSION.to_le_bytes());
                prop_assert_eq!(&header.encode()[..], &want[..]);
            }
        }
        bytes.truncate(noise.len());
        prop_assert!(noise.len() >= 16 || Header::parse(&bytes).is_err());
    }

    #[test]
    fn entries_within_bounds(origin in any::<u64>(), cow in 0u64..3000, size in 3u64..2000) {
        let bounds = Bounds { origin_chunks: 1 << 20, cow_chunks: size };
        let fine = origin < 1 << 20 && cow < size && !is_metadata(cow);
        let entry = Exception { origin, cow };
        prop_assert_eq!(layout().check(entry, bounds).is_ok(), fine);
        prop_assert_eq!(Exception::decode(&entry.encode()), (cow != 0).then_some(entry));
    }
}
