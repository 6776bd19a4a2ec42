// SPDX-License-Identifier: GPL-2.0

//! The pure logic of dmholey, without a kernel type in it.
//!
//! The kernel module compiles the same files as its module `holey_core`; this crate root exists so
//! that cargo can build, test and measure them in userspace and so that the tools share them.
//! See [`mod@format`] for where to start reading.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

#[path = "mod.rs"]
mod holey_core;

pub use holey_core::*;
