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

const SIGNALS: [libc::c_int; 3] = [SIGINT, SIGTERM, SIGHUP];

static STOP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From now on signals only set a flag.
pub fn install() -> anyhow::Result<()> {
    for signal in SIGNALS {
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
    for signal in SIGNALS {
        let socket = socket.try_clone().context("cannot copy a socket")?;
        pipe::register(signal, socket).context("cannot install a signal handler")?;
    }
    Ok(())
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
