// SPDX-License-Identifier: GPL-2.0

//! Bios on their way through a target.
//!
//! C header: [`include/linux/bio.h`](srctree/include/linux/bio.h)
//!
//! A bio that a target gets from the core is in one of these states:
//!
//! 1. **new** ([`NewBio`]): [`Target::map`](super::Target::map) has it. Only here may it be
//!    shortened.
//! 2. **held** ([`Bio`], perhaps in a [`BioList`]): the target keeps it for later.
//! 3. **below**: remapped or submitted; the device has it and the target does not.
//! 4. **ended** ([`EndedBio`]): the device is done, [`Target::end_io`](super::Target::end_io) has
//!    it. It may be held again (state 2), in order to be ended later.
//!
//! Ending a bio, from state 2, calls `end_io` as well: the core's completion does it. The target
//! tells the cases apart by the data it keeps beside the bio.

use super::bindings;
use super::device::Device;
use super::target::Ended;
use super::target::Mapped;
use core::marker::PhantomData;
use core::mem;
use core::mem::size_of;
use core::ops::Deref;
use core::ops::DerefMut;
use core::ptr;
use core::ptr::NonNull;
use kernel::bindings::bio;
use kernel::bindings::blk_status_t;

/// `BLK_STS_IOERR` of `include/linux/blk_types.h`.
const STATUS_IO_ERROR: blk_status_t = 10;
/// `BLK_STS_NOSPC`, from there.
const STATUS_NO_SPACE: blk_status_t = 3;
/// `BLK_STS_DM_REQUEUE`, from there.
const STATUS_REQUEUE: blk_status_t = 11;
/// `BLK_STS_RESV_CONFLICT`, from there.
pub(super) const STATUS_RESERVATION: blk_status_t = 6;
/// `REQ_OP_MASK`, from there: the bits that tell the operation.
const OP_MASK: u32 = 0xff;

/// Why a bio is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// `ENOSPC`.
    NoSpace,
    /// It is for the core to send again when the device is resumed. Only for bios of a device that
    /// is being suspended with [`SuspendKind::NoFlush`](super::SuspendKind).
    Requeue,
}

/// A bio that the target owns, with the target's data `D` beside it.
///
/// Dropping it ends it with an I/O error.
///
/// # Invariants
///
/// `bio` is a clone that device-mapper passed to a target whose per-bio data is an initialised
/// `D`; nobody else uses it.
pub(crate) struct Bio<D> {
    bio: NonNull<bio>,
    _data: PhantomData<D>,
}

// SAFETY: An owned bio may be handled by any thread; its data is sent with it.
unsafe impl<D: Send> Send for Bio<D> {}

impl<D> Bio<D> {
    /// Takes ownership of a bio.
    ///
    /// # Safety
    ///
    /// The type invariants hold for `bio`.
    pub(super) unsafe fn from_raw(bio: NonNull<bio>) -> Self {
        // INVARIANT: The caller promises it.
        Self {
            bio,
            _data: PhantomData,
        }
    }

    /// Gives ownership away.
    pub(super) fn into_raw(self) -> NonNull<bio> {
        let raw = self.bio;
        mem::forget(self);
        raw
    }

    /// The pointer for a call into C.
    pub(super) fn as_ptr(&self) -> *mut bio {
        self.bio.as_ptr()
    }

    /// The first sector, on the device that the bio is for now.
    pub(crate) fn sector(&self) -> u64 {
        // SAFETY: By the type invariant the bio is ours.
        unsafe { (*self.bio.as_ptr()).bi_iter.bi_sector }
    }

    /// The length in sectors; 0 for a flush.
    pub(crate) fn sectors(&self) -> u32 {
        // SAFETY: By the type invariant the bio is ours.
        unsafe { (*self.bio.as_ptr()).bi_iter.bi_size >> 9 }
    }

    /// Whether it is an empty flush.
    pub(crate) fn is_flush(&self) -> bool {
        self.flags() & super::flags::PREFLUSH != 0
    }

    /// Whether it is a discard.
    pub(crate) fn is_discard(&self) -> bool {
        self.flags() & OP_MASK == kernel::bindings::req_op_REQ_OP_DISCARD
    }

    /// Whether it changes the device (anything but a read).
    pub(crate) fn is_write(&self) -> bool {
        self.flags() & 1 != 0
    }

    /// Whether its data has to be durable when it ends. True only on the way down: a device
    /// without a volatile cache takes the flag off.
    pub(crate) fn is_fua(&self) -> bool {
        self.flags() & super::flags::FUA != 0
    }

