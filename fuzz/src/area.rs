// SPDX-License-Identifier: GPL-2.0-or-later

//! The life of an area's image on a disk.

use crate::input::Input;
use holey_core::area::AreaImage;
use holey_core::format::ChunkSize;
use holey_core::format::Exception;
use holey_core::format::Layout;
use std::ops::Range;

/// Bytes of a sector.
const SECTOR: usize = 512;
/// Bytes of an area.
const AREA: usize = 4096;
/// Entries of an area.
const ENTRIES: usize = AREA / 16;
/// Areas on the disk.
const AREAS: usize = 3;

/// Loads areas full of anything, and takes steps as the module does: makes room, puts entries in,
/// writes them, loses power in the middle of a write. The list on the disk has to be what was
/// written, and after a torn write at least that and nothing that was not put in.
pub fn area(data: &[u8]) {
    let mut input = Input::new(data);
    let mut disk = Disk::new(&mut input);
    let mut image = disk.load();
    let mut list = disk.list();
    let mut durable = list.len();
    while !input.is_empty() {
        match input.byte() % 8 {
            0 => {
                disk.make_ready(&mut image);
                let part = image.unwritten(SECTOR);
                disk.write(&image, part, u64::MAX);
                image.wrote();
                durable = list.len();
            }
            1 => {
                disk.make_ready(&mut image);
                disk.write(&image, image.unwritten(SECTOR), input.short());
                let left = disk.list();
                assert!(left.len() >= durable && list.starts_with(&left));
                image = disk.load();
                (durable, list) = (left.len(), left);
            }
            2 => {
                image = disk.load();
                list.truncate(durable);
            }
            _ => {
                disk.make_ready(&mut image);
                for n in 0..=u64::from(input.byte()) {
                    let entry = Exception {
                        origin: list.len() as u64,
                        cow: 2 + n,
                    };
                    let room = image.room();
                    assert_eq!(image.push(entry), room > 0);
                    if room > 0 {
                        list.push(entry);
                    }
                }
            }
        }
        assert_eq!(disk.list(), list[..durable]);
        assert_eq!(image.listed(), list.len() as u64);
    }
}

struct Disk {
    areas: Vec<u8>,
}

impl Disk {
    /// The first area holds some entries and what looks like entries behind a hole; the others
    /// are full of what was there before.
    fn new(input: &mut Input<'_>) -> Self {
        let mut areas = vec![0xa5; AREA * AREAS];
        let (count, hole) = (usize::from(input.byte()), usize::from(input.byte()));
        let rest = input.byte();
        for (slot, place) in areas[..AREA].chunks_exact_mut(16).enumerate() {
            let slot = slot as u64;
            let entry = match slot as usize {
                at if at < count => Exception {
                    origin: slot,
                    cow: slot + 2,
                },
                at if at <= count + hole => Exception::default(),
                _ => Exception {
                    origin: slot,
                    cow: u64::from(rest),
                },
            };
            place.copy_from_slice(&entry.encode());
        }
        Self { areas }
    }

    /// The list, read without the code under test.
    fn list(&self) -> Vec<Exception> {
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        self.areas
            .chunks_exact(16)
            .map(|bytes| Exception {
                origin: number(&bytes[..8]),
                cow: number(&bytes[8..]),
            })
            .take_while(|entry| entry.cow != 0)
            .collect()
    }

    /// The image of the area in which the list ends.
    fn load(&self) -> AreaImage<Vec<u8>> {
        let layout = Layout::new(ChunkSize::new(8).unwrap());
        let mut image = AreaImage::new(layout, vec![0; AREA]);
        for (n, content) in self.areas.chunks_exact(AREA).enumerate() {
            if image.load(n as u64, content, usize::MAX) < ENTRIES {
                return image;
            }
        }
        panic!("the list has no end");
    }

    /// What comes before entries are put in: nothing behind the list, and an area to go on in.
    fn make_ready(&mut self, image: &mut AreaImage<Vec<u8>>) {
        let stale = image.stale(SECTOR);
        if !stale.is_empty() {
            self.write(image, stale, u64::MAX);
            image.scrubbed();
        }
        let next = (image.area() as usize + 1) * AREA;
        if let Some(next) = self.areas.get_mut(next..next + AREA) {
            if image.wants_next_zeroed() {
                next.fill(0);
                image.next_is_zeroed();
            }
        }
    }

    /// Writes those sectors of a part of the image that have their bit in `arrive`.
    fn write(&mut self, image: &AreaImage<Vec<u8>>, part: Range<usize>, arrive: u64) {
        assert!(part.start % SECTOR == 0 && part.end % SECTOR == 0);
        let start = image.area() as usize * AREA;
        for at in part.step_by(SECTOR) {
            if (arrive >> (at / SECTOR)) & 1 == 1 {
                let to = &mut self.areas[start + at..start + at + SECTOR];
                to.copy_from_slice(&image.bytes()[at..at + SECTOR]);
            }
        }
    }
}
