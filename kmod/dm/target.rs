// SPDX-License-Identifier: GPL-2.0

//! Target types and their callbacks.
//!
//! C header: [`include/linux/device-mapper.h`](srctree/include/linux/device-mapper.h)
//!
//! The life of a target's private data: [`Target::create`] makes it in the constructor callback
//! (`ctr`), which hands it to the core as `ti->private`; all other callbacks borrow it; the
//! destructor callback (`dtr`) takes it back. The core calls `dtr` after the last bio has ended
//! and never runs another callback during or after it.

use super::args::Args;
use super::args::CtrError;
use super::bindings;
use super::bio;
use super::bio::Bio;
use super::bio::EndedBio;
use super::bio::NewBio;
use super::device::Access;
use super::device::Device;
use super::device::DeviceNumber;
use super::wait::Gate;
use super::wait::Pass;
use core::fmt;
use core::marker::PhantomData;
use core::mem::size_of;
use core::ptr;
use core::ptr::NonNull;
use kernel::error::to_result;
use kernel::ffi::c_char;
use kernel::ffi::c_int;
use kernel::ffi::c_uint;
use kernel::ffi::c_void;
use kernel::prelude::*;
use kernel::str::CStr;
use kernel::str::CStrExt;
use kernel::sync::Arc;
use kernel::types::Opaque;

/// What [`Target::map`] did with a bio. Made by the methods of [`NewBio`].
pub(crate) struct Mapped(c_int);

impl Mapped {
    pub(super) fn remapped() -> Self {
        Self(bindings::DM_MAPIO_REMAPPED as c_int)
    }

    pub(super) fn held() -> Self {
        Self(bindings::DM_MAPIO_SUBMITTED as c_int)
    }

    pub(super) fn killed() -> Self {
        Self(bindings::DM_MAPIO_KILL as c_int)
    }
}

/// What [`Target::end_io`] did with a bio. Made by the methods of [`EndedBio`].
pub(crate) struct Ended(c_int);

impl Ended {
    pub(super) fn done() -> Self {
        Self(bindings::DM_ENDIO_DONE as c_int)
    }

    pub(super) fn held() -> Self {
        Self(bindings::DM_ENDIO_INCOMPLETE as c_int)
    }
}

/// Which status is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatusKind {
    /// How the device is: `dmsetup status`.
    Info,
    /// The arguments that would make it again: `dmsetup table`.
    Table,
    /// What is measured for integrity (IMA): `name=value` pairs.
    Measurement,
}

/// How a device is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SuspendKind {
    /// When it is suspended, no I/O is under way and none is waiting.
    Flush,
    /// I/O may be given back to the core, which sends it again when the device is resumed.
    NoFlush,
}

/// What I/O suits a device.
pub(crate) struct Limits<'a> {
    raw: &'a mut kernel::bindings::queue_limits,
}

impl Limits<'_> {
    /// Discards come in units of `sectors`, aligned to it, and none is larger.
    pub(crate) fn set_discard_unit(&mut self, sectors: u32) {
        self.raw.discard_granularity = sectors << 9;
        self.raw.max_hw_discard_sectors = sectors;
    }
}

