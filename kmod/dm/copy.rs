// SPDX-License-Identifier: GPL-2.0

//! Copying between devices: up to [`CopyClient::BEST_SECTORS`] at a time by our own hands, more by
//! kcopyd.
//!
//! For each copy kcopyd allocates a job that could be split in nine, and pages of its own, all of
//! which a hardened kernel clears; it goes through dm-io twice, and through its thread three times.
//! For one chunk that costs more than the I/O, and clearing alone as much as copying. Here a copy
//! is two or more bios over memory that is used again, and takes two turns of a worker, which it
//! shares with the other copies of that moment.
//!
//! Small and larger copies go by [`Lane`]s of their own, which differ in the size of their blocks
//! of memory.
//!
//! A copy ([`Flight`]) is on the worker's list at these stages, and on its way in between:
//!
//! ```text
//! Queued --blocks, read--> Read --write each destination--> Written --> done
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

/// Blocks of one copy: what fits in a bio without more memory.
const MOST_BLOCKS: usize = 4;
const PAGE_SECTORS: u64 = (kernel::page::PAGE_SIZE / 512) as u64;
/// Bios that can be had when memory is short. Each is sent before the next is asked for, so that one
/// would do; two is what the kernel's own pools keep (`BIO_POOL_SIZE`). Every one of them takes a
/// page for blocks that it never has.
const RESERVED_BIOS: c_uint = 2;

/// The memory of a lane.
#[derive(Clone, Copy)]
struct Budget {
    /// A block of it is so many pages, as a power of two. Larger ones than this are hard to get.
    order: c_uint,
    /// Blocks that are kept for use again, unless somebody asks for more.
    kept: usize,
    /// Blocks in use at a time; what comes on top waits for some to come back.
    most: usize,
}

/// For copies of up to four pages: 1 MiB kept, 8 MiB in use.
const SMALL: Budget = Budget {
    order: 0,
    kept: 256,
    most: 2048,
};
/// For copies of up to 32 pages: 2 MiB kept, 8 MiB in use.
const LARGE: Budget = Budget {
    order: 3,
    kept: 64,
    most: 256,
};

/// A client for copies.
pub(crate) struct CopyClient {
    kcopyd: Kcopyd,
    throttle: Option<Throttle>,
    lanes: [Arc<Lane>; 2],
    queue: Arc<WorkQueue>,
}

impl CopyClient {
    /// Copies of more sectors than this cost more for each of them.
    pub(crate) const BEST_SECTORS: u64 = (PAGE_SECTORS << LARGE.order) * MOST_BLOCKS as u64;

    /// Creates a client. May sleep.
    pub(crate) fn new(throttle: Option<Throttle>) -> Result<Self> {
        let queue = Arc::new(WorkQueue::new(c"dm_copy")?, GFP_KERNEL)?;
        Ok(Self {
            kcopyd: Kcopyd::new(throttle)?,
            throttle,
            lanes: [Lane::new(SMALL, &queue)?, Lane::new(LARGE, &queue)?],
            queue,
        })
    }

    /// Starts a copy. May sleep for memory (`GFP_NOIO`).
    pub(crate) fn copy<J: CopyJob>(&self, job: PoolBox<J>) {
        // Only kcopyd counts the time that it is at work.
        if self
            .throttle
            .is_some_and(|throttle| throttle.percent() < 100)
        {
            self.kcopyd.copy(job);
        } else {
            self.copy_at_once(job);
        }
    }

    /// As [`Self::copy`], for whoever keeps to the throttle.
    pub(crate) fn copy_at_once<J: CopyJob>(&self, job: PoolBox<J>) {
        let sectors = job.source().sectors;
        match self.lanes.iter().find(|lane| lane.takes(sectors)) {
            Some(lane) => Lane::start(lane, job),
            None => self.kcopyd.copy(job),
        }
    }

    /// Starts to fill a region with zeros. May sleep for memory (`GFP_NOIO`).
    pub(crate) fn zero<J: ZeroJob>(&self, job: PoolBox<J>) {
        self.kcopyd.zero(job);
    }

    /// Keeps all memory that copies have once used until the guard is dropped. May sleep.
    pub(crate) fn keep_memory(&self) -> KeptMemory<'_> {
        for lane in &self.lanes {
            lane.keep_all();
        }
        KeptMemory(self)
    }
}

/// While it is there, memory of a client's copies is not freed; see [`CopyClient::keep_memory`].
pub(crate) struct KeptMemory<'a>(&'a CopyClient);

