// SPDX-License-Identifier: GPL-2.0-or-later

//! A catalog that clients read, and the list of a repository.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmholey_fuzz::catalog(data));
