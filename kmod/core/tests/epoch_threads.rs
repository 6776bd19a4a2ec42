// SPDX-License-Identifier: GPL-2.0

//! Grace periods under threads: who waits is woken, and only when the old readers are gone.

use holey_core::epoch::Epochs;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::Condvar;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// A wait queue as the kernel's: a wake-up makes the sleeper look again, and nothing else does.
#[derive(Default)]
struct Queue {
    wakes: Mutex<u64>,
    woken: Condvar,
}

impl Queue {
    fn wake(&self) {
        *self.wakes.lock().unwrap() += 1;
        self.woken.notify_all();
    }

    /// Sleeps until `condition`. False if nobody has woken it for two seconds although it is true.
    fn wait_until(&self, condition: impl Fn() -> bool) -> bool {
        let mut wakes = self.wakes.lock().unwrap();
        while !condition() {
            let (guard, result) = self
                .woken
                .wait_timeout(wakes, Duration::from_secs(2))
                .unwrap();
            wakes = guard;
            if result.timed_out() && condition() {
                return false;
            }
        }
        true
    }
}

#[test]
fn nobody_sleeps_for_ever() {
    let (epochs, queue) = (Epochs::new(), Queue::default());
    // What the state was changed to, and what was then destroyed.
    let (changed, destroyed) = (AtomicU64::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let ticket = epochs.enter();
                    let seen = changed.load(Ordering::SeqCst);
                    // Nothing is destroyed that a reader may have seen.
                    let gone = destroyed.load(Ordering::SeqCst);
                    if epochs.leave(ticket) {
                        queue.wake();
                    }
                    assert!(gone <= seen);
                }
            });
        }
        let end = Instant::now() + Duration::from_secs(3);
        let mut woken = true;
        let mut turn = 0;
        while woken && Instant::now() < end {
            turn += 1;
            changed.store(turn, Ordering::SeqCst);
            let old = epochs.turn();
            woken = queue.wait_until(|| epochs.is_quiet(old));
            destroyed.store(turn, Ordering::SeqCst);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(
            woken,
            "turn {turn}: the readers are gone and nobody said so"
        );
    });
}
