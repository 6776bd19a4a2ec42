// SPDX-License-Identifier: GPL-2.0-or-later

//! The kernel itself.

#![allow(unsafe_code)]

use super::kmsg::Mark;
use super::udev::Cookie;
use super::udev::HIDDEN;
use super::wire::Answer;
use super::wire::Command;
use super::wire::Request;
use super::wire::BUFFER_FULL;
use super::wire::DEFERRED_REMOVE;
use super::wire::HEADER;
use super::wire::INACTIVE;
use super::wire::NAME_LEN;
use super::wire::NOFLUSH;
use super::wire::SKIP_LOCKFS;
use super::wire::STATUS_TABLE;
use super::wire::SUSPEND;
use super::wire::UEVENT_GENERATED;
use super::DevNum;
use super::Error;
use super::Info;
use super::Kernel;
use super::Line;
use super::Result;
use rustix::io::Errno;
use rustix::ioctl::opcode;
use rustix::ioctl::Ioctl;
use rustix::ioctl::IoctlOutput;
use rustix::ioctl::Opcode;
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;

const CONTROL: &str = "/dev/mapper/control";
/// Number of the driver in ioctl numbers.
const GROUP: u8 = 0xfd;
/// Sizes of the buffer for an answer, in bytes: the first one, and the last one tried.
const BUFFER: usize = 16 << 10;
const MAX_BUFFER: usize = 64 << 20;
/// The characters of a name that need no escape in udev's rules and on a command line.
const NAME_MARKS: &str = "#+-.:=@_";

/// Device-mapper's control device.
#[derive(Debug)]
pub struct Dm {
    control: File,
}

impl Dm {
    /// Opens it.
    pub fn open() -> Result<Self> {
        let control = File::open(CONTROL).map_err(|source| Error::Control {
            hint: match source.kind() {
                io::ErrorKind::PermissionDenied => "run this as root",
                _ => "is device-mapper there? modprobe dm_mod",
            },
            source,
        })?;
        Ok(Self { control })
    }

    /// From now on the control device is ready to be read when any device has an event.
    pub fn arm_poll(&self) -> Result<()> {
        self.in_general(Command::ArmPoll, "tell of events")?;
        Ok(())
    }

    /// Asks, with a larger buffer as long as the answer does not fit.
    fn ask(&self, command: Command, request: &Request) -> rustix::io::Result<Answer> {
        let mut size = BUFFER;
        loop {
            let mut call = Call {
                opcode: opcode::read_write::<[u8; HEADER]>(GROUP, command as u8),
                buf: request.encode(size),
            };
            // SAFETY: `Call` describes device-mapper's ioctls as linux/dm-ioctl.h does, see there.
            unsafe { rustix::ioctl::ioctl(&self.control, &mut call) }?;
            let answer = Answer::new(call.buf);
            if answer.flags() & BUFFER_FULL == 0 {
                return Ok(answer);
            }
            size *= 4;
            if size > MAX_BUFFER {
                return Err(Errno::TOOBIG);
            }
        }
    }

    /// Asks about device-mapper as a whole.
    fn in_general(&self, command: Command, action: &'static str) -> Result<Answer> {
        let answer = self.ask(command, &Request::default());
        answer.map_err(|errno| refused("device-mapper", command, action, errno, String::new()))
    }

    /// Asks about a device.
    fn about(&self, command: Command, action: &'static str, request: &Request) -> Result<Answer> {
        // Questions alone leave nothing in the log, and finding its end takes a millisecond.
        let is_question = matches!(command, Command::DeviceStatus | Command::TableStatus);
        let mark = (!is_question).then(Mark::now);
        let answer = self.ask(command, request);
        let said = || mark.map(Mark::since).unwrap_or_default();
        answer.map_err(|errno| refused(&request.name, command, action, errno, said()))
    }

    /// Asks for something that udev is told of, and waits until it has seen to it.
    fn with_udev(
        &self,
        command: Command,
        action: &'static str,
        mut request: Request,
        flags: u32,
    ) -> Result<()> {
        let cookie = Cookie::begin();
        request.event = cookie.as_ref().map_or(0, |cookie| cookie.event(flags));
        let answer = self.about(command, action, &request)?;
        if let Some(cookie) = cookie {
            if answer.flags() & UEVENT_GENERATED != 0 {
                cookie.wait();
            }
        }
        Ok(())
    }
}

impl AsFd for Dm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

/// One ioctl. The buffer goes in with the request and comes out with the answer.
struct Call {
    opcode: Opcode,
    buf: Vec<u8>,
}

