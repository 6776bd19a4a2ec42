// SPDX-License-Identifier: GPL-2.0-or-later

//! What can go wrong when something is published.

use dmholey_cow::Kind;
use std::path::Path;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure; it names the object it is about and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The versions that are published, or what is to be.
    #[error(transparent)]
    Repository(#[from] dmholey_repository::Error),
    /// Signing, or what is published already and is not what it should be.
    #[error("{object}")]
    Tuf {
        /// What it was about.
        object: String,
        /// The library's answer.
        source: Box<tough::error::Error>,
    },
    /// A registry fails.
    #[error(transparent)]
    Registry(#[from] dmholey_registry::Error),
    /// A text names no place.
    #[error("{0}")]
    Unknown(String),
}

impl Error {
    /// What the library for signatures said about `object`.
    pub(crate) fn tuf(object: impl ToString) -> impl FnOnce(tough::error::Error) -> Self {
        let object = object.to_string();
        move |source| Self::Tuf {
            object,
            source: Box::new(source),
        }
    }

    /// Something that is not as it should be.
    pub fn broken(object: impl ToString, why: impl Into<String>) -> Self {
        dmholey_repository::Error::broken(object, why).into()
    }

    /// A refusal about a path.
    pub fn refused(path: &Path, why: impl Into<String>) -> Self {
        dmholey_cow::Error::refused(path.display(), why).into()
    }

    /// An input or output error about a path.
    pub fn path(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        dmholey_cow::Error::path(action, path, source).into()
    }

    /// What the failure means.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Repository(error) => error.kind(),
            Self::Tuf { .. } | Self::Unknown(_) => Kind::Refused,
            Self::Registry(_) => Kind::Io,
        }
    }
}

impl From<dmholey_cow::Error> for Error {
    fn from(error: dmholey_cow::Error) -> Self {
        Self::Repository(error.into())
    }
}
