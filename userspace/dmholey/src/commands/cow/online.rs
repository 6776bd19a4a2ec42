// SPDX-License-Identifier: GPL-2.0-or-later

//! The kernel merges an image into a live origin: `dmholey cow apply --online`, `dmholey update apply`.

use super::open_store;
use super::room;
use crate::blockdev::BlockDev;
use crate::commands::line::FamilyArgs;
use crate::commands::merge::Pace;
use crate::dm;
use crate::dm::flow;
use crate::dm::flow::StoreFacts;
use crate::dm::ioctl::Dm;
use crate::dm::merge;
use crate::dm::node;
use crate::dm::table;
use crate::dm::table::Family;
use crate::dm::table::Overlay;
use crate::dm::table::Role;
use crate::dm::table::Table;
use crate::dm::DevNum;
use crate::dm::Kernel;
use crate::dm::Nodes;
use crate::exit::refuse;
use crate::exit::Exit;
use crate::loopdev;
use crate::loopdev::LoopDevice;
use crate::monitor::backing::Blocks;
use crate::monitor::backing::Sysfs;
use crate::output::Output;
use crate::progress::Meter;
use crate::signals;
use anyhow::Context;
use clap::Args;
use dmholey_cow::apply;
use dmholey_cow::apply::Applied;
use dmholey_cow::copy;
use dmholey_cow::disk::Access;
use dmholey_cow::progress::Stoppable;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use dmholey_cow::Progress;
use dmholey_cow::Store;
use holey_core::table::Features;
use holey_core::table::StoreKind;
use std::path::Path;
use std::time::Duration;

/// The block device that the kernel merges from; it goes when this is dropped.
struct Source {
    device: BlockDev,
    _loop: Option<LoopDevice>,
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
    /// Whether the kernel is to merge. What a killed run has made for that and never started goes: it would hold the disk.
    pub(crate) fn is_online(&self, disk: &Path) -> anyhow::Result<bool> {
        let disk = Device::open(disk, Access::Read)?;
        // Where device-mapper cannot be asked, a device in use is still refused when it is opened.
        let (true, Ok(dm)) = (disk.is_block(), Dm::open()) else {
            return Ok(self.online);
        };
        let origin = DevNum::from_rdev(disk.rdev());
        flow::remove_unused(&dm, &node::DevMapper, &uuid(origin))?;
        Ok(self.online || (!self.offline && !flow::users_of(&dm, origin)?.is_empty()))
    }
}

