// SPDX-License-Identifier: GPL-2.0

//! Request flags, as masks.
//!
//! C header: [`include/linux/blk_types.h`](srctree/include/linux/blk_types.h)

use kernel::bindings::req_flag_bits;

const fn mask(bit: req_flag_bits) -> u32 {
    1 << bit
}

/// The submitter waits for it.
pub(super) const SYNC: u32 = mask(kernel::bindings::req_flag_bits___REQ_SYNC);
/// All that was written before is made durable first.
pub(super) const PREFLUSH: u32 = mask(kernel::bindings::req_flag_bits___REQ_PREFLUSH);
/// Done means durable.
pub(super) const FUA: u32 = mask(kernel::bindings::req_flag_bits___REQ_FUA);
