// SPDX-License-Identifier: GPL-2.0-or-later

//! Reads the summary of a list.

use crate::disk;
use crate::disk::Disk;
use crate::error::Result;
use crate::store::Store;
use holey_core::format::Exception;
use holey_core::format::SECTOR_SIZE;
use holey_core::summary::Fences;
use holey_core::summary::PageBounds;
use holey_core::summary::Summary;
use holey_core::summary::SummaryError;
use holey_core::summary::PAGE_LEN;

/// What a summary, and the list behind the entries that it names, tell: sorted, each once.
///
/// The outer error is that of the disk or of the list, the inner one says why the summary is no good.
pub(crate) fn told<D: Disk>(
    store: &Store<D>,
    summary: &Summary,
) -> Result<std::result::Result<Vec<Exception>, SummaryError>> {
    let (layout, bounds) = (store.layout(), store.bounds());
    let sectors = store.disk().size() / SECTOR_SIZE;
    if let Err(error) = summary.check(layout, bounds, sectors) {
        return Ok(Err(error));
    }
    let (Some(start), len) = (summary.fences_sector(), summary.fence_bytes()) else {
        return Ok(Err(SummaryError::Place));
    };
    let mut bytes = vec![0; len];
    disk::read(store.disk(), start * SECTOR_SIZE, &mut bytes)?;
    let fences = match Fences::new(bytes, summary) {
        Ok(fences) => fences,
        Err(error) => return Ok(Err(error)),
    };
    let mut told = match read_pages(store, summary, &fences)? {
        Ok(told) => told,
        Err(error) => return Ok(Err(error)),
    };
    let (area, _) = summary.end(layout);
    let mut content = vec![0; layout.chunk().bytes()];
    let at = layout.chunk().sector_of(layout.area_chunk(area));
    disk::read(store.disk(), at * SECTOR_SIZE, &mut content)?;
    if let Err(error) = summary.check_end(layout, &content) {
        return Ok(Err(error));
    }
    let mut listed = 0;
    for (n, entry) in (0..).zip(store.raw_entries()) {
        if n >= summary.listed {
            told.push(entry?);
        }
        listed = n + 1;
    }
    if listed < summary.listed {
        return Ok(Err(SummaryError::Stale));
    }
    told.sort();
    told.dedup();
    Ok(Ok(told))
}

