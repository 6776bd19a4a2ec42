// SPDX-License-Identifier: GPL-2.0

//! Judges what a power cut has left, without the code under test: the lists and what the devices
//! would show.

use crate::cuts::Cuts;
use crate::disk::Sector;
use crate::host::Host;
use crate::machine::Machine;
use crate::merging::Merge;
use crate::random::Random;
use crate::rules::Rule;
use crate::rules::Violation;
use crate::snapshot::Condition;
use crate::snapshot::Snapshot;
use crate::snapshot::State;
use crate::store;
use crate::store::Found;
use crate::summary;
use crate::view::Standing;
use crate::view::View;
use holey_core::format::Exception;

/// No COW chunk.
const NONE: usize = usize::MAX;

/// Memory and counters of the judge.
#[derive(Default)]
pub(crate) struct Judge {
    /// How often each rule was put to the test.
    pub(crate) checks: [u64; Rule::ALL.len()],
    /// Something stands behind the end of a list that was judged last.
    pub(crate) is_torn: bool,
    list: Vec<Exception>,
    /// Where each chunk of the origin is listed to be.
    places: Vec<usize>,
}

/// A device that is judged.
struct Case<'a> {
    machine: &'a Machine,
    snapshot: &'a Snapshot,
    state: &'a State,
    /// The merge, if it is the merging device.
    merge: Option<&'a Merge>,
}

impl Machine {
    /// Whether a store must not be activated again, as its header could not be written.
    pub(crate) fn is_lost(&self) -> bool {
        self.snapshots
            .iter()
            .any(|snapshot| snapshot.state.borrow().lost)
    }
}

impl Judge {
    /// Judges all devices of a machine by what is on the media.
    pub(crate) fn judge(
        &mut self,
        machine: &Machine,
        media: &[Vec<Sector>],
    ) -> Result<(), Violation> {
        self.is_torn = false;
        for snapshot in machine.snapshots.iter() {
            self.judge_device(machine, snapshot, None, media)?;
        }
        if let Some(merge) = &machine.merge {
            self.judge_device(machine, &merge.overlay, Some(merge), media)?;
        } else {
            self.judge_origin(machine, &media[0])?;
        }
        Ok(())
    }

    fn judge_origin(&self, machine: &Machine, media: &[Sector]) -> Result<(), Violation> {
        let view = machine.origin.borrow();
        match first_wrong(&view, 0, media) {
            None => Ok(()),
            Some(at) => {
                let rule = if machine.host.has_failed() {
                    Rule::C11
                } else {
                    Rule::C8
                };
                Err(Violation::new(
                    rule,
                    format!("the origin: {}", describe(&view, at, media[at])),
                ))
            }
        }
    }

    fn judge_device(
        &mut self,
        machine: &Machine,
        snapshot: &Snapshot,
        merge: Option<&Merge>,
        media: &[Vec<Sector>],
    ) -> Result<(), Violation> {
        let state = &*snapshot.state.borrow();
        if state.lost {
            return Ok(());
        }
        let case = Case {
            machine,
            snapshot,
            state,
            merge,
        };
        let cow = &media[snapshot.disk];
        match store::read(cow, snapshot.sectors(), &mut self.list) {
            Ok(Found::List) => {}
            Ok(Found::Invalid) if state.condition != Condition::Valid => {
                self.count(Rule::C9);
                return Ok(());
            }
            Ok(Found::Invalid) => {
                return Err(Violation::new(
                    Rule::C11,
                    "the header says invalid for no reason",
                ))
            }
            Ok(Found::Fresh) => return Err(Violation::new(Rule::C3, "the header is gone")),
            Err(what) => return Err(Violation::new(self.blame_list(&case), what)),
        }
        self.judge_list(&case, cow)?;
        self.judge_view(&case, &media[0], cow)?;
        match summary::judge(cow, machine.host.len(0), &self.list, state.unsure) {
            Ok(true) => self.count(Rule::C12),
            Ok(false) => {}
            Err(what) => return Err(Violation::new(Rule::C12, what)),
        }
        self.count_checks(&case);
        Ok(())
    }

