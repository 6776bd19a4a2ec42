// SPDX-License-Identifier: GPL-2.0

//! Module parameters that may be written to while the module is in use, which those of `module!`
//! may not. They are in `parameters.c`.

use crate::dm::Throttle;
use kernel::ffi::c_uint;

// As `parameters.h` declares them. Each only reads a variable of its own, or returns the address of
// one that is initialised, so that they are safe.
unsafe extern "C" {
    safe fn holey_copy_throttle() -> Throttle;
    safe fn holey_cow_threshold() -> c_uint;
    safe fn holey_queue_seconds() -> c_uint;
}

/// `snapshot_copy_throttle`.
pub(crate) fn copy_throttle() -> Throttle {
    holey_copy_throttle()
}

/// `snapshot_cow_threshold`: exceptions that a snapshot makes at a time.
pub(crate) fn cow_threshold() -> usize {
    holey_cow_threshold() as usize
}

/// `queue_if_no_space`: seconds that writers wait for space if the table says nothing about it.
pub(crate) fn queue_seconds() -> u32 {
    holey_queue_seconds()
}
