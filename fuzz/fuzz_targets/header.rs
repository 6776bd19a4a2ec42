// SPDX-License-Identifier: GPL-2.0-or-later

//! The header of a store and the layout that follows from it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmholey_fuzz::header(data));
