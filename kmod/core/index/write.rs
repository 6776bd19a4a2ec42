// SPDX-License-Identifier: GPL-2.0

//! Changes: each looks first at all that it will touch, refuses if something is missing, and then
//! does its work in one write section in which nothing fails.

use super::super::format::Exception;
use super::inner::Inner;
use super::leaf::Edit;
use super::leaf::Leaf;
use super::leaf::Tail;
use super::node::Node;
use super::node::NIL;
use super::path::Path;
use super::path::Spot;
use super::read::Astray;
use super::room::Room;
use super::Directory;
use super::Index;
use super::IndexError;
use super::IndexWriter;
use super::Run;
use super::SEGMENT_NODES;
use core::sync::atomic::Ordering::Relaxed;

impl<D: Directory> Index<D> {
    /// Takes over segment `writer.segments()`, which the caller has just published in the
    /// directory.
    pub fn add_segment(&self, writer: &mut IndexWriter) -> Result<(), IndexError> {
        let nodes = self.directory().segment(writer.segments());
        let limit = writer.limit.checked_add(SEGMENT_NODES as u32);
        match (nodes, limit) {
            (Some(nodes), Some(limit)) if nodes.len() >= SEGMENT_NODES => {
                writer.limit = limit;
                Ok(())
            }
            _ => Err(IndexError::NeedNodes),
        }
    }

    /// Maps one chunk that is not mapped.
    pub fn insert(&self, writer: &mut IndexWriter, exception: Exception) -> Result<(), IndexError> {
        self.insert_run(writer, exception.into())
    }

    /// Maps the chunks of a run, none of which is mapped.
    pub fn insert_run(&self, writer: &mut IndexWriter, run: Run) -> Result<(), IndexError> {
        if !run.is_storable() {
            return Err(IndexError::Range);
        }
        let Some(spot) = self.spot(run.origin)? else {
            return self.plant(writer, run);
        };
        let leaf = spot.leaf;
        let at = leaf.upper_bound(run.origin);
        let before = at.checked_sub(1).map(|at| leaf.run(at));
        let after = (at < leaf.count()).then(|| leaf.run(at));
        let next = match after {
            Some(after) => Some(after),
            None => self.first_behind(&spot)?,
        };
        if before.is_some_and(|before| before.end() > run.origin)
            || next.is_some_and(|next| next.origin < run.end())
        {
            return Err(IndexError::Exists);
        }
        let mapped = self.mapped().saturating_add(run.len);
        let joins = before.is_some_and(|before| before.continues_with(run))
            || after.is_some_and(|after| run.continues_with(after));
        if !joins && leaf.takes(run) {
            self.section(mapped, || {
                spot.raise_border(run.end());
                leaf.insert(at, run);
            });
            writer.runs = writer.runs.saturating_add(1);
            return Ok(());
        }
        let edit = join(at, before, run, after);
        self.change(writer, run.origin, &spot, &edit, run.end(), mapped)
    }

    /// Unmaps one chunk. False if it was not mapped.
    pub fn remove(&self, writer: &mut IndexWriter, chunk: u64) -> Result<bool, IndexError> {
        Ok(self.remove_run(writer, chunk, 1)? != 0)
    }

    /// Unmaps what is mapped of `len` chunks from `origin` on, and tells how many that were.
    ///
    /// [`IndexError::NeedNodes`] can only come of cutting the middle out of one run. A range over
    /// many leaves takes one write section for each of them.
    pub fn remove_run(
        &self,
        writer: &mut IndexWriter,
        origin: u64,
        len: u64,
    ) -> Result<u64, IndexError> {
        let end = origin.saturating_add(len);
        let (mut from, mut removed) = (origin, 0u64);
        while from < end {
            let Some(spot) = self.spot(from)? else {
                break;
            };
            match cut(spot.leaf, from, end) {
                Some((edit, chunks, next)) => {
                    let mapped = self.mapped().saturating_sub(chunks);
                    self.change(writer, from, &spot, &edit, 0, mapped)?;
                    removed = removed.saturating_add(chunks);
                    from = next;
                }
                None => match self.first_behind(&spot)? {
                    Some(next) => from = next.origin,
                    None => break,
                },
            }
        }
        Ok(removed)
    }

    /// Unmaps all. Takes the same short time however much there is.
    pub fn clear(&self, writer: &mut IndexWriter) {
        self.section(0, || self.root.store(NIL, Relaxed));
        *writer = IndexWriter {
            limit: writer.limit,
            ..IndexWriter::new()
        };
    }

    /// Puts a run that the last leaf takes behind all others.
    #[inline]
    pub(super) fn append(&self, writer: &mut IndexWriter, tail: &mut Tail<'_>, run: Run) {
        let mapped = self.mapped().saturating_add(run.len);
        self.section(mapped, || tail.push(run));
        writer.runs = writer.runs.saturating_add(1);
    }

    /// Makes a tree of one run.
    fn plant(&self, writer: &mut IndexWriter, run: Run) -> Result<(), IndexError> {
        if writer.free_nodes() == 0 {
            return Err(IndexError::NeedNodes);
        }
        let (id, node) = self.take(writer)?;
        let mut edit = Edit::new(0, 0);
        edit.push(run);
        self.section(run.len, || {
            Leaf(node).init();
            Leaf(node).apply(&edit);
            self.root.store(id, Relaxed);
        });
        writer.runs = 1;
        Ok(())
    }

