// SPDX-License-Identifier: GPL-2.0

//! When every reader that could see the old state is gone.
//!
//! A read of an unmapped chunk goes to the origin. An origin write to that chunk may overtake it
//! only if it waits for the readers that were under way when the exception became visible.
//! Readers are not tracked chunk by chunk: each counts itself into the current epoch before it
//! looks the chunk up. Whoever changed the state then turns the epoch and waits until the old one
//! is quiet; one wait serves any number of changes.
//!
//! An epoch counts who came and who left. The number of the epoch and the count of arrivals are one
//! word, so that a reader is counted into the epoch it finds by one addition, and a turn learns by
//! one exchange how many it has to wait for. Nobody is counted who is not a reader: a count that
//! is not a reader's would be waited for, and nobody would tell when it is gone.
//!
//! Ordering:
//!
//! - A reader of the new epoch finds the exchange of the turn, or an addition behind it, in the
//!   word: it has seen the turn, hence all that was changed before it.
//! - A reader of the old epoch is waited for; its departure is a release and the look at it an
//!   acquire, so what it did comes before what the waiter does next.
//! - Departure and look at the number to wait for, on one side, and setting that number and look
//!   at the departures, on the other, are sequentially consistent: either the waiter sees the last
//!   departure, or who departs sees that it is the last.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::AcqRel;
use core::sync::atomic::Ordering::SeqCst;

/// The bit of the word that says which epoch it is; the others count arrivals.
const EPOCH: u64 = 1 << 63;
/// As many arrivals as an epoch that was not turned has.
const UNKNOWN: u64 = u64::MAX;

/// Proof that a reader has been counted; give it back with [`Epochs::leave`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u8);

impl Ticket {
    /// The ticket as a small number, for storage beside a bio.
    pub const fn to_raw(self) -> u8 {
        self.0
    }

    /// The ticket that [`Self::to_raw`] made a number of.
    pub const fn from_raw(raw: u8) -> Self {
        Self(raw & 1)
    }

    /// The ticket of the epoch that a word names.
    const fn of_word(word: u64) -> Self {
        Self((word & EPOCH != 0) as u8)
    }
}

/// One of the two epochs: the current one or the one before.
#[derive(Debug)]
struct Epoch {
    /// How many have left.
    left: AtomicU64,
    /// How many have come, once it is over.
    came: AtomicU64,
}

impl Epoch {
    const fn new() -> Self {
        Self {
            left: AtomicU64::new(0),
            came: AtomicU64::new(UNKNOWN),
        }
    }
}

/// Counts readers by epoch.
#[derive(Debug)]
pub struct Epochs {
    word: AtomicU64,
    epochs: [Epoch; 2],
}

impl Epochs {
    /// No readers.
    pub const fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
            epochs: [Epoch::new(), Epoch::new()],
        }
    }

    /// Counts a reader in. Call it before looking at the state that may change. Never sleeps.
    pub fn enter(&self) -> Ticket {
        Ticket::of_word(self.word.fetch_add(1, AcqRel))
    }

    /// Counts a reader out. True if it was the last one of an epoch that has been turned, so that
    /// whoever waits for it should look again. Never sleeps.
    pub fn leave(&self, ticket: Ticket) -> bool {
        let epoch = self.epoch(ticket);
        let left = epoch.left.fetch_add(1, SeqCst).wrapping_add(1);
        left == epoch.came.load(SeqCst)
    }

    /// Starts a new epoch and returns the old one's ticket. The caller has waited until the epoch
    /// before that was quiet, and is the only one who turns.
    pub fn turn(&self) -> Ticket {
        // That epoch is quiet. A reader that has just left it may still look at `came`: at worst it
        // then says in vain that it was the last one.
        let next = (self.word.load(SeqCst) & EPOCH) ^ EPOCH;
        let new = self.epoch(Ticket::of_word(next));
        new.came.store(UNKNOWN, SeqCst);
        new.left.store(0, SeqCst);
        let word = self.word.swap(next, AcqRel);
        let old = Ticket::of_word(word);
        self.epoch(old).came.store(word & !EPOCH, SeqCst);
        old
    }

    /// Whether no reader of that epoch is left.
    pub fn is_quiet(&self, old: Ticket) -> bool {
        let epoch = self.epoch(old);
        epoch.left.load(SeqCst) == epoch.came.load(SeqCst)
    }

    /// How many readers have come and not left. They come and go while it is counted: exact only if they do not.
    pub fn under_way(&self) -> u64 {
        let word = self.word.load(SeqCst);
        let current = Ticket::of_word(word);
        let before = self.epoch(Ticket::of_word(word ^ EPOCH));
        let new = (word & !EPOCH).saturating_sub(self.epoch(current).left.load(SeqCst));
        let old = match before.came.load(SeqCst) {
            UNKNOWN => 0,
            came => came.saturating_sub(before.left.load(SeqCst)),
        };
        new.saturating_add(old)
    }

    fn epoch(&self, ticket: Ticket) -> &Epoch {
        let [even, odd] = &self.epochs;
        if ticket.0 == 0 {
            even
        } else {
            odd
        }
    }
}

impl Default for Epochs {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
