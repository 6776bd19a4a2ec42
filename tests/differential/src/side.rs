// SPDX-License-Identifier: GPL-2.0-or-later

//! One of the two sides: its devices, what is done to them, and what they show.

use crate::action::Action;
use crate::action::Content;
use crate::action::Outcome;
use crate::action::Part;
use crate::action::Seen;
use crate::action::Step;
use crate::action::Table;
use crate::action::Target;
use crate::action::Want;
use crate::action::Write;
use crate::blockio::Block;
use crate::blockio::Buffer;
use crate::data;
use crate::data::Tag;
use crate::data::SECTOR;
use crate::model::is_volume;
use crate::model::Model;
use crate::observe::limits;
use crate::observe::Observation;
use crate::observe::Reading;
use crate::sabotage::Sabotage;
use crate::view::View;
use anyhow::anyhow;
use anyhow::Context;
use dmholey::dm::ioctl::Dm;
use dmholey::dm::status::State;
use dmholey::dm::table::target_name;
use dmholey::dm::table::Family;
use dmholey::dm::DevNum;
use dmholey::dm::Error;
use dmholey::dm::Kernel;
use dmholey::dm::Line;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// Time between two looks at a merge.
const POLL: Duration = Duration::from_millis(1);
/// A merge of so little data that takes longer is one that hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// So often a device is tried to be removed.
const TRIES: usize = 100;

/// One side.
#[derive(Debug)]
pub(crate) struct Side {
    family: Family,
    dm: Dm,
    pool: DevNum,
    /// Devices in the order in which they were made.
    devices: Vec<(String, DevNum)>,
    open: BTreeMap<String, Block>,
    buffer: Buffer,
    sabotage: Option<Sabotage>,
}

impl Side {
    pub(crate) fn new(
        family: Family,
        pool: DevNum,
        sabotage: Option<Sabotage>,
    ) -> anyhow::Result<Self> {
        let mut side = Self {
            family,
            dm: Dm::open()?,
            pool,
            devices: Vec::new(),
            open: BTreeMap::new(),
            buffer: Buffer::new(0),
            sabotage,
        };
        side.tear_down()?;
        Ok(side)
    }

