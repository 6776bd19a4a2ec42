// SPDX-License-Identifier: GPL-2.0-or-later

//! What one device went through: when to extend it, when to try again, and what to tell.
//!
//! Time is what has passed since the monitor began.

use super::policy::Fill;
use super::policy::Policy;
use super::policy::Verdict;
use crate::dm::status::State;
use crate::dm::table::Role;
use std::time::Duration;

/// Between two extensions of a device there is at least so much time.
const GAP: Duration = Duration::from_secs(1);
/// After a failure it is tried again after so much time, and after twice as much each further time,
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// but not more than this,
const LAST_RETRY: Duration = Duration::from_secs(300);
/// or this if there is no room left at all: somebody may be waiting for it.
const LAST_RETRY_FULL: Duration = Duration::from_secs(30);
/// A device that fills quickly is looked at so often.
const SHORTEST_LOOK: Duration = Duration::from_millis(100);

/// What a look at a device has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it is for.
    pub role: Role,
    /// Its status.
    pub state: State,
    /// The size from which on its COW device cannot become full.
    pub useful: Option<u64>,
    /// Its chunk size in sectors.
    pub chunk: u64,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Extend it, and say with [`Track::done`] how that ended.
    Extend {
        /// Its COW device should have so many sectors then.
        to: u64,
    },
    /// Tell about it.
    Tell(Told),
}

/// What there is to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The COW device has become larger.
    Extended {
        /// From so many sectors.
        from: u64,
    },
    /// The COW device could not be extended.
    Failed {
        /// The reason.
        why: String,
        /// When it is tried again.
        retry: Duration,
    },
    /// It is as large as it may become.
    Maximum,
    /// The snapshot was given up.
    Invalid,
    /// The store was full; the snapshot can only be read.
    Overflow,
    /// The merge was stopped by an error.
    MergeFailed,
}

/// A condition that is told once, when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Fine,
    Maximum,
    Invalid,
    Overflow,
    MergeFailed,
}

/// How the work at a device stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Work {
    None,
    /// An extension is under way, from so many sectors.
    Running {
        from: u64,
    },
    /// It has ended, and the next look shows what came of it.
    Ended {
        from: u64,
        result: Result<(), String>,
    },
}

/// What one device went through.
#[derive(Debug)]
pub struct Track {
    policy: Policy,
    work: Work,
    /// Failures since the last success, and when the last one was.
    failures: u32,
    failed: Duration,
    /// No extension before this.
    not_before: Duration,
    condition: Condition,
    /// The look before this one: when, and the sectors in use and in all.
    last: Option<(Duration, u64, u64)>,
    /// When to look again, if something is known about that.
    next: Option<Duration>,
}

