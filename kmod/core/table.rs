// SPDX-License-Identifier: GPL-2.0

//! What a table line asks for.
//!
//! The grammar is that of the stock targets:
//!
//! ```text
//! snapshot-origin <origin>
//! snapshot        <origin> <COW device> <store> <chunk sectors> [<#features> <feature>...]
//! snapshot-merge  <origin> <COW device> <store> <chunk sectors> [<#features> <feature>...]
//! ```

use super::format::ChunkSize;
use super::format::FormatError;
use core::fmt;

/// Most features that stock accepts.
const MOST_FEATURES: usize = 2;

/// What follows the two devices in a table line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLine {
    /// The chunk size; `None` (written as 0) takes it from the store's header.
    pub chunk: Option<ChunkSize>,
}

/// Why a table line is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableError {
    /// Fewer words than the grammar needs.
    TooFewWords {
        /// Words there are.
        got: usize,
        /// Words there should be.
        want: usize,
    },
    /// More words than the grammar has a meaning for.
    TooManyWords {
        /// Words there are.
        got: usize,
        /// Words there should be.
        want: usize,
    },
    /// The store is neither P nor N.
    Store,
    /// The letter after P is not O.
    StoreOption,
    /// Store N: not supported yet.
    Transient,
    /// Store PO: not supported yet.
    Overflow,
    /// The chunk size is not a number.
    ChunkNumber,
    /// The chunk size is out of range.
    Chunk(FormatError),
    /// The number of features is no number, too large, or more than there are words.
    FeatureCount,
    /// A feature that exists but is not supported yet.
    FeatureUnsupported,
    /// A feature that nobody knows.
    FeatureUnknown,
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooFewWords { got, want } => write!(f, "{got} arguments are too few, {want} are needed"),
            Self::TooManyWords { got, want } => write!(f, "{got} arguments are too many, {want} are needed"),
            Self::Store => f.write_str("the exception store must be P (persistent)"),
            Self::StoreOption => f.write_str("the only option of store P is O, as in PO"),
            Self::Transient => f.write_str("store N (transient) is not supported yet, use P"),
            Self::Overflow => f.write_str("store PO is not supported yet, use P"),
            Self::ChunkNumber => f.write_str("the chunk size must be a number of sectors, or 0 to take it from the COW device"),
            Self::Chunk(error) => error.fmt(f),
            Self::FeatureCount => write!(f, "the number of features must be from 0 to {MOST_FEATURES} and match the words behind it"),
            Self::FeatureUnsupported => f.write_str("discard_zeroes_cow and discard_passdown_origin are not supported yet"),
            Self::FeatureUnknown => f.write_str("unknown feature"),
        }
    }
}

impl StoreLine {
    /// Reads words 2 and following of a `snapshot` or `snapshot-merge` line; `words` yields them
    /// all, the devices first.
    pub fn parse<'a>(words: impl Iterator<Item = &'a [u8]> + Clone) -> Result<Self, TableError> {
        let mut rest = words.clone().skip(2);
        let (Some(store), Some(chunk)) = (rest.next(), rest.next()) else {
            return Err(TableError::TooFewWords {
                got: words.count(),
                want: 4,
            });
        };
        check_features(rest)?;
        check_store(store)?;
        let chunk = match number(chunk).ok_or(TableError::ChunkNumber)? {
            0 => None,
            sectors => Some(ChunkSize::new(sectors).map_err(TableError::Chunk)?),
        };
        Ok(Self { chunk })
    }
}

fn check_store(word: &[u8]) -> Result<(), TableError> {
    match (word.first(), word.get(1)) {
        (Some(b'P' | b'p'), None) => Ok(()),
        (Some(b'P' | b'p'), Some(b'O' | b'o')) => Err(TableError::Overflow),
        (Some(b'P' | b'p'), Some(_)) => Err(TableError::StoreOption),
        (Some(b'N' | b'n'), _) => Err(TableError::Transient),
        _ => Err(TableError::Store),
    }
}

fn check_features<'a>(mut rest: impl Iterator<Item = &'a [u8]>) -> Result<(), TableError> {
    let Some(count) = rest.next() else {
        return Ok(());
    };
    let count = number(count).ok_or(TableError::FeatureCount)? as usize;
    if count > MOST_FEATURES {
        return Err(TableError::FeatureCount);
    }
    // None of the features is supported yet, so the first one decides.
    match (count, rest.next()) {
        (0, _) => Ok(()),
        (_, Some(word)) if is_known_feature(word) => Err(TableError::FeatureUnsupported),
        (_, Some(_)) => Err(TableError::FeatureUnknown),
        (_, None) => Err(TableError::FeatureCount),
    }
}

fn is_known_feature(word: &[u8]) -> bool {
    let known = [b"discard_zeroes_cow".as_slice(), b"discard_passdown_origin"];
    known
        .iter()
        .any(|feature| feature.eq_ignore_ascii_case(word))
}

fn number(word: &[u8]) -> Option<u32> {
    core::str::from_utf8(word).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<StoreLine, TableError> {
        StoreLine::parse(line.split(' ').map(str::as_bytes))
    }

    #[test]
    fn lines_that_are_accepted() {
        let chunk = Some(ChunkSize::new(8).unwrap());
        assert_eq!(parse("a b P 8"), Ok(StoreLine { chunk }));
        assert_eq!(parse("a b p 0"), Ok(StoreLine { chunk: None }));
        assert_eq!(parse("a b P 8 0 ignored"), Ok(StoreLine { chunk }));
    }

    #[test]
    fn lines_that_are_refused() {
        let cases = [
            ("a b P", TableError::TooFewWords { got: 3, want: 4 }),
            ("a b X 8", TableError::Store),
            ("a b Px 8", TableError::StoreOption),
            ("a b POzz 8", TableError::Overflow),
            ("a b nzz 8", TableError::Transient),
            ("a b P eight", TableError::ChunkNumber),
            ("a b P -8", TableError::ChunkNumber),
            ("a b P 12", TableError::Chunk(FormatError::ChunkSize(12))),
            ("a b P 4", TableError::Chunk(FormatError::ChunkSize(4))),
            ("a b P 8 3 a b c", TableError::FeatureCount),
            ("a b P 8 1", TableError::FeatureCount),
            ("a b P 8 1 nonsense", TableError::FeatureUnknown),
            (
                "a b P 8 1 Discard_Zeroes_COW",
                TableError::FeatureUnsupported,
            ),
        ];
        for (line, error) in cases {
            assert_eq!(parse(line), Err(error), "{line}");
        }
    }
}
