// SPDX-License-Identifier: GPL-2.0-or-later

//! What can go wrong with an update, and whose fault it is.

use dmholey_cow::Kind;
use std::path::Path;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure; it names the object it is about and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Input, output, a refusal or an interruption, or a broken delta.
    #[error(transparent)]
    Delta(#[from] dmholey_delta::Error),
    /// Nobody has a file, or nobody has the right one.
    #[error("{file}: no mirror has it: {why}")]
    Unavailable {
        /// The file.
        file: String,
        /// What each of them said.
        why: String,
    },
    /// A file of this program's own is not what it should be.
    #[error("{object}: {why}")]
    Broken {
        /// The file.
        object: String,
        /// The reason and the way out.
        why: String,
    },
}

impl Error {
    /// Something that is not as it should be.
    pub fn broken(object: impl ToString, why: impl Into<String>) -> Self {
        Self::Broken {
            object: object.to_string(),
            why: why.into(),
        }
    }

    /// A refusal about `object`.
    pub fn refused(object: impl ToString, why: impl Into<String>) -> Self {
        dmholey_cow::Error::refused(object, why).into()
    }

    /// An input or output error about a path.
    pub fn path(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        dmholey_cow::Error::path(action, path, source).into()
    }

    /// What the failure means.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Delta(error) => error.kind(),
            Self::Unavailable { .. } => Kind::Io,
            Self::Broken { .. } => Kind::Store,
        }
    }
}

impl From<dmholey_cow::Error> for Error {
    fn from(error: dmholey_cow::Error) -> Self {
        Self::Delta(error.into())
    }
}
