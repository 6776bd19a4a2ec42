// SPDX-License-Identifier: GPL-2.0-or-later

//! A whole store, as the module loads it and as the tools read it.

use crate::input::Input;
use crate::sparse;
use crate::sparse::Sparse;
use dmholey_cow::apply;
use dmholey_cow::check;
use dmholey_cow::check::Severity;
use dmholey_cow::info::Info;
use dmholey_cow::progress::Silent;
use dmholey_cow::Disk;
use dmholey_cow::Error;
use dmholey_cow::MemDisk;
use dmholey_cow::Store;
use holey_core::alloc::Allocator;
use holey_core::area::entry_at;
use holey_core::area::AreaImage;
use holey_core::format::Bounds;
use holey_core::format::ChunkSize;
use holey_core::format::Exception;
use holey_core::format::FormatError;
use holey_core::format::Header;
use holey_core::format::Layout;
use holey_core::format::UsedMap;
use holey_core::format::HEADER_LEN;
use holey_core::format::SECTOR_SIZE;
use holey_core::index::Directory;
use holey_core::index::Extent;
use holey_core::index::Index;
use holey_core::index::IndexError;
use holey_core::index::IndexWriter;
use holey_core::index::Node;
use holey_core::index::SEGMENT_NODES;
use std::collections::BTreeSet;
use std::sync::OnceLock;

/// Sectors of the largest origin: it is really there.
const MAX_ORIGIN: u64 = 2048;
/// Bytes of an origin before anything is applied to it.
const OLD: u8 = 0x01;

/// Makes a device of a header, sizes and runs of entries. Loading it as the module does and
/// reading it as the tools do have to come to the same list or the same refusal, the tools to the
/// same content, and what is refused is not applied.
pub fn store(data: &[u8]) {
    let mut input = Input::new(data);
    let head = input.take::<HEADER_LEN>();
    let cow = device(head, &mut input);
    let origin = (1 + input.short() % MAX_ORIGIN) * SECTOR_SIZE;
    fill(&cow, &mut input);

    let loaded = load(&cow, origin / SECTOR_SIZE);
    let mut store = match Store::open(&cow) {
        Ok(store) => store,
        Err(error) => return refused(&cow, origin, loaded.err(), &error),
    };
    store.set_origin_size(origin);
    let read = store
        .usable()
        .and_then(|()| store.entries().collect::<Result<Vec<_>, _>>());
    let list = match (loaded, read) {
        (Ok(list), Ok(read)) => {
            assert_eq!(list, read);
            list
        }
        (Err(loaded), Err(read)) => return refused(&cow, origin, Some(loaded), &read),
        (loaded, read) => panic!("{loaded:?} but {read:?}"),
    };
    assert_eq!(errors(&cow, origin), 0);
    assert_eq!(
        Info::of(&store).unwrap().survey.exceptions,
        list.len() as u64
    );
    applied(&mut store, origin, &list);
}

/// A device with this header. Sizes are up to 16 MiB, with a part of a chunk at the end.
fn device(head: [u8; HEADER_LEN], input: &mut Input<'_>) -> Sparse {
    let size = input.short() % 4096 * 4096 + u64::from(input.byte()) * 64;
    let layout = match Header::parse(&head) {
        Ok(Some(header)) => Layout::new(header.chunk),
        _ => Layout::new(ChunkSize::new(8).unwrap()),
    };
    let cow = Sparse::new(size, layout);
    cow.set(0, head);
    cow
}

/// Sets entries: runs that ascend on both sides, single ones of any number, and holes.
fn fill(cow: &Sparse, input: &mut Input<'_>) {
    let layout = cow.layout();
    let mut slot = 0;
    while !input.is_empty() {
        let kind = input.byte();
        let len = u64::from(kind >> 2) + 1;
        let first = match kind & 3 {
            0 => {
                slot += len;
                continue;
            }
            1 => Exception {
                origin: input.long(),
                cow: input.long(),
            },
            _ => Exception {
                origin: input.short(),
                cow: input.short(),
            },
        };
        for n in 0..len {
            let entry = Exception {
                origin: first.origin.wrapping_add(n),
                cow: first.cow.wrapping_add(n),
            };
            let at = layout.area_chunk(slot / layout.entries()) * layout.chunk().bytes() as u64;
            cow.set(at + slot % layout.entries() * 16, entry.encode());
            slot += 1;
        }
    }
}

