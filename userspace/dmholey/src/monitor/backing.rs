// SPDX-License-Identifier: GPL-2.0-or-later

//! What a COW device lies on, and so how it can grow.

use super::lvm;
use super::lvm::Volume;
use crate::dm::flow;
use crate::dm::DevNum;
use crate::dm::Kernel;
use crate::dm::Line;
use crate::dm::Result;
use std::fs;
use std::io;
use std::path::PathBuf;

/// Linear devices on linear devices are followed so deep.
const DEPTH: usize = 8;

/// A way to let a device grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// A logical volume.
    Volume(Volume),
    /// A loop device over a file.
    Loop(Loop),
    /// A linear device whose last line ends at the end of what is below it.
    Linear(Linear),
}

/// A loop device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loop {
    /// Its node.
    pub node: PathBuf,
    /// The file below it.
    pub file: PathBuf,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
}

/// A linear device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linear {
    /// Its name.
    pub name: String,
    /// Its table.
    pub lines: Vec<Line>,
    /// What is below its last line,
    pub below: DevNum,
    /// the sector of that at which the line ends,
    pub end: u64,
    /// and how that grows.
    pub grows: Box<Backing>,
}

/// What is known of block devices beside device-mapper's own.
pub trait Blocks {
    /// The size of a device in sectors.
    fn sectors(&self, device: DevNum) -> io::Result<u64>;

    /// What a device is over, if it is a loop device. The error is a reason why it cannot grow.
    fn loop_device(&self, device: DevNum) -> Option<std::result::Result<Loop, String>>;
}

/// The real ones, as sysfs shows them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sysfs;

impl Sysfs {
    fn folder(device: DevNum) -> PathBuf {
        PathBuf::from(format!("/sys/dev/block/{device}"))
    }

    /// The devices that a device is made of, such as the origin and the COW device of a snapshot.
    pub fn below(device: DevNum) -> Vec<DevNum> {
        let entries = fs::read_dir(Self::folder(device).join("slaves"));
        let numbers = entries.into_iter().flatten().flatten().filter_map(|entry| {
            let text = fs::read_to_string(entry.path().join("dev")).ok()?;
            text.trim().parse().ok()
        });
        numbers.collect()
    }

    /// The kernel's own node of a device.
    pub fn node(device: DevNum) -> Option<PathBuf> {
        let link = fs::read_link(Self::folder(device)).ok()?;
        Some(PathBuf::from("/dev").join(link.file_name()?))
    }
}

impl Blocks for Sysfs {
    fn sectors(&self, device: DevNum) -> io::Result<u64> {
        let text = fs::read_to_string(Self::folder(device).join("size"))?;
        text.trim().parse().map_err(io::Error::other)
    }

    fn loop_device(&self, device: DevNum) -> Option<std::result::Result<Loop, String>> {
        let folder = Self::folder(device);
        let read = |name| fs::read_to_string(folder.join("loop").join(name));
        let file = read("backing_file").ok()?;
        let number = |name| {
            read(name)
                .ok()
                .and_then(|text| text.trim().parse::<u64>().ok())
        };
        let found = match (number("offset"), number("sizelimit"), Self::node(device)) {
            (Some(offset), Some(0), Some(node)) => Ok(Loop {
                node,
                file: PathBuf::from(file.trim_end_matches('\n')),
                offset,
            }),
            (_, Some(1..), _) => Err("a loop device with a size limit".to_owned()),
            _ => Err("a loop device that sysfs does not describe".to_owned()),
        };
        Some(found)
    }
}

/// Finds out how a device can grow. The inner error is the reason why it cannot, as what it is.
pub fn find(
    kernel: &dyn Kernel,
    blocks: &dyn Blocks,
    device: DevNum,
) -> Result<std::result::Result<Backing, String>> {
    find_below(kernel, blocks, device, DEPTH)
}

fn find_below(
    kernel: &dyn Kernel,
    blocks: &dyn Blocks,
    device: DevNum,
    depth: usize,
) -> Result<std::result::Result<Backing, String>> {
    if let Some(found) = blocks.loop_device(device) {
        return Ok(found.map(Backing::Loop));
    }
    let known = kernel
        .devices()?
        .into_iter()
        .find(|&(_, number)| number == device);
    let Some((name, _)) = known else {
        return Ok(Err("a plain disk or partition".to_owned()));
    };
    let uuid = kernel.info(&name)?.uuid;
    if uuid.starts_with(lvm::UUID_PREFIX) {
        let volume = lvm::volume(&name, &uuid);
        return Ok(volume
            .map(Backing::Volume)
            .ok_or_else(|| format!("{name}, an internal part of a logical volume")));
    }
    let lines = kernel.table(&name)?;
    let last = lines.iter().all(|line| line.target == "linear");
    let Some((below, start, last)) = lines
        .last()
        .filter(|_| last)
        .and_then(|line| linear(line).map(|(below, start)| (below, start, line)))
    else {
        return Ok(Err(format!("{name}, a device that is not linear")));
    };
    let end = start.saturating_add(last.len);
    if depth == 0 {
        return Ok(Err(format!(
            "{name}, too many linear devices on each other"
        )));
    }
    let grows = match find_below(kernel, blocks, below, depth - 1)? {
        Ok(grows) => grows,
        Err(what) => return Ok(Err(format!("{name}, a linear device on {what}"))),
    };
    if let Some(other) = user_behind(kernel, below, end, &name)? {
        return Ok(Err(format!(
            "{name}, a linear device on {below}, where {other} comes behind it"
        )));
    }
    Ok(Ok(Backing::Linear(Linear {
        name,
        below,
        end,
        grows: Box::new(grows),
        lines,
    })))
}