/// A target. The callbacks get `&self` and may be called from several threads at once.
#[vtable]
pub(crate) trait Target: Send + Sync + Sized + 'static {
    /// Kept beside each bio while it is in the target; starts as its default.
    type Data: Copy + Default + Send + 'static;

    /// The version of the target type, as `dmsetup targets` shows it.
    const VERSION: [u32; 3];

    /// Whether it says something for integrity measurement; name and version are put before it.
    const IS_MEASURED: bool = true;

    /// Makes a target from its table line. May sleep.
    fn create(setup: &mut Setup<'_>, args: Args<'_>) -> Result<Pin<KBox<Self>>, CtrError>;

    /// Ends all that goes on, before the target is dropped. May sleep.
    fn teardown(&self) {}

    /// Decides what becomes of a bio. May sleep for memory, and for nothing else.
    fn map(&self, bio: NewBio<Self::Data>) -> Mapped;

    /// Looks at a bio that the device has finished, or that the target has ended. Atomic context.
    fn end_io(&self, bio: EndedBio<Self::Data>) -> Ended {
        bio.done()
    }

    /// The device is about to be suspended; I/O still arrives. All bios in the target have to end
    /// now, if need be with [`Failure::Requeue`](super::Failure) where that is possible. May sleep.
    fn presuspend(&self, _kind: SuspendKind) {}

    /// The device is not suspended after all. May sleep.
    fn presuspend_undo(&self) {}

    /// The device is suspended; no bio is in the target. May sleep.
    fn postsuspend(&self) {}

    /// Checks that the target can be resumed. May sleep.
    fn preresume(&self) -> Result {
        Ok(())
    }

    /// The device is about to take I/O. May sleep.
    fn resume(&self) {}

    /// Writes a status line. May sleep.
    fn status(&self, kind: StatusKind, out: &mut Status<'_>);

    /// Handles a message. May sleep.
    fn message(&self, args: Args<'_>, out: &mut Status<'_>) -> Result {
        let _ = (args, out);
        Err(EINVAL)
    }

    /// Says what I/O suits the target. May sleep.
    fn io_hints(&self, _limits: &mut Limits<'_>) {}

    /// Shows the core each part of a device that the target uses.
    fn devices(&self, visitor: &mut Visitor<'_>) -> Result<(), Stop>;
}

/// A target while its constructor runs: `struct dm_target`.
pub(crate) struct Setup<'a> {
    ti: *mut bindings::dm_target,
    devices: &'a mut KVec<NonNull<bindings::dm_dev>>,
    gate: &'a Arc<Gate>,
}

impl Setup<'_> {
    /// The length of the target, in sectors.
    pub(crate) fn sectors(&self) -> u64 {
        // SAFETY: The core keeps `ti` valid while the constructor runs.
        unsafe { (*self.ti).len }
    }

    /// Where the target begins in the device, in sectors.
    pub(crate) fn begin(&self) -> u64 {
        // SAFETY: As above.
        unsafe { (*self.ti).begin }
    }

    /// Opens a device by path or by `major:minor`.
    pub(crate) fn open(&mut self, path: &CStr, access: Access) -> Result<Device> {
        let mode = match access {
            Access::Read => BLK_OPEN_READ,
            Access::Write => BLK_OPEN_READ | BLK_OPEN_WRITE,
            // SAFETY: The core keeps `ti` and its table valid while the constructor runs.
            Access::AsTable => unsafe { bindings::dm_table_get_mode((*self.ti).table) },
        };
        self.devices.reserve(1, GFP_KERNEL)?;
        let mut raw = ptr::null_mut();
        // SAFETY: All pointers are valid; the path is copied.
        let result =
            unsafe { bindings::dm_get_device(self.ti, path.as_char_ptr(), mode, &mut raw) };
        to_result(result)?;
        let device = NonNull::new(raw).ok_or(ENODEV)?;
        self.devices
            .push_within_capacity(device)
            .map_err(|_| ENOMEM)?;
        // SAFETY: `dm_get_device` has opened it.
        let bdev = unsafe { (*device.as_ptr()).bdev };
        // SAFETY: The device is put only after the gate is idle.
        unsafe { Device::from_raw(NonNull::new(bdev).ok_or(ENODEV)?, self.gate.enter()) }
    }

    /// Whether the table may be written to, and so its devices that are opened as it is.
    pub(crate) fn is_writable(&self) -> bool {
        // SAFETY: The core keeps `ti` and its table valid while the constructor runs.
        let mode = unsafe { bindings::dm_table_get_mode((*self.ti).table) };
        mode & BLK_OPEN_WRITE != 0
    }

    /// Whether two names mean the same device; false also if one means none.
    pub(crate) fn same_device(&self, one: &CStr, other: &CStr) -> bool {
        let number = |path: &CStr| {
            let mut number = 0;
            // SAFETY: Both pointers are valid for the call.
            let result = unsafe { bindings::dm_devt_from_path(path.as_char_ptr(), &mut number) };
            (result == 0).then_some(DeviceNumber(number))
        };
        number(one).is_some_and(|n| number(other) == Some(n))
    }

    /// A handle through which events are raised.
    pub(crate) fn table(&self) -> Table {
        Table {
            // SAFETY: The core keeps `ti` valid while the constructor runs.
            table: unsafe { (*self.ti).table },
            _pass: self.gate.enter(),
        }
    }

    /// How many flush bios each flush becomes.
    pub(crate) fn set_flush_bios(&mut self, count: u32) {
        // SAFETY: The core keeps `ti` valid and leaves it to the constructor.
        unsafe { (*self.ti).num_flush_bios = count }
    }

    /// How many discard bios each discard becomes; 0 (the default) means that the target takes
    /// none. They are split at borders of the unit that [`Target::io_hints`] tells.
    pub(crate) fn set_discard_bios(&mut self, count: u32) {
        // SAFETY: As above.
        unsafe { (*self.ti).num_discard_bios = count };
        // SAFETY: As above.
        unsafe { (*self.ti).set_max_discard_granularity(true) }
    }

    /// Makes the device show a volatile write cache, so that flushes arrive even if no device
    /// below has one.
    pub(crate) fn set_write_cache(&mut self) {
        // SAFETY: As above.
        unsafe { (*self.ti).set_flush_supported(true) }
    }
}

