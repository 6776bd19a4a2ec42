// SPDX-License-Identifier: GPL-2.0

//! The words of a table line, and why one is refused.

use core::ptr;
use kernel::error::Error;
use kernel::ffi::c_char;
use kernel::str::CStr;
use kernel::str::CStrExt;

/// The arguments of a target's table line.
///
/// # Invariants
///
/// `argv` points to `argc` pointers to strings, all of them valid for `'a`.
#[derive(Clone, Copy)]
pub(crate) struct Args<'a> {
    argc: usize,
    argv: *const *mut c_char,
    _strings: core::marker::PhantomData<&'a CStr>,
}

impl<'a> Args<'a> {
    /// Wraps what a constructor gets.
    ///
    /// # Safety
    ///
    /// `argv` points to `argc` pointers to NUL-terminated strings that are valid for `'a`.
    pub(super) unsafe fn from_raw(argc: usize, argv: *const *mut c_char) -> Self {
        // INVARIANT: The caller promises it.
        Self {
            argc,
            argv,
            _strings: core::marker::PhantomData,
        }
    }

    /// How many words there are.
    pub(crate) fn len(&self) -> usize {
        self.argc
    }

    /// Word `n`.
    pub(crate) fn get(&self, n: usize) -> Option<&'a CStr> {
        if n >= self.argc {
            return None;
        }
        // SAFETY: `n` is less than the number of pointers.
        let word = unsafe { ptr::read(self.argv.add(n)) };
        // SAFETY: By the type invariant the string is valid for `'a`.
        Some(unsafe { CStr::from_char_ptr(word) })
    }
}

/// Why a constructor refuses a table line: what the core logs, and the error of the ioctl.
#[derive(Clone, Copy)]
pub(crate) struct CtrError {
    /// The errno that userspace sees.
    pub(crate) errno: Error,
    /// What `dmesg` shows; constructors log the details beforehand.
    pub(crate) message: &'static CStr,
}

impl CtrError {
    /// An error with its message.
    pub(crate) const fn new(errno: Error, message: &'static CStr) -> Self {
        Self { errno, message }
    }
}
