// SPDX-License-Identifier: GPL-2.0

//! A block device that a target uses.
//!
//! C header: [`include/linux/device-mapper.h`](srctree/include/linux/device-mapper.h)

use super::bindings;
use super::wait::Pass;
use core::ptr::NonNull;
use kernel::bindings::block_device;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::Arc;

/// How a device is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// For reading only.
    Read,
    /// For reading and writing.
    Write,
    /// As the table is: read-only tables open read-only.
    AsTable,
}

/// A counted reference to a block device that a target has opened.
///
/// The target's destructor waits for the last one before it gives the device back to the core.
#[derive(Clone)]
pub(crate) struct Device {
    inner: Arc<Inner>,
}

/// # Invariants
///
/// `bdev` is open for as long as `_pass` exists.
struct Inner {
    bdev: NonNull<block_device>,
    _pass: Pass,
}

// SAFETY: A block device may be used from any thread while it is open.
unsafe impl Send for Inner {}
// SAFETY: As above.
unsafe impl Sync for Inner {}

impl Device {
    /// Wraps an open device.
    ///
    /// # Safety
    ///
    /// `bdev` stays open until `pass` has been dropped.
    pub(super) unsafe fn from_raw(bdev: NonNull<block_device>, pass: Pass) -> Result<Self> {
        // INVARIANT: The caller promises it.
        let inner = Inner { bdev, _pass: pass };
        Ok(Self {
            inner: Arc::new(inner, GFP_KERNEL)?,
        })
    }

    /// The pointer for a call into C.
    pub(super) fn as_ptr(&self) -> *mut block_device {
        self.inner.bdev.as_ptr()
    }

    /// The device number, as the kernel keeps it.
    pub(crate) fn number(&self) -> DeviceNumber {
        // SAFETY: By the type invariant the device is open; its number does not change.
        DeviceNumber(unsafe { (*self.as_ptr()).bd_dev })
    }

    /// The size now, in sectors. It may grow while the device is open.
    pub(crate) fn sectors(&self) -> u64 {
        // SAFETY: By the type invariant the device is open.
        unsafe { bindings::dm_rs_bdev_nr_sectors(self.as_ptr()) }
    }

    /// The smallest unit of I/O, in sectors.
    pub(crate) fn block_sectors(&self) -> u32 {
        // SAFETY: By the type invariant the device is open.
        let bytes = unsafe { bindings::dm_rs_bdev_logical_block_size(self.as_ptr()) };
        (bytes >> 9).max(1)
    }

    /// Makes what was written before durable. Sleeps.
    pub(crate) fn flush(&self) -> Result {
        // SAFETY: By the type invariant the device is open.
        to_result(unsafe { kernel::bindings::blkdev_issue_flush(self.as_ptr()) })
    }
}

/// The number of a block device; printed as `major:minor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceNumber(pub(super) u32);

impl core::fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // The kernel's internal form: 12 bits of major above 20 bits of minor.
        write!(f, "{}:{}", self.0 >> 20, self.0 & 0xf_ffff)
    }
}

impl DeviceNumber {
    /// The device `major:minor`, if there can be one.
    pub(crate) fn new(major: u32, minor: u32) -> Option<Self> {
        (major < 1 << 12 && minor < 1 << 20).then_some(Self(major << 20 | minor))
    }
}

/// The kernel's printing has a trait of its own.
impl kernel::fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

/// A part of a device, for I/O.
#[derive(Clone, Copy)]
pub(crate) struct Region<'a> {
    /// The device.
    pub(crate) device: &'a Device,
    /// Where the region begins, in sectors.
    pub(crate) sector: u64,
    /// How long it is, in sectors.
    pub(crate) sectors: u64,
}

impl Region<'_> {
    /// The region in C's form.
    pub(super) fn to_raw(self) -> bindings::dm_io_region {
        bindings::dm_io_region {
            bdev: self.device.as_ptr(),
            sector: self.sector,
            count: self.sectors,
        }
    }
}
