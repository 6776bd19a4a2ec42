// SPDX-License-Identifier: GPL-2.0-or-later

//! What takes more than one request to the kernel.

use super::node;
use super::status::State;
use super::table;
use super::table::Family;
use super::table::Role;
use super::table::Table;
use super::DevNum;
use super::Error;
use super::Kernel;
use super::Line;
use super::Nodes;
use super::Result;
use dmholey_cow::format::ChunkSize;
use holey_core::table::Features;
use holey_core::table::StoreKind;
use holey_core::table::StoreLine;
use serde::Serialize;
use serde::Serializer;
use std::path::Path;

/// A device of one of our targets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Its name.
    pub name: String,
    /// Its number.
    pub device: DevNum,
    /// Target type.
    pub target: String,
    /// What it is for.
    pub role: Role,
    /// Its size in sectors.
    pub sectors: u64,
    /// What its status says.
    #[serde(flatten)]
    pub state: State,
    /// How full the store is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
    /// How it keeps its exceptions; none for an origin.
    #[serde(flatten)]
    pub store: Option<StoreFacts>,
}

/// What the table of a snapshot or a merge says of its store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoreFacts {
    /// The origin.
    pub origin: DevNum,
    /// The COW device.
    pub cow: DevNum,
    /// P, PO or N.
    #[serde(rename = "store", serialize_with = "kind_name")]
    pub kind: StoreKind,
    /// The chunk size; none while the table has no exceptions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_sectors: Option<u32>,
    /// The features, each with its argument.
    pub features: Vec<String>,
}

impl StoreFacts {
    /// Reads them from a table line of a snapshot or a merge.
    pub fn of(line: &Line) -> Option<Self> {
        let words = line.params.split_ascii_whitespace();
        let parsed = StoreLine::parse(words.clone().map(str::as_bytes)).ok()?;
        Some(Self {
            origin: words.clone().next()?.parse().ok()?,
            cow: words.clone().nth(1)?.parse().ok()?,
            kind: parsed.kind,
            chunk_sectors: parsed.chunk.map(ChunkSize::sectors),
            features: feature_list(&parsed.features),
        })
    }

    /// Whether those who find the store full wait for room, for a while at least.
    pub fn waits(&self) -> bool {
        let mut names = self.features.iter();
        names.any(|name| name.starts_with("queue_if_no_space"))
    }
}

fn kind_name<S: Serializer>(kind: &StoreKind, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_str(kind.name())
}

/// The features one by one, each with its argument.
fn feature_list(features: &Features) -> Vec<String> {
    let mut list: Vec<String> = Vec::new();
    // The first word is their number.
    for word in features.to_string().split_ascii_whitespace().skip(1) {
        match list.last_mut() {
            Some(feature) if word.parse::<u32>().is_ok() => {
                feature.push(' ');
                feature.push_str(word);
            }
            _ => list.push(word.to_owned()),
        }
    }
    list
}

/// Makes a device: all of it or nothing. Returns its number. `uuid` is as for [`Kernel::create`].
pub fn create(
    kernel: &dyn Kernel,
    nodes: &dyn Nodes,
    name: &str,
    uuid: &str,
    table: &Table,
) -> Result<DevNum> {
    let number = kernel.create(name, uuid)?;
    let made = load(kernel, name, table).and_then(|()| {
        // What has a UUID was made for a while, and what is on it is elsewhere as well.
        match uuid.is_empty() {
            true => kernel.resume(name)?,
            false => kernel.resume_hidden(name)?,
        }
        add_node(nodes, name, number)
    });
    if made.is_err() {
        // The first error is the one to tell; of a device left behind dmsetup tells.
        let _ = remove(kernel, nodes, name, false);
    }
    made.map(|()| number)
}

fn load(kernel: &dyn Kernel, name: &str, table: &Table) -> Result<()> {
    let line = table.line();
    if let Err(error) = kernel.load(name, &line) {
        // Loading asks the kernel to find the module; if that failed the type is still unknown.
        let known = kernel.targets().unwrap_or_default();
        if matches!(error, Error::Refused { .. }) && !known.contains(&line.target) {
            return Err(Error::NoTarget {
                device: name.to_owned(),
                target: line.target,
                module: table::module(table.family),
            });
        }
        return Err(error);
    }
    Ok(())
}

