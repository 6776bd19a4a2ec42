// SPDX-License-Identifier: GPL-2.0

//! Making room in a leaf: by handing some of its runs to a neighbour, else by a split.
//!
//! Sharing first keeps leaves at two thirds or more, however the inserts come: a leaf splits only
//! when a neighbour is all but full.

use super::inner;
use super::inner::Inner;
use super::leaf;
use super::leaf::is_narrow;
use super::leaf::Edit;
use super::leaf::Leaf;
use super::node::Node;
use super::path::Path;
use super::path::Step;
use super::read::Astray;
use super::Directory;
use super::Index;
use super::IndexError;
use super::IndexWriter;
use super::MAX_LEVELS;
use core::sync::atomic::Ordering::Relaxed;

/// A neighbour with less room than this is not worth the trouble.
const LEAST_ROOM: usize = 8;

/// Where the runs of an edit go.
pub(super) enum Room<'a> {
    /// They fit once a neighbour has taken over some of the leaf's runs.
    Beside(Share<'a>),
    /// The leaf has to be split.
    New(Supply<'a>),
}

/// Nodes that a split needs, taken from the free ones in advance.
pub(super) struct Supply<'a> {
    nodes: [Option<(u32, &'a Node)>; MAX_LEVELS + 1],
    next: usize,
}

impl<'a> Supply<'a> {
    /// The next of them.
    fn take(&mut self) -> Option<(u32, &'a Node)> {
        let node = self.nodes.get(self.next).copied().flatten();
        self.next += 1;
        node
    }
}

/// Runs that move from a full leaf to a neighbour.
pub(super) struct Share<'a> {
    leaf: Leaf<'a>,
    other: Leaf<'a>,
    parent: Inner<'a>,
    /// The child, of the two, that holds the larger chunks.
    right: usize,
    /// The neighbour is the one with the larger chunks.
    to_right: bool,
    /// How many runs the leaf's lower part has; the upper part is the others.
    lower: usize,
}

impl<'a> Share<'a> {
    /// Plans to even out `leaf` and a neighbour of it. `None` if that does not help.
    fn plan(
        step: &Step<'a>,
        leaf: Leaf<'a>,
        other: Leaf<'a>,
        to_right: bool,
        edit: &Edit,
    ) -> Option<Self> {
        let (have, has) = (leaf.count(), other.count());
        if has + LEAST_ROOM > leaf::CAPACITY || has == 0 || has >= have {
            return None;
        }
        let moved = (have - has) / 2;
        let mut lower = if to_right { have - moved } else { moved };
        if lower > edit.at && lower < edit.at + edit.remove {
            lower = edit.at;
        }
        let narrow = if to_right {
            is_narrow(leaf.key(lower), other.key(has - 1))
        } else {
            is_narrow(other.key(0), leaf.key(lower.checked_sub(1)?))
        };
        narrow.then_some(Self {
            leaf,
            other,
            parent: step.inner,
            right: if to_right { step.at + 1 } else { step.at },
            to_right,
            lower,
        })
    }

    /// Moves the runs and does the edit.
    pub(super) fn apply(&self, edit: &Edit) {
        let (leaf, other, lower) = (self.leaf, self.other, self.lower);
        let upper = leaf.count().saturating_sub(lower);
        let in_lower = edit.at + edit.remove <= lower;
        if self.to_right {
            other.take_over(leaf, lower, upper, true);
            leaf.apply(&Edit::new(lower, upper));
            if in_lower {
                leaf.apply(edit);
            } else {
                other.apply(&edit.moved_down(lower));
            }
            self.parent.set_key(self.right, other.key(0));
        } else {
            let before = other.count();
            other.take_over(leaf, 0, lower, false);
            leaf.apply(&Edit::new(0, lower));
            if in_lower {
                other.apply(&edit.moved_up(before));
            } else {
                leaf.apply(&edit.moved_down(lower));
            }
            self.parent.set_key(self.right, leaf.key(0));
        }
    }
}

impl<D: Directory> Index<D> {
    /// Decides where the runs of `edit` go that do not fit into the leaf, and takes the nodes that
    /// this needs.
    pub(super) fn find_room<'a>(
        &'a self,
        writer: &mut IndexWriter,
        path: &Path<'a>,
        edit: &Edit,
    ) -> Result<Room<'a>, IndexError> {
        if path.leaf.is_narrow(edit) {
            if let Some(share) = self.find_share(path, edit)? {
                return Ok(Room::Beside(share));
            }
        }
        Ok(Room::New(self.supply(writer, path)?))
    }

    /// Looks for a neighbour with room, under the same parent; of two, the one that has more.
    fn find_share<'a>(&'a self, path: &Path<'a>, edit: &Edit) -> Result<Option<Share<'a>>, Astray> {
        let Some(step) = path.upwards().next() else {
            return Ok(None);
        };
        let mut best: Option<(Leaf<'a>, bool)> = None;
        for (at, to_right) in [(step.at.checked_sub(1), false), (Some(step.at + 1), true)] {
            let Some(at) = at.filter(|at| *at < step.inner.count()) else {
                continue;
            };
            let other = Leaf(self.node(step.inner.child(at))?);
            if best.is_none_or(|(best, _)| other.count() < best.count()) {
                best = Some((other, to_right));
            }
        }
        Ok(best.and_then(|(other, to_right)| Share::plan(step, path.leaf, other, to_right, edit)))
    }

    /// Takes the nodes for a split of the leaf of `path` and of all that is full above it.
    fn supply(&self, writer: &mut IndexWriter, path: &Path<'_>) -> Result<Supply<'_>, IndexError> {
        let height = path.upwards().count();
        let full = path
            .upwards()
            .take_while(|step| step.inner.is_full())
            .count();
        let need = if full == height { height + 2 } else { full + 1 };
        if need > MAX_LEVELS {
            return Err(IndexError::Damaged);
        }
        if writer.free_nodes() < need as u32 {
            return Err(IndexError::NeedNodes);
        }
        let mut nodes = [None; MAX_LEVELS + 1];
        for node in nodes.iter_mut().take(need) {
            *node = Some(self.take(writer)?);
        }
        Ok(Supply { nodes, next: 0 })
    }

    /// Does an edit for which the leaf has no room.
    pub(super) fn split(&self, path: &Path<'_>, edit: &Edit, supply: &mut Supply<'_>) {
        let Some((mut child, node)) = supply.take() else {
            return;
        };
        let right = Leaf(node);
        let (at, to_left) = leaf_split(edit, path.leaf.count());
        path.leaf.split_off(at, right);
        if to_left {
            path.leaf.apply(edit);
        } else {
            right.apply(&edit.moved_down(at));
        }
        let mut key = right.key(0);
        let mut level = 1;
        for step in path.upwards() {
            let place = step.at + 1;
            if !step.inner.is_full() {
                step.inner.insert(place, key, child);
                return;
            }
            let Some((id, node)) = supply.take() else {
                return;
            };
            let right = Inner(node);
            let (at, to_left) = inner_split(place);
            step.inner.split_off(at, right);
            if to_left {
                step.inner.insert(place, key, child);
            } else {
                right.insert(place.saturating_sub(at), key, child);
            }
            (key, child) = (right.key(0), id);
            level += 1;
        }
        if let Some((id, node)) = supply.take() {
            Inner(node).init(level, self.root(), key, child);
            self.root.store(id, Relaxed);
        }
    }
}

/// Where to split a leaf of `count` runs that has no room for `edit`, and whether the edit is then
/// done on the left one.
///
/// At either end the full leaf stays full, as more is likely to come there.
fn leaf_split(edit: &Edit, count: usize) -> (usize, bool) {
    let behind = edit.at + edit.remove;
    let middle = count / 2;
    if behind >= count {
        (edit.at, false)
    } else if edit.at == 0 {
        (edit.remove, true)
    } else if behind <= middle {
        (middle, true)
    } else {
        (middle.min(edit.at), false)
    }
}

/// Where to split a full inner node that gets a child at `place`, and whether the left one gets it.
fn inner_split(place: usize) -> (usize, bool) {
    if place >= inner::CAPACITY {
        (inner::CAPACITY, false)
    } else if place <= 1 {
        (1, true)
    } else {
        (inner::CAPACITY / 2, place <= inner::CAPACITY / 2)
    }
}
