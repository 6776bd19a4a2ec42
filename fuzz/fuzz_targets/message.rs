// SPDX-License-Identifier: GPL-2.0-or-later

//! Messages between the nodes of a cluster.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmholey_fuzz::message(data));
