// SPDX-License-Identifier: GPL-2.0

//! Memory that takes the data of bios, and writes of it to a device.
//!
//! A write holds references to the pages that it is made of, so that memory may be dropped while
//! some of it is on its way.
//!
//! C header: [`include/linux/bio.h`](srctree/include/linux/bio.h)

use super::bindings;
use super::bio::Bio;
use super::copy::BioSet;
use super::copy::Block;
use super::device::Device;
use super::pool::MemPool;
use super::pool::PoolBox;
use super::wait::Gate;
use super::wait::Pass;
use core::mem;
use core::ops::Range;
use core::ptr;
use core::ptr::NonNull;
use kernel::bindings::bio;
use kernel::bindings::bio_vec;
use kernel::bindings::page;
use kernel::ffi::c_uint;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::types::Opaque;

/// Parts of memory that one bio's data is copied to, at most.
const MOST_PARTS: usize = 16;
/// Writes that can be made when memory is short.
const RESERVED_WRITES: u16 = 16;

/// Pages. What they hold is read and written through bios only.
pub(crate) struct Memory {
    pages: KVVec<Block>,
}

impl Memory {
    /// Allocates `len` bytes. May sleep.
    pub(crate) fn new(len: usize) -> Result<Self> {
        let count = len.div_ceil(PAGE_SIZE);
        let mut pages = KVVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            let page = Block::new(0, true).ok_or(ENOMEM)?;
            pages.push_within_capacity(page).map_err(|_| ENOMEM)?;
        }
        Ok(Self { pages })
    }

    /// Fills parts of it, each within a page, with the data of a write, in order.
    pub(crate) fn fill<D>(&mut self, from: &Bio<D>, parts: &[Range<usize>]) {
        self.with_bio(parts, |memory| {
            // SAFETY: Both are valid bios with memory that nobody else uses.
            unsafe { kernel::bindings::bio_copy_data(memory, from.as_ptr()) }
        });
    }

    /// Copies parts of it, each within a page, to where a read wants its data, in order.
    pub(crate) fn copy_to<D>(&self, to: &mut Bio<D>, parts: &[Range<usize>]) {
        self.with_bio(parts, |memory| {
            // SAFETY: As above; of the memory it only reads.
            unsafe { kernel::bindings::bio_copy_data(to.as_ptr(), memory) }
        });
    }

    /// Calls `work` with a bio over parts of the memory. Never sleeps.
    fn with_bio(&self, parts: &[Range<usize>], work: impl FnOnce(*mut bio)) {
        let table = Opaque::<[bio_vec; MOST_PARTS]>::zeroed();
        let memory = Opaque::<bio>::uninit();
        let (write, most) = (kernel::bindings::req_op_REQ_OP_WRITE, MOST_PARTS as u16);
        // SAFETY: Bio and table are valid for writes, and stay where they are until the end of this.
        unsafe {
            kernel::bindings::bio_init(
                memory.get(),
                ptr::null_mut(),
                table.get().cast(),
                most,
                write,
            );
        }
        let parts = parts.iter().filter(|part| !part.is_empty());
        for part in parts.take(MOST_PARTS) {
            if let Some((page, offset)) = self.place(part) {
                // SAFETY: The table has room for so many, and the part lies in the page.
                unsafe {
                    kernel::bindings::__bio_add_page(
                        memory.get(),
                        page,
                        part.len() as c_uint,
                        offset,
                    );
                }
            }
        }
        work(memory.get());
        // SAFETY: It was initialised above, and is not used any more.
        unsafe { kernel::bindings::bio_uninit(memory.get()) };
    }

    /// The page of a part, and where in it that begins.
    fn place(&self, part: &Range<usize>) -> Option<(*mut page, c_uint)> {
        let offset = part.start % PAGE_SIZE;
        let page = self.pages.get(part.start / PAGE_SIZE)?;
        (offset + part.len() <= PAGE_SIZE).then_some((page.as_ptr(), offset as c_uint))
    }
}

/// What is to be known when a write has ended.
pub(crate) trait WriteJob: Send + Sized + 'static {
    /// The write has ended. Atomic context.
    fn done(self, ended: Written);
}

/// How a write went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// Its data is on the device.
    Done,
    /// The device refused it because somebody else has reserved it.
    Refused,
    /// It failed.
    Failed,
}

/// A client for writes from memory.
#[pin_data(PinnedDrop)]
pub(crate) struct WriteClient<J: WriteJob> {
    #[pin]
    bios: BioSet,
    jobs: Arc<MemPool<Sent<J>>>,
    flying: Arc<Gate>,
}

/// A write that is under way. The pass is dropped last: whoever drops the client waits for it.
struct Sent<J> {
    job: J,
    _device: Device,
    _pass: Pass,
}

