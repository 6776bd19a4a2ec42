// SPDX-License-Identifier: GPL-2.0-or-later

//! Makes COW devices grow.

use super::backing::Backing;
use super::backing::Blocks;
use super::backing::Linear;
use super::backing::Loop;
use super::lvm;
use crate::dm::DevNum;
use crate::dm::Kernel;
use crate::loopdev;
use anyhow::anyhow;
use anyhow::Context;
use dmholey_cow::format::SECTOR_SIZE;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use std::fs::File;
use std::fs::OpenOptions;

/// Whose store it is.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// Its origin.
    pub origin: DevNum,
}

/// Makes a device `sectors` large, or a little more.
pub fn extend(
    kernel: &dyn Kernel,
    blocks: &dyn Blocks,
    backing: &Backing,
    sectors: u64,
    snapshot: &Snapshot,
) -> anyhow::Result<()> {
    match backing {
        Backing::Volume(volume) => {
            lvm::extend(kernel, volume, sectors, &snapshot.name, snapshot.origin)
        }
        Backing::Loop(device) => extend_loop(device, sectors),
        Backing::Linear(device) => extend_linear(kernel, blocks, device, sectors, snapshot),
    }
}

fn extend_loop(device: &Loop, sectors: u64) -> anyhow::Result<()> {
    let path = device.file.display();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&device.file)
        .with_context(|| {
            format!(
                "cannot open {path}, the file below {}",
                device.node.display()
            )
        })?;
    if !loopdev::is_over(&device.node, &file)? {
        return Err(anyhow!(
            "{path} is not the file below {} (any more)",
            device.node.display()
        ));
    }
    let size = sectors
        .checked_mul(SECTOR_SIZE)
        .and_then(|size| size.checked_add(device.offset))
        .ok_or_else(|| anyhow!("{sectors} sectors are too many"))?;
    lengthen(&file, size).with_context(|| format!("cannot make {path} larger"))?;
    loopdev::refresh(&device.node)
}

/// Makes a file `size` bytes long, with blocks of its own if the file system can do that: it is better to find out
/// now that there is no room for them.
fn lengthen(file: &File, size: u64) -> anyhow::Result<()> {
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(anyhow!("it is not a regular file"));
    }
    if meta.len() < size {
        let more = size - meta.len();
        match rustix::fs::fallocate(file, FallocateFlags::empty(), meta.len(), more) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(size)?,
            other => other?,
        }
    }
    // A store that is longer than its file after a power cut would be refused.
    file.sync_all()?;
    Ok(())
}

fn extend_linear(
    kernel: &dyn Kernel,
    blocks: &dyn Blocks,
    device: &Linear,
    sectors: u64,
    snapshot: &Snapshot,
) -> anyhow::Result<()> {
    let has: u64 = device.lines.iter().map(|line| line.len).sum();
    let more = sectors.saturating_sub(has);
    let end = device.end.saturating_add(more);
    let room = || blocks.sectors(device.below).context("cannot find its size");
    if room()? < end {
        extend(kernel, blocks, &device.grows, end, snapshot)?;
    }
    if room()? < end {
        return Err(anyhow!(
            "{} did not become as large as it should",
            device.below
        ));
    }
    let mut lines = device.lines.clone();
    if let Some(last) = lines.last_mut() {
        last.len = last.len.saturating_add(more);
    }
    kernel.reload(&device.name, &lines)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dm::fake::Fake;
    use crate::monitor::backing;
    use std::io;

    #[test]
    fn a_file_is_lengthened_and_never_cut() {
        let file = tempfile::tempfile().unwrap();
        lengthen(&file, 10_000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 10_000);
        lengthen(&file, 5000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 10_000);
        let folder = File::open("/").unwrap();
        assert!(lengthen(&folder, 5000).is_err());
    }

    struct Roomy(u64);

    impl Blocks for Roomy {
        fn sectors(&self, _: DevNum) -> io::Result<u64> {
            Ok(self.0)
        }

        fn loop_device(&self, device: DevNum) -> Option<Result<Loop, String>> {
            let found = Loop {
                node: "/dev/none".into(),
                file: "/none".into(),
                offset: 0,
            };
            (device.major == 7).then_some(Ok(found))
        }
    }

    #[test]
    fn a_linear_device_takes_the_room_below_it() {
        let kernel = Fake::new().with("a", "linear", "7:0 50");
        let number = DevNum {
            major: 253,
            minor: 0,
        };
        let snapshot = Snapshot {
            name: "s".to_owned(),
            origin: number,
        };
        let found = backing::find(&kernel, &Roomy(0), number).unwrap().unwrap();
        // Somebody has made room already: nothing below is touched.
        extend(&kernel, &Roomy(250), &found, 200, &snapshot).unwrap();
        let lines = kernel.table("a").unwrap();
        assert_eq!(lines[0].to_string(), "0 200 linear 7:0 50");
        let error = extend(&kernel, &Roomy(249), &found, 200, &snapshot).unwrap_err();
        assert!(error.to_string().contains("/none"), "{error}");
    }
}
