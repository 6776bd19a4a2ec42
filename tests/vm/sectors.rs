// SPDX-License-Identifier: GPL-2.0-or-later

//! Sectors that say where and when they were written, for the programs of the tests.

/// Bytes of a sector.
pub const SECTOR: usize = 512;
/// Bytes of a record, which fills a sector from end to end.
pub const RECORD: usize = 32;
/// The largest single request, in sectors.
pub const MOST: u64 = 2048;
/// To open a device past its cache.
pub const O_DIRECT: i32 = 0o40000;
/// To have each write durable when it returns.
pub const O_DSYNC: i32 = 0o10000;

/// How the record of a sector begins.
pub fn head(seed: u64, sector: u64) -> String {
    format!("{:08x} {sector:012} ", seed as u32)
}

/// Makes the content of a sector; that of generation 0 are zeroes.
pub fn stamp(seed: u64, sector: u64, generation: u32, out: &mut [u8]) {
    if generation == 0 {
        out.fill(0);
        return;
    }
    let record = format!("{}{generation:09}\n", head(seed, sector));
    for place in out.chunks_exact_mut(RECORD) {
        place.copy_from_slice(record.as_bytes());
    }
}

/// Memory that O_DIRECT takes.
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// One that holds the largest request.
    pub fn new() -> Self {
        let bytes = vec![0; MOST as usize * SECTOR + 4096];
        let start = bytes.as_ptr().align_offset(4096);
        Self { bytes, start }
    }

    /// Its first sectors.
    pub fn sectors(&mut self, count: u64) -> &mut [u8] {
        &mut self.bytes[self.start..][..count as usize * SECTOR]
    }
}
