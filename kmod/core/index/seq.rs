// SPDX-License-Identifier: GPL-2.0

//! The sequence counter that lets readers go without a lock.
//!
//! A writer makes the counter odd, changes what it guards, and makes it even again. A reader takes
//! an even value, reads, and believes what it read only if the counter still has that value. All
//! that is guarded is relaxed atomics, so a reader that loses the race has read stale or mixed
//! words, which is not undefined behaviour.
//!
//! The orderings pair up as follows:
//!
//! - *A reader that saw a change sees that the counter moved.* The odd store is followed by a
//!   release fence, all guarded stores come behind the fence. A guarded load that returns one of
//!   them comes before the reader's acquire fence, so the two fences synchronise and the reader's
//!   second load of the counter returns the odd value or a later one. This holds for *every*
//!   store that follows in program order, also for those after the even store; that is why memory
//!   which was unlinked in one section may be scribbled on after it.
//! - *A reader that starts with an even value sees all of that section.* The even store is a
//!   release, the reader's first load an acquire.
//!
//! A reader spins while a section runs. So a section must be short and must not be preempted or
//! interrupted by a reader on the same CPU: the caller's lock is one that disables preemption,
//! and interrupts too if there are readers in interrupts.

use core::sync::atomic::fence;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering;

/// A sequence counter; see the module's documentation.
pub(super) struct SeqCount(AtomicU32);

impl SeqCount {
    /// A counter that no section is open on.
    pub(super) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Opens a read attempt: waits for an even value.
    #[inline]
    pub(super) fn read_begin(&self) -> u32 {
        loop {
            let start = self.0.load(Ordering::Acquire);
            if start & 1 == 0 {
                return start;
            }
            core::hint::spin_loop();
        }
    }

    /// Whether what was read since [`Self::read_begin`] gave `start` may be wrong.
    #[inline]
    pub(super) fn read_retry(&self, start: u32) -> bool {
        fence(Ordering::Acquire);
        self.0.load(Ordering::Relaxed) != start
    }

    /// Opens a write section. The caller is the only writer and closes it by [`Self::write_end`].
    pub(super) fn write_begin(&self) {
        let start = self.0.load(Ordering::Relaxed);
        self.0.store(start | 1, Ordering::Relaxed);
        fence(Ordering::Release);
    }

    /// Closes a write section.
    pub(super) fn write_end(&self) {
        let start = self.0.load(Ordering::Relaxed);
        self.0.store((start | 1).wrapping_add(1), Ordering::Release);
    }
}
