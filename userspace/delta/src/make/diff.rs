// SPDX-License-Identifier: GPL-2.0-or-later

//! Finds a program that makes an output from a source: exact matches by a sorted list of all suffixes,
//! which then grow in both directions while at least half of their bytes are the same.
//!
//! That is the way of Colin Percival's bsdiff. What is added here: stretches that go on where the last
//! match is are skipped without a search, which saves most of the time.

use crate::program::Program;
use std::cmp::Ordering;

/// Bytes that are compared to order suffixes; longer matches grow to their full length anyway.
const MAX_COMPARED: usize = 1 << 14;
/// A stretch of this length that goes on as before needs no search.
const SKIP: usize = 48;
/// A match is another one only if it has so many bytes more right than the last one, gone on.
const BETTER: usize = 8;

/// All suffixes of a source, in order.
struct Suffixes<'a> {
    source: &'a [u8],
    sorted: Vec<i32>,
}

impl<'a> Suffixes<'a> {
    fn new(source: &'a [u8]) -> Self {
        let mut sorted = vec![0; source.len()];
        divsufsort::sort_in_place(source, &mut sorted);
        Self { source, sorted }
    }

    fn suffix(&self, n: usize) -> (usize, &'a [u8]) {
        let at = self.sorted.get(n).map_or(0, |&at| at as usize);
        (at, self.source.get(at..).unwrap_or_default())
    }

    /// Where the longest start of `wanted` is, and its length.
    fn search(&self, wanted: &[u8]) -> (usize, usize) {
        let wanted = wanted.get(..MAX_COMPARED).unwrap_or(wanted);
        let (mut low, mut high) = (0, self.sorted.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let (_, suffix) = self.suffix(middle);
            let suffix = suffix.get(..wanted.len()).unwrap_or(suffix);
            match suffix.cmp(wanted) {
                Ordering::Less => low = middle + 1,
                _ => high = middle,
            }
        }
        // The longest match is a neighbour of where it would be.
        let mut best = (0, 0);
        for n in [Some(low), low.checked_sub(1)].into_iter().flatten() {
            let (at, suffix) = self.suffix(n);
            let len = common(suffix, wanted);
            if len > best.1 {
                best = (at, len);
            }
        }
        best
    }
}

/// Length of the common start.
fn common(a: &[u8], b: &[u8]) -> usize {
    let len = a.len().min(b.len());
    let words = a.chunks_exact(16).zip(b.chunks_exact(16));
    let same = words.take_while(|(a, b)| a == b).count() * 16;
    let rest = a.iter().zip(b).skip(same).take(len - same);
    same + rest.take_while(|(a, b)| a == b).count()
}

/// A program that makes `output` from `source`.
pub(super) fn program(source: &[u8], output: &[u8]) -> Program {
    let mut search = Search {
        suffixes: Suffixes::new(source),
        source,
        output,
        program: Program::default(),
        done: 0,
        at: 0,
    };
    search.run();
    search.program
}

struct Search<'a> {
    suffixes: Suffixes<'a>,
    source: &'a [u8],
    output: &'a [u8],
    program: Program,
    /// The output is written up to here.
    done: usize,
    /// What follows there goes on from here in the source.
    at: usize,
}

