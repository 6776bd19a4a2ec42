// SPDX-License-Identifier: GPL-2.0-or-later

//! The difference of two images as a store: over OLD as the origin, it shows NEW.
//!
//! The images, or what may differ in them, are cut into segments. Each thread compares every n-th one
//! and hands its changed chunks over a channel that holds one segment, so memory is bounded and order is
//! kept.

use crate::disk;
use crate::disk::Disk;
use crate::error::Error;
use crate::error::Result;
use crate::progress;
use crate::progress::Progress;
use crate::writer::Writer;
use crate::writer::Written;
use serde::Serialize;
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::SyncSender;

/// Bytes compared at a time, if chunks are not larger.
const SEGMENT: u64 = 4 << 20;
/// More threads than this only wait for the disk.
const MAX_THREADS: usize = 8;

/// What a comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Size of each image in bytes.
    pub image_bytes: u64,
    /// Chunk size in sectors.
    pub chunk_sectors: u32,
    /// Chunks of an image, the last one perhaps in part.
    pub chunks: u64,
    /// Bytes not read because both images have a hole there.
    pub skipped_bytes: u64,
    /// What was written.
    #[serde(flatten)]
    pub written: Written,
}

/// One compared segment.
#[derive(Default)]
struct Segment {
    /// NEW's content; empty if nothing changed.
    bytes: Vec<u8>,
    /// Changed chunks, numbered in the segment.
    changed: Vec<usize>,
    /// Whether neither image had data here.
    skipped: bool,
}

/// Writes the difference between `old` and `new` to `writer`.
///
/// If it is known where they may differ, as ascending ranges of bytes, only that is compared: `places`.
/// Both images must have one size. A last chunk that lies in them only in part is filled up with
/// zeros. Returns the disk of the finished store.
pub fn diff<O: Disk, N: Disk, W: Disk>(
    old: &O,
    new: &N,
    places: Option<&[Range<u64>]>,
    mut writer: Writer<W>,
    progress: &dyn Progress,
) -> Result<(W, Difference)> {
    same_size(old, new)?;
    let chunk = writer.chunk().bytes();
    let size = new.size();
    let everywhere = 0..size;
    let places = places.unwrap_or(std::slice::from_ref(&everywhere));
    let plan = Plan {
        chunk,
        segments: segments(places, size, chunk as u64),
        threads: std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS)),
    };
    let stop = AtomicBool::new(false);
    let skipped_bytes = std::thread::scope(|scope| {
        let mut lanes = Vec::new();
        for lane in 0..plan.threads {
            let (send, receive) = sync_channel(1);
            let (plan, stop) = (&plan, &stop);
            scope.spawn(move || compare_lane(old, new, plan, lane, &send, stop));
            lanes.push(receive);
        }
        let result = collect(&mut writer, &plan, &lanes, progress);
        stop.store(true, Ordering::Relaxed);
        result
    })?;
    let difference = Difference {
        image_bytes: size,
        chunk_sectors: writer.chunk().sectors(),
        chunks: size.div_ceil(chunk as u64),
        skipped_bytes,
        written: Written::default(),
    };
    let (disk, written) = writer.finish()?;
    Ok((
        disk,
        Difference {
            written,
            ..difference
        },
    ))
}

/// Fails, with the way out, if the images have different sizes.
pub fn same_size(old: &impl Disk, new: &impl Disk) -> Result<()> {
    let (from, to) = (old.size(), new.size());
    if from == to {
        return Ok(());
    }
    let (smaller, less, larger, more) = if from < to {
        (old.name(), from, new.name(), to)
    } else {
        (new.name(), to, old.name(), from)
    };
    Err(Error::refused(
        smaller,
        format!(
            "has {less} bytes and {larger} has {more}, but a COW image cannot change a size; make \
             them equal first (a file: truncate -s {more}, a volume: extend it)"
        ),
    ))
}

/// How the images are cut.
struct Plan {
    chunk: usize,
    /// Ranges of bytes that begin with a chunk, ascending.
    segments: Vec<Range<u64>>,
    threads: usize,
}

/// Cuts ascending ranges of bytes of an image into segments of whole chunks.
fn segments(places: &[Range<u64>], size: u64, chunk: u64) -> Vec<Range<u64>> {
    let most = SEGMENT.max(chunk);
    let mut segments: Vec<Range<u64>> = Vec::new();
    for place in places {
        let done = segments.last().map_or(0, |last| last.end);
        let mut start = (place.start - place.start % chunk).max(done);
        let end = place
            .end
            .checked_next_multiple_of(chunk)
            .unwrap_or(size)
            .min(size);
        while start < end {
            let next = (start - start % most).saturating_add(most).min(end);
            match segments.last_mut() {
                Some(last) if last.end == start && start % most != 0 => last.end = next,
                _ => segments.push(start..next),
            }
            start = next;
        }
    }
    segments
}

