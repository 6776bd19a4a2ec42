// SPDX-License-Identifier: GPL-2.0

//! Copying between devices: a few pages at a time by our own hands, more by kcopyd.
//!
//! kcopyd is made for large copies: for each it allocates a job that could be split in nine, and
//! pages of its own, all of which a hardened kernel clears; it goes through dm-io twice, and
//! through its thread three times. For the copy of one chunk that costs more than the I/O. Here a
//! copy is two or more bios over pages that are used again, and takes two turns of a worker, which
//! it shares with the other copies of that moment.
//!
//! A copy ([`Flight`]) is on the worker's list at these stages, and on its way in between:
//!
//! ```text
//! Queued --pages, read--> Read --write each destination--> Written --> done
//!                           '------- the read failed --------'
//! ```
//!
//! C header: [`include/linux/bio.h`](srctree/include/linux/bio.h)

use super::bindings;
use super::device::Region;
use super::kcopyd::CopyJob;
use super::kcopyd::Kcopyd;
use super::kcopyd::Outcome;
use super::kcopyd::Throttle;
use super::kcopyd::ZeroJob;
use super::lock::new_irq_lock;
use super::lock::IrqLock;
use super::pool::PoolBox;
use super::wait::Gate;
use super::wait::Pass;
use super::workqueue::WorkQueue;
use core::mem;
use core::mem::MaybeUninit;
use core::ptr;
use core::ptr::NonNull;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering;
use kernel::bindings::bio;
use kernel::bindings::bio_set;
use kernel::bindings::blk_plug;
use kernel::bindings::page;
use kernel::error::to_result;
use kernel::ffi::c_int;
use kernel::ffi::c_uint;
use kernel::ffi::c_ulong;
use kernel::ffi::c_void;
use kernel::impl_has_work;
use kernel::new_work;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::types::Opaque;
use kernel::workqueue::Work;
use kernel::workqueue::WorkItem;

/// Pages of one copy: what fits in a bio without more memory.
const MOST_PAGES: usize = 4;
const PAGE_SECTORS: u64 = (kernel::page::PAGE_SIZE / 512) as u64;
/// Pages that are kept for use again.
const KEPT_PAGES: usize = 256;
/// Pages in use at a time; what comes on top waits for some to come back.
const MOST_PAGES_OUT: usize = 2048;
/// Bios that can be had when memory is short.
const RESERVED_BIOS: c_uint = 16;

/// A client for copies.
pub(crate) struct CopyClient {
    kcopyd: Kcopyd,
    throttle: Option<Throttle>,
    small: Arc<Small>,
}

impl CopyClient {
    /// Creates a client. May sleep.
    pub(crate) fn new(throttle: Option<Throttle>) -> Result<Self> {
        Ok(Self {
            kcopyd: Kcopyd::new(throttle)?,
            throttle,
            small: Small::new()?,
        })
    }

    /// Starts a copy. May sleep for memory (`GFP_NOIO`).
    pub(crate) fn copy<J: CopyJob>(&self, job: PoolBox<J>) {
        // Only kcopyd counts the time that it is at work.
        let throttled = self.throttle.is_some_and(Throttle::is_on);
        let small = 1..=MOST_PAGES as u64 * PAGE_SECTORS;
        if small.contains(&job.source().sectors) && !throttled {
            Small::start(&self.small, job);
        } else {
            self.kcopyd.copy(job);
        }
    }

    /// Starts to fill a region with zeros. May sleep for memory (`GFP_NOIO`).
    pub(crate) fn zero<J: ZeroJob>(&self, job: PoolBox<J>) {
        self.kcopyd.zero(job);
    }
}

impl Drop for CopyClient {
    fn drop(&mut self) {
        self.small.flying.wait_idle();
        // Not from the worker itself, which drops its reference to `small` last.
        self.small.queue.drain();
    }
}

/// What a job keeps for its copy. It lies in the job, so that a copy needs no other memory.
pub(crate) struct Flight(MaybeUninit<Begun>);

