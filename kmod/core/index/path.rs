// SPDX-License-Identifier: GPL-2.0

//! The way from the root to a leaf, or what a change has to know of it.

use super::inner::Inner;
use super::leaf::Leaf;
use super::node::NIL;
use super::read::Astray;
use super::Directory;
use super::Index;
use super::Run;
use super::MAX_LEVELS;

/// An inner node on the way from the root to a leaf, and the child that was taken.
#[derive(Clone, Copy)]
pub(super) struct Step<'a> {
    /// The node's number.
    pub(super) id: u32,
    /// The node.
    pub(super) inner: Inner<'a>,
    /// The child's place in it.
    pub(super) at: usize,
}

/// A leaf and its upper border, which is all that most changes have to know.
#[derive(Clone, Copy)]
pub(super) struct Spot<'a> {
    /// The leaf.
    pub(super) leaf: Leaf<'a>,
    /// The inner node that has the border above the leaf, if there is one: the border is the key
    /// behind the child that was taken.
    border: Option<Step<'a>>,
}

impl Spot<'_> {
    /// Moves the border above the leaf up to `end`. There is no run in between.
    #[inline]
    pub(super) fn raise_border(&self, end: u64) {
        if let Some(step) = self.border {
            if step.inner.key(step.at + 1) < end {
                step.inner.set_key(step.at + 1, end);
            }
        }
    }
}

/// The way from the root to a leaf.
pub(super) struct Path<'a> {
    /// The leaf's number.
    pub(super) leaf_id: u32,
    /// The leaf.
    pub(super) leaf: Leaf<'a>,
    /// From the root down, `None` behind the last inner node.
    steps: [Option<Step<'a>>; MAX_LEVELS],
}

impl<'a> Path<'a> {
    /// The inner nodes from the leaf's parent up to the root.
    pub(super) fn upwards(&self) -> impl Iterator<Item = &Step<'a>> {
        self.steps.iter().rev().flatten()
    }
}

impl<D: Directory> Index<D> {
    /// The leaf for `chunk`; `None` if the index is empty.
    #[inline]
    pub(super) fn spot(&self, chunk: u64) -> Result<Option<Spot<'_>>, Astray> {
        let root = self.root();
        if root == NIL {
            return Ok(None);
        }
        let mut border = None;
        let (_, leaf) = self.descend(root, chunk, |id, inner, at| {
            if at + 1 < inner.count() {
                border = Some(Step { id, inner, at });
            }
        })?;
        Ok(Some(Spot { leaf, border }))
    }

    /// The way to the leaf for `chunk`. The index is not empty.
    pub(super) fn path(&self, chunk: u64) -> Result<Path<'_>, Astray> {
        let mut steps = [const { None }; MAX_LEVELS];
        let mut free = steps.iter_mut();
        let (leaf_id, leaf) = self.descend(self.root(), chunk, |id, inner, at| {
            if let Some(step) = free.next() {
                *step = Some(Step { id, inner, at });
            }
        })?;
        Ok(Path {
            leaf_id,
            leaf,
            steps,
        })
    }

    /// The first run behind the leaf.
    #[cold]
    pub(super) fn first_behind(&self, spot: &Spot<'_>) -> Result<Option<Run>, Astray> {
        let Some(step) = spot.border else {
            return Ok(None);
        };
        let (_, leaf) = self.descend(step.inner.child(step.at + 1), 0, |_, _, _| {})?;
        Ok(Some(leaf.run(0)))
    }
}
