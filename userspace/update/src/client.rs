// SPDX-License-Identifier: GPL-2.0-or-later

//! The steps of an update. Each can be interrupted at any point and done again.

use crate::error::Error;
use crate::error::Result;
use crate::fetch;
use crate::fetch::fetch;
use crate::fetch::Fetched;
use crate::source::Mirrors;
use crate::stage;
use crate::stage::Mended;
use crate::state::Phase;
use crate::state::State;
use crate::state::Version;
use crate::Watch;
use dmholey_cow::apply;
use dmholey_cow::disk::Access;
use dmholey_cow::format::SECTOR_SIZE;
use dmholey_cow::output;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use dmholey_cow::Kind;
use dmholey_cow::Progress;
use dmholey_cow::Stack;
use dmholey_cow::Store;
use dmholey_delta::delta::Plan as Changes;
use dmholey_delta::digest;
use dmholey_delta::Delta;
use dmholey_repository::catalog;
use dmholey_repository::manifest::EMPTY;
use dmholey_repository::Catalog;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

/// The folder of what was believed, beside the state.
pub const TRUST: &str = "trust";

/// A client: the disk that it keeps up to date, and a folder for what it has to remember.
#[derive(Debug)]
pub struct Client {
    dir: PathBuf,
    disk: PathBuf,
    state: State,
    _lock: File,
}

/// What a pull did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pulled {
    /// The version that is staged or there already.
    pub version: u64,
    /// The versions that deltas start from, one after the other. Empty if there was nothing to do.
    pub steps: Vec<u64>,
    /// Bytes that came from a mirror.
    pub fetched: u64,
    /// Bytes that an earlier, interrupted run had fetched.
    pub found: u64,
}

/// What a repair did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// The version that the disk is then.
    pub version: u64,
    /// Blocks that were not what they should be.
    pub blocks: u64,
    /// Bytes that came from a mirror.
    pub fetched: u64,
}

impl Repaired {
    fn of(version: Version, mended: Mended) -> Self {
        Self {
            version: version.number,
            blocks: mended.blocks,
            fetched: mended.fetched,
        }
    }
}

/// A disk beside the version that it is to be.
struct Compared<'a> {
    disk: Device,
    /// What makes the version out of nothing.
    delta: &'a catalog::Delta,
    version: Version,
    differences: Changes,
}

/// What would bring the disk to a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What it is, if that is known.
    pub installed: Option<Version>,
    /// What it would be.
    pub target: Version,
    /// The deltas that lead there, from what is installed or from the empty image; none if there is no way,
    /// or if nobody knows from where.
    pub way: Option<Vec<catalog::Delta>>,
}

impl Plan {
    /// Whether there is anything to do.
    pub fn is_done(&self) -> bool {
        self.installed == Some(self.target)
    }

    /// Bytes to fetch, if there is a way.
    pub fn bytes(&self) -> Option<u64> {
        let way = self.way.as_ref()?;
        Some(way.iter().map(|delta| delta.bytes).sum())
    }
}

impl Client {
    /// What is remembered in `dir`, also while an update is running there.
    pub fn look(dir: &Path) -> Result<State> {
        State::load(&dir.join("state.json"))
    }

