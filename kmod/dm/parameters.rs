// SPDX-License-Identifier: GPL-2.0

//! Module parameters that may be written to while the module is in use, which those of `module!`
//! may not.

use super::bindings;
use super::kcopyd::Throttle;
use core::ptr::NonNull;

/// `snapshot_copy_throttle`.
pub(crate) fn copy_throttle() -> Option<Throttle> {
    // SAFETY: No arguments.
    let throttle = NonNull::new(unsafe { bindings::dm_rs_copy_throttle() })?;
    // SAFETY: It is a static variable with an initialiser.
    Some(unsafe { Throttle::from_raw(throttle) })
}

/// `snapshot_cow_threshold`: exceptions that a snapshot makes at a time.
pub(crate) fn cow_threshold() -> usize {
    // SAFETY: No arguments.
    unsafe { bindings::dm_rs_cow_threshold() as usize }
}

/// `queue_if_no_space`: seconds that writers wait for space if the table says nothing about it.
pub(crate) fn queue_seconds() -> u32 {
    // SAFETY: No arguments.
    unsafe { bindings::dm_rs_queue_seconds() }
}
