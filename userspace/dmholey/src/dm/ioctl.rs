// SPDX-License-Identifier: GPL-2.0-or-later

//! The kernel itself.

use super::DevNum;
use super::Error;
use super::Kernel;
use super::Line;
use super::Result;
use devicemapper::errors::Error as CoreError;
use devicemapper::DevId;
use devicemapper::DmError;
use devicemapper::DmFlags;
use devicemapper::DmName;
use devicemapper::DmOptions;
use devicemapper::DM;
use rustix::io::Errno;
use std::io;

/// Device-mapper's control device.
pub struct Dm {
    dm: DM,
}

impl Dm {
    /// Opens it.
    pub fn open() -> Result<Self> {
        let dm = DM::new().map_err(|e| Error::Control(short(&e)))?;
        Ok(Self { dm })
    }
}

/// The text of an error, without the dump of the request.
fn short(error: &DmError) -> String {
    match error {
        DmError::Core(CoreError::Ioctl(_, _, _, errno)) => io::Error::from(**errno).to_string(),
        DmError::Core(CoreError::ContextInit(text)) => text.clone(),
        other => other.to_string(),
    }
}

/// The system's error behind a refused request.
fn cause(error: DmError) -> io::Error {
    match error {
        DmError::Core(CoreError::Ioctl(_, _, _, errno)) => io::Error::from(*errno),
        other => io::Error::other(short(&other)),
    }
}

fn dm_name(name: &str) -> Result<&DmName> {
    let refuse = |why: String| Error::Name {
        name: name.to_owned(),
        why,
    };
    if name.contains('/') || name == "." || name == ".." {
        return Err(refuse("it becomes a file in /dev/mapper".to_owned()));
    }
    DmName::new(name).map_err(|e| refuse(short(&e)))
}

fn refused(device: &str, action: &'static str, error: DmError) -> Error {
    let source = cause(error);
    let errno = source.raw_os_error().map(Errno::from_raw_os_error);
    match errno {
        Some(Errno::NXIO) => Error::NoDevice(device.to_owned()),
        Some(Errno::BUSY) if action == "create it" => Error::Exists(device.to_owned()),
        Some(Errno::BUSY) if action == "remove it" => Error::Busy(device.to_owned()),
        _ => Error::Refused {
            device: device.to_owned(),
            action,
            source,
        },
    }
}

fn lines(from: Vec<(u64, u64, String, String)>) -> Vec<Line> {
    let line = |(start, len, target, params)| Line {
        start,
        len,
        target,
        params,
    };
    from.into_iter().map(line).collect()
}

impl Kernel for Dm {
    fn targets(&self) -> Result<Vec<String>> {
        let all = self.dm.list_versions();
        let all = all.map_err(|e| refused("device-mapper", "list its targets", e))?;
        Ok(all.into_iter().map(|(name, ..)| name).collect())
    }

    fn devices(&self) -> Result<Vec<(String, DevNum)>> {
        let all = self.dm.list_devices();
        let all = all.map_err(|e| refused("device-mapper", "list its devices", e))?;
        let devices = all.into_iter().map(|(name, number, _)| {
            let number = DevNum {
                major: number.major,
                minor: number.minor,
            };
            (name.to_string(), number)
        });
        Ok(devices.collect())
    }

    fn create(&self, name: &str) -> Result<DevNum> {
        let info = self
            .dm
            .device_create(dm_name(name)?, None, DmOptions::default())
            .map_err(|e| refused(name, "create it", e))?;
        Ok(DevNum {
            major: info.device().major,
            minor: info.device().minor,
        })
    }

    fn load(&self, name: &str, line: &Line) -> Result<()> {
        let table = [(
            line.start,
            line.len,
            line.target.clone(),
            line.params.clone(),
        )];
        self.dm
            .table_load(&DevId::Name(dm_name(name)?), &table, DmOptions::default())
            .map_err(|e| refused(name, "accept its table", e))?;
        Ok(())
    }

    fn resume(&self, name: &str) -> Result<()> {
        self.dm
            .device_suspend(&DevId::Name(dm_name(name)?), DmOptions::default())
            .map_err(|e| refused(name, "start it", e))?;
        Ok(())
    }

    fn remove(&self, name: &str, deferred: bool) -> Result<()> {
        let mut options = DmOptions::default();
        if deferred {
            options = options.set_flags(DmFlags::DM_DEFERRED_REMOVE);
        }
        self.dm
            .device_remove(&DevId::Name(dm_name(name)?), options)
            .map_err(|e| refused(name, "remove it", e))?;
        Ok(())
    }

    fn table(&self, name: &str) -> Result<Vec<Line>> {
        let options = DmOptions::default().set_flags(DmFlags::DM_STATUS_TABLE);
        self.dm
            .table_status(&DevId::Name(dm_name(name)?), options)
            .map(|(_, all)| lines(all))
            .map_err(|e| refused(name, "show its table", e))
    }

    fn status(&self, name: &str) -> Result<Vec<Line>> {
        // Without NOFLUSH a status may write metadata first, which a poll should not cause.
        let options = DmOptions::default().set_flags(DmFlags::DM_NOFLUSH);
        self.dm
            .table_status(&DevId::Name(dm_name(name)?), options)
            .map(|(_, all)| lines(all))
            .map_err(|e| refused(name, "show its status", e))
    }
}
