// SPDX-License-Identifier: GPL-2.0-or-later

//! What can go wrong with a delta, and whose fault it is.

use dmholey_cow::Kind;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure; it names the object it is about and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Input, output, a refusal or an interruption, as for COW stores.
    #[error(transparent)]
    Disk(#[from] dmholey_cow::Error),
    /// The delta breaks a rule of the format.
    #[error("{object}: {reason}")]
    Format {
        /// The file.
        object: String,
        /// The rule.
        reason: Broken,
    },
    /// The disk does not hold the version that the delta was made from.
    #[error(
        "{object}: is not the old version of this delta: {what} differs; nothing was taken from there"
    )]
    Drift {
        /// The disk.
        object: String,
        /// What was compared.
        what: String,
    },

    /// What was made is not the new version.
    #[error(
        "{object}: is not the new version: {base} is not the old version of this delta, or {object} does not keep what \
         is written there"
    )]
    Unlike {
        /// Where it was made.
        object: String,
        /// The disk with the old version.
        base: String,
    },
}

impl Error {
    /// A broken rule of the format in `object`.
    pub fn format(object: impl ToString, reason: Broken) -> Self {
        Self::Format {
            object: object.to_string(),
            reason,
        }
    }

    /// What the failure means.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Disk(error) => error.kind(),
            Self::Format { .. } => Kind::Store,
            Self::Drift { .. } | Self::Unlike { .. } => Kind::Refused,
        }
    }
}

/// A rule of the format that a delta breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// It does not start as a delta does.
    #[error("no delta: it does not start with the bytes DMHdelta")]
    Magic,
    /// It ends inside the header or the index, or before the last unit.
    #[error("cut off: it has {0} bytes and needs {1}")]
    Short(u64, u64),
    /// A version that is not known here.
    #[error("version {0} of the delta format is not known here; a newer dmholey may know it")]
    Version(u32),
    /// A digest that is not that of what it stands for.
    #[error("the digest of {0} is wrong: it is damaged")]
    Digest(&'static str),
    /// A number outside its limits.
    #[error("{0} is outside its limits")]
    Limit(&'static str),
    /// More of something than a delta may have.
    #[error("{0} is outside its limits")]
    TooMany(&'static str),
    /// A number of more bytes than it needs, or of more than 64 bits.
    #[error("a number in the {0} is not well formed")]
    Number(&'static str),
    /// Bytes behind the end of a part.
    #[error("the {0} goes on behind its end")]
    Rest(&'static str),
    /// A kind, method or transform that is not known.
    #[error("unknown {0} {1}")]
    Unknown(&'static str, u64),
    /// Blocks that are written twice.
    #[error("block {0} is written twice")]
    Overlap(u64),
    /// Compressed bytes that cannot be decoded to what they should be.
    #[error("the {0} cannot be decoded")]
    Packed(&'static str),
    /// A program that leaves its source or its output.
    #[error("a program leaves its bounds")]
    Program,
    /// A compressed file that cannot be inflated or made again.
    #[error("a compressed file cannot be {0}")]
    Gzip(&'static str),
}
