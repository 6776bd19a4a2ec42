// SPDX-License-Identifier: GPL-2.0

//! Memory that is there when it is needed to make progress.
//!
//! C header: [`include/linux/mempool.h`](srctree/include/linux/mempool.h)

use super::bindings;
use core::marker::PhantomData;
use core::mem::size_of;
use core::ops::Deref;
use core::ops::DerefMut;
use core::ptr;
use core::ptr::NonNull;
use kernel::bindings::mempool_t;
use kernel::ffi::c_int;
use kernel::prelude::*;
use kernel::sync::Arc;

/// A pool of `T` that keeps a few in reserve.
///
/// # Invariants
///
/// `pool` is a valid pool, owned by this value, of elements with the size of `Element<T>`.
pub(crate) struct MemPool<T> {
    pool: NonNull<mempool_t>,
    _elements: PhantomData<T>,
}

// SAFETY: A mempool may be used from any thread; elements are sent only if `T` is `Send`.
unsafe impl<T: Send> Send for MemPool<T> {}
// SAFETY: As above.
unsafe impl<T: Send> Sync for MemPool<T> {}

struct Element<T> {
    value: T,
    pool: Arc<MemPool<T>>,
}

impl<T> MemPool<T> {
    /// Creates a pool that keeps `reserve` elements. May sleep.
    pub(crate) fn new(reserve: u16) -> Result<Arc<Self>> {
        // SAFETY: No pointers are passed.
        let pool = unsafe {
            bindings::dm_rs_mempool_create_kmalloc_pool(
                c_int::from(reserve),
                size_of::<Element<T>>(),
            )
        };
        // INVARIANT: Just created with the right size.
        let pool = Self {
            pool: NonNull::new(pool.cast()).ok_or(ENOMEM)?,
            _elements: PhantomData,
        };
        Ok(Arc::new(pool, GFP_KERNEL)?)
    }

    /// Takes an element; sleeps until one is given back if there is no memory (`GFP_NOIO`).
    pub(crate) fn take(self: &Arc<Self>, value: T) -> PoolBox<T> {
        loop {
            // SAFETY: By the type invariant the pool is valid.
            let raw = unsafe { bindings::dm_rs_mempool_alloc_noio(self.pool.as_ptr().cast()) };
            // With a flag that allows sleeping the allocation does not fail.
            let Some(element) = NonNull::new(raw.cast::<Element<T>>()) else {
                continue;
            };
            let content = Element {
                value,
                pool: self.clone(),
            };
            // SAFETY: The memory is large enough, is aligned as kmalloc aligns, and is ours.
            unsafe { element.write(content) };
            // INVARIANT: The element was just initialised.
            return PoolBox { element };
        }
    }
}

impl<T> Drop for MemPool<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the pool is ours. Each element holds a reference to the
        // pool, so none is outstanding.
        unsafe { bindings::mempool_destroy(self.pool.as_ptr().cast()) }
    }
}

/// A `T` in memory of a [`MemPool`].
///
/// # Invariants
///
/// `element` is an initialised element of its pool, owned by this value.
pub(crate) struct PoolBox<T> {
    element: NonNull<Element<T>>,
}

// SAFETY: Owning a `PoolBox<T>` is owning a `T`.
unsafe impl<T: Send> Send for PoolBox<T> {}

impl<T> PoolBox<T> {
    /// Gives the box away as a pointer, for [`Self::from_raw`].
    pub(super) fn into_raw(this: Self) -> *mut kernel::ffi::c_void {
        let raw = this.element.as_ptr().cast();
        core::mem::forget(this);
        raw
    }

    /// Takes the value out and gives the memory back to its pool.
    pub(crate) fn into_inner(this: Self) -> T {
        let element = this.element;
        core::mem::forget(this);
        // SAFETY: By the type invariant the element is initialised and ours; it is not used again.
        let Element { value, pool } = unsafe { element.read() };
        // SAFETY: The element came from this pool and its content was moved out.
        unsafe { bindings::mempool_free(element.as_ptr().cast(), pool.pool.as_ptr().cast()) };
        value
    }

    /// Looks at what was given away.
    ///
    /// # Safety
    ///
    /// `raw` comes from [`Self::into_raw`] of the same `T` and has not been taken back; nobody
    /// changes the value while it is looked at.
    pub(super) unsafe fn peek<'a>(raw: *mut kernel::ffi::c_void) -> &'a T {
        // SAFETY: By the contract of this function the element is initialised.
        unsafe { &(*raw.cast::<Element<T>>()).value }
    }

    /// Takes a box back.
    ///
    /// # Safety
    ///
    /// `raw` comes from [`Self::into_raw`] of the same `T` and is used once.
    pub(super) unsafe fn from_raw(raw: *mut kernel::ffi::c_void) -> Self {
        // INVARIANT: The element was an owned one when `into_raw` gave it away.
        Self {
            // SAFETY: `into_raw` returned a pointer that is not null.
            element: unsafe { NonNull::new_unchecked(raw.cast()) },
        }
    }
}

impl<T> Deref for PoolBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariant the element is initialised and ours.
        unsafe { &self.element.as_ref().value }
    }
}

impl<T> DerefMut for PoolBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: By the type invariant the element is initialised and ours.
        unsafe { &mut self.element.as_mut().value }
    }
}

impl<T> Drop for PoolBox<T> {
    fn drop(&mut self) {
        let element = self.element.as_ptr();
        // SAFETY: By the type invariant the element is initialised and ours; it is not used again.
        let pool = unsafe {
            ptr::drop_in_place(&raw mut (*element).value);
            (&raw const (*element).pool).read()
        };
        // SAFETY: The element came from this pool and has no content any more.
        unsafe { bindings::mempool_free(element.cast(), pool.pool.as_ptr().cast()) };
    }
}
