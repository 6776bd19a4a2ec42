// SPDX-License-Identifier: GPL-2.0

//! When every reader that could see the old state is gone.
//!
//! A read of an unmapped chunk goes to the origin. An origin write to that chunk may overtake it
//! only if it waits for the readers that were under way when the exception became visible.
//! Readers are not tracked chunk by chunk: each counts itself into the current epoch before it
//! looks the chunk up. Whoever changed the state then turns the epoch and waits until the old one
//! is quiet; one wait serves any number of changes.
//!
//! Ordering: all accesses are sequentially consistent. A reader that finds itself in the new epoch
//! has seen the turn, hence all that was changed before it; a reader in the old one is waited for.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::SeqCst;

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
}

/// Counts readers by epoch.
#[derive(Debug, Default)]
pub struct Epochs {
    current: AtomicUsize,
    readers: [AtomicU64; 2],
}

impl Epochs {
    /// No readers.
    pub const fn new() -> Self {
        Self {
            current: AtomicUsize::new(0),
            readers: [AtomicU64::new(0), AtomicU64::new(0)],
        }
    }

    /// Counts a reader in. Call it before looking at the state that may change. Never sleeps.
    pub fn enter(&self) -> Ticket {
        loop {
            let ticket = Ticket((self.current.load(SeqCst) & 1) as u8);
            self.count(ticket).fetch_add(1, SeqCst);
            if self.is_current(ticket) {
                return ticket;
            }
            self.count(ticket).fetch_sub(1, SeqCst);
        }
    }

    /// Counts a reader out. True if it was the last one of an epoch that has been turned, so that
    /// whoever waits for it should look again. Never sleeps.
    pub fn leave(&self, ticket: Ticket) -> bool {
        let before = self.count(ticket).fetch_sub(1, SeqCst);
        before == 1 && !self.is_current(ticket)
    }

    /// Starts a new epoch and returns the old one's ticket. The caller has waited until the epoch
    /// before that was quiet, and is the only one who turns.
    pub fn turn(&self) -> Ticket {
        Ticket((self.current.fetch_xor(1, SeqCst) & 1) as u8)
    }

    /// Whether no reader of that epoch is left.
    pub fn is_quiet(&self, old: Ticket) -> bool {
        self.count(old).load(SeqCst) == 0
    }

    fn is_current(&self, ticket: Ticket) -> bool {
        self.current.load(SeqCst) & 1 == usize::from(ticket.0)
    }

    fn count(&self, ticket: Ticket) -> &AtomicU64 {
        let [even, odd] = &self.readers;
        if ticket.0 == 0 {
            even
        } else {
            odd
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn old_readers_are_waited_for_and_new_ones_are_not() {
        let epochs = Epochs::new();
        let early = epochs.enter();
        let old = epochs.turn();
        let late = epochs.enter();
        assert!(!epochs.is_quiet(old));
        assert!(!epochs.leave(late));
        assert!(epochs.leave(early));
        assert!(epochs.is_quiet(old));
    }

    #[test]
    fn no_reader_sees_the_old_state_after_the_wait() {
        struct Shared {
            epochs: Epochs,
            mapped: AtomicBool,
            overwritten: AtomicBool,
        }
        for _ in 0..2000 {
            let shared = Arc::new(Shared {
                epochs: Epochs::new(),
                mapped: AtomicBool::new(false),
                overwritten: AtomicBool::new(false),
            });
            let reader = {
                let shared = shared.clone();
                thread::spawn(move || {
                    let ticket = shared.epochs.enter();
                    if !shared.mapped.load(SeqCst) {
                        assert!(!shared.overwritten.load(SeqCst));
                    }
                    shared.epochs.leave(ticket);
                })
            };
            shared.mapped.store(true, SeqCst);
            let old = shared.epochs.turn();
            while !shared.epochs.is_quiet(old) {
                thread::yield_now();
            }
            shared.overwritten.store(true, SeqCst);
            reader.join().unwrap();
        }
    }
}
