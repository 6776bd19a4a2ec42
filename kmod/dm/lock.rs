// SPDX-License-Identifier: GPL-2.0

//! A spinlock that may be taken in any context.
//!
//! C header: [`include/linux/spinlock.h`](srctree/include/linux/spinlock.h)

use super::bindings;
use kernel::bindings::lock_class_key;
use kernel::bindings::spinlock_t;
use kernel::ffi::c_char;
use kernel::ffi::c_ulong;
use kernel::sync::lock::Backend;
use kernel::sync::lock::Lock;

/// A lock whose holder has interrupts disabled: bios end in interrupt context.
pub(crate) type IrqLock<T> = Lock<T, IrqSave>;

/// Creates an [`IrqLock`] with a lock class of its own.
macro_rules! new_irq_lock {
    ($inner:expr, $name:expr) => {
        kernel::sync::lock::Lock::new($inner, $name, kernel::static_lock_class!())
    };
}
pub(crate) use new_irq_lock;

/// The backend of [`IrqLock`].
pub(crate) struct IrqSave;

// SAFETY: `spin_lock_irqsave` makes the caller the exclusive owner until
// `spin_unlock_irqrestore`; `relock` is the default, which calls `lock`.
unsafe impl Backend for IrqSave {
    type State = spinlock_t;
    type GuardState = c_ulong;

    unsafe fn init(ptr: *mut Self::State, name: *const c_char, key: *mut lock_class_key) {
        // SAFETY: The caller promises that `ptr` is valid for writes and that name and key live on.
        unsafe { kernel::bindings::__spin_lock_init(ptr, name, key) }
    }

    unsafe fn lock(ptr: *mut Self::State) -> Self::GuardState {
        // SAFETY: The caller promises that the lock is initialised.
        unsafe { bindings::dm_rs_spin_lock_irqsave(ptr) }
    }

    unsafe fn try_lock(ptr: *mut Self::State) -> Option<Self::GuardState> {
        let mut flags = 0;
        // SAFETY: The caller promises that the lock is initialised; `flags` outlives the call.
        unsafe { bindings::dm_rs_spin_trylock_irqsave(ptr, &mut flags) }.then_some(flags)
    }

    unsafe fn unlock(ptr: *mut Self::State, flags: &Self::GuardState) {
        // SAFETY: The caller promises to be the owner; the flags are those that `lock` returned.
        unsafe { bindings::dm_rs_spin_unlock_irqrestore(ptr, *flags) }
    }

    unsafe fn assert_is_held(ptr: *mut Self::State) {
        // SAFETY: The caller promises that the lock is initialised.
        unsafe { kernel::bindings::spin_assert_is_held(ptr) }
    }
}
