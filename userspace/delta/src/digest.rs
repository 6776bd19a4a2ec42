// SPDX-License-Identifier: GPL-2.0-or-later

//! SHA-256, of parts and of whole images.
//!
//! One function for everything: what is fetched by content has to have a digest that object stores and
//! registries know, and a second function would save less than a tenth of a second for each 100 MB that
//! a client checks.

use crate::error::Result;
use dmholey_cow::disk;
use dmholey_cow::progress;
use dmholey_cow::Disk;
use dmholey_cow::Progress;
use ring::digest::Context;
use ring::digest::SHA256;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// Bytes of a digest.
pub const LEN: usize = 32;
/// Bytes of an image that are digested by themselves.
pub const SEGMENT: u64 = 1 << 20;
/// Bytes of a block of data, and of one with digests, in dm-verity's tree.
pub const VERITY_BLOCK: u64 = 4096;

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; LEN]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let mut digest = [0; LEN];
        let digits = text.as_bytes().chunks_exact(2);
        let mut well = text.len() == 2 * LEN;
        for (to, digits) in digest.iter_mut().zip(digits) {
            // from_str_radix takes signs, too.
            let byte = std::str::from_utf8(digits).ok();
            let byte = byte.filter(|text| text.bytes().all(|digit| digit.is_ascii_hexdigit()));
            match byte.and_then(|text| u8::from_str_radix(text, 16).ok()) {
                Some(byte) => *to = byte,
                None => well = false,
            }
        }
        let why = || format!("'{text}' is no SHA-256 digest; it has 64 digits from 0 to f");
        well.then_some(Self(digest)).ok_or_else(why)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Digests what comes in pieces.
pub struct Hasher(Context);

impl Default for Hasher {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}

impl Hasher {
    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of everything added.
    pub fn finish(self) -> Digest {
        let mut digest = [0; LEN];
        for (to, from) in digest.iter_mut().zip(self.0.finish().as_ref()) {
            *to = *from;
        }
        Digest(digest)
    }
}

/// The digest of a whole image: of its segments' digests, one behind the other.
///
/// So it can be made by several threads, holes cost nothing, and of a changed image only the segments
/// that have changed are read again.
pub fn image<D: Disk>(disk: &D, watch: &dyn Progress) -> Result<Digest> {
    let mut all = Hasher::default();
    for digest in segments(disk, SEGMENT, Digest::of, watch)? {
        all.update(&digest.0);
    }
    Ok(all.finish())
}

/// The root digest of an image for dm-verity; nothing if it is empty or has a part of a block.
///
/// It is what `veritysetup format --salt=-` prints: SHA-256, no salt, blocks of [`VERITY_BLOCK`] bytes
/// (version 1 of the hash format, see `Documentation/admin-guide/device-mapper/verity.rst` of the kernel).
pub fn verity<D: Disk>(disk: &D, watch: &dyn Progress) -> Result<Option<Digest>> {
    const FAN_OUT: usize = VERITY_BLOCK as usize / LEN;
    if !fits_verity(disk.size()) {
        return Ok(None);
    }
    let above = |digests: &[Digest]| match digests {
        // The tree of a single block is that block.
        [only] if disk.size() == VERITY_BLOCK => *only,
        _ => {
            let mut block = [0; VERITY_BLOCK as usize];
            for (to, digest) in block.chunks_exact_mut(LEN).zip(digests) {
                to.copy_from_slice(&digest.0);
            }
            Digest::of(&block)
        }
    };
    let leaves = |data: &[u8]| {
        let blocks = data.chunks(VERITY_BLOCK as usize);
        above(&blocks.map(Digest::of).collect::<Vec<_>>())
    };
    let mut level = segments(disk, VERITY_BLOCK * FAN_OUT as u64, leaves, watch)?;
    while level.len() > 1 {
        level = level.chunks(FAN_OUT).map(above).collect();
    }
    Ok(level.pop())
}

/// Whether an image of so many bytes can have a root digest for dm-verity: it is some whole blocks.
pub fn fits_verity(bytes: u64) -> bool {
    bytes > 0 && bytes % VERITY_BLOCK == 0
}

