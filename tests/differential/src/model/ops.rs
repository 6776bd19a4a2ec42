// SPDX-License-Identifier: GPL-2.0-or-later

//! One operation after the other.

use super::cow_name;
use super::snapshot_name;
use super::target;
use super::Holds;
use super::Merge;
use super::Model;
use super::Origin;
use super::Snapshot;
use super::BASE;
use crate::action::Action;
use crate::action::Step;
use crate::action::Table;
use crate::action::Target;
use crate::action::Want;
use crate::data::Tag;
use crate::op::Dev;
use crate::op::Kind;
use crate::op::Op;
use crate::op::StoreWords;
use crate::op::COWS;
use crate::script::SLOT;
use crate::store::ends_behind_area;
use crate::store::Store;
use crate::store::DEFAULT_CHUNK;
use dmholey::dm::table::Role;
use rustix::io::Errno;

/// The device that is made for table lines that nobody takes.
const SCRATCH: &str = "scratch";

pub(super) type Steps = Option<Vec<Step>>;

impl Model {
    /// Where a volume lies in the pool.
    pub(crate) fn volume(place: u64, len: u64) -> Table {
        Table {
            target: Target::Linear,
            len,
            words: format!("{{pool}} {}", place * SLOT),
        }
    }

    /// What makes the volumes.
    pub(crate) fn volumes(&self) -> Vec<(String, Table, Tag)> {
        let base = (
            BASE.to_owned(),
            Self::volume(0, self.sectors()),
            Tag::ORIGIN,
        );
        let cows = self.cows.iter().enumerate().map(|(n, cow)| {
            let table = Self::volume(n as u64 + 1, cow.sectors);
            (cow_name(n), table, Tag::garbage(n))
        });
        [base].into_iter().chain(cows).collect()
    }

    /// What an operation comes to; `None`, and nothing has changed, if it does not fit the state.
    pub(crate) fn apply(&mut self, op: &Op) -> Steps {
        let mut next = self.clone();
        let mut steps = next.act(op)?;
        if next.is_merging() && !next.merge_fits() {
            // When it is that the merge makes another snapshot invalid is not foreseeable, unless it
            // is waited for at once.
            let begins = matches!(
                op,
                Op::CreateMerge(_) | Op::HandOver(_) | Op::Resume(Dev::Merge)
            );
            if !begins {
                return None;
            }
            steps.extend(next.finish_merge()?);
        }
        next.step += 1;
        *self = next;
        Some(steps)
    }

    /// Has everything written out that was acknowledged.
    pub(crate) fn settle(&mut self) -> Vec<Step> {
        let all = (0..COWS).map(Dev::Snapshot);
        let steps = all.filter_map(|dev| self.flush(dev)).flatten().collect();
        self.step += 1;
        steps
    }

    fn act(&mut self, op: &Op) -> Steps {
        match op {
            Op::CreateOrigin => self.create_origin(),
            Op::CreateSnapshot(n, words) => self.create_snapshot(*n, words),
            Op::CreateMerge(n) => self.create_merge(*n),
            Op::HandOver(n) => self.hand_over(*n),
            Op::Remove(dev) => self.remove(*dev),
            Op::ReloadOrigin => {
                let table = self.origin_table();
                let origin = self.origin.as_mut()?;
                let suspended = std::mem::replace(&mut origin.suspended, false);
                Some(reload("origin", table, suspended))
            }
            Op::ReloadSnapshot(n, kind) => self.reload_snapshot(*n, *kind),
            Op::Move(n) => self.move_snapshot(*n),
            Op::MoveTooEarly(n) => self.move_too_early(*n),
            Op::Suspend { dev, noflush } => self.suspend(*dev, *noflush),
            Op::Resume(dev) => self.resume(*dev),
            Op::Write { span, fua } => self.write(*span, *fua),
            Op::Read(span) => self.read(*span),
            Op::Zero(span) => self.zero(*span),
            Op::Discard(span) => self.discard(*span),
            Op::Burst(spans) => self.burst(spans),
            Op::Flush(dev) => self.flush(*dev),
            Op::Grow(n, sectors) => self.grow(*n, *sectors),
            Op::Wipe(n) => self.wipe(*n),
            Op::FinishMerge => self.finish_merge(),
            Op::Refuse(line) => self.refuse(line),
        }
    }