/// Where a line of a linear device begins below.
fn linear(line: &Line) -> Option<(DevNum, u64)> {
    let mut words = line.params.split_ascii_whitespace();
    let below = words.next()?.parse().ok()?;
    Some((below, words.next()?.parse().ok()?))
}

/// A device that uses, or may use, `below` from `end` on.
fn user_behind(kernel: &dyn Kernel, below: DevNum, end: u64, but: &str) -> Result<Option<String>> {
    for (name, lines) in flow::tables(kernel)? {
        let uses = lines.iter().any(|line| match linear(line) {
            Some((device, start)) if line.target == "linear" => {
                device == below && start.saturating_add(line.len) > end
            }
            // Where it has its data there is its own business.
            _ => {
                let number = below.to_string();
                name != but
                    && line
                        .params
                        .split_ascii_whitespace()
                        .any(|word| word == number)
            }
        });
        if uses {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dm::fake::Fake;

    struct Loops;

    fn loop_on(file: &str) -> Loop {
        Loop {
            node: "/dev/loop0".into(),
            file: file.into(),
            offset: 0,
        }
    }

    impl Blocks for Loops {
        fn sectors(&self, _: DevNum) -> io::Result<u64> {
            Ok(1000)
        }

        fn loop_device(&self, device: DevNum) -> Option<std::result::Result<Loop, String>> {
            (device.major == 7).then(|| match device.minor {
                0 => Ok(loop_on("/cow")),
                _ => Err("a loop device with a size limit".to_owned()),
            })
        }
    }

    fn find_in(kernel: &Fake, device: &str) -> std::result::Result<Backing, String> {
        find(kernel, &Loops, device.parse().unwrap()).unwrap()
    }

    #[test]
    fn files_disks_and_volumes_are_told_apart() {
        let kernel = Fake::new()
            .with("a", "crypt", "8:1")
            .with("b-c", "linear", "8:2 0");
        let uuid = format!("LVM-{}", "x".repeat(64));
        kernel.uuids.borrow_mut().insert("b-c".to_owned(), uuid);
        assert_eq!(find_in(&kernel, "7:0"), Ok(Backing::Loop(loop_on("/cow"))));
        assert!(find_in(&kernel, "7:1").unwrap_err().contains("limit"));
        assert!(find_in(&kernel, "8:1").unwrap_err().contains("plain disk"));
        assert!(find_in(&kernel, "253:0")
            .unwrap_err()
            .contains("not linear"));
        let volume = Volume {
            path: "b/c".to_owned(),
            is_snapshot: false,
        };
        assert_eq!(find_in(&kernel, "253:1"), Ok(Backing::Volume(volume)));
    }

    #[test]
    fn a_linear_device_grows_where_nobody_comes_behind_it() {
        let kernel = Fake::new()
            .with("a", "linear", "7:0 100")
            .with("b", "linear", "7:0 0")
            .with("on-disk", "linear", "8:1 0")
            .with("on-that", "linear", "253:2 0");
        let Ok(Backing::Linear(found)) = find_in(&kernel, "253:0") else {
            panic!("no linear device");
        };
        assert_eq!((found.name.as_str(), found.end), ("a", 200));
        assert_eq!(*found.grows, Backing::Loop(loop_on("/cow")));
        let why = find_in(&kernel, "253:1").unwrap_err();
        assert!(why.contains("where a comes behind"), "{why}");
        let why = find_in(&kernel, "253:3").unwrap_err();
        assert!(
            why.contains("on-that") && why.ends_with("a plain disk or partition"),
            "{why}"
        );
    }

    #[test]
    fn who_may_use_what_is_behind_counts() {
        let kernel =
            Fake::new()
                .with("a", "linear", "7:0 0")
                .with("s", "holey-snapshot", "8:1 7:0 P 8");
        let why = find_in(&kernel, "253:0").unwrap_err();
        assert!(why.contains("where s comes behind"), "{why}");
        let circle = Fake::new().with("a", "linear", "253:0 0");
        assert!(find_in(&circle, "253:0").unwrap_err().contains("too many"));
    }
}
