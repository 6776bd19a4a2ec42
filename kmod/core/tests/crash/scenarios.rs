// SPDX-License-Identifier: GPL-2.0

//! What machines go through.

use crate::cuts::Cuts;
use crate::disk::Disk;
use crate::host::Host;
use crate::judge::judge_making;
use crate::machine::Machine;
use crate::machine::Plan;
use crate::machine::Views;
use crate::random::Random;
use crate::rules::Fault;
use crate::rules::Rule;
use crate::rules::Violation;
use crate::store;
use holey_core::format::ChunkSize;

/// A kind of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// A store is made.
    Making,
    /// Snapshots and their origin are written to.
    CopyOnWrite,
    /// The same on disks whose requests fail now and then.
    CopyOnWriteWithErrors,
    /// A snapshot is merged while it, and another one, are written to.
    Merge,
    /// The same on disks whose requests fail now and then.
    MergeWithErrors,
}

impl Scenario {
    /// Lives one life.
    pub(crate) fn live(
        self,
        fault: Option<Fault>,
        seed: u64,
        cuts: &mut Cuts,
    ) -> Result<(), Violation> {
        crate::disk::Sector::forget_all();
        let random = &mut Random::new(seed);
        // The power is cut after every step, or machines get further.
        cuts.steps = if seed % 2 == 0 { 1 } else { 20 };
        match self {
            Self::Making => making(fault, cuts, random),
            Self::CopyOnWrite => {
                Life::begin(None, fault, false, random).copy_on_write(cuts, random)
            }
            Self::CopyOnWriteWithErrors => {
                let failures = Some([30, 300][random.below(2)]);
                Life::begin(failures, fault, false, random).copy_on_write(cuts, random)
            }
            Self::Merge => Life::begin(None, fault, true, random).merge(cuts, random),
            Self::MergeWithErrors => {
                let failures = Some([30, 300][random.below(2)]);
                Life::begin(failures, fault, true, random).merge(cuts, random)
            }
        }
    }
}

fn chunk_size(sectors: usize) -> ChunkSize {
    ChunkSize::new(sectors as u32).expect("a size that is allowed")
}

/// A store is made; the power is cut at any time.
fn making(fault: Option<Fault>, cuts: &mut Cuts, random: &mut Random) -> Result<(), Violation> {
    let chunk = [1, 4, 8, 32][random.below(4)];
    let disks = vec![store::new_origin(64), store::new_cow(chunk * 20, random)];
    let host = Host::new(disks, 0, fault);
    host.spawn(store::format(host.clone(), 1, chunk_size(chunk)));
    let judged = judge_making(&host, chunk, cuts, random);
    drop(host.stop());
    judged
}

/// The disks between the machines that use them.
struct Life {
    plan: Plan,
    disks: Vec<Disk>,
    views: Views,
    stamp: u64,
    /// How many entries are listed before it becomes serious.
    target: usize,
}

impl Life {
    /// An origin and one or two fresh snapshots.
    fn begin(
        failures: Option<usize>,
        fault: Option<Fault>,
        merges: bool,
        random: &mut Random,
    ) -> Self {
        let origin = [480, 2644, 5600][random.below(3)];
        // Half of the lives are spent about the end of an area of 256 entries.
        let target = if merges || random.one_in(2) {
            0
        } else {
            225 + random.below(30)
        };
        let siblings = match fault {
            Some(
                Fault::OriginWaitsForOneSnapshot
                | Fault::SiblingsNotSecured
                | Fault::SiblingsNotCommitted,
            ) => 2,
            _ => 1 + random.below(2),
        };
        let mut plan = Plan {
            chunks: Vec::new(),
            merging: None,
            may_overflow: random.one_in(2),
            failures: None,
            fault: None,
        };
        let origin = if target == 0 { origin } else { 5600 };
        let mut disks = vec![store::new_origin(origin)];
        for _ in 0..siblings {
            let chunk = if target == 0 {
                [1, 4, 8, 8, 32][random.below(5)]
            } else {
                8
            };
            // What is to be merged, or to reach the end of an area, should not be full before.
            let small = !merges && target == 0 && random.one_in(2);
            let size = if small {
                [20, 100][random.below(2)]
            } else {
                [262, 300, 400, 900][random.below(4)]
            };
            plan.chunks.push(chunk);
            disks.push(store::new_cow(chunk * size, random));
        }
        let host = Host::new(disks, 1 << 32, None);
        for (n, chunk) in plan.chunks.iter().enumerate() {
            host.spawn(store::format(host.clone(), n + 1, chunk_size(*chunk)));
        }
        host.run();
        while host.finish_one(random) {
            host.run();
        }
        plan.failures = failures;
        plan.fault = fault;
        Self {
            plan,
            disks: host.stop(),
            views: Vec::new(),
            stamp: host.stamp(),
            target,
        }
    }

