// SPDX-License-Identifier: GPL-2.0-or-later

//! What a target and its agent say to each other.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmholey_fuzz::record(data));