/// Makes sure that a device has a node.
pub fn add_node(nodes: &dyn Nodes, name: &str, number: DevNum) -> Result<()> {
    let added = nodes.add(name, number);
    added.map_err(|source| node_error(name, source))
}

fn node_error(name: &str, source: std::io::Error) -> Error {
    Error::Wrong {
        device: node::path(name).display().to_string(),
        why: format!("the device node cannot be changed: {source}"),
    }
}

/// Removes a device and its node. Whether it is gone: if that is deferred, one in use stays for now.
pub fn remove(kernel: &dyn Kernel, nodes: &dyn Nodes, name: &str, deferred: bool) -> Result<bool> {
    kernel.remove(name, deferred)?;
    let gone = !deferred || !kernel.devices()?.iter().any(|(n, _)| n == name);
    if gone {
        nodes
            .remove(name)
            .map_err(|source| node_error(name, source))?;
    }
    Ok(gone)
}

/// The report of a device; `None` if it is not one of ours.
pub fn report(kernel: &dyn Kernel, name: &str, device: DevNum) -> Result<Option<Report>> {
    let lines = kernel.status(name)?;
    let Some(line) = lines.first() else {
        return Ok(None);
    };
    let Some((role, _)) = table::target_of(&line.target) else {
        return Ok(None);
    };
    let state = state_of(name, line)?;
    let store = match role {
        Role::Origin => None,
        Role::Snapshot | Role::Merge => kernel.table(name)?.first().and_then(StoreFacts::of),
    };
    Ok(Some(Report {
        name: name.to_owned(),
        device,
        target: line.target.clone(),
        role,
        sectors: line.len,
        state,
        percent: state.percent(),
        store,
    }))
}

/// Reads the state in a status line.
pub(crate) fn state_of(name: &str, line: &Line) -> Result<State> {
    State::parse(&line.params).ok_or_else(|| Error::Wrong {
        device: name.to_owned(),
        why: format!(
            "target {} reports '{}', which this version cannot read; is the module newer?",
            line.target, line.params
        ),
    })
}

/// The reports of the named devices, each of which must be one of ours, or of all that are.
pub fn reports(kernel: &dyn Kernel, names: &[String]) -> Result<Vec<Report>> {
    let mut devices = kernel.devices()?;
    devices.sort();
    let mut found = Vec::new();
    if names.is_empty() {
        for (name, number) in devices {
            match report(kernel, &name, number) {
                // It went away since the list was made.
                Err(Error::NoDevice(_)) => {}
                other => found.extend(other?),
            }
        }
        return Ok(found);
    }
    for name in names {
        let known = devices.iter().find(|(n, _)| n == name);
        let (_, number) = known.ok_or_else(|| Error::NoDevice(name.clone()))?;
        let report = report(kernel, name, *number)?;
        found.push(report.ok_or_else(|| Error::Wrong {
            device: name.clone(),
            why: "is no snapshot, origin or merge device; dmsetup shows it".to_owned(),
        })?);
    }
    Ok(found)
}

/// The tables of all devices, by their names.
pub fn tables(kernel: &dyn Kernel) -> Result<Vec<(String, Vec<Line>)>> {
    let mut tables = Vec::new();
    for (name, _) in kernel.devices()? {
        match kernel.table(&name) {
            // It went away since the list was made.
            Err(Error::NoDevice(_)) => {}
            lines => tables.push((name, lines?)),
        }
    }
    Ok(tables)
}

