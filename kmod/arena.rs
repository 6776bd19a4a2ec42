// SPDX-License-Identifier: GPL-2.0

//! The memory of an exception index.

use crate::dm::OnceBox;
use crate::holey_core::index::Directory;
use crate::holey_core::index::Node;
use crate::holey_core::index::SEGMENT_NODES;
use core::convert::Infallible;
use kernel::prelude::*;
use pin_init::init_array_from_fn;

/// Segments that one page of the directory names.
const PAGE: usize = 128;

type Segment = [Node; SEGMENT_NODES];
type Page = [OnceBox<Segment>; PAGE];

/// A directory of segments in two levels, so that an index that stays small costs little. Readers
/// need no lock: what is published once stays.
pub(crate) struct Arena {
    pages: KVVec<OnceBox<Page>>,
}

impl Arena {
    /// A directory that can name as many segments as an index of `chunks` chunks may need.
    pub(crate) fn new(chunks: u64) -> Result<Self> {
        // A leaf that was split holds some seventy runs; twenty leave room for what removals spoil.
        let segments = chunks / (20 * SEGMENT_NODES as u64) + 64;
        let count = usize::try_from(segments / PAGE as u64 + 1)?;
        let mut pages = KVVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            pages.push(OnceBox::new(), GFP_KERNEL)?;
        }
        Ok(Self { pages })
    }

    /// Allocates segment `n` and publishes it. May sleep.
    pub(crate) fn grow(&self, n: usize) -> Result {
        let slot = self.pages.get(n / PAGE).ok_or(ENOMEM)?;
        if slot.get().is_none() {
            slot.set(boxed(OnceBox::new)?);
        }
        let page = slot.get().ok_or(ENOMEM)?;
        page.get(n % PAGE).ok_or(ENOMEM)?.set(boxed(Node::new)?);
        Ok(())
    }
}

impl Directory for Arena {
    #[inline]
    fn segment(&self, n: usize) -> Option<&[Node]> {
        Some(self.pages.get(n / PAGE)?.get()?.get(n % PAGE)?.get()?)
    }
}

/// An array in a box of its own, made where it stays: it is too large for the stack.
fn boxed<T, const N: usize>(element: impl Fn() -> T) -> Result<KVBox<[T; N]>> {
    let elements = init_array_from_fn::<T, N, T, Infallible>(|_| element());
    KVBox::init(elements, GFP_KERNEL)
}