impl Drop for KeptMemory<'_> {
    fn drop(&mut self) {
        for lane in &self.0.lanes {
            lane.keep_few();
        }
    }
}

impl Drop for CopyClient {
    fn drop(&mut self) {
        for lane in &self.lanes {
            lane.flying.wait_idle();
        }
        // While a queue is drained nobody but its own work may add to it. It must not go from there
        // either, and a worker drops its reference to its lane last.
        self.queue.drain();
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
    blocks: [*mut page; MOST_BLOCKS],
    /// Bios that have not ended, and one for whoever sends them.
    writes: AtomicUsize,
    /// Destinations that have failed, a bit each.
    write_failed: AtomicUsize,
    read_failed: bool,
    lane: Arc<Lane>,
    /// Dropped after `lane`.
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

/// Copies of one client that are not larger than its blocks allow.
#[pin_data]
struct Lane {
    budget: Budget,
    #[pin]
    bios: BioSet,
    #[pin]
    lists: IrqLock<Lists>,
    flying: Arc<Gate>,
    /// That of its client.
    queue: Arc<WorkQueue>,
    #[pin]
    work: Work<Self>,
}

impl_has_work! {
    impl HasWork<Self> for Lane { self.work }
}

impl Lane {
    fn new(budget: Budget, queue: &Arc<WorkQueue>) -> Result<Arc<Self>> {
        let mut blocks = KVVec::with_capacity(budget.kept, GFP_KERNEL)?;
        // Enough for one copy, so that there is always one that goes on.
        for _ in 0..MOST_BLOCKS {
            let block = Block::new(budget.order, true).ok_or(ENOMEM)?;
            blocks.push_within_capacity(block).map_err(|_| ENOMEM)?;
        }
        let lists = Lists {
            due: List::new(),
            hungry: List::new(),
            blocks,
            out: 0,
            keepers: 0,
        };
        Arc::pin_init(
            try_pin_init!(Self {
                budget,
                bios <- BioSet::new(RESERVED_BIOS),
                lists <- new_irq_lock!(lists, c"dm_copy"),
                flying: Gate::new()?,
                queue: queue.clone(),
                work <- new_work!("dm_copy"),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// From now on keeps all blocks that were used once. Sleeps.
    fn keep_all(&self) {
        // Without room for them fewer are kept.
        let mut room = KVVec::with_capacity(self.budget.most, GFP_KERNEL).unwrap_or_default();
        let mut lists = self.lists.lock();
        lists.keepers = lists.keepers.saturating_add(1);
        if lists.blocks.capacity() < room.capacity() {
            while let Some(block) = lists.blocks.pop() {
                let _ = room.push_within_capacity(block);
            }
            mem::swap(&mut lists.blocks, &mut room);
        }
        drop(lists);
    }

    /// Ends one [`Self::keep_all`].
    fn keep_few(&self) {
        let mut lists = self.lists.lock();
        lists.keepers = lists.keepers.saturating_sub(1);
        drop(lists);
        loop {
            let mut lists = self.lists.lock();
            if lists.keepers != 0 || lists.blocks.len() <= self.budget.kept {
                break;
            }
            let block = lists.blocks.pop();
            drop(lists);
            drop(block);
        }
    }

    /// Sectors of a block.
    fn block_sectors(&self) -> u64 {
        PAGE_SECTORS.wrapping_shl(self.budget.order)
    }

    /// Whether a copy of so many sectors can go this way.
    fn takes(&self, sectors: u64) -> bool {
        (1..=self.block_sectors() * MOST_BLOCKS as u64).contains(&sectors)
    }

    /// The blocks that so many sectors need.
    fn blocks_for(&self, sectors: u64) -> usize {
        let more = sectors.saturating_sub(1) / PAGE_SECTORS;
        let more = more.wrapping_shr(self.budget.order) as usize;
        more.saturating_add(1).min(MOST_BLOCKS)
    }

    fn start<J: CopyJob>(this: &Arc<Self>, mut job: PoolBox<J>) {
        let pass = this.flying.enter();
        let flight = job.flight().0.as_mut_ptr();
        let begun = Begun {
            job: PoolBox::into_raw(job),
            ops: &OpsOf::<J>::OPS,
            stage: Stage::Queued,
            next: ptr::null_mut(),
            blocks: [ptr::null_mut(); MOST_BLOCKS],
            writes: AtomicUsize::new(0),
            write_failed: AtomicUsize::new(0),
            read_failed: false,
            lane: this.clone(),
            pass,
        };
        // SAFETY: The flight lies in the job, which nobody else uses any more.
        unsafe { flight.write(begun) };
        // SAFETY: As above; the flight is given to the list.
        unsafe { this.give(flight) };
        Self::kick(this);
    }

    /// Gives a flight the blocks that it needs; if there are none it waits on a list until some
    /// come back, and false is returned.
    ///
    /// # Safety
    ///
    /// The caller owns the flight, and has given it away if false is returned.
    unsafe fn provide(&self, flight: *mut Begun, count: usize) -> bool {
        // SAFETY: By the contract of this function.
        let places = unsafe { (*flight).blocks.get_mut(..count) }.unwrap_or(&mut []);
        let mut lists = self.lists.lock();
        // Who came first is served first, and asks for memory alone.
        let first = lists.hungry.first.is_null();
        if first && lists.take(places) {
            return true;
        }
        if first && lists.out < self.budget.most {
            drop(lists);
            let fresh = fresh_blocks(places, self.budget.order);
            lists = self.lists.lock();
            if fresh {
                lists.out += count;
                return true;
            }
            if lists.take(places) {
                return true;
            }
        }
        // All blocks that there are at least are in use, or there would have been enough: somebody
        // will bring some.
        // SAFETY: By the contract of this function.
        unsafe { lists.hungry.push(flight) };
        false
    }

    /// Takes the blocks of a flight back. Called by the worker, which looks at its list again.
    ///
    /// # Safety
    ///
    /// The caller owns the flight, whose bios have all ended.
    unsafe fn take_back(&self, flight: *mut Begun) {
        // SAFETY: By the contract of this function.
        let places = unsafe { &mut (*flight).blocks };
        let mut lists = self.lists.lock();
        for place in places {
            if let Some(page) = NonNull::new(mem::replace(place, ptr::null_mut())) {
                lists.out = lists.out.saturating_sub(1);
                let order = self.budget.order;
                // INVARIANT: It was an owned one of this lane when the flight got it.
                let block = Block { page, order };
                // If there are many it is freed.
                if lists.keepers != 0 || lists.blocks.len() < self.budget.kept {
                    let _ = lists.blocks.push_within_capacity(block);
                }
            }
        }
        // They have waited longer than those that are due.
        let Lists { due, hungry, .. } = &mut *lists;
        hungry.append(due);
        mem::swap(hungry, due);
    }

    /// A bio for the flight's blocks.
    ///
    /// # Safety
    ///
    /// The flight is owned by the caller or has a write that the caller counts, and has the blocks
    /// for the region, which lies on an open device. The bio is submitted, and ended before the
    /// flight is finished.
    unsafe fn request(
        &self,
        flight: *mut Begun,
        region: &bindings::dm_io_region,
        operation: c_uint,
    ) -> *mut bio {
        let count = self.blocks_for(region.count) as u16;
        let request = loop {
            // SAFETY: By its type invariant the set is valid; the device is open.
            let request = unsafe {
                bindings::dm_rs_bio_alloc_noio(region.bdev, count, operation, self.bios.as_ptr())
            };
            // With a flag that allows sleeping the allocation does not fail.
            if !request.is_null() {
                break request;
            }
        };
        let mut left = region.count;
        // SAFETY: The bio is ours, and has room for so many blocks, which the flight has.
        unsafe {
            (*request).bi_iter.bi_sector = region.sector;
            for page in (*flight).blocks.iter().take(usize::from(count)) {
                let sectors = left.min(self.block_sectors());
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

impl WorkItem for Lane {
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
unsafe fn attend(lane: &Arc<Lane>, flight: *mut Begun) {
    // SAFETY: By the contract of this function.
    let stage = unsafe { (*flight).stage };
    match stage {
        // SAFETY: By the contract of this function.
        Stage::Queued => unsafe { read(lane, flight) },
        // SAFETY: As above.
        Stage::Read => unsafe { write(lane, flight) },
        // SAFETY: As above.
        Stage::Written => unsafe { finish(lane, flight) },
    }
}

/// # Safety
///
/// As for [`attend`].
unsafe fn read(lane: &Arc<Lane>, flight: *mut Begun) {
    // SAFETY: The flight is ours, and its job is the one that `start` was given.
    let region = unsafe { source(flight) };
    // SAFETY: The flight is ours, and forgotten if it has to wait.
    if !unsafe { lane.provide(flight, lane.blocks_for(region.count)) } {
        return;
    }
    // SAFETY: The flight has the blocks that this needs, and lives until the bio has ended.
    unsafe {
        let request = lane.request(flight, &region, kernel::bindings::req_op_REQ_OP_READ);
        (*request).bi_end_io = Some(read_ended);
        (*request).bi_private = flight.cast();
        kernel::bindings::submit_bio(request);
    }
}

/// # Safety
///
/// As for [`attend`].
unsafe fn write(lane: &Arc<Lane>, flight: *mut Begun) {
    // SAFETY: The flight is ours.
    if unsafe { (*flight).read_failed } {
        // SAFETY: As above.
        unsafe { finish(lane, flight) };
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
        // SAFETY: The flight has the blocks that this needs; it lives until all its bios have ended.
        unsafe {
            let request = lane.request(flight, &region, kernel::bindings::req_op_REQ_OP_WRITE);
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
unsafe fn finish(lane: &Arc<Lane>, flight: *mut Begun) {
    // SAFETY: The flight is ours. It is moved out of the job before that is given up.
    let begun = unsafe {
        lane.take_back(flight);
        flight.read()
    };
    let write_failed = begun.write_failed.into_inner();
    // SAFETY: The job is the one that `start` was given, and is not used again.
    unsafe { (begun.ops.done)(begun.job, begun.read_failed, write_failed) };
    drop(begun.lane);
    drop(begun.pass);
}

/// # Safety
///
/// The flight was begun by [`Lane::start`] and is not finished.
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
        let lane = (*flight).lane.clone();
        // So that the client does not go before its worker has been told.
        let pass = lane.flying.enter();
        lane.give(flight);
        Lane::kick(&lane);
        drop(lane);
        drop(pass);
    }
}

struct Lists {
    /// For the worker.
    due: List,
    /// They wait for blocks.
    hungry: List,
    /// Not in use, and never fewer than one copy needs if none is in use.
    blocks: KVVec<Block>,
    /// In use.
    out: usize,
    /// Users who want all of them kept.
    keepers: usize,
}

impl Lists {
    /// Takes as many blocks as there are places, all or none.
    fn take(&mut self, places: &mut [*mut page]) -> bool {
        if self.blocks.len() < places.len() {
            return false;
        }
        for place in places.iter_mut() {
            if let Some(block) = self.blocks.pop() {
                *place = block.into_raw();
            }
        }
        self.out += places.len();
        true
    }
}

/// Fills places with new blocks, all or none. Does not sleep.
fn fresh_blocks(places: &mut [*mut page], order: c_uint) -> bool {
    for n in 0..places.len() {
        let block = Block::new(order, false);
        let (Some(block), Some(place)) = (block, places.get_mut(n)) else {
            for place in places.iter_mut().take(n) {
                if let Some(page) = NonNull::new(mem::replace(place, ptr::null_mut())) {
                    // INVARIANT: It was an owned one a moment ago.
                    drop(Block { page, order });
                }
            }
            return false;
        };
        *place = block.into_raw();
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

/// A block of memory: pages that lie next to each other.
///
/// # Invariants
///
/// It is allocated, with this order, and owned by this value.
pub(super) struct Block {
    page: NonNull<page>,
    order: c_uint,
}

// SAFETY: Pages may be freed by any thread.
unsafe impl Send for Block {}
// SAFETY: Nothing is done to them through a shared reference.
unsafe impl Sync for Block {}

impl Block {
    /// Allocates a block; sleeps for it if it may `wait`.
    pub(super) fn new(order: c_uint, wait: bool) -> Option<Self> {
        // SAFETY: No pointers are passed.
        let page = unsafe { bindings::dm_rs_alloc_block(order, wait) };
        // INVARIANT: Just allocated.
        NonNull::new(page).map(|page| Self { page, order })
    }

    /// The first of its pages.
    pub(super) fn as_ptr(&self) -> *mut page {
        self.page.as_ptr()
    }

    fn into_raw(self) -> *mut page {
        let raw = self.page.as_ptr();
        mem::forget(self);
        raw
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the pages are ours.
        unsafe { kernel::bindings::__free_pages(self.page.as_ptr(), self.order) }
    }
}

/// Where bios come from.
///
/// # Invariants
///
/// `set` is initialised.
#[pin_data(PinnedDrop)]
pub(super) struct BioSet {
    #[pin]
    set: Opaque<bio_set>,
}

// SAFETY: Bio sets may be used from any thread.
unsafe impl Send for BioSet {}
// SAFETY: As above.
unsafe impl Sync for BioSet {}

impl BioSet {
    /// A set that keeps `reserve` bios. May sleep.
    pub(super) fn new(reserve: c_uint) -> impl PinInit<Self, Error> {
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

    /// The pointer for a call into C.
    pub(super) fn as_ptr(&self) -> *mut bio_set {
        self.set.get()
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
