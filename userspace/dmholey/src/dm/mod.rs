// SPDX-License-Identifier: GPL-2.0-or-later

//! Device-mapper, as far as dmholey needs it.
//!
//! [`table`] and [`status`] turn the kernel's lines into values and back. [`Kernel`] is what the
//! kernel can be asked; [`ioctl`] asks it, and tests have one of their own. There is no need for
//! udev: where it runs, it is waited for, and elsewhere nodes are made here. [`flow`] combines the
//! questions into what the commands do, so that the combinations can be tested without a kernel.

pub mod error;
#[cfg(test)]
pub(crate) mod fake;
pub mod flow;
pub mod ioctl;
mod kmsg;
pub mod merge;
pub mod moment;
pub mod node;
pub mod status;
pub mod table;
mod udev;
mod wire;

pub use error::Error;

use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// The result of asking the kernel.
pub type Result<T> = std::result::Result<T, Error>;

/// The number of a block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevNum {
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

impl DevNum {
    /// From the number as `stat` encodes it.
    pub fn from_rdev(rdev: u64) -> Self {
        Self {
            major: rustix::fs::major(rdev),
            minor: rustix::fs::minor(rdev),
        }
    }

    /// The number as `stat` encodes it.
    pub fn to_rdev(self) -> u64 {
        rustix::fs::makedev(self.major, self.minor)
    }
}

impl fmt::Display for DevNum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl FromStr for DevNum {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let (major, minor) = text.split_once(':').ok_or(())?;
        Ok(Self {
            major: major.parse().map_err(|_| ())?,
            minor: minor.parse().map_err(|_| ())?,
        })
    }
}

impl Serialize for DevNum {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// One line of a table or of a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// First sector of the device that it is about.
    pub start: u64,
    /// How many sectors.
    pub len: u64,
    /// Target type.
    pub target: String,
    /// The rest, as the target wants or gives it.
    pub params: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, len) = (self.start, self.len);
        write!(f, "{start} {len} {} {}", self.target, self.params)
    }
}

/// A device, apart from its tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its number.
    pub number: DevNum,
    /// Who made it and what it is; empty if nobody said.
    pub uuid: String,
    /// I/O is held back.
    pub suspended: bool,
    /// There is a table that was loaded and is not in use yet.
    pub inactive: bool,
    /// How many events it has had.
    pub events: u32,
}

/// What the kernel's device-mapper can be asked. Devices go by their names.
pub trait Kernel {
    /// The target types that are loaded now.
    fn targets(&self) -> Result<Vec<String>>;

    /// All devices.
    fn devices(&self) -> Result<Vec<(String, DevNum)>>;

    /// Makes a device without a table. `uuid` says who makes it and what it is; it may be empty.
    fn create(&self, name: &str, uuid: &str) -> Result<DevNum>;

    /// Loads a table of one line, not yet in use.
    fn load(&self, name: &str, line: &Line) -> Result<()>;

    /// Puts the loaded table to use.
    fn resume(&self, name: &str) -> Result<()>;

    /// Puts the loaded table to use, or a suspended device. udev's rules make its node, and leave what is on it alone: no
    /// link by UUID leads to it, and LVM does not look for volumes there.
    fn resume_hidden(&self, name: &str) -> Result<()>;

    /// Removes a device, or has it removed when its last user goes.
    fn remove(&self, name: &str, deferred: bool) -> Result<()>;

    /// The table in use.
    fn table(&self, name: &str) -> Result<Vec<Line>>;

    /// The status of the table in use.
    fn status(&self, name: &str) -> Result<Vec<Line>>;

    /// What there is to say about a device apart from its tables.
    fn info(&self, name: &str) -> Result<Info>;

    /// Suspends a device: new I/O is held back, and what is under way has ended. With `noflush` the
    /// device is not asked to write out what it holds back itself, and no file system is frozen.
    fn suspend(&self, name: &str, noflush: bool) -> Result<()>;

    /// Puts a suspended device to use again; nothing is waited for.
    fn wake(&self, name: &str) -> Result<()>;

    /// Drops a table that was loaded and is not in use.
    fn clear(&self, name: &str) -> Result<()>;

    /// Gives a device another table of the same use, under load.
    fn reload(&self, name: &str, lines: &[Line]) -> Result<()>;
}

/// Where device nodes live, so that the flows can be tested without any.
pub trait Nodes {
    /// Makes sure that the device has a node.
    fn add(&self, name: &str, number: DevNum) -> std::io::Result<()>;

    /// Makes sure that it has none any more.
    fn remove(&self, name: &str) -> std::io::Result<()>;
}