/// A flight from the moment when it is begun until it is finished.
struct Begun {
    job: *mut c_void,
    ops: &'static Ops,
    stage: Stage,
    /// The next one on a list.
    next: *mut Begun,
    pages: [*mut page; MOST_PAGES],
    /// Bios that have not ended, and one for whoever sends them.
    writes: AtomicUsize,
    /// Destinations that have failed, a bit each.
    write_failed: AtomicUsize,
    read_failed: bool,
    small: Arc<Small>,
    /// Dropped after `small`.
    pass: Pass,
}

// SAFETY: A flight belongs to one owner at a time, who may be any thread: the job is `Send`, and
// the pages belong to the flight.
unsafe impl Send for Flight {}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Queued,
    Read,
    Written,
}

impl Flight {
    /// A flight that has not begun.
    pub(crate) const fn new() -> Self {
        Self(MaybeUninit::uninit())
    }
}

/// What is to be known about the type of a job.
struct Ops {
    /// # Safety
    ///
    /// `job` is a job of this type, given away by [`PoolBox::into_raw`].
    source: unsafe fn(job: *mut c_void) -> bindings::dm_io_region,
    /// # Safety
    ///
    /// As for `source`.
    destination: unsafe fn(job: *mut c_void, n: usize) -> Option<bindings::dm_io_region>,
    /// # Safety
    ///
    /// As for `source`; the job is not used again.
    done: unsafe fn(job: *mut c_void, read_failed: bool, write_failed: c_ulong),
}

struct OpsOf<J>(J);

impl<J: CopyJob> OpsOf<J> {
    const OPS: Ops = Ops {
        source: Self::source,
        destination: Self::destination,
        done: Self::done,
    };

    /// # Safety
    ///
    /// As for [`Ops::source`].
    unsafe fn source(job: *mut c_void) -> bindings::dm_io_region {
        // SAFETY: By the contract of this function.
        unsafe { PoolBox::<J>::peek(job) }.source().to_raw()
    }

    /// # Safety
    ///
    /// As for [`Ops::source`].
    unsafe fn destination(job: *mut c_void, n: usize) -> Option<bindings::dm_io_region> {
        // SAFETY: By the contract of this function.
        let job = unsafe { PoolBox::<J>::peek(job) };
        job.destination(n).map(Region::to_raw)
    }

    /// # Safety
    ///
    /// As for [`Ops::done`].
    unsafe fn done(job: *mut c_void, read_failed: bool, write_failed: c_ulong) {
        // SAFETY: By the contract of this function.
        let job = unsafe { PoolBox::<J>::from_raw(job) };
        J::done(job, Outcome::new(read_failed, write_failed));
    }
}

/// The small copies of one client.
#[pin_data]
struct Small {
    #[pin]
    bios: BioSet,
    #[pin]
    lists: IrqLock<Lists>,
    flying: Arc<Gate>,
    queue: WorkQueue,
    #[pin]
    work: Work<Self>,
}

impl_has_work! {
    impl HasWork<Self> for Small { self.work }
}

impl Small {
    fn new() -> Result<Arc<Self>> {
        let mut pages = KVec::with_capacity(KEPT_PAGES, GFP_KERNEL)?;
        // Enough for one copy, so that there is always one that goes on.
        for _ in 0..MOST_PAGES {
            let page = OwnedPage::new(true).ok_or(ENOMEM)?;
            pages.push_within_capacity(page).map_err(|_| ENOMEM)?;
        }
        let lists = Lists {
            due: List::new(),
            hungry: List::new(),
            pages,
            out: 0,
        };
        Arc::pin_init(
            try_pin_init!(Self {
                bios <- BioSet::new(RESERVED_BIOS),
                lists <- new_irq_lock!(lists, c"dm_copy"),
                flying: Gate::new()?,
                queue: WorkQueue::new(c"dm_copy")?,
                work <- new_work!("dm_copy"),
            }? Error),
            GFP_KERNEL,
        )
    }