    fn activate(&mut self, random: &mut Random) -> Machine {
        let (disks, views) = (
            std::mem::take(&mut self.disks),
            std::mem::take(&mut self.views),
        );
        let machine = Machine::activate(disks, views, self.stamp, &self.plan, random);
        machine.host.run();
        machine
    }

    /// Ends a machine by a cut, a reset or in good order. False if a store must not be used again.
    fn end(
        &mut self,
        mut machine: Machine,
        cuts: &mut Cuts,
        random: &mut Random,
    ) -> Result<bool, Violation> {
        let how = random.below(6);
        if how == 0 {
            machine.suspend(random)?;
            machine.check_suspended()?;
            if machine.merge.is_some() {
                cuts.checked(Rule::M9, 1);
            }
        }
        if machine.is_lost() {
            return Ok(false);
        }
        match how {
            0 => (self.disks, self.views, self.stamp) = machine.end(),
            1 | 2 => (self.disks, self.views, self.stamp) = machine.reset(random),
            _ => {
                // Often just when a metadata write is torn.
                let mut patience = [0, 0, 100][random.below(3)];
                self.disks = loop {
                    let (disks, torn) = cuts.last(&machine, random)?;
                    if torn || patience == 0 {
                        break disks;
                    }
                    patience -= 1;
                    machine.step(random)?;
                };
                self.stamp = machine.host.stamp();
            }
        }
        Ok(true)
    }

    /// Fills the stores up to some point, with the power on and no request failing.
    fn fill(
        &mut self,
        target: usize,
        steps: usize,
        cuts: &mut Cuts,
        random: &mut Random,
    ) -> Result<(), Violation> {
        let failures = self.plan.failures.take();
        let mut machine = self.activate(random);
        for _ in 0..steps {
            if machine.listed() >= target {
                break;
            }
            machine.step(random)?;
        }
        self.end(machine, cuts, random)?;
        self.plan.failures = failures;
        Ok(())
    }

    /// Machines come and go.
    fn copy_on_write(&mut self, cuts: &mut Cuts, random: &mut Random) -> Result<(), Violation> {
        self.fill(self.target, 20_000, cuts, random)?;
        for _ in 0..12 {
            let mut machine = self.activate(random);
            if machine.snapshots.is_empty() {
                break;
            }
            for _ in 0..[10, 30, 100, 300, 1000][random.below(5)] {
                machine.step(random)?;
                cuts.after_step(&machine, &self.plan, random)?;
                cuts.checked(Rule::C7, 1);
            }
            if !self.end(machine, cuts, random)? {
                break;
            }
        }
        Ok(())
    }

    fn merge(&mut self, cuts: &mut Cuts, random: &mut Random) -> Result<(), Violation> {
        let steps = [300, 2000, 5000][random.below(3)];
        self.fill(usize::MAX, steps, cuts, random)?;
        self.plan.merging = Some(1);
        for _ in 0..[1, 2, 8][random.below(3)] {
            let mut machine = self.activate(random);
            for _ in 0..[30, 100, 600][random.below(3)] {
                machine.step(random)?;
                cuts.after_step(&machine, &self.plan, random)?;
                cuts.checked(Rule::M6, 1);
            }
            if !self.end(machine, cuts, random)? {
                return Ok(());
            }
        }
        self.finish_merge(cuts, random)
    }

    /// Merges to the end, however often that has to be begun.
    fn finish_merge(&mut self, cuts: &mut Cuts, random: &mut Random) -> Result<(), Violation> {
        let mut machine = self.activate(random);
        let Some(merge) = machine.merge.clone() else {
            return Ok(());
        };
        let failing = self.plan.failures.is_some();
        for n in 0.. {
            if n == 500 {
                // The disks are replaced.
                machine.host.fail_one_in(None);
            }
            let quiet = !machine.host.finish_one(random);
            machine.poke();
            machine.host.run();
            machine.host.verdict()?;
            if merge.done.get() && merge.is_stopped() {
                break;
            }
            if quiet && n > 100_000 || n > 1_000_000 {
                let rule = if failing { Rule::M8 } else { Rule::M7 };
                return Err(Violation::new(rule, "the merge does not end"));
            }
            if n % 16 == 0 {
                cuts.after_step(&machine, &self.plan, random)?;
            }
        }
        if failing {
            cuts.checked(Rule::M8, 1);
        }
        cuts.checked(Rule::M7, 1);
        // Everything has to be there, so nothing may be under way or in a cache.
        machine.suspend(random)?;
        let mark = merge.overlay.state.borrow().view.mark();
        machine.host.fail_one_in(None);
        let _flushes = (
            machine.host.flush(0),
            machine.host.flush(merge.overlay.disk),
        );
        while machine.host.finish_one(random) {}
        merge.overlay.state.borrow_mut().view.flushed(&mark);
        crate::judge::judge_merged(&machine, &merge)
    }
}
