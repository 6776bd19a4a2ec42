// SPDX-License-Identifier: GPL-2.0-or-later

//! The life of an area's image on a disk.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmholey_fuzz::area(data));
