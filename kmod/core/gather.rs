// SPDX-License-Identifier: GPL-2.0

//! When to commit: soon, but not a moment before those come who could share the commit.
//!
//! A commit costs a flush and an area write, however many exceptions it makes durable, and whoever
//! overwrites the origin waits for one. So the writers of an origin are to be in the same commit
//! each time, and not in two groups of which one always waits for the other's.
//!
//! So where commits take long,
//!
//! - chunks that are being filled when a commit is due are waited for,
//! - and a commit that lets origin writers go while others are waiting already gives the former
//!   some time to come back. (The idea is that of `jbd2`, which lets a synchronous handle wait for
//!   others in `jbd2_journal_stop`.)

/// A commit that takes less than this is not worth waiting for anybody, in microseconds.
const QUICK: u64 = 500;
/// The longest time to wait for writers to come back, in microseconds.
const LONGEST_HOLD: u32 = 2500;

/// What is known about commits of one overlay.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gather {
    /// The commit that is due begins when so many exceptions are ready.
    goal: Option<u64>,
    /// How long a commit takes, in microseconds.
    typical: u64,
}

impl Gather {
    /// Nothing is known yet.
    pub const fn new() -> Self {
        Self {
            goal: None,
            typical: 0,
        }
    }

    /// A commit is due: it waits for what is being filled now. Does nothing if that was said before.
    pub fn begin(&mut self, ready: u64, filling: u64) {
        self.goal.get_or_insert(ready.saturating_add(filling));
    }

    /// Whether the commit has nobody to wait for that would be worth it.
    pub fn is_over(&self, ready: u64, filling: u64) -> bool {
        filling == 0 || self.typical < QUICK || self.goal.is_none_or(|goal| ready >= goal)
    }

    /// It has waited long enough.
    pub fn give_up(&mut self) {
        self.goal = Some(0);
    }

    /// How long it may wait, in microseconds.
    pub fn patience(&self) -> u64 {
        self.typical
    }

    /// It is done, and took so many microseconds.
    pub fn committed(&mut self, took: u64) {
        self.goal = None;
        // The first one counts in full, later ones by a quarter.
        self.typical = match self.typical {
            0 => took,
            typical => typical - typical / 4 + took / 4,
        };
    }

    /// How long the next one waits for `released` origin writers to come back, in microseconds,
    /// when `ready` exceptions wait for it already.
    pub fn hold(&self, released: u64, ready: u64) -> u32 {
        if released == 0 || ready == 0 || self.typical < QUICK {
            return 0;
        }
        u32::try_from(self.typical / 4).map_or(LONGEST_HOLD, |hold| hold.min(LONGEST_HOLD))
    }
}

#[cfg(test)]
mod tests;
