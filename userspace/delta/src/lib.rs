// SPDX-License-Identifier: GPL-2.0-or-later

//! Deltas between two versions of a disk image.
//!
//! A delta names what becomes zero and what is elsewhere in the old image, and has *units* that make the
//! rest from parts of the old image. `Documentation/delta-format.rst` describes it to the byte.
//!
//! | module | does |
//! | --- | --- |
//! | [`mod@format`] | limits, and the header |
//! | [`index`] | what becomes of which block, checked to its end before it is used |
//! | [`digest`] | SHA-256, of parts and of images |
//! | [`delta`] | a delta in a file, or as it is fetched |
//! | [`mod@unit`] | makes a unit's output, in memory that has a bound |
//! | [`program`] | output out of a source, with additions |
//! | [`deflate`], [`gzip`] | make compressed files again, to the bit |
//! | [`mod@apply`] | makes the new image out of the old one and a delta |
//! | [`cow`] | the same as a COW store |
//! | [`check`], [`info`] | look at a delta |
//! | [`mod@make`] | makes a delta |
//! | [`ext4`] | where the files of an image are, for whoever makes a delta |
//!
//! Whoever applies a delta needs no knowledge of file systems, and less memory than 64 MiB (and 32 bytes for each MiB of
//! the image, to compare its digest).

#![forbid(unsafe_code)]

pub mod apply;
pub mod check;
pub mod cow;
pub mod deflate;
pub mod delta;
pub mod digest;
pub mod error;
pub mod ext4;
pub mod format;
pub mod gzip;
pub mod index;
pub mod info;
pub mod make;
mod pack;
pub mod program;
pub mod unit;
mod varint;

pub use delta::Delta;
pub use delta::Plan;
pub use digest::Digest;
pub use error::Broken;
pub use error::Error;
pub use error::Result;

/// More threads than this do not fit into the memory that a client may use.
const MAX_THREADS: usize = 2;

/// Threads for what clients do.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS))
}

/// Waits for a thread of a scope. One that panicked passes that on.
pub(crate) fn join<T>(worker: std::thread::ScopedJoinHandle<'_, T>) -> T {
    worker
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
