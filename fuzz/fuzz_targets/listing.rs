// SPDX-License-Identifier: GPL-2.0-or-later

//! The manifest of an artifact in a registry.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmholey_fuzz::listing(data));
