// SPDX-License-Identifier: GPL-2.0

//! A work queue of one's own that makes progress when memory is short.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use core::ops::Deref;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::bindings::workqueue_struct;
use kernel::prelude::*;
use kernel::str::CStr;
use kernel::workqueue::Queue;

/// A work queue with a rescuer (`WQ_MEM_RECLAIM`), as everything on an I/O path needs one.
///
/// # Invariants
///
/// `queue` is a valid work queue that this value owns.
pub(crate) struct WorkQueue {
    queue: NonNull<workqueue_struct>,
}

// SAFETY: Work queues may be used from any thread.
unsafe impl Send for WorkQueue {}
// SAFETY: As above.
unsafe impl Sync for WorkQueue {}

impl WorkQueue {
    /// Creates a queue.
    pub(crate) fn new(name: &CStr) -> Result<Self> {
        let flags = bindings::wq_flags_WQ_MEM_RECLAIM | bindings::wq_flags_WQ_UNBOUND;
        let format = c"%s".as_char_ptr();
        // SAFETY: Both strings are valid and copied; the format takes one string.
        let queue =
            unsafe { bindings::alloc_workqueue_noprof(format, flags, 0, name.as_char_ptr()) };
        // INVARIANT: Just created, and nobody else knows it.
        Ok(Self {
            queue: NonNull::new(queue).ok_or(ENOMEM)?,
        })
    }

    /// Waits until the queue is empty, also of work that queues itself again. Must not be called
    /// from work on this queue.
    pub(crate) fn drain(&self) {
        // SAFETY: By the type invariant the queue is valid.
        unsafe { bindings::drain_workqueue(self.queue.as_ptr()) }
    }
}

impl Deref for WorkQueue {
    type Target = Queue;

    fn deref(&self) -> &Queue {
        // SAFETY: By the type invariant the queue is valid for as long as `self` is.
        unsafe { Queue::from_raw(self.queue.as_ptr()) }
    }
}

impl Drop for WorkQueue {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the queue is ours; it is not used after this.
        unsafe { bindings::destroy_workqueue(self.queue.as_ptr()) }
    }
}
