// SPDX-License-Identifier: GPL-2.0-or-later

//! Runs scripts on both sides, each in a thread of its own, one operation at a time.

use crate::action::Part;
use crate::action::Seen;
use crate::action::Step;
use crate::compare::compare;
use crate::compare::Difference;
use crate::compare::Report;
use crate::compare::SIDES;
use crate::model::Model;
use crate::sabotage::Sabotage;
use crate::script::Script;
use crate::side::Side;
use anyhow::bail;
use anyhow::Context;
use dmholey::dm::table::Family;
use dmholey::dm::DevNum;
use std::sync::mpsc::channel;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::Sender;
use std::sync::Arc;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

/// An operation that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(100);

enum Job {
    SetUp(Model),
    Do(Arc<[Step]>, Arc<[Seen]>, Part),
    TearDown,
}

/// How much of the devices is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Care {
    /// All of it, after each operation.
    Full,
    /// After an operation that does nothing but I/O, what is near its places; all of it after other
    /// operations, and now and then.
    Quick,
}

/// In quick runs everything is looked at after so many operations.
const NOW_AND_THEN: usize = 8;

struct Worker {
    /// `None` only while the thread is waited for.
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    reports: Receiver<anyhow::Result<Report>>,
}

/// Both sides.
pub(crate) struct Pair {
    workers: [Worker; 2],
    patience: Duration,
    /// Operations that were done since the beginning.
    pub(crate) done: u64,
}

/// What came of a script.
#[derive(Debug)]
pub(crate) enum Verdict {
    Same,
    /// After so many operations something was different.
    Different(usize, Difference),
    /// This operation does not end; nothing more can be done with the devices.
    Hangs(usize, String),
}

impl Pair {
    /// Sides on these two devices. Everything may take `slow` times as long.
    pub(crate) fn new(
        pools: [DevNum; 2],
        sabotage: Option<Sabotage>,
        slow: u32,
    ) -> anyhow::Result<Self> {
        let [stock, ours] = pools;
        Ok(Self {
            workers: [
                Worker::start(Side::new(Family::Stock, stock, None)?),
                Worker::start(Side::new(Family::Holey, ours, sabotage)?),
            ],
            patience: PATIENCE * slow,
            done: 0,
        })
    }

    /// Runs a script on fresh volumes. Operations that do not fit are left out.
    pub(crate) fn run(&mut self, script: &Script, care: Care) -> anyhow::Result<Verdict> {
        let mut model = Model::new(&script.sizes);
        let set_up = |_: usize| Job::SetUp(model.clone());
        if let Err(verdict) = self.both(0, |_| Job::TearDown)? {
            return Ok(verdict);
        }
        if let Err(verdict) = self.both(0, set_up)? {
            return Ok(verdict);
        }
        let mut verdict = Verdict::Same;
        for (n, op) in script.ops.iter().map(Some).chain([None]).enumerate() {
            let steps = match op {
                Some(op) => model.apply(op),
                None => Some(model.settle()),
            };
            let Some(steps) = steps else {
                continue;
            };
            let part = match op {
                Some(op) if care == Care::Quick && n % NOW_AND_THEN != 0 => op.surroundings(),
                _ => None,
            };
            let (steps, views) = (Arc::from(steps), Arc::from(model.views()));
            match self.both(n, |_| Job::Do(Arc::clone(&steps), Arc::clone(&views), part))? {
                Err(hangs) => return Ok(hangs),
                Ok(reports) => {
                    if let Some(difference) = compare(&steps, &views, &reports) {
                        verdict = Verdict::Different(n, difference);
                        break;
                    }
                }
            }
            self.done += 1;
        }
        match self.both(script.ops.len(), |_| Job::TearDown)? {
            Err(hangs) => Ok(hangs),
            Ok(_) => Ok(verdict),
        }
    }

    /// Has both sides do a job at the same time.
    fn both(
        &self,
        n: usize,
        job: impl Fn(usize) -> Job,
    ) -> anyhow::Result<Result<[Report; 2], Verdict>> {
        for (side, worker) in self.workers.iter().enumerate() {
            let sent = worker.jobs.as_ref().map(|jobs| jobs.send(job(side)));
            if !matches!(sent, Some(Ok(()))) {
                bail!("the thread of {} is gone", SIDES[side]);
            }
        }
        let mut reports = [Report::default(), Report::default()];
        for (side, worker) in self.workers.iter().enumerate() {
            match worker.reports.recv_timeout(self.patience) {
                Ok(report) => reports[side] = report.with_context(|| SIDES[side])?,
                Err(_) => return Ok(Err(Verdict::Hangs(n, SIDES[side].to_owned()))),
            }
        }
        Ok(Ok(reports))
    }
}

impl Worker {
    fn start(mut side: Side) -> Self {
        let (jobs, todo) = channel();
        let (answer, reports) = channel();
        let thread = thread::spawn(move || {
            while let Ok(job) = todo.recv() {
                if answer.send(work(&mut side, job)).is_err() {
                    return;
                }
            }
        });
        Self {
            jobs: Some(jobs),
            thread: Some(thread),
            reports,
        }
    }
}

impl Drop for Worker {
    /// Waits until the devices are gone.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic has told its story.
            let _ = thread.join();
        }
    }
}

fn work(side: &mut Side, job: Job) -> anyhow::Result<Report> {
    match job {
        Job::SetUp(model) => side.set_up(&model)?,
        Job::TearDown => side.tidy_up()?,
        Job::Do(steps, views, part) => {
            let outcomes = side.perform(&steps);
            let with_limits = steps.iter().any(Step::changes_tables);
            let observations = side.observe(&views, part, with_limits);
            return Ok(Report {
                outcomes,
                observations,
            });
        }
    }
    Ok(Report::default())
}
