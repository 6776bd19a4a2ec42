// SPDX-License-Identifier: GPL-2.0-or-later

//! An origin in use, as it was at one moment, and what has changed in it since.

use super::flow;
use super::flow::StoreFacts;
use super::status::State;
use super::table::Family;
use super::table::Overlay;
use super::table::Role;
use super::table::Table;
use super::DevNum;
use super::Error;
use super::Kernel;
use super::Nodes;
use super::Result;
use crate::signals;
use holey_core::table::Features;
use holey_core::table::StoreKind;
use rustix::mm::MlockAllFlags;
use std::path::PathBuf;

/// What is appended to the origin device's name.
const SUFFIX: &str = "-moment";
/// The same, before a number, for one that records.
const RECORDS: &str = "-record-";
/// How the UUID of one that records begins.
const UUID: &str = "DMHOLEY-record-";
/// Sectors of a chunk: 4 KiB, as images are compared.
const CHUNK: u32 = 8;

/// A snapshot that is removed when this goes, unless it is to stay.
pub struct Moment<'a> {
    kernel: &'a dyn Kernel,
    nodes: &'a dyn Nodes,
    name: String,
    number: DevNum,
    stays: bool,
}

/// A UUID for a snapshot that records; `random` makes it the only one.
pub fn recorder_uuid(random: u128) -> String {
    format!("{UUID}{random:032x}")
}

impl<'a> Moment<'a> {
    /// Takes a snapshot of `origin`, of `sectors` sectors, over the device `cow`, all of which may be overwritten. The
    /// file system above is whole in it: it is frozen meanwhile. If it is to record what is changed from then on, its
    /// UUID is `records`, and `cow` begins with a chunk of zeros.
    pub fn take(
        kernel: &'a dyn Kernel,
        nodes: &'a dyn Nodes,
        origin: DevNum,
        sectors: u64,
        cow: DevNum,
        records: Option<&str>,
    ) -> Result<Self> {
        let (device, family) = writers(kernel, origin)?;
        let (name, store) = match records {
            None => (format!("{device}{SUFFIX}"), StoreKind::Transient),
            Some(_) => (recorder_name(kernel, &device)?, StoreKind::Persistent),
        };
        let table = Table {
            role: Role::Snapshot,
            family,
            len: sectors,
            origin: origin.to_string(),
            overlay: Some(Overlay {
                cow: cow.to_string(),
                store,
                chunk: CHUNK,
                features: Features::default(),
            }),
        };
        // The program itself may be on the file system that is frozen: from here on, none of it has to be read.
        lock_memory(&device)?;
        let number = kernel.create(&name, records.unwrap_or_default())?;
        // It goes again, whatever happens.
        let moment = Self {
            kernel,
            nodes,
            name,
            number,
            stays: false,
        };
        kernel.load(&moment.name, &table.line())?;
        // A signal that ends the program would leave the file system frozen.
        let taken = signals::held_back(|| {
            kernel.suspend(&device, false)?;
            // Nobody waits for udev, which may be on that file system as well.
            let taken = kernel.wake(&moment.name);
            // Whatever happened, writers go on.
            kernel.wake(&device).or_else(|_| kernel.wake(&device))?;
            taken
        });
        // What is done with it takes memory that need not stay; that it does would be no reason to fail.
        let _ = rustix::mm::munlockall();
        taken?;
        // A merge that was begun before the snapshot was there does not keep for it what it had looked at before.
        writers(kernel, origin)?;
        Ok(moment)
    }

    /// Where it can be read: the kernel's own node, which is there at once.
    pub fn path(&self) -> PathBuf {
        format!("/dev/dm-{}", self.number.minor).into()
    }

    /// It goes on to be there. No link leads to what is on it, which is on the origin as well.
    pub fn stay(mut self) -> Result<()> {
        self.kernel.suspend(&self.name, true)?;
        self.kernel.resume_hidden(&self.name)?;
        flow::add_node(self.nodes, &self.name, self.number)?;
        self.stays = true;
        Ok(())
    }