    fn start<J: CopyJob>(this: &Arc<Self>, mut job: PoolBox<J>) {
        let pass = this.flying.enter();
        let flight = job.flight().0.as_mut_ptr();
        let begun = Begun {
            job: PoolBox::into_raw(job),
            ops: &OpsOf::<J>::OPS,
            stage: Stage::Queued,
            next: ptr::null_mut(),
            pages: [ptr::null_mut(); MOST_PAGES],
            writes: AtomicUsize::new(0),
            write_failed: AtomicUsize::new(0),
            read_failed: false,
            small: this.clone(),
            pass,
        };
        // SAFETY: The flight lies in the job, which nobody else uses any more.
        unsafe { flight.write(begun) };
        // SAFETY: As above; the flight is given to the list.
        unsafe { this.give(flight) };
        Self::kick(this);
    }

    /// Gives a flight the pages that it needs; if there are none it waits on a list until some
    /// come back, and false is returned.
    ///
    /// # Safety
    ///
    /// The caller owns the flight, and has given it away if false is returned.
    unsafe fn provide(&self, flight: *mut Begun, count: usize) -> bool {
        // SAFETY: By the contract of this function.
        let places = unsafe { (*flight).pages.get_mut(..count) }.unwrap_or(&mut []);
        let mut lists = self.lists.lock();
        if lists.take(places) {
            return true;
        }
        if lists.out < MOST_PAGES_OUT {
            drop(lists);
            let fresh = fresh_pages(places);
            lists = self.lists.lock();
            if fresh {
                lists.out += count;
                return true;
            }
            if lists.take(places) {
                return true;
            }
        }
        // All pages that there are at least are in use, or there would have been enough: somebody
        // will bring some.
        // SAFETY: By the contract of this function.
        unsafe { lists.hungry.push(flight) };
        false
    }

    /// Takes the pages of a flight back. Called by the worker, which looks at its list again.
    ///
    /// # Safety
    ///
    /// The caller owns the flight, whose bios have all ended.
    unsafe fn take_back(&self, flight: *mut Begun) {
        // SAFETY: By the contract of this function.
        let places = unsafe { &mut (*flight).pages };
        let mut lists = self.lists.lock();
        for place in places {
            // INVARIANT: The page was an owned one when the flight got it.
            if let Some(page) = NonNull::new(mem::replace(place, ptr::null_mut())).map(OwnedPage) {
                lists.out = lists.out.saturating_sub(1);
                // If there are many it is freed.
                let _ = lists.pages.push_within_capacity(page);
            }
        }
        let Lists { due, hungry, .. } = &mut *lists;
        due.append(hungry);
    }

    /// A bio for the flight's pages.
    ///
    /// # Safety
    ///
    /// The flight is owned by the caller or has a write that the caller counts, and has the pages
    /// for the region, which lies on an open device. The bio is submitted, and ended before the
    /// flight is finished.
    unsafe fn request(
        &self,
        flight: *mut Begun,
        region: &bindings::dm_io_region,
        operation: c_uint,
    ) -> *mut bio {
        let count = pages_of(region.count) as u16;
        let request = loop {
            // SAFETY: By its type invariant the set is valid; the device is open.
            let request = unsafe {
                bindings::dm_rs_bio_alloc_noio(region.bdev, count, operation, self.bios.set.get())
            };
            // With a flag that allows sleeping the allocation does not fail.
            if !request.is_null() {
                break request;
            }
        };
        let mut left = region.count;
        // SAFETY: The bio is ours, and has room for so many pages, which the flight has.
        unsafe {
            (*request).bi_iter.bi_sector = region.sector;
            for page in (*flight).pages.iter().take(usize::from(count)) {
                let sectors = left.min(PAGE_SECTORS);
                left -= sectors;
                kernel::bindings::__bio_add_page(request, *page, (sectors as c_uint) << 9, 0);
            }
        }
        request
    }

    fn kick(this: &Arc<Self>) {
        // If it is queued already, it will look after this.
        let _ = this.queue.enqueue(this.clone());
    }

