// SPDX-License-Identifier: GPL-2.0-or-later

//! The kernel merges an image into a live origin: `dmholey cow apply --online`, `dmholey update apply`.

use super::open_store;
use crate::blockdev::BlockDev;
use crate::commands::line::FamilyArgs;
use crate::commands::merge::Pace;
use crate::dm::flow;
use crate::dm::ioctl::Dm;
use crate::dm::merge;
use crate::dm::node;
use crate::dm::table::Overlay;
use crate::dm::table::Role;
use crate::dm::table::Table;
use crate::dm::DevNum;
use crate::dm::Kernel;
use crate::dm::Nodes;
use crate::loopdev::LoopDevice;
use crate::output::Output;
use crate::progress::Meter;
use crate::signals;
use anyhow::Context;
use clap::Args;
use dmholey_cow::apply;
use dmholey_cow::apply::Applied;
use dmholey_cow::copy;
use dmholey_cow::disk::Access;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use dmholey_cow::Progress;
use dmholey_cow::Store;
use holey_core::table::Features;
use holey_core::table::StoreKind;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::NamedTempFile;

/// The block device that the kernel merges from; it goes when this is dropped.
struct Source {
    device: BlockDev,
    _loop: Option<LoopDevice>,
    _copy: Option<NamedTempFile>,
}

/// What is merged, and how.
pub(crate) struct Merging<'a> {
    /// File or block device with a COW store.
    pub(crate) image: &'a Path,
    /// The origin.
    pub(crate) disk: &'a Path,
    /// Whether the image is to be empty after that.
    pub(crate) consume: bool,
    /// Folder for the copy of an image that is to stay as it is, if not beside it.
    pub(crate) copy_in: Option<&'a Path>,
    pub(crate) how: &'a How,
}

/// How a store gets into a disk.
#[derive(Clone, Debug, Args)]
pub struct How {
    /// Let the kernel merge; default if the disk is the origin of live snapshots
    #[arg(long, conflicts_with = "offline")]
    online: bool,
    /// Copy, even if the disk is the origin of live snapshots
    #[arg(long)]
    offline: bool,
    /// Name of the merge device, if not the disk's name with -apply
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    family: FamilyArgs,
    #[command(flatten)]
    pace: Pace,
}

impl How {
    /// Whether the kernel is to merge.
    pub(crate) fn is_online(&self, disk: &Path) -> anyhow::Result<bool> {
        Ok(self.online || (!self.offline && is_origin(disk)?))
    }
}

/// Whether a disk is the origin of live snapshots.
fn is_origin(disk: &Path) -> anyhow::Result<bool> {
    let disk = Device::open(disk, Access::Read)?;
    if !disk.is_block() {
        return Ok(false);
    }
    // Where device-mapper cannot be asked, a device in use is still refused when it is opened.
    let Ok(dm) = Dm::open() else {
        return Ok(false);
    };
    Ok(!flow::users_of(&dm, DevNum::from_rdev(disk.rdev()))?.is_empty())
}

/// Merges an image into a disk, and takes everything down again that it made for that.
pub(crate) fn merge(what: &Merging<'_>, output: Output) -> anyhow::Result<Applied> {
    let mut store = open_store(what.image)?;
    let (origin, disk) = BlockDev::open(what.disk)?;
    let survey = apply::plan(&mut store, &disk.name(), disk.size())?;
    drop(disk);
    let dm = Dm::open()?;
    signals::install()?;
    let source = source(what, &store)?;
    let chunk = store.header().chunk;
    let table = Table {
        role: Role::Merge,
        family: what.how.family.family(),
        len: origin.sectors,
        origin: origin.number.to_string(),
        overlay: Some(Overlay {
            cow: source.device.number.to_string(),
            store: StoreKind::Persistent,
            chunk: chunk.sectors(),
            features: Features::default(),
        }),
    };
    let name = what.how.name.clone();
    let name = name.unwrap_or_else(|| default_name(what.disk));
    let meter = Meter::with_events(format!("merging into {}", what.disk.display()), output);
    let interval = what.how.pace.interval();
    merge_once(&dm, &node::DevMapper, &name, &table, interval, &meter)?;
    Ok(Applied {
        exceptions: survey.exceptions,
        bytes: survey.exceptions * chunk.bytes() as u64,
    })
}

/// Makes a merge device, waits for it, and removes it whatever happened.
fn merge_once(
    kernel: &dyn Kernel,
    nodes: &dyn Nodes,
    name: &str,
    table: &Table,
    interval: Duration,
    progress: &dyn Progress,
) -> anyhow::Result<()> {
    flow::create(kernel, nodes, name, table)?;
    let sleep = &mut |time| std::thread::sleep(time);
    let merged = merge::wait(kernel, name, interval, progress, sleep)
        .context("the disk is between the versions; run this command again to finish");
    let removed = flow::remove(kernel, nodes, name, false);
    merged?;
    removed?;
    Ok(())
}

fn source(what: &Merging<'_>, store: &Store<Device>) -> anyhow::Result<Source> {
    let keep = !what.consume;
    let copy = keep
        .then(|| copy::private(store, what.copy_in))
        .transpose()?;
    if let (true, None) = (store.disk().is_block(), &copy) {
        let (device, _) = BlockDev::open(what.image)?;
        return Ok(Source {
            device,
            _loop: None,
            _copy: None,
        });
    }
    let file: PathBuf = copy
        .as_ref()
        .map_or_else(|| what.image.to_owned(), |copy| copy.path().to_path_buf());
    let attached = LoopDevice::attach(&file)?;
    let (device, _) = BlockDev::open(attached.path())?;
    Ok(Source {
        device,
        _loop: Some(attached),
        _copy: copy,
    })
}

/// A device name made from that of the disk.
fn default_name(disk: &Path) -> String {
    let stem = disk.file_name().unwrap_or_default().to_string_lossy();
    let safe: String = stem
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-+".contains(c) {
                c
            } else {
                '_'
            }
        })
        .take(64)
        .collect();
    format!("{safe}-apply")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dm::fake::Fake;
    use crate::dm::table::Family;
    use dmholey_cow::progress::Silent;

    fn table() -> Table {
        Table {
            role: Role::Merge,
            family: Family::Holey,
            len: 100,
            origin: "8:1".to_owned(),
            overlay: None,
        }
    }

    fn run(kernel: &Fake) -> anyhow::Result<()> {
        merge_once(kernel, kernel, "m", &table(), Duration::ZERO, &Silent)
    }

    #[test]
    fn the_device_goes_after_the_merge() {
        let kernel = Fake::new().says(&["116/200 16", "32/200 16", "16/200 16"]);
        run(&kernel).unwrap();
        assert!(kernel.devices.borrow().is_empty());
        let log = kernel.log.borrow();
        assert_eq!(log[..4], ["create m", "load m", "resume m", "node m 253:0"]);
        assert_eq!(log[log.len() - 2..], ["remove m", "no-node m"]);
    }

    #[test]
    fn the_device_goes_after_a_failure_too() {
        let kernel = Fake::new().says(&["116/200 16", "Merge failed"]);
        let error = run(&kernel).unwrap_err();
        assert!(format!("{error:#}").contains("run this command again"));
        assert_eq!(crate::exit::Exit::of(&error), crate::exit::Exit::Kernel);
        assert!(kernel.devices.borrow().is_empty());
    }

    #[test]
    fn names_are_safe() {
        assert_eq!(default_name(Path::new("/dev/vg/ro ot")), "ro_ot-apply");
    }
}