    /// The list is what was committed, as far as it is there.
    fn judge_list(&mut self, case: &Case<'_>, cow: &[Sector]) -> Result<(), Violation> {
        let (list, listed) = (&self.list, &case.state.listed);
        let known = list.len().min(listed.len());
        if list.len() < case.state.durable
            || list.len() > listed.len()
            || list[..known] != listed[..known]
        {
            let equal = list.iter().zip(listed).take_while(|(a, b)| a == b).count();
            let what = format!(
                "disk {} lists {} entries, {} to {} were expected, {equal} are as they should be",
                case.snapshot.disk,
                list.len(),
                case.state.durable,
                listed.len()
            );
            return Err(Violation::new(self.blame_list(case), what));
        }
        let zero = store::is_tail_zero(cow, case.snapshot.sectors(), list.len());
        self.is_torn |= !zero;
        if case.merge.is_some_and(|merge| merge.clean.get()) && !zero {
            return Err(Violation::new(
                self.blame_list(case),
                "entries are left behind a truncation",
            ));
        }
        Ok(())
    }

    fn blame_list(&self, case: &Case<'_>) -> Rule {
        let listed = case.state.listed.len();
        let entries = case.snapshot.layout.entries() as usize;
        if case.merge.is_some() && case.machine.host.has_failed() {
            Rule::M8
        } else if case.merge.is_some() {
            Rule::M4
        } else if case.machine.host.has_failed() {
            Rule::C11
        } else if self.list.len() > listed && listed % entries == 0 && listed != 0 {
            Rule::C5
        } else if self.list.len() > listed {
            Rule::C4
        } else {
            // An entry in the middle that is another one than was put there.
            let equal = self
                .list
                .iter()
                .zip(&case.state.listed)
                .all(|(a, b)| a == b);
            if equal {
                Rule::C3
            } else {
                Rule::C4
            }
        }
    }

    /// The device shows what it may show.
    fn judge_view(
        &mut self,
        case: &Case<'_>,
        origin: &[Sector],
        cow: &[Sector],
    ) -> Result<(), Violation> {
        let size = case.snapshot.sectors();
        self.places.clear();
        self.places.resize(origin.len().div_ceil(size), NONE);
        for entry in &self.list {
            self.places[entry.origin as usize] = entry.cow as usize * size;
        }
        let view = &case.state.view;
        for (chunk, place) in self.places.iter().enumerate() {
            let from = chunk * size;
            let count = size.min(origin.len() - from);
            let shown = match *place {
                NONE => &origin[from..from + count],
                place => &cow[place..place + count],
            };
            if let Some(at) = first_wrong(view, from, shown) {
                let value = shown[at - from];
                let mapped = *place != NONE;
                let what = format!(
                    "disk {}, chunk {chunk} ({}): {}",
                    case.snapshot.disk,
                    if mapped { "listed" } else { "not listed" },
                    describe(view, at, value)
                );
                return Err(Violation::new(
                    blame_view(case, chunk as u64, mapped, view.standing(at, value)),
                    what,
                ));
            }
        }
        Ok(())
    }

    fn count(&mut self, rule: Rule) {
        self.checks[rule as usize] += 1;
    }

    /// Notes which rules this cut has put to the test.
    fn count_checks(&mut self, case: &Case<'_>) {
        let state = case.state;
        let failed = case.machine.host.has_failed();
        let unsafe_entries = state.durable < state.listed.len();
        let mut note = |rule, tested| self.checks[rule as usize] += u64::from(tested);
        if let Some(merge) = case.merge {
            let window = merge.has_window();
            note(
                Rule::M1,
                state.durable < self.list.len() || window && unsafe_entries,
            );
            note(Rule::M2, merge.is_holding());
            note(Rule::M3, window);
            note(Rule::M4, unsafe_entries);
            note(Rule::M8, failed);
            return;
        }
        note(Rule::C2, unsafe_entries);
        note(Rule::C3, state.durable != 0);
        note(Rule::C4, self.is_torn);
        let entries = case.snapshot.layout.entries() as usize;
        note(
            Rule::C5,
            self.list.len() % entries == 0 && !self.list.is_empty(),
        );
        note(Rule::C6, case.machine.merge.is_none());
        note(Rule::C8, true);
        note(Rule::C9, state.condition != Condition::Valid);
        note(Rule::C11, failed);
        note(
            Rule::M5,
            case.machine
                .merge
                .as_ref()
                .is_some_and(|merge| merge.has_window()),
        );
    }
}

