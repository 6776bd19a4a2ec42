// SPDX-License-Identifier: GPL-2.0-or-later

//! A delta: its index as it stands, and what applies it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmholey_fuzz::delta(data));
