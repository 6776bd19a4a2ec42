// SPDX-License-Identifier: GPL-2.0

//! A character device that programs read, write and poll.
//!
//! What `kernel::miscdevice` has cannot be polled.
//!
//! C header: [`include/linux/miscdevice.h`](srctree/include/linux/miscdevice.h)

use super::wait::WaitQueue;
use core::marker::PhantomData;
use core::mem::zeroed;
use kernel::bindings::file;
use kernel::bindings::file_operations;
use kernel::bindings::inode;
use kernel::bindings::miscdevice;
use kernel::bindings::poll_table_struct;
use kernel::error::to_result;
use kernel::ffi::c_char;
use kernel::ffi::c_int;
use kernel::ffi::c_uint;
use kernel::prelude::*;
use kernel::str::CStr;
use kernel::sync::Arc;
use kernel::sync::ArcBorrow;
use kernel::types::ForeignOwnable;
use kernel::types::Opaque;
use kernel::uaccess::UserPtr;
use kernel::uaccess::UserSlice;
use kernel::uaccess::UserSliceReader;
use kernel::uaccess::UserSliceWriter;

/// `POLLIN | POLLRDNORM` of `include/uapi/asm-generic/poll.h`.
const READABLE: c_uint = 0x41;
/// `POLLOUT | POLLWRNORM`, from there.
const WRITABLE: c_uint = 0x104;

/// What can be done with a file without waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ready {
    /// There is something to read.
    pub(crate) to_read: bool,
    /// There is room for what is written.
    pub(crate) to_write: bool,
}

/// A device that was opened. Its methods may be called from several threads at once, and may sleep.
pub(crate) trait DeviceFile: Send + Sync + Sized + 'static {
    /// Opens it. The caller may administrate the system.
    fn open() -> Result<Arc<Self>>;

    /// Reads, without waiting: `EAGAIN` if there is nothing. Says how many bytes.
    fn read(self: ArcBorrow<'_, Self>, to: UserSliceWriter) -> Result<usize>;

    /// Writes, without waiting: `EAGAIN` if there is no room. Says how many bytes it took.
    fn write(self: ArcBorrow<'_, Self>, from: UserSliceReader) -> Result<usize>;

    /// What would not have to wait now.
    fn ready(&self) -> Ready;

    /// Is woken when that changes.
    fn waiters(&self) -> &WaitQueue;

    /// Nobody has it open any more. Others may still refer to it.
    fn close(&self);
}

/// A registered character device; dropping it unregisters it.
///
/// # Invariants
///
/// `device` is registered, and points to `operations` and to static names.
pub(crate) struct CharDevice<T> {
    device: Pin<KBox<Opaque<miscdevice>>>,
    /// Files may be open for as long as the module is there, which owns this.
    _operations: KBox<file_operations>,
    _file: PhantomData<T>,
}

// SAFETY: It may be unregistered by any thread.
unsafe impl<T: DeviceFile> Send for CharDevice<T> {}
// SAFETY: Nothing can be done through a shared reference.
unsafe impl<T: DeviceFile> Sync for CharDevice<T> {}

impl<T: DeviceFile> CharDevice<T> {
    /// Registers a device of this name, which only its owner (root) may open. It has to live as
    /// long as the module: open files keep the module, not this value.
    pub(crate) fn new(name: &'static CStr, module: &'static ThisModule) -> Result<Self> {
        let operations = file_operations {
            owner: module.as_ptr(),
            open: Some(open::<T>),
            release: Some(release::<T>),
            read: Some(read::<T>),
            write: Some(write::<T>),
            poll: Some(poll::<T>),
            // SAFETY: All that is left are optional callbacks and flags, for which zero is valid.
            ..unsafe { zeroed() }
        };
        let operations = KBox::new(operations, GFP_KERNEL)?;
        let device = miscdevice {
            minor: kernel::bindings::MISC_DYNAMIC_MINOR as c_int,
            name: name.as_char_ptr(),
            fops: &*operations,
            mode: 0o600,
            // SAFETY: The rest is the core's, or optional.
            ..unsafe { zeroed() }
        };
        let device = KBox::pin(Opaque::new(device), GFP_KERNEL)?;
        // SAFETY: Device and operations are in boxes that are kept until it is unregistered.
        to_result(unsafe { kernel::bindings::misc_register(device.get()) })?;
        // INVARIANT: Just registered.
        Ok(Self {
            device,
            _operations: operations,
            _file: PhantomData,
        })
    }
}

impl<T> Drop for CharDevice<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is registered.
        unsafe { kernel::bindings::misc_deregister(self.device.get()) }
    }
}