    fn origin_table(&self) -> Table {
        Table {
            target: target(Role::Origin),
            len: self.sectors(),
            words: format!("{{{BASE}}}"),
        }
    }

    fn store_table(&self, role: Role, n: usize, words: &StoreWords) -> Table {
        Table {
            target: target(role),
            len: self.sectors(),
            words: format!("{{{BASE}}} {{{}}} {words}", cow_name(n)),
        }
    }

    fn create_origin(&mut self) -> Steps {
        let steps = match &self.merge {
            _ if self.origin.is_some() => return None,
            None => create("origin", self.origin_table()),
            Some(m) if m.done && m.live && m.on_origin => {
                reload("origin", self.origin_table(), m.suspended)
            }
            Some(_) => return None,
        };
        self.origin = Some(Origin {
            suspended: false,
            was_merge: self.merge.take().is_some(),
        });
        Some(steps)
    }

    fn create_snapshot(&mut self, n: usize, words: &StoreWords) -> Steps {
        let looks = self.is_look(n);
        if self.snapshots[n].is_some() || self.merge.is_some() && !looks {
            return None;
        }
        let cow = &mut self.cows[n];
        let persistent = words.kind != Kind::N;
        if looks && !persistent {
            return None;
        }
        // Deviation::HeaderBehindEnd
        if persistent
            && cow.sectors
                < if words.chunk == 0 {
                    DEFAULT_CHUNK
                } else {
                    words.chunk
                }
        {
            return None;
        }
        match &cow.holds {
            Holds::Store(store) if persistent && store.persistent => {}
            Holds::Garbage if persistent => return None,
            _ => {
                let store = Store::new(words.kind, words.chunk);
                let least = if persistent { 3 } else { 1 };
                if cow.sectors < least * store.chunk || !persistent && words.chunk == 0 {
                    return None;
                }
                cow.holds = Holds::Store(store);
            }
        }
        if words.kind == Kind::PO && ends_behind_area(self.chunk(n)?, self.cow_sectors(n)) {
            return None;
        }
        self.snapshots[n] = Some(Snapshot::new(words.clone()));
        let table = self.store_table(Role::Snapshot, n, words);
        let mut steps = create(&self.name(Dev::Snapshot(n)), table);
        if self.is_usable(Dev::Origin) {
            steps.insert(0, done(suspend("origin")));
            steps.push(done(Action::Resume("origin".to_owned())));
        }
        Some(steps)
    }

    fn create_merge(&mut self, n: usize) -> Steps {
        if self.merge.is_some() && !self.is_look(n) {
            return None;
        }
        let mut steps = Vec::new();
        for dev in [Dev::Origin, Dev::Snapshot(n)] {
            if self.is_suspended(dev).is_some() {
                steps.extend(self.remove(dev)?);
            }
        }
        let store = self.cows[n].store().filter(|store| store.persistent)?;
        let words = StoreWords::new(Kind::P, store.chunk);
        self.merge = Some(Merge {
            cow: n,
            kind: Kind::P,
            on_origin: false,
            live: true,
            suspended: false,
            done: !store.valid,
        });
        steps.extend(create("merge", self.store_table(Role::Merge, n, &words)));
        Some(steps)
    }

