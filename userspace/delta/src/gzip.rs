// SPDX-License-Identifier: GPL-2.0-or-later

//! gzip files, inflated and made again.
//!
//! Inflated they are the header of the file and then its content. The trailer follows from the content;
//! what stands behind it, up to the end of the last block, is zero.

use crate::deflate;
use crate::error::Broken;
use miniz_oxide::inflate::core;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::DecompressorOxide;
use miniz_oxide::inflate::TINFLStatus;

pub use deflate::Family;
pub use deflate::Recipe;

/// The first bytes of a file: magic and method.
const START: [u8; 3] = [0x1f, 0x8b, 8];
/// Bytes of a header without optional fields.
const FIXED: usize = 10;
/// Bytes of a trailer: CRC and length.
const TRAILER: usize = 8;
const CHECKSUM: u8 = 2;
const EXTRA: u8 = 4;
const NAME: u8 = 8;
const COMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;

/// Whether `bytes` look like the start of a file.
pub(crate) fn is_start(bytes: &[u8]) -> bool {
    bytes.starts_with(&START)
}

/// Bytes of the header that `bytes` start with.
fn header_len(bytes: &[u8]) -> Option<usize> {
    let (&flags, true) = (bytes.get(3)?, is_start(bytes)) else {
        return None;
    };
    if flags & RESERVED != 0 {
        return None;
    }
    let mut at = FIXED;
    if flags & EXTRA != 0 {
        let len = bytes.get(at..)?.first_chunk()?;
        at += 2 + usize::from(u16::from_le_bytes(*len));
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            at += bytes.get(at..)?.iter().position(|&byte| byte == 0)? + 1;
        }
    }
    if flags & CHECKSUM != 0 {
        at += 2;
    }
    (at <= bytes.len()).then_some(at)
}

/// Inflates the file that `packed` starts with; its `len` bytes are appended to `out`. If they are others
/// there is an error, and what was appended is anything, as long.
pub fn inflate(packed: &[u8], len: usize, out: &mut Vec<u8>) -> Result<(), Broken> {
    let start = out.len();
    // With a byte more it comes to its end also if that is a block of nothing.
    out.resize(start + len + 1, 0);
    let to = out.get_mut(start..).unwrap_or_default();
    let made = inflate_to(packed, to);
    out.truncate(start + len);
    match made {
        Some(made) if made == len => Ok(()),
        _ => Err(Broken::Gzip("inflated")),
    }
}

fn inflate_to(packed: &[u8], out: &mut [u8]) -> Option<usize> {
    let header = header_len(packed)?;
    let (head, body) = packed.split_at_checked(header)?;
    let (to, plain) = out.split_at_mut_checked(header)?;
    to.copy_from_slice(head);
    let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let mut state = Box::<DecompressorOxide>::default();
    let (status, _, written) = core::decompress(&mut state, body, plain, 0, flags);
    (status == TINFLStatus::Done).then_some(header + written)
}

/// The same with a length that is not known, up to `max` bytes. Nothing if that is no whole file.
pub fn inflate_all(packed: &[u8], max: usize) -> Option<Vec<u8>> {
    let header = header_len(packed)?;
    let (head, body) = packed.split_at_checked(header)?;
    let mut out = head.to_vec();
    let mut state = Box::<DecompressorOxide>::default();
    let (mut read, mut written) = (0, 0);
    out.resize((packed.len() * 4).clamp(1024.min(max), max), 0);
    loop {
        let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        let rest = body.get(read..)?;
        // Nothing of the content may refer to the header.
        let plain = out.get_mut(header..)?;
        let (status, taken, made) = core::decompress(&mut state, rest, plain, written, flags);
        read += taken;
        written += made;
        match status {
            TINFLStatus::Done => break,
            TINFLStatus::HasMoreOutput if out.len() < max => {
                out.resize((out.len() * 2).min(max), 0);
            }
            _ => return None,
        }
    }
    out.truncate(header + written);
    Some(out)
}