    /// Puts a flight on the worker's list. Any context.
    ///
    /// # Safety
    ///
    /// The caller owns the flight, and gives it away.
    unsafe fn give(&self, flight: *mut Begun) {
        // SAFETY: By the contract of this function.
        unsafe { self.lists.lock().due.push(flight) };
    }
}

impl WorkItem for Small {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        loop {
            let mut batch = {
                let mut lists = this.lists.lock();
                mem::replace(&mut lists.due, List::new())
            };
            if batch.first.is_null() {
                break;
            }
            plugged(|| {
                while let Some(flight) = batch.pop() {
                    // SAFETY: What comes from a list is ours.
                    unsafe { attend(&this, flight) };
                }
            });
        }
    }
}

/// Does the next step of a copy.
///
/// # Safety
///
/// The caller owns the flight, and gives it away.
unsafe fn attend(small: &Arc<Small>, flight: *mut Begun) {
    // SAFETY: By the contract of this function.
    let stage = unsafe { (*flight).stage };
    match stage {
        // SAFETY: By the contract of this function.
        Stage::Queued => unsafe { read(small, flight) },
        // SAFETY: As above.
        Stage::Read => unsafe { write(small, flight) },
        // SAFETY: As above.
        Stage::Written => unsafe { finish(small, flight) },
    }
}

/// # Safety
///
/// As for [`attend`].
unsafe fn read(small: &Arc<Small>, flight: *mut Begun) {
    // SAFETY: The flight is ours, and its job is the one that `start` was given.
    let region = unsafe { source(flight) };
    // SAFETY: The flight is ours, and forgotten if it has to wait.
    if !unsafe { small.provide(flight, pages_of(region.count)) } {
        return;
    }
    // SAFETY: The flight has the pages that this needs, and lives until the bio has ended.
    unsafe {
        let request = small.request(flight, &region, kernel::bindings::req_op_REQ_OP_READ);
        (*request).bi_end_io = Some(read_ended);
        (*request).bi_private = flight.cast();
        kernel::bindings::submit_bio(request);
    }
}

/// # Safety
///
/// As for [`attend`].
unsafe fn write(small: &Arc<Small>, flight: *mut Begun) {
    // SAFETY: The flight is ours.
    if unsafe { (*flight).read_failed } {
        // SAFETY: As above.
        unsafe { finish(small, flight) };
        return;
    }
    // SAFETY: As above. The one is ours, so that the flight stays until all bios are sent.
    unsafe { (*flight).writes.store(1, Ordering::Relaxed) };
    for n in 0..super::kcopyd::MAX_DESTINATIONS {
        // SAFETY: The flight was begun by `start`.
        let region = unsafe { destination(flight, n) };
        let Some(region) = region else {
            break;
        };
        // SAFETY: The flight has the pages that this needs; it lives until all its bios have ended.
        unsafe {
            let request = small.request(flight, &region, kernel::bindings::req_op_REQ_OP_WRITE);
            (*request).bi_end_io = Some(write_ended);
            // A flight is aligned to eight bytes, so there is room for the number.
            (*request).bi_private = flight.cast::<u8>().wrapping_add(n).cast();
            (*flight).writes.fetch_add(1, Ordering::Relaxed);
            kernel::bindings::submit_bio(request);
        }
    }
    // SAFETY: The one that was counted above.
    unsafe { written(flight) };
}

/// # Safety
///
/// As for [`attend`].
unsafe fn finish(small: &Arc<Small>, flight: *mut Begun) {
    // SAFETY: The flight is ours. It is moved out of the job before that is given up.
    let begun = unsafe {
        small.take_back(flight);
        flight.read()
    };
    let write_failed = begun.write_failed.into_inner();
    // SAFETY: The job is the one that `start` was given, and is not used again.
    unsafe { (begun.ops.done)(begun.job, begun.read_failed, write_failed) };
    drop(begun.small);
    drop(begun.pass);
}

