// SPDX-License-Identifier: GPL-2.0

//! Waiting for a condition, and for the last user of something.
//!
//! C header: [`include/linux/wait.h`](srctree/include/linux/wait.h)

use super::lock::new_irq_lock;
use super::lock::IrqLock;
use core::ptr;
use kernel::bindings;
use kernel::bindings::wait_queue_entry;
use kernel::bindings::wait_queue_head;
use kernel::ffi::c_int;
use kernel::ffi::c_long;
use kernel::prelude::*;
use kernel::str::CStr;
use kernel::sync::Arc;
use kernel::sync::LockClassKey;
use kernel::types::Opaque;

/// A queue of threads that wait for a condition.
#[pin_data]
pub(crate) struct WaitQueue {
    #[pin]
    head: Opaque<wait_queue_head>,
}

// SAFETY: A wait queue head is made to be used from any thread; it has a lock of its own.
unsafe impl Send for WaitQueue {}
// SAFETY: As above.
unsafe impl Sync for WaitQueue {}

/// Creates a [`WaitQueue`] with a lock class of its own.
macro_rules! new_wait_queue {
    ($name:expr) => {
        $crate::dm::WaitQueue::new($name, kernel::static_lock_class!())
    };
}
pub(crate) use new_wait_queue;

impl WaitQueue {
    /// Creates an empty queue.
    pub(crate) fn new(name: &'static CStr, key: Pin<&'static LockClassKey>) -> impl PinInit<Self> {
        pin_init!(Self {
            head <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid for writes and pinned; name and key are static.
                unsafe {
                    bindings::__init_waitqueue_head(slot, name.as_char_ptr(), key.as_ptr())
                }
            }),
        })
    }

    /// The pointer for a call into C.
    pub(super) fn as_ptr(&self) -> *mut wait_queue_head {
        self.head.get()
    }

    /// Wakes all who wait, so that they look at their condition again. Never sleeps.
    pub(crate) fn wake(&self) {
        // SAFETY: The head was initialised by `new`.
        unsafe {
            // 0: all of them, not only the first who waits alone.
            bindings::__wake_up(self.head.get(), bindings::TASK_NORMAL, 0, ptr::null_mut());
        }
    }

    /// Sleeps until `condition` is true. Whoever makes it true calls [`Self::wake`] afterwards.
    pub(crate) fn wait_until(&self, mut condition: impl FnMut() -> bool) {
        while !self.wait_for(c_long::MAX, &mut condition) {}
    }

    /// As [`Self::wait_until`], for what people or other hosts may take their time with: nobody
    /// takes the thread for one that hangs.
    pub(crate) fn wait_idly(&self, mut condition: impl FnMut() -> bool) {
        let state = bindings::TASK_UNINTERRUPTIBLE | bindings::TASK_NOLOAD;
        while !self.wait_in(state, c_long::MAX, &mut condition) {}
    }

    /// As [`Self::wait_idly`], but a signal ends it, too. Returns whether the condition is true.
    pub(crate) fn wait_for_signal(&self, mut condition: impl FnMut() -> bool) -> bool {
        let signal = || kernel::current!().signal_pending();
        let state = bindings::TASK_INTERRUPTIBLE;
        let mut met = false;
        self.wait_in(state, c_long::MAX, || {
            met = condition();
            met || signal()
        });
        met
    }

    /// Sleeps until `condition` is true, but no longer than `jiffies`. Returns whether it is.
    pub(crate) fn wait_for(&self, jiffies: c_long, condition: impl FnMut() -> bool) -> bool {
        self.wait_in(bindings::TASK_UNINTERRUPTIBLE, jiffies, condition)
    }

    fn wait_in(
        &self,
        state: u32,
        mut jiffies: c_long,
        mut condition: impl FnMut() -> bool,
    ) -> bool {
        if condition() {
            return true;
        }
        let entry = Opaque::<wait_queue_entry>::uninit();
        // SAFETY: The entry is valid for writes. It does not move: it is only used by pointer.
        unsafe { bindings::init_wait(entry.get()) };
        let state = state as c_int;
        let met = loop {
            // SAFETY: Head and entry are initialised, and the entry outlives its time in the queue:
            // `finish_wait` below takes it out.
            unsafe { bindings::prepare_to_wait(self.head.get(), entry.get(), state) };
            if condition() {
                break true;
            }
            if jiffies <= 0 {
                break false;
            }
            // SAFETY: May be called in any context that may sleep.
            jiffies = unsafe { bindings::io_schedule_timeout(jiffies) };
        };
        // SAFETY: As for `prepare_to_wait`.
        unsafe { bindings::finish_wait(self.head.get(), entry.get()) };
        met
    }
}

/// Counts the users of something, for whoever wants to take it away.
#[pin_data]
pub(crate) struct Gate {
    #[pin]
    inside: IrqLock<usize>,
    #[pin]
    idle: WaitQueue,
}

impl Gate {
    /// A gate that nobody has entered.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                inside <- new_irq_lock!(0, c"dm_gate"),
                idle <- new_wait_queue!(c"dm_gate"),
            }),
            GFP_KERNEL,
        )
    }

    /// Counts one more user, until the pass is dropped. Never sleeps.
    pub(crate) fn enter(self: &Arc<Self>) -> Pass {
        *self.inside.lock() += 1;
        Pass { gate: self.clone() }
    }

    /// Sleeps until no pass is left. The caller sees to it that no new ones are made.
    pub(crate) fn wait_idle(&self) {
        self.idle.wait_until(|| *self.inside.lock() == 0);
    }
}

/// One user of what a [`Gate`] guards. In a struct it belongs behind the fields that it keeps
/// alive: fields are dropped in order.
pub(crate) struct Pass {
    gate: Arc<Gate>,
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut inside = self.gate.inside.lock();
        *inside = inside.saturating_sub(1);
        if *inside == 0 {
            self.gate.idle.wake();
        }
    }
}