/// Makes the file of `inflated` content again, and zeros behind it: `len` bytes in all.
pub fn remake(inflated: &[u8], recipe: Recipe, len: usize) -> Result<Vec<u8>, Broken> {
    let broken = Broken::Gzip("made again");
    let header = header_len(inflated).ok_or(broken)?;
    let (head, plain) = inflated.split_at_checked(header).ok_or(broken)?;
    let room = len.checked_sub(header + TRAILER).ok_or(broken)?;
    let body = deflate::deflate(plain, recipe, room).ok_or(broken)?;
    let mut out = Vec::with_capacity(len);
    out.extend_from_slice(head);
    out.extend_from_slice(&body);
    out.extend(crc32fast::hash(plain).to_le_bytes());
    out.extend((plain.len() as u32).to_le_bytes());
    out.resize(len, 0);
    Ok(out)
}

/// What makes the file `packed`, with the zeros behind it, from inflated content. That it does is proven
/// by making it.
pub fn recipe(packed: &[u8], max: usize) -> Option<(Vec<u8>, Recipe)> {
    let inflated = inflate_all(packed, max)?;
    let recipe = Recipe::LIKELY.into_iter().find(|&recipe| {
        remake(&inflated, recipe, packed.len()).is_ok_and(|again| again == packed)
    })?;
    Some((inflated, recipe))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(head: &[u8], plain: &[u8], recipe: Recipe) -> Vec<u8> {
        let mut inflated = head.to_vec();
        inflated.extend_from_slice(plain);
        remake(&inflated, recipe, plain.len() + 4096).unwrap()
    }

    #[test]
    fn headers_are_measured() {
        let plain = b"some text, some more text".repeat(20);
        let recipe = Recipe::LIKELY[0];
        let heads: [&[u8]; 4] = [
            b"\x1f\x8b\x08\0\0\0\0\0\x02\x03",
            b"\x1f\x8b\x08\x08\0\0\0\0\x02\x03name\0",
            b"\x1f\x8b\x08\x1e\0\0\0\0\x02\x03\x02\0xyname\0comment\0cc",
            b"\x1f\x8b\x08\x10\0\0\0\0\x02\x03\0",
        ];
        for head in heads {
            let packed = file(head, &plain, recipe);
            let (inflated, found) = super::recipe(&packed, 1 << 20).unwrap();
            assert_eq!((found, &inflated[..head.len()]), (recipe, head));
            let mut again = Vec::new();
            inflate(&packed, inflated.len(), &mut again).unwrap();
            assert_eq!(again, inflated);
            assert!(inflate_all(&packed, inflated.len() - 1).is_none());
        }
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let packed = file(
            b"\x1f\x8b\x08\0\0\0\0\0\x02\x03",
            &[7; 1000],
            Recipe::LIKELY[0],
        );
        for cut in 0..20 {
            assert!(inflate(&packed[..cut], 1010, &mut Vec::new()).is_err());
            assert!(recipe(&packed[..cut], 2000).is_none());
        }
        for len in [0, 10, 1009, 1011] {
            let mut out = vec![1];
            assert!(inflate(&packed, len, &mut out).is_err(), "{len}");
            assert_eq!(out.len(), 1 + len);
        }
        assert!(remake(&[0x1f; 30], Recipe::LIKELY[0], 4096).is_err());
        assert!(remake(&packed[..10], Recipe::LIKELY[0], 17).is_err());
    }

    #[test]
    fn a_last_block_may_be_empty() {
        let mut packed = b"\x1f\x8b\x08\0\0\0\0\0\x02\x03".to_vec();
        // Two bytes as they are, then none.
        packed.extend(b"\x00\x02\x00\xfd\xffxy\x01\x00\x00\xff\xff");
        let mut out = Vec::new();
        inflate(&packed, 12, &mut out).unwrap();
        assert_eq!(out[10..], *b"xy");
        assert_eq!(inflate_all(&packed, 100).unwrap(), out);
    }

    proptest! {
        #[test]
        fn odd_bytes_do_no_harm(mut bytes in prop::collection::vec(any::<u8>(), 0..300), len in 0usize..400) {
            let _ = remake(&bytes, Recipe::LIKELY[1], len);
            if let Some(start) = bytes.get_mut(..3) {
                start.copy_from_slice(&START);
            }
            let _ = remake(&bytes, Recipe::LIKELY[1], len);
            let _ = inflate(&bytes, len, &mut Vec::new());
            let _ = recipe(&bytes, 4096);
        }
    }
}
