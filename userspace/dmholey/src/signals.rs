// SPDX-License-Identifier: GPL-2.0-or-later

//! SIGINT, SIGTERM and SIGHUP ask long work to stop at the next safe place; a second one ends the
//! program at once.

use crate::exit::Exit;
use anyhow::Context;
use nix::sys::signal::SigSet;
use nix::sys::signal::SigmaskHow;
use signal_hook::consts::SIGHUP;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;
use signal_hook::flag;
use signal_hook::low_level::pipe;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;
use std::time::Instant;

const SIGNALS: [libc::c_int; 3] = [SIGINT, SIGTERM, SIGHUP];

/// How long nobody looks for a signal.
const SLICE: Duration = Duration::from_millis(200);

static STOP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// From now on signals only set a flag; those that were ignored, as nohup has it, still are.
pub fn install() -> anyhow::Result<()> {
    // A handler that is there twice would take the first signal for a second one.
    if INSTALLED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    for signal in heard() {
        let status = Exit::Interrupted.code().into();
        flag::register_conditional_shutdown(signal, status, Arc::clone(&STOP))
            .and_then(|_| flag::register(signal, Arc::clone(&STOP)))
            .context("cannot install a signal handler")?;
    }
    Ok(())
}

/// The same, and each of them writes to a socket, so that whoever waits for something wakes up.
pub fn install_with(socket: &UnixStream) -> anyhow::Result<()> {
    install()?;
    for signal in heard() {
        let socket = socket.try_clone().context("cannot copy a socket")?;
        pipe::register(signal, socket).context("cannot install a signal handler")?;
    }
    Ok(())
}

/// Those of the signals that are not ignored.
fn heard() -> impl Iterator<Item = libc::c_int> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = ignored(&status);
    SIGNALS
        .into_iter()
        .filter(move |signal| ignored & (1 << (signal - 1)) == 0)
}

/// The signals that a process ignores, a bit for each from the first on.
fn ignored(status: &str) -> u64 {
    let mut lines = status.lines();
    let mask = lines.find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

/// Waits for some time, or until a signal has come.
pub fn sleep(time: Duration) {
    let end = Instant::now() + time;
    while !stopped() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        thread::sleep(left.min(SLICE));
    }
}

/// Does something that no signal interrupts, as far as signals can be held back; they come after it.
pub fn held_back<T>(what: impl FnOnce() -> T) -> T {
    // Where that fails, all is as it would be without it.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let done = what();
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    done
}

/// Whether a signal has come.
pub fn stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_found() {
        let status = "Name:\tx\nSigBlk:\t0000000000000003\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        assert_eq!(ignored(status), (1 << (SIGHUP - 1)) | (1 << 12));
        assert_eq!(ignored(""), 0);
    }
}