const BLK_OPEN_READ: u32 = 1 << 0;
const BLK_OPEN_WRITE: u32 = 1 << 1;

/// The table that a target is part of, for raising events.
///
/// # Invariants
///
/// `table` is valid for as long as `_pass` exists: the destructor waits for it.
pub(crate) struct Table {
    table: *mut bindings::dm_table,
    _pass: Pass,
}

// SAFETY: Events may be raised from any thread.
unsafe impl Send for Table {}
// SAFETY: As above.
unsafe impl Sync for Table {}

impl Table {
    /// Raises an event: wakes those who wait for the device to change. May sleep.
    pub(crate) fn raise_event(&self) {
        // SAFETY: By the type invariant the table is valid.
        unsafe { bindings::dm_table_event(self.table) }
    }
}

/// Where a status line goes. What does not fit is cut off, and the core asks again with more room.
pub(crate) struct Status<'a> {
    buffer: &'a mut [u8],
    used: usize,
}

impl Status<'_> {
    /// # Safety
    ///
    /// `result` is valid for writes of `len` bytes while the returned value lives.
    unsafe fn from_raw(result: *mut c_char, len: c_uint) -> Self {
        // SAFETY: The caller promises it; bytes of any content are valid.
        let buffer: &mut [u8] =
            unsafe { core::slice::from_raw_parts_mut(result.cast(), len as usize) };
        // The core measures the text with `strlen`, also when the target has none.
        if let Some(first) = buffer.first_mut() {
            *first = 0;
        }
        Self { buffer, used: 0 }
    }
}

impl fmt::Write for Status<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // The last byte stays a NUL. A line that fills the buffer makes the core take a larger one.
        let room = self.buffer.len().saturating_sub(self.used + 1);
        let len = text.len().min(room);
        if let (Some(to), Some(from)) = (
            self.buffer.get_mut(self.used..self.used + len),
            text.as_bytes().get(..len),
        ) {
            to.copy_from_slice(from);
            self.used += len;
        }
        if let Some(end) = self.buffer.get_mut(self.used) {
            *end = 0;
        }
        Ok(())
    }
}

/// The core has seen what it was looking for.
pub(crate) struct Stop(c_int);

/// Takes the parts of devices that a target uses.
pub(crate) struct Visitor<'a> {
    ti: *mut bindings::dm_target,
    callout: bindings::iterate_devices_callout_fn,
    data: *mut c_void,
    devices: &'a [NonNull<bindings::dm_dev>],
}

impl Visitor<'_> {
    /// Shows `sectors` sectors of a device from `start` on.
    pub(crate) fn visit(&mut self, device: &Device, start: u64, sectors: u64) -> Result<(), Stop> {
        let Some(callout) = self.callout else {
            return Ok(());
        };
        let raw = self.devices.iter().copied().find(|raw| {
            // SAFETY: The devices in the list are open until the destructor puts them.
            unsafe { (*raw.as_ptr()).bdev == device.as_ptr() }
        });
        let Some(raw) = raw else {
            return Ok(());
        };
        // SAFETY: The core passed the callout with its data; the device belongs to this target.
        match unsafe { callout(self.ti, raw.as_ptr(), start, sectors, self.data) } {
            0 => Ok(()),
            found => Err(Stop(found)),
        }
    }
}

/// What `ti->private` points to.
struct Instance<T> {
    target: Pin<KBox<T>>,
    devices: KVec<NonNull<bindings::dm_dev>>,
    gate: Arc<Gate>,
}