    fn hand_over(&mut self, n: usize) -> Steps {
        let snapshot = self.snapshots[n].take_if(|s| !s.suspended && !s.overflowed)?;
        let on_origin = self.is_usable(Dev::Origin);
        if self.merge.is_some() || !self.is_valid(n) || !on_origin && self.origin.is_some() {
            return None;
        }
        let words = StoreWords {
            zeroes: false,
            passdown: false,
            ..snapshot.words
        };
        if words.kind == Kind::N {
            return None;
        }
        let merge = Merge {
            cow: n,
            kind: words.kind,
            on_origin,
            live: true,
            suspended: false,
            done: false,
        };
        let (old, new) = (snapshot_name(n, snapshot.moves), merge.name().to_owned());
        let mut steps = Vec::new();
        if !on_origin {
            steps.push(done(Action::Create(new.clone())));
        }
        let error = Table {
            target: Target::Error,
            len: self.sectors(),
            words: String::new(),
        };
        let table = self.store_table(Role::Merge, n, &words);
        steps.push(done(Action::Load(new.clone(), table)));
        steps.push(done(Action::Load(old.clone(), error)));
        steps.push(done(suspend(&old)));
        if on_origin {
            steps.push(done(suspend(&new)));
        }
        steps.push(done(Action::Resume(new)));
        steps.push(done(Action::Resume(old.clone())));
        steps.push(done(Action::Remove(old)));
        self.origin = None;
        self.merge = Some(merge);
        Some(steps)
    }

    fn remove(&mut self, dev: Dev) -> Steps {
        self.is_suspended(dev)?;
        let name = self.name(dev);
        match dev {
            Dev::Origin => self.origin = None,
            Dev::Snapshot(n) => {
                // The merge has given it exceptions, nobody knows how many.
                if self.is_merging() && !self.is_look(n) {
                    return None;
                }
                self.snapshots[n] = None;
                if !self.cows[n].store()?.persistent {
                    self.cows[n].holds = Holds::Garbage;
                }
            }
            Dev::Merge => {
                let merge = self.merge.as_mut()?;
                (merge.live, merge.on_origin) = (false, false);
                if merge.done {
                    self.merge = None;
                }
            }
        }
        Some(vec![done(Action::Remove(name))])
    }

    fn reload_snapshot(&mut self, n: usize, kind: Kind) -> Steps {
        let words = StoreWords {
            kind,
            ..self.snapshots[n].as_ref()?.words.clone()
        };
        self.check_change(n, kind)?;
        let table = self.store_table(Role::Snapshot, n, &words);
        let name = self.name(Dev::Snapshot(n));
        let snapshot = self.snapshots[n].as_mut()?;
        let steps = reload(&name, table, snapshot.suspended);
        snapshot.words = words;
        snapshot.suspended = false;
        snapshot.settled = true;
        Some(steps)
    }

    /// Whether another table may take the exceptions of a snapshot over.
    fn check_change(&self, n: usize, kind: Kind) -> Option<()> {
        let old = self.snapshots[n].as_ref()?.words.kind;
        let alike = (old == Kind::N) == (kind == Kind::N);
        let odd = kind == Kind::PO && ends_behind_area(self.chunk(n)?, self.cow_sectors(n));
        (alike && !odd && self.merge.is_none()).then_some(())
    }

    fn move_snapshot(&mut self, n: usize) -> Steps {
        self.check_change(n, self.snapshots[n].as_ref()?.words.kind)?;
        let old = self.name(Dev::Snapshot(n));
        let snapshot = self.snapshots[n].as_mut()?;
        let (was_suspended, words) = (snapshot.suspended, snapshot.words.clone());
        snapshot.moves += 1;
        snapshot.suspended = false;
        snapshot.settled = true;
        let new = self.name(Dev::Snapshot(n));
        let mut steps = vec![
            done(Action::Create(new.clone())),
            done(Action::Load(
                new.clone(),
                self.store_table(Role::Snapshot, n, &words),
            )),
        ];
        if !was_suspended {
            steps.push(done(suspend(&old)));
        }
        steps.push(done(Action::Resume(new)));
        steps.push(done(Action::Remove(old)));
        Some(steps)
    }

    fn move_too_early(&mut self, n: usize) -> Steps {
        let snapshot = self.snapshots[n].as_ref().filter(|s| !s.suspended)?;
        self.check_change(n, snapshot.words.kind)?;
        let table = self.store_table(Role::Snapshot, n, &snapshot.words);
        let new = snapshot_name(n, snapshot.moves + 1);
        Some(vec![
            done(Action::Create(new.clone())),
            done(Action::Load(new.clone(), table)),
            Step {
                action: Action::Resume(new.clone()),
                want: Want::Failed(Errno::INVAL),
            },
            done(Action::Remove(new)),
        ])
    }

