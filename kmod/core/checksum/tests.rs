// SPDX-License-Identifier: GPL-2.0

//! Tests of the checksum.

use super::*;

/// The examples of RFC 3720, appendix B.4, and the usual check value.
#[test]
fn known_sums() {
    let mut ascending = [0; 32];
    for (n, byte) in (0..).zip(&mut ascending) {
        *byte = n;
    }
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    assert_eq!(crc32c(&ascending), 0x46dd_794e);
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(crc32c(&[]), 0);
}
