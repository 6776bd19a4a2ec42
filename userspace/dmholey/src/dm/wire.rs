// SPDX-License-Identifier: GPL-2.0-or-later

//! Requests and answers of device-mapper's ioctls, byte by byte as `linux/dm-ioctl.h` has them.
//!
//! A buffer starts with a header of [`HEADER`] bytes; the rest belongs to the request. All numbers
//! are in the machine's own byte order, and strings end with a zero byte.

use super::DevNum;
use super::Line;

/// Bytes of `struct dm_ioctl`.
pub(crate) const HEADER: usize = 312;
/// Bytes of `struct dm_target_spec`.
const SPEC: usize = 40;
/// The interface has been compatible since this version; the kernel refuses only newer ones.
const VERSION: [u32; 3] = [4, 0, 0];

/// Places in the header.
const AT_VERSION: usize = 0;
const AT_DATA_SIZE: usize = 12;
const AT_DATA_START: usize = 16;
const AT_TARGET_COUNT: usize = 20;
const AT_FLAGS: usize = 28;
const AT_EVENT_NR: usize = 32;
const AT_DEV: usize = 40;
const AT_NAME: usize = 48;
const AT_UUID: usize = AT_NAME + NAME_LEN;
/// Bytes of a device name with its zero byte.
pub(crate) const NAME_LEN: usize = 128;
/// Bytes of a device's UUID with its zero byte.
const UUID_LEN: usize = 129;
/// Bytes of a target type with its zero byte.
const TYPE_LEN: usize = 16;

/// The requests that are used, with their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Command {
    ListDevices = 2,
    Create = 3,
    Remove = 4,
    Suspend = 6,
    DeviceStatus = 7,
    TableLoad = 9,
    TableClear = 10,
    TableStatus = 12,
    ListVersions = 13,
    ArmPoll = 16,
}

/// `DM_SUSPEND_FLAG`: to be suspended, or it is.
pub(crate) const SUSPEND: u32 = 1 << 1;
/// `DM_STATUS_TABLE_FLAG`: the table, not the status.
pub(crate) const STATUS_TABLE: u32 = 1 << 4;
/// `DM_INACTIVE_PRESENT_FLAG`: there is a table that was loaded and is not in use yet.
pub(crate) const INACTIVE: u32 = 1 << 6;
/// `DM_BUFFER_FULL_FLAG`: the answer did not fit.
pub(crate) const BUFFER_FULL: u32 = 1 << 8;
/// `DM_SKIP_LOCKFS_FLAG`: a suspend that freezes no file system.
pub(crate) const SKIP_LOCKFS: u32 = 1 << 10;
/// `DM_NOFLUSH_FLAG`: a status without writing metadata first, a suspend without waiting for I/O.
pub(crate) const NOFLUSH: u32 = 1 << 11;
/// `DM_UEVENT_GENERATED_FLAG`: udev has been told.
pub(crate) const UEVENT_GENERATED: u32 = 1 << 13;
/// `DM_DEFERRED_REMOVE`: remove it when its last user goes.
pub(crate) const DEFERRED_REMOVE: u32 = 1 << 17;

/// A request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) name: String,
    /// For a new device: who makes it and what it is.
    pub(crate) uuid: String,
    pub(crate) flags: u32,
    /// For udev, see `udev.rs`.
    pub(crate) event: u32,
    pub(crate) lines: Vec<Line>,
}

impl Request {
    /// The request in a buffer of `size` bytes, or more if it needs more.
    pub(crate) fn encode(&self, size: usize) -> Vec<u8> {
        let lines: Vec<u8> = self.lines.iter().flat_map(encode_line).collect();
        let mut buf = vec![0; size.max(HEADER + lines.len())];
        for (i, word) in VERSION.into_iter().enumerate() {
            put(&mut buf, AT_VERSION + 4 * i, &word.to_ne_bytes());
        }
        put(&mut buf, AT_DATA_START, &(HEADER as u32).to_ne_bytes());
        put(&mut buf, AT_FLAGS, &self.flags.to_ne_bytes());
        put(&mut buf, AT_EVENT_NR, &self.event.to_ne_bytes());
        put_text(&mut buf, AT_NAME, &self.name, NAME_LEN);
        put_text(&mut buf, AT_UUID, &self.uuid, UUID_LEN);
        let count = u32::try_from(self.lines.len()).unwrap_or(u32::MAX);
        put(&mut buf, AT_TARGET_COUNT, &count.to_ne_bytes());
        put(&mut buf, HEADER, &lines);
        let len = u32::try_from(buf.len()).unwrap_or(u32::MAX);
        put(&mut buf, AT_DATA_SIZE, &len.to_ne_bytes());
        buf
    }
}