/// # Safety
///
/// The flight was begun by [`Small::start`] and is not finished.
unsafe fn source(flight: *mut Begun) -> bindings::dm_io_region {
    // SAFETY: By the contract of this function; job and operations belong together.
    unsafe { ((*flight).ops.source)((*flight).job) }
}

/// # Safety
///
/// As for [`source`].
unsafe fn destination(flight: *mut Begun, n: usize) -> Option<bindings::dm_io_region> {
    // SAFETY: By the contract of this function; job and operations belong together.
    unsafe { ((*flight).ops.destination)((*flight).job, n) }
}

/// Completion of a read, any context.
///
/// # Safety
///
/// `request` was made by [`read`]; called once.
unsafe extern "C" fn read_ended(request: *mut bio) {
    // SAFETY: By the contract of this function: the flight is as it was when the bio was sent, and
    // with the bio it comes back to us.
    unsafe {
        let flight = (*request).bi_private.cast::<Begun>();
        (*flight).read_failed = (*request).bi_status != 0;
        (*flight).stage = Stage::Read;
        kernel::bindings::bio_put(request);
        hand_over(flight);
    }
}

/// Completion of a write, any context.
///
/// # Safety
///
/// `request` was made by [`write`]; called once.
unsafe extern "C" fn write_ended(request: *mut bio) {
    // SAFETY: By the contract of this function; the flight stays for as long as one of its writes
    // has not been counted down.
    unsafe {
        let tagged = (*request).bi_private.cast::<u8>();
        let n = tagged.addr() % mem::align_of::<Begun>();
        let flight = tagged.wrapping_sub(n).cast::<Begun>();
        if (*request).bi_status != 0 {
            (*flight).write_failed.fetch_or(1 << n, Ordering::Relaxed);
        }
        kernel::bindings::bio_put(request);
        written(flight);
    }
}

/// Counts one write down; after the last one the copy is done.
///
/// # Safety
///
/// The caller has one of the flight's counts, and gives it up.
unsafe fn written(flight: *mut Begun) {
    // SAFETY: By the contract of this function. Whoever counts the last one down is alone.
    unsafe {
        if (*flight).writes.fetch_sub(1, Ordering::AcqRel) == 1 {
            (*flight).stage = Stage::Written;
            hand_over(flight);
        }
    }
}

/// Gives a flight to the worker of its client.
///
/// # Safety
///
/// The caller owns the flight, which is under way, and gives it away.
unsafe fn hand_over(flight: *mut Begun) {
    // SAFETY: By the contract of this function. The client waits for the flight's pass, so it is
    // there until the worker has finished the flight; the reference is taken before it can.
    unsafe {
        let small = (*flight).small.clone();
        small.give(flight);
        Small::kick(&small);
    }
}

fn pages_of(sectors: u64) -> usize {
    sectors.div_ceil(PAGE_SECTORS).min(MOST_PAGES as u64) as usize
}

struct Lists {
    /// For the worker.
    due: List,
    /// They wait for pages.
    hungry: List,
    /// Not in use, and never fewer than one copy needs if none is in use.
    pages: KVec<OwnedPage>,
    /// In use.
    out: usize,
}

impl Lists {
    /// Takes as many pages as there are places, all or none.
    fn take(&mut self, places: &mut [*mut page]) -> bool {
        if self.pages.len() < places.len() {
            return false;
        }
        for place in places.iter_mut() {
            if let Some(page) = self.pages.pop() {
                *place = page.into_raw();
            }
        }
        self.out += places.len();
        true
    }
}

/// Fills places with new pages, all or none. Does not sleep.
fn fresh_pages(places: &mut [*mut page]) -> bool {
    for n in 0..places.len() {
        let page = OwnedPage::new(false);
        let (Some(page), Some(place)) = (page, places.get_mut(n)) else {
            for place in places.iter_mut().take(n) {
                // INVARIANT: It was an owned one a moment ago.
                drop(NonNull::new(mem::replace(place, ptr::null_mut())).map(OwnedPage));
            }
            return false;
        };
        *place = page.into_raw();
    }
    true
}

