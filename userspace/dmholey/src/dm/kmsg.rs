// SPDX-License-Identifier: GPL-2.0-or-later

//! Why the kernel refused: an ioctl gives a number only, the kernel's log has the sentence.

use rustix::fs::OFlags;
use rustix::fs::SeekFrom;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

const LOG: &str = "/dev/kmsg";
/// No record of the log is longer, in bytes.
const RECORD: usize = 8192;
/// Lines with one of these are about us.
const OURS: [&str; 2] = ["device-mapper:", "holey"];
/// More lines than this are not repeated.
const MAX_LINES: usize = 3;

/// A place in the kernel's log: what comes after it was said since.
#[derive(Debug)]
pub(crate) struct Mark {
    log: Option<File>,
}

impl Mark {
    /// The end of the log as it is now.
    pub(crate) fn now() -> Self {
        let log = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(LOG);
        let at_end = |log: &File| rustix::fs::seek(log, SeekFrom::End(0)).is_ok();
        Self {
            log: log.ok().filter(at_end),
        }
    }

    /// What device-mapper has said since; empty if nothing, or if the log cannot be read.
    pub(crate) fn since(self) -> String {
        let Some(mut log) = self.log else {
            return String::new();
        };
        let mut lines: Vec<String> = Vec::new();
        let mut record = [0; RECORD];
        while let Ok(len @ 1..) = log.read(&mut record) {
            let text = String::from_utf8_lossy(record.get(..len).unwrap_or_default());
            lines.extend(message(&text).map(str::to_owned));
        }
        lines.truncate(MAX_LINES);
        lines.join("; ")
    }
}

/// The message of a record, if it is about device-mapper. A record has some numbers, a semicolon,
/// the message, and perhaps more lines of properties.
fn message(record: &str) -> Option<&str> {
    let (_, rest) = record.split_once(';')?;
    let line = rest.lines().next()?.trim();
    OURS.iter().any(|word| line.contains(word)).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_lines_are_repeated() {
        let record = "3,1105,4711,-;device-mapper: table: 253:0: snapshot: Cannot get COW device (-ENXIO)\n SUBSYSTEM=block\n";
        assert_eq!(
            message(record),
            Some("device-mapper: table: 253:0: snapshot: Cannot get COW device (-ENXIO)")
        );
        assert_eq!(message("6,1,2,-;usb 1-1: new device\n"), None);
        assert_eq!(message("rubbish"), None);
        assert_eq!(message("6,1,2,-;"), None);
    }
}
