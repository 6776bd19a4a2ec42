// SPDX-License-Identifier: GPL-2.0

//! Which exceptions are being made, and who waits for them.
//!
//! A chunk has a slot in this table from the moment it gets a COW chunk until it is *stable*:
//! durable in the store, and no reader of the old place left. Its life:
//!
//! ```text
//! insert        ready               take                 settle
//!   ---> Filling ----> Ready (queued) ----> Committing ----> (gone)
//!           |          mapped in the index;  its entry is
//!        abandon       writes go to COW      on the way to disk
//! ```
//!
//! Ready slots are numbered by *tickets*, 1 for the first. Commits take them in that order, so
//! "everything that was ready when the flush came" is one number, compared with
//! [`Pending::durable`].
//!
//! The slots are in memory that the caller owns. A full table is backpressure: whoever wants a slot
//! waits until one is settled, or gives the table more memory ([`Pending::grow`]).

use super::format::Exception;
use core::mem;
use core::ops::DerefMut;

/// End of a chain.
const NIL: u32 = u32::MAX;

/// How far an exception has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The slot is not in use.
    Free,
    /// The COW chunk is being filled: by a copy of the origin chunk or by the write itself.
    Filling,
    /// The COW chunk is complete and mapped; the entry is not on its way to disk yet.
    Ready,
    /// The entry is part of a metadata write.
    Committing,
}

/// One exception in the making, with those who wait for it (`W`).
#[derive(Debug)]
pub struct Slot<W> {
    exception: Exception,
    state: State,
    ticket: u64,
    next_in_bucket: u32,
    next_in_queue: u32,
    /// Who waits for this chunk.
    pub waiters: W,
}

impl<W: Default> Slot<W> {
    /// A slot that is not in use.
    pub fn new() -> Self {
        Self {
            exception: Exception { origin: 0, cow: 0 },
            state: State::Free,
            ticket: 0,
            next_in_bucket: NIL,
            next_in_queue: NIL,
            waiters: W::default(),
        }
    }

    /// The chunk and where its content goes.
    pub fn exception(&self) -> Exception {
        self.exception
    }

    /// How far it has come.
    pub fn state(&self) -> State {
        self.state
    }

    /// The ticket it got when it became ready; 0 before.
    pub fn ticket(&self) -> u64 {
        self.ticket
    }
}

impl<W: Default> Default for Slot<W> {
    fn default() -> Self {
        Self::new()
    }
}