// SAFETY: `as_ptr` gives a buffer that starts with a whole header, which tells the kernel the
// buffer's true length; it reads and writes nothing behind that. `IS_MUTATING` says that it writes.
// The pointer is not used again: the answer is read from the vector.
unsafe impl Ioctl for &mut Call {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.buf.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

fn refused(
    device: &str,
    command: Command,
    action: &'static str,
    errno: Errno,
    said: String,
) -> Error {
    match (errno, command) {
        (Errno::NXIO, _) => Error::NoDevice(device.to_owned()),
        (Errno::BUSY, Command::Create) => Error::Exists(device.to_owned()),
        (Errno::BUSY, Command::Remove) => Error::Busy(device.to_owned()),
        (Errno::PERM | Errno::ACCESS, _) => Error::Control {
            hint: "run this as root",
            source: errno.into(),
        },
        _ => Error::Refused {
            device: device.to_owned(),
            action,
            said: if said.is_empty() {
                "the last lines of dmesg say why".to_owned()
            } else {
                said
            },
            source: errno.into(),
        },
    }
}

/// Refuses what cannot be a name at all.
fn named(name: &str) -> Result<Request> {
    let why = if name.is_empty() {
        "it is empty"
    } else if name.len() >= NAME_LEN {
        "it is longer than 127 bytes"
    } else if name.contains('/') || name == "." || name == ".." {
        "it becomes a file in /dev/mapper"
    } else if name.contains('\0') {
        "it has a zero byte"
    } else {
        return Ok(Request {
            name: name.to_owned(),
            ..Request::default()
        });
    };
    Err(Error::Name {
        name: name.to_owned(),
        why,
    })
}

/// Refuses also names that would have to be escaped in udev's rules.
fn new_name(name: &str) -> Result<Request> {
    let plain = |c: char| c.is_ascii_alphanumeric() || NAME_MARKS.contains(c);
    if !name.chars().all(plain) {
        return Err(Error::Name {
            name: name.to_owned(),
            why: "only letters, digits and #+-.:=@_ are allowed",
        });
    }
    named(name)
}

impl Kernel for Dm {
    fn targets(&self) -> Result<Vec<String>> {
        let answer = self.in_general(Command::ListVersions, "list its targets")?;
        Ok(answer.targets())
    }

    fn devices(&self) -> Result<Vec<(String, DevNum)>> {
        let answer = self.in_general(Command::ListDevices, "list its devices")?;
        Ok(answer.devices())
    }

    fn create(&self, name: &str, uuid: &str) -> Result<DevNum> {
        let mut request = new_name(name)?;
        request.uuid = uuid.to_owned();
        let answer = self.about(Command::Create, "create it", &request)?;
        Ok(answer.device())
    }

    fn load(&self, name: &str, line: &Line) -> Result<()> {
        let mut request = named(name)?;
        request.lines = vec![line.clone()];
        self.about(Command::TableLoad, "accept its table", &request)?;
        Ok(())
    }

    fn resume_hidden(&self, name: &str) -> Result<()> {
        self.with_udev(Command::Suspend, "start it", named(name)?, HIDDEN)
    }

    fn resume(&self, name: &str) -> Result<()> {
        // Without the flag for it, a suspend is a resume.
        self.with_udev(Command::Suspend, "start it", named(name)?, 0)
    }

    fn remove(&self, name: &str, deferred: bool) -> Result<()> {
        let mut request = named(name)?;
        request.flags = if deferred { DEFERRED_REMOVE } else { 0 };
        self.with_udev(Command::Remove, "remove it", request, 0)
    }

    fn table(&self, name: &str) -> Result<Vec<Line>> {
        let mut request = named(name)?;
        request.flags = STATUS_TABLE;
        let answer = self.about(Command::TableStatus, "show its table", &request)?;
        Ok(answer.lines())
    }

    fn status(&self, name: &str) -> Result<Vec<Line>> {
        let mut request = named(name)?;
        // A poll is to cause no writes.
        request.flags = NOFLUSH;
        let answer = self.about(Command::TableStatus, "show its status", &request)?;
        Ok(answer.lines())
    }

    fn info(&self, name: &str) -> Result<Info> {
        let answer = self.about(Command::DeviceStatus, "describe it", &named(name)?)?;
        let has = |flag| answer.flags() & flag != 0;
        Ok(Info {
            number: answer.device(),
            uuid: answer.uuid(),
            suspended: has(SUSPEND),
            inactive: has(INACTIVE),
            events: answer.events(),
        })
    }

    fn suspend(&self, name: &str, noflush: bool) -> Result<()> {
        let mut request = named(name)?;
        request.flags = SUSPEND;
        if noflush {
            request.flags |= NOFLUSH | SKIP_LOCKFS;
        }
        self.about(Command::Suspend, "suspend it", &request)?;
        Ok(())
    }

    fn wake(&self, name: &str) -> Result<()> {
        let mut request = named(name)?;
        // Of the suspend that comes with a new table.
        request.flags = SKIP_LOCKFS;
        self.about(Command::Suspend, "resume it", &request)?;
        Ok(())
    }

    fn clear(&self, name: &str) -> Result<()> {
        self.about(Command::TableClear, "drop its table", &named(name)?)?;
        Ok(())
    }

    fn reload(&self, name: &str, lines: &[Line]) -> Result<()> {
        let mut request = named(name)?;
        request.lines = lines.to_vec();
        self.about(Command::TableLoad, "accept its table", &request)?;
        self.wake(name).inspect_err(|_| {
            // The first error is the one to tell.
            let _ = self.clear(name);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for name in ["", ".", "..", "a/b", "a\0", &"n".repeat(128)] {
            assert!(named(name).is_err(), "{name}");
        }
        assert!(named("with blank").is_ok());
        assert!(new_name("with blank").is_err());
        assert!(new_name("vg-root_1.2+x:y=z@h#").is_ok());
    }

    #[test]
    fn request_numbers_are_those_of_the_kernel() {
        let number = opcode::read_write::<[u8; HEADER]>(GROUP, Command::TableStatus as u8);
        assert_eq!(number as u64, 0xc138_fd0c);
    }
}