impl<J: WriteJob> WriteClient<J> {
    /// Creates a client. May sleep.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            bios <- BioSet::new(c_uint::from(RESERVED_WRITES)),
            jobs: MemPool::new(RESERVED_WRITES)?,
            flying: Gate::new()?,
        }? Error)
    }

    /// Begins a write of up to `parts` parts, no more than 256. May sleep for memory (`GFP_NOIO`).
    pub(crate) fn begin(&self, device: &Device, parts: u16, job: J) -> Write<J> {
        let write = kernel::bindings::req_op_REQ_OP_WRITE | super::flags::SYNC;
        let sent = self.jobs.take(Sent {
            job,
            _device: device.clone(),
            _pass: self.flying.enter(),
        });
        loop {
            // SAFETY: The set is initialised; the device is open for as long as the clone is there.
            let request = unsafe {
                bindings::dm_rs_bio_alloc_noio(device.as_ptr(), parts, write, self.bios.as_ptr())
            };
            // With a flag that allows sleeping the allocation does not fail.
            if let Some(request) = NonNull::new(request) {
                // INVARIANT: Just allocated, without pages.
                return Write {
                    request,
                    room: parts,
                    sent: Some(sent),
                };
            }
        }
    }
}

#[pinned_drop]
impl<J: WriteJob> PinnedDrop for WriteClient<J> {
    fn drop(self: Pin<&mut Self>) {
        self.flying.wait_idle();
    }
}

/// A write that was not sent yet. If it is dropped it never was.
///
/// # Invariants
///
/// `request` is a bio that belongs to this value, with room for `room` more pages; it holds
/// references to those that it has.
pub(crate) struct Write<J: WriteJob> {
    request: NonNull<bio>,
    room: u16,
    sent: Option<PoolBox<Sent<J>>>,
}

impl<J: WriteJob> Write<J> {
    /// What is told when it has ended.
    pub(crate) fn job(&mut self) -> Option<&mut J> {
        self.sent.as_mut().map(|sent| &mut sent.job)
    }

    /// Adds a part of memory, within a page, to its end. Never sleeps.
    pub(crate) fn add(&mut self, memory: &Memory, part: Range<usize>) {
        let Some((page, offset)) = memory.place(&part).filter(|_| self.room != 0) else {
            return;
        };
        self.room -= 1;
        // SAFETY: The page is there; by the type invariant there is room for it. The reference is
        // given back by `release`.
        unsafe {
            bindings::dm_rs_get_page(page);
            kernel::bindings::__bio_add_page(
                self.request.as_ptr(),
                page,
                part.len() as c_uint,
                offset,
            );
        }
    }

    /// Sends it to `sector` of its device. Must not be called in atomic context.
    pub(crate) fn submit(mut self, sector: u64) {
        let Some(sent) = self.sent.take() else {
            return;
        };
        let request = self.request.as_ptr();
        mem::forget(self);
        // SAFETY: By the type invariant the bio is ours; the device takes it, and gives it back to
        // `ended` with the box.
        unsafe {
            (*request).bi_iter.bi_sector = sector;
            (*request).bi_end_io = Some(ended::<J>);
            (*request).bi_private = PoolBox::into_raw(sent);
            kernel::bindings::submit_bio(request);
        }
    }
}

impl<J: WriteJob> Drop for Write<J> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the bio is ours and was not sent.
        unsafe { release(self.request.as_ptr()) };
    }
}

/// Gives back the pages of a bio, and the bio.
///
/// # Safety
///
/// The bio is one of a [`Write`], which nobody uses any more.
unsafe fn release(request: *mut bio) {
    // SAFETY: By the contract of this function there are so many places in its table, each with a
    // page that is referred to.
    unsafe {
        for n in 0..usize::from((*request).bi_vcnt) {
            bindings::dm_rs_put_page((*(*request).bi_io_vec.add(n)).bv_page);
        }
        kernel::bindings::bio_put(request);
    }
}

/// Completion of a write, any context.
///
/// # Safety
///
/// `request` was sent by [`Write::submit`] of the same `J`; called once.
unsafe extern "C" fn ended<J: WriteJob>(request: *mut bio) {
    // SAFETY: By the contract of this function.
    let (status, sent) = unsafe {
        let sent = PoolBox::<Sent<J>>::from_raw((*request).bi_private);
        ((*request).bi_status, sent)
    };
    // SAFETY: As above; the bio is not used any more.
    unsafe { release(request) };
    let written = match status {
        0 => Written::Done,
        super::bio::STATUS_RESERVATION => Written::Refused,
        _ => Written::Failed,
    };
    let Sent {
        _pass,
        _device,
        job,
    } = PoolBox::into_inner(sent);
    job.done(written);
}
