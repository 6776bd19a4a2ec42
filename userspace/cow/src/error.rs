// SPDX-License-Identifier: GPL-2.0-or-later

//! What can go wrong with a store, and whose fault it is.

use holey_core::format::FormatError;
use std::io;
use std::path::Path;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// What a failure means for whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reading or writing failed.
    Io,
    /// The input is no COW store, or a damaged one.
    Store,
    /// The request was refused to protect data; nothing was changed.
    Refused,
    /// Somebody asked to stop.
    Interrupted,
}

/// A failure; it names the object it is about and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operating system call failed.
    #[error("cannot {action} {object}")]
    Io {
        /// What was tried, as an infinitive.
        action: &'static str,
        /// The file or device, perhaps with a place in it.
        object: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The store breaks a rule of the format.
    #[error("{object}: {reason}")]
    Format {
        /// The file or device.
        object: String,
        /// The rule.
        reason: FormatError,
    },
    /// The device starts with zeros: a snapshot may be made on it, but it holds none.
    #[error(
        "{object}: no COW store: its first 4 bytes are zero, as on a fresh or half-written one"
    )]
    Fresh {
        /// The file or device.
        object: String,
    },
    /// The snapshot was given up by the kernel, so its content is not to be trusted.
    #[error(
        "{object}: the snapshot was invalidated (its store had filled up or failed); make it anew"
    )]
    Invalidated {
        /// The file or device.
        object: String,
    },
    /// The request was refused before anything was changed.
    #[error("{object}: {why}")]
    Refused {
        /// The file or device.
        object: String,
        /// The reason and the way out.
        why: String,
    },
    /// Somebody asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// An input or output error about `object`.
    pub fn io(action: &'static str, object: impl ToString, source: io::Error) -> Self {
        Self::Io {
            action,
            object: object.to_string(),
            source,
        }
    }

    /// The same about a path.
    pub fn path(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::io(action, path.display(), source)
    }

    /// A refusal about `object`.
    pub fn refused(object: impl ToString, why: impl Into<String>) -> Self {
        Self::Refused {
            object: object.to_string(),
            why: why.into(),
        }
    }

    /// A broken rule of the format in `object`.
    pub fn format(object: impl ToString, reason: FormatError) -> Self {
        Self::Format {
            object: object.to_string(),
            reason,
        }
    }

    /// What the failure means.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Io { .. } => Kind::Io,
            Self::Format { .. } | Self::Fresh { .. } | Self::Invalidated { .. } => Kind::Store,
            Self::Refused { .. } => Kind::Refused,
            Self::Interrupted => Kind::Interrupted,
        }
    }
}