fn encode_line(line: &Line) -> Vec<u8> {
    let len = (SPEC + line.params.len() + 1).next_multiple_of(8);
    let mut buf = vec![0; len];
    put(&mut buf, 0, &line.start.to_ne_bytes());
    put(&mut buf, 8, &line.len.to_ne_bytes());
    put(&mut buf, 20, &(len as u32).to_ne_bytes());
    put_text(&mut buf, 24, &line.target, TYPE_LEN);
    put(&mut buf, SPEC, line.params.as_bytes());
    buf
}

fn put(buf: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = buf.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// Puts as much of a text as leaves room for its zero byte.
fn put_text(buf: &mut [u8], at: usize, text: &str, room: usize) {
    let bytes = text.as_bytes();
    put(buf, at, bytes.get(..room - 1).unwrap_or(bytes));
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    buf: Vec<u8>,
}

impl Answer {
    /// Takes a buffer that the kernel has filled.
    pub(crate) fn new(buf: Vec<u8>) -> Self {
        Self { buf }
    }

    /// The flags.
    pub(crate) fn flags(&self) -> u32 {
        self.word(AT_FLAGS)
    }

    /// How many events the device has had.
    pub(crate) fn events(&self) -> u32 {
        self.word(AT_EVENT_NR)
    }

    /// The number of the device it is about.
    pub(crate) fn device(&self) -> DevNum {
        self.number(AT_DEV)
    }

    /// Who made the device it is about.
    pub(crate) fn uuid(&self) -> String {
        self.text(AT_UUID)
    }

    /// All devices, of a [`Command::ListDevices`].
    pub(crate) fn devices(&self) -> Vec<(String, DevNum)> {
        let mut found = Vec::new();
        let mut at = self.data_start();
        // A number of 0 says that there is none.
        while self.get(at, 8).is_some_and(|dev| dev != [0; 8]) {
            found.push((self.text(at + 12), self.number(at)));
            match self.word(at + 8) {
                0 => break,
                next => at = at.saturating_add(next as usize),
            }
        }
        found
    }

    /// All target types, of a [`Command::ListVersions`].
    pub(crate) fn targets(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut at = self.data_start();
        while self.get(at, 16).is_some() {
            found.push(self.text(at + 16));
            match self.word(at) {
                0 => break,
                next => at = at.saturating_add(next as usize),
            }
        }
        found
    }

    /// All lines, of a [`Command::TableStatus`].
    pub(crate) fn lines(&self) -> Vec<Line> {
        let mut found = Vec::new();
        let mut at = self.data_start();
        for _ in 0..self.word(AT_TARGET_COUNT) {
            if self.get(at, SPEC).is_none() {
                break;
            }
            found.push(Line {
                start: self.long(at),
                len: self.long(at + 8),
                target: self.text(at + 24),
                params: self.text(at + SPEC),
            });
            // Here the next place is told from the start of all data, not from this line.
            at = self
                .data_start()
                .saturating_add(self.word(at + 20) as usize);
        }
        found
    }

    fn data_start(&self) -> usize {
        self.word(AT_DATA_START) as usize
    }

    fn get(&self, at: usize, len: usize) -> Option<&[u8]> {
        self.buf.get(at..at.checked_add(len)?)
    }

    fn word(&self, at: usize) -> u32 {
        let bytes = self.get(at, 4).and_then(|bytes| bytes.try_into().ok());
        u32::from_ne_bytes(bytes.unwrap_or_default())
    }

    fn long(&self, at: usize) -> u64 {
        let bytes = self.get(at, 8).and_then(|bytes| bytes.try_into().ok());
        u64::from_ne_bytes(bytes.unwrap_or_default())
    }

    fn text(&self, at: usize) -> String {
        let bytes = self.buf.get(at..).unwrap_or_default();
        let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
    }

    /// A device number as the kernel packs it into 32 bits: 12 for the driver between 8 and 12.
    fn number(&self, at: usize) -> DevNum {
        let packed = self.long(at);
        DevNum {
            major: ((packed >> 8) & 0xfff) as u32,
            minor: ((packed & 0xff) | ((packed >> 12) & 0xf_ff00)) as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line() -> Line {
        Line {
            start: 0,
            len: 2048,
            target: "holey-snapshot".to_owned(),
            params: "8:1 8:2 P 8".to_owned(),
        }
    }

    #[test]
    fn a_table_is_encoded_as_the_kernel_reads_it() {
        let request = Request {
            name: "x".to_owned(),
            uuid: "y".to_owned(),
            flags: NOFLUSH,
            event: 0x0040_1234,
            lines: vec![line()],
        };
        let buf = request.encode(0);
        let answer = Answer::new(buf.clone());
        assert_eq!(buf.len(), HEADER + 56);
        assert_eq!(answer.word(AT_DATA_SIZE), 368);
        assert_eq!(answer.word(AT_VERSION), 4);
        assert_eq!(answer.flags(), 1 << 11);
        assert_eq!(answer.word(AT_EVENT_NR), 0x0040_1234);
        assert_eq!(answer.text(AT_NAME), "x");
        assert_eq!(answer.uuid(), "y");
        assert_eq!(answer.word(HEADER + 20), 56);
        assert_eq!(answer.lines(), [line()]);
    }

    #[test]
    fn each_line_tells_where_the_next_one_starts() {
        let request = Request {
            lines: vec![line(), line()],
            ..Request::default()
        };
        let buf = request.encode(0);
        assert_eq!(buf.len(), HEADER + 112);
        let answer = Answer::new(buf);
        assert_eq!(answer.word(AT_TARGET_COUNT), 2);
        // Here the next place is told from this line; in an answer, from the start of all data.
        assert_eq!(
            (answer.word(HEADER + 20), answer.word(HEADER + 76)),
            (56, 56)
        );
    }

    #[test]
    fn long_names_keep_their_zero_byte() {
        let request = Request {
            name: "n".repeat(300),
            ..Request::default()
        };
        let buf = request.encode(1000);
        assert_eq!(buf.len(), 1000);
        assert_eq!(buf[AT_NAME..AT_NAME + 127], [b'n'; 127]);
        assert_eq!(buf[AT_NAME + 127], 0);
    }

    #[test]
    fn lists_are_read() {
        let mut buf = Request::default().encode(HEADER + 100);
        assert!(Answer::new(buf.clone()).devices().is_empty());
        put(&mut buf, HEADER, &0x0010_fd01_u64.to_ne_bytes());
        put(&mut buf, HEADER + 8, &24u32.to_ne_bytes());
        put(&mut buf, HEADER + 12, b"one\0");
        put(&mut buf, HEADER + 24, &0xfd02_u64.to_ne_bytes());
        put(&mut buf, HEADER + 36, b"two\0");
        let devices = Answer::new(buf).devices();
        let number = |minor| DevNum { major: 253, minor };
        assert_eq!(
            devices,
            [
                ("one".to_owned(), number(257)),
                ("two".to_owned(), number(2))
            ]
        );
    }

    #[test]
    fn targets_are_read() {
        let mut buf = Request::default().encode(HEADER + 64);
        put(&mut buf, HEADER, &24u32.to_ne_bytes());
        put(&mut buf, HEADER + 16, b"error\0");
        put(&mut buf, HEADER + 40, b"snapshot\0");
        assert_eq!(Answer::new(buf).targets(), ["error", "snapshot"]);
    }

    proptest! {
        #[test]
        fn any_answer_is_read(mut bytes in prop::collection::vec(any::<u8>(), 0..600), start in 0u32..700, count in 0u32..4) {
            put(&mut bytes, AT_DATA_START, &start.to_ne_bytes());
            put(&mut bytes, AT_TARGET_COUNT, &count.to_ne_bytes());
            let answer = Answer::new(bytes);
            let _ = (answer.lines(), answer.devices(), answer.targets(), answer.device());
        }
    }
}
