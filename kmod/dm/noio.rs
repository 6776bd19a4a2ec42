// SPDX-License-Identifier: GPL-2.0

//! Allocation on the I/O path.
//!
//! C header: [`include/linux/sched/mm.h`](srctree/include/linux/sched/mm.h)

use super::bindings;

/// Runs `work`; allocations in it do not start I/O, which might come back to the caller.
pub(crate) fn without_io<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: Changes a flag of the current task; it is restored below.
    let flags = unsafe { bindings::dm_rs_memalloc_noio_save() };
    let result = work();
    // SAFETY: The flags come from the call above, on the same task.
    unsafe { bindings::dm_rs_memalloc_noio_restore(flags) };
    result
}
