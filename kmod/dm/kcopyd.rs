// SPDX-License-Identifier: GPL-2.0

//! Copying between devices.
//!
//! C header: [`include/linux/dm-kcopyd.h`](srctree/include/linux/dm-kcopyd.h)

use super::bindings;
use super::copy::Flight;
use super::device::Region;
use super::pool::PoolBox;
use core::ptr;
use core::ptr::NonNull;
use kernel::ffi::c_int;
use kernel::ffi::c_uint;
use kernel::ffi::c_ulong;
use kernel::ffi::c_void;
use kernel::prelude::*;

/// How many places one copy can write to.
pub(crate) const MAX_DESTINATIONS: usize = bindings::DM_KCOPYD_MAX_REGIONS as usize;

/// A failed destination does not keep the rest of a copy from the others: without this, a copy in
/// several pieces stops at the first error, and only the failed destination says so.
const IGNORE_ERROR: c_uint = 1 << bindings::DM_KCOPYD_IGNORE_ERROR;

/// What became of a copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    read_failed: bool,
    write_failed: c_ulong,
}

impl Outcome {
    /// Whether the read failed, and which writes did, a bit each.
    pub(super) fn new(read_failed: bool, write_failed: c_ulong) -> Self {
        Self {
            read_failed,
            write_failed,
        }
    }

    /// Whether destination `n` has the data.
    pub(crate) fn succeeded(&self, n: usize) -> bool {
        !self.read_failed && n < MAX_DESTINATIONS && self.write_failed & (1 << n) == 0
    }
}

/// A copy: it knows from where, where to, and what happens afterwards.
///
/// It owns references to its devices, so that they stay open until it is done.
pub(crate) trait CopyJob: Send + Sized {
    /// What is read.
    fn source(&self) -> Region<'_>;

    /// Destination `n`; the first `None` ends the list. All have the source's length.
    fn destination(&self, n: usize) -> Option<Region<'_>>;

    /// What a small copy needs besides.
    fn flight(&mut self) -> &mut Flight;

    /// Called when all is written or has failed, in a thread of the client. It may sleep for
    /// memory, but holds up other copies of the same client while it does.
    fn done(job: PoolBox<Self>, outcome: Outcome);
}

/// Fills a region with zeros; it owns a reference to its device.
pub(crate) trait ZeroJob: Send + Sized {
    /// What is zeroed.
    fn region(&self) -> Region<'_>;

    /// Called when that is done or has failed, as [`CopyJob::done`].
    fn done(job: PoolBox<Self>, ok: bool);
}

/// Share of the time in which kcopyd may be at work, in percent. Several clients may have one.
/// C functions may return one: it is a pointer to theirs.
///
/// # Invariants
///
/// The pointer is valid for ever.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Throttle(NonNull<bindings::dm_kcopyd_throttle>);

// SAFETY: The throttle has a lock of its own; its setting is a number that may change at any time.
unsafe impl Send for Throttle {}
// SAFETY: As above.
unsafe impl Sync for Throttle {}

impl Throttle {
    /// The share, 1 to 100.
    pub(crate) fn percent(self) -> u32 {
        // SAFETY: By the type invariant the pointer is valid; the number may be changed at any
        // time, by whoever writes the module's parameter.
        let percent = unsafe { ptr::addr_of!((*self.0.as_ptr()).throttle).read_volatile() };
        percent.clamp(1, 100)
    }
}

/// A client of kcopyd.
///
/// # Invariants
///
/// `client` is a valid client that this value owns.
pub(crate) struct Kcopyd {
    client: NonNull<bindings::dm_kcopyd_client>,
}

// SAFETY: kcopyd clients may be used from any thread.
unsafe impl Send for Kcopyd {}
// SAFETY: As above.
unsafe impl Sync for Kcopyd {}

impl Kcopyd {
    /// Creates a client. May sleep.
    pub(crate) fn new(throttle: Option<Throttle>) -> Result<Self> {
        let throttle = throttle.map_or(ptr::null_mut(), |throttle| throttle.0.as_ptr());
        // SAFETY: By its type invariant a throttle is valid; a null pointer means none.
        let client = unsafe { bindings::dm_kcopyd_client_create(throttle) };
        // INVARIANT: Just created.
        Ok(Self {
            client: NonNull::new(kernel::error::from_err_ptr(client)?).ok_or(ENOMEM)?,
        })
    }

    /// Starts a copy. May sleep for memory (`GFP_NOIO`).
    pub(crate) fn copy<J: CopyJob>(&self, job: PoolBox<J>) {
        let mut from = job.source().to_raw();
        let mut to: [_; MAX_DESTINATIONS] = core::array::from_fn(|_| bindings::dm_io_region {
            bdev: ptr::null_mut(),
            sector: 0,
            count: 0,
        });
        let mut count: c_uint = 0;
        for (n, place) in to.iter_mut().enumerate() {
            let Some(region) = job.destination(n) else {
                break;
            };
            *place = region.to_raw();
            count += 1;
        }
        // SAFETY: The regions are copied by the call. Their devices stay open, as the job has
        // references to them and lives until the callback takes it back.
        unsafe {
            bindings::dm_kcopyd_copy(
                self.client.as_ptr(),
                &mut from,
                count,
                to.as_mut_ptr(),
                // With it, kcopyd writes also what it could not read: to places that the job does not use then.
                if count > 1 { IGNORE_ERROR } else { 0 },
                Some(done_callback::<J>),
                PoolBox::into_raw(job),
            )
        }
    }
}

impl Kcopyd {
    /// Starts to fill a region with zeros. May sleep for memory (`GFP_NOIO`).
    pub(crate) fn zero<J: ZeroJob>(&self, job: PoolBox<J>) {
        let mut to = job.region().to_raw();
        // SAFETY: As for a copy.
        unsafe {
            bindings::dm_kcopyd_zero(
                self.client.as_ptr(),
                1,
                &mut to,
                0,
                Some(zero_callback::<J>),
                PoolBox::into_raw(job),
            )
        }
    }
}

impl Drop for Kcopyd {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the client is ours. The call waits for what is under way.
        unsafe { bindings::dm_kcopyd_client_destroy(self.client.as_ptr()) }
    }
}

/// # Safety
///
/// `context` comes from [`PoolBox::into_raw`] of a `J`; called once.
unsafe extern "C" fn done_callback<J: CopyJob>(
    read_failed: c_int,
    write_failed: c_ulong,
    context: *mut c_void,
) {
    // SAFETY: By the contract of this function.
    let job = unsafe { PoolBox::<J>::from_raw(context) };
    J::done(job, Outcome::new(read_failed != 0, write_failed));
}

/// # Safety
///
/// `context` comes from [`PoolBox::into_raw`] of a `J`; called once.
unsafe extern "C" fn zero_callback<J: ZeroJob>(
    read_failed: c_int,
    write_failed: c_ulong,
    context: *mut c_void,
) {
    // SAFETY: By the contract of this function.
    let job = unsafe { PoolBox::<J>::from_raw(context) };
    J::done(job, read_failed == 0 && write_failed == 0);
}