/// Removes the device of this UUID if it was never put to use: of a run that was killed before it came to that.
pub fn remove_unused(kernel: &dyn Kernel, nodes: &dyn Nodes, uuid: &str) -> Result<()> {
    for (name, lines) in tables(kernel)? {
        if !lines.is_empty() {
            continue;
        }
        match kernel.info(&name) {
            Ok(info) if info.uuid == uuid => {
                remove(kernel, nodes, &name, false)?;
            }
            // It went away since the list was made.
            Ok(_) | Err(Error::NoDevice(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether dm-snapshot is there, so that its targets are its own and not other names of ours.
pub fn stock_is_there() -> bool {
    Path::new("/sys/module/dm_snapshot").exists()
}

/// The devices of our targets whose origin is `origin`, with what they are for and whose target each is.
pub fn users_of(kernel: &dyn Kernel, origin: DevNum) -> Result<Vec<(String, Role, Family)>> {
    let mut users = Vec::new();
    for (name, lines) in tables(kernel)? {
        let target = lines.iter().find_map(|line| {
            let target = table::target_of(&line.target)?;
            let first: DevNum = line.params.split_ascii_whitespace().next()?.parse().ok()?;
            (first == origin).then_some(target)
        });
        users.extend(target.map(|(role, family)| (name, role, family)));
    }
    Ok(users)
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;

    fn table() -> Table {
        Table {
            role: Role::Origin,
            family: Family::Holey,
            len: 100,
            origin: "8:1".to_owned(),
            overlay: None,
        }
    }

    #[test]
    fn a_device_is_made_in_order() {
        let kernel = Fake::new();
        create(&kernel, &kernel, "x", "", &table()).unwrap();
        let log = kernel.log.borrow();
        assert_eq!(*log, ["create x", "load x", "resume x", "node x 253:0"]);
        let devices = kernel.devices.borrow();
        let line = devices["x"].as_ref().unwrap();
        assert_eq!(line.to_string(), "0 100 holey-origin 8:1");
    }

    #[test]
    fn whatever_fails_nothing_is_left() {
        for step in ["load", "resume", "node"] {
            let mut kernel = Fake::new();
            kernel.failing = vec![step];
            create(&kernel, &kernel, "x", "", &table()).unwrap_err();
            assert!(kernel.devices.borrow().is_empty(), "{step}");
            let log = kernel.log.borrow();
            assert_eq!(log[log.len() - 2..], ["remove x", "no-node x"], "{step}");
        }
    }

    #[test]
    fn a_failed_create_removes_nothing() {
        let mut kernel = Fake::new().with("x", "linear", "");
        kernel.failing = vec!["create"];
        create(&kernel, &kernel, "x", "", &table()).unwrap_err();
        assert!(kernel.devices.borrow().contains_key("x"));
    }

    #[test]
    fn a_missing_module_is_named() {
        let mut kernel = Fake::new();
        kernel.known = vec!["linear"];
        let error = create(&kernel, &kernel, "x", "", &table()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("no target holey-origin") && text.contains("insmod dm-holey.ko"));
        kernel.known = vec!["holey-origin"];
        kernel.failing = vec!["load"];
        let error = create(&kernel, &kernel, "x", "", &table()).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }));
    }

    #[test]
    fn only_our_devices_are_reported() {
        let kernel = Fake::new()
            .with("a", "linear", "8:1 0")
            .with("b", "snapshot", "8:1 8:2 P 8")
            .says(&["Invalid"]);
        let found = reports(&kernel, &[]).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].name.as_str(), found[0].state),
            ("b", State::Invalid)
        );
        assert!(reports(&kernel, &["a".to_owned()]).is_err());
        let error = reports(&kernel, &["c".to_owned()]).unwrap_err();
        assert!(matches!(error, Error::NoDevice(name) if name == "c"));
    }

    #[test]
    fn the_users_of_an_origin_are_found() {
        let kernel = Fake::new()
            .with("a", "linear", "8:1 0")
            .with("b", "snapshot", "8:1 8:2 P 8")
            .with("c", "holey-origin", "8:1")
            .with("d", "holey-origin", "8:2");
        let origin = DevNum { major: 8, minor: 1 };
        let users: Vec<String> = users_of(&kernel, origin)
            .unwrap()
            .into_iter()
            .map(|(name, _, _)| name)
            .collect();
        assert_eq!(users, ["b", "c"]);
    }
}
