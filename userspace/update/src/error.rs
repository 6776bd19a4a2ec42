// SPDX-License-Identifier: GPL-2.0-or-later

//! What can go wrong with an update, and whose fault it is.

use dmholey_cow::Kind;
use std::path::Path;
use std::time::Duration;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure; it names the object it is about and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Input, output, a refusal or an interruption, or a file that is not what it should be.
    #[error(transparent)]
    Repository(#[from] dmholey_repository::Error),
    /// Nobody has a file, or nobody has the right one.
    #[error("{file}: no mirror has it: {why}")]
    Unavailable {
        /// The file.
        file: String,
        /// What each of them said.
        why: String,
    },
    /// A place does not do its work at the moment.
    #[error("{object}: {why}")]
    Later {
        /// The place or the file.
        object: String,
        /// The reason.
        why: String,
        /// How long it wants to be left alone, if it says so.
        after: Option<Duration>,
    },
    /// A server wants to know who asks.
    #[error("{object}: the server says 401 Unauthorized")]
    Unauthorized {
        /// The address.
        object: String,
    },
    /// The disk is not the version that it was taken for.
    #[error(
        "{disk}: is not the version that it was taken for: with the changes it is another image than the catalog \
         says; nothing was changed; repair it (dmholey update repair)"
    )]
    Drift {
        /// The disk.
        disk: String,
    },
    /// What is published is not what it should be, or not any more.
    #[error("what is published cannot be used with root {root}, the newest that is known")]
    Tuf {
        /// The number of the root.
        root: u64,
        /// What is wrong.
        source: Box<tough::error::Error>,
    },
}

impl Error {
    /// Something that is not as it should be.
    pub fn broken(object: impl ToString, why: impl Into<String>) -> Self {
        dmholey_repository::Error::broken(object, why).into()
    }

    /// Something that may work later.
    pub fn later(object: impl ToString, why: impl Into<String>, after: Option<Duration>) -> Self {
        Self::Later {
            object: object.to_string(),
            why: why.into(),
            after,
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
            Self::Repository(error) => error.kind(),
            Self::Unavailable { .. } | Self::Later { .. } => Kind::Io,
            Self::Tuf { .. } | Self::Unauthorized { .. } | Self::Drift { .. } => Kind::Refused,
        }
    }

    /// Whether the disk is not what it was taken for.
    pub(crate) fn is_drift(&self) -> bool {
        use dmholey_delta::Error::Drift;
        use dmholey_repository::Error::Delta;
        matches!(
            self,
            Self::Drift { .. } | Self::Repository(Delta(Drift { .. }))
        )
    }

    /// Whether it may work later; and how long the place wants to be left alone, if it says so.
    pub(crate) fn later_after(&self) -> Option<Option<Duration>> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(Self::Later { after, .. }) = error.downcast_ref() {
                return Some(*after);
            }
            cause = error.source();
        }
        None
    }
}

/// An error with what caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Some errors end with the text of their cause.
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

impl From<dmholey_cow::Error> for Error {
    fn from(error: dmholey_cow::Error) -> Self {
        Self::Repository(error.into())
    }
}

impl From<dmholey_delta::Error> for Error {
    fn from(error: dmholey_delta::Error) -> Self {
        Self::Repository(error.into())
    }
}