/// Flights in a row, first come first served.
///
/// # Invariants
///
/// From `first` on, linked by `next`, there are flights that belong to the list; `last` is the last
/// of them.
struct List {
    first: *mut Begun,
    last: *mut Begun,
}

// SAFETY: It owns what is on it, which may be sent.
unsafe impl Send for List {}

impl List {
    const fn new() -> Self {
        Self {
            first: ptr::null_mut(),
            last: ptr::null_mut(),
        }
    }

    /// # Safety
    ///
    /// The caller owns the flight, and gives it away.
    unsafe fn push(&mut self, flight: *mut Begun) {
        // SAFETY: By the contract of this function.
        unsafe { (*flight).next = ptr::null_mut() };
        let mut one = List {
            first: flight,
            last: flight,
        };
        self.append(&mut one);
    }

    fn append(&mut self, other: &mut List) {
        let other = mem::replace(other, List::new());
        if other.first.is_null() {
            return;
        }
        if self.first.is_null() {
            *self = other;
            return;
        }
        // SAFETY: By the type invariant `last` is ours.
        unsafe { (*self.last).next = other.first };
        self.last = other.last;
    }

    fn pop(&mut self) -> Option<*mut Begun> {
        let flight = self.first;
        if flight.is_null() {
            return None;
        }
        // SAFETY: By the type invariant it is ours.
        self.first = unsafe { (*flight).next };
        Some(flight)
    }
}

/// A page of memory.
///
/// # Invariants
///
/// It is allocated, with order 0, and owned by this value.
struct OwnedPage(NonNull<page>);

// SAFETY: Pages may be freed by any thread.
unsafe impl Send for OwnedPage {}

impl OwnedPage {
    /// Allocates a page; sleeps for it if it may `wait`.
    fn new(wait: bool) -> Option<Self> {
        // SAFETY: No pointers are passed.
        let page = unsafe { bindings::dm_rs_alloc_page(wait) };
        // INVARIANT: Just allocated.
        NonNull::new(page).map(Self)
    }

    fn into_raw(self) -> *mut page {
        let raw = self.0.as_ptr();
        mem::forget(self);
        raw
    }
}

impl Drop for OwnedPage {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the page is ours.
        unsafe { kernel::bindings::__free_pages(self.0.as_ptr(), 0) }
    }
}

/// Where bios come from.
///
/// # Invariants
///
/// `set` is initialised.
#[pin_data(PinnedDrop)]
struct BioSet {
    #[pin]
    set: Opaque<bio_set>,
}

// SAFETY: Bio sets may be used from any thread.
unsafe impl Send for BioSet {}
// SAFETY: As above.
unsafe impl Sync for BioSet {}

impl BioSet {
    fn new(reserve: c_uint) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // INVARIANT: If this fails there is no value.
            set <- Opaque::try_ffi_init(|slot: *mut bio_set| {
                // SAFETY: The slot is valid for writes and pinned.
                unsafe {
                    slot.write_bytes(0, 1);
                    let flags = kernel::bindings::BIOSET_NEED_BVECS as c_int;
                    to_result(kernel::bindings::bioset_init(slot, reserve, 0, flags))
                }
            }),
        }? Error)
    }
}

#[pinned_drop]
impl PinnedDrop for BioSet {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant it is initialised; all bios of it have ended.
        unsafe { kernel::bindings::bioset_exit(self.set.get()) }
    }
}

/// Requests that `work` makes are sent together at its end, so that neighbours are merged.
fn plugged(work: impl FnOnce()) {
    let plug = Opaque::<blk_plug>::uninit();
    // SAFETY: The plug stays where it is until it is finished.
    unsafe { kernel::bindings::blk_start_plug(plug.get()) };
    work();
    // SAFETY: It was started above.
    unsafe { kernel::bindings::blk_finish_plug(plug.get()) };
}
