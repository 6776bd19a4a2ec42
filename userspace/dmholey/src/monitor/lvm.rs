// SPDX-License-Identifier: GPL-2.0-or-later

//! Logical volumes, by LVM's own tool.
//!
//! `lvextend` suspends the snapshot and its origin for a moment. It lets what waits in them come to its end first, and
//! freezes a file system in them: in a snapshot that is full, what waits would fail, and the file system with it. It
//! does neither to devices that are suspended already, and it resumes them. So they are suspended here beforehand, in
//! the way that leaves alone what waits.
//!
//! Meanwhile the root file system may be unable to read, so `lvextend` has to be in memory. A run with `--test` brings
//! it there, and finds out what it would refuse. Should it get stuck all the same, the devices are resumed.

use super::child;
use super::child::Running;
use crate::dm::flow;
use crate::dm::DevNum;
use crate::dm::Kernel;
use anyhow::anyhow;
use anyhow::Context;
use std::process::Command;
use std::time::Duration;

/// All of LVM's devices have this before their identity.
pub const UUID_PREFIX: &str = "LVM-";
/// Bytes of the identity: of the volume group, and of the volume.
const IDENTITY: usize = 64;
/// No backup in /etc, no syslog, no dmeventd: each of them may wait for the file system that is to be rescued.
const SETTINGS: &str = "backup { backup=0 archive=0 } log { syslog=0 } activation { monitoring=0 }";
/// LVM says this when it finds devices suspended that it did not suspend.
const HARMLESS: [&str; 2] = [
    "Attempted to decrement suspended device counter below zero",
    "TEST MODE",
];
/// So long devices stay suspended.
const SUSPENDED: Duration = Duration::from_secs(20);
/// So long a tool is waited for before that is told.
const PATIENCE: Duration = Duration::from_secs(120);

/// A logical volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// `group/volume`
    pub path: String,
    /// Whether the device is the COW store of a snapshot that LVM has made.
    pub is_snapshot: bool,
}

/// The volume that a device belongs to, by its name and uuid; `None` if it has a part that cannot be extended by
/// itself.
pub fn volume(name: &str, uuid: &str) -> Option<Volume> {
    let identity = uuid.strip_prefix(UUID_PREFIX)?;
    let layer = identity.get(IDENTITY..)?;
    let is_snapshot = match layer {
        "" => false,
        "-cow" => true,
        _ => return None,
    };
    let mut parts = split_name(name);
    if is_snapshot && parts.pop()? != "cow" {
        return None;
    }
    let [group, volume] = parts.as_slice() else {
        return None;
    };
    Some(Volume {
        path: format!("{group}/{volume}"),
        is_snapshot,
    })
}

