// SPDX-License-Identifier: GPL-2.0-or-later

//! Deflate as others do it, to the bit.
//!
//! A compressed file that has changed shares next to nothing with its old version; inflated, it shares
//! nearly everything. So a delta may carry inflated content, if what the client makes of it is the very
//! file. For that the compressor has to take the same matches, and end its blocks at the same places, as
//! the one that made the file. Two of them matter, and both go back to one design: GNU gzip, which
//! compresses the pages and change logs of distributions, and zlib.
//!
//! They differ in when a block ends, in the size of zlib's hash table and symbol buffer, and in what they
//! do within the last bytes of a file. A recipe names one of them with its level. Whether a recipe makes
//! a file is found by trying; see [`crate::gzip`].

mod matches;
mod trees;

use crate::error::Broken;
use matches::Matcher;
use serde::Serialize;

/// Whose deflate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Family {
    /// GNU gzip.
    Gzip,
    /// zlib with this memory level, from 1 to 9.
    Zlib(u8),
}

/// How a file was compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Recipe {
    /// By whom.
    pub family: Family,
    /// With which level, from 1 to 9.
    pub level: u8,
}

/// The highest level of both.
const MAX_LEVEL: u8 = 9;

impl Recipe {
    /// Recipes worth trying, the likeliest first.
    pub const LIKELY: [Self; 8] = [
        Self::new(Family::Gzip, 9),
        Self::new(Family::Zlib(8), 9),
        Self::new(Family::Gzip, 6),
        Self::new(Family::Zlib(8), 6),
        Self::new(Family::Zlib(9), 9),
        Self::new(Family::Zlib(9), 6),
        Self::new(Family::Gzip, 1),
        Self::new(Family::Zlib(8), 1),
    ];

    const fn new(family: Family, level: u8) -> Self {
        Self { family, level }
    }

    pub(crate) fn encode(self) -> [u8; 2] {
        match self.family {
            Family::Gzip => [0, self.level],
            Family::Zlib(memory) => [memory, self.level],
        }
    }

    pub(crate) fn parse([family, level]: [u8; 2]) -> Result<Self, Broken> {
        let family = match family {
            0 => Family::Gzip,
            memory @ 1..=MAX_LEVEL => Family::Zlib(memory),
            other => return Err(Broken::Unknown("family of deflate", other.into())),
        };
        if !(1..=MAX_LEVEL).contains(&level) {
            return Err(Broken::Unknown("level of deflate", level.into()));
        }
        Ok(Self { family, level })
    }
}

/// Compresses `plain`, as `recipe` says. Nothing if more than `max` bytes would come out.
pub fn deflate(plain: &[u8], recipe: Recipe, max: usize) -> Option<Vec<u8>> {
    Matcher::new(plain, recipe, max).run()
}

#[cfg(test)]
mod tests;
