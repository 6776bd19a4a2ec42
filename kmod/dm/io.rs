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
use core::ptr;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering;
use kernel::ffi::c_ulong;
use kernel::ffi::c_void;
use kernel::prelude::*;
use kernel::sync::Completion;

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

    /// Reads `count` pieces of `len` bytes at the same time, up to 64 of them: piece `n` from
    /// `sector(n)` of `device` to place `n` of the buffer. Returns which could not be read, a bit
    /// each. Sleeps.
    pub(crate) fn read_many(
        &self,
        device: &Device,
        sector: impl Fn(usize) -> u64,
        buffer: &mut IoBuffer,
        len: usize,
        count: usize,
    ) -> Result<u64> {
        let failed = AtomicU64::new(0);
        let left = AtomicUsize::new(1);
        pin_init::stack_pin_init!(let done = Completion::new());
        let reads = Reads {
            failed: &failed,
            left: &left,
            done: &done,
        };
        let mut pieces = KVec::with_capacity(count, GFP_KERNEL)?;
        for n in 0..count.min(64) {
            pieces
                .push_within_capacity(Piece { reads: &reads, n })
                .map_err(|_| ENOMEM)?;
        }
        let mut result = Ok(());
        for (piece, bytes) in pieces.iter().zip(buffer.chunks_exact_mut(len.max(1))) {
            let region = match region(device, sector(piece.n), bytes.len()) {
                Ok(region) => region,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            };
            left.fetch_add(1, Ordering::Relaxed);
            let notify = bindings::dm_io_notify {
                fn_: Some(piece_done),
                context: ptr::from_ref(piece).cast_mut().cast(),
            };
            let flags = kernel::bindings::req_op_REQ_OP_READ;
            // SAFETY: `bytes` lies in memory from vmalloc and is borrowed until all are done, which
            // is waited for below. So is the piece.
            if unsafe { self.start(flags, bytes.as_mut_ptr(), region, notify, ptr::null_mut()) }
                .is_err()
            {
                failed.fetch_or(1 << piece.n, Ordering::Relaxed);
                reads.count_down();
            }
        }
        reads.count_down();
        done.wait_for_completion();
        result.map(|()| failed.load(Ordering::Relaxed))
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
        region: bindings::dm_io_region,
    ) -> Result {
        let mut failed = 0;
        let notify = bindings::dm_io_notify {
            fn_: None,
            context: ptr::null_mut(),
        };
        // SAFETY: Without a callback the call returns when the I/O is done; the memory is valid by
        // the caller's promise.
        unsafe { self.start(flags, bytes, region, notify, &mut failed) }?;
        if failed != 0 {
            return Err(EIO);
        }
        Ok(())
    }

    /// # Safety
    ///
    /// As for [`Self::transfer`]; the memory is valid until the I/O is done. With a callback it is
    /// called then, or never if this is an error; without, `failed` is valid for a write.
    unsafe fn start(
        &self,
        flags: u32,
        bytes: *mut u8,
        mut region: bindings::dm_io_region,
        notify: bindings::dm_io_notify,
        failed: *mut c_ulong,
    ) -> Result {
        let mut request = bindings::dm_io_request {
            bi_opf: flags,
            mem: bindings::dm_io_memory {
                type_: bindings::dm_io_mem_type_DM_IO_VMA,
                offset: 0,
                ptr: bindings::dm_io_memory__bindgen_ty_1 { vma: bytes.cast() },
            },
            notify,
            client: self.client.as_ptr(),
        };
        // SAFETY: Request and region are copied by the call; the rest is the caller's promise.
        let result =
            unsafe { bindings::dm_io(&mut request, 1, &mut region, failed, ptr::null_mut(), 0) };
        kernel::error::to_result(result)
    }
}

/// Reads that are waited for together.
struct Reads<'a> {
    failed: &'a AtomicU64,
    /// Those that are under way, and one for whoever sends them.
    left: &'a AtomicUsize,
    done: &'a Completion,
}

impl Reads<'_> {
    fn count_down(&self) {
        let done = self.done;
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            done.complete_all();
        }
    }
}

/// One of them.
struct Piece<'a> {
    reads: &'a Reads<'a>,
    n: usize,
}

/// # Safety
///
/// `context` points to a [`Piece`] of reads that are still waited for; called once for each.
unsafe extern "C" fn piece_done(error: c_ulong, _unsupported: c_ulong, context: *mut c_void) {
    // SAFETY: By the contract of this function.
    let piece = unsafe { &*context.cast::<Piece<'_>>() };
    if error != 0 {
        piece.reads.failed.fetch_or(1 << piece.n, Ordering::Relaxed);
    }
    piece.reads.count_down();
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