/// Why a store is not used.
#[derive(Debug)]
enum Refusal {
    Format(FormatError),
    Fresh,
    Invalidated,
    /// Smaller than what is read to find out.
    Short,
}

impl From<FormatError> for Refusal {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}

/// The steps of `kmod/store.rs`.
fn load(cow: &Sparse, origin: u64) -> Result<Vec<Exception>, Refusal> {
    let mut head = [0; HEADER_LEN];
    cow.read_at(0, &mut head).map_err(|_| Refusal::Short)?;
    let header = Header::parse(&head)?.ok_or(Refusal::Fresh)?;
    let layout = Layout::new(header.chunk);
    let bounds = Bounds::new(header.chunk, origin, cow.size() / SECTOR_SIZE)?;
    if !header.valid {
        return Err(Refusal::Invalidated);
    }
    let mut words = vec![0; UsedMap::words_for(bounds.cow_chunks) as usize];
    let mut used = UsedMap::new(&mut words);
    let (mut map, mut list) = (Map::new(), Vec::new());
    let mut buffer = vec![0; header.chunk.bytes()];
    let mut area = 0;
    loop {
        if area >= layout.areas_within(bounds.cow_chunks) {
            return Err(FormatError::NoEnd(area).into());
        }
        let at = layout.area_chunk(area) * header.chunk.bytes() as u64;
        cow.read_at(at, &mut buffer).unwrap();
        let mut slot = 0;
        while let Some(entry) = entry_at(&buffer, slot) {
            layout.check(entry, bounds)?;
            if !used.claim(entry.cow) {
                return Err(FormatError::CowTwice(entry).into());
            }
            map.insert(entry)?;
            list.push(entry);
            slot += 1;
        }
        if (slot as u64) < layout.entries() {
            break;
        }
        area += 1;
    }
    map.judge(&list, bounds);
    let mut image = AreaImage::new(layout, vec![0; header.chunk.bytes()]);
    image.load(area, &buffer, usize::MAX);
    assert_eq!(image.listed(), list.len() as u64);
    allocate(layout, bounds, &list, &used);
    Ok(list)
}

/// What is handed out after loading is free, and there is as much of it as the format says.
fn allocate(layout: Layout, bounds: Bounds, list: &[Exception], used: &UsedMap<'_>) {
    let highest = list.iter().map(|entry| entry.cow).max().unwrap_or(0);
    let mut alloc = Allocator::new(layout, vec![0; bounds.cow_chunks as usize]);
    alloc.restore(list.len() as u64, highest, used);
    let capacity = layout.capacity(bounds.cow_chunks);
    let mut taken = BTreeSet::new();
    for want in (1..=7).cycle().take(200) {
        let Some(run) = alloc.take(want, bounds.cow_chunks) else {
            // A last area that cannot be filled may hold all that is free.
            assert!(
                alloc.in_use() >= capacity,
                "{} of {capacity}",
                alloc.in_use()
            );
            break;
        };
        for chunk in run.first..run.first + run.len {
            let free = !used.is_used(chunk) && !layout.is_metadata(chunk);
            assert!(
                free && chunk < bounds.cow_chunks && taken.insert(chunk),
                "chunk {chunk}"
            );
        }
    }
}

