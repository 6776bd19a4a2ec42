// SPDX-License-Identifier: GPL-2.0-or-later

//! Named files in an OCI registry, as one artifact.
//!
//! Each file is a blob. The manifest that a tag names lists them as layers, each with the file's name as its
//! title, as ORAS does it; so whoever has read the manifest has all files of one moment. Files change by another
//! manifest, in one step.
//!
//! The formats are those of the OCI's image specification 1.1 (the manifest, with an empty configuration) and
//! distribution specification 1.1.
//!
//! | module | does |
//! | --- | --- |
//! | [`address`] | where such files are: `oci://registry.example.org/team/image:tag` |
//! | [`listing`] | the manifest |
//! | [`registry`] | signs in, and puts files there |

#![forbid(unsafe_code)]

pub mod address;
pub mod listing;
pub mod registry;

pub use address::Address;
pub use listing::File;
pub use listing::Listing;
pub use registry::Registry;

/// A failure; it names the object it is about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry does not do what it was asked for.
    #[error("{address}: the registry fails")]
    Registry {
        /// Where.
        address: String,
        /// What it said.
        source: Box<oci_client::errors::OciDistributionError>,
    },
    /// Something is not what it should be.
    #[error("{object}: {why}")]
    Broken {
        /// The address or the file.
        object: String,
        /// The reason and the way out.
        why: String,
    },
    /// A file cannot be read, or nothing can be started.
    #[error("cannot {action} {object}")]
    Io {
        /// What was tried, as an infinitive.
        action: &'static str,
        /// The file.
        object: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn broken(object: impl ToString, why: impl Into<String>) -> Self {
        Self::Broken {
            object: object.to_string(),
            why: why.into(),
        }
    }
}
