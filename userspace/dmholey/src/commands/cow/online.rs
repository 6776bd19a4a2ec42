// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey cow apply --online`: the kernel merges an image into a live origin.

use super::apply::Apply;
use super::apply::Report;
use super::open_store;
use crate::blockdev::BlockDev;
use crate::dm::flow;
use crate::dm::ioctl::Dm;
use crate::dm::merge;
use crate::dm::node;
use crate::dm::table::Overlay;
use crate::dm::table::Role;
use crate::dm::table::Table;
use crate::dm::Kernel;
use crate::dm::Nodes;
use crate::loopdev::LoopDevice;
use crate::output::Output;
use crate::progress::Meter;
use crate::signals;
use anyhow::Context;
use dmholey_cow::apply;
use dmholey_cow::copy;
use dmholey_cow::format::SECTOR_SIZE;
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

/// Merges `args.image` into `args.to`, and takes everything down again that it made for that.
pub(super) fn apply(args: &Apply, output: Output) -> anyhow::Result<Report> {
    let mut store = open_store(&args.image)?;
    let (origin, disk) = BlockDev::open(&args.to)?;
    let survey = apply::plan(&mut store, &disk.name(), disk.size())?;
    drop(disk);
    let dm = Dm::open()?;
    signals::install()?;
    let source = source(args, &store)?;
    let table = Table {
        role: Role::Merge,
        family: args.family.family(),
        len: origin.sectors,
        origin: origin.number.to_string(),
        overlay: Some(Overlay {
            cow: source.device.number.to_string(),
            store: StoreKind::Persistent,
            chunk: store.header().chunk.sectors(),
            features: Features::default(),
        }),
    };
    let name = args.name.clone().unwrap_or_else(|| default_name(&args.to));
    let meter = Meter::with_events(format!("merging into {}", args.to.display()), output);
    let interval = args.pace.interval();
    merge_once(&dm, &node::DevMapper, &name, &table, interval, &meter)?;
    Ok(Report {
        disk: args.to.display().to_string(),
        image: args.image.display().to_string(),
        way: "online",
        exceptions: survey.exceptions,
        bytes: survey.exceptions * u64::from(store.header().chunk.sectors()) * SECTOR_SIZE,
        consumed: args.consume,
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

fn source(args: &Apply, store: &Store<Device>) -> anyhow::Result<Source> {
    let keep = !args.consume;
    let copy = keep
        .then(|| copy::private(store, args.copy_in.as_deref()))
        .transpose()?;
    if let (true, None) = (store.disk().is_block(), &copy) {
        let (device, _) = BlockDev::open(&args.image)?;
        return Ok(Source {
            device,
            _loop: None,
            _copy: None,
        });
    }
    let file: PathBuf = copy
        .as_ref()
        .map_or_else(|| args.image.clone(), |copy| copy.path().to_path_buf());
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
