// SPDX-License-Identifier: GPL-2.0-or-later

//! The summary of a list: its header, and its pages with the checksums that they need to be believed.

use crate::input::Input;
use holey_core::checksum::crc32c;
use holey_core::format::Bounds;
use holey_core::format::ChunkSize;
use holey_core::format::Layout;
use holey_core::summary::fence_of;
use holey_core::summary::Fences;
use holey_core::summary::PageBounds;
use holey_core::summary::PageWriter;
use holey_core::summary::Summary;
use holey_core::summary::PAGE_LEN;

/// Reads a header with a summary and two pages; what is read stays within its bounds, and comes out
/// again when it is written.
pub fn summary(data: &[u8]) {
    // Without a valid checksum nothing is believed.
    if let Ok(Some(summary)) = Summary::parse(data) {
        assert_eq!(Summary::parse(&data[..64]), Ok(Some(summary)));
    }
    let mut input = Input::new(data);
    let chunk = ChunkSize::new(1 << (input.byte() % 18)).unwrap();
    let layout = Layout::new(chunk);
    let summary = Summary {
        pages: input.short() as u32 % 4,
        top: input.short() * 8 * u64::from(input.byte() % 2 + 1),
        listed: input.short(),
        next_free: input.short(),
        fences: 0,
        last: 0,
    };
    assert_eq!(Summary::parse(&summary.encode(chunk)), Ok(Some(summary)));
    let cow_sectors = input.short() * u64::from(chunk.sectors());
    let origin_chunks = input.long();
    if let Ok(bounds) = Bounds::new(chunk, 0, cow_sectors) {
        place(&summary, layout, bounds, cow_sectors);
    }
    let bounds = PageBounds {
        layout,
        origin_chunks,
        next_free: input.long() % (1 << 41),
    };
    let firsts = [input.long(), input.long()];
    pages(summary, firsts, input.rest(), bounds);
}

/// All of a summary that is accepted is on the device, behind what is in use.
fn place(summary: &Summary, layout: Layout, bounds: Bounds, cow_sectors: u64) {
    if summary.check(layout, bounds, cow_sectors).is_err() {
        return;
    }
    let start = summary.start().unwrap();
    assert!(layout.chunk().sector_of(summary.next_free) <= start);
    let mut end = cow_sectors;
    for n in 0..u64::from(summary.pages) {
        let sector = summary.page_sector(n).unwrap();
        assert!(sector >= start && sector + 8 <= end);
        end = sector;
    }
    assert_eq!(
        start + summary.fence_bytes() as u64 / 512,
        end.min(summary.top)
    );
    let (area, count) = summary.end(layout);
    assert_eq!(area * layout.entries() + count as u64, summary.listed);
    assert!(count as u64 <= layout.entries());
}

fn pages(mut summary: Summary, firsts: [u64; 2], bytes: &[u8], bounds: PageBounds) {
    let mut page = vec![0; PAGE_LEN];
    let len = bytes.len().min(PAGE_LEN);
    page[..len].copy_from_slice(&bytes[..len]);
    let fences: Vec<u8> = firsts
        .iter()
        .flat_map(|first| fence_of(*first, &page))
        .collect();
    summary.pages = 2;
    summary.fences = crc32c(&fences);
    let Ok(fences) = Fences::new(fences, &summary) else {
        assert!(firsts[0] >= firsts[1]);
        return;
    };
    for (n, end) in [(0, firsts[1]), (1, u64::MAX)] {
        let mut last = firsts[n];
        let mut writer = PageWriter::new(vec![0; PAGE_LEN]);
        let mut runs = Vec::new();
        for run in fences.read(n as u64, &page, bounds).unwrap() {
            let Ok(run) = run else { break };
            assert!(run.len >= 1 && run.origin >= last);
            assert!(run.end() <= end.min(bounds.origin_chunks));
            assert!(run.cow >= 2 && run.cow + run.len <= bounds.next_free);
            assert!(run.len <= bounds.layout.data_from(run.cow));
            last = run.end();
            // A page that begins with another chunk than its fence says is not what a writer makes.
            if runs.is_empty() && run.origin != firsts[n] {
                return;
            }
            assert!(writer.push(run), "packed as tight as can be");
            runs.push(run);
        }
        if runs.is_empty() {
            continue;
        }
        let (again, fence) = writer.finish();
        summary.pages = 1;
        summary.fences = crc32c(&fence);
        let fences = Fences::new(fence.to_vec(), &summary).unwrap();
        let read: Vec<_> = fences.read(0, again, bounds).unwrap().collect();
        assert_eq!(read, runs.into_iter().map(Ok).collect::<Vec<_>>());
        summary.pages = 2;
    }
}