    fn suspend(&mut self, dev: Dev, noflush: bool) -> Steps {
        if !self.is_usable(dev) {
            return None;
        }
        self.set_suspended(dev, true);
        let name = self.name(dev);
        Some(vec![done(Action::Suspend { name, noflush })])
    }

    fn resume(&mut self, dev: Dev) -> Steps {
        if self.is_suspended(dev) != Some(true) {
            return None;
        }
        self.set_suspended(dev, false);
        Some(vec![done(Action::Resume(self.name(dev)))])
    }

    fn set_suspended(&mut self, dev: Dev, suspended: bool) {
        match dev {
            Dev::Origin => {
                if let Some(origin) = &mut self.origin {
                    origin.suspended = suspended;
                }
            }
            Dev::Merge => {
                if let Some(merge) = &mut self.merge {
                    merge.suspended = suspended;
                }
            }
            Dev::Snapshot(n) => {
                if let Some(snapshot) = &mut self.snapshots[n] {
                    snapshot.suspended = suspended;
                    snapshot.settled = true;
                }
            }
        }
    }

    fn grow(&mut self, n: usize, sectors: u64) -> Steps {
        let cow = &mut self.cows[n];
        if sectors <= cow.sectors || sectors > SLOT {
            return None;
        }
        cow.sectors = sectors;
        if let Some(snapshot) = &self.snapshots[n] {
            if snapshot.words.kind == Kind::PO && ends_behind_area(self.chunk(n)?, sectors) {
                return None;
            }
        }
        let table = Self::volume(n as u64 + 1, sectors);
        Some(reload(&cow_name(n), table, false))
    }

    /// Whether nothing uses a COW volume.
    fn is_unused(&self, n: usize) -> bool {
        self.snapshots[n].is_none() && self.merge.as_ref().is_none_or(|merge| merge.cow != n)
    }

    fn wipe(&mut self, n: usize) -> Steps {
        if !self.is_unused(n) {
            return None;
        }
        self.cows[n].holds = Holds::Nothing;
        Some(vec![done(Action::Zero {
            name: cow_name(n),
            sector: 0,
            count: self.cow_sectors(n).min(8),
        })])
    }

    fn finish_merge(&mut self) -> Steps {
        let merge = self.live_merge()?;
        if merge.done || merge.suspended {
            return None;
        }
        let name = merge.name().to_owned();
        self.complete_merge();
        Some(vec![done(Action::AwaitMerge(name))])
    }

    fn refuse(&mut self, line: &str) -> Steps {
        let (target_word, words) = line.split_once(' ').unwrap_or((line, ""));
        let role = match target_word {
            "origin" => Role::Origin,
            "snapshot" => Role::Snapshot,
            "merge" => Role::Merge,
            _ => return None,
        };
        let names = |n: &usize| words.contains(&format!("{{{}}}", cow_name(*n)));
        if !(0..COWS).filter(names).all(|n| self.is_unused(n)) || self.merge.is_some() {
            return None;
        }
        let table = Table {
            target: target(role),
            len: self.sectors(),
            words: words.to_owned(),
        };
        Some(vec![
            done(Action::Create(SCRATCH.to_owned())),
            Step {
                action: Action::Load(SCRATCH.to_owned(), table),
                want: Want::Refused,
            },
            done(Action::Remove(SCRATCH.to_owned())),
        ])
    }
}

pub(super) fn done(action: Action) -> Step {
    let want = Want::Done;
    Step { action, want }
}

fn suspend(name: &str) -> Action {
    Action::Suspend {
        name: name.to_owned(),
        noflush: false,
    }
}

fn create(name: &str, table: Table) -> Vec<Step> {
    vec![
        done(Action::Create(name.to_owned())),
        done(Action::Load(name.to_owned(), table)),
        done(Action::Resume(name.to_owned())),
    ]
}

fn reload(name: &str, table: Table, is_suspended: bool) -> Vec<Step> {
    let mut steps = vec![done(Action::Load(name.to_owned(), table))];
    if !is_suspended {
        steps.push(done(suspend(name)));
    }
    steps.push(done(Action::Resume(name.to_owned())));
    steps
}