/// Merges an image into a disk, and takes everything down again that it made for that. A merge of the same image
/// that was begun by a run that was killed goes on: it is waited for, and taken down.
pub(crate) fn merge(what: &Merging<'_>, output: Output) -> anyhow::Result<Applied> {
    let mut store = open_store(what.image)?;
    let (origin, disk) = BlockDev::open(what.disk)?;
    let dm = Dm::open()?;
    signals::install()?;
    let chunk = store.header().chunk;
    let meter = Meter::with_events(format!("merging into {}", what.disk.display()), output);
    let interval = what.how.pace.interval();
    let is_store = |cow| is_over(cow, store.disk());
    if let Some(name) = under_way(&dm, origin.number, &is_store)? {
        // The list is being changed: what is left is known to the kernel only.
        let bytes = merge::look(&dm, &name).map_or(0, |merge| merge.left_bytes);
        finish(&dm, &node::DevMapper, &name, interval, &meter)?;
        return Ok(Applied {
            exceptions: bytes / chunk.bytes() as u64,
            bytes,
        });
    }
    let survey = apply::plan(&mut store, &disk.name(), disk.size())?;
    room::expect(&dm, origin.number, &store)?;
    let family = match flow::stock_is_there() {
        true => family(&dm, origin.number, what.how.family.family())?,
        false => what.how.family.family(),
    };
    drop(disk);
    let source = source(what, &store, &meter)?;
    if meter.stop() {
        return Err(dmholey_cow::Error::Interrupted.into());
    }
    let table = Table {
        role: Role::Merge,
        family,
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
    flow::create(&dm, &node::DevMapper, &name, &uuid(origin.number), &table)?;
    finish(&dm, &node::DevMapper, &name, interval, &meter)?;
    Ok(Applied {
        exceptions: survey.exceptions,
        bytes: survey.exceptions * chunk.bytes() as u64,
    })
}

/// Where there are two modules, whose target has to merge: that of the one which keeps what the snapshots of the disk show.
/// The other one would overwrite it.
fn family(kernel: &dyn Kernel, origin: DevNum, asked: Family) -> anyhow::Result<Family> {
    let users = flow::users_of(kernel, origin)?;
    let Some(&(ref name, _, family)) = users.first() else {
        return Ok(asked);
    };
    let other = users.iter().find(|(_, _, other)| *other != family);
    if let Some((other, _, _)) = other {
        let text = format!(
            "{name} and {other}: use the disk by targets of two modules; a merge keeps only what is shown by those of one"
        );
        return Err(refuse(Exit::Refused, text));
    }
    if asked == Family::Stock && family != asked {
        let text = format!(
            "{name}: uses the disk by a target that is not dm-snapshot's; leave out --stock"
        );
        return Err(refuse(Exit::Refused, text));
    }
    Ok(family)
}

/// Whether the kernel merges an image into a disk already, for a run that was killed. Fails if it could not do so now.
pub(crate) fn goes_on(image: &Path, disk: &Path) -> anyhow::Result<bool> {
    let store = open_store(image)?;
    let (origin, _) = BlockDev::open(disk)?;
    let dm = Dm::open()?;
    let goes_on = under_way(&dm, origin.number, &|cow| is_over(cow, store.disk()))?.is_some();
    if !goes_on {
        room::expect(&dm, origin.number, &store)?;
    }
    Ok(goes_on)
}

/// Takes down the merge of an image into a disk that a run has left behind which was killed, if there is one,
/// wherever it is. The disk is between the versions after that.
pub(crate) fn stop(image: &Path, disk: &Path) -> anyhow::Result<()> {
    let image = Device::open(image, Access::Read)?;
    let (origin, _) = BlockDev::open(disk)?;
    let dm = Dm::open()?;
    for user in users(&dm)? {
        if user.merges_into(origin.number) && is_over(user.facts.cow, &image)? {
            flow::remove(&dm, &node::DevMapper, &user.name, false)?;
        }
    }
    Ok(())
}

/// A device that has a store.
struct User {
    name: String,
    role: Role,
    facts: StoreFacts,
}

impl User {
    fn merges_into(&self, origin: DevNum) -> bool {
        self.role == Role::Merge && self.facts.origin == origin
    }
}

/// All devices that have a store.
fn users(kernel: &dyn Kernel) -> dm::Result<Vec<User>> {
    let tables = flow::tables(kernel)?.into_iter();
    let users = tables.filter_map(|(name, lines)| {
        let line = lines.first()?;
        let (role, _) = table::target_of(&line.target)?;
        let facts = StoreFacts::of(line)?;
        Some(User { name, role, facts })
    });
    Ok(users.collect())
}

/// Says that a merge device was made here, and for which disk; the kernel lets no two have it.
fn uuid(origin: DevNum) -> String {
    format!("DMHOLEY-apply-{origin}")
}

/// The device that merges this store into this origin already. Neither of them may have another merge: two on one
/// store would each take entries from its list that the other one goes on to use.
fn under_way(
    kernel: &dyn Kernel,
    origin: DevNum,
    is_store: &dyn Fn(DevNum) -> anyhow::Result<bool>,
) -> anyhow::Result<Option<String>> {
    for user in users(kernel)? {
        let name = &user.name;
        let why = match (is_store(user.facts.cow)?, user.merges_into(origin)) {
            (true, true) => return Ok(Some(user.name)),
            (true, false) if user.role == Role::Merge => {
                "merges this store into another disk; it cannot be merged twice".to_owned()
            }
            (false, true) => format!(
                "merges another store into this disk; wait for its end (dmholey merge --wait {name}), then remove \
                 it (dmholey remove {name})"
            ),
            _ => continue,
        };
        return Err(refuse(Exit::Refused, format!("{name}: {why}")));
    }
    Ok(None)
}

/// Whether a COW device is this store: the same device, or a loop device over the same file.
fn is_over(cow: DevNum, store: &Device) -> anyhow::Result<bool> {
    if store.is_block() {
        return Ok(cow == DevNum::from_rdev(store.rdev()));
    }
    match Sysfs.loop_device(cow) {
        Some(Ok(found)) => loopdev::is_over(&found.node, store.file()),
        // Neither is anything that was made here.
        Some(Err(_)) | None => Ok(false),
    }
}

/// Waits for a merge device, and removes it whatever happened.
fn finish(
    kernel: &dyn Kernel,
    nodes: &dyn Nodes,
    name: &str,
    interval: Duration,
    progress: &dyn Progress,
) -> anyhow::Result<()> {
    let sleep = &mut signals::sleep;
    let merged = merge::wait(kernel, name, interval, progress, sleep)
        .context("the disk is between the versions; run this command again to finish");
    let removed = flow::remove(kernel, nodes, name, false);
    merged?;
    removed?;
    Ok(())
}

fn source(
    what: &Merging<'_>,
    store: &Store<Device>,
    watch: &dyn Progress,
) -> anyhow::Result<Source> {
    let keep = !what.consume;
    let copy = keep
        .then(|| copy::private(store, what.copy_in, &Stoppable(watch)))
        .transpose()?;
    if let (true, None) = (store.disk().is_block(), &copy) {
        let (device, _) = BlockDev::open(what.image)?;
        return Ok(Source {
            device,
            _loop: None,
        });
    }
    let attached = LoopDevice::attach(copy.as_ref().map_or(what.image, |copy| copy.path()))?;
    // From here on the copy is the loop device's alone, so that it goes with that whatever becomes of this run.
    drop(copy);
    let (device, _) = BlockDev::open(attached.path())?;
    Ok(Source {
        device,
        _loop: Some(attached),
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
        flow::create(kernel, kernel, "m", &uuid(ORIGIN), &table())?;
        finish(kernel, kernel, "m", Duration::ZERO, &Silent)
    }

    #[test]
    fn the_device_goes_after_the_merge() {
        let kernel = Fake::new().says(&["116/200 16", "32/200 16", "16/200 16"]);
        run(&kernel).unwrap();
        assert!(kernel.devices.borrow().is_empty());
        let log = kernel.log.borrow();
        assert_eq!(
            log[..4],
            ["create m", "load m", "resume-hidden m", "node m 253:0"]
        );
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

    const ORIGIN: DevNum = DevNum { major: 8, minor: 1 };

    /// Looks for a merge of the store 7:3 into 8:1.
    fn look(kernel: &Fake) -> anyhow::Result<Option<String>> {
        let store = DevNum { major: 7, minor: 3 };
        under_way(kernel, ORIGIN, &|cow| Ok(cow == store))
    }

    #[test]
    fn the_merge_of_a_run_that_was_killed_goes_on() {
        let kernel = Fake::new()
            .with("a", "holey-snapshot", "8:1 8:2 P 8")
            .with("b", "holey-origin", "8:1")
            .with("c", "linear", "8:1 0")
            .with("d", "holey-merge", "8:9 8:3 P 8")
            // By whatever name.
            .with("other", "snapshot-merge", "8:1 7:3 P 8")
            .says(&["32/200 16", "16/200 16"]);
        let name = look(&kernel).unwrap().unwrap();
        assert_eq!(name, "other");
        finish(&kernel, &kernel, &name, Duration::ZERO, &Silent).unwrap();
        let left: Vec<String> = kernel.devices.borrow().keys().cloned().collect();
        assert_eq!(left, ["a", "b", "c", "d"]);
        let log = kernel.log.borrow();
        assert!(!log.iter().any(|line| line.starts_with("create")));
    }

    #[test]
    fn who_keeps_what_snapshots_show_merges() {
        let stock = ("s", "snapshot", "8:1 8:2 P 8");
        let holey = ("h", "holey-snapshot", "8:1 8:3 P 8");
        let family = |devices: &[(&str, &'static str, &'static str)], asked| {
            let kernel = devices
                .iter()
                .fold(Fake::new(), |kernel, (name, target, params)| {
                    kernel.with(name, target, params)
                });
            family(&kernel, ORIGIN, asked)
        };
        assert_eq!(family(&[], Family::Holey).unwrap(), Family::Holey);
        assert_eq!(family(&[], Family::Stock).unwrap(), Family::Stock);
        assert_eq!(family(&[stock], Family::Holey).unwrap(), Family::Stock);
        assert_eq!(family(&[holey], Family::Holey).unwrap(), Family::Holey);
        for (devices, asked) in [
            (&[holey][..], Family::Stock),
            (&[holey, stock], Family::Holey),
        ] {
            let error = family(devices, asked).unwrap_err();
            assert_eq!(Exit::of(&error), Exit::Refused);
        }
    }

    #[test]
    fn what_was_never_put_to_use_goes() {
        let kernel = Fake::new().with("c", "linear", "8:1 0");
        for (name, uuid) in [("m", uuid(ORIGIN)), ("n", "else".to_owned())] {
            kernel.create(name, &uuid).unwrap();
        }
        flow::remove_unused(&kernel, &kernel, &uuid(ORIGIN)).unwrap();
        let left: Vec<String> = kernel.devices.borrow().keys().cloned().collect();
        assert_eq!(left, ["c", "n"]);
    }

    #[test]
    fn nothing_is_merged_twice() {
        assert_eq!(look(&Fake::new()).unwrap(), None);
        let cases = [
            ("8:1 7:4 P 8", "merges another store into this disk"),
            ("8:2 7:3 P 8", "merges this store into another disk"),
        ];
        for (params, part) in cases {
            let kernel = Fake::new().with("x", "holey-merge", params);
            let error = look(&kernel).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(Exit::of(&error), Exit::Refused);
        }
    }

    #[test]
    fn a_name_that_is_taken_is_told() {
        let kernel = Fake::new().with("m", "linear", "8:1 0");
        assert_eq!(look(&kernel).unwrap(), None);
        let error = run(&kernel).unwrap_err().to_string();
        assert!(error.contains("m: a device of this name exists"), "{error}");
        assert!(kernel.devices.borrow().contains_key("m"));
    }

    #[test]
    fn names_are_safe() {
        assert_eq!(default_name(Path::new("/dev/vg/ro ot")), "ro_ot-apply");
    }
}
