// SPDX-License-Identifier: GPL-2.0-or-later

//! A file system, as it is read to find old versions of files.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmholey_fuzz::ext4(data));