/// A registered target type; dropping it unregisters it.
///
/// # Invariants
///
/// `inner` is registered with the core and does not move.
pub(crate) struct Registration<T: Target> {
    inner: KBox<Opaque<bindings::target_type>>,
    _target: PhantomData<fn() -> T>,
}

// SAFETY: Registration and unregistration may happen on different threads.
unsafe impl<T: Target> Send for Registration<T> {}
// SAFETY: Nothing can be done through a shared reference.
unsafe impl<T: Target> Sync for Registration<T> {}

impl<T: Target> Registration<T> {
    /// Registers `T` under a name. `EEXIST` or `EBUSY` if the name is taken.
    pub(crate) fn new(name: &'static CStr, module: &'static ThisModule) -> Result<Self> {
        let raw = bindings::target_type {
            features: 0,
            name: name.as_char_ptr(),
            module: module.as_ptr(),
            version: T::VERSION,
            ctr: Some(ctr::<T>),
            dtr: Some(dtr::<T>),
            map: Some(map::<T>),
            end_io: if T::HAS_END_IO {
                Some(end_io::<T>)
            } else {
                None
            },
            presuspend: Some(presuspend::<T>),
            presuspend_undo: Some(presuspend_undo::<T>),
            postsuspend: Some(postsuspend::<T>),
            preresume: Some(preresume::<T>),
            resume: Some(resume::<T>),
            status: Some(status::<T>),
            message: Some(message::<T>),
            iterate_devices: Some(iterate_devices::<T>),
            io_hints: if T::HAS_IO_HINTS {
                Some(io_hints::<T>)
            } else {
                None
            },
            // SAFETY: All that is left are optional callbacks and the core's list entry, for which
            // zero is valid.
            ..unsafe { core::mem::zeroed() }
        };
        let inner = KBox::new(Opaque::new(raw), GFP_KERNEL)?;
        // SAFETY: The type lives in a box that is kept until it is unregistered; its callbacks
        // follow the core's rules.
        to_result(unsafe { bindings::dm_register_target(inner.get()) })?;
        // INVARIANT: Just registered; the box's content does not move.
        Ok(Self {
            inner,
            _target: PhantomData,
        })
    }
}

impl<T: Target> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is registered. No target of the type exists, as each
        // holds a reference to the module.
        unsafe { bindings::dm_unregister_target(self.inner.get()) }
    }
}

/// Waits until nobody uses the devices any more, and gives them back.
///
/// # Safety
///
/// The devices were opened for `ti` and have not been put; no new clones of them are made.
unsafe fn put_devices(
    ti: *mut bindings::dm_target,
    devices: &[NonNull<bindings::dm_dev>],
    gate: &Gate,
) {
    gate.wait_idle();
    for device in devices {
        // SAFETY: By the contract of this function.
        unsafe { bindings::dm_put_device(ti, device.as_ptr()) }
    }
}

/// # Safety
///
/// Called by the core as a constructor.
unsafe extern "C" fn ctr<T: Target>(
    ti: *mut bindings::dm_target,
    argc: c_uint,
    argv: *mut *mut c_char,
) -> c_int {
    let Ok(gate) = Gate::new() else {
        return ENOMEM.to_errno();
    };
    let mut devices = KVec::new();
    let mut setup = Setup {
        ti,
        devices: &mut devices,
        gate: &gate,
    };
    // SAFETY: The core passes `argc` strings that it keeps until the constructor returns.
    let args = unsafe { Args::from_raw(argc as usize, argv.cast_const()) };
    let no_memory = CtrError::new(ENOMEM, c"Out of memory");
    // What a target has set up is only undone by `dtr`, so nothing may fail after `create`.
    let made = KBox::<Option<Instance<T>>>::new(None, GFP_KERNEL)
        .map_err(|_| no_memory)
        .and_then(|place| T::create(&mut setup, args).map(|target| (target, place)));
    match made {
        Ok((target, mut place)) => {
            *place = Some(Instance {
                target,
                devices,
                gate,
            });
            // SAFETY: The core keeps `ti` valid and leaves it to the constructor.
            unsafe {
                (*ti).per_io_data_size = size_of::<T::Data>() as u32;
                (*ti).private = KBox::into_raw(place).cast();
            }
            0
        }
        Err(error) => {
            // SAFETY: The devices were opened by `setup` for this `ti`, and `create` is over.
            unsafe { put_devices(ti, &devices, &gate) };
            // SAFETY: The core keeps `ti` valid; it reads the message only, which is static.
            unsafe { (*ti).error = error.message.as_char_ptr().cast_mut() };
            error.errno.to_errno()
        }
    }
}

