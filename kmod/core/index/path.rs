// SPDX-License-Identifier: GPL-2.0

//! The way from the root to a leaf, which a change has to know.

use super::inner::Inner;
use super::leaf::Leaf;
use super::node::NIL;
use super::read::Astray;
use super::Directory;
use super::Index;
use super::MAX_LEVELS;

/// An inner node on the way from the root to a leaf, and the child that was taken.
pub(super) struct Step<'a> {
    /// The node's number.
    pub(super) id: u32,
    /// The node.
    pub(super) inner: Inner<'a>,
    /// The child's place in it.
    pub(super) at: usize,
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

    /// The inner node that has the border above the leaf, if there is one: the border is the key
    /// behind the child that was taken.
    pub(super) fn border(&self) -> Option<&Step<'a>> {
        self.upwards().find(|step| step.at + 1 < step.inner.count())
    }

    /// Moves the border above the leaf up to `end`. There is no run in between.
    pub(super) fn raise_border(&self, end: u64) {
        if let Some(step) = self.border() {
            if step.inner.key(step.at + 1) < end {
                step.inner.set_key(step.at + 1, end);
            }
        }
    }
}

impl<D: Directory> Index<D> {
    /// The way to the leaf for `chunk`; `None` if the index is empty.
    pub(super) fn path(&self, chunk: u64) -> Result<Option<Path<'_>>, Astray> {
        let root = self.root();
        if root == NIL {
            return Ok(None);
        }
        let mut steps = [const { None }; MAX_LEVELS];
        let mut free = steps.iter_mut();
        let (leaf_id, leaf) = self.descend(root, chunk, |id, inner, at| {
            if let Some(step) = free.next() {
                *step = Some(Step { id, inner, at });
            }
        })?;
        Ok(Some(Path {
            leaf_id,
            leaf,
            steps,
        }))
    }

    /// Where the first run behind the leaf starts.
    pub(super) fn first_behind(&self, path: &Path<'_>) -> Result<Option<u64>, Astray> {
        let Some(step) = path.border() else {
            return Ok(None);
        };
        let (_, leaf) = self.descend(step.inner.child(step.at + 1), 0, |_, _, _| {})?;
        Ok(Some(leaf.key(0)))
    }
}
