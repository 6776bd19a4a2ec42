// SPDX-License-Identifier: GPL-2.0-or-later

//! Where the client's state must not be.

use crate::dm::DevNum;
use crate::exit::refuse;
use crate::exit::Exit;
use crate::monitor::backing::Sysfs;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Devices on devices are followed so deep.
const DEPTH: usize = 16;

/// Fails if the folder of the state is on the disk, or on a device above it, such as a snapshot. What is remembered there
/// would be gone when the machine boots from a new snapshot, and with it the way back and what is known of the keys; and
/// what is staged there would fill the store that has to keep what a merge overwrites.
pub(super) fn expect_elsewhere(state: &Path, disk: &Path) -> anyhow::Result<()> {
    // What cannot be looked at is told by whoever opens it.
    let (Ok(folder), Ok(meta)) = (std::fs::metadata(state), std::fs::metadata(disk)) else {
        return Ok(());
    };
    if !meta.file_type().is_block_device() {
        return Ok(());
    }
    let disk_number = DevNum::from_rdev(meta.rdev());
    if !is_above(
        DevNum::from_rdev(folder.dev()),
        disk_number,
        DEPTH,
        &Sysfs::below,
    ) {
        return Ok(());
    }
    let text = format!(
        "{}: lies on {} or a snapshot of it, so that it would not outlive an update; put it on another file system (state \
         in the configuration)",
        state.display(),
        disk.display(),
    );
    Err(refuse(Exit::Refused, text))
}

/// Whether a device is this one, or on it.
fn is_above(
    device: DevNum,
    disk: DevNum,
    depth: usize,
    below: &dyn Fn(DevNum) -> Vec<DevNum>,
) -> bool {
    let is_on = |device| depth > 0 && is_above(device, disk, depth - 1, below);
    device == disk || below(device).into_iter().any(is_on)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_on_the_disk_is_found() {
        let number = |minor| DevNum { major: 8, minor };
        // 5 is a volume on a snapshot, 4, of 1 in 2; 3 is a volume beside them; 6 claims to be on itself.
        let below = |device: DevNum| match device.minor {
            5 => vec![number(4)],
            4 => vec![number(1), number(2)],
            6 => vec![number(6)],
            _ => Vec::new(),
        };
        let on_the_disk = (1..=6).filter(|&n| is_above(number(n), number(1), DEPTH, &below));
        assert_eq!(on_the_disk.collect::<Vec<u32>>(), [1, 4, 5]);
    }
}
