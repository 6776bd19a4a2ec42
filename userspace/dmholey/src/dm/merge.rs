// SPDX-License-Identifier: GPL-2.0-or-later

//! Waits for a merge. Stock raises no event when one ends, and progress is to be shown, so the status is asked for.

use super::flow;
use super::status::State;
use super::table;
use super::table::Role;
use super::Error;
use super::Kernel;
use super::Result;
use dmholey_cow::format::SECTOR_SIZE;
use dmholey_cow::Progress;
use serde::Serialize;
use std::time::Duration;

/// How far a merge is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Merge {
    /// The device.
    pub name: String,
    /// Whether nothing is left.
    pub finished: bool,
    /// Bytes of data left in the store.
    pub left_bytes: u64,
}

/// Looks once.
pub fn look(kernel: &dyn Kernel, name: &str) -> Result<Merge> {
    let lines = kernel.status(name)?;
    let line = lines.first();
    let merge = line
        .filter(|line| table::target_of(&line.target).is_some_and(|(role, _)| role == Role::Merge));
    let Some(line) = merge else {
        return Err(Error::Wrong {
            device: name.to_owned(),
            why: format!(
                "is no merge device but {}; 'dmholey create merge' makes one",
                line.map_or("empty", |line| &line.target)
            ),
        });
    };
    let state = flow::state_of(name, line)?;
    let fail = |why| Error::Merge {
        device: name.to_owned(),
        why,
    };
    match state {
        State::Ok(usage) => Ok(Merge {
            name: name.to_owned(),
            finished: state.is_merged(),
            left_bytes: usage.left().saturating_mul(SECTOR_SIZE),
        }),
        State::Invalid => Err(fail(
            "the snapshot is invalid, so there is nothing to merge; the origin is as it was",
        )),
        State::MergeFailed => Err(fail(
            "the merge failed (dmesg says where); the device, if it is still there, shows the right content: repair \
             the cause, then suspend and resume it to try again",
        )),
        State::Overflow => Err(fail(
            "the store was full: what it has is being merged, but the status does not say how far; it is over when \
             'dmholey cow info' shows no exceptions in the store",
        )),
        State::Unknown | State::None => Err(fail("the kernel does not say how far the merge is")),
    }
}

/// Waits until the merge is finished. `sleep` waits for one interval.
pub fn wait(
    kernel: &dyn Kernel,
    name: &str,
    interval: Duration,
    progress: &dyn Progress,
    sleep: &mut dyn FnMut(Duration),
) -> anyhow::Result<Merge> {
    let mut total = 0;
    loop {
        let merge = look(kernel, name)?;
        // A merge only shrinks, but the device is writable: writes may make it grow.
        total = merge.left_bytes.max(total);
        progress.update(total - merge.left_bytes, total);
        if merge.finished {
            return Ok(merge);
        }
        if progress.stop() {
            return Err(dmholey_cow::Error::Interrupted.into());
        }
        sleep(interval);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;
    use std::cell::RefCell;
    use std::sync::Mutex;

    fn kernel(statuses: &[&'static str]) -> Fake {
        Fake::new()
            .with("m", "holey-merge", "8:1 8:2 P 8")
            .says(statuses)
    }

    #[derive(Default)]
    struct Watch {
        seen: Mutex<Vec<(u64, u64)>>,
        stop_after: usize,
    }

    impl Progress for Watch {
        fn update(&self, done: u64, total: u64) {
            self.seen.lock().unwrap().push((done / 512, total / 512));
        }

        fn stop(&self) -> bool {
            self.stop_after != 0 && self.seen.lock().unwrap().len() >= self.stop_after
        }
    }

    fn run(kernel: &Fake, watch: &Watch) -> (anyhow::Result<Merge>, usize) {
        let sleeps = RefCell::new(0);
        let sleep = &mut |_| *sleeps.borrow_mut() += 1;
        let merged = wait(kernel, "m", Duration::from_secs(1), watch, sleep);
        let count = *sleeps.borrow();
        (merged, count)
    }

    #[test]
    fn waiting_ends_with_the_merge() {
        let kernel = kernel(&["116/200 16", "66/200 16", "76/200 16", "16/200 16"]);
        let watch = Watch::default();
        let (merged, sleeps) = run(&kernel, &watch);
        assert!(merged.unwrap().finished);
        assert_eq!(sleeps, 3);
        let seen = watch.seen.into_inner().unwrap();
        assert_eq!(seen, [(0, 100), (50, 100), (40, 100), (100, 100)]);
    }

    #[test]
    fn bad_ends_are_told_apart() {
        let cases = [
            ("Invalid", "invalid"),
            ("Merge failed", "suspend and resume"),
            ("Overflow", "full"),
            ("Unknown", "does not say"),
            ("rubbish", "cannot read"),
        ];
        for (status, part) in cases {
            let kernel = kernel(&["116/200 16", status]);
            let (merged, _) = run(&kernel, &Watch::default());
            let text = format!("{:#}", merged.unwrap_err());
            assert!(text.starts_with("m: ") && text.contains(part), "{text}");
        }
    }

    #[test]
    fn waiting_can_be_interrupted() {
        let watch = Watch {
            stop_after: 3,
            ..Watch::default()
        };
        let (merged, sleeps) = run(&kernel(&["116/200 16"]), &watch);
        assert_eq!(sleeps, 2);
        let error = merged.unwrap_err();
        assert_eq!(crate::exit::Exit::of(&error).code(), 130);
    }

    #[test]
    fn a_snapshot_is_no_merge() {
        let kernel = Fake::new().with("m", "snapshot", "8:1 8:2 P 8");
        let text = look(&kernel, "m").unwrap_err().to_string();
        assert!(text.contains("is no merge device but snapshot"), "{text}");
        let text = look(&kernel, "n").unwrap_err().to_string();
        assert!(text.contains("n: no such device"), "{text}");
    }
}
