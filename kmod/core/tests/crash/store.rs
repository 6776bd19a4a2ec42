// SPDX-License-Identifier: GPL-2.0

//! A COW store on its disk: made, loaded through the core, and read without the core.

use crate::disk::Disk;
use crate::disk::Durability;
use crate::disk::Sector;
use crate::disk::SECTOR;
use crate::host::Host;
use crate::random::Random;
use crate::rules::Fault;
use crate::summary;
use crate::summary::Known;
use holey_core::area::AreaImage;
use holey_core::format::Bounds;
use holey_core::format::ChunkSize;
use holey_core::format::Exception;
use holey_core::format::Header;
use holey_core::format::Layout;
use holey_core::format::UsedMap;
use holey_core::index::Directory;
use holey_core::index::Extent;
use holey_core::index::Index;
use holey_core::index::IndexError;
use holey_core::index::IndexWriter;
use holey_core::index::Node;
use holey_core::index::Run;
use holey_core::index::SEGMENT_NODES;
use holey_core::summary::Summary;
use std::rc::Rc;
use std::sync::OnceLock;

/// A filled origin.
pub(crate) fn new_origin(sectors: usize) -> Disk {
    Disk::new((1..=sectors as u64).map(Sector::stamp).collect())
}

/// A COW device full of what another use has left there, but for the first 4 KiB, which are zero.
pub(crate) fn new_cow(sectors: usize, random: &mut Random) -> Disk {
    let sector = |at| match at {
        0..8 => Sector::ZERO,
        _ => Sector::garbage(random.next()),
    };
    Disk::new((0..sectors).map(sector).collect())
}

/// The header's sector.
pub(crate) fn header(valid: bool, chunk: ChunkSize) -> Sector {
    let mut sector = [0; SECTOR];
    sector[..16].copy_from_slice(&Header { valid, chunk }.encode());
    Sector::cut(&sector)[0]
}

/// Makes a disk a valid, empty store: the area first, then the header that vouches for it.
pub(crate) async fn format(host: Rc<Host>, disk: usize, chunk: ChunkSize) {
    let sectors = chunk.sectors() as usize;
    let zeros = vec![Sector::ZERO; sectors];
    let mut head = zeros.clone();
    head[0] = header(true, chunk);
    if host.has(Fault::HeaderBeforeArea) {
        let _ = host
            .write(disk, 0, head, Durability::FlushedAndDurable)
            .await;
        let _ = host
            .write(disk, sectors, zeros, Durability::FlushedAndDurable)
            .await;
        return;
    }
    let _ = host.write(disk, sectors, zeros, Durability::Volatile).await;
    let how = if host.has(Fault::AreaNotFlushed) {
        Durability::Durable
    } else {
        Durability::FlushedAndDurable
    };
    let _ = host.write(disk, 0, head, how).await;
}

/// What a COW device says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// There is no store.
    Fresh,
    /// The store is not to be used.
    Invalid,
    /// There is a list.
    List,
}

/// Reads the list of exceptions into `list`, without the code under test.
pub(crate) fn read(
    cow: &[Sector],
    chunk: usize,
    list: &mut Vec<Exception>,
) -> Result<Found, String> {
    list.clear();
    let head = cow[0].bytes();
    let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
    match (word(0), word(4), word(8), word(12)) {
        (0, ..) => return Ok(Found::Fresh),
        (0x7041_6e53, 0, 1, _) => return Ok(Found::Invalid),
        (0x7041_6e53, 1, 1 | 2, size) if size as usize == chunk => {}
        other => return Err(format!("a header of {other:x?}")),
    }
    for area in 0.. {
        let at = (1 + area * (chunk * SECTOR / 16 + 1)) * chunk;
        let Some(sectors) = cow.get(at..at + chunk) else {
            return Err(format!("the list has no end: area {area}"));
        };
        for sector in sectors {
            for entry in sector.bytes().chunks_exact(16) {
                let origin = u64::from_le_bytes(entry[..8].try_into().unwrap());
                let cow = u64::from_le_bytes(entry[8..].try_into().unwrap());
                if cow == 0 {
                    return Ok(Found::List);
                }
                list.push(Exception { origin, cow });
            }
        }
    }
    unreachable!()
}

/// Whether the area in which a list of `listed` entries ends is zero behind its end.
pub(crate) fn is_tail_zero(cow: &[Sector], chunk: usize, listed: usize) -> bool {
    let entries = chunk * SECTOR / 16;
    let at = (1 + listed / entries * (entries + 1)) * chunk;
    let first = listed % entries * 16;
    let mut sectors = cow[at + first / SECTOR..at + chunk].iter();
    let head = sectors.next().expect("the list ends in its area").bytes();
    head[first % SECTOR..].iter().all(|byte| *byte == 0)
        && sectors.all(|sector| *sector == Sector::ZERO)
}

/// Memory of an index.
pub(crate) struct Segments(Vec<OnceLock<Vec<Node>>>);

impl Directory for Segments {
    fn segment(&self, n: usize) -> Option<&[Node]> {
        Some(self.0.get(n)?.get()?)
    }
}

