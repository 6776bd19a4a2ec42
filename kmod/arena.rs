// SPDX-License-Identifier: GPL-2.0

//! The memory of an exception index.

use crate::holey_core::index::Directory;
use crate::holey_core::index::Node;
use crate::holey_core::index::SEGMENT_NODES;
use kernel::prelude::*;
use kernel::sync::SetOnce;

/// Segments that one page of the directory names.
const PAGE: usize = 128;

type Segment = KVVec<Node>;
type Page = KVVec<SetOnce<Segment>>;

/// A directory of segments in two levels, so that an index that stays small costs little. Readers
/// need no lock: what is published once stays.
pub(crate) struct Arena {
    pages: KVVec<SetOnce<Page>>,
}

impl Arena {
    /// A directory that can name as many segments as an index of `chunks` chunks may need.
    pub(crate) fn new(chunks: u64) -> Result<Self> {
        // A leaf that was split holds some seventy runs; twenty leave room for what removals spoil.
        let segments = chunks / (20 * SEGMENT_NODES as u64) + 64;
        let pages = usize::try_from(segments / PAGE as u64 + 1)?;
        Ok(Self {
            pages: empty_slots(pages)?,
        })
    }

    /// Allocates segment `n` and publishes it. May sleep.
    pub(crate) fn grow(&self, n: usize) -> Result {
        let slot = self.pages.get(n / PAGE).ok_or(ENOMEM)?;
        if slot.as_ref().is_none() {
            slot.populate(empty_slots(PAGE)?);
        }
        let page = slot.as_ref().ok_or(ENOMEM)?;
        let mut segment = Segment::with_capacity(SEGMENT_NODES, GFP_KERNEL)?;
        for _ in 0..SEGMENT_NODES {
            segment.push(Node::new(), GFP_KERNEL)?;
        }
        page.get(n % PAGE).ok_or(ENOMEM)?.populate(segment);
        Ok(())
    }
}

impl Directory for Arena {
    fn segment(&self, n: usize) -> Option<&[Node]> {
        let page = self.pages.get(n / PAGE)?.as_ref()?;
        Some(page.get(n % PAGE)?.as_ref()?)
    }
}

fn empty_slots<T>(count: usize) -> Result<KVVec<SetOnce<T>>> {
    let mut slots = KVVec::with_capacity(count, GFP_KERNEL)?;
    for _ in 0..count {
        slots.push(SetOnce::new(), GFP_KERNEL)?;
    }
    Ok(slots)
}
