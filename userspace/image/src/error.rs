// SPDX-License-Identifier: GPL-2.0-or-later

//! What can go wrong when an image is built, and whose fault it is.

use std::io;
use std::path::Path;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// What a failure means for whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reading or writing failed, or a program that was called.
    Io,
    /// The tree or the base is damaged, or nothing that can be worked with.
    Input,
    /// The request was refused to protect data.
    Refused,
    /// Somebody asked to stop.
    Interrupted,
}

/// A failure; it names the object it is about and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Input, output, a refusal or an interruption, as for COW stores.
    #[error(transparent)]
    Disk(#[from] dmholey_cow::Error),
    /// libext2fs failed.
    #[error("cannot {action} of {object}: {answer}")]
    FileSystem {
        /// What was tried, as an infinitive and its object.
        action: String,
        /// The image.
        object: String,
        /// The library's answer.
        answer: String,
    },
    /// The base or the tree cannot be worked with.
    #[error("{object}: {why}")]
    Input {
        /// The image, or the path in the tree.
        object: String,
        /// The reason and the way out.
        why: String,
    },
    /// The tree does not fit.
    #[error(
        "{object}: no room: the tree needs about {missing} more {what}; give the image more with --size, \
         or take a larger base (a file: truncate -s, then resize2fs)"
    )]
    NoRoom {
        /// The image.
        object: String,
        /// How much is missing.
        missing: u64,
        /// Of what.
        what: &'static str,
    },
}

impl Error {
    /// An input or output error about `object`.
    pub fn io(action: &'static str, object: impl ToString, source: io::Error) -> Self {
        dmholey_cow::Error::io(action, object, source).into()
    }

    /// The same about a path.
    pub fn path(action: &'static str, path: &Path, source: io::Error) -> Self {
        dmholey_cow::Error::path(action, path, source).into()
    }

    /// An input that cannot be worked with.
    pub fn input(object: impl ToString, why: impl Into<String>) -> Self {
        Self::Input {
            object: object.to_string(),
            why: why.into(),
        }
    }

    /// A refusal about `object`.
    pub fn refused(object: impl ToString, why: impl Into<String>) -> Self {
        dmholey_cow::Error::refused(object, why).into()
    }

    /// What the failure means.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoRoom { .. } => Kind::Io,
            Self::FileSystem { .. } | Self::Input { .. } => Kind::Input,
            Self::Disk(error) => match error.kind() {
                dmholey_cow::Kind::Io => Kind::Io,
                dmholey_cow::Kind::Store => Kind::Input,
                dmholey_cow::Kind::Refused => Kind::Refused,
                dmholey_cow::Kind::Interrupted => Kind::Interrupted,
            },
        }
    }
}

/// A path of a tree for messages: what is no text is shown as `\xNN`.
pub(crate) fn show(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}
