// SPDX-License-Identifier: GPL-2.0

//! The machine that the power is taken from: its disks and what it is doing.
//!
//! Workers and bios are asynchronous functions, which read like the module's threads and callbacks
//! that they stand for. A request to a disk is awaited; [`Host::finish_one`] lets a random one go
//! on, so that everything happens in any order.

use crate::disk::Disk;
use crate::disk::Durability;
use crate::disk::Outcome;
use crate::disk::Sector;
use crate::disk::Slot;
use crate::random::Random;
use crate::rules::Fault;
use crate::rules::Rule;
use crate::rules::Violation;
use std::cell::Cell;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Disks and tasks. Disk 0 is the origin.
pub(crate) struct Host {
    pub(crate) disks: RefCell<Vec<Disk>>,
    tasks: RefCell<Vec<Task>>,
    spawned: RefCell<Vec<Task>>,
    progress: Cell<bool>,
    /// What is done wrong on purpose.
    fault: Option<Fault>,
    /// One request in so many fails, if any does.
    failures: Cell<Option<usize>>,
    failed: Cell<bool>,
    /// Bios of users that have not ended.
    pub(crate) users: Cell<usize>,
    stamp: Cell<u64>,
    violation: RefCell<Option<Violation>>,
}

impl Host {
    /// A machine with these disks that does nothing. Writes get numbers from `stamp` on.
    pub(crate) fn new(disks: Vec<Disk>, stamp: u64, fault: Option<Fault>) -> Rc<Self> {
        Rc::new(Self {
            disks: RefCell::new(disks),
            tasks: RefCell::default(),
            spawned: RefCell::default(),
            progress: Cell::new(false),
            fault,
            failures: Cell::new(None),
            failed: Cell::new(false),
            users: Cell::new(0),
            stamp: Cell::new(stamp),
            violation: RefCell::new(None),
        })
    }

    /// Whether this is done wrong on purpose.
    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// What is done wrong on purpose.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Lets one in `n` requests fail from now on.
    pub(crate) fn fail_one_in(&self, n: Option<usize>) {
        self.failures.set(n);
    }

    /// Whether a request has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// The next number for a write.
    pub(crate) fn stamp(&self) -> u64 {
        self.stamp.get()
    }

    /// New content for `count` sectors.
    pub(crate) fn data(&self, count: usize) -> Vec<Sector> {
        let first = self.stamp.get();
        self.stamp.set(first + count as u64);
        (first..self.stamp.get()).map(Sector::stamp).collect()
    }

    /// Sectors of a disk.
    pub(crate) fn len(&self, disk: usize) -> usize {
        self.disks.borrow()[disk].len()
    }

    /// Reads.
    pub(crate) fn read(self: &Rc<Self>, disk: usize, from: usize, count: usize) -> Io {
        self.await_slot(self.disks.borrow_mut()[disk].read(from, count))
    }

    /// Writes.
    pub(crate) fn write(
        self: &Rc<Self>,
        disk: usize,
        from: usize,
        data: Vec<Sector>,
        how: Durability,
    ) -> Io {
        self.await_slot(self.disks.borrow_mut()[disk].write(from, data, how))
    }

    /// Flushes a disk's cache.
    pub(crate) fn flush(self: &Rc<Self>, disk: usize) -> Io {
        self.await_slot(self.disks.borrow_mut()[disk].flush())
    }

    /// Waits until something has come true.
    pub(crate) fn until<F: Fn() -> bool>(self: &Rc<Self>, come_true: F) -> Until<F> {
        Until {
            host: self.clone(),
            come_true,
        }
    }

    /// Starts a task.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.spawned.borrow_mut().push(Box::pin(task));
    }

    /// Lets all tasks run until each waits for a request or another task.
    pub(crate) fn run(&self) {
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..10_000 {
            self.progress.set(false);
            let mut tasks = self.tasks.take();
            tasks.append(&mut self.spawned.borrow_mut());
            tasks.retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
            self.tasks.replace(tasks);
            if !self.progress.get() && self.spawned.borrow().is_empty() {
                return;
            }
        }
        panic!("the tasks do not come to rest");
    }

    /// Lets a random request go on. False if there is none.
    pub(crate) fn finish_one(&self, random: &mut Random) -> bool {
        let mut disks = self.disks.borrow_mut();
        let busy: usize = disks.iter().map(Disk::busy).sum();
        if busy == 0 {
            return false;
        }
        let fail = self.failures.get().is_some_and(|n| random.one_in(n));
        if fail {
            self.failed.set(true);
        }
        let mut n = random.below(busy);
        for disk in disks.iter_mut() {
            if n < disk.busy() {
                disk.finish(n, fail, random);
                break;
            }
            n -= disk.busy();
        }
        true
    }

    /// Counts up whenever a cut may leave something else than before.
    pub(crate) fn clock(&self) -> u64 {
        self.disks.borrow().iter().map(Disk::clock).sum()
    }

    /// Says that a rule is broken.
    pub(crate) fn accuse(&self, rule: Rule, what: impl Into<String>) {
        let mut violation = self.violation.borrow_mut();
        if violation.is_none() {
            *violation = Some(Violation::new(rule, what));
        }
    }

    /// The first rule that was broken.
    pub(crate) fn verdict(&self) -> Result<(), Violation> {
        self.violation.take().map_or(Ok(()), Err)
    }

    /// Ends all that goes on, as a power cut does, and gives the disks back.
    pub(crate) fn stop(&self) -> Vec<Disk> {
        // The tasks hold the host.
        drop(self.tasks.take());
        drop(self.spawned.take());
        self.disks.take()
    }

    fn await_slot(self: &Rc<Self>, slot: Slot) -> Io {
        Io {
            host: self.clone(),
            slot,
        }
    }
}

/// A request that is waited for.
pub(crate) struct Io {
    host: Rc<Host>,
    slot: Slot,
}

impl Future for Io {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Outcome> {
        match self.slot.take() {
            Some(outcome) => {
                self.host.progress.set(true);
                Poll::Ready(outcome)
            }
            None => Poll::Pending,
        }
    }
}

/// See [`Host::until`].
pub(crate) struct Until<F> {
    host: Rc<Host>,
    come_true: F,
}

impl<F: Fn() -> bool> Future for Until<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if (self.come_true)() {
            self.host.progress.set(true);
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}