/// What `of` makes of each segment of so many bytes; it may be called by several threads at a time.
fn segments<D: Disk>(
    disk: &D,
    segment: u64,
    of: impl Fn(&[u8]) -> Digest + Sync,
    watch: &dyn Progress,
) -> Result<Vec<Digest>> {
    let count = usize::try_from(disk.size().div_ceil(segment)).unwrap_or(usize::MAX);
    let mut digests = vec![Digest([0; LEN]); count];
    let threads = crate::threads();
    let each = count.div_ceil(threads).max(1);
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let workers: Vec<_> = digests
            .chunks_mut(each)
            .enumerate()
            .map(|(i, digests)| {
                let (of, done) = (&of, &done);
                scope.spawn(move || digest_each(disk, segment, i * each, digests, of, done, watch))
            })
            .collect();
        workers.into_iter().try_for_each(crate::join)
    })?;
    Ok(digests)
}

fn digest_each<D: Disk>(
    disk: &D,
    segment: u64,
    first: usize,
    digests: &mut [Digest],
    of: impl Fn(&[u8]) -> Digest,
    done: &AtomicU64,
    watch: &dyn Progress,
) -> Result<()> {
    let size = disk.size();
    let mut buf = vec![0; segment as usize];
    let zero = of(&buf);
    let mut data = 0;
    for (i, digest) in digests.iter_mut().enumerate() {
        let start = (first + i) as u64 * segment;
        let len = segment.min(size - start);
        let part = buf.get_mut(..len as usize).unwrap_or_default();
        if data < start + len {
            data = disk.next_data(start);
        }
        *digest = if data >= start + len && len == segment {
            zero
        } else {
            disk::read(disk, start, part)?;
            of(part)
        };
        let sum = done.fetch_add(len, Ordering::Relaxed) + len;
        progress::step(watch, sum, size)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmholey_cow::progress::Silent;
    use dmholey_cow::MemDisk;

    #[test]
    fn digests_are_those_of_sha256() {
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::of(b"abc").to_string(), text);
        assert_eq!(text.parse(), Ok(Digest::of(b"abc")));
        for bad in [
            "",
            "ab",
            &text[1..],
            &text.replace('b', "+"),
            &text.replace('f', "é"),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn images_are_digested_by_segments() {
        for size in [0, 1, 4096, SEGMENT as usize, 3 * SEGMENT as usize + 5] {
            let bytes: Vec<u8> = (0..size).map(|i| (i / 3 * 7) as u8).collect();
            let mut all = Hasher::default();
            for segment in bytes.chunks(SEGMENT as usize) {
                all.update(&Digest::of(segment).0);
            }
            let digest = image(&MemDisk::new(bytes), &Silent).unwrap();
            assert_eq!(digest, all.finish());
        }
    }

    #[test]
    fn dm_verity_takes_the_root() {
        // What veritysetup 2.6.1 prints (format --salt=-); block n is 4096 bytes n modulo 251.
        let roots = [
            (
                1,
                "ad7facb2586fc6e966c004d7d1d16b024f5805ff7cb47c7a85dabd8b48892ca7",
            ),
            (
                2,
                "dd9c4d99ab2332f88ff3bd4cb99e3db16fea710ecbc8cef4b7e237fc5765401b",
            ),
            (
                128,
                "eade1212c3a6dd9dd817bf456bf067c41cdb483af154c5d0890d32744b7e4f6b",
            ),
            (
                129,
                "f0dbc433d6188c4e8e30ee2de31ee90ab1edf2fd7438d97feab12f75375886ad",
            ),
            (
                16384,
                "ccc30c071fc793fdaed1bad31da7ef407d01a182dd3f6cf9fb299703c057772e",
            ),
            (
                16385,
                "782e251d56bb96c667a59e2bcd44726d659bd335a49621cbfc23c1f2715e725d",
            ),
        ];
        for (blocks, root) in roots {
            let image = (0..blocks).flat_map(|n| [(n % 251) as u8; VERITY_BLOCK as usize]);
            let found = verity(&MemDisk::new(image.collect()), &Silent).unwrap();
            assert_eq!(
                found.map(|root| root.to_string()).as_deref(),
                Some(root),
                "{blocks} blocks"
            );
        }
        for size in [0, 4095, 4097] {
            assert_eq!(verity(&MemDisk::new(vec![1; size]), &Silent).unwrap(), None);
        }
    }
}
