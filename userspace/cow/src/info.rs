// SPDX-License-Identifier: GPL-2.0-or-later

//! Describes a store.

use crate::disk::Disk;
use crate::error::Result;
use crate::store::Store;
use crate::store::Survey;
use holey_core::format::VERSION;
use holey_core::format::VERSION_WITH_SUMMARY;
use serde::Serialize;

/// What a store is and holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Info {
    /// File or device.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Version of the format.
    pub version: u32,
    /// How many exceptions are summarised, in version 2.
    pub summarised: Option<u64>,
    /// False once the kernel has given the snapshot up.
    pub valid: bool,
    /// Chunk size in sectors.
    pub chunk_sectors: u32,
    /// Exceptions that would fit.
    pub capacity: u64,
    /// Bytes of data that the exceptions hold.
    pub data_bytes: u64,
    /// Bytes that an origin needs at least to take all exceptions.
    pub origin_bytes: u64,
    /// What the list amounts to.
    #[serde(flatten)]
    pub survey: Survey,
}

impl Info {
    /// Reads and checks the whole list of `store`.
    pub fn of(store: &Store<impl Disk>) -> Result<Self> {
        let survey = store.survey()?;
        let chunk = store.chunk_bytes();
        let highest = survey.highest_origin;
        let summary = store.summary();
        let version = match summary {
            Ok(None) => VERSION,
            _ => VERSION_WITH_SUMMARY,
        };
        Ok(Self {
            path: store.disk().name(),
            size: store.disk().size(),
            version,
            summarised: summary.ok().flatten().map(|summary| summary.listed),
            valid: store.header().valid,
            chunk_sectors: store.header().chunk.sectors(),
            capacity: store.layout().capacity(store.bounds().cow_chunks),
            data_bytes: survey.exceptions * chunk,
            // The last chunk may lie in the origin by one sector only.
            origin_bytes: highest.map_or(0, |c| c * chunk + holey_core::format::SECTOR_SIZE),
            survey,
        })
    }
}
