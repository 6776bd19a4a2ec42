// SPDX-License-Identifier: GPL-2.0-or-later

//! A delta: its header and index, and where its units come from.

use crate::digest::Digest;
use crate::error::Broken;
use crate::error::Error;
use crate::error::Result;
use crate::format::Header;
use crate::format::HEADER_LEN;
use crate::index::Index;
use crate::index::Unit;
use crate::pack;
use dmholey_cow::disk;
use dmholey_cow::Disk;

/// Header and index: all that has to be there before units can be taken, in any order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The header.
    pub header: Header,
    /// The index.
    pub index: Index,
}

impl Plan {
    /// Checks an index as it is in the file against its header, and reads it.
    pub fn parse(header: Header, packed: &[u8]) -> std::result::Result<Self, Broken> {
        if packed.len() as u64 != u64::from(header.index_packed)
            || Digest::of(packed) != header.index
        {
            return Err(Broken::Digest("the index"));
        }
        let bytes = pack::decode(packed, &[], header.index_len as usize, "index")?;
        let index = Index::parse(&bytes, &header)?;
        if header.units_at() + index.units_len() != header.file_len {
            return Err(Broken::Limit("the delta's length"));
        }
        Ok(Self { header, index })
    }
}

/// A whole delta, in a file.
#[derive(Debug)]
pub struct Delta<D> {
    disk: D,
    /// Its header and index.
    pub plan: Plan,
}

impl<D: Disk> Delta<D> {
    /// Reads and checks header and index.
    pub fn open(disk: D) -> Result<Self> {
        let fail = |reason| Error::format(disk.name(), reason);
        let mut start = [0; HEADER_LEN];
        let len = HEADER_LEN.min(usize::try_from(disk.size()).unwrap_or(HEADER_LEN));
        let start = start.get_mut(..len).unwrap_or_default();
        disk::read(&disk, 0, start)?;
        let header = Header::parse(start).map_err(fail)?;
        if disk.size() < header.file_len {
            return Err(fail(Broken::Short(disk.size(), header.file_len)));
        }
        if header.units_at() > header.file_len {
            return Err(fail(Broken::Limit("the delta's length")));
        }
        let mut packed = vec![0; header.index_packed as usize];
        disk::read(&disk, HEADER_LEN as u64, &mut packed)?;
        let plan = Plan::parse(header, &packed).map_err(fail)?;
        Ok(Self { disk, plan })
    }

    /// A delta whose header and index have been read already, and whose units are on `disk`.
    pub fn new(disk: D, plan: Plan) -> Self {
        Self { disk, plan }
    }

    /// Name for messages.
    pub fn name(&self) -> String {
        self.disk.name()
    }

    /// The bytes of `unit`, not checked.
    pub fn packed(&self, unit: &Unit) -> Result<Vec<u8>> {
        let mut packed = vec![0; unit.packed as usize];
        disk::read(&self.disk, unit.offset, &mut packed)?;
        Ok(packed)
    }
}
