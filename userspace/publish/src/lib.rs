// SPDX-License-Identifier: GPL-2.0-or-later

//! Publishes the versions of an image as static files, signed as The Update Framework wants it.
//!
//! What is published is a TUF repository with consistent snapshots. Its targets are deltas, and a catalog
//! of versions ([`dmholey_repository::catalog`]) that tells which delta leads where. `Documentation/image-publishing.rst` describes the
//! files, and against whom they are safe.
//!
//! | module | does |
//! | --- | --- |
//! | [`keys`] | the keys of the four roles, and the root that names them |
//! | [`place`] | where files are published: a folder, a bucket, a registry |
//! | [`mod@publish`] | puts a repository of versions there, in an order that never breaks a client |

#![forbid(unsafe_code)]

pub mod error;
pub mod keys;
pub mod place;
pub mod publish;

pub use error::Error;
pub use error::Result;
pub use keys::Keys;
pub use place::Place;

pub use dmholey_repository::catalog::METADATA;
pub use dmholey_repository::catalog::NAME as CATALOG;
pub use dmholey_repository::catalog::TARGETS;

/// Runs what the library wants to run asynchronously. Nothing here waits for more than one thing.
fn wait<T>(work: impl std::future::Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|e| dmholey_cow::Error::io("start", "a runtime", e))?;
    Ok(runtime.block_on(work))
}
