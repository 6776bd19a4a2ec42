// SPDX-License-Identifier: GPL-2.0

//! Looking things up, without a lock or under the writer's.

use super::inner::Inner;
use super::leaf::Leaf;
use super::node::Node;
use super::node::NIL;
use super::seq::SeqCount;
use super::Directory;
use super::Extent;
use super::Index;
use super::IndexError;
use super::IndexWriter;
use super::Run;
use super::MAX_LEVELS;
use super::SEGMENT_NODES;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;

/// Names what an index held at some time; each change makes another one of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version(u32);

/// A walk ran into something that is not a tree: a change was under way, or the index is damaged.
pub(super) struct Astray;

impl From<Astray> for IndexError {
    fn from(_: Astray) -> Self {
        Self::Damaged
    }
}

impl<D: Directory> Index<D> {
    /// An empty index with `directory` as its memory.
    pub const fn new(directory: D) -> Self {
        // INVARIANT: Nothing is reachable.
        Self {
            directory,
            seq: SeqCount::new(),
            root: AtomicU32::new(NIL),
            mapped: [const { AtomicU32::new(0) }; 2],
        }
    }

    /// The memory that was given to [`Index::new`].
    pub const fn directory(&self) -> &D {
        &self.directory
    }

    /// Where `chunk` and those behind it live. Takes no lock.
    ///
    /// A chunk that was mapped before the call began and is not unmapped until it ends is found.
    #[inline]
    pub fn lookup(&self, chunk: u64) -> Result<Extent, IndexError> {
        Ok(self.lookup_versioned(chunk)?.0)
    }

    /// As [`Self::lookup`], and of which version of the index that is the answer.
    #[inline]
    pub fn lookup_versioned(&self, chunk: u64) -> Result<(Extent, Version), IndexError> {
        self.read(|| {
            Ok(match self.next(chunk)? {
                None => Extent::Unmapped { len: u64::MAX },
                Some(run) if run.origin > chunk => Extent::Unmapped {
                    len: run.origin - chunk,
                },
                Some(run) => Extent::Mapped {
                    cow: run.cow,
                    len: run.len,
                },
            })
        })
    }

    /// Whether nothing has changed since; what was looked up then would be found again now.
    #[inline]
    pub fn is_at(&self, version: Version) -> bool {
        !self.seq.read_retry(version.0)
    }

    /// The first mapped chunk at or behind `chunk`, with those that follow it on both devices.
    /// Takes no lock.
    pub fn next_run(&self, chunk: u64) -> Result<Option<Run>, IndexError> {
        Ok(self.read(|| self.next(chunk))?.0)
    }

    /// The number of mapped chunks. Takes no lock.
    pub fn len(&self) -> u64 {
        loop {
            let start = self.seq.read_begin();
            let len = self.mapped();
            if !self.seq.read_retry(start) {
                return len;
            }
        }
    }

    /// Whether no chunk is mapped. Takes no lock.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The runs in the order of the origin, while the caller keeps changes away by its lock.
    pub fn runs<'a>(&'a self, writer: &'a IndexWriter) -> Runs<'a, D> {
        Runs {
            index: self,
            _writer: writer,
            next: Some(0),
            leaf: None,
        }
    }

    /// Repeats `walk` until no change came in between.
    #[inline]
    fn read<T>(&self, walk: impl Fn() -> Result<T, Astray>) -> Result<(T, Version), IndexError> {
        loop {
            let start = self.seq.read_begin();
            let found = walk();
            if !self.seq.read_retry(start) {
                return Ok((found?, Version(start)));
            }
        }
    }

    /// The number of mapped chunks, while no change runs.
    pub(super) fn mapped(&self) -> u64 {
        let [low, high] = &self.mapped;
        u64::from(low.load(Relaxed)) | (u64::from(high.load(Relaxed)) << 32)
    }

    /// The root's number.
    #[inline]
    pub(super) fn root(&self) -> u32 {
        self.root.load(Relaxed)
    }

    /// Node `id`.
    #[inline]
    pub(super) fn node(&self, id: u32) -> Result<&Node, Astray> {
        let id = id as usize;
        self.directory
            .segment(id / SEGMENT_NODES)
            .and_then(|nodes| nodes.get(id % SEGMENT_NODES))
            .ok_or(Astray)
    }

    /// Goes down from node `id` to the leaf for `chunk`, showing `visit` each inner node and the
    /// position of the child that was taken.
    // As a function of its own it would make a lookup longer by a third.
    #[inline(always)]
    pub(super) fn descend<'a>(
        &'a self,
        mut id: u32,
        chunk: u64,
        mut visit: impl FnMut(u32, Inner<'a>, usize),
    ) -> Result<(u32, Leaf<'a>), Astray> {
        for _ in 0..MAX_LEVELS {
            let node = self.node(id)?;
            if node.level() == 0 {
                return Ok((id, Leaf(node)));
            }
            let inner = Inner(node);
            let at = inner.find(chunk);
            visit(id, inner, at);
            id = inner.child(at);
        }
        Err(Astray)
    }

    /// The first run of the leaf behind the one for `chunk`. Few lookups end between two leaves: they
    /// may walk twice.
    #[cold]
    fn first_behind_leaf(&self, chunk: u64) -> Result<Option<Run>, Astray> {
        match self.spot(chunk)? {
            Some(spot) => self.first_behind(&spot),
            None => Ok(None),
        }
    }

    /// The first run at or behind `chunk`, without what it has below `chunk`.
    #[inline]
    fn next(&self, chunk: u64) -> Result<Option<Run>, Astray> {
        let root = self.root();
        if root == NIL {
            return Ok(None);
        }
        let mut is_last = true;
        let (_, leaf) = self.descend(root, chunk, |_, inner, at| {
            is_last &= at + 1 >= inner.count();
        })?;
        let at = leaf.upper_bound(chunk);
        if let Some(before) = at.checked_sub(1) {
            let run = leaf.run(before);
            let passed = chunk.wrapping_sub(run.origin);
            if passed < run.len {
                return Ok(Some(run.split(passed).1));
            }
        }
        if at < leaf.count() {
            return Ok(Some(leaf.run(at)));
        }
        if is_last {
            return Ok(None);
        }
        self.first_behind_leaf(chunk)
    }
}

/// Iterator over the runs of an index, see [`Index::runs`].
///
/// If the directory has lost a segment, the runs in it and behind it are left out.
pub struct Runs<'a, D> {
    index: &'a Index<D>,
    _writer: &'a IndexWriter,
    /// Where the search goes on, if there can be more.
    next: Option<u64>,
    /// The leaf of the last run, and the position behind it.
    leaf: Option<(Leaf<'a>, usize)>,
}

impl<D: Directory> Iterator for Runs<'_, D> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        if let Some((leaf, at)) = &mut self.leaf {
            if *at < leaf.count() {
                let run = leaf.run(*at);
                *at += 1;
                self.next = Some(run.end());
                return Some(run);
            }
        }
        let run = self.index.next(self.next.take()?).ok()??;
        let (_, leaf) = self
            .index
            .descend(self.index.root(), run.origin, |_, _, _| {})
            .ok()?;
        self.leaf = Some((leaf, leaf.upper_bound(run.origin)));
        self.next = Some(run.end());
        Some(run)
    }
}