/// An index that grows by itself.
pub(crate) struct Map {
    index: Index<Segments>,
    writer: IndexWriter,
}

impl Map {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self {
            index: Index::new(Segments((0..64).map(|_| OnceLock::new()).collect())),
            writer: IndexWriter::new(),
        }
    }

    /// What is known about a chunk and those behind it.
    pub(crate) fn lookup(&self, chunk: u64) -> Extent {
        self.index.lookup(chunk).unwrap()
    }

    /// The first run at or behind a chunk.
    pub(crate) fn next_run(&self, chunk: u64) -> Option<Run> {
        self.index.next_run(chunk).unwrap()
    }

    /// Where a chunk lives in the COW device, if it does.
    pub(crate) fn find(&self, chunk: u64) -> Option<u64> {
        match self.lookup(chunk) {
            Extent::Mapped { cow, .. } => Some(cow),
            Extent::Unmapped { .. } => None,
        }
    }

    /// Maps a run.
    pub(crate) fn insert(&mut self, run: Run) {
        loop {
            match self.index.insert_run(&mut self.writer, run) {
                Err(IndexError::NeedNodes) => {
                    let nodes = (0..SEGMENT_NODES).map(|_| Node::new()).collect();
                    let slot = &self.index.directory().0[self.writer.segments()];
                    assert!(slot.set(nodes).is_ok());
                    self.index.add_segment(&mut self.writer).unwrap();
                }
                done => return done.unwrap(),
            }
        }
    }

    /// Unmaps chunks.
    pub(crate) fn remove(&mut self, run: Run) {
        let removed = self.index.remove_run(&mut self.writer, run.origin, run.len);
        assert_eq!(removed, Ok(run.len));
    }
}

/// What loading a store gives.
pub(crate) struct Loaded {
    pub(crate) layout: Layout,
    pub(crate) list: Vec<Exception>,
    pub(crate) map: Map,
    pub(crate) image: AreaImage<Vec<u8>>,
    pub(crate) used: Vec<u64>,
    pub(crate) highest: u64,
    /// What the summary tells, if the list was not read.
    pub(crate) known: Option<Known>,
    /// The header points at a summary.
    pub(crate) summary: Option<Summary>,
    /// It is damaged.
    pub(crate) damaged: bool,
}

impl Loaded {
    /// Loads a store as an overlay does, `whole` or by its summary. `None` if it was invalidated.
    pub(crate) fn load(cow: &[Sector], origin_sectors: usize, whole: bool) -> Option<Self> {
        let mut loaded = Self::load_whole(cow, origin_sectors)?;
        loaded.summary = Summary::parse(&cow[0].bytes()).expect("a header is one sector");
        let known = summary::read(cow, origin_sectors);
        loaded.damaged = known.is_err();
        if let Some(known) = known.ok().flatten().filter(|_| !whole) {
            // What is in the index is what the summary tells.
            loaded.map = Map::new();
            let mut told = known.summarised.clone();
            told.extend(&known.behind);
            told.sort();
            told.dedup();
            told.into_iter()
                .for_each(|entry| loaded.map.insert(entry.into()));
            loaded.known = Some(known);
        }
        Some(loaded)
    }

    fn load_whole(cow: &[Sector], origin_sectors: usize) -> Option<Self> {
        let header = Header::parse(&cow[0].bytes()).unwrap().expect("a store");
        if !header.valid {
            return None;
        }
        let layout = Layout::new(header.chunk);
        let bounds = Bounds::new(header.chunk, origin_sectors as u64, cow.len() as u64).unwrap();
        let mut used = vec![0; UsedMap::words_for(bounds.cow_chunks) as usize];
        let mut map = Map::new();
        let mut image = AreaImage::new(layout, vec![0; header.chunk.bytes()]);
        let mut list = Vec::new();
        let mut highest = 0;
        for area in 0..layout.areas_within(bounds.cow_chunks) {
            let content = area_bytes(cow, layout, area);
            let count = image.load(area, &content, usize::MAX);
            for slot in 0..count {
                let entry = image.entry(slot).unwrap();
                layout.check(entry, bounds).unwrap();
                assert!(UsedMap::new(&mut used).claim(entry.cow), "{entry}");
                map.insert(Run {
                    origin: entry.origin,
                    cow: entry.cow,
                    len: 1,
                });
                highest = highest.max(entry.cow);
                list.push(entry);
            }
            if count < layout.entries() as usize {
                break;
            }
        }
        Some(Self {
            layout,
            list,
            map,
            image,
            used,
            highest,
            known: None,
            summary: None,
            damaged: false,
        })
    }
}

/// The bytes of an area.
pub(crate) fn area_bytes(cow: &[Sector], layout: Layout, area: u64) -> Vec<u8> {
    let chunk = layout.chunk().sectors() as usize;
    let at = layout.area_chunk(area) as usize * chunk;
    bytes_of(&cow[at..at + chunk])
}

/// The bytes of sectors.
pub(crate) fn bytes_of(sectors: &[Sector]) -> Vec<u8> {
    sectors.iter().flat_map(|sector| sector.bytes()).collect()
}
