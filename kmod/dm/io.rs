// SPDX-License-Identifier: GPL-2.0

//! Synchronous reads and writes of metadata.
//!
//! C header: [`include/linux/dm-io.h`](srctree/include/linux/dm-io.h)

use super::bindings;
use super::device::Device;
use super::device::Region;
use core::ops::Deref;
use core::ops::DerefMut;
use core::ops::Range;
use core::ptr::NonNull;
use kernel::prelude::*;

const SECTOR: usize = 512;

/// Memory for I/O, page aligned and zeroed at first.
pub(crate) struct IoBuffer {
    bytes: VVec<u8>,
}

impl IoBuffer {
    /// Allocates `len` bytes. May sleep.
    pub(crate) fn new(len: usize) -> Result<Self> {
        Ok(Self {
            bytes: VVec::from_elem(0, len, GFP_KERNEL)?,
        })
    }
}

impl Deref for IoBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for IoBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// What a write promises when it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Nothing: it may sit in the device's cache.
    Volatile,
    /// All that was written before, and then this, is on stable media.
    FlushedAndDurable,
}

/// A client of dm-io.
///
/// # Invariants
///
/// `client` is a valid client that this value owns.
pub(crate) struct IoClient {
    client: NonNull<bindings::dm_io_client>,
}

// SAFETY: dm-io clients may be used from any thread.
unsafe impl Send for IoClient {}
// SAFETY: As above.
unsafe impl Sync for IoClient {}

impl IoClient {
    /// Creates a client. May sleep.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: No arguments.
        let client = unsafe { bindings::dm_io_client_create() };
        // INVARIANT: Just created.
        Ok(Self {
            client: NonNull::new(kernel::error::from_err_ptr(client)?).ok_or(ENOMEM)?,
        })
    }

    /// Reads from `sector` of `device` into `part` of the buffer. Sleeps.
    pub(crate) fn read(
        &self,
        device: &Device,
        sector: u64,
        buffer: &mut IoBuffer,
        part: Range<usize>,
    ) -> Result {
        let bytes = buffer.get_mut(part).ok_or(EINVAL)?;
        let region = region(device, sector, bytes.len())?;
        let flags = kernel::bindings::req_op_REQ_OP_READ;
        // SAFETY: `bytes` lies in memory from vmalloc and is borrowed until the call is done.
        unsafe { self.transfer(flags, bytes.as_mut_ptr(), region) }
    }

    /// Writes `part` of the buffer to `sector` of `device`. Sleeps.
    pub(crate) fn write(
        &self,
        device: &Device,
        sector: u64,
        buffer: &IoBuffer,
        part: Range<usize>,
        durability: Durability,
    ) -> Result {
        let bytes = buffer.get(part).ok_or(EINVAL)?;
        let region = region(device, sector, bytes.len())?;
        let mut flags = kernel::bindings::req_op_REQ_OP_WRITE | super::flags::SYNC;
        if durability == Durability::FlushedAndDurable {
            flags |= super::flags::PREFLUSH | super::flags::FUA;
        }
        // SAFETY: `bytes` lies in memory from vmalloc and is borrowed until the call is done; a
        // write only reads it.
        unsafe { self.transfer(flags, bytes.as_ptr().cast_mut(), region) }
    }

    /// # Safety
    ///
    /// `bytes` points into vmalloc memory that is valid for the region's length, and for writes if
    /// `flags` say that this is a read.
    unsafe fn transfer(
        &self,
        flags: u32,
        bytes: *mut u8,
        mut region: bindings::dm_io_region,
    ) -> Result {
        let mut request = bindings::dm_io_request {
            bi_opf: flags,
            mem: bindings::dm_io_memory {
                type_: bindings::dm_io_mem_type_DM_IO_VMA,
                offset: 0,
                ptr: bindings::dm_io_memory__bindgen_ty_1 { vma: bytes.cast() },
            },
            notify: bindings::dm_io_notify {
                fn_: None,
                context: core::ptr::null_mut(),
            },
            client: self.client.as_ptr(),
        };
        let mut failed = 0;
        // SAFETY: Without a callback the call returns when the I/O is done; all pointers are valid
        // until then, the memory by the caller's promise.
        let result = unsafe {
            bindings::dm_io(
                &mut request,
                1,
                &mut region,
                &mut failed,
                core::ptr::null_mut(),
                0,
            )
        };
        kernel::error::to_result(result)?;
        if failed != 0 {
            return Err(EIO);
        }
        Ok(())
    }
}

impl Drop for IoClient {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the client is ours; all its I/O was synchronous.
        unsafe { bindings::dm_io_client_destroy(self.client.as_ptr()) }
    }
}

fn region(device: &Device, sector: u64, bytes: usize) -> Result<bindings::dm_io_region> {
    if bytes == 0 || bytes % SECTOR != 0 {
        return Err(EINVAL);
    }
    let region = Region {
        device,
        sector,
        sectors: (bytes / SECTOR) as u64,
    };
    Ok(region.to_raw())
}
