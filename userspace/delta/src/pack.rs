// SPDX-License-Identifier: GPL-2.0-or-later

//! zstd, with a bound on what comes out.

use crate::error::Broken;
use zstd_safe::CCtx;
use zstd_safe::CParameter;
use zstd_safe::DCtx;

/// A window of 16 MiB covers the source and the output of any unit.
const WINDOW_LOG: u32 = 24;
/// Room that the frame of `len` bytes needs.
fn room(len: usize) -> usize {
    zstd_safe::compress_bound(len)
}

/// Decodes `packed` to exactly `len` bytes. `what` it is, for the message.
pub(crate) fn decode(
    packed: &[u8],
    prefix: &[u8],
    len: usize,
    what: &'static str,
) -> Result<Vec<u8>, Broken> {
    let broken = Broken::Packed(what);
    let mut out = vec![0; len];
    let mut context = DCtx::try_create().ok_or(broken)?;
    if !prefix.is_empty() {
        context.ref_prefix(prefix).map_err(|_| broken)?;
    }
    let made = context.decompress(out.as_mut_slice(), packed);
    if made.is_ok_and(|made| made == len) {
        return Ok(out);
    }
    Err(broken)
}

/// Encodes `plain`, behind `prefix`.
pub(crate) fn encode(plain: &[u8], prefix: &[u8], level: i32) -> Result<Vec<u8>, Broken> {
    let broken = Broken::Packed("input");
    let mut context = CCtx::try_create().ok_or(broken)?;
    let parameters = [
        CParameter::CompressionLevel(level),
        CParameter::ContentSizeFlag(false),
        CParameter::ChecksumFlag(false),
    ];
    for parameter in parameters {
        context.set_parameter(parameter).map_err(|_| broken)?;
    }
    if plain.len() + prefix.len() > 1 << 20 {
        context
            .set_parameter(CParameter::WindowLog(WINDOW_LOG))
            .map_err(|_| broken)?;
    }
    if !prefix.is_empty() {
        context.ref_prefix(prefix).map_err(|_| broken)?;
    }
    let mut out = vec![0; room(plain.len())];
    let len = context
        .compress2(out.as_mut_slice(), plain)
        .map_err(|_| broken)?;
    out.truncate(len);
    out.shrink_to_fit();
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_is_decoded() {
        for len in [0, 1, 100, 3 << 20] {
            let plain: Vec<u8> = (0..len).map(|i: usize| ((i * i) >> 7) as u8).collect();
            for prefix in [&[][..], &plain[len / 3..]] {
                let packed = encode(&plain, prefix, 3).unwrap();
                assert_eq!(decode(&packed, prefix, len, "test"), Ok(plain.clone()));
                assert!(decode(&packed, prefix, len + 1, "test").is_err());
                assert!(len == 0 || decode(&packed, prefix, len - 1, "test").is_err());
                assert!(decode(&packed[..packed.len() - 1], prefix, len, "test").is_err());
            }
        }
        assert!(decode(b"nonsense", &[], 100, "test").is_err());
    }
}