impl Track {
    /// A device that was not seen before.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            work: Work::None,
            failures: 0,
            failed: Duration::ZERO,
            not_before: Duration::ZERO,
            condition: Condition::Fine,
            last: None,
            next: None,
        }
    }

    /// Whether an extension is under way.
    pub fn is_busy(&self) -> bool {
        matches!(self.work, Work::Running { .. })
    }

    /// The extension that was asked for has ended.
    pub fn done(&mut self, result: Result<(), String>) {
        if let Work::Running { from } = self.work {
            self.work = Work::Ended { from, result };
        }
    }

    /// What is to be done after a look at the device.
    pub fn look(&mut self, now: Duration, seen: Seen) -> Vec<Step> {
        let mut steps = Vec::new();
        self.next = None;
        let condition = match seen.state {
            State::Ok(usage) if seen.role == Role::Snapshot => {
                let fill = Fill {
                    allocated: usage.allocated,
                    total: usage.total,
                    useful: seen.useful,
                };
                self.look_at_fill(now, fill, seen.chunk, &mut steps)
            }
            State::Ok(_) => Condition::Fine,
            State::Invalid => Condition::Invalid,
            State::Overflow => Condition::Overflow,
            State::MergeFailed => Condition::MergeFailed,
            // Between two tables, for instance: it will be known later.
            State::Unknown | State::None => self.condition,
        };
        if !matches!(seen.state, State::Ok(_)) {
            self.finish_unseen();
        }
        if condition != self.condition {
            self.condition = condition;
            steps.extend(told(condition).map(Step::Tell));
        }
        steps
    }

    /// An extension ended, and there is no size any more to judge it by.
    fn finish_unseen(&mut self) {
        if matches!(self.work, Work::Ended { .. }) {
            self.work = Work::None;
        }
    }

    fn look_at_fill(
        &mut self,
        now: Duration,
        fill: Fill,
        chunk: u64,
        steps: &mut Vec<Step>,
    ) -> Condition {
        let is_full = fill.total.saturating_sub(fill.allocated) < chunk;
        let grown = self.last.filter(|&(_, _, total)| fill.total > total);
        if grown.is_some() && self.work == Work::None {
            // Somebody else has extended it.
            self.failures = 0;
        }
        self.finish(now, fill, is_full, steps);
        let verdict = self.policy.judge(fill);
        self.plan_next(now, fill, verdict, is_full);
        self.last = Some((now, fill.allocated, fill.total));
        match verdict {
            Verdict::Enough => Condition::Fine,
            Verdict::Maximum => Condition::Maximum,
            Verdict::Extend { to } => {
                if self.work == Work::None && now >= self.earliest(is_full) {
                    self.work = Work::Running { from: fill.total };
                    steps.push(Step::Extend { to });
                }
                // While it is not known whether it can be extended further, it is not at its end.
                Condition::Fine
            }
        }
    }

    /// Judges an extension that has ended.
    fn finish(&mut self, now: Duration, fill: Fill, is_full: bool, steps: &mut Vec<Step>) {
        let Work::Ended { from, ref result } = self.work else {
            return;
        };
        let why = match result {
            // What counts is what the snapshot sees; a tool may complain and have done its work.
            _ if fill.total > from => None,
            Ok(()) => Some("it was extended, but its snapshot sees no more room".to_owned()),
            Err(why) => Some(why.clone()),
        };
        self.work = Work::None;
        let Some(why) = why else {
            self.failures = 0;
            self.not_before = now + GAP;
            steps.push(Step::Tell(Told::Extended { from }));
            return;
        };
        self.failures = self.failures.saturating_add(1);
        self.failed = now;
        steps.push(Step::Tell(Told::Failed {
            why,
            retry: self.earliest(is_full).saturating_sub(now),
        }));
    }

    /// The next extension is not tried before this.
    fn earliest(&self, is_full: bool) -> Duration {
        if self.failures == 0 {
            return self.not_before;
        }
        let last = if is_full { LAST_RETRY_FULL } else { LAST_RETRY };
        let doublings = (self.failures - 1).min(16);
        let wait = FIRST_RETRY.saturating_mul(1 << doublings).min(last);
        self.not_before.max(self.failed.saturating_add(wait))
    }

    fn plan_next(&mut self, now: Duration, fill: Fill, verdict: Verdict, is_full: bool) {
        self.next = match verdict {
            Verdict::Extend { .. } => Some(self.earliest(is_full)),
            Verdict::Maximum => None,
            Verdict::Enough => self.reaches(now, fill),
        };
    }

    /// Half of the time until it has reached the threshold, if it goes on as since the last look.
    fn reaches(&self, now: Duration, fill: Fill) -> Option<Duration> {
        let (before, allocated, _) = self.last?;
        let written = fill.allocated.checked_sub(allocated).filter(|&n| n > 0)?;
        let left = self.policy.mark(fill.total).saturating_sub(fill.allocated);
        let passed = now.saturating_sub(before).as_secs_f64();
        let time = passed * left as f64 / written as f64 / 2.0;
        // A day is beyond any interval.
        Some(now + Duration::from_secs_f64(time.min(86_400.0)))
    }

    /// When to look again: at `latest`, or sooner.
    pub fn next(&self, now: Duration, latest: Duration) -> Duration {
        match self.next {
            Some(next) if !self.is_busy() => next.max(now + SHORTEST_LOOK).min(latest),
            _ => latest,
        }
    }
}

fn told(condition: Condition) -> Option<Told> {
    match condition {
        Condition::Fine => None,
        Condition::Maximum => Some(Told::Maximum),
        Condition::Invalid => Some(Told::Invalid),
        Condition::Overflow => Some(Told::Overflow),
        Condition::MergeFailed => Some(Told::MergeFailed),
    }
}