    /// The target's data.
    pub(crate) fn data(&mut self) -> &mut D {
        // SAFETY: By the type invariant there is an initialised `D` beside the bio, and nobody
        // else uses it.
        unsafe { &mut *data_of(self.bio) }
    }

    /// Directs the bio at `sector` of `device`.
    pub(crate) fn set_target(&mut self, device: &Device, sector: u64) {
        // SAFETY: Bio and device are valid.
        unsafe { bindings::dm_rs_bio_set_dev(self.bio.as_ptr(), device.as_ptr()) };
        // SAFETY: By the type invariant the bio is ours.
        unsafe { (*self.bio.as_ptr()).bi_iter.bi_sector = sector };
    }

    /// Sends a held bio to the device it is directed at. Must not be called in atomic context.
    pub(crate) fn submit(self) {
        // SAFETY: By the type invariant the bio is ours, and with this call it no longer is.
        unsafe { kernel::bindings::submit_bio_noacct(self.into_raw().as_ptr()) }
    }

    /// Ends the bio as done.
    pub(crate) fn end_ok(self) {
        self.end(0);
    }

    /// Ends the bio with an I/O error.
    pub(crate) fn end_error(self) {
        drop(self);
    }

    /// Ends the bio as not done.
    pub(crate) fn end_failed(self, failure: Failure) {
        self.end(match failure {
            Failure::NoSpace => STATUS_NO_SPACE,
            Failure::Requeue => STATUS_REQUEUE,
        });
    }

    fn end(self, status: blk_status_t) {
        // SAFETY: By the type invariant the bio was ours, and nobody uses it after this.
        unsafe { end_with(self.into_raw(), status) }
    }

    fn flags(&self) -> u32 {
        // SAFETY: By the type invariant the bio is ours.
        unsafe { (*self.bio.as_ptr()).bi_opf }
    }
}

impl<D> Drop for Bio<D> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the bio is ours; after this nobody uses it through `self`.
        unsafe { end_with(self.bio, STATUS_IO_ERROR) }
    }
}

/// Ends a bio.
///
/// # Safety
///
/// The bio is valid, nobody else uses it, and it is not used after this.
unsafe fn end_with(bio: NonNull<bio>, status: blk_status_t) {
    // SAFETY: By the contract of this function.
    unsafe { (*bio.as_ptr()).bi_status = status };
    // SAFETY: As above.
    unsafe { kernel::bindings::bio_endio(bio.as_ptr()) }
}

/// Where the data of a bio lies.
pub(super) fn data_of<D>(bio: NonNull<bio>) -> *mut D {
    // SAFETY: The bio is a device-mapper clone with room for a `D` before it.
    unsafe { bindings::dm_per_bio_data(bio.as_ptr(), size_of::<D>()).cast() }
}

/// A bio that has just come from above.
pub(crate) struct NewBio<D> {
    bio: Bio<D>,
}

impl<D> NewBio<D> {
    /// Wraps the bio that `map` gets.
    pub(super) fn new(bio: Bio<D>) -> Self {
        Self { bio }
    }

    /// Takes only the first `sectors` of a read or write; the core sends the rest as another bio.
    pub(crate) fn shorten(&mut self, sectors: u64) {
        let Ok(sectors) = u32::try_from(sectors) else {
            return;
        };
        if sectors != 0 && sectors < self.bio.sectors() {
            // SAFETY: The bio came from the core and nothing was done with it yet; it is a read or
            // a write, as others have no length that a target shortens.
            unsafe { bindings::dm_accept_partial_bio(self.bio.bio.as_ptr(), sectors) }
        }
    }

    /// Which of the copies that the target asked for (of a flush, say) this is.
    pub(crate) fn copy_number(&self) -> u32 {
        // SAFETY: The bio is a device-mapper clone.
        unsafe { bindings::dm_bio_get_target_bio_nr(self.bio.bio.as_ptr()) }
    }

    /// Sends it to `sector` of `device`.
    pub(crate) fn remap(mut self, device: &Device, sector: u64) -> Mapped {
        self.bio.set_target(device, sector);
        let _ = self.bio.into_raw();
        Mapped::remapped()
    }

    /// Ends it with an I/O error.
    pub(crate) fn kill(self) -> Mapped {
        let _ = self.bio.into_raw();
        Mapped::killed()
    }

    /// Keeps it: whoever has the bio submits or ends it.
    pub(crate) fn hold(self) -> (Bio<D>, Mapped) {
        (self.bio, Mapped::held())
    }
}

impl<D> Deref for NewBio<D> {
    type Target = Bio<D>;

    fn deref(&self) -> &Bio<D> {
        &self.bio
    }
}

