// SPDX-License-Identifier: GPL-2.0-or-later

//! A kernel for tests: it keeps a list of devices and a log of requests.

use super::table;
use super::DevNum;
use super::Error;
use super::Info;
use super::Kernel;
use super::Line;
use super::Nodes;
use super::Result;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::io;

#[derive(Debug, Default)]
pub(crate) struct Fake {
    pub(crate) devices: RefCell<BTreeMap<String, Option<Line>>>,
    pub(crate) log: RefCell<Vec<String>>,
    /// Requests that fail.
    pub(crate) failing: Vec<&'static str>,
    /// Target types that exist.
    pub(crate) known: Vec<&'static str>,
    /// Who made which device.
    pub(crate) uuids: RefCell<BTreeMap<String, String>>,
    /// Devices that are suspended.
    pub(crate) suspended: RefCell<BTreeSet<String>>,
    /// What the status says, one after the other; the last one stays.
    pub(crate) statuses: RefCell<VecDeque<&'static str>>,
}

impl Fake {
    pub(crate) fn new() -> Self {
        Self {
            known: vec!["holey-origin", "holey-snapshot", "holey-merge"],
            ..Self::default()
        }
    }

    pub(crate) fn with(self, name: &str, target: &str, params: &str) -> Self {
        let line = Line {
            start: 0,
            len: 100,
            target: target.to_owned(),
            params: params.to_owned(),
        };
        self.devices
            .borrow_mut()
            .insert(name.to_owned(), Some(line));
        self
    }

    pub(crate) fn says(self, statuses: &[&'static str]) -> Self {
        self.statuses.borrow_mut().extend(statuses);
        self
    }

    fn ask(&self, request: &'static str, name: &str) -> Result<()> {
        self.log.borrow_mut().push(format!("{request} {name}"));
        if self.failing.contains(&request) {
            return Err(Error::Refused {
                device: name.to_owned(),
                action: "do it",
                said: "because".to_owned(),
                source: io::ErrorKind::InvalidInput.into(),
            });
        }
        let exists = self.devices.borrow().contains_key(name);
        match (request, exists) {
            ("create", true) => Err(Error::Exists(name.to_owned())),
            ("create", false) | (_, true) => Ok(()),
            (_, false) => Err(Error::NoDevice(name.to_owned())),
        }
    }
}

impl Kernel for Fake {
    fn targets(&self) -> Result<Vec<String>> {
        Ok(self.known.iter().map(|&t| t.to_owned()).collect())
    }

    fn devices(&self) -> Result<Vec<(String, DevNum)>> {
        let devices = self.devices.borrow();
        let number = |minor| DevNum { major: 253, minor };
        Ok(devices.keys().cloned().zip((0..).map(number)).collect())
    }

    fn create(&self, name: &str, uuid: &str) -> Result<DevNum> {
        self.ask("create", name)?;
        self.devices.borrow_mut().insert(name.to_owned(), None);
        self.uuids
            .borrow_mut()
            .insert(name.to_owned(), uuid.to_owned());
        Ok(DevNum {
            major: 253,
            minor: 0,
        })
    }

    fn load(&self, name: &str, line: &Line) -> Result<()> {
        self.ask("load", name)?;
        if table::target_of(&line.target).is_none() || !self.known.contains(&line.target.as_str()) {
            return Err(Error::Refused {
                device: name.to_owned(),
                action: "accept its table",
                said: "because".to_owned(),
                source: io::ErrorKind::InvalidInput.into(),
            });
        }
        self.devices
            .borrow_mut()
            .insert(name.to_owned(), Some(line.clone()));
        Ok(())
    }

    fn resume(&self, name: &str) -> Result<()> {
        self.ask("resume", name)
    }

    fn resume_hidden(&self, name: &str) -> Result<()> {
        self.ask("resume-hidden", name)?;
        self.suspended.borrow_mut().remove(name);
        Ok(())
    }

    fn remove(&self, name: &str, _deferred: bool) -> Result<()> {
        self.ask("remove", name)?;
        self.devices.borrow_mut().remove(name);
        Ok(())
    }

    fn table(&self, name: &str) -> Result<Vec<Line>> {
        self.ask("table", name)?;
        let devices = self.devices.borrow();
        Ok(devices.get(name).cloned().flatten().into_iter().collect())
    }

    fn status(&self, name: &str) -> Result<Vec<Line>> {
        let mut lines = self.table(name)?;
        let mut statuses = self.statuses.borrow_mut();
        let now = if statuses.len() > 1 {
            statuses.pop_front()
        } else {
            statuses.front().copied()
        };
        for line in &mut lines {
            line.params = now.unwrap_or_default().to_owned();
        }
        Ok(lines)
    }

    fn info(&self, name: &str) -> Result<Info> {
        self.ask("info", name)?;
        let known = self.devices()?.into_iter().find(|(n, _)| n == name);
        let (_, number) = known.ok_or_else(|| Error::NoDevice(name.to_owned()))?;
        Ok(Info {
            number,
            inactive: false,
            events: 0,
            uuid: self.uuids.borrow().get(name).cloned().unwrap_or_default(),
            suspended: self.suspended.borrow().contains(name),
        })
    }

    fn suspend(&self, name: &str, _noflush: bool) -> Result<()> {
        self.ask("suspend", name)?;
        self.suspended.borrow_mut().insert(name.to_owned());
        Ok(())
    }

    fn wake(&self, name: &str) -> Result<()> {
        self.ask("wake", name)?;
        self.suspended.borrow_mut().remove(name);
        Ok(())
    }

    fn clear(&self, name: &str) -> Result<()> {
        self.ask("clear", name)
    }

    fn reload(&self, name: &str, lines: &[Line]) -> Result<()> {
        self.ask("reload", name)?;
        let line = lines.last().cloned();
        self.devices.borrow_mut().insert(name.to_owned(), line);
        Ok(())
    }
}

impl Nodes for Fake {
    fn add(&self, name: &str, number: DevNum) -> io::Result<()> {
        self.log.borrow_mut().push(format!("node {name} {number}"));
        if self.failing.contains(&"node") {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.log.borrow_mut().push(format!("no-node {name}"));
        Ok(())
    }
}
