// SPDX-License-Identifier: GPL-2.0-or-later

//! Compressed files, inflated and made again.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmholey_fuzz::gzip(data));