#[cfg(test)]
mod tests {
    use super::super::policy::Amount;
    use super::*;
    use crate::dm::status::Usage;
    use proptest::prelude::*;

    const MAXIMUM: u64 = 100_000;

    fn track() -> Track {
        Track::new(Policy {
            amount: Amount::Percent(20),
            maximum: Some(MAXIMUM),
            ..Policy::default()
        })
    }

    fn with(role: Role, state: State) -> Seen {
        Seen {
            role,
            state,
            useful: None,
            chunk: 8,
        }
    }

    fn at(allocated: u64, total: u64) -> Seen {
        let usage = Usage {
            allocated,
            total,
            metadata: 16,
        };
        with(Role::Snapshot, State::Ok(usage))
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn an_extension_is_asked_for_once_and_told() {
        let mut track = track();
        assert_eq!(track.look(seconds(0), at(100, 1000)), []);
        assert_eq!(
            track.look(seconds(1), at(700, 1000)),
            [Step::Extend { to: 1200 }]
        );
        assert_eq!(track.look(seconds(2), at(900, 1000)), []);
        assert!(track.is_busy());
        track.done(Ok(()));
        assert_eq!(
            track.look(seconds(3), at(700, 1200)),
            [Step::Tell(Told::Extended { from: 1000 })]
        );
        // Full again at once: not before the gap is over.
        assert_eq!(track.look(seconds(3), at(1200, 1200)), []);
        assert_eq!(track.next(seconds(3), seconds(8)), seconds(4));
        assert_eq!(
            track.look(seconds(4), at(1200, 1200)),
            [Step::Extend { to: 1920 }]
        );
    }

    #[test]
    fn failures_are_tried_again_less_and_less_often() {
        let mut track = track();
        let mut now = seconds(0);
        let mut waits = Vec::new();
        for _ in 0..9 {
            assert_eq!(
                track.look(now, at(800, 1000)),
                [Step::Extend { to: 1200 }],
                "{now:?}"
            );
            track.done(Err("no".to_owned()));
            let steps = track.look(now, at(800, 1000));
            let [Step::Tell(Told::Failed { retry, .. })] = steps.as_slice() else {
                panic!("{steps:?}");
            };
            assert_eq!(track.look(now + *retry - SHORTEST_LOOK, at(800, 1000)), []);
            waits.push(retry.as_secs());
            now += *retry;
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        // Now it is full: that is more urgent.
        assert_eq!(track.look(now, at(1000, 1000)).len(), 1);
        track.done(Ok(()));
        let steps = track.look(now, at(1000, 1000));
        let [Step::Tell(Told::Failed { retry, why })] = steps.as_slice() else {
            panic!("{steps:?}");
        };
        assert_eq!(*retry, LAST_RETRY_FULL);
        assert!(why.contains("no more room"), "{why}");
        // Somebody else has made room, though not enough.
        assert_eq!(
            track.look(now + GAP, at(1000, 1100)),
            [Step::Extend { to: 1540 }]
        );
    }

    #[test]
    fn ends_are_told_once() {
        let mut track = track();
        let end = [Step::Tell(Told::Maximum)];
        assert_eq!(track.look(seconds(0), at(90_000, MAXIMUM)), end);
        assert_eq!(track.look(seconds(9), at(MAXIMUM, MAXIMUM)), []);
        assert_eq!(track.look(seconds(10), at(MAXIMUM, 2 * MAXIMUM)), []);
        assert_eq!(track.look(seconds(11), at(MAXIMUM, MAXIMUM)), end);
        for (state, told) in [
            (State::Invalid, Told::Invalid),
            (State::Overflow, Told::Overflow),
        ] {
            let seen = with(Role::Snapshot, state);
            assert_eq!(track.look(seconds(12), seen), [Step::Tell(told)]);
            assert_eq!(track.look(seconds(13), seen), []);
        }
        let unknown = with(Role::Snapshot, State::Unknown);
        assert_eq!(track.look(seconds(14), unknown), []);
    }

    #[test]
    fn a_merge_needs_no_room() {
        let mut track = track();
        let mut seen = at(1000, 1000);
        seen.role = Role::Merge;
        assert_eq!(track.look(seconds(0), seen), []);
        let failed = with(Role::Merge, State::MergeFailed);
        let told = Step::Tell(Told::MergeFailed);
        assert_eq!(track.look(seconds(1), failed), [told]);
    }

    #[test]
    fn a_device_that_fills_is_looked_at_more_often() {
        let mut track = track();
        track.look(seconds(0), at(0, 10_000));
        assert_eq!(track.next(seconds(0), seconds(60)), seconds(60));
        track.look(seconds(10), at(3000, 10_000));
        // 4000 more at 300 a second, and half of that.
        let next = track.next(seconds(10), seconds(60)).as_secs_f64();
        assert!((16.6..16.7).contains(&next), "{next}");
        track.look(seconds(11), at(6999, 10_000));
        let soon = seconds(11) + SHORTEST_LOOK;
        assert_eq!(track.next(seconds(11), seconds(60)), soon);
        track.look(seconds(12), at(6999, 10_000));
        assert_eq!(track.next(seconds(12), seconds(60)), seconds(60));
    }

    /// What happens to a device between two looks.
    #[derive(Clone, Debug)]
    struct Turn {
        passes: u64,
        writes: u64,
        /// How an extension that is under way ends in this time, if it does.
        ends: Option<bool>,
    }

    fn turns() -> impl Strategy<Value = Vec<Turn>> {
        let ends = prop::option::of(prop::bool::weighted(0.6));
        let turn = (1u64..20_000, 0u64..2000, ends).prop_map(|(passes, writes, ends)| Turn {
            passes,
            writes,
            ends,
        });
        prop::collection::vec(turn, 1..200)
    }

    proptest! {
        #[test]
        fn whatever_happens_the_rules_are_kept(turns in turns()) {
            let mut track = track();
            let (mut now, mut allocated, mut total) = (Duration::ZERO, 16u64, 1000u64);
            let mut running: Option<u64> = None;
            let mut last_end: Option<Duration> = None;
            let mut failures = 0u32;
            let mut failed_at = Duration::ZERO;
            for turn in turns {
                now += Duration::from_millis(turn.passes);
                allocated = (allocated + turn.writes).min(total);
                let mut ended = None;
                if let (Some(to), Some(good)) = (running, turn.ends) {
                    running = None;
                    ended = Some(good);
                    last_end = Some(now);
                    if good {
                        total = to;
                        failures = 0;
                        track.done(Ok(()));
                    } else {
                        failures += 1;
                        failed_at = now;
                        track.done(Err("no".to_owned()));
                    }
                }
                let full = total - allocated < 8;
                let mut told = None;
                for step in track.look(now, at(allocated, total)) {
                    match step {
                        Step::Extend { to } => {
                            prop_assert!(running.is_none(), "two at a time");
                            prop_assert!(to > total && to <= MAXIMUM);
                            prop_assert!(allocated * 100 >= total * 70);
                            if failures > 0 {
                                let last = if full { LAST_RETRY_FULL } else { LAST_RETRY };
                                let wait = FIRST_RETRY * (1 << (failures - 1).min(10));
                                prop_assert!(now - failed_at >= wait.min(last));
                            }
                            running = Some(to);
                        }
                        Step::Tell(Told::Extended { .. }) => told = Some(true),
                        Step::Tell(Told::Failed { .. }) => told = Some(false),
                        Step::Tell(Told::Maximum) => prop_assert_eq!(total, MAXIMUM),
                        Step::Tell(other) => prop_assert!(false, "{:?}", other),
                    }
                }
                prop_assert_eq!(told, ended, "every end is told, once");
                prop_assert_eq!(track.is_busy(), running.is_some());
                let next = track.next(now, now + seconds(5));
                prop_assert!(next >= now + SHORTEST_LOOK && next <= now + seconds(5));
                // Who needs room and may have it gets it.
                let idle = running.is_none() && failures == 0;
                if idle && last_end.is_none_or(|end| now - end >= GAP) {
                    prop_assert!(allocated * 100 < total * 70 || total == MAXIMUM);
                }
            }
        }
    }
}
