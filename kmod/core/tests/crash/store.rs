// SPDX-License-Identifier: GPL-2.0

//! A COW store and what is the same in all its uses: making, loading and judging it.

use crate::disk::Disk;
use crate::disk::Sector;
use crate::disk::SECTOR;
use crate::random::Random;
use crate::view::View;
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
use holey_core::index::SEGMENT_NODES;
use std::collections::BTreeSet;
use std::sync::OnceLock;

/// Sectors of a chunk: the smallest chunk, so that areas are short.
pub(crate) const CHUNK: usize = 8;

/// The two devices of an overlay.
#[derive(Clone)]
pub(crate) struct Devices {
    pub(crate) origin: Disk,
    pub(crate) cow: Disk,
}

impl Devices {
    /// A filled origin and a COW device full of what another use has left there, but for the
    /// first chunk, which is zero.
    pub(crate) fn new(origin_chunks: usize, cow_chunks: usize, random: &mut Random) -> Self {
        let origin = (0..origin_chunks * CHUNK).map(|at| Sector::Stamp(at as u64 + 1));
        let cow = (0..cow_chunks * CHUNK).map(|at| {
            if at < CHUNK {
                Sector::cut(&[0; SECTOR]).remove(0)
            } else {
                Sector::Stamp(random.next() | (1 << 63))
            }
        });
        Self {
            origin: Disk::new(origin.collect()),
            cow: Disk::new(cow.collect()),
        }
    }

    /// Makes the COW device a valid, empty store: the area first, then the header that vouches
    /// for it. `cut` is called after each step.
    pub(crate) fn format(&mut self, mut cut: impl FnMut(&Self)) {
        let zeros = Sector::cut(&[0; CHUNK * SECTOR]);
        let header = Header {
            valid: true,
            chunk: chunk_size(),
        };
        let mut sector = [0; SECTOR];
        sector[..16].copy_from_slice(&header.encode());
        let area = self.cow.write(CHUNK, zeros.clone());
        cut(self);
        self.cow.finish(area);
        cut(self);
        let mut content = Sector::cut(&sector);
        content.extend_from_slice(&zeros[1..]);
        let head = self.cow.write_flush_fua(0, content);
        cut(self);
        while !self.cow.finish(head) {
            cut(self);
        }
        cut(self);
    }

    /// What is left of both if power is cut now.
    pub(crate) fn cut(&self, random: &mut Random) -> Self {
        Self {
            origin: self.origin.cut(random),
            cow: self.cow.cut(random),
        }
    }