fn compare_lane(
    old: &impl Disk,
    new: &impl Disk,
    plan: &Plan,
    lane: usize,
    send: &SyncSender<Result<Segment>>,
    stop: &AtomicBool,
) {
    let (mut old, mut new) = (Side::new(old), Side::new(new));
    for segment in plan.segments.iter().skip(lane).step_by(plan.threads) {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let found = compare(&mut old, &mut new, plan.chunk, segment);
        // The receiver is gone only when the work has been given up.
        if send.send(found).is_err() {
            return;
        }
    }
}

fn compare<O: Disk, N: Disk>(
    old: &mut Side<'_, O>,
    new: &mut Side<'_, N>,
    chunk: usize,
    segment: &Range<u64>,
) -> Result<Segment> {
    let start = segment.start;
    let len = segment.end - start;
    if old.is_hole(start, len) && new.is_hole(start, len) {
        return Ok(Segment {
            skipped: true,
            ..Segment::default()
        });
    }
    old.load(start, len)?;
    new.load(start, len)?;
    if old.bytes == new.bytes {
        return Ok(Segment::default());
    }
    let pairs = old.bytes.chunks(chunk).zip(new.bytes.chunks(chunk));
    let changed = pairs
        .enumerate()
        .filter_map(|(i, (a, b))| (a != b).then_some(i))
        .collect();
    Ok(Segment {
        bytes: std::mem::take(&mut new.bytes),
        changed,
        skipped: false,
    })
}

/// One image, as one thread reads it.
struct Side<'a, D> {
    disk: &'a D,
    bytes: Vec<u8>,
    /// There is no data between these two offsets.
    hole: (u64, u64),
}

impl<'a, D: Disk> Side<'a, D> {
    fn new(disk: &'a D) -> Self {
        Self {
            disk,
            bytes: Vec::new(),
            hole: (0, 0),
        }
    }

    fn is_hole(&mut self, start: u64, len: u64) -> bool {
        if start < self.hole.0 || start >= self.hole.1 {
            self.hole = (start, self.disk.next_data(start));
        }
        start + len <= self.hole.1
    }

    fn load(&mut self, start: u64, len: u64) -> Result<()> {
        self.bytes.resize(usize::try_from(len).unwrap_or(0), 0);
        if self.is_hole(start, len) {
            self.bytes.fill(0);
            return Ok(());
        }
        disk::read(self.disk, start, &mut self.bytes)
    }
}

/// Takes the segments in order and writes them. Returns how many bytes were holes.
fn collect<W: Disk>(
    writer: &mut Writer<W>,
    plan: &Plan,
    lanes: &[Receiver<Result<Segment>>],
    progress: &dyn Progress,
) -> Result<u64> {
    let bytes_of = |place: &Range<u64>| place.end - place.start;
    let total = plan.segments.iter().map(bytes_of).sum();
    let (mut done, mut skipped) = (0, 0);
    let mut tail = Vec::new();
    for (place, lane) in plan.segments.iter().zip(lanes.iter().cycle()) {
        let first = place.start / plan.chunk as u64;
        // A lane ends early only by a panic, which the scope passes on.
        let segment = lane.recv().map_err(|_| Error::Interrupted)??;
        if segment.skipped {
            skipped += bytes_of(place);
        }
        for changed in segment.changed {
            let at = changed * plan.chunk;
            let end = segment.bytes.len().min(at + plan.chunk);
            let mut data = segment.bytes.get(at..end).unwrap_or_default();
            if data.len() < plan.chunk {
                tail.extend_from_slice(data);
                tail.resize(plan.chunk, 0);
                data = &tail;
            }
            writer.push(first + changed as u64, data)?;
        }
        done += bytes_of(place);
        progress::step(progress, done, total)?;
    }
    Ok(skipped)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: u64 = 4096;

    #[test]
    fn an_image_is_cut_into_segments_of_whole_chunks() {
        let size = 2 * SEGMENT + CHUNK + 512;
        let everywhere = 0..size;
        let found = segments(std::slice::from_ref(&everywhere), size, CHUNK);
        assert_eq!(found, [0..SEGMENT, SEGMENT..2 * SEGMENT, 2 * SEGMENT..size]);
        assert_eq!(segments(&[], size, CHUNK), []);
        let large = 4 * SEGMENT;
        let found = segments(std::slice::from_ref(&everywhere), size, large);
        assert_eq!(found, std::slice::from_ref(&everywhere));
    }

    #[test]
    fn places_are_widened_to_chunks_and_joined() {
        let size = SEGMENT + 3 * CHUNK + 512;
        let places = [
            1..2,
            CHUNK - 1..CHUNK + 1,
            2 * CHUNK..2 * CHUNK,
            5 * CHUNK..6 * CHUNK,
            SEGMENT - 1..SEGMENT + 1,
            size - 1..size,
            size..size + 7,
        ];
        let found = segments(&places, size, CHUNK);
        let wanted = [
            0..2 * CHUNK,
            5 * CHUNK..6 * CHUNK,
            SEGMENT - CHUNK..SEGMENT,
            SEGMENT..SEGMENT + CHUNK,
            SEGMENT + 3 * CHUNK..size,
        ];
        assert_eq!(found, wanted);
    }
}
