// SPDX-License-Identifier: GPL-2.0

//! Module parameters that may be written to while the module is in use, which those of `module!`
//! may not. They are in `parameters.c`.

use crate::dm::Throttle;
use core::ptr::NonNull;
use kernel::ffi::c_uint;
use kernel::ffi::c_void;

// As `parameters.h` declares them. Each only reads a variable of its own, so that they are safe.
unsafe extern "C" {
    /// A `struct dm_kcopyd_throttle`.
    safe fn holey_copy_throttle() -> *mut c_void;
    safe fn holey_cow_threshold() -> c_uint;
    safe fn holey_queue_seconds() -> c_uint;
}

/// `snapshot_copy_throttle`.
pub(crate) fn copy_throttle() -> Option<Throttle> {
    let throttle = NonNull::new(holey_copy_throttle())?;
    // SAFETY: It is a static variable with an initialiser.
    Some(unsafe { Throttle::from_raw(throttle.cast()) })
}

/// `snapshot_cow_threshold`: exceptions that a snapshot makes at a time.
pub(crate) fn cow_threshold() -> usize {
    holey_cow_threshold() as usize
}

/// `queue_if_no_space`: seconds that writers wait for space if the table says nothing about it.
pub(crate) fn queue_seconds() -> u32 {
    holey_queue_seconds()
}
