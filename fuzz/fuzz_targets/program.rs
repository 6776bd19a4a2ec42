// SPDX-License-Identifier: GPL-2.0-or-later

//! A program of a delta.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmholey_fuzz::program(data));
