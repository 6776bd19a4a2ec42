// SPDX-License-Identifier: GPL-2.0-or-later

//! Describes a delta.

use crate::delta::Delta;
use crate::digest::Digest;
use crate::format::Header;
use crate::format::VERSION;
use crate::index::Method;
use crate::index::Unit;
use dmholey_cow::Disk;
use serde::Serialize;

/// What a delta says about itself.
#[derive(Clone, Debug, Serialize)]
pub struct Info {
    /// The file.
    pub path: String,
    /// Version of the format.
    pub version: u32,
    /// The header's own digest.
    pub identity: Digest,
    /// The header.
    #[serde(flatten)]
    pub header: Header,
    /// Blocks that become zero.
    pub zero_blocks: u64,
    /// Blocks that come from elsewhere.
    pub copied_blocks: u64,
    /// Runs of these.
    pub copies: usize,
    /// The parts that make new content.
    pub units: Vec<UnitInfo>,
}

/// What a unit is.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct UnitInfo {
    /// Where it is in the file.
    pub offset: u64,
    /// Bytes it has there.
    pub packed: u64,
    /// Their digest, by which it is fetched.
    pub digest: Digest,
    /// How it is encoded.
    pub method: Method,
    /// Bytes of its source.
    pub source: u64,
    /// Bytes of its output.
    pub output: u64,
    /// Blocks it makes.
    pub blocks: u64,
    /// Compressed files that it makes again.
    pub gzip_files: usize,
}

impl From<&Unit> for UnitInfo {
    fn from(unit: &Unit) -> Self {
        Self {
            offset: unit.offset,
            packed: unit.packed,
            digest: unit.digest,
            method: unit.method,
            source: unit.source_bytes(),
            output: unit.output_bytes(),
            blocks: unit.blocks(),
            gzip_files: unit.outputs.iter().filter(|o| o.gzip.is_some()).count(),
        }
    }
}

impl Info {
    /// Looks at a delta.
    pub fn of<D: Disk>(delta: &Delta<D>) -> Self {
        let index = &delta.plan.index;
        Self {
            path: delta.name(),
            version: VERSION,
            identity: delta.plan.header.identity(),
            header: delta.plan.header,
            zero_blocks: index.zero.iter().map(|run| u64::from(run.len)).sum(),
            copied_blocks: index.groups.iter().map(|group| group.blocks()).sum(),
            copies: index.groups.iter().map(|group| group.copies.len()).sum(),
            units: index.units.iter().map(UnitInfo::from).collect(),
        }
    }
}