fn read_pages<D: Disk>(
    store: &Store<D>,
    summary: &Summary,
    fences: &Fences<Vec<u8>>,
) -> Result<std::result::Result<Vec<Exception>, SummaryError>> {
    let bounds = PageBounds {
        layout: store.layout(),
        origin_chunks: store.bounds().origin_chunks,
        next_free: summary.next_free,
    };
    let mut told = Vec::new();
    let mut page = vec![0; PAGE_LEN];
    for n in 0..fences.pages() {
        let Some(sector) = summary.page_sector(n) else {
            return Ok(Err(SummaryError::Place));
        };
        disk::read(store.disk(), sector * SECTOR_SIZE, &mut page)?;
        let runs = match fences.read(n, &page, bounds) {
            Ok(runs) => runs,
            Err(error) => return Ok(Err(error)),
        };
        for run in runs {
            let run = match run {
                Ok(run) => run,
                Err(error) => return Ok(Err(error)),
            };
            // Each has a COW chunk of its own, or somebody wants to fill the memory.
            if told.len() as u64 + run.len > summary.next_free {
                return Ok(Err(SummaryError::Run(n)));
            }
            told.extend((0..run.len).map(|n| Exception {
                origin: run.origin + n,
                cow: run.cow + n,
            }));
        }
    }
    Ok(Ok(told))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply;
    use crate::check;
    use crate::check::Report;
    use crate::info::Info;
    use crate::progress::Silent;
    use crate::writer::Ground;
    use crate::MemDisk;
    use crate::Writer;
    use holey_core::checksum::crc32c;
    use holey_core::format::ChunkSize;
    use holey_core::format::ENTRY_LEN;
    use holey_core::index::Run;
    use holey_core::summary::PageWriter;
    use holey_core::summary::FENCE_LEN;

    const CHUNK: usize = 4096;

    /// A store of three exceptions, the first two of which are in a summary of one page.
    fn summarised() -> Vec<u8> {
        let chunk = ChunkSize::new(8).unwrap();
        let mut writer = Writer::create(MemDisk::default(), chunk, Ground::Zero).unwrap();
        for origin in [7, 9, 10] {
            writer.push(origin, &[1; CHUNK]).unwrap();
        }
        let mut bytes = writer.finish().unwrap().0.into_bytes();
        bytes.resize(20 * CHUNK, 0);
        let mut page = PageWriter::new(vec![0; PAGE_LEN]);
        for (origin, cow) in [(7, 2), (9, 3)] {
            assert!(page.push(Run {
                origin,
                cow,
                len: 1
            }));
        }
        let (page, fence) = page.finish();
        bytes[19 * CHUNK..].copy_from_slice(page);
        bytes[18 * CHUNK..18 * CHUNK + FENCE_LEN].copy_from_slice(&fence);
        let summary = Summary {
            pages: 1,
            top: 20 * 8,
            listed: 2,
            next_free: 5,
            fences: crc32c(&fence),
            last: crc32c(&bytes[CHUNK..CHUNK + 2 * ENTRY_LEN]),
        };
        let header = summary.encode(chunk);
        bytes[..header.len()].copy_from_slice(&header);
        bytes
    }

    fn check(bytes: Vec<u8>) -> Report {
        check::check(MemDisk::new(bytes), None).unwrap()
    }

    fn code(report: &Report) -> &str {
        report.findings[0].code
    }

    #[test]
    fn a_store_with_a_summary_is_a_store() {
        let bytes = summarised();
        let report = check(bytes.clone());
        assert_eq!((report.problems, report.exceptions), (0, 3), "{report:?}");
        let info = Info::of(&Store::open(MemDisk::new(bytes)).unwrap()).unwrap();
        assert_eq!((info.version, info.summarised), (2, Some(2)));
    }

    #[test]
    fn damage_is_a_warning() {
        for at in [40, 18 * CHUNK + 3, 19 * CHUNK + 1] {
            let mut bytes = summarised();
            bytes[at] ^= 1;
            let report = check(bytes);
            assert_eq!((report.problems, code(&report)), (1, "summary"), "{at}");
        }
        // Cut off.
        let mut bytes = summarised();
        bytes.truncate(19 * CHUNK);
        assert_eq!(code(&check(bytes)), "summary");
    }

    #[test]
    fn a_merge_forgets_it_first() {
        let disk = MemDisk::new(summarised());
        let mut store = Store::open(&disk).unwrap();
        let target = MemDisk::new(vec![0; 11 * CHUNK]);
        let merged = apply::merge(&mut store, &target, &Silent).unwrap();
        assert_eq!(merged.exceptions, 3);
        let report = check(disk.to_bytes());
        assert_eq!((report.problems, report.exceptions), (0, 0), "{report:?}");
        let info = Info::of(&Store::open(disk).unwrap()).unwrap();
        assert_eq!((info.version, info.summarised), (1, None));
    }

    /// Entry 0 is not covered by a checksum: whoever changes a list has to forget its summary first.
    #[test]
    fn a_summary_of_another_list_is_an_error() {
        let mut bytes = summarised();
        bytes[CHUNK + 2 * ENTRY_LEN] = 11;
        assert_eq!(check(bytes).problems, 0, "what is behind it may change");
        let mut bytes = summarised();
        bytes[CHUNK] = 6;
        let report = check(bytes);
        assert_eq!(code(&report), "summary", "{report:?}");
        // One that its checksums vouch for.
        let mut bytes = summarised();
        let mut page = PageWriter::new(vec![0; PAGE_LEN]);
        assert!(page.push(Run {
            origin: 7,
            cow: 2,
            len: 1
        }));
        let (page, fence) = page.finish();
        bytes[19 * CHUNK..].copy_from_slice(page);
        bytes[18 * CHUNK..18 * CHUNK + FENCE_LEN].copy_from_slice(&fence);
        let mut summary = Summary::parse(&bytes).unwrap().unwrap();
        summary.fences = crc32c(&fence);
        let header = summary.encode(ChunkSize::new(8).unwrap());
        bytes[..header.len()].copy_from_slice(&header);
        assert_eq!(code(&check(bytes)), "summary-differs");
    }
}
