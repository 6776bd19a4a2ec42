// SPDX-License-Identifier: GPL-2.0

//! Cuts the power at an instant in many ways: each leaves another part of what is not safe yet.

use crate::disk::Disk;
use crate::disk::Sector;
use crate::host::Host;
use crate::judge::Judge;
use crate::machine::Machine;
use crate::machine::Plan;
use crate::random::Random;
use crate::rules::Rule;
use crate::rules::Violation;
use std::ops::Range;

/// As long as no more sectors than this are unsafe, all their subsets are tried.
const FEW_SECTORS: usize = 4;
/// Otherwise so many samples are tried, beside nothing and everything.
const SAMPLES: usize = 6;
/// After one cut in so many the machine is started again and its power cut once more.
const RECOVERIES: usize = 400;
/// How far such a machine comes.
const RECOVERY_STEPS: usize = 60;

/// What is left on the disks.
#[derive(Default)]
struct Remains {
    media: Vec<Vec<Sector>>,
    /// What is not safe yet: disk, place, content.
    sectors: Vec<(usize, usize, Sector)>,
    /// Which of the sectors belong to the same write.
    writes: Vec<Range<usize>>,
    /// What was there instead of the sectors that were put on the media.
    undo: Vec<(usize, usize, Sector)>,
}

impl Remains {
    /// Looks at the disks of a machine.
    fn look(&mut self, disks: &[Disk]) {
        self.media.resize(disks.len(), Vec::new());
        self.sectors.clear();
        self.writes.clear();
        for (n, disk) in disks.iter().enumerate() {
            self.media[n].clear();
            self.media[n].extend_from_slice(disk.media());
            for write in disk.unsafe_writes() {
                let first = self.sectors.len();
                self.sectors
                    .extend(write.sectors().map(|(at, sector)| (n, at, sector)));
                self.writes.push(first..self.sectors.len());
            }
        }
    }

    /// Puts a sector on the media.
    fn keep(&mut self, n: usize) {
        let (disk, at, sector) = self.sectors[n];
        let old = std::mem::replace(&mut self.media[disk][at], sector);
        self.undo.push((disk, at, old));
    }

    fn keep_all(&mut self, range: Range<usize>) {
        range.for_each(|n| self.keep(n));
    }

    /// Puts a random part of a write on the media.
    fn tear(&mut self, write: Range<usize>, random: &mut Random) {
        let chance = [10, 50, 90][random.below(3)];
        for n in write {
            if random.below(100) < chance {
                self.keep(n);
            }
        }
    }

    /// Takes everything off again.
    fn restore(&mut self) {
        while let Some((disk, at, old)) = self.undo.pop() {
            self.media[disk][at] = old;
        }
    }

    /// Keeps a random part of everything.
    fn sample(&mut self, random: &mut Random) {
        let (all, count) = (self.sectors.len(), self.writes.len());
        // What was sent last is what is most likely to depend on something.
        let one = match random.below(2) {
            0 => random.below(count),
            _ => count - 1 - random.below(count.min(4)),
        };
        let write = self.writes[one].clone();
        match random.below(6) {
            0 => self.keep_all(write),
            1 => {
                self.keep_all(0..write.start);
                self.keep_all(write.end..all);
            }
            2 => {
                self.keep_all(0..write.start);
                self.tear(write, random);
            }
            3 => self.tear(write, random),
            4 => self.tear(0..all, random),
            _ => {
                let chance = [10, 50, 90][random.below(3)];
                for n in 0..count {
                    if random.below(100) < chance {
                        self.keep_all(self.writes[n].clone());
                    }
                }
            }
        }
    }

    /// The media as they are now, as disks.
    fn disks(&self) -> Vec<Disk> {
        self.media.iter().cloned().map(Disk::new).collect()
    }
}

/// How many cuts there were, and what they have shown.
#[derive(Default)]
pub(crate) struct Cuts {
    /// Cuts so far.
    pub(crate) count: u64,
    /// The power is cut after one step in so many.
    pub(crate) steps: usize,
    judge: Judge,
    clock: u64,
    /// How many machines were started on what a cut had left, one on the other.
    nested: usize,
}

impl Cuts {
    /// How often a rule was put to the test.
    pub(crate) fn checks(&self, rule: Rule) -> u64 {
        self.judge.checks[rule as usize]
    }

