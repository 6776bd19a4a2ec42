// SPDX-License-Identifier: GPL-2.0-or-later

//! Table lines.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmholey_fuzz::table(data));
