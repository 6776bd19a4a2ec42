// SPDX-License-Identifier: GPL-2.0-or-later

//! `/dev/dmholey`, the module's device for agents.
//!
//! A thread of its own reads what the target tells; what it is told is written by the caller. The format is that of
//! [`holey_core::agent`].

use crate::driver::Failed;
use dmholey::dm::DevNum;
use holey_core::agent::Event;
use holey_core::agent::Order;
use holey_core::agent::Role;
use holey_core::agent::LEN;
use holey_core::agent::VERSION;
use holey_core::format::ChunkSize;
use rustix::event::eventfd;
use rustix::event::poll;
use rustix::event::EventfdFlags;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use std::collections::VecDeque;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread;
use std::thread::JoinHandle;

/// The device.
const DEVICE: &str = "/dev/dmholey";
/// Records in one call, at most.
const RECORDS: usize = 512;

/// Says that a port is being closed.
#[derive(Debug)]
pub struct Stop {
    wake: OwnedFd,
    said: AtomicBool,
}

impl Stop {
    /// Whether it is.
    pub fn is_said(&self) -> bool {
        self.said.load(Ordering::Acquire)
    }
}

/// The device, opened for the targets on one volume. It is closed when this is dropped.
#[derive(Debug)]
pub struct Port {
    file: Arc<File>,
    stop: Arc<Stop>,
    role: Role,
    reader: Option<JoinHandle<()>>,
}

/// Opens the device.
pub fn open_device() -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(DEVICE);
    file.map_err(|error| {
        let hint = if Path::new("/sys/module/dm_holey").exists() {
            "run this as root"
        } else {
            "load the module: modprobe dm-holey"
        };
        io::Error::new(error.kind(), format!("{DEVICE}: {error}; {hint}"))
    })
}

impl Port {
    /// Takes the device, just opened. `heard` takes what the target tells, on a thread of its own, some at a time. Where
    /// it waits it looks whether the port is being closed. If the device cannot be read any more, `failed` is told.
    pub fn open(
        file: File,
        role: Role,
        volume: DevNum,
        chunk: ChunkSize,
        heard: impl FnMut(&[Event], &Stop) + Send + 'static,
        failed: Failed,
    ) -> io::Result<Self> {
        let file = Arc::new(file);
        let stop = Arc::new(Stop {
            wake: eventfd(0, EventfdFlags::CLOEXEC)?,
            said: AtomicBool::new(false),
        });
        let bind = Order::Bind {
            role,
            major: volume.major,
            minor: volume.minor,
            chunk,
        };
        (&*file).write_all(&bind.encode()).map_err(|error| {
            let text = format!("{DEVICE}: version {VERSION} for {role:?} on {volume}: {error}");
            io::Error::new(error.kind(), text)
        })?;
        let reader = {
            let (file, stop) = (file.clone(), stop.clone());
            let name = "dmholey-events".to_owned();
            thread::Builder::new().name(name).spawn(move || {
                if let Err(error) = read_all(&file, &stop, heard) {
                    failed.tell(&format!("{DEVICE}: {error}"));
                }
            })?
        };
        Ok(Self {
            file,
            stop,
            role,
            reader: Some(reader),
        })
    }

    /// For whom it speaks.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// Tells the target what it may not refuse.
    pub fn insist(&self, order: Order) -> io::Result<()> {
        (&*self.file).write_all(&order.encode()).map_err(|error| {
            let text = format!("{DEVICE}: the target does not take {order:?}: {error}");
            io::Error::new(error.kind(), text)
        })
    }

    /// Tells the target, and leaves what it has no room for. An order that it refuses is dropped.
    pub fn tell(&self, orders: &mut VecDeque<Order>) -> io::Result<()> {
        let mut most = RECORDS;
        while !orders.is_empty() {
            let some = orders.iter().take(most);
            let bytes: Vec<u8> = some.flat_map(|order| order.encode()).collect();
            match (&*self.file).write(&bytes) {
                Ok(count) => drop(orders.drain(..count / LEN)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // One of them makes no sense, and with it all are refused: it is looked for one by one.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput && most > 1 => most = 1,
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    let order = orders.pop_front();
                    tracing::error!("the target refuses {order:?}: {error}");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.stop.said.store(true, Ordering::Release);
        // The counter is at zero, so there is room for one.
        let _ = rustix::io::write(&self.stop.wake, &1u64.to_ne_bytes());
        if let Some(reader) = self.reader.take() {
            // It has said itself what went wrong.
            let _ = reader.join();
        }
    }
}

fn read_all(
    mut file: &File,
    stop: &Stop,
    mut heard: impl FnMut(&[Event], &Stop),
) -> io::Result<()> {
    let mut bytes = [0; RECORDS * LEN];
    while !stop.is_said() {
        match file.read(&mut bytes) {
            Ok(count) => {
                let records = bytes[..count].chunks(LEN).map(Event::decode);
                match records.collect::<Result<Vec<_>, _>>() {
                    Ok(events) => heard(&events, stop),
                    Err(error) => tracing::error!("{DEVICE} says what nobody knows: {error}"),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut fds = [
                    PollFd::new(file, PollFlags::IN),
                    PollFd::new(&stop.wake, PollFlags::IN),
                ];
                let woken = poll(&mut fds, None);
                let stopped = !fds[1].revents().is_empty();
                match woken {
                    _ if stopped => return Ok(()),
                    Err(errno) if errno != rustix::io::Errno::INTR => return Err(errno.into()),
                    _ => {}
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::epoll;

    #[test]
    fn what_a_target_may_not_refuse_fails() {
        // It takes no writes, and says so as the module does.
        let file = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let port = Port {
            file: Arc::new(File::from(file)),
            stop: Arc::new(Stop {
                wake: eventfd(0, EventfdFlags::CLOEXEC).unwrap(),
                said: AtomicBool::new(false),
            }),
            role: Role::Writer,
            reader: None,
        };
        let order = Order::Epoch { epoch: 1 };
        let refused = port.insist(order).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        // Anything else is left out.
        let mut orders = VecDeque::from([order, order]);
        port.tell(&mut orders).unwrap();
        assert!(orders.is_empty());
    }
}
