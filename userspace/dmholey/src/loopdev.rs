// SPDX-License-Identifier: GPL-2.0-or-later

//! Loop devices over image files, by the ioctls of `linux/loop.h`.

#![allow(unsafe_code)]

use anyhow::anyhow;
use anyhow::Context;
use linux_raw_sys::loop_device::loop_config;
use linux_raw_sys::loop_device::loop_info64;
use linux_raw_sys::loop_device::LOOP_CONFIGURE;
use linux_raw_sys::loop_device::LOOP_CTL_GET_FREE;
use linux_raw_sys::loop_device::LOOP_GET_STATUS64;
use linux_raw_sys::loop_device::LOOP_SET_CAPACITY;
use linux_raw_sys::loop_device::LO_FLAGS_AUTOCLEAR;
use rustix::io::Errno;
use rustix::ioctl::Getter;
use rustix::ioctl::Ioctl;
use rustix::ioctl::IoctlOutput;
use rustix::ioctl::NoArg;
use rustix::ioctl::Opcode;
use rustix::ioctl::Setter;
use std::ffi::c_void;
use std::fs::File;
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

const CONTROL: &str = "/dev/loop-control";
/// Others may take the device that was free a moment ago: so often it is tried again.
const TRIES: usize = 16;

/// A loop device. The kernel takes it down when nobody has it open any more: neither this value nor
/// a device made on top of it.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    _file: File,
}

impl LoopDevice {
    /// Makes a loop device over `image`, for reading and writing.
    pub fn attach(image: &Path) -> anyhow::Result<Self> {
        let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
        let backing = open(image).with_context(|| format!("cannot open {}", image.display()))?;
        let control = open(Path::new(CONTROL))
            .with_context(|| format!("cannot open {CONTROL} (modprobe loop, and are you root?)"))?;
        for _ in 0..TRIES {
            let number = free_number(&control).context("cannot find a free loop device")?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let file = open(&path).with_context(|| format!("cannot open {}", path.display()))?;
            match configure(&file, &backing) {
                Ok(()) => return Ok(Self { path, _file: file }),
                Err(Errno::BUSY) => {}
                Err(e) => {
                    let text = format!("cannot attach {} to {}", image.display(), path.display());
                    return Err(anyhow::Error::new(e).context(text));
                }
            }
        }
        Err(anyhow!(
            "every free loop device was taken by somebody else; try again"
        ))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes the device at `path` notice that its file has another size.
pub fn refresh(path: &Path) -> anyhow::Result<()> {
    let text = || format!("cannot make {} take the size of its file", path.display());
    let device = File::open(path).with_context(text)?;
    // SAFETY: LOOP_SET_CAPACITY takes no argument.
    let call = unsafe { NoArg::<LOOP_SET_CAPACITY>::new() };
    // SAFETY: As above; on another file the kernel refuses the opcode.
    unsafe { rustix::ioctl::ioctl(&device, call) }.with_context(text)
}

/// Whether `file` is what the device at `path` has its data in.
pub fn is_over(path: &Path, file: &File) -> anyhow::Result<bool> {
    let text = || format!("cannot ask {} for its file", path.display());
    let device = File::open(path).with_context(text)?;
    // SAFETY: LOOP_GET_STATUS64 takes a pointer to one `loop_info64`, which it fills, and which is
    // plain integers.
    let call = unsafe { Getter::<LOOP_GET_STATUS64, loop_info64>::new() };
    // SAFETY: As above; on another file the kernel refuses the opcode.
    let info = unsafe { rustix::ioctl::ioctl(&device, call) }.with_context(text)?;
    let found = file.metadata().with_context(text)?;
    Ok((info.lo_device, info.lo_inode) == (found.dev(), found.ino()))
}

/// `LOOP_CTL_GET_FREE`: no argument; the result is a number.
struct GetFree;

// SAFETY: The ioctl takes no argument, so the null pointer is never used, and its result is the
// return value, which `output_from_ptr` hands on without touching the pointer.
unsafe impl Ioctl for GetFree {
    type Output = u32;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> rustix::io::Result<u32> {
        u32::try_from(output).map_err(|_| Errno::RANGE)
    }
}

fn free_number(control: &File) -> rustix::io::Result<u32> {
    // SAFETY: `GetFree` describes LOOP_CTL_GET_FREE as linux/loop.h does: no argument, and the
    // number of a device as the result. On another file the kernel refuses the opcode.
    unsafe { rustix::ioctl::ioctl(control, GetFree) }
}

fn configure(device: &File, backing: &File) -> rustix::io::Result<()> {
    let fd = u32::try_from(backing.as_raw_fd()).map_err(|_| Errno::BADF)?;
    // SAFETY: `loop_config` is plain integers and arrays of them, for which all zeros is a value;
    // for the kernel it means no option at all.
    let mut config: loop_config = unsafe { std::mem::zeroed() };
    config.fd = fd;
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR as u32;
    // SAFETY: LOOP_CONFIGURE takes a pointer to one `loop_config`, which it only reads.
    let setter = unsafe { Setter::<LOOP_CONFIGURE, loop_config>::new(config) };
    // SAFETY: The setter pairs the opcode with its argument, see above; `backing` is open during
    // the call, and the kernel keeps its own reference afterwards.
    unsafe { rustix::ioctl::ioctl(device, setter) }
}
