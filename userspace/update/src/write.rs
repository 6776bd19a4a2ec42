// SPDX-License-Identifier: GPL-2.0-or-later

//! Writes a whole image to a disk, but only the chunks that differ.

use crate::error::Error;
use crate::error::Result;
use dmholey_cow::disk;
use dmholey_cow::progress;
use dmholey_cow::Disk;
use dmholey_cow::Progress;
use dmholey_delta::digest::Hasher;
use dmholey_delta::format::BLOCK;
use dmholey_delta::Digest;
use serde::Serialize;
use std::io::Read;

/// Bytes read at a time.
const BATCH: usize = 1 << 20;

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Bytes of the image.
    pub bytes: u64,
    /// Bytes of it that were not on the disk.
    pub written: u64,
    /// SHA-256 of the image.
    pub sha256: Digest,
}

/// Writes `image`, called `name`, to `disk`, in chunks of 4 KiB, and makes that durable. What is behind its end
/// stays as it is. If the image is not the one with this SHA-256, that is known only at the end, and the disk
/// has whatever it was.
pub fn write<B: Disk>(
    image: &mut dyn Read,
    name: &str,
    disk: &B,
    sha256: Option<Digest>,
    watch: &dyn Progress,
) -> Result<Written> {
    let (mut hasher, mut at, mut written) = (Hasher::default(), 0u64, 0u64);
    let (mut new, mut old) = (Vec::with_capacity(BATCH), Vec::new());
    loop {
        new.clear();
        let read = Read::take(&mut *image, BATCH as u64).read_to_end(&mut new);
        read.map_err(|e| dmholey_cow::Error::io("read", name, e))?;
        if new.is_empty() {
            break;
        }
        if at + new.len() as u64 > disk.size() {
            let why = format!(
                "is larger than {}, which has {} bytes",
                disk.name(),
                disk.size()
            );
            return Err(Error::refused(name, why));
        }
        hasher.update(&new);
        old.resize(new.len(), 0);
        disk::read(disk, at, &mut old)?;
        for (start, end) in differing(&old, &new) {
            disk::write(
                disk,
                at + start as u64,
                new.get(start..end).unwrap_or_default(),
            )?;
            written += (end - start) as u64;
        }
        at += new.len() as u64;
        progress::step(watch, at, disk.size())?;
    }
    disk::flush(disk)?;
    let found = hasher.finish();
    if sha256.is_some_and(|wanted| wanted != found) {
        let why = format!(
            "has SHA-256 {found}, which is not the one that was asked for; do not use the disk"
        );
        return Err(Error::broken(name, why));
    }
    Ok(Written {
        bytes: at,
        written,
        sha256: found,
    })
}

/// Ranges of whole chunks that differ, as few as can be. Both have the same length.
fn differing<'a>(old: &'a [u8], new: &'a [u8]) -> impl Iterator<Item = (usize, usize)> + 'a {
    let mut chunks = old
        .chunks(BLOCK)
        .zip(new.chunks(BLOCK))
        .enumerate()
        .peekable();
    std::iter::from_fn(move || {
        let (first, _) = chunks.by_ref().find(|(_, (old, new))| old != new)?;
        let mut last = first;
        while chunks.next_if(|(_, (old, new))| old != new).is_some() {
            last += 1;
        }
        Some((first * BLOCK, ((last + 1) * BLOCK).min(new.len())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmholey_cow::progress::Silent;
    use dmholey_cow::MemDisk;
    use proptest::prelude::*;
    use std::io;

    /// Gives a few bytes at a time, as pipes do.
    struct Pipe<'a>(&'a [u8], usize);

    impl Read for Pipe<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let len = self.1.min(buf.len());
            self.0.read(buf.get_mut(..len).unwrap_or_default())
        }
    }

    proptest! {
        #[test]
        fn only_what_differs_is_written(
            blocks in prop::collection::vec(0u8..3, 1..20),
            changed in prop::collection::vec(0u8..3, 1..20),
            tail in 0usize..BLOCK,
            piece in 1usize..9000,
        ) {
            let bytes = |fills: &[u8]| -> Vec<u8> {
                fills.iter().flat_map(|&fill| [fill; BLOCK]).collect()
            };
            let mut old = bytes(&blocks);
            let mut new = bytes(&changed);
            new.extend(vec![7; tail]);
            old.resize(old.len().max(new.len()), 9);
            let differs = new.chunks(BLOCK).zip(old.chunks(BLOCK)).filter(|(new, old)| *new != &old[..new.len()]);
            let differs: usize = differs.map(|(new, _)| new.len()).sum();
            let disk = MemDisk::new(old.clone());
            let written = write(&mut Pipe(&new, piece), "x", &disk, None, &Silent).unwrap();
            prop_assert_eq!(written.bytes, new.len() as u64);
            prop_assert_eq!(written.written, differs as u64);
            prop_assert_eq!(written.sha256, Digest::of(&new));
            old[..new.len()].copy_from_slice(&new);
            prop_assert!(disk.to_bytes() == old);
        }
    }

    #[test]
    fn what_does_not_fit_or_is_another_is_refused() {
        let disk = MemDisk::new(vec![0; 8192]);
        let error = write(&mut &[1; 8193][..], "x", &disk, None, &Silent).unwrap_err();
        assert!(error.to_string().contains("larger than"), "{error}");
        let error = write(
            &mut &[1; 10][..],
            "x",
            &disk,
            Some(Digest::of(b"")),
            &Silent,
        )
        .unwrap_err();
        assert!(error.to_string().contains("do not use"), "{error}");
    }
}