    /// Does `edit` on the leaf for `chunk`, which is at `spot`; what comes ends at `end` and there
    /// are then `mapped` chunks.
    fn change(
        &self,
        writer: &mut IndexWriter,
        chunk: u64,
        spot: &Spot<'_>,
        edit: &Edit,
        end: u64,
        mapped: u64,
    ) -> Result<(), IndexError> {
        if spot.leaf.empties(edit) || !spot.leaf.fits(edit) {
            self.rearrange(writer, chunk, spot, edit, end, mapped)?;
        } else {
            self.section(mapped, || {
                spot.raise_border(end);
                spot.leaf.apply(edit);
            });
        }
        writer.runs = writer
            .runs
            .saturating_add(edit.runs().len() as u64)
            .saturating_sub(edit.remove as u64);
        Ok(())
    }

    /// The part of [`Self::change`] for an edit that leaves the leaf empty or does not fit into it.
    #[cold]
    fn rearrange(
        &self,
        writer: &mut IndexWriter,
        chunk: u64,
        spot: &Spot<'_>,
        edit: &Edit,
        end: u64,
        mapped: u64,
    ) -> Result<(), IndexError> {
        let path = self.path(chunk)?;
        let mut room = if path.leaf.empties(edit) {
            None
        } else {
            Some(self.find_room(writer, &path, edit)?)
        };
        self.section(mapped, || {
            spot.raise_border(end);
            match &mut room {
                None => self.unlink(writer, &path),
                Some(Room::Beside(share)) => share.apply(edit),
                Some(Room::New(supply)) => self.split(&path, edit, supply),
            }
        });
        Ok(())
    }

    /// Takes the leaf of `path` out of the tree, and with it the nodes that it leaves childless.
    fn unlink(&self, writer: &mut IndexWriter, path: &Path<'_>) {
        give(writer, path.leaf_id, path.leaf.0);
        for step in path.upwards() {
            if step.inner.count() > 1 {
                step.inner.remove(step.at);
                return self.lower_root(writer);
            }
            give(writer, step.id, step.inner.0);
        }
        self.root.store(NIL, Relaxed);
    }

    /// Does without a root that has one child.
    fn lower_root(&self, writer: &mut IndexWriter) {
        while let Ok(node) = self.node(self.root()) {
            if node.level() == 0 || node.count() != 1 {
                return;
            }
            let old = self.root();
            self.root.store(Inner(node).child(0), Relaxed);
            give(writer, old, node);
        }
    }

    /// Makes a change that readers see as a whole, after which there are `mapped` chunks.
    #[inline]
    fn section(&self, mapped: u64, change: impl FnOnce()) {
        self.seq.write_begin();
        change();
        self.set_mapped(mapped);
        self.seq.write_end();
    }

    /// Stores the number of mapped chunks.
    fn set_mapped(&self, mapped: u64) {
        let [low, high] = &self.mapped;
        low.store(mapped as u32, Relaxed);
        high.store((mapped >> 32) as u32, Relaxed);
    }

    /// Takes a free node. The caller has checked that there is one.
    pub(super) fn take(&self, writer: &mut IndexWriter) -> Result<(u32, &Node), Astray> {
        if writer.free == NIL {
            let id = writer.fresh;
            let node = self.node(id)?;
            writer.fresh = id.saturating_add(1);
            return Ok((id, node));
        }
        let id = writer.free;
        let node = self.node(id)?;
        writer.free = node.next_free();
        writer.freed = writer.freed.saturating_sub(1);
        Ok((id, node))
    }
}

/// Puts a node on the free list.
fn give(writer: &mut IndexWriter, id: u32, node: &Node) {
    node.set_next_free(writer.free);
    writer.free = id;
    writer.freed = writer.freed.saturating_add(1);
}

/// The change that adds `run` between two neighbours of the same leaf, of which `after` is at
/// position `at`, as one with those that it continues.
fn join(at: usize, before: Option<Run>, run: Run, after: Option<Run>) -> Edit {
    let before = before.filter(|before| before.continues_with(run));
    let after = after.filter(|after| run.continues_with(*after));
    let (mut from, mut remove, mut whole) = (at, 0, run);
    if let Some(before) = before {
        from = at.saturating_sub(1);
        remove += 1;
        whole = Run {
            len: before.len + run.len,
            ..before
        };
    }
    if let Some(after) = after {
        remove += 1;
        whole.len += after.len;
    }
    let mut edit = Edit::new(from, remove);
    if before.is_none() {
        // What grows downwards has its short piece at the lower end.
        let (short, long) = whole.split(whole.len % Run::MAX_LEN);
        edit.push(short);
        edit.push_cut(long);
    } else {
        edit.push_cut(whole);
    }
    edit
}

/// The change that takes the chunks `from..end` out of a leaf, how many they are, and where the
/// search for more goes on. `None` if the leaf has none of them.
fn cut(leaf: Leaf<'_>, from: u64, end: u64) -> Option<(Edit, u64, u64)> {
    let mut first = leaf.upper_bound(from);
    if let Some(before) = first.checked_sub(1) {
        if leaf.run(before).end() > from {
            first = before;
        }
    }
    let behind = leaf.upper_bound(end.checked_sub(1)?);
    if first >= behind {
        return None;
    }
    let mut chunks = 0u64;
    let mut edit = Edit::new(first, behind - first);
    for at in first..behind {
        let run = leaf.run(at);
        let (head, rest) = run.split(from.saturating_sub(run.origin));
        let (gone, tail) = rest.split(end.saturating_sub(rest.origin));
        edit.push(head);
        edit.push(tail);
        chunks = chunks.saturating_add(gone.len);
    }
    let next = leaf.run(behind - 1).end();
    Some((edit, chunks, next))
}