    /// What the names of all its devices begin with.
    fn prefix(&self) -> &'static str {
        match self.family {
            Family::Stock => "diff-stock-",
            Family::Holey => "diff-holey-",
        }
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix())
    }

    /// Makes fresh volumes, or gives those there are fresh content.
    pub(crate) fn set_up(&mut self, model: &Model) -> anyhow::Result<()> {
        for (name, table, tag) in model.volumes() {
            let failed = || format!("cannot make volume {name}");
            if self.number(&name).is_err() {
                self.create(&name).with_context(failed)?;
            }
            self.load(&name, &table).with_context(failed)?;
            self.dm.resume(&self.full(&name)).with_context(failed)?;
            let mut content = Buffer::new(table.len as usize * SECTOR);
            data::fill_into(tag, 0, &mut content);
            if tag != Tag::ORIGIN {
                // No store.
                let start = content.len().min(8 * SECTOR);
                content[..start].fill(0);
            }
            self.device(&name)
                .and_then(|device| device.write(0, &content, false))
                .with_context(failed)?;
        }
        Ok(())
    }

    /// Removes all devices but the volumes.
    pub(crate) fn tidy_up(&mut self) -> anyhow::Result<()> {
        self.open.clear();
        let names = self.devices.iter().rev().map(|(name, _)| name.clone());
        let names: Vec<String> = names.filter(|name| !is_volume(name)).collect();
        self.devices.retain(|(name, _)| is_volume(name));
        self.remove_all(names.iter().map(|name| self.full(name)).collect())
    }

    /// Removes all devices, also those that a run before this one has left.
    fn tear_down(&mut self) -> anyhow::Result<()> {
        self.tidy_up()?;
        self.devices.clear();
        let all = self.dm.devices()?.into_iter().map(|(name, _)| name);
        let (volumes, mut names): (Vec<_>, Vec<_>) = all
            .filter(|name| name.starts_with(self.prefix()))
            .partition(|name| is_volume(name.trim_start_matches(self.prefix())));
        names.extend(volumes);
        self.remove_all(names)
    }

    /// Removes devices, those that others lie on when these are gone.
    fn remove_all(&self, mut names: Vec<String>) -> anyhow::Result<()> {
        for _ in 0..TRIES {
            names.retain(|name| {
                !matches!(
                    self.dm.remove(name, false),
                    Ok(()) | Err(Error::NoDevice(_))
                )
            });
            if names.is_empty() {
                return Ok(());
            }
            thread::sleep(POLL);
        }
        Err(anyhow!(
            "devices that cannot be removed: {}",
            names.join(" ")
        ))
    }

    fn create(&mut self, name: &str) -> Result<(), Error> {
        let number = self.dm.create(&self.full(name), "")?;
        self.devices.push((name.to_owned(), number));
        Ok(())
    }

    fn load(&self, name: &str, table: &Table) -> Result<(), Error> {
        let target = match table.target {
            Target::Linear => "linear",
            Target::Error => "error",
            Target::Role(role) => target_name(role, self.family),
        };
        let mut params = table.words.replace("{pool}", &self.pool.to_string());
        for (name, number) in &self.devices {
            params = params.replace(&format!("{{{name}}}"), &number.to_string());
        }
        let line = Line {
            start: 0,
            len: table.len,
            target: target.to_owned(),
            params,
        };
        self.dm.load(&self.full(name), &line)
    }

    fn remove(&mut self, name: &str) -> Result<(), Error> {
        self.open.remove(name);
        self.dm.remove(&self.full(name), false)?;
        self.devices.retain(|(known, _)| known != name);
        Ok(())
    }

    fn number(&self, name: &str) -> Result<DevNum, Errno> {
        let found = self.devices.iter().find(|(known, _)| known == name);
        found.map(|&(_, number)| number).ok_or(Errno::NODEV)
    }

    /// The device, opened if it was not.
    fn device(&mut self, name: &str) -> Result<&Block, Errno> {
        if !self.open.contains_key(name) {
            let minor = self.number(name)?.minor;
            let block = Block::open(&PathBuf::from(format!("/dev/dm-{minor}")))?;
            self.open.insert(name.to_owned(), block);
        }
        self.open.get(name).ok_or(Errno::NODEV)
    }

    /// Does it all.
    pub(crate) fn perform(&mut self, steps: &[Step]) -> Vec<Outcome> {
        steps.iter().map(|step| self.act(step)).collect()
    }

    fn act(&mut self, step: &Step) -> Outcome {
        let outcome = match &step.action {
            Action::Create(name) => of_dm(self.create(name)),
            Action::Load(name, table) => of_dm(self.load(name, table)),
            Action::Resume(name) => of_dm(self.dm.resume(&self.full(name))),
            Action::Suspend { name, noflush } => of_dm(self.dm.suspend(&self.full(name), *noflush)),
            Action::Remove(name) => of_dm(self.remove(name)),
            Action::Write { write, fua } => of_io(self.write(write, *fua)),
            Action::Burst(writes) => of_io(self.burst(writes)),
            Action::Read { name, sector, want } => match self.read(name, *sector, want.len()) {
                Err(errno) => Outcome::Failed(errno),
                Ok(()) => match data::difference(&self.buffer, want, *sector) {
                    Some(text) if matches!(step.want, Want::Done) => Outcome::Wrong(text),
                    _ => Outcome::Done,
                },
            },
            Action::Zero {
                name,
                sector,
                count,
            } => of_io(self.device(name).and_then(|dev| dev.zero(*sector, *count))),
            Action::Discard {
                name,
                sector,
                count,
            } => of_io(
                self.device(name)
                    .and_then(|dev| dev.discard(*sector, *count)),
            ),
            Action::Flush(name) => of_io(self.device(name).and_then(Block::flush)),
            Action::AwaitMerge(name) => self.await_merge(name),
        };
        match self.sabotage {
            Some(sabotage) => sabotage.outcome(step, outcome),
            None => outcome,
        }
    }

    fn write(&mut self, write: &Write, fua: bool) -> Result<(), Errno> {
        let mut buffer = Buffer::new(write.count as usize * SECTOR);
        data::fill_into(write.tag, write.sector, &mut buffer);
        if let Some(sabotage) = self.sabotage {
            sabotage.data(write, &mut buffer);
        }
        self.device(&write.name)?.write(write.sector, &buffer, fua)
    }

    /// Writes at the same time.
    fn burst(&mut self, writes: &[Write]) -> Result<(), Errno> {
        for write in writes {
            self.device(&write.name)?;
        }
        let open = &self.open;
        let one = |write: &Write| {
            let mut buffer = Buffer::new(write.count as usize * SECTOR);
            data::fill_into(write.tag, write.sector, &mut buffer);
            let device = open.get(&write.name).ok_or(Errno::NODEV)?;
            device.write(write.sector, &buffer, false)
        };
        thread::scope(|scope| {
            let threads: Vec<_> = writes
                .iter()
                .map(|write| scope.spawn(move || one(write)))
                .collect();
            let ends = threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or(Err(Errno::FAULT)));
            // All of them have to come to their end.
            ends.fold(Ok(()), Result::and)
        })
    }

    fn read(&mut self, name: &str, sector: u64, bytes: usize) -> Result<(), Errno> {
        let mut buffer = std::mem::replace(&mut self.buffer, Buffer::new(0));
        buffer.resize(bytes);
        let result = self
            .device(name)
            .and_then(|dev| dev.read(sector, &mut buffer));
        self.buffer = buffer;
        result
    }

    fn await_merge(&self, name: &str) -> Outcome {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = match self.status(name) {
                Ok(status) => status,
                Err(e) => return of_dm(Err(e)),
            };
            match State::parse(&status) {
                Some(state) if state.is_merged() => return Outcome::Done,
                Some(State::Ok(_)) if Instant::now() < end => thread::sleep(POLL),
                _ => {
                    return Outcome::Wrong(format!(
                        "the merge does not end, its status is '{status}'"
                    ))
                }
            }
        }
    }

    fn status(&self, name: &str) -> Result<String, Error> {
        let lines = self.dm.status(&self.full(name))?;
        Ok(lines.into_iter().next().unwrap_or_else(nothing).params)
    }

    fn table(&self, name: &str) -> Result<String, Error> {
        let lines = self.dm.table(&self.full(name))?;
        let words = lines.into_iter().next().unwrap_or_else(nothing).params;
        let word = |word: &str| {
            let number = word.parse().ok()?;
            let found = self.devices.iter().find(|device| device.1 == number)?;
            Some(format!("{{{}}}", found.0))
        };
        let words = words
            .split(' ')
            .map(|w| word(w).unwrap_or_else(|| w.to_owned()));
        Ok(words.collect::<Vec<_>>().join(" "))
    }

    /// What the devices show.
    pub(crate) fn observe(
        &mut self,
        views: &[Seen],
        part: Part,
        with_limits: bool,
    ) -> Vec<Result<Observation, String>> {
        let all = views.iter().map(|seen| {
            self.look(seen, part, with_limits)
                .map_err(|e| format!("{:#}", anyhow::Error::new(e)))
        });
        all.collect()
    }

    fn look(&mut self, seen: &Seen, part: Part, with_limits: bool) -> Result<Observation, Error> {
        let info = self.dm.info(&self.full(&seen.name))?;
        let status = self.status(&seen.name)?;
        let table = self.table(&seen.name)?;
        let content = self.compare(seen, part);
        Ok(Observation {
            content,
            status: match self.sabotage {
                Some(sabotage) => sabotage.status(status),
                None => status,
            },
            table,
            suspended: info.suspended,
            inactive: info.inactive,
            events: info.events,
            limits: match with_limits {
                true => limits(info.number.minor),
                false => Vec::new(),
            },
        })
    }

    fn compare(&mut self, seen: &Seen, part: Part) -> Reading {
        let all = match &seen.content {
            Content::Unread => return Reading::Unread,
            Content::Failure => SECTOR,
            Content::Exactly(want) | Content::Between { before: want, .. } => want.len(),
        };
        let (first, range) = match (&seen.content, part) {
            (Content::Exactly(_), Some((first, end))) => {
                let end = all.min(end as usize * SECTOR);
                (first, first as usize * SECTOR..end)
            }
            _ => (0, 0..all),
        };
        let result = self.read(&seen.name, first, range.len());
        let wrong = match (&seen.content, result) {
            (Content::Failure, Err(Errno::IO)) => None,
            (Content::Failure, Ok(())) => return Reading::Succeeded,
            (_, Err(errno)) => return Reading::Failed(errno.to_string()),
            (Content::Exactly(want), Ok(())) => want.difference(&self.buffer, range.start),
            (Content::Between { before, after }, Ok(())) => self.between(before, after),
            (Content::Unread, Ok(())) => None,
        };
        wrong.map_or(Reading::Right, Reading::Wrong)
    }

    /// A chunk may be on its way when it is looked at, so each sector is one or the other.
    fn between(&self, before: &View, after: &View) -> Option<String> {
        let starts = (0..).step_by(SECTOR);
        let mut sectors = starts.zip(self.buffer.chunks(SECTOR));
        sectors.find_map(|(start, got)| {
            after.difference(got, start)?;
            let text = before.difference(got, start)?;
            Some(format!(
                "neither as before the merge nor as after it: {text}"
            ))
        })
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        if let Err(error) = self.tear_down() {
            eprintln!("error: {error:#}");
        }
    }
}

fn nothing() -> Line {
    Line {
        start: 0,
        len: 0,
        target: String::new(),
        params: String::new(),
    }
}

fn of_io(result: Result<(), Errno>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(errno) => Outcome::Failed(errno),
    }
}

fn of_dm(result: Result<(), Error>) -> Outcome {
    of_io(result.map_err(|error| errno(&error)))
}

/// The number behind an error of device-mapper.
fn errno(error: &Error) -> Errno {
    match error {
        Error::NoDevice(_) => Errno::NXIO,
        Error::Exists(_) | Error::Busy(_) => Errno::BUSY,
        Error::Control { source, .. } | Error::Refused { source, .. } => {
            Errno::from_io_error(source).unwrap_or(Errno::NOSYS)
        }
        _ => Errno::NOSYS,
    }
}
