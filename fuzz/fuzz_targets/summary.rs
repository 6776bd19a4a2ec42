// SPDX-License-Identifier: GPL-2.0-or-later

//! The summary of a list.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmholey_fuzz::summary(data));