/// # Safety
///
/// Called by the core as a destructor, once after a successful `ctr::<T>`.
unsafe extern "C" fn dtr<T: Target>(ti: *mut bindings::dm_target) {
    // SAFETY: `ctr` put the box there, and nobody else takes it.
    let place = unsafe { KBox::<Option<Instance<T>>>::from_raw((*ti).private.cast()) };
    let Some(instance) = KBox::into_inner(place) else {
        return;
    };
    instance.target.teardown();
    let Instance {
        target,
        devices,
        gate,
    } = instance;
    drop(target);
    // SAFETY: The devices were opened by `ctr` for this `ti`; their owner is gone.
    unsafe { put_devices(ti, &devices, &gate) };
}

/// Borrows the instance behind `ti`.
///
/// # Safety
///
/// `ti` was set up by `ctr::<T>` and `dtr::<T>` does not run before the borrow ends.
unsafe fn instance<'a, T: Target>(ti: *mut bindings::dm_target) -> Option<&'a Instance<T>> {
    // SAFETY: By the contract of this function.
    unsafe { (*(*ti).private.cast::<Option<Instance<T>>>()).as_ref() }
}

/// # Safety
///
/// Called by the core to map a bio, between `ctr::<T>` and `dtr::<T>`.
unsafe extern "C" fn map<T: Target>(
    ti: *mut bindings::dm_target,
    raw: *mut kernel::bindings::bio,
) -> c_int {
    // SAFETY: By the contract of this function.
    let (instance, raw) = unsafe { (instance::<T>(ti), NonNull::new(raw)) };
    let (Some(instance), Some(raw)) = (instance, raw) else {
        return bindings::DM_MAPIO_KILL as c_int;
    };
    // SAFETY: `ctr` asked for room for a `T::Data` beside each bio.
    unsafe { bio::data_of::<T::Data>(raw).write(T::Data::default()) };
    // SAFETY: The core passes the bio to the target; its data was just initialised.
    let bio = NewBio::new(unsafe { Bio::from_raw(raw) });
    instance.target.map(bio).0
}

/// # Safety
///
/// Called by the core when a bio that `map::<T>` has seen has ended.
unsafe extern "C" fn end_io<T: Target>(
    ti: *mut bindings::dm_target,
    raw: *mut kernel::bindings::bio,
    error: *mut kernel::bindings::blk_status_t,
) -> c_int {
    // SAFETY: By the contract of this function.
    let (instance, raw) = unsafe { (instance::<T>(ti), NonNull::new(raw)) };
    let (Some(instance), Some(raw)) = (instance, raw) else {
        return bindings::DM_ENDIO_DONE as c_int;
    };
    // SAFETY: The core passes a valid status, and the bio back to the target.
    let bio = unsafe { EndedBio::new(Bio::from_raw(raw), error) };
    instance.target.end_io(bio).0
}

/// # Safety
///
/// Called by the core between `ctr::<T>` and `dtr::<T>`.
unsafe extern "C" fn presuspend<T: Target>(ti: *mut bindings::dm_target) {
    // SAFETY: By the contract of this function.
    if let Some(instance) = unsafe { instance::<T>(ti) } {
        // SAFETY: The core keeps `ti` and its device valid.
        let noflush = unsafe { bindings::dm_noflush_suspending(ti) } != 0;
        instance.target.presuspend(if noflush {
            SuspendKind::NoFlush
        } else {
            SuspendKind::Flush
        });
    }
}

/// # Safety
///
/// Called by the core between `ctr::<T>` and `dtr::<T>`.
unsafe extern "C" fn presuspend_undo<T: Target>(ti: *mut bindings::dm_target) {
    // SAFETY: By the contract of this function.
    if let Some(instance) = unsafe { instance::<T>(ti) } {
        instance.target.presuspend_undo();
    }
}

/// # Safety
///
/// Called by the core between `ctr::<T>` and `dtr::<T>`.
unsafe extern "C" fn postsuspend<T: Target>(ti: *mut bindings::dm_target) {
    // SAFETY: By the contract of this function.
    if let Some(instance) = unsafe { instance::<T>(ti) } {
        instance.target.postsuspend();
    }
}

