// SPDX-License-Identifier: GPL-2.0-or-later

//! An inode, field by field.

use super::ffi::RawInode;
use super::ffi::MAX_INODE;

/// The blocks of the file are described by extents.
const EXTENTS: u32 = 0x0008_0000;
/// The directory is indexed.
const INDEX: u32 = 0x0000_1000;
/// Compressed, encrypted, verity, data in an inode, a value of an attribute: not read here.
const FOREIGN: u32 = 0x0000_0004 | 0x0000_0800 | 0x0010_0000 | 0x1000_0000 | 0x0020_0000;

/// The bits of a mode that tell the type.
pub(crate) const TYPE: u16 = 0o170_000;
pub(crate) const FIFO: u16 = 0o010_000;
pub(crate) const CHAR: u16 = 0o020_000;
pub(crate) const DIR: u16 = 0o040_000;
pub(crate) const BLOCK: u16 = 0o060_000;
pub(crate) const FILE: u16 = 0o100_000;
pub(crate) const SYMLINK: u16 = 0o120_000;
pub(crate) const SOCKET: u16 = 0o140_000;

/// Symbolic links shorter than this are in the inode.
pub(crate) const FAST_SYMLINK: usize = 60;
/// Where the inode keeps its extents, its short link or its device number.
const PLACE: usize = 40;
/// Where what old inodes lack begins.
const EXTRA: usize = 128;

/// A time as ext4 keeps it: seconds and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds.
    pub nanos: u32,
}

impl Time {
    /// The first and the last second that an inode can hold.
    pub(crate) const RANGE: std::ops::RangeInclusive<i64> = -(1 << 31)..=(1 << 34) - (1 << 31) - 1;
}

/// An inode. Reading never fails: what is not there is zero.
#[derive(Clone)]
pub(crate) struct Inode(pub(super) Box<RawInode>);

impl PartialEq for Inode {
    fn eq(&self, other: &Self) -> bool {
        self.0 .0 == other.0 .0
    }
}

impl Inode {
    /// An inode of which every field is zero, with `extra` bytes of the newer fields.
    pub(crate) fn new(extra: u16) -> Self {
        let mut inode = Self(Box::new(RawInode([0; MAX_INODE])));
        inode.put16(EXTRA, extra);
        inode
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        let bytes = self.0 .0.get(at..at + N);
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .unwrap_or([0; N])
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(to) = self.0 .0.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    }

