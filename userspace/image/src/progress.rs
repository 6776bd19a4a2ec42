// SPDX-License-Identifier: GPL-2.0-or-later

//! How far the work is, and whether to go on.

use crate::error::Result;
use dmholey_cow::progress;
use dmholey_cow::Progress;
use std::cell::Cell;

/// Whoever is told about each step.
pub(crate) trait Step {
    /// So many bytes more are done. Fails if somebody asked to stop.
    fn done(&self, bytes: u64) -> Result<()>;

    /// Fails if somebody asked to stop.
    fn check(&self) -> Result<()> {
        self.done(0)
    }
}

/// Is asked whether to stop, and told nothing: of what is not counted.
pub(crate) struct OnlyStop<'a>(pub(crate) &'a dyn Progress);

impl Progress for OnlyStop<'_> {
    fn update(&self, _done: u64, _total: u64) {}

    fn stop(&self) -> bool {
        self.0.stop()
    }
}

/// Counts steps up to a total.
pub(crate) struct Counter<'a> {
    progress: &'a dyn Progress,
    done: Cell<u64>,
    total: u64,
}

impl<'a> Counter<'a> {
    pub(crate) fn new(progress: &'a dyn Progress, total: u64) -> Self {
        Self {
            progress,
            done: Cell::new(0),
            total,
        }
    }
}

impl Step for Counter<'_> {
    fn done(&self, bytes: u64) -> Result<()> {
        self.done
            .set(self.done.get().saturating_add(bytes).min(self.total));
        progress::step(self.progress, self.done.get(), self.total)?;
        Ok(())
    }
}