/// Fibonacci hashing: neighbouring chunks spread over the buckets.
fn hash(chunk: u64) -> usize {
    (chunk.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
}

#[derive(Clone, Copy, Debug)]
struct Queue {
    head: u32,
    tail: u32,
}

impl Queue {
    const EMPTY: Self = Self {
        head: NIL,
        tail: NIL,
    };
}

/// The table. `S` is memory for the slots, `B` for the hash buckets.
pub struct Pending<S, B> {
    slots: S,
    buckets: B,
    free: u32,
    used: usize,
    ready: Queue,
    committing: Queue,
    issued: u64,
    taken: u64,
    durable: u64,
}

impl<W, S, B> Pending<S, B>
where
    W: Default,
    S: DerefMut<Target = [Slot<W>]>,
    B: DerefMut<Target = [u32]>,
{
    /// An empty table over `slots` and `buckets`. About as many buckets as slots is right.
    pub fn new(mut slots: S, mut buckets: B) -> Self {
        buckets.fill(NIL);
        let mut free = NIL;
        for (id, slot) in (0..NIL).zip(slots.iter_mut()) {
            *slot = Slot::new();
            slot.next_in_queue = free;
            free = id;
        }
        Self {
            slots,
            buckets,
            free,
            used: 0,
            ready: Queue::EMPTY,
            committing: Queue::EMPTY,
            issued: 0,
            taken: 0,
            durable: 0,
        }
    }

    /// Moves everything into a larger table, which is empty, and returns the one that it was in. Takes
    /// time for each slot that there was, but for none of those that are added. If `larger` is not
    /// that, it is returned as it is.
    pub fn grow(&mut self, mut larger: Self) -> Self {
        let added = self.slots.len();
        if !larger.is_empty() {
            return larger;
        }
        // A new table's last slot is the first of the free ones, and each is followed by the one before.
        match larger.slots.get_mut(added) {
            Some(last) => last.next_in_queue = self.free,
            None => return larger,
        }
        for (slot, old) in larger.slots.iter_mut().zip(self.slots.iter_mut()) {
            mem::swap(slot, old);
        }
        for id in (0..NIL).take(added) {
            larger.link(id);
        }
        mem::swap(&mut self.slots, &mut larger.slots);
        mem::swap(&mut self.buckets, &mut larger.buckets);
        self.free = larger.free;
        larger
    }

    /// Slots there are.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Slots in use.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether no exception is being made.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Slots that can still be taken.
    pub fn room(&self) -> usize {
        self.slots.len().saturating_sub(self.used)
    }

    /// The last ticket that was given out: what a flush that comes now has to wait for.
    pub fn issued(&self) -> u64 {
        self.issued
    }

    /// The ticket up to which everything is durable and stable.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Ready exceptions that no commit has taken yet.
    pub fn ready_len(&self) -> u64 {
        self.issued.saturating_sub(self.taken)
    }

    /// Exceptions whose COW chunk is being filled.
    pub fn filling_len(&self) -> u64 {
        let complete = self.issued.saturating_sub(self.durable);
        (self.used as u64).saturating_sub(complete)
    }

    /// Whether a commit is under way.
    pub fn is_committing(&self) -> bool {
        self.committing.head != NIL
    }

    /// The slot of an origin chunk.
    pub fn find(&mut self, chunk: u64) -> Option<&mut Slot<W>> {
        let id = self.lookup(chunk)?;
        self.slots.get_mut(id as usize)
    }

    /// Takes a slot for `exception`, in state [`State::Filling`]. False if the table is full or
    /// the chunk has a slot already.
    pub fn insert(&mut self, exception: Exception) -> bool {
        if self.lookup(exception.origin).is_some() {
            return false;
        }
        let bucket = self.bucket(exception.origin);
        let id = self.free;
        let (Some(slot), Some(head)) = (
            self.slots.get_mut(id as usize),
            bucket.and_then(|at| self.buckets.get_mut(at)),
        ) else {
            return false;
        };
        self.free = slot.next_in_queue;
        slot.exception = exception;
        slot.state = State::Filling;
        slot.ticket = 0;
        slot.next_in_queue = NIL;
        slot.next_in_bucket = *head;
        *head = id;
        self.used += 1;
        true
    }

    /// The COW chunk is complete and mapped: queues the exception for the next commit and returns
    /// its slot, whose ticket is set. `None` if the chunk was not being filled.
    pub fn ready(&mut self, chunk: u64) -> Option<&mut Slot<W>> {
        let id = self.lookup(chunk)?;
        let slot = self.slots.get_mut(id as usize)?;
        if slot.state != State::Filling {
            return None;
        }
        self.issued += 1;
        slot.state = State::Ready;
        slot.ticket = self.issued;
        let mut queue = self.ready;
        self.append(&mut queue, id);
        self.ready = queue;
        self.slots.get_mut(id as usize)
    }

    /// The COW chunk cannot be filled: frees the slot and returns what waited for it.
    pub fn abandon(&mut self, chunk: u64) -> Option<(Exception, W)> {
        let id = self.lookup(chunk)?;
        match self.slots.get(id as usize)?.state {
            State::Filling => self.release(id),
            _ => None,
        }
    }

    /// Moves ready exceptions, in the order of their tickets, to the commit that is being put
    /// together, for as long as `accept` takes them. Returns how many.
    pub fn take(&mut self, mut accept: impl FnMut(Exception) -> bool) -> usize {
        let mut count = 0;
        loop {
            let id = self.ready.head;
            let Some(slot) = self.slots.get_mut(id as usize) else {
                break;
            };
            if !accept(slot.exception) {
                break;
            }
            slot.state = State::Committing;
            let next = mem::replace(&mut slot.next_in_queue, NIL);
            self.ready.head = next;
            if next == NIL {
                self.ready = Queue::EMPTY;
            }
            let mut queue = self.committing;
            self.append(&mut queue, id);
            self.committing = queue;
            self.taken += 1;
            count += 1;
        }
        count
    }

    /// The commit is durable and its readers are gone: frees one of its slots and returns what
    /// waited for it. Call it until it returns `None`.
    pub fn settle(&mut self) -> Option<(Exception, W)> {
        let id = self.committing.head;
        let next = self.slots.get(id as usize)?.next_in_queue;
        self.committing.head = next;
        if next == NIL {
            self.committing = Queue::EMPTY;
        }
        self.durable += 1;
        self.release(id)
    }

    /// The store is given up: makes every exception that was ready count as settled without being
    /// durable, so that nobody waits for it any longer. Call it until it returns `None`.
    pub fn give_up(&mut self) -> Option<(Exception, W)> {
        self.take(|_| true);
        self.settle()
    }

    fn bucket(&self, chunk: u64) -> Option<usize> {
        hash(chunk).checked_rem(self.buckets.len())
    }

    fn lookup(&self, chunk: u64) -> Option<u32> {
        let mut id = *self.buckets.get(self.bucket(chunk)?)?;
        loop {
            let slot = self.slots.get(id as usize)?;
            if slot.exception.origin == chunk {
                return Some(id);
            }
            id = slot.next_in_bucket;
        }
    }

    /// Puts a slot into its bucket, if it is in use.
    fn link(&mut self, id: u32) {
        let slot = self.slots.get_mut(id as usize);
        let Some(slot) = slot.filter(|slot| slot.state != State::Free) else {
            return;
        };
        let hash = hash(slot.exception.origin);
        let at = hash.checked_rem(self.buckets.len());
        if let Some(head) = at.and_then(|at| self.buckets.get_mut(at)) {
            slot.next_in_bucket = mem::replace(head, id);
        }
    }

    fn append(&mut self, queue: &mut Queue, id: u32) {
        match self.slots.get_mut(queue.tail as usize) {
            Some(tail) => tail.next_in_queue = id,
            None => queue.head = id,
        }
        queue.tail = id;
    }

    fn release(&mut self, id: u32) -> Option<(Exception, W)> {
        self.unlink(id);
        let slot = self.slots.get_mut(id as usize)?;
        slot.state = State::Free;
        slot.next_in_bucket = NIL;
        slot.next_in_queue = self.free;
        self.free = id;
        self.used = self.used.saturating_sub(1);
        Some((slot.exception, mem::take(&mut slot.waiters)))
    }

    fn unlink(&mut self, id: u32) {
        let Some((chunk, next)) = self
            .slots
            .get(id as usize)
            .map(|slot| (slot.exception.origin, slot.next_in_bucket))
        else {
            return;
        };
        let Some(at) = self.bucket(chunk) else { return };
        let Some(head) = self.buckets.get_mut(at) else {
            return;
        };
        if *head == id {
            *head = next;
            return;
        }
        let mut before = *head;
        while let Some(slot) = self.slots.get_mut(before as usize) {
            if slot.next_in_bucket == id {
                slot.next_in_bucket = next;
                return;
            }
            before = slot.next_in_bucket;
        }
    }
}

#[cfg(test)]
mod tests;