/// # Safety
///
/// Called by the core between `ctr::<T>` and `dtr::<T>`.
unsafe extern "C" fn preresume<T: Target>(ti: *mut bindings::dm_target) -> c_int {
    // SAFETY: By the contract of this function.
    match unsafe { instance::<T>(ti) }.map(|instance| instance.target.preresume()) {
        Some(Err(error)) => error.to_errno(),
        _ => 0,
    }
}

/// # Safety
///
/// Called by the core between `ctr::<T>` and `dtr::<T>`.
unsafe extern "C" fn resume<T: Target>(ti: *mut bindings::dm_target) {
    // SAFETY: By the contract of this function.
    if let Some(instance) = unsafe { instance::<T>(ti) } {
        instance.target.resume();
    }
}

/// # Safety
///
/// Called by the core between `ctr::<T>` and `dtr::<T>`, with room for `len` bytes at `result`.
unsafe extern "C" fn status<T: Target>(
    ti: *mut bindings::dm_target,
    kind: bindings::status_type_t,
    _flags: c_uint,
    result: *mut c_char,
    len: c_uint,
) {
    let kind = match kind {
        bindings::status_type_t_STATUSTYPE_INFO => StatusKind::Info,
        bindings::status_type_t_STATUSTYPE_TABLE => StatusKind::Table,
        _ => StatusKind::Measurement,
    };
    // SAFETY: By the contract of this function.
    let (instance, mut out) = unsafe { (instance::<T>(ti), Status::from_raw(result, len)) };
    if let Some(instance) = instance {
        if kind == StatusKind::Measurement && T::IS_MEASURED {
            // SAFETY: The type of a target is set and its name is static.
            let name = unsafe { CStr::from_char_ptr((*(*ti).type_).name) };
            let [major, minor, patch] = T::VERSION;
            // Writing to a status line does not fail: what does not fit is cut off.
            let _ = fmt::Write::write_fmt(
                &mut out,
                format_args!(
                    "target_name={},target_version={major}.{minor}.{patch}",
                    name.to_str().unwrap_or_default()
                ),
            );
        }
        instance.target.status(kind, &mut out);
    }
}

/// # Safety
///
/// Called by the core between `ctr::<T>` and `dtr::<T>`, with `argc` strings and `len` bytes.
unsafe extern "C" fn message<T: Target>(
    ti: *mut bindings::dm_target,
    argc: c_uint,
    argv: *mut *mut c_char,
    result: *mut c_char,
    len: c_uint,
) -> c_int {
    // SAFETY: By the contract of this function.
    let (instance, args, mut out) = unsafe {
        (
            instance::<T>(ti),
            Args::from_raw(argc as usize, argv.cast_const()),
            Status::from_raw(result, len),
        )
    };
    match instance.map(|instance| instance.target.message(args, &mut out)) {
        Some(Err(error)) => error.to_errno(),
        // The core returns text to userspace for a positive result.
        _ => c_int::from(out.used != 0),
    }
}

/// # Safety
///
/// Called by the core between `ctr::<T>` and `dtr::<T>`, with limits that are its own.
unsafe extern "C" fn io_hints<T: Target>(
    ti: *mut bindings::dm_target,
    limits: *mut kernel::bindings::queue_limits,
) {
    // SAFETY: By the contract of this function.
    let (instance, raw) = unsafe { (instance::<T>(ti), limits.as_mut()) };
    if let (Some(instance), Some(raw)) = (instance, raw) {
        instance.target.io_hints(&mut Limits { raw });
    }
}

/// # Safety
///
/// Called by the core between `ctr::<T>` and `dtr::<T>`, with a callout that takes `data`.
unsafe extern "C" fn iterate_devices<T: Target>(
    ti: *mut bindings::dm_target,
    callout: bindings::iterate_devices_callout_fn,
    data: *mut c_void,
) -> c_int {
    // SAFETY: By the contract of this function.
    let Some(instance) = (unsafe { instance::<T>(ti) }) else {
        return 0;
    };
    let mut visitor = Visitor {
        ti,
        callout,
        data,
        devices: &instance.devices,
    };
    match instance.target.devices(&mut visitor) {
        Ok(()) => 0,
        Err(Stop(found)) => found,
    }
}
