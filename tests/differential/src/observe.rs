// SPDX-License-Identifier: GPL-2.0-or-later

//! What a device shows.

use std::fs;
use std::path::Path;

/// Names and values of a device's limits.
pub(crate) type Limits = Vec<(&'static str, String)>;

/// Files in a block device's folder of sysfs that say what the device can do.
const LIMITS: [&str; 18] = [
    "size",
    "ro",
    "alignment_offset",
    "discard_alignment",
    "logical_block_size",
    "physical_block_size",
    "minimum_io_size",
    "optimal_io_size",
    "discard_granularity",
    "discard_max_bytes",
    "write_zeroes_max_bytes",
    "max_hw_sectors_kb",
    "max_segments",
    "max_segment_size",
    "virt_boundary_mask",
    "chunk_sectors",
    "write_cache",
    "fua",
];

/// What one device of one side shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Observation {
    pub(crate) content: Reading,
    /// Status without length and target name.
    pub(crate) status: String,
    /// Table likewise, with names in braces for device numbers.
    pub(crate) table: String,
    pub(crate) suspended: bool,
    /// A table is loaded that is not in use.
    pub(crate) inactive: bool,
    pub(crate) events: u32,
    pub(crate) limits: Limits,
}

/// What came of reading a whole device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// It is what it should be.
    Right,
    Wrong(String),
    /// It could not be read, and should have been.
    Failed(String),
    /// It could be read, and should not have been.
    Succeeded,
    Unread,
}

/// The limits of the device with this number.
pub(crate) fn limits(minor: u32) -> Limits {
    let folder = Path::new("/sys/block").join(format!("dm-{minor}"));
    let read = |name| {
        let path = folder.join(name);
        fs::read_to_string(&path).or_else(|_| fs::read_to_string(folder.join("queue").join(name)))
    };
    let value = |text: String| text.trim().to_owned();
    LIMITS
        .iter()
        .filter_map(|name| Some((*name, value(read(name).ok()?))))
        .collect()
}
