// SPDX-License-Identifier: GPL-2.0

//! CRC-32C, the checksum of iSCSI, ext4 and Btrfs.
//!
//! Source: RFC 3720, section 12.1 and appendix B.4 (polynomial 0x1EDC6F41, reflected, all ones
//! before and after).

/// What each value of a byte adds.
const TABLE: [u32; 256] = table();

// A constant, which the compiler computes.
#[allow(clippy::indexing_slicing)]
const fn table() -> [u32; 256] {
    /// The polynomial with its bits in reverse order.
    const REVERSED: u32 = 0x82f6_3b78;
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 {
                (sum >> 1) ^ REVERSED
            } else {
                sum >> 1
            };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
}

/// The checksum of `bytes`.
// A byte names one of 256 places.
#[allow(clippy::indexing_slicing)]
pub fn crc32c(bytes: &[u8]) -> u32 {
    let add = |sum: u32, byte: &u8| {
        let low = sum as u8 ^ byte;
        (sum >> 8) ^ TABLE[usize::from(low)]
    };
    !bytes.iter().fold(!0, add)
}

#[cfg(test)]
mod tests;