    /// Opens the client in `dir`, alone. `disk` is what it keeps up to date.
    pub fn open(dir: &Path, disk: &Path) -> Result<Self> {
        let deltas = dir.join("deltas");
        std::fs::create_dir_all(&deltas).map_err(|e| Error::path("make the folder", &deltas, e))?;
        let lock = dir.join("lock");
        let file = File::create(&lock).map_err(|e| Error::path("open", &lock, e))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let why = "in use: another update is running; wait for it to end";
                return Err(Error::refused(dir.display(), why));
            }
            Err(e) => return Err(Error::path("lock", &lock, e.into())),
        }
        remove_leftovers(dir)?;
        remove_leftovers(&dir.join(TRUST))?;
        Ok(Self {
            state: Self::look(dir)?,
            dir: dir.to_owned(),
            disk: disk.to_owned(),
            _lock: file,
        })
    }

    /// What it keeps up to date.
    pub fn disk(&self) -> &Path {
        &self.disk
    }

    /// What was done.
    pub fn state(&self) -> State {
        self.state
    }

    /// The folder of what was fetched.
    fn deltas(&self) -> PathBuf {
        self.dir.join("deltas")
    }

    /// The store that makes the new version.
    pub fn staged(&self) -> PathBuf {
        self.dir.join("staged.cow")
    }

    /// The store that brings the disk back.
    pub fn back(&self) -> PathBuf {
        self.dir.join("back.cow")
    }

    /// Finds out which version the disk is, by its digest.
    pub fn identify(&mut self, catalog: &Catalog, watch: Watch<'_>) -> Result<Version> {
        self.expect(&[Phase::Idle], "find out what the disk is")?;
        let disk = Device::open(&self.disk, Access::Read)?;
        let sizes: BTreeSet<u64> = catalog.versions.iter().map(|v| v.bytes).collect();
        for bytes in sizes.into_iter().filter(|&bytes| bytes <= disk.size()) {
            let image = Stack::<_, Device>::new(&disk, bytes);
            let digest = digest::image(&image, &*watch("reading the disk"))?;
            let mut same = catalog.versions.iter().rev();
            if let Some(version) = same.find(|v| v.bytes == bytes && v.digest == digest) {
                let version = of(version);
                self.save(State {
                    installed: Some(version),
                    ..self.state
                })?;
                return Ok(version);
            }
        }
        let why = "is no version that is published; 'update repair' makes it one";
        Err(Error::refused(disk.name(), why))
    }

    /// What would bring the disk to version `to`, or to the newest one if that is newer than what is installed.
    /// Nothing is changed, and nobody asked.
    pub fn plan(&self, catalog: &Catalog, to: Option<u64>) -> Result<Plan> {
        let target = match to {
            Some(number) => catalog.version(number),
            None => catalog.last(),
        };
        let name = to.map_or_else(|| "no version".to_owned(), |to| format!("no version {to}"));
        let why = || Error::refused("the catalog", format!("has {name}"));
        let mut target = of(target.ok_or_else(why)?);
        let installed = self.state.installed;
        // An older version is taken only if somebody asks for it.
        if let (None, Some(installed)) = (to, installed) {
            if target.number < installed.number {
                target = installed;
            }
        }
        let way = match installed {
            Some(installed) => catalog.cheapest(installed.number, target.number),
            None => None,
        };
        Ok(Plan {
            installed,
            target,
            way,
        })
    }

    /// Fetches what brings the disk to version `to`, or to the newest one if that is newer, the cheapest way, and
    /// makes the store of it. The disk is only read. If it is not the version that was known, it is looked at which
    /// it is.
    pub fn pull(
        &mut self,
        mirrors: &Mirrors,
        catalog: &Catalog,
        to: Option<u64>,
        watch: Watch<'_>,
    ) -> Result<Pulled> {
        self.expect(&[Phase::Idle, Phase::Staged], "fetch another version")?;
        if self.state.installed.is_none() {
            self.identify(catalog, watch)?;
        }
        let plan = self.plan(catalog, to)?;
        let installed = plan.installed;
        match self.pull_known(mirrors, plan, watch) {
            // It may have been made another version by somebody else.
            Err(error) if error.is_drift() => match self.identify(catalog, watch) {
                Ok(found) if Some(found) != installed => {
                    self.pull_known(mirrors, self.plan(catalog, to)?, watch)
                }
                Err(e) if e.kind() == Kind::Interrupted => Err(e),
                Ok(_) | Err(_) => Err(error),
            },
            other => other,
        }
    }

    /// The same, of a disk that is the version that is known, or nothing comes of it.
    fn pull_known(&mut self, mirrors: &Mirrors, plan: Plan, watch: Watch<'_>) -> Result<Pulled> {
        let Plan {
            installed,
            target,
            way,
        } = plan;
        let mut pulled = Pulled {
            version: target.number,
            ..Pulled::default()
        };
        let staged = self.state.phase == Phase::Staged && self.state.target == Some(target);
        if staged || installed == Some(target) {
            return Ok(pulled);
        }
        let disk = Device::open(&self.disk, Access::Read)?;
        stage::check_size(&disk, target.bytes)?;
        let way = way.ok_or_else(|| {
            let from = installed.map_or(EMPTY, |installed| installed.number);
            let why = format!(
                "has no way from version {from} to version {}: neither deltas nor a whole image",
                target.number
            );
            Error::refused("the catalog", why)
        })?;
        // Of versions that came and went while nobody applied them.
        self.keep_deltas(&way)?;
        let there = installed.map_or(0, |installed| installed.bytes);
        let heads = self.check_room(mirrors, &way, there)?;
        let deltas = self.fetch(mirrors, &way, "fetching", &mut pulled, watch)?;
        // What came for looking at the room was there afterwards.
        pulled.fetched += heads.fetched;
        pulled.found = pulled.found.saturating_sub(heads.fetched);
        pulled.steps = way.iter().map(|delta| delta.from).collect();
        // What was staged before is good for something up to here.
        self.discard()?;
        let stage =
            |deltas: &[_]| stage::stage(&disk, deltas, target.digest, &self.staged(), watch);
        match stage(&deltas) {
            // A delta that was kept may have suffered since.
            Err(error) if error.kind() == Kind::Store && self.doubt(&way)? => {
                let what = "fetching what was damaged since of";
                stage(&self.fetch(mirrors, &way, what, &mut pulled, watch)?)?;
            }
            other => other?,
        }
        self.save(State {
            target: Some(target),
            phase: Phase::Staged,
            refused: self.state.refused.filter(|refused| *refused != target),
            ..self.state
        })?;
        Ok(pulled)
    }

    /// Makes everything ready for the store to get into the disk: the way back is durable, and from here on
    /// the disk may be something between. Returns where the store is. A disk that would not become that version, since
    /// it was written to or is another one, is refused, also when an apply goes on that was interrupted. Not to be called
    /// while the kernel merges.
    pub fn begin(&mut self, watch: Watch<'_>) -> Result<PathBuf> {
        self.expect(&[Phase::Staged, Phase::Applying], "apply anything")?;
        self.expect_shows(Some(&self.staged()), watch)?;
        if self.state.phase == Phase::Staged {
            let disk = Device::open(&self.disk, Access::Read)?;
            let store = Store::open(Device::open(&self.staged(), Access::Read)?)?;
            stage::way_back(&disk, store, &self.back(), &*watch("keeping the way back"))?;
            self.set(Phase::Applying)?;
        }
        Ok(self.staged())
    }

    /// The store is in the disk, all of it and durably.
    pub fn applied(&mut self) -> Result<()> {
        self.expect(&[Phase::Applying], "say that something was applied")?;
        self.set(Phase::Applied)
    }

    /// Copies the store into a disk that nobody uses.
    pub fn apply(&mut self, watch: Watch<'_>) -> Result<apply::Applied> {
        // That nobody uses it is found out first.
        let disk = Device::open(&self.disk, Access::Write)?;
        let path = self.begin(watch)?;
        let applied = copy(&path, &disk, &*watch("applying"))?;
        self.applied()?;
        Ok(applied)
    }

    /// Whether the disk may be something else than what it was when the update began.
    pub fn is_touched(&self) -> bool {
        !matches!(self.state.phase, Phase::Idle | Phase::Staged)
    }

    /// Makes everything ready for the way back to get into the disk. Returns where that store is. A disk that was written
    /// to since the version was applied would not become what it was, and is refused.
    pub fn begin_back(&mut self, watch: Watch<'_>) -> Result<PathBuf> {
        let before_commit = [Phase::Applying, Phase::Applied, Phase::RollingBack];
        self.expect(&before_commit, "roll back")?;
        if self.state.phase == Phase::Applied {
            self.expect_shows(None, watch)?;
        }
        self.set(Phase::RollingBack)?;
        Ok(self.back())
    }

    /// The way back is in the disk, all of it and durably.
    pub fn is_back(&mut self) -> Result<()> {
        self.expect(&[Phase::RollingBack], "say that something was rolled back")?;
        self.refuse()
    }

    /// Brings the disk back to what it was: drops what is staged, or copies the way back into a disk that nobody uses.
    pub fn roll_back(&mut self, watch: Watch<'_>) -> Result<()> {
        if self.state.phase == Phase::Staged {
            return self.refuse();
        }
        // That nobody uses it is found out first.
        let disk = Device::open(&self.disk, Access::Write)?;
        let path = self.begin_back(watch)?;
        copy(&path, &disk, &*watch("rolling back"))?;
        self.is_back()
    }

    /// Keeps the new version: there is no way back from here.
    pub fn commit(&mut self) -> Result<()> {
        self.expect(&[Phase::Applied], "commit anything")?;
        self.state.installed = self.state.target;
        self.state.refused = None;
        self.discard()?;
        self.keep_deltas(&[])
    }

    /// Whether a repair that was interrupted goes on from its store, for which nobody has to be asked. One that makes
    /// another version than `to` has to end first.
    pub fn repair_goes_on(&self, to: Option<u64>) -> Result<bool> {
        let target = self.state.target.map(|target| target.number);
        if self.state.phase != Phase::Repairing || !self.staged().exists() {
            return Ok(false);
        }
        match (to, target) {
            (Some(to), Some(target)) if to != target => {
                let why = format!("is being made version {target}: repair it to the end first");
                Err(Error::refused(self.disk.display(), why))
            }
            _ => Ok(true),
        }
    }

    /// What makes the disk version `to`, or the one that it should be, or the newest one if nobody knows.
    fn to_repair<'a>(
        &self,
        catalog: &'a Catalog,
        to: Option<u64>,
    ) -> Result<(&'a catalog::Delta, Version)> {
        let should = match self.state.phase {
            Phase::Applying | Phase::Applied | Phase::Repairing => self.state.target,
            Phase::Idle | Phase::Staged | Phase::RollingBack => self.state.installed,
        };
        let whole = |number: u64| {
            let is_that = |d: &&catalog::Delta| (d.from, d.to) == (EMPTY, number);
            let delta = catalog.deltas.iter().find(is_that)?;
            Some((delta, of(catalog.version(number)?)))
        };
        let number = to.or(should.map(|version| version.number));
        // A disk that is between versions is none: nothing is lost if the one that it was to be is withdrawn.
        let is_open = to.is_none() && self.is_touched();
        let last = catalog.last().map(|version| version.number);
        let last = last.filter(|_| number.is_none() || is_open);
        let found = number.and_then(whole).or_else(|| last.and_then(whole));
        found.ok_or_else(|| {
            let number = number.map_or_else(|| "any version".into(), |n| format!("version {n}"));
            let why = format!("has no whole image of {number}; --to names another version");
            Error::refused("the catalog", why)
        })
    }

    /// Finds out what of the disk is not the version that [`Self::to_repair`] chooses, and forgets what else was going on.
    fn compare<'a>(
        &mut self,
        access: Access,
        mirrors: &Mirrors,
        catalog: &'a Catalog,
        to: Option<u64>,
        watch: Watch<'_>,
    ) -> Result<Compared<'a>> {
        let phases = [Phase::Idle, Phase::Staged, Phase::Repairing];
        self.expect(&phases, "repair the disk")?;
        self.repair_goes_on(to)?;
        let (delta, version) = self.to_repair(catalog, to)?;
        let disk = Device::open(&self.disk, access)?;
        let whole = fetch::plan(mirrors, delta, &self.deltas(), &mut Fetched::default())?;
        if self.state.phase == Phase::Repairing {
            // A store that is there from now on makes this version.
            self.repairing(version)?;
        } else {
            self.discard()?;
        }
        let differences = stage::differences(&disk, &whole, &*watch("comparing"))?;
        Ok(Compared {
            disk,
            delta,
            version,
            differences,
        })
    }

    /// Makes a disk that nobody uses that version, whatever it is now, and fetches only what differs. It is written in
    /// place, which needs no room.
    pub fn repair(
        &mut self,
        mirrors: &Mirrors,
        catalog: &Catalog,
        to: Option<u64>,
        watch: Watch<'_>,
    ) -> Result<Repaired> {
        let Compared {
            disk,
            delta,
            version,
            differences,
        } = self.compare(Access::Write, mirrors, catalog, to, watch)?;
        self.repairing(version)?;
        let file = fetch::name(delta);
        let watch = watch("mending");
        let mended = stage::mend(&disk, mirrors, &file, &differences, &*watch)?;
        self.repaired()?;
        Ok(Repaired::of(version, mended))
    }

    /// Makes everything ready to repair a disk that is in use: the store of what differs, checked, is in
    /// [`Client::staged`], and from here on the disk may be something between. Only what differs is fetched. If nothing
    /// differs there is no store, and the repair is at its end.
    pub fn begin_repair(
        &mut self,
        mirrors: &Mirrors,
        catalog: &Catalog,
        to: Option<u64>,
        watch: Watch<'_>,
    ) -> Result<Repaired> {
        let Compared {
            disk,
            delta,
            version,
            differences,
        } = self.compare(Access::Read, mirrors, catalog, to, watch)?;
        if differences.index.targets().next().is_none() {
            self.repairing(version)?;
            self.repaired()?;
            return Ok(Repaired::of(version, Mended::default()));
        }
        let file = fetch::sparse(delta, &self.deltas())?;
        let missing = fetch::missing_of(&differences.index.units, &file)?;
        let stores = stage::room(std::slice::from_ref(&differences), version.bytes)?;
        self.expect_room("a repair", missing.saturating_add(stores))?;
        let fetching = watch("fetching what differs");
        let (changes, sum) = fetch::fetch_some(mirrors, delta, differences, file, &*fetching)?;
        drop(fetching);
        let staged = self.staged();
        stage::stage(&disk, &[changes], version.digest, &staged, watch).map_err(|error| {
            if !error.is_drift() {
                return error;
            }
            let why = format!(
                "would not become version {}: it was written to while it was compared; nothing was changed; \
                 repair it again",
                version.number
            );
            Error::refused(disk.name(), why)
        })?;
        let store = Store::open(Device::open(&staged, Access::Read)?)?;
        let blocks = store.survey()?.exceptions;
        self.repairing(version)?;
        if blocks == 0 {
            // Somebody else has put it right meanwhile.
            self.repaired()?;
        }
        let fetched = sum.fetched;
        Ok(Repaired::of(version, Mended { blocks, fetched }))
    }

    /// Copies the store of a repair that was begun into a disk that nobody uses.
    pub fn end_repair(&mut self, watch: Watch<'_>) -> Result<apply::Applied> {
        let disk = Device::open(&self.disk, Access::Write)?;
        self.expect_mended(watch)?;
        let applied = copy(&self.staged(), &disk, &*watch("mending"))?;
        self.repaired()?;
        Ok(applied)
    }

    /// Fails if the store of a repair that was begun would not make the disk that version, as in [`Self::begin`].
    pub fn expect_mended(&self, watch: Watch<'_>) -> Result<()> {
        self.expect(&[Phase::Repairing], "go on with a repair")?;
        self.expect_shows(Some(&self.staged()), watch)
    }

    /// Fails if the disk, with what is left of a store over it, does not show the version that it is to become or has
    /// become: it was written to since, or is another one.
    fn expect_shows(&self, store: Option<&Path>, watch: Watch<'_>) -> Result<()> {
        let Some(Version { bytes, digest, .. }) = self.state.target else {
            return Ok(());
        };
        let disk = Device::open(&self.disk, Access::Read)?;
        let watch = watch("checking the disk");
        stage::check(&disk, store, bytes, digest, &*watch).map_err(|error| {
            if !error.is_drift() || !self.is_touched() {
                return error;
            }
            let why = "is not the disk that this was begun with, or was written to since; nothing was changed; \
                       'update repair --afresh' makes it a version";
            Error::refused(disk.name(), why)
        })
    }

    /// What differed is in the disk, all of it and durably.
    pub fn repaired(&mut self) -> Result<()> {
        self.expect(&[Phase::Repairing], "say that the disk was repaired")?;
        self.state.installed = self.state.target;
        self.discard()?;
        self.keep_deltas(&[])
    }

    /// Fails if the disk could not be repaired after [`Self::begin_afresh`].
    pub fn expect_repair(
        &self,
        mirrors: &Mirrors,
        catalog: &Catalog,
        to: Option<u64>,
    ) -> Result<()> {
        let (delta, version) = self.to_repair(catalog, to)?;
        stage::check_size(&Device::open(&self.disk, Access::Read)?, version.bytes)?;
        fetch::plan(mirrors, delta, &self.deltas(), &mut Fetched::default())?;
        Ok(())
    }

    /// Gives up whatever goes on with the disk, because what it needs is damaged. The disk is no known version then, and
    /// [`Self::repair`] or [`Self::begin_repair`] makes one of it, by default the one that it was on the way to.
    pub fn begin_afresh(&mut self) -> Result<()> {
        let State {
            installed,
            target,
            refused,
            ..
        } = self.state;
        let (target, refused) = match self.state.phase {
            Phase::Idle => return Ok(()),
            Phase::Staged => return self.discard(),
            Phase::RollingBack => (installed, target),
            Phase::Applying | Phase::Applied | Phase::Repairing => (target, refused),
        };
        // A store that is there while the disk is being repaired would be taken for one that mends it.
        self.remove_stores()?;
        self.save(State {
            target,
            phase: Phase::Repairing,
            refused: refused.filter(|refused| Some(*refused) != target),
            ..State::default()
        })
    }

    /// From here on the disk is what it was no longer, and not that version yet.
    fn repairing(&mut self, version: Version) -> Result<()> {
        self.save(State {
            target: Some(version),
            phase: Phase::Repairing,
            refused: self.state.refused.filter(|refused| *refused != version),
            ..State::default()
        })
    }

    /// Whether there is room for all that an update makes: the deltas, the store of each step, the staged store and
    /// the way back. What a delta changes is in its index, which is fetched for that.
    fn check_room(&self, mirrors: &Mirrors, way: &[catalog::Delta], there: u64) -> Result<Fetched> {
        let dir = self.deltas();
        let mut heads = Fetched::default();
        let (mut need, mut plans) = (0u64, Vec::new());
        for delta in way {
            plans.push(fetch::plan(mirrors, delta, &dir, &mut heads)?);
            need = need.saturating_add(fetch::missing(delta, &dir)?);
        }
        need = need.saturating_add(stage::room(&plans, there)?);
        self.expect_room("an update", need)?;
        Ok(heads)
    }

    fn expect_room(&self, what: &str, need: u64) -> Result<()> {
        let fail = |e: Errno| Error::path("look at", &self.dir, e.into());
        let room = rustix::fs::statvfs(&self.dir).map_err(fail)?;
        let room = room.f_bavail.saturating_mul(room.f_frsize);
        // It goes before the next store is made.
        let staged = std::fs::metadata(self.staged()).map_or(0, |meta| meta.blocks() * SECTOR_SIZE);
        let room = room.saturating_add(staged);
        if need > room {
            let why = format!("{what} needs {need} bytes here, and there is room for {room}");
            return Err(Error::refused(self.dir.display(), why));
        }
        Ok(())
    }

    /// Gets these deltas, as far as they are not there.
    fn fetch(
        &self,
        mirrors: &Mirrors,
        way: &[catalog::Delta],
        what: &str,
        pulled: &mut Pulled,
        watch: Watch<'_>,
    ) -> Result<Vec<Delta<Device>>> {
        let dir = self.deltas();
        let mut deltas = Vec::new();
        for delta in way {
            let title = format!("{what} the delta from {} to {}", delta.from, delta.to);
            let (delta, sum) = fetch(mirrors, delta, &dir, &*watch(&title))?;
            pulled.fetched += sum.fetched;
            pulled.found += sum.found;
            deltas.push(delta);
        }
        Ok(deltas)
    }

    /// Looks at all of these deltas. Returns whether something of them has to be fetched again.
    fn doubt(&self, way: &[catalog::Delta]) -> Result<bool> {
        let dir = self.deltas();
        let mut damaged = false;
        for delta in way {
            damaged |= fetch::doubt(delta, &dir)?;
        }
        Ok(damaged)
    }

    /// Drops what was fetched, but not what there is of these deltas.
    fn keep_deltas(&self, way: &[catalog::Delta]) -> Result<()> {
        let deltas = self.deltas();
        let kept: Vec<_> = way.iter().flat_map(|d| fetch::files(&deltas, d)).collect();
        let fail = |e| Error::path("empty", &deltas, e);
        for entry in std::fs::read_dir(&deltas).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if !kept.contains(&path) {
                std::fs::remove_file(path).map_err(fail)?;
            }
        }
        Ok(())
    }

    /// Forgets the update, but not that it was not wanted.
    fn refuse(&mut self) -> Result<()> {
        self.state.refused = self.state.target;
        self.discard()
    }

    /// Forgets the update, and removes what it needed.
    fn discard(&mut self) -> Result<()> {
        self.save(State {
            installed: self.state.installed,
            refused: self.state.refused,
            ..State::default()
        })?;
        self.remove_stores()
    }

    fn remove_stores(&self) -> Result<()> {
        for path in [self.staged(), self.back()] {
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::path("remove", &path, e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn set(&mut self, phase: Phase) -> Result<()> {
        self.save(State {
            phase,
            ..self.state
        })
    }

    fn save(&mut self, state: State) -> Result<()> {
        state.save(&self.dir.join("state.json"))?;
        self.state = state;
        Ok(())
    }

    fn expect(&self, phases: &[Phase], what: &str) -> Result<()> {
        if phases.contains(&self.state.phase) {
            return Ok(());
        }
        let now = match self.state.phase {
            Phase::Idle => "nothing was pulled",
            Phase::Staged => "a version is staged; apply it or roll back",
            Phase::Applying => "a version is being applied; apply or roll back to the end",
            Phase::Applied => "a version was applied; commit it or roll back",
            Phase::RollingBack => "a version is being rolled back; do that to the end",
            Phase::Repairing => "the disk is being repaired; do that to the end",
        };
        let why = format!("cannot {what} now: {now}");
        Err(Error::refused(self.disk.display(), why))
    }
}

/// Removes what a power cut has left in a folder: files that were not complete, and folders that were worked in.
fn remove_leftovers(dir: &Path) -> Result<()> {
    let fail = |e| Error::path("read", dir, e);
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(fail)?,
    };
    for entry in entries {
        let entry = entry.map_err(fail)?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let is_dir = entry.file_type().map_err(fail)?.is_dir();
        // As the library calls them that makes folders for a while.
        let scratch = name.strip_prefix(".tmp").is_some_and(|random| {
            !random.is_empty() && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
        });
        let removed = if is_dir && scratch {
            std::fs::remove_dir_all(&path)
        } else if !is_dir && output::meant(&name).is_some() {
            std::fs::remove_file(&path)
        } else {
            Ok(())
        };
        removed.map_err(|e| Error::path("remove", &path, e))?;
    }
    Ok(())
}

fn of(version: &catalog::Version) -> Version {
    Version {
        number: version.number,
        bytes: version.bytes,
        digest: version.digest,
    }
}

/// Copies a store, which is empty after that, as after a merge in the kernel. Interrupted, it has what is left.
fn copy(store: &Path, disk: &Device, watch: &dyn Progress) -> Result<apply::Applied> {
    let mut store = Store::open(Device::open(store, Access::Write)?)?;
    Ok(apply::merge(&mut store, disk, watch)?)
}
