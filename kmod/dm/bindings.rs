// SPDX-License-Identifier: GPL-2.0

//! Raw bindings of the device-mapper headers, made by bindgen when the module is built.
//!
//! Types that the kernel crate binds already (`bio`, `block_device`, ...) are taken from there.

#![allow(
    clippy::all,
    clippy::as_underscore,
    clippy::cast_lossless,
    clippy::indexing_slicing,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    improper_ctypes,
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unused_imports,
    unsafe_op_in_unsafe_fn
)]

use kernel::bindings::*;
use kernel::ffi;

include!(concat!(env!("DM_RS_OBJ"), "/dm_bindings.rs"));