impl Search<'_> {
    fn run(&mut self) {
        let mut scan = 0;
        while scan < self.output.len() {
            let (found, place) = self.next_match(scan);
            self.emit(found, place);
            scan = found;
        }
        if self.done < self.output.len() {
            self.emit(self.output.len(), self.at);
        }
    }

    /// Whether a byte of the output is the one that the last match, gone on, has there.
    fn goes_on(&self, scan: usize) -> bool {
        let place = (self.at + scan).checked_sub(self.done);
        let old = place.and_then(|place| self.source.get(place));
        old.is_some() && old == self.output.get(scan)
    }

    /// Bytes from `scan` on that the last match, gone on, has right without a gap.
    fn run_on(&self, scan: usize) -> usize {
        let place = (self.at + scan).checked_sub(self.done);
        let old = place.and_then(|place| self.source.get(place..));
        let new = self.output.get(scan..).unwrap_or_default();
        common(old.unwrap_or_default(), new)
    }

    /// The next match behind `scan` that is worth a jump: where in the output, and where in the source.
    fn next_match(&self, mut scan: usize) -> (usize, usize) {
        // Bytes from scan to counted that the last match, gone on, has right.
        let (mut right, mut counted) = (0, scan);
        while scan < self.output.len() {
            let run = self.run_on(scan);
            if run >= SKIP {
                scan += run;
                (right, counted) = (0, scan);
                continue;
            }
            let wanted = self.output.get(scan..).unwrap_or_default();
            let (place, len) = self.suffixes.search(wanted);
            while counted < scan + len {
                right += usize::from(self.goes_on(counted));
                counted += 1;
            }
            if len > right + BETTER {
                return (scan, place);
            }
            if len == right && len > 0 {
                scan += len;
                (right, counted) = (0, scan);
                continue;
            }
            right -= usize::from(counted > scan && self.goes_on(scan));
            scan += 1;
            counted = counted.max(scan);
        }
        (self.output.len(), self.at)
    }

    /// Writes everything up to a match at `scan`, which is at `place` in the source.
    fn emit(&mut self, scan: usize, place: usize) {
        let old = self.source.get(self.at..).unwrap_or_default();
        let new = self.output.get(self.done..scan).unwrap_or_default();
        let mut forward = grow(old.iter().zip(new));
        let mut backward = 0;
        if scan < self.output.len() {
            let old = self.source.get(..place).unwrap_or_default();
            backward = grow(old.iter().rev().zip(new.iter().rev()));
        }
        if forward + backward > new.len() {
            let both = forward + backward - new.len();
            let kept = self.split(scan, place, forward, backward, both);
            forward -= both - kept;
            backward -= kept;
        }
        let add: Vec<u8> = new
            .iter()
            .zip(old)
            .take(forward)
            .map(|(new, old)| new.wrapping_sub(*old))
            .collect();
        let put = new.get(forward..new.len() - backward).unwrap_or_default();
        let next = place - backward;
        let seek = next as i64 - (self.at + forward) as i64;
        self.program.push(&add, put, seek);
        self.done = scan - backward;
        self.at = next;
    }

    /// Of `both` bytes that two matches cover, how many the first one keeps so that most are right.
    fn split(
        &self,
        scan: usize,
        place: usize,
        forward: usize,
        backward: usize,
        both: usize,
    ) -> usize {
        let from = self.done + forward - both;
        let first = self.source.get(self.at + forward - both..);
        let second = self.source.get(place - backward..);
        debug_assert_eq!(from, scan - backward);
        let new = self.output.get(from..from + both).unwrap_or_default();
        let (mut score, mut best, mut kept) = (0i64, 0, 0);
        let olds = first
            .into_iter()
            .flatten()
            .zip(second.into_iter().flatten());
        for (n, (new, (first, second))) in new.iter().zip(olds).enumerate() {
            score += i64::from(new == first) - i64::from(new == second);
            if score > best {
                (best, kept) = (score, n + 1);
            }
        }
        kept
    }
}

/// How far a match grows: to where twice the bytes that are right less all bytes is the largest.
fn grow<'a>(pairs: impl Iterator<Item = (&'a u8, &'a u8)>) -> usize {
    let (mut score, mut best, mut len) = (0i64, 0, 0);
    for (n, (old, new)) in pairs.enumerate() {
        score += if old == new { 1 } else { -1 };
        if score > best {
            (best, len) = (score, n + 1);
        }
    }
    len
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(source: &[u8], output: &[u8]) -> Program {
        let program = program(source, output);
        assert!(program.run(source).unwrap() == output);
        program
    }

    #[test]
    fn what_has_moved_is_found() {
        let source: Vec<u8> = (0..20_000u32).map(|i| ((i * i) >> 5) as u8).collect();
        let mut output = source[9000..].to_vec();
        output.extend_from_slice(&source[..9000]);
        (0..output.len())
            .step_by(100)
            .for_each(|i| output[i] = output[i].wrapping_add(3));
        output.splice(500..500, *b"something new");
        let program = check(&source, &output);
        assert!(program.put_len() < 200, "{}", program.put_len());
    }

    #[test]
    fn edges_are_kept() {
        for (source, output) in [
            (&b""[..], &b""[..]),
            (b"", b"abc"),
            (b"abc", b""),
            (b"a", b"a"),
            (b"abcabcabc", b"bcabca"),
            (&[0; 5000], &[0; 9000]),
        ] {
            check(source, output);
        }
    }

    proptest! {
        #[test]
        fn programs_make_the_output(
            source in prop::collection::vec(0u8..3, 0..600),
            edits in prop::collection::vec((any::<u16>(), 0usize..90, any::<u8>()), 0..12),
        ) {
            let mut output = source.clone();
            for (at, len, byte) in edits {
                let at = usize::from(at) % (output.len() + 1);
                let end = (at + len).min(output.len());
                match byte % 4 {
                    0 => { output.drain(at..end); }
                    1 => { output.splice(at..at, std::iter::repeat_n(byte, len)); }
                    2 => output[at..end].iter_mut().for_each(|b| *b ^= byte),
                    _ => { let part = output[at..end].to_vec(); output.extend(part); }
                }
            }
            check(&source, &output);
        }
    }
}
