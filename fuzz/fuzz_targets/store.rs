// SPDX-License-Identifier: GPL-2.0-or-later

//! A whole store, as the module loads it and as the tools read it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmholey_fuzz::store(data));
