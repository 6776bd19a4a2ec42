// SPDX-License-Identifier: GPL-2.0-or-later

//! How long work tells how far it is, and is asked to stop.

use crate::error::Error;
use crate::error::Result;

/// Whoever watches a long operation.
pub trait Progress: Sync {
    /// `done` of `total` bytes are done; `done` never falls. Called often: implementations limit
    /// their own output.
    fn update(&self, done: u64, total: u64);

    /// Whether the operation should stop at the next safe place.
    fn stop(&self) -> bool {
        false
    }
}

/// Nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn update(&self, _done: u64, _total: u64) {}
}

/// Work that is only the beginning of what somebody watches: it can be stopped, and tells nothing.
pub struct Stoppable<'a>(pub &'a dyn Progress);

impl Progress for Stoppable<'_> {
    fn update(&self, _done: u64, _total: u64) {}

    fn stop(&self) -> bool {
        self.0.stop()
    }
}

/// Reports progress, and fails if the operation should stop.
pub fn step(progress: &dyn Progress, done: u64, total: u64) -> Result<()> {
    progress.update(done, total);
    if progress.stop() {
        return Err(Error::Interrupted);
    }
    Ok(())
}