    /// The sizes in chunks.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds {
            origin_chunks: (self.origin.len() / CHUNK) as u64,
            cow_chunks: (self.cow.len() / CHUNK) as u64,
        }
    }

    /// The list of exceptions, read without the code under test. `None` if the store is fresh.
    pub(crate) fn list(&self) -> Option<Vec<Exception>> {
        let head = self.cow.read(0, 1)[0].bytes();
        if head[..4] == [0; 4] {
            return None;
        }
        assert_eq!(head[..16], *b"SnAp\x01\0\0\0\x01\0\0\0\x08\0\0\0", "header");
        let mut list = Vec::new();
        for area in 0.. {
            let chunk = 1 + area * (CHUNK * SECTOR / 16 + 1);
            for sector in self.cow.read(chunk * CHUNK, CHUNK) {
                for entry in sector.bytes().chunks_exact(16) {
                    let origin = u64::from_le_bytes(entry[..8].try_into().unwrap());
                    let cow = u64::from_le_bytes(entry[8..].try_into().unwrap());
                    if cow == 0 {
                        return Some(list);
                    }
                    list.push(Exception { origin, cow });
                }
            }
        }
        unreachable!()
    }

    /// Whether the area in which the list ends is zero behind its end.
    pub(crate) fn is_tail_zero(&self) -> bool {
        let entries = CHUNK * SECTOR / 16;
        let listed = self.list().map_or(0, |list| list.len());
        let area = 1 + listed / entries * (entries + 1);
        let mut bytes = Vec::new();
        for sector in self.cow.read(area * CHUNK, CHUNK) {
            bytes.extend_from_slice(&sector.bytes()[..]);
        }
        bytes[listed % entries * 16..].iter().all(|byte| *byte == 0)
    }

    /// What the device that is made of both shows, given the list.
    pub(crate) fn show(&self, list: &[Exception]) -> Vec<Sector> {
        let mut shown = self.origin.read(0, self.origin.len()).to_vec();
        for entry in list {
            let (to, from) = (entry.origin as usize * CHUNK, entry.cow as usize * CHUNK);
            shown[to..to + CHUNK].clone_from_slice(self.cow.read(from, CHUNK));
        }
        shown
    }

    /// Judges what a power cut has left: the list is sound and the device shows what it may show.
    /// Returns the list.
    pub(crate) fn judge(&self, view: &View) -> Vec<Exception> {
        let list = self.list().unwrap_or_default();
        let (mut origins, mut cows) = (BTreeSet::new(), BTreeSet::new());
        for entry in &list {
            let chunk = entry.cow as usize;
            assert!(
                chunk >= 2 && chunk % (CHUNK * SECTOR / 16 + 1) != 1,
                "{entry}"
            );
            assert!(entry.cow < self.bounds().cow_chunks, "{entry}");
            assert!(entry.origin < self.bounds().origin_chunks, "{entry}");
            assert!(origins.insert(entry.origin), "{entry}: origin chunk twice");
            assert!(cows.insert(entry.cow), "{entry}: COW chunk twice");
        }
        for (at, sector) in self.show(&list).iter().enumerate() {
            let stamp = sector.stamp();
            assert!(
                stamp.is_some_and(|stamp| view.allows(at, stamp)),
                "sector {at} (chunk {}, {}) shows {sector:x?}, allowed is {:x?}",
                at / CHUNK,
                match list
                    .iter()
                    .find(|entry| entry.origin == (at / CHUNK) as u64)
                {
                    Some(entry) => format!("exception {entry}"),
                    None => "no exception".to_string(),
                },
                view.allowed(at),
            );
        }
        list
    }
}

/// The chunk size of all stores here.
pub(crate) fn chunk_size() -> ChunkSize {
    ChunkSize::new(CHUNK as u32).unwrap()
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

    /// Where a chunk lives in the COW device, if it does.
    pub(crate) fn find(&self, chunk: u64) -> Option<u64> {
        match self.index.lookup(chunk).unwrap() {
            Extent::Mapped { cow, .. } => Some(cow),
            Extent::Unmapped { .. } => None,
        }
    }

    /// Maps a chunk.
    pub(crate) fn insert(&mut self, exception: Exception) {
        loop {
            match self.index.insert(&mut self.writer, exception) {
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
    pub(crate) fn remove(&mut self, origin: u64, len: u64) {
        let removed = self.index.remove_run(&mut self.writer, origin, len);
        assert_eq!(removed, Ok(len));
    }

    /// Mapped chunks.
    pub(crate) fn len(&self) -> u64 {
        self.index.len()
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
}

impl Loaded {
    /// Loads a store as an overlay does.
    pub(crate) fn load(devices: &Devices) -> Self {
        let head = devices.cow.read(0, 1)[0].bytes();
        let header = Header::parse(&head[..]).unwrap().expect("a store");
        assert!(header.valid);
        let layout = Layout::new(header.chunk);
        let bounds = devices.bounds();
        let mut used = vec![0; UsedMap::words_for(bounds.cow_chunks) as usize];
        let mut map = Map::new();
        let mut image = AreaImage::new(layout, vec![0; CHUNK * SECTOR]);
        let mut list = Vec::new();
        let mut highest = 0;
        for area in 0..layout.areas_within(bounds.cow_chunks) {
            let at = layout.area_chunk(area) as usize * CHUNK;
            let mut content = Vec::new();
            for sector in devices.cow.read(at, CHUNK) {
                content.extend_from_slice(&sector.bytes()[..]);
            }
            let count = image.load(area, &content, usize::MAX);
            for slot in 0..count {
                let entry = image.entry(slot).unwrap();
                layout.check(entry, bounds).unwrap();
                assert!(UsedMap::new(&mut used).claim(entry.cow), "{entry}");
                map.insert(entry);
                highest = highest.max(entry.cow);
                list.push(entry);
            }
            if count < layout.entries() as usize {
                break;
            }
        }
        assert_eq!(Some(&list), devices.list().as_ref());
        Self {
            layout,
            list,
            map,
            image,
            used,
            highest,
        }
    }
}
