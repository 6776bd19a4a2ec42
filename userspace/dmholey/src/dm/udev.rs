// SPDX-License-Identifier: GPL-2.0-or-later

//! Waiting for udev, by the protocol of device-mapper's own rules.
//!
//! A request carries a cookie: the key of a System V semaphore, and flags. When udev's rules have
//! made or removed the links for the device, they count the semaphore down
//! (`dmsetup udevcomplete`). So a device that was created has its node when the command returns.

#![allow(unsafe_code)]

use std::path::Path;
use std::time::Duration;
use std::time::Instant;

/// Exists while udevd runs.
const UDEVD: &str = "/run/udev/control";
/// Asks, for any program of device-mapper, to do without udev.
const DISABLE: &str = "DM_DISABLE_UDEV";
/// The upper half of a semaphore's key.
const MAGIC: u32 = 0x0d4d;
/// `DM_UDEV_PRIMARY_SOURCE_FLAG`: this event is about a change that was made on purpose.
const PRIMARY_SOURCE: u32 = 0x0040;
/// `DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG`, `_DISK_`, `_OTHER_`: nobody looks into the device, nor makes links for what is
/// on it.
pub(crate) const HIDDEN: u32 = 0x0002 | 0x0004 | 0x0008;
/// `GETVAL` of `linux/sem.h`.
const GETVAL: libc::c_int = 12;
/// A rule that takes longer is not waited for: the device works without it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time between two looks at the semaphore.
const POLL: Duration = Duration::from_millis(5);
/// Others may use a key that was drawn: so often another one is drawn.
const TRIES: usize = 16;

/// A semaphore that udev counts down once. It goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Cookie {
    base: u16,
    semaphore: libc::c_int,
}

impl Cookie {
    /// A new cookie; `None` if udev does not run, is not wanted, or cannot be waited for.
    pub(crate) fn begin() -> Option<Self> {
        if std::env::var_os(DISABLE).is_some() || !Path::new(UDEVD).exists() {
            return None;
        }
        (0..TRIES).find_map(|_| {
            let mut drawn = [0; 2];
            rustix::rand::getrandom(&mut drawn, rustix::rand::GetRandomFlags::empty()).ok()?;
            Self::with_base(u16::from_ne_bytes(drawn))
        })
    }

    fn with_base(base: u16) -> Option<Self> {
        if base == 0 {
            return None;
        }
        let key = ((MAGIC << 16) | u32::from(base)) as libc::key_t;
        let flags = 0o600 | libc::IPC_CREAT | libc::IPC_EXCL;
        // SAFETY: semget takes plain numbers.
        let semaphore = unsafe { libc::semget(key, 1, flags) };
        if semaphore < 0 {
            return None;
        }
        let cookie = Self { base, semaphore };
        let mut up = libc::sembuf {
            sem_num: 0,
            sem_op: 1,
            sem_flg: libc::IPC_NOWAIT as libc::c_short,
        };
        // SAFETY: `up` is one operation, as many as the call is told, and outlives the call.
        let counted = unsafe { libc::semop(semaphore, &mut up, 1) };
        (counted == 0).then_some(cookie)
    }

    /// What a request carries, with flags for udev's rules.
    pub(crate) fn event(&self, flags: u32) -> u32 {
        ((PRIMARY_SOURCE | flags) << 16) | u32::from(self.base)
    }

    /// Waits for udev, but not for ever.
    pub(crate) fn wait(self) {
        let start = Instant::now();
        while self.value() > 0 && start.elapsed() < PATIENCE {
            std::thread::sleep(POLL);
        }
    }

    /// The count; negative if the semaphore is gone.
    fn value(&self) -> libc::c_int {
        // SAFETY: GETVAL takes no fourth argument, and the others are plain numbers.
        unsafe { libc::semctl(self.semaphore, 0, GETVAL) }
    }
}

impl Drop for Cookie {
    fn drop(&mut self) {
        // SAFETY: IPC_RMID takes no fourth argument. The semaphore was made by this value; if
        // udev has removed it meanwhile, the call fails and does nothing.
        let _ = unsafe { libc::semctl(self.semaphore, 0, libc::IPC_RMID) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_counts_one_event() {
        // Where the system has no such semaphores there is nothing to wait with.
        let Some(cookie) = Cookie::with_base(0x4d5a) else {
            eprintln!("skipped: no System V semaphores here");
            return;
        };
        assert_eq!(cookie.event(0), 0x0040_4d5a);
        assert_eq!(cookie.event(HIDDEN), 0x004e_4d5a);
        assert_eq!(cookie.value(), 1);
        assert!(Cookie::with_base(0x4d5a).is_none(), "the key is taken");
        let mut down = libc::sembuf {
            sem_num: 0,
            sem_op: -1,
            sem_flg: libc::IPC_NOWAIT as libc::c_short,
        };
        // SAFETY: As in `with_base`.
        assert_eq!(unsafe { libc::semop(cookie.semaphore, &mut down, 1) }, 0);
        let before = Instant::now();
        cookie.wait();
        assert!(before.elapsed() < PATIENCE);
        let again = Cookie::with_base(0x4d5a).expect("the key is free again");
        drop(again);
    }
}