    /// Fails if it is not what it was any more: the store was too small for what was written to the origin meanwhile.
    pub fn check(&self) -> Result<()> {
        let lines = self.kernel.status(&self.name)?;
        let states = lines.iter().map(|line| flow::state_of(&self.name, line));
        let states: Vec<State> = states.collect::<Result<_>>()?;
        if states.iter().all(|state| matches!(state, State::Ok(_))) {
            return Ok(());
        }
        Err(Error::Wrong {
            device: self.name.clone(),
            why: "its store has become full while it was read; give it a larger one".to_owned(),
        })
    }
}

impl Drop for Moment<'_> {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        // One that is left shows in `dmholey status`, and is in the way of the next.
        let _ = flow::remove(self.kernel, self.nodes, &self.name, false);
    }
}

/// A snapshot that has stayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorder {
    /// Its name.
    pub name: String,
    /// Who it is.
    pub uuid: String,
    /// What it records, and where.
    pub store: StoreFacts,
}

impl Recorder {
    /// All there are.
    pub fn all(kernel: &dyn Kernel) -> Result<Vec<Self>> {
        let mut found = Vec::new();
        for (name, lines) in flow::tables(kernel)? {
            // One without a table is being made by somebody else.
            let Some(store) = lines.first().and_then(StoreFacts::of) else {
                continue;
            };
            match kernel.info(&name) {
                Ok(info) if info.uuid.starts_with(UUID) => found.push(Self {
                    name,
                    uuid: info.uuid,
                    store,
                }),
                // The other one went away since the list was made.
                Ok(_) | Err(Error::NoDevice(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Whether its list names all that has changed up to now: its store has not become full.
    pub fn is_whole(&self, kernel: &dyn Kernel) -> Result<bool> {
        let lines = kernel.status(&self.name)?;
        let is_ok = |line| Ok(matches!(flow::state_of(&self.name, line)?, State::Ok(_)));
        lines.first().map_or(Ok(false), is_ok)
    }

    /// Removes it. What it has recorded is in its store.
    pub fn end(&self, kernel: &dyn Kernel, nodes: &dyn Nodes) -> Result<()> {
        match flow::remove(kernel, nodes, &self.name, false) {
            // Somebody else has.
            Err(Error::NoDevice(_)) => Ok(()),
            ended => ended.map(drop),
        }
    }
}

/// The first name that is free.
fn recorder_name(kernel: &dyn Kernel, device: &str) -> Result<String> {
    let taken = kernel.devices()?;
    let mut names = (1..).map(|n| format!("{device}{RECORDS}{n}"));
    let free = names.find(|name| taken.iter().all(|(other, _)| other != name));
    Ok(free.unwrap_or_default())
}

fn lock_memory(device: &str) -> Result<()> {
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE;
    rustix::mm::mlockall(all).map_err(|errno| Error::Wrong {
        device: device.to_owned(),
        why: format!("memory cannot be locked, without which it is not suspended: {errno}"),
    })
}

/// The device by which an origin is written to.
fn writers(kernel: &dyn Kernel, origin: DevNum) -> Result<(String, Family)> {
    let wrong = |why| Error::Wrong {
        device: origin.to_string(),
        why,
    };
    let mut found = None;
    for (name, role, family) in flow::users_of(kernel, origin)? {
        match (role, &found) {
            (Role::Snapshot, _) => {}
            (Role::Origin, None) => found = Some((name, family)),
            // Only one of them is suspended.
            (Role::Origin, Some((other, _))) => {
                let why = format!("is written to by both {other} and {name}; remove one of them");
                return Err(wrong(why));
            }
            (Role::Merge, _) => {
                return Err(wrong(format!(
                    "is being merged into by {name}; wait for its end"
                )))
            }
        }
    }
    found.ok_or_else(|| {
        wrong("is not written to by an origin device; 'dmholey create origin' makes one".into())
    })
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;

    const ORIGIN: DevNum = DevNum { major: 8, minor: 1 };
    const COW: DevNum = DevNum { major: 8, minor: 2 };

    fn steps(fake: &Fake) -> Vec<String> {
        let log = fake.log.borrow();
        let steps = log.iter().filter(|step| !step.starts_with("table "));
        steps.cloned().collect()
    }

    #[test]
    fn a_moment_is_taken_and_goes() {
        let fake = Fake::new().with("data", "holey-origin", "8:1");
        let moment = Moment::take(&fake, &fake, ORIGIN, 2048, COW, None).unwrap();
        let table = fake.devices.borrow()["data-moment"].clone().unwrap();
        assert_eq!(
            (table.target.as_str(), table.params.as_str()),
            ("holey-snapshot", "8:1 8:2 N 8")
        );
        drop(moment);
        assert_eq!(
            steps(&fake),
            [
                "create data-moment",
                "load data-moment",
                "suspend data",
                "wake data-moment",
                "wake data",
                "remove data-moment",
                "no-node data-moment",
            ]
        );
    }

    #[test]
    fn a_moment_that_stays_records() {
        let fake = Fake::new()
            .with("data", "holey-origin", "8:1")
            .with("data-record-1", "linear", "8:3 0")
            .says(&["16/2048 8"]);
        let uuid = recorder_uuid(0xab);
        let moment = Moment::take(&fake, &fake, ORIGIN, 2048, COW, Some(&uuid)).unwrap();
        moment.stay().unwrap();
        let table = fake.devices.borrow()["data-record-2"].clone().unwrap();
        assert_eq!(table.params, "8:1 8:2 P 8");
        let found = Recorder::all(&fake).unwrap();
        let [found] = found.as_slice() else {
            panic!("not one: {found:?}");
        };
        assert_eq!((&*found.name, &found.uuid), ("data-record-2", &uuid));
        assert_eq!((found.store.origin, found.store.cow), (ORIGIN, COW));
        assert!(found.is_whole(&fake).unwrap());
        fake.statuses.borrow_mut().push_front("Invalid");
        assert!(!found.is_whole(&fake).unwrap());
        found.end(&fake, &fake).unwrap();
        found.end(&fake, &fake).unwrap();
        assert_eq!(Recorder::all(&fake).unwrap(), []);
    }

    #[test]
    fn whatever_fails_writers_go_on() {
        for failing in ["create", "load", "suspend"] {
            let mut fake = Fake::new().with("data", "holey-origin", "8:1");
            fake.failing.push(failing);
            assert!(Moment::take(&fake, &fake, ORIGIN, 2048, COW, None).is_err());
            assert!(fake.suspended.borrow().is_empty());
            assert_eq!(fake.devices.borrow().len(), 1, "{failing}");
        }
    }

    #[test]
    fn who_else_writes_is_named() {
        for (target, params, part) in [
            ("holey-merge", "8:1 8:3 P 8", "merged into by other"),
            ("snapshot-origin", "8:1", "both data and other"),
        ] {
            let fake = Fake::new().with("data", "holey-origin", "8:1");
            let fake = fake.with("other", target, params);
            let taken = Moment::take(&fake, &fake, ORIGIN, 2048, COW, None);
            let error = taken.err().unwrap().to_string();
            assert!(error.contains(part), "{error}");
            assert!(steps(&fake).is_empty());
        }
    }

    #[test]
    fn without_an_origin_device_nothing_happens() {
        let fake = Fake::new().with("snap", "holey-snapshot", "8:1 8:2 P 8");
        let error = Moment::take(&fake, &fake, ORIGIN, 2048, COW, None)
            .err()
            .unwrap();
        assert!(error.to_string().contains("create origin"));
        assert!(steps(&fake).is_empty());
    }
}
