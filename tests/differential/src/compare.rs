// SPDX-License-Identifier: GPL-2.0-or-later

//! Finds the first difference: of either side from what it should be, and of the two from each other.

use crate::action::Outcome;
use crate::action::Seen;
use crate::action::Status;
use crate::action::Step;
use crate::action::Want;
use crate::deviations::alike;
use crate::observe::Observation;
use crate::observe::Reading;
use dmholey::dm::status::State;
use std::fmt;

/// Names of the sides, in the order in which they stand everywhere.
pub(crate) const SIDES: [&str; 2] = ["stock", "ours"];
/// Place of ours.
const OURS: usize = 1;

/// What one side reports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) observations: Vec<Result<Observation, String>>,
}

/// What sort of difference it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Outcome,
    Content,
    Status,
    Table,
    State,
    Events,
    Limits,
}

/// A difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) sort: Sort,
    /// Which sides are not as they should be.
    pub(crate) wrong: [bool; 2],
    pub(crate) text: String,
}

impl Difference {
    /// Whether it may be the same fault, seen by another script.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.sort == other.sort && self.wrong == other.wrong
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The first difference.
pub(crate) fn compare(steps: &[Step], views: &[Seen], reports: &[Report; 2]) -> Option<Difference> {
    let outcomes = steps.iter().enumerate().find_map(|(n, step)| {
        let outcomes = [0, 1].map(|side| reports[side].outcomes.get(n));
        let [Some(stock), Some(ours)] = outcomes else {
            let text = format!("{}: not done", step.action);
            return Some(different(Sort::Outcome, [true; 2], text));
        };
        outcome(step, [stock, ours])
    });
    outcomes.or_else(|| {
        views.iter().enumerate().find_map(|(n, seen)| {
            let seen_by = [0, 1].map(|side| reports[side].observations.get(n));
            match seen_by {
                [Some(Ok(stock)), Some(Ok(ours))] => observation(seen, [stock, ours]),
                _ => {
                    let text = format!("{} cannot be looked at: {seen_by:?}", seen.name);
                    Some(different(Sort::State, [true; 2], text))
                }
            }
        })
    })
}

fn different(sort: Sort, wrong: [bool; 2], text: String) -> Difference {
    Difference { sort, wrong, text }
}

/// A difference with what both sides have, if one of them is wrong.
fn told<T: fmt::Display>(
    sort: Sort,
    what: &str,
    got: [T; 2],
    want: impl fmt::Display,
    right: [bool; 2],
) -> Option<Difference> {
    if right == [true; 2] {
        return None;
    }
    let mark = |side: usize| if right[side] { "" } else { " (wrong)" };
    let lines = [0, 1].map(|side| format!("  {}{}: {}", SIDES[side], mark(side), got[side]));
    let text = format!("{what}\n{}\n{}\n  should be: {want}", lines[0], lines[1]);
    Some(different(sort, right.map(|right| !right), text))
}

fn outcome(step: &Step, got: [&Outcome; 2]) -> Option<Difference> {
    let (want, right) = match step.want {
        Want::Done => ("success".to_owned(), got.map(|o| *o == Outcome::Done)),
        Want::Failed(errno) => (errno.to_string(), got.map(|o| *o == Outcome::Failed(errno))),
        Want::Refused => {
            let refused = got.map(|o| matches!(o, Outcome::Failed(_)));
            let ours = refused[OURS] && (got[0] == got[1] || !refused[0]);
            ("an error, the same one".to_owned(), [refused[0], ours])
        }
        Want::Known(deviation) => {
            let known = deviation.outcomes()?;
            let want = format!("a known difference: {} and {}", known[0], known[1]);
            (want, [0, 1].map(|side| *got[side] == known[side]))
        }
    };
    let what = step.action.to_string();
    told(Sort::Outcome, &what, got, want, right)
}

fn observation(seen: &Seen, got: [&Observation; 2]) -> Option<Difference> {
    let name = &seen.name;
    let reading = [0, 1].map(|side| match &got[side].content {
        Reading::Right => "right".to_owned(),
        Reading::Wrong(text) | Reading::Failed(text) => text.clone(),
        Reading::Succeeded => "it can be read".to_owned(),
        Reading::Unread => "it was not read".to_owned(),
    });
    let right = got.map(|o| matches!(o.content, Reading::Right | Reading::Unread));
    let content = || {
        told(
            Sort::Content,
            &format!("content of {name}"),
            reading,
            "right",
            right,
        )
    };
    if seen.table.is_empty() {
        return content();
    }
    let status = || {
        let right = [0, 1].map(|side| status_is(&seen.status, &got[side].status, side == OURS));
        let want = match &seen.status {
            Status::Words(words) => (*words).to_owned(),
            usage => format!("{usage:?}"),
        };
        let what = format!("status of {name}");
        told(Sort::Status, &what, got.map(|o| &o.status), want, right)
    };
    let table = || {
        let right = got.map(|o| o.table == seen.table);
        let what = format!("table of {name}");
        told(
            Sort::Table,
            &what,
            got.map(|o| &o.table),
            &seen.table,
            right,
        )
    };
    let state = || {
        let right = got.map(|o| o.suspended == seen.suspended && !o.inactive);
        let words = got.map(|o| format!("suspended {}, other table {}", o.suspended, o.inactive));
        let want = format!("suspended {}, other table false", seen.suspended);
        told(Sort::State, &format!("state of {name}"), words, want, right)
    };
    let events = || {
        let right = [true, !seen.counts_events || got[0].events == got[1].events];
        let what = format!("events of {name}");
        told(Sort::Events, &what, got.map(|o| o.events), "as many", right)
    };
    let limits = || {
        let right = [true, alike(&got[0].limits, &got[1].limits)];
        let words = got.map(|o| format!("{:?}", o.limits));
        told(
            Sort::Limits,
            &format!("limits of {name}"),
            words,
            "the same",
            right,
        )
    };
    content()
        .or_else(status)
        .or_else(table)
        .or_else(state)
        .or_else(events)
        .or_else(limits)
}

/// Whether a status is as it should be.
fn status_is(want: &Status, got: &str, is_ours: bool) -> bool {
    let Status::Usage {
        allocated,
        total,
        metadata,
        settled,
    } = want
    else {
        return matches!(want, Status::Words(words) if *words == got);
    };
    let Some(State::Ok(usage)) = State::parse(got) else {
        return false;
    };
    let within = |range: (u64, u64), number| (range.0..=range.1).contains(&number);
    // Deviation::LateMetadata
    let least = if is_ours && !settled { 0 } else { metadata.0 };
    within(*allocated, usage.allocated)
        && *total == usage.total
        && within((least, metadata.1), usage.metadata)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::action::Content;
    use crate::deviations::Deviation;
    use rustix::io::Errno;

    fn step(want: Want) -> Step {
        Step {
            action: Action::Flush("x".to_owned()),
            want,
        }
    }

    fn seen() -> Seen {
        Seen {
            name: "snapshot0".to_owned(),
            content: Content::Failure,
            status: Status::Usage {
                allocated: (24, 24),
                total: 100,
                metadata: (16, 16),
                settled: true,
            },
            table: "{base} {cow0} P 8".to_owned(),
            suspended: false,
            counts_events: true,
        }
    }

    fn good() -> Observation {
        Observation {
            content: Reading::Right,
            status: "24/100 16".to_owned(),
            table: "{base} {cow0} P 8".to_owned(),
            suspended: false,
            inactive: false,
            events: 1,
            limits: vec![
                ("ro", "0".to_owned()),
                ("write_cache", "write through".to_owned()),
            ],
        }
    }

    fn reports(outcomes: [Outcome; 2], observations: [Observation; 2]) -> [Report; 2] {
        let [stock, ours] = observations;
        let [first, second] = outcomes;
        let report = |outcome, observation| Report {
            outcomes: vec![outcome],
            observations: vec![Ok(observation)],
        };
        [report(first, stock), report(second, ours)]
    }

    fn judged(want: Want, outcomes: [Outcome; 2]) -> Option<Difference> {
        compare(
            &[step(want)],
            &[seen()],
            &reports(outcomes, [good(), good()]),
        )
    }

    #[test]
    fn outcomes_are_as_wanted_or_differ() {
        let done = || Outcome::Done;
        let failed = Outcome::Failed;
        assert_eq!(judged(Want::Done, [done(), done()]), None);
        assert!(judged(Want::Done, [done(), failed(Errno::IO)]).is_some());
        assert!(judged(Want::Done, [failed(Errno::IO), failed(Errno::IO)]).is_some());
        assert!(judged(Want::Done, [done(), Outcome::Wrong(String::new())]).is_some());
        let io = Want::Failed(Errno::IO);
        assert_eq!(judged(io, [failed(Errno::IO), failed(Errno::IO)]), None);
        assert!(judged(io, [failed(Errno::IO), failed(Errno::INVAL)]).is_some());
        let refused = |a, b| judged(Want::Refused, [a, b]);
        assert_eq!(refused(failed(Errno::NXIO), failed(Errno::NXIO)), None);
        assert!(refused(failed(Errno::NXIO), failed(Errno::IO)).is_some());
        assert!(refused(failed(Errno::NXIO), done()).is_some());
        assert!(refused(done(), done()).is_some());
        let known = Want::Known(Deviation::FlushOfInvalid);
        assert_eq!(judged(known, [done(), failed(Errno::IO)]), None);
        assert!(judged(known, [done(), done()]).is_some());
        assert!(judged(known, [failed(Errno::IO), done()]).is_some());
    }

    #[test]
    fn whatever_a_device_shows_is_compared() {
        type Change = fn(&mut Observation);
        let changes: [(Sort, Change); 10] = [
            (Sort::Content, |o| {
                o.content = Reading::Wrong("x".to_owned())
            }),
            (Sort::Content, |o| {
                o.content = Reading::Failed("x".to_owned())
            }),
            (Sort::Content, |o| o.content = Reading::Succeeded),
            (Sort::Status, |o| o.status = "32/100 16".to_owned()),
            (Sort::Status, |o| o.status = "24/100 24".to_owned()),
            (Sort::Status, |o| o.status = "Invalid".to_owned()),
            (Sort::Table, |o| o.table = "{base} {cow0} P 16".to_owned()),
            (Sort::State, |o| o.suspended = true),
            (Sort::Events, |o| o.events = 2),
            (Sort::Limits, |o| o.limits[0].1 = "1".to_owned()),
        ];
        let both_done = || [Outcome::Done, Outcome::Done];
        let judge = |pair| compare(&[step(Want::Done)], &[seen()], &reports(both_done(), pair));
        assert_eq!(judge([good(), good()]), None);
        for (sort, change) in changes {
            let mut bad = good();
            change(&mut bad);
            let found = judge([good(), bad.clone()]).expect("ours is wrong");
            assert_eq!(found.sort, sort, "{bad:?}");
            assert!(found.wrong[OURS], "{bad:?}");
            assert!(judge([bad, good()]).is_some(), "stock is wrong");
        }
    }

    #[test]
    fn a_missing_report_is_a_difference() {
        let mut both = reports([Outcome::Done, Outcome::Done], [good(), good()]);
        both[OURS].observations[0] = Err("it is not there".to_owned());
        assert!(compare(&[step(Want::Done)], &[seen()], &both).is_some());
        both[0].outcomes.clear();
        assert!(compare(&[step(Want::Done)], &[], &both).is_some());
    }

    #[test]
    fn known_differences_are_none() {
        let mut late = seen();
        let Status::Usage {
            metadata, settled, ..
        } = &mut late.status
        else {
            unreachable!();
        };
        (*metadata, *settled) = ((24, 24), false);
        assert!(
            status_is(&late.status, "24/100 16", true),
            "ours may be late"
        );
        assert!(
            !status_is(&late.status, "24/100 16", false),
            "stock may not"
        );
        assert!(
            !status_is(&late.status, "24/100 32", true),
            "nor may it be early"
        );
        let mut cached = good();
        cached.limits[1].1 = "write back".to_owned();
        let judge = |pair| {
            compare(
                &[],
                &[seen()],
                &reports([Outcome::Done, Outcome::Done], pair),
            )
        };
        assert_eq!(judge([good(), cached.clone()]), None);
        assert!(judge([cached, good()]).is_some());
    }
}
