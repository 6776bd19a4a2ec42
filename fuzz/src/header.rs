// SPDX-License-Identifier: GPL-2.0-or-later

//! The header of a store and the layout that follows from it.

use crate::input::Input;
use holey_core::format::Bounds;
use holey_core::format::ChunkSize;
use holey_core::format::Exception;
use holey_core::format::FormatError;
use holey_core::format::Header;
use holey_core::format::Layout;
use holey_core::format::HEADER_LEN;
use holey_core::format::MAX_COW_CHUNKS;

/// Parses a header; sizes and an entry behind it are judged with its chunk size.
pub fn header(data: &[u8]) {
    match Header::parse(data) {
        Ok(Some(header)) => {
            // What is written has no summary.
            let mut want = data[..HEADER_LEN].to_vec();
            want[8] = 1;
            assert_eq!(header.encode(), want[..]);
            let mut input = Input::new(&data[HEADER_LEN..]);
            sizes(header.chunk, &mut input);
        }
        Ok(None) => assert_eq!(data[..4], [0; 4]),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let short = matches!(error, FormatError::HeaderTooShort(_));
            assert_eq!(short, data.len() < HEADER_LEN);
        }
    }
}

fn sizes(chunk: ChunkSize, input: &mut Input<'_>) {
    let (origin, cow) = (input.long(), input.long());
    let Ok(bounds) = Bounds::new(chunk, origin, cow) else {
        let chunks = cow / u64::from(chunk.sectors());
        assert!(!(3..MAX_COW_CHUNKS).contains(&chunks));
        return;
    };
    let size = u128::from(chunk.sectors());
    assert!(u128::from(bounds.origin_chunks) * size >= origin.into());
    assert!(u128::from(bounds.cow_chunks) * size <= cow.into());
    capacity(Layout::new(chunk), bounds);
    entry(Layout::new(chunk), bounds, input);
}

/// The device holds its capacity, with the area that ends the list, and not one entry more.
fn capacity(layout: Layout, bounds: Bounds) {
    let most = layout.capacity(bounds.cow_chunks);
    assert!(layout.chunks_for(most) <= bounds.cow_chunks);
    assert!(layout.chunks_for(most + 1) > bounds.cow_chunks);
    let areas = layout.areas_within(bounds.cow_chunks);
    assert!(layout.area_chunk(areas - 1) < bounds.cow_chunks);
    assert!(layout.area_chunk(areas) >= bounds.cow_chunks);
}

fn entry(layout: Layout, bounds: Bounds, input: &mut Input<'_>) {
    let entry = Exception {
        origin: input.long(),
        cow: input.long(),
    };
    let decoded = Exception::decode(&entry.encode());
    assert_eq!(decoded, (entry.cow != 0).then_some(entry));
    let entries = layout.chunk().bytes() as u64 / 16;
    let is_data = entry.cow >= 2 && (entry.cow - 1) % (entries + 1) != 0;
    let inside = entry.cow < bounds.cow_chunks && entry.origin < bounds.origin_chunks;
    assert_eq!(layout.check(entry, bounds).is_ok(), is_data && inside);
    let next = layout.skip_metadata(entry.cow);
    assert!(next >= entry.cow && (next == u64::MAX || !layout.is_metadata(next)));
}
