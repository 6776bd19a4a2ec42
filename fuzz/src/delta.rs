// SPDX-License-Identifier: GPL-2.0-or-later

//! A delta: its index as it stands, and what applies it.

use crate::input::Input;
use dmholey_cow::progress::Silent;
use dmholey_cow::Disk;
use dmholey_cow::MemDisk;
use dmholey_delta::apply;
use dmholey_delta::apply::Target;
use dmholey_delta::digest::Digest;
use dmholey_delta::digest::Hasher;
use dmholey_delta::format::Header;
use dmholey_delta::format::BLOCK;
use dmholey_delta::format::HEADER_LEN;
use dmholey_delta::format::MAX_OUTPUT;
use dmholey_delta::format::MAX_SOURCE;
use dmholey_delta::index::Index;
use dmholey_delta::index::Run;
use dmholey_delta::Delta;
use dmholey_delta::Plan;
use dmholey_delta::Result;
use std::sync::Mutex;

/// Bytes of the largest image: it is really there.
const MAX_IMAGE: u64 = 40 * BLOCK as u64;

/// Takes bytes as an index. What is accepted is within its limits, has no block twice, and is written
/// again as it was. It is applied, with digests that are right as far as that can be; units are odd
/// bytes, so that none of them may come to the target.
pub fn delta(data: &[u8]) {
    if let Ok(header) = Header::parse(data) {
        // All of it is in its identity.
        assert!(data.starts_with(&header.encode()));
    }
    let mut input = Input::new(data);
    let (old_len, new_len) = (input.short() * 3 % MAX_IMAGE, input.short() * 3 % MAX_IMAGE);
    let header = Header {
        old_len,
        new_len,
        index_packed: 0,
        index_len: 0,
        file_len: HEADER_LEN as u64,
        old: Digest([0; 32]),
        new: Digest([0; 32]),
        index: Digest([0; 32]),
    };
    let bytes = input.rest();
    let Ok(index) = Index::parse(bytes, &header) else {
        return;
    };
    assert_eq!(index.encode(), bytes);
    judge(&index, &header);
    apply_it(index, header, data);
}

fn judge(index: &Index, header: &Header) {
    let mut written = vec![false; header.new_len.div_ceil(BLOCK as u64) as usize];
    for run in index.targets() {
        for block in &mut written[run.start as usize..run.end() as usize] {
            assert!(!std::mem::replace(block, true), "{run:?}");
        }
    }
    for unit in &index.units {
        assert!(unit.output_bytes() <= MAX_OUTPUT && unit.source_bytes() <= MAX_SOURCE);
        for run in unit.sources.iter().flat_map(|source| &source.runs) {
            assert!(run.end() <= header.old_len.div_ceil(BLOCK as u64));
        }
    }
}

/// Blocks that have come.
#[derive(Default)]
struct Taken(Mutex<Vec<(u64, Vec<u8>)>>);

impl Target for Taken {
    fn put(&self, start: u64, bytes: &[u8]) -> Result<()> {
        self.0.lock().unwrap().push((start, bytes.to_vec()));
        Ok(())
    }
}

fn apply_it(mut index: Index, mut header: Header, data: &[u8]) {
    let old: Vec<u8> = (0..header.old_len).map(|at| (at / 7 * 31) as u8).collect();
    let old = MemDisk::new(old);
    for group in &mut index.groups {
        let sources = group.copies.iter().map(|copy| Run {
            start: copy.source,
            len: copy.len,
        });
        group.digest = digest(&old, sources);
    }
    let packed = |at: u64, len: u64| -> Vec<u8> {
        let bytes = data.iter().copied().cycle().skip((at % 251) as usize);
        bytes.take(len as usize).collect()
    };
    let mut file = vec![0; HEADER_LEN];
    for unit in &mut index.units {
        // Large ones have nothing more to tell.
        if unit.packed > 1 << 16 {
            return;
        }
        let bytes = packed(unit.offset, unit.packed);
        unit.digest = Digest::of(&bytes);
        unit.source = digest(
            &old,
            unit.sources
                .iter()
                .flat_map(|source| source.runs.iter().copied()),
        );
        file.extend(bytes);
    }
    header.file_len = file.len() as u64;
    let copies: Vec<_> = index
        .groups
        .iter()
        .flat_map(|group| group.copies.clone())
        .collect();
    let zero = index.zero.clone();
    let units = index.units.len();
    let delta = Delta::new(MemDisk::new(file), Plan { header, index });
    let target = Taken::default();
    let result = apply::changes(&delta, &old, &target, &Silent);
    // An output of a known digest from odd bytes would be a wonder.
    assert_eq!(result.is_err(), units > 0, "{result:?}");
    for (start, bytes) in target.0.into_inner().unwrap() {
        let cleared = zero
            .iter()
            .any(|run| (run.start..run.end()).contains(&start));
        let copied = copies.iter().find(|copy| copy.target == start);
        assert!(cleared || copied.is_some(), "block {start}");
        assert!(!cleared || bytes.iter().all(|&byte| byte == 0));
        if let Some(copy) = copied {
            let run = Run {
                start: copy.source,
                len: copy.len,
            };
            assert_eq!(digest(&old, [run]), Digest::of(&bytes));
        }
    }
}

/// The digest of what is in `runs`, with zeros behind the end.
fn digest(old: &MemDisk, runs: impl IntoIterator<Item = Run>) -> Digest {
    let bytes = old.to_bytes();
    let mut hasher = Hasher::default();
    for run in runs {
        let from = (run.start as usize * BLOCK).min(bytes.len());
        let to = (run.end() as usize * BLOCK).min(bytes.len());
        hasher.update(&bytes[from..to]);
        hasher.update(&vec![0; run.len as usize * BLOCK - (to - from)]);
    }
    assert!(old.size() as usize == bytes.len());
    hasher.finish()
}
