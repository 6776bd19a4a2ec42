// SPDX-License-Identifier: GPL-2.0

//! A pointer that is set once, and then read at the cost of a load.
//!
//! What `kernel::sync` has for this asks a C function for its state each time; a lookup in an
//! exception index does it six times.

use core::marker::PhantomData;
use core::ptr;
use core::sync::atomic::AtomicPtr;
use core::sync::atomic::Ordering;
use kernel::prelude::*;

/// A place for a value, which stays once it is there.
///
/// # Invariants
///
/// `place` is null, or comes from [`KVBox::into_raw`] and belongs to this value. Once it is not
/// null it does not change.
pub(crate) struct OnceBox<T> {
    place: AtomicPtr<T>,
    _owns: PhantomData<KVBox<T>>,
}

// A value that is shared takes others from any thread and drops them in any: hence the bounds.
impl<T: Send + Sync> OnceBox<T> {
    /// An empty place.
    pub(crate) const fn new() -> Self {
        // INVARIANT: It is null.
        Self {
            place: AtomicPtr::new(ptr::null_mut()),
            _owns: PhantomData,
        }
    }

    /// What is there.
    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        let place = self.place.load(Ordering::Acquire);
        // SAFETY: By the type invariant it is null, or valid for as long as this value is there; the
        // value was written before the release that this has acquired.
        unsafe { place.as_ref() }
    }

    /// Puts a value there. If there is one already, the new one is dropped.
    pub(crate) fn set(&self, value: KVBox<T>) {
        let new = KVBox::into_raw(value);
        let (done, seen) = (Ordering::Release, Ordering::Relaxed);
        // INVARIANT: It was null, and is from `into_raw` now.
        let put = self
            .place
            .compare_exchange(ptr::null_mut(), new, done, seen);
        if put.is_err() {
            // SAFETY: It is from `into_raw`, and nobody else has seen it.
            drop(unsafe { KVBox::from_raw(new) });
        }
    }
}

impl<T> Drop for OnceBox<T> {
    fn drop(&mut self) {
        let place = *self.place.get_mut();
        if !place.is_null() {
            // SAFETY: By the type invariant it is from `into_raw` and ours; nobody borrows it.
            drop(unsafe { KVBox::from_raw(place) });
        }
    }
}