/// Nothing of a refused store is applied, and a check tells why.
fn refused(cow: &Sparse, origin: u64, loaded: Option<Refusal>, read: &Error) {
    match (loaded, read) {
        (Some(Refusal::Format(loaded)), Error::Format { reason, .. }) => {
            assert_eq!(loaded, *reason);
        }
        (Some(Refusal::Short), Error::Format { reason, .. }) => {
            assert!(matches!(reason, FormatError::HeaderTooShort(_)));
        }
        (Some(Refusal::Fresh), Error::Fresh { .. }) => {}
        (Some(Refusal::Invalidated), Error::Invalidated { .. }) => {}
        (loaded, read) => panic!("{loaded:?} but {read:?}"),
    }
    assert!(errors(cow, origin) > 0);
    let target = MemDisk::new(vec![OLD; origin as usize]);
    let result = Store::open(cow).and_then(|mut s| apply::apply(&mut s, &target, &Silent));
    assert!(result.is_err());
    assert!(target.into_bytes().iter().all(|&byte| byte == OLD));
}

/// Errors that a check finds.
fn errors(cow: &Sparse, origin: u64) -> usize {
    let report = check::check(cow, Some(origin)).unwrap();
    let errors = report.findings.iter();
    errors
        .filter(|finding| finding.severity == Severity::Error)
        .count()
}

/// Every chunk of the list arrives, nothing else changes, and a consumed store is empty.
fn applied(store: &mut Store<&Sparse>, origin: u64, list: &[Exception]) {
    let target = MemDisk::new(vec![OLD; origin as usize]);
    apply::apply(store, &target, &Silent).unwrap();
    let chunk = store.chunk_bytes();
    let mut expected = vec![OLD; origin as usize];
    for entry in list {
        let place = &mut expected[(entry.origin * chunk) as usize..];
        let len = place.len().min(chunk as usize);
        for (n, to) in place[..len].chunks_mut(sparse::PIECE).enumerate() {
            let from = entry.cow * chunk + (n * sparse::PIECE) as u64;
            to.copy_from_slice(&sparse::content(from)[..to.len()]);
        }
    }
    assert!(target.into_bytes() == expected);
    let target = MemDisk::new(vec![OLD; origin as usize]);
    apply::merge_by(store, &target, 3 * chunk, &Silent).unwrap();
    assert!(target.into_bytes() == expected);
    assert_eq!(store.survey().unwrap().exceptions, 0);
}

/// Memory of an index.
struct Segments(Vec<OnceLock<Vec<Node>>>);

impl Directory for Segments {
    fn segment(&self, n: usize) -> Option<&[Node]> {
        Some(self.0.get(n)?.get()?)
    }
}

/// An index that grows by itself.
struct Map {
    index: Index<Segments>,
    writer: IndexWriter,
}

impl Map {
    fn new() -> Self {
        Self {
            index: Index::new(Segments((0..4096).map(|_| OnceLock::new()).collect())),
            writer: IndexWriter::new(),
        }
    }

    fn insert(&mut self, entry: Exception) -> Result<(), FormatError> {
        loop {
            match self.index.insert(&mut self.writer, entry) {
                Ok(()) => return Ok(()),
                Err(IndexError::Exists) => return Err(FormatError::OriginTwice(entry)),
                Err(IndexError::NeedNodes) => {
                    let nodes = (0..SEGMENT_NODES).map(|_| Node::new()).collect();
                    let slot = &self.index.directory().0[self.writer.segments()];
                    assert!(slot.set(nodes).is_ok());
                    self.index.add_segment(&mut self.writer).unwrap();
                }
                Err(error) => panic!("{entry}: {error}"),
            }
        }
    }

    /// Every entry is found, and nothing else.
    fn judge(&self, list: &[Exception], bounds: Bounds) {
        assert_eq!(self.index.len(), list.len() as u64);
        for entry in list {
            match self.index.lookup(entry.origin).unwrap() {
                Extent::Mapped { cow, .. } => assert_eq!(cow, entry.cow),
                Extent::Unmapped { .. } => panic!("{entry} is not in the index"),
            }
        }
        let (mut chunk, mut mapped) = (0, 0);
        while chunk < bounds.origin_chunks {
            let len = match self.index.lookup(chunk).unwrap() {
                Extent::Mapped { len, .. } => {
                    mapped += len;
                    len
                }
                Extent::Unmapped { len } => len,
            };
            assert!(len > 0);
            chunk = chunk.saturating_add(len);
        }
        assert_eq!(mapped, list.len() as u64);
    }
}