/// The parts of a name: one hyphen is between two of them, two stand for one in a part.
fn split_name(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut rest = name.chars().peekable();
    while let Some(c) = rest.next() {
        if c == '-' && rest.next_if_eq(&'-').is_none() {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
}

fn lvextend(volume: &Volume, sectors: u64, test: bool) -> Command {
    let mut command = Command::new("lvextend");
    command.args(["--config", SETTINGS, "--noudevsync"]);
    if test {
        command.arg("--test");
    }
    command.args(["--size", &format!("{sectors}s"), &volume.path]);
    command
}

/// Extends a volume to `sectors` or a little more. `snapshot` is the device that has its store there, and `origin` what
/// that is a snapshot of.
pub fn extend(
    kernel: &dyn Kernel,
    volume: &Volume,
    sectors: u64,
    snapshot: &str,
    origin: DevNum,
) -> anyhow::Result<()> {
    run(start(&mut lvextend(volume, sectors, true))?)?;
    let mut command = lvextend(volume, sectors, false);
    if !volume.is_snapshot {
        return run(start(&mut command)?);
    }
    let mut held = Held::new(kernel);
    for (name, _, _) in flow::users_of(kernel, origin)? {
        // The snapshot comes last: what waits in it is on its way from the origin, too.
        if name != snapshot {
            held.add(&name)?;
        }
    }
    held.add(snapshot)?;
    let mut running = start(&mut command)?;
    let in_time = running.wait(SUSPENDED)?;
    // It has resumed them, as a rule.
    held.release();
    match in_time {
        Some(_) => run(running),
        None => run(running).context("it was stuck while devices were suspended"),
    }
}

fn start(command: &mut Command) -> anyhow::Result<Running> {
    child::start(command).context("cannot run lvextend; is LVM installed?")
}

/// Waits for the tool. It is never ended by force: it could leave devices suspended.
fn run(mut running: Running) -> anyhow::Result<()> {
    let mut ended = running.wait(PATIENCE)?;
    while ended.is_none() {
        ended = running.wait(Duration::from_secs(3600))?;
    }
    let said = running.said(|line| HARMLESS.iter().any(|text| line.contains(text)));
    match ended.and_then(|status| child::complaint(status, &said)) {
        Some(complaint) => Err(anyhow!("lvextend: {complaint}")),
        None => Ok(()),
    }
}

/// Devices that were suspended here, and are not to stay so.
struct Held<'a> {
    kernel: &'a dyn Kernel,
    names: Vec<String>,
}

impl<'a> Held<'a> {
    fn new(kernel: &'a dyn Kernel) -> Self {
        Self {
            kernel,
            names: Vec::new(),
        }
    }

    fn add(&mut self, name: &str) -> anyhow::Result<()> {
        if !self.kernel.info(name)?.suspended {
            self.kernel.suspend(name, true)?;
            self.names.push(name.to_owned());
        }
        Ok(())
    }

    fn release(&mut self) {
        // Origins come last, as they were suspended first.
        while let Some(name) = self.names.pop() {
            if self.kernel.info(&name).is_ok_and(|info| info.suspended) {
                // What cannot be resumed here cannot be helped; the log of the kernel tells of it.
                let _ = self.kernel.wake(&name);
            }
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dm::fake::Fake;
    use proptest::prelude::*;

    fn uuid(layer: &str) -> String {
        format!("LVM-{}{layer}", "x".repeat(IDENTITY))
    }

    #[test]
    fn volumes_are_found_by_name_and_uuid() {
        let volume = |name, layer| volume(name, &uuid(layer)).map(|v| (v.path, v.is_snapshot));
        let found = |path: &str, is_snapshot| Some((path.to_owned(), is_snapshot));
        assert_eq!(volume("vg-snap-cow", "-cow"), found("vg/snap", true));
        assert_eq!(volume("vg-store", ""), found("vg/store", false));
        assert_eq!(volume("my--vg-a--b-cow", "-cow"), found("my-vg/a-b", true));
        for (name, layer) in [
            ("vg-snap", "-cow"),
            ("vg-pool-tdata", "-tdata"),
            ("vg-base-real", "-real"),
            ("plain", ""),
            ("vg-a-b", ""),
        ] {
            assert_eq!(volume(name, layer), None, "{name}");
        }
        assert_eq!(super::volume("vg-lv", "CRYPT-1"), None);
        assert_eq!(super::volume("vg-lv", "LVM-short"), None);
    }

    #[test]
    fn what_was_suspended_is_resumed_once_and_last_first() {
        let kernel = Fake::new().with("a", "linear", "").with("b", "linear", "");
        kernel.suspended.borrow_mut().insert("b".to_owned());
        let mut held = Held::new(&kernel);
        held.add("a").unwrap();
        held.add("b").unwrap();
        assert!(held.add("c").is_err());
        drop(held);
        let suspended = kernel.suspended.borrow();
        assert_eq!(suspended.iter().collect::<Vec<_>>(), ["b"]);
        let log = kernel.log.borrow();
        let changes: Vec<_> = log.iter().filter(|l| !l.starts_with("info")).collect();
        assert_eq!(changes, ["suspend a", "wake a"]);
    }

    proptest! {
        #[test]
        fn names_are_split_as_lvm_joins_them(parts in prop::collection::vec("[a-z](-?[a-z])*", 1..4)) {
            let name: Vec<String> = parts.iter().map(|part| part.replace('-', "--")).collect();
            prop_assert_eq!(split_name(&name.join("-")), parts);
        }

        #[test]
        fn any_name_is_split(name in ".*", uuid in "(LVM-)?.*") {
            let _ = volume(&name, &uuid);
        }
    }
}