fn result(done: Result<usize>) -> isize {
    match done {
        // No buffer is longer than that.
        Ok(bytes) => isize::try_from(bytes).unwrap_or(isize::MAX),
        Err(error) => error.to_errno() as isize,
    }
}

/// # Safety
///
/// Called by the core to open a file.
unsafe extern "C" fn open<T: DeviceFile>(inode: *mut inode, file: *mut file) -> c_int {
    // SAFETY: No condition; it looks at the caller's credentials.
    if !unsafe { kernel::bindings::capable(kernel::bindings::CAP_SYS_ADMIN as c_int) } {
        return EPERM.to_errno();
    }
    match T::open() {
        Ok(opened) => {
            // SAFETY: The core leaves the private data to who opens the file.
            unsafe { (*file).private_data = opened.into_foreign() };
            // SAFETY: The core passes a valid inode and file.
            unsafe { kernel::bindings::stream_open(inode, file) }
        }
        Err(error) => error.to_errno(),
    }
}

/// # Safety
///
/// Called by the core when the last user of the file is gone.
unsafe extern "C" fn release<T: DeviceFile>(_inode: *mut inode, file: *mut file) -> c_int {
    // SAFETY: `open` put it there, and nobody uses the file any more.
    let opened = unsafe { <Arc<T> as ForeignOwnable>::from_foreign((*file).private_data) };
    opened.close();
    0
}

/// Borrows what `open` has made.
///
/// # Safety
///
/// `file` was opened by `open::<T>` and is not released before the borrow ends.
unsafe fn opened<'a, T: DeviceFile>(file: *mut file) -> ArcBorrow<'a, T> {
    // SAFETY: By the contract of this function.
    unsafe { <Arc<T> as ForeignOwnable>::borrow((*file).private_data) }
}

/// # Safety
///
/// Called by the core with a file that `open::<T>` has opened.
unsafe extern "C" fn read<T: DeviceFile>(
    file: *mut file,
    to: *mut c_char,
    len: usize,
    _at: *mut i64,
) -> isize {
    // SAFETY: By the contract of this function.
    let opened = unsafe { opened::<T>(file) };
    result(T::read(
        opened,
        UserSlice::new(UserPtr::from_ptr(to.cast()), len).writer(),
    ))
}

/// # Safety
///
/// Called by the core with a file that `open::<T>` has opened.
unsafe extern "C" fn write<T: DeviceFile>(
    file: *mut file,
    from: *const c_char,
    len: usize,
    _at: *mut i64,
) -> isize {
    // SAFETY: By the contract of this function.
    let opened = unsafe { opened::<T>(file) };
    let from = UserPtr::from_ptr(from.cast_mut().cast());
    result(T::write(opened, UserSlice::new(from, len).reader()))
}

/// # Safety
///
/// Called by the core with a file that `open::<T>` has opened, and a table or null.
unsafe extern "C" fn poll<T: DeviceFile>(file: *mut file, table: *mut poll_table_struct) -> c_uint {
    // SAFETY: By the contract of this function.
    let opened = unsafe { opened::<T>(file) };
    // SAFETY: The core passes both; the queue lives as long as the file, and nobody is in it any
    // more when that is released.
    unsafe { kernel::bindings::poll_wait(file, opened.waiters().as_ptr(), table) };
    let ready = opened.ready();
    let mut mask = 0;
    if ready.to_read {
        mask |= READABLE;
    }
    if ready.to_write {
        mask |= WRITABLE;
    }
    mask
}