    fn get16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.get(at))
    }

    fn get32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.get(at))
    }

    fn put16(&mut self, at: usize, value: u16) {
        self.put(at, &value.to_le_bytes());
    }

    fn put32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    pub(crate) fn mode(&self) -> u16 {
        self.get16(0)
    }

    pub(crate) fn set_mode(&mut self, mode: u16) {
        self.put16(0, mode);
    }

    /// The type, as in a mode.
    pub(crate) fn kind(&self) -> u16 {
        self.mode() & TYPE
    }

    pub(crate) fn uid(&self) -> u32 {
        u32::from(self.get16(2)) | (u32::from(self.get16(120)) << 16)
    }

    pub(crate) fn gid(&self) -> u32 {
        u32::from(self.get16(24)) | (u32::from(self.get16(122)) << 16)
    }

    pub(crate) fn set_owner(&mut self, uid: u32, gid: u32) {
        self.put16(2, uid as u16);
        self.put16(120, (uid >> 16) as u16);
        self.put16(24, gid as u16);
        self.put16(122, (gid >> 16) as u16);
    }

    pub(crate) fn size(&self) -> u64 {
        u64::from(self.get32(4)) | (u64::from(self.get32(108)) << 32)
    }

    pub(crate) fn set_size(&mut self, size: u64) {
        self.put32(4, size as u32);
        self.put32(108, (size >> 32) as u32);
    }

    pub(crate) fn links(&self) -> u16 {
        self.get16(26)
    }

    pub(crate) fn set_links(&mut self, links: u16) {
        self.put16(26, links);
    }

    /// What is taken, in sectors of 512 bytes.
    pub(crate) fn set_sectors(&mut self, sectors: u64) {
        self.put32(28, sectors as u32);
        self.put16(116, (sectors >> 32) as u16);
    }

    /// The block with extended attributes; zero if there is none.
    pub(crate) fn attribute_block(&self) -> u64 {
        u64::from(self.get32(104)) | (u64::from(self.get16(118)) << 32)
    }

    pub(crate) fn has_extents(&self) -> bool {
        self.get32(32) & EXTENTS != 0
    }

    pub(crate) fn is_indexed(&self) -> bool {
        self.get32(32) & INDEX != 0
    }

    pub(crate) fn set_indexed(&mut self, indexed: bool) {
        let flags = self.get32(32);
        self.put32(
            32,
            if indexed {
                flags | INDEX
            } else {
                flags & !INDEX
            },
        );
    }

    /// Whether what it holds is in a form that is not read here.
    pub(crate) fn is_foreign(&self) -> bool {
        self.get32(32) & FOREIGN != 0
    }

    /// Whether no newer field is missing that times need.
    pub(crate) fn keeps_times(&self) -> bool {
        self.get16(EXTRA) >= 24
    }

    fn time(&self, low: usize, extra: usize) -> Time {
        let more = self.get32(extra);
        let base = i64::from(self.get32(low) as i32);
        Time {
            seconds: base + (i64::from(more & 3) << 32),
            nanos: more >> 2,
        }
    }

    fn put_time(&mut self, low: usize, extra: usize, time: Time) {
        let base = time.seconds as i32;
        let epoch = ((time.seconds - i64::from(base)) >> 32) as u32 & 3;
        self.put32(low, base as u32);
        self.put32(extra, (time.nanos << 2) | epoch);
    }

    pub(crate) fn mtime(&self) -> Time {
        self.time(16, 136)
    }

    /// Sets the time of the last change of content, and with it those of change and access.
    pub(crate) fn set_times(&mut self, time: Time) {
        self.put_time(16, 136, time);
        self.put_time(12, 132, time);
        self.put_time(8, 140, time);
    }

    /// Sets the time of creation.
    pub(crate) fn set_created(&mut self, time: Time) {
        self.put_time(144, 148, time);
    }

    /// The place of extents, a short link or a device number.
    pub(crate) fn place(&self) -> [u8; FAST_SYMLINK] {
        self.get(PLACE)
    }

    /// Makes the place hold `bytes`, which are no extents.
    pub(crate) fn set_place(&mut self, bytes: &[u8]) {
        let mut place = [0; FAST_SYMLINK];
        let len = bytes.len().min(FAST_SYMLINK);
        if let (Some(to), Some(from)) = (place.get_mut(..len), bytes.get(..len)) {
            to.copy_from_slice(from);
        }
        self.put(PLACE, &place);
        let flags = self.get32(32) & !EXTENTS;
        self.put32(32, flags);
    }

    /// Makes the place an extent tree without extents.
    pub(crate) fn set_no_extents(&mut self) {
        // A magic number, no extent of four that fit, depth zero, generation zero.
        self.set_place(&[0x0a, 0xf3, 0, 0, 4, 0, 0, 0]);
        let flags = self.get32(32) | EXTENTS;
        self.put32(32, flags);
    }

    /// How many extents or nodes the place itself holds.
    pub(crate) fn root_entries(&self) -> u16 {
        self.get16(PLACE + 2)
    }

    /// A device's numbers, from the place.
    pub(crate) fn device(&self) -> (u32, u32) {
        let (old, new) = (self.get32(PLACE), self.get32(PLACE + 4));
        if old != 0 {
            return ((old >> 8) & 0xff, old & 0xff);
        }
        ((new >> 8) & 0xfff, new & 0xff | (new >> 12) & 0xfff00)
    }

    /// Sets a device's numbers: 12 bits and 20 bits.
    pub(crate) fn set_device(&mut self, major: u32, minor: u32) {
        let (old, new) = if major < 256 && minor < 256 {
            ((major << 8) | minor, 0)
        } else {
            (0, minor & 0xff | (major << 8) | ((minor & !0xff) << 12))
        };
        let mut place = [0; 8];
        place[..4].copy_from_slice(&old.to_le_bytes());
        place[4..].copy_from_slice(&new.to_le_bytes());
        self.set_place(&place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_kept_in_their_whole_range() {
        for seconds in [
            *Time::RANGE.start(),
            -1,
            0,
            1,
            i64::from(i32::MAX),
            1 << 32,
            *Time::RANGE.end(),
        ] {
            for nanos in [0, 1, 999_999_999] {
                let mut inode = Inode::new(32);
                let time = Time { seconds, nanos };
                inode.set_times(time);
                assert_eq!(inode.mtime(), time);
            }
        }
    }

    #[test]
    fn devices_are_kept() {
        for device in [(1, 3), (255, 255), (256, 0), (8, 256), (4095, 0xf_ffff)] {
            let mut inode = Inode::new(32);
            inode.set_device(device.0, device.1);
            assert_eq!(inode.device(), device);
        }
    }

    #[test]
    fn owners_and_sizes_have_all_their_bits() {
        let mut inode = Inode::new(32);
        inode.set_owner(0x1234_5678, 0x9abc_def0);
        inode.set_size(0x12_3456_789a);
        assert_eq!((inode.uid(), inode.gid()), (0x1234_5678, 0x9abc_def0));
        assert_eq!(inode.size(), 0x12_3456_789a);
    }
}