impl<D> DerefMut for NewBio<D> {
    fn deref_mut(&mut self) -> &mut Bio<D> {
        &mut self.bio
    }
}

/// A bio that the device has finished. May be met in interrupt context.
pub(crate) struct EndedBio<D> {
    bio: Bio<D>,
    status: *mut blk_status_t,
}

impl<D> EndedBio<D> {
    /// Wraps the bio that `end_io` gets.
    ///
    /// # Safety
    ///
    /// `status` is valid until `end_io` returns.
    pub(super) unsafe fn new(bio: Bio<D>, status: *mut blk_status_t) -> Self {
        Self { bio, status }
    }

    /// Whether it succeeded.
    pub(crate) fn succeeded(&self) -> bool {
        // SAFETY: By the contract of `new`.
        unsafe { *self.status == 0 }
    }

    /// Whether the device refused it because somebody else has reserved it.
    pub(crate) fn is_refused(&self) -> bool {
        // SAFETY: By the contract of `new`.
        unsafe { *self.status == STATUS_RESERVATION }
    }

    /// The target's data.
    pub(crate) fn data(&mut self) -> &mut D {
        self.bio.data()
    }

    /// Lets it end, with the status that it has.
    pub(crate) fn done(self) -> Ended {
        let _ = self.bio.into_raw();
        Ended::done()
    }

    /// Lets it end with an I/O error.
    pub(crate) fn fail(self) -> Ended {
        // SAFETY: `end_io` passes a status that is valid while the bio is in its hands.
        unsafe { *self.status = STATUS_IO_ERROR };
        self.done()
    }

    /// Keeps it, to be ended later.
    pub(crate) fn hold(self) -> (Bio<D>, Ended) {
        (self.bio, Ended::held())
    }
}

/// A list of held bios, first in, first out; it needs no memory of its own.
///
/// Dropping it ends what is in it with I/O errors.
///
/// # Invariants
///
/// `head` and `tail` are the ends of a chain, through `bi_next`, of bios for which the invariants
/// of [`Bio`] hold; both are null if it is empty.
pub(crate) struct BioList<D> {
    head: *mut bio,
    tail: *mut bio,
    _data: PhantomData<D>,
}

// SAFETY: A list of owned bios is as good as the bios.
unsafe impl<D: Send> Send for BioList<D> {}

impl<D> Default for BioList<D> {
    fn default() -> Self {
        Self {
            head: ptr::null_mut(),
            tail: ptr::null_mut(),
            _data: PhantomData,
        }
    }
}

impl<D> BioList<D> {
    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_null()
    }

    /// Puts a bio at the end.
    pub(crate) fn push(&mut self, bio: Bio<D>) {
        let raw = bio.into_raw().as_ptr();
        // SAFETY: The bio was ours.
        unsafe { (*raw).bi_next = ptr::null_mut() };
        if self.tail.is_null() {
            self.head = raw;
        } else {
            // SAFETY: By the type invariant the tail is a bio of ours.
            unsafe { (*self.tail).bi_next = raw };
        }
        self.tail = raw;
    }

    /// Takes the first bio out.
    pub(crate) fn pop(&mut self) -> Option<Bio<D>> {
        let raw = NonNull::new(self.head)?;
        // SAFETY: By the type invariant the head is a bio of ours.
        self.head = unsafe { mem::replace(&mut (*raw.as_ptr()).bi_next, ptr::null_mut()) };
        if self.head.is_null() {
            self.tail = ptr::null_mut();
        }
        // SAFETY: By the type invariant; the bio is no longer in the list.
        Some(unsafe { Bio::from_raw(raw) })
    }

    /// The data of the first bio.
    pub(crate) fn first(&mut self) -> Option<&mut D> {
        let raw = NonNull::new(self.head)?;
        // SAFETY: By the type invariant the head is ours and has an initialised `D` beside it.
        Some(unsafe { &mut *data_of(raw) })
    }

    /// Takes those bios out whose data is as asked for.
    pub(crate) fn extract(&mut self, mut wanted: impl FnMut(&D) -> bool) -> Self {
        let (mut taken, mut left) = (Self::default(), Self::default());
        while let Some(mut bio) = self.pop() {
            if wanted(bio.data()) {
                taken.push(bio);
            } else {
                left.push(bio);
            }
        }
        *self = left;
        taken
    }

    /// Moves all of `other` to the end.
    pub(crate) fn append(&mut self, other: &mut Self) {
        while let Some(bio) = other.pop() {
            self.push(bio);
        }
    }
}

impl<D> Drop for BioList<D> {
    fn drop(&mut self) {
        while let Some(bio) = self.pop() {
            bio.end_error();
        }
    }
}
