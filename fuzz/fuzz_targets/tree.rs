// SPDX-License-Identifier: GPL-2.0-or-later

//! Archives of trees and of container images.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmholey_fuzz::tree(data));