    /// Counts checks that are made elsewhere.
    pub(crate) fn checked(&mut self, rule: Rule, count: u64) {
        self.judge.checks[rule as usize] += count;
    }

    /// Cuts the power at this instant in many ways, if anything has changed.
    pub(crate) fn after_step(
        &mut self,
        machine: &Machine,
        plan: &Plan,
        random: &mut Random,
    ) -> Result<(), Violation> {
        let clock = machine.host.clock();
        if self.nested == 0 && !random.one_in(self.steps) {
            return Ok(());
        }
        if std::mem::replace(&mut self.clock, clock) == clock {
            return Ok(());
        }
        let mut remains = Remains::default();
        remains.look(&machine.host.disks.borrow());
        self.cut(machine, &mut remains, plan, random)?;
        let unsafe_sectors = remains.sectors.len();
        if unsafe_sectors <= FEW_SECTORS {
            for subset in 1..1usize << unsafe_sectors {
                for n in 0..unsafe_sectors {
                    if (subset >> n) & 1 == 1 {
                        remains.keep(n);
                    }
                }
                self.cut(machine, &mut remains, plan, random)?;
            }
            return Ok(());
        }
        remains.keep_all(0..unsafe_sectors);
        self.cut(machine, &mut remains, plan, random)?;
        for _ in 0..SAMPLES {
            remains.sample(random);
            self.cut(machine, &mut remains, plan, random)?;
        }
        Ok(())
    }

    /// Looks at what cuts at this instant leave on the media of a host. Returns what `judge` says
    /// about everything being kept.
    pub(crate) fn subsets<T>(
        &mut self,
        host: &Host,
        random: &mut Random,
        mut judge: impl FnMut(&[Vec<Sector>]) -> Result<T, Violation>,
    ) -> Result<T, Violation> {
        let mut remains = Remains::default();
        remains.look(&host.disks.borrow());
        self.count += 2;
        judge(&remains.media)?;
        for _ in 0..SAMPLES {
            if !remains.writes.is_empty() {
                remains.sample(random);
                self.count += 1;
                judge(&remains.media)?;
                remains.restore();
            }
        }
        self.checked(Rule::C1, 1);
        remains.keep_all(0..remains.sectors.len());
        judge(&remains.media)
    }

    /// One cut, after which the machine is gone. Says also whether metadata is torn.
    pub(crate) fn last(
        &mut self,
        machine: &Machine,
        random: &mut Random,
    ) -> Result<(Vec<Disk>, bool), Violation> {
        let mut remains = Remains::default();
        remains.look(&machine.host.disks.borrow());
        for _ in 0..SAMPLES {
            remains.restore();
            if !remains.writes.is_empty() {
                remains.sample(random);
            }
            self.count += 1;
            self.judge.judge(machine, &remains.media)?;
            if self.judge.is_torn {
                break;
            }
        }
        Ok((remains.disks(), self.judge.is_torn))
    }

    /// Judges what is left, and perhaps goes on with it.
    fn cut(
        &mut self,
        machine: &Machine,
        remains: &mut Remains,
        plan: &Plan,
        random: &mut Random,
    ) -> Result<(), Violation> {
        self.count += 1;
        self.judge.judge(machine, &remains.media)?;
        // Torn metadata is the more interesting.
        let often = match (self.nested, self.judge.is_torn) {
            (0, true) => RECOVERIES / 8,
            _ => RECOVERIES,
        };
        if self.nested < 2 && random.one_in(often) && !machine.is_lost() {
            self.recover(remains.disks(), machine.host.stamp(), plan, random)?;
        }
        remains.restore();
        Ok(())
    }

    /// Starts a machine on what a cut has left, and cuts the power while it recovers.
    fn recover(
        &mut self,
        disks: Vec<Disk>,
        stamp: u64,
        plan: &Plan,
        random: &mut Random,
    ) -> Result<(), Violation> {
        self.nested += 1;
        let clock = std::mem::take(&mut self.clock);
        let mut machine = Machine::activate(disks, Vec::new(), stamp, plan, random);
        machine.host.run();
        for n in 0..RECOVERY_STEPS {
            machine.step(random)?;
            if n % 8 == 7 {
                machine.poke();
            }
            self.checked(Rule::C10, 1);
            self.after_step(&machine, plan, random)?;
        }
        self.clock = clock;
        self.nested -= 1;
        Ok(())
    }
}
