// SPDX-License-Identifier: GPL-2.0-or-later

//! Compressed files, inflated and made again.

use crate::input::Input;
use dmholey_delta::gzip;
use dmholey_delta::gzip::Recipe;

/// Bytes of the largest content.
const MAX: usize = 1 << 16;

/// Takes bytes as a compressed file, and as content. A file with a recipe is what the recipe makes; what
/// is made inflates to its content.
pub fn gzip(data: &[u8]) {
    let mut input = Input::new(data);
    let recipe = Recipe::LIKELY[usize::from(input.byte()) % Recipe::LIKELY.len()];
    let bytes = input.rest();
    if let Some((inflated, recipe)) = gzip::recipe(bytes, MAX) {
        assert_eq!(gzip::remake(&inflated, recipe, bytes.len()).unwrap(), bytes);
    }
    if let Some(inflated) = gzip::inflate_all(bytes, MAX) {
        let mut again = Vec::new();
        gzip::inflate(bytes, inflated.len(), &mut again).unwrap();
        assert_eq!(again, inflated);
    }
    let mut content = b"\x1f\x8b\x08\0\0\0\0\0\x02\x03".to_vec();
    content.extend_from_slice(bytes);
    let packed = gzip::remake(&content, recipe, 2 * bytes.len() + 100).unwrap();
    assert_eq!(gzip::inflate_all(&packed, MAX).unwrap(), content);
}