/// The first sector from `from` on that shows what it may not show.
fn first_wrong(view: &View, from: usize, shown: &[Sector]) -> Option<usize> {
    if view.durable()[from..from + shown.len()] == *shown {
        return None;
    }
    let mut sectors = (from..).zip(shown);
    let wrong = sectors.find(|(at, sector)| view.standing(*at, **sector) != Standing::Allowed);
    wrong.map(|(at, _)| at)
}

fn describe(view: &View, at: usize, value: Sector) -> String {
    format!(
        "sector {at} shows {value:x?}, allowed is {:x?}",
        view.allowed(at)
    )
}

/// Which rule a wrong sector breaks.
fn blame_view(case: &Case<'_>, chunk: u64, mapped: bool, standing: Standing) -> Rule {
    let failed = case.machine.host.has_failed();
    let state = case.state;
    if case.merge.is_some() {
        return match (mapped, standing) {
            _ if failed => Rule::M8,
            (_, Standing::Over) => Rule::M2,
            (true, _) => Rule::M3,
            (false, _) => Rule::M1,
        };
    }
    if state.condition != Condition::Valid {
        return Rule::C9;
    }
    if failed {
        return Rule::C11;
    }
    let was_there = state.listed[..state.loaded]
        .iter()
        .any(|entry| entry.origin == chunk);
    match (mapped, standing) {
        (true, Standing::Foreign) if was_there => Rule::C10,
        (true, Standing::Foreign) => Rule::C2,
        (_, Standing::Over) => Rule::C8,
        (false, _) if case.machine.merge.is_some() => Rule::M5,
        _ => Rule::C6,
    }
}

/// Cuts the power while a store is made.
pub(crate) fn judge_making(
    host: &Host,
    chunk: usize,
    cuts: &mut Cuts,
    random: &mut Random,
) -> Result<(), Violation> {
    let mut list = Vec::new();
    loop {
        host.run();
        let complete = cuts.subsets(host, random, |media| {
            match store::read(&media[1], chunk, &mut list) {
                Ok(Found::Fresh) => Ok(false),
                Ok(Found::List) if list.is_empty() => Ok(true),
                Ok(other) => Err(Violation::new(
                    Rule::C1,
                    format!("{other:?} with {} entries", list.len()),
                )),
                Err(what) => Err(Violation::new(Rule::C1, what)),
            }
        })?;
        if !host.finish_one(random) {
            return match complete {
                true => Ok(()),
                false => Err(Violation::new(
                    Rule::C1,
                    "a store that was made is not there",
                )),
            };
        }
    }
}

/// Judges what a merge that has come to its end leaves.
pub(crate) fn judge_merged(machine: &Machine, merge: &Merge) -> Result<(), Violation> {
    let wrong = |what: String| Err(Violation::new(Rule::M7, what));
    let disks = machine.host.disks.borrow();
    let state = merge.overlay.state.borrow();
    let (cow, size) = (disks[merge.overlay.disk].media(), merge.overlay.sectors());
    let mut list = Vec::new();
    if store::read(cow, size, &mut list) != Ok(Found::List) || !list.is_empty() {
        return wrong(format!("the store has {} entries", list.len()));
    }
    if !store::is_tail_zero(cow, size, 0) {
        return wrong("area 0 is not empty".into());
    }
    // The header and area 0: what status shows as allocated and as metadata.
    if state.alloc.next_free() != 2 {
        return wrong(format!("{} chunks are allocated", state.alloc.next_free()));
    }
    match first_wrong(&state.view, 0, disks[0].media()) {
        Some(at) => wrong(describe(&state.view, at, disks[0].media()[at])),
        None => Ok(()),
    }
}
