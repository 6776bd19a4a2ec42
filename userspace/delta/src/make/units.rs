// SPDX-License-Identifier: GPL-2.0-or-later

//! Puts pieces together to units.

use crate::format::BLOCK_LEN;
use crate::format::MAX_OUTPUT;
use crate::format::MAX_SOURCE;
use crate::index::bytes_of;
use crate::index::push_block;
use crate::index::Output;
use crate::index::Run;
use crate::index::Source;
use std::collections::BTreeSet;

/// An incompressible output would not fit into the bytes that a unit may have, so that units of new
/// content are smaller.
const MAX_NEW: u64 = 3 << 20;

/// Kinds of content: what is alike compresses well together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// Not in a file, or a directory.
    Metadata,
    /// Anything else.
    Other,
    /// Inflated content.
    Inflated,
    /// Compiled Python.
    Python,
    /// Machine programs.
    Program,
}

/// Blocks of a file, and what they are likely to be made from.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) class: Class,
    pub(super) output: Output,
    pub(super) sources: Vec<Source>,
}

/// A unit before it is encoded.
#[derive(Clone, Debug, Default)]
pub(super) struct Draft {
    pub(super) outputs: Vec<Output>,
    pub(super) sources: Vec<Source>,
}

impl Draft {
    /// Cuts it in two, if it can be cut. Both have all of the source.
    pub(super) fn halves(&self) -> Option<(Self, Self)> {
        let with = |outputs: Vec<Output>| Self {
            outputs,
            sources: self.sources.clone(),
        };
        if let [output] = self.outputs.as_slice() {
            let blocks = bytes_of(&output.runs) / BLOCK_LEN;
            if output.gzip.is_some() || blocks < 2 {
                return None;
            }
            let part = |skip, len| {
                with(vec![Output {
                    gzip: None,
                    runs: slice(&output.runs, skip, len),
                }])
            };
            return Some((part(0, blocks / 2), part(blocks / 2, blocks)));
        }
        let (first, second) = self.outputs.split_at(self.outputs.len() / 2);
        Some((with(first.to_vec()), with(second.to_vec())))
    }
}

/// Puts pieces of a class together, in their order, as many as the limits allow.
pub(super) fn group(pieces: Vec<Piece>) -> Vec<Draft> {
    let mut pieces: Vec<Piece> = pieces.into_iter().flat_map(cut).collect();
    pieces.sort_by_key(|piece| (piece.class, piece.sources.is_empty()));
    let mut drafts = Vec::new();
    let mut open = Open::default();
    for piece in pieces {
        if !open.takes(&piece) {
            drafts.extend(std::mem::take(&mut open).close());
        }
        open.add(piece);
    }
    drafts.extend(open.close());
    drafts
}

/// The unit that is being filled.
#[derive(Default)]
struct Open {
    draft: Draft,
    class: Option<(Class, bool)>,
    output: u64,
    source: u64,
    /// Sources that are there already.
    seen: BTreeSet<(Option<u64>, Vec<Run>)>,
}

impl Open {
    fn takes(&self, piece: &Piece) -> bool {
        let new = piece.sources.is_empty();
        if self.class.is_some_and(|class| class != (piece.class, new)) {
            return false;
        }
        let max = if new { MAX_NEW } else { MAX_OUTPUT };
        let source: u64 = self.missing(piece).map(Source::room).sum();
        self.output + piece.output.room() <= max && self.source + source <= MAX_SOURCE
    }

    fn missing<'a>(&'a self, piece: &'a Piece) -> impl Iterator<Item = &'a Source> + 'a {
        let sources = piece.sources.iter();
        sources.filter(|source| !self.seen.contains(&(source.inflate, source.runs.clone())))
    }

    fn add(&mut self, piece: Piece) {
        self.class = Some((piece.class, piece.sources.is_empty()));
        self.output += piece.output.room();
        for source in piece.sources {
            if self.seen.insert((source.inflate, source.runs.clone())) {
                self.source += source.room();
                self.draft.sources.push(source);
            }
        }
        // Plain outputs that follow each other are one.
        match self.draft.outputs.last_mut() {
            Some(last) if last.gzip.is_none() && piece.output.gzip.is_none() => {
                last.runs.extend(piece.output.runs);
            }
            _ => self.draft.outputs.push(piece.output),
        }
    }

    fn close(mut self) -> Option<Draft> {
        join_sources(&mut self.draft.sources);
        (!self.draft.outputs.is_empty()).then_some(self.draft)
    }
}

/// Plain sources that follow each other are one, and what is in two of them is there once.
fn join_sources(sources: &mut Vec<Source>) {
    let mut joined: Vec<Source> = Vec::new();
    let mut seen = Covered::default();
    for mut source in std::mem::take(sources) {
        if source.inflate.is_none() {
            source.runs = source
                .runs
                .into_iter()
                .flat_map(|run| seen.add(run))
                .collect();
            if source.runs.is_empty() {
                continue;
            }
        }
        match joined.last_mut() {
            Some(last) if last.inflate.is_none() && source.inflate.is_none() => {
                for run in source.runs {
                    match last.runs.last_mut() {
                        Some(end) if end.end() == run.start => end.len += run.len,
                        _ => last.runs.push(run),
                    }
                }
            }
            _ => joined.push(source),
        }
    }
    *sources = joined;
}

/// Blocks that are there already.
#[derive(Debug, Default)]
pub(super) struct Covered(BTreeSet<u64>);

impl Covered {
    /// Adds a run. Returns what of it is new.
    pub(super) fn add(&mut self, run: Run) -> Vec<Run> {
        let mut new = Vec::new();
        for block in run.start..run.end() {
            if self.0.insert(block) {
                push_block(&mut new, block);
            }
        }
        new
    }

    /// How many blocks of `runs` are there.
    pub(super) fn count(&self, runs: &[Run]) -> u64 {
        let blocks = runs.iter().flat_map(|run| run.start..run.end());
        blocks.filter(|block| self.0.contains(block)).count() as u64
    }
}

/// Cuts a piece that is too large into some that are not. Each gets the part of the source that lies
/// where it lies, if not all of it fits.
fn cut(piece: Piece) -> Vec<Piece> {
    let source: u64 = piece.sources.iter().map(Source::room).sum();
    let max = if piece.sources.is_empty() {
        MAX_NEW
    } else {
        MAX_OUTPUT
    };
    if (piece.output.room() <= max && source <= MAX_SOURCE) || piece.output.gzip.is_some() {
        return vec![piece];
    }
    let total = bytes_of(&piece.output.runs) / BLOCK_LEN;
    // All parts have about one size.
    let limit = if source > MAX_SOURCE { max / 2 } else { max };
    let parts = piece.output.room().div_ceil(limit).max(1);
    let each = total.div_ceil(parts).max(1);
    let old: Vec<Run> = piece
        .sources
        .iter()
        .flat_map(|source| source.runs.iter().copied())
        .collect();
    let old_total = bytes_of(&old) / BLOCK_LEN;
    let window = MAX_SOURCE / BLOCK_LEN;
    let mut out = Vec::new();
    let mut at = 0;
    while at < total {
        let len = each.min(total - at);
        let middle =
            ((2 * at + len) as u128 * u128::from(old_total) / (2 * u128::from(total))) as u64;
        let from = middle
            .saturating_sub(window / 2)
            .min(old_total.saturating_sub(window));
        let runs = slice(&old, from, window.min(old_total));
        let source = Source {
            inflate: None,
            runs,
        };
        out.push(Piece {
            class: piece.class,
            output: Output {
                gzip: None,
                runs: slice(&piece.output.runs, at, len),
            },
            sources: if source.runs.is_empty() {
                vec![]
            } else {
                vec![source]
            },
        });
        at += len;
    }
    out
}

/// `len` blocks of `runs`, from the one at `skip` on.
pub(super) fn slice(runs: &[Run], mut skip: u64, mut len: u64) -> Vec<Run> {
    let mut out = Vec::new();
    for &run in runs {
        let there = u64::from(run.len);
        if skip >= there {
            skip -= there;
            continue;
        }
        let taken = (there - skip).min(len);
        if taken > 0 {
            out.push(Run {
                start: run.start + skip,
                len: taken as u32,
            });
        }
        skip = 0;
        len -= taken;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64, len: u32) -> Run {
        Run { start, len }
    }

    fn piece(start: u64, len: u32, source: Option<Run>) -> Piece {
        Piece {
            class: Class::Other,
            output: Output {
                gzip: None,
                runs: vec![run(start, len)],
            },
            sources: source
                .map(|run| Source {
                    inflate: None,
                    runs: vec![run],
                })
                .into_iter()
                .collect(),
        }
    }

    #[test]
    fn units_are_within_the_limits() {
        let mut pieces: Vec<Piece> = (0..500)
            .map(|n| piece(n * 10, 7, Some(run(n * 9, 12))))
            .collect();
        pieces.push(piece(10_000, 5000, Some(run(20_000, 4500))));
        pieces.push(piece(30_000, 2000, None));
        let blocks: u64 = pieces.iter().map(|p| bytes_of(&p.output.runs)).sum();
        let drafts = group(pieces);
        let mut written = 0;
        for draft in &drafts {
            let output: u64 = draft.outputs.iter().map(Output::room).sum();
            let source: u64 = draft.sources.iter().map(Source::room).sum();
            assert!(output <= MAX_OUTPUT && source <= MAX_SOURCE);
            written += output;
        }
        assert_eq!(written, blocks);
    }

    #[test]
    fn sources_are_there_once() {
        let drafts = group(vec![
            piece(0, 1, Some(run(100, 10))),
            piece(5, 1, Some(run(105, 10))),
            piece(7, 1, Some(run(100, 10))),
        ]);
        assert_eq!(drafts.len(), 1);
        assert_eq!(drafts[0].sources.len(), 1);
        assert_eq!(drafts[0].sources[0].runs, [run(100, 15)]);
    }

    #[test]
    fn runs_are_sliced() {
        let runs = [run(10, 5), run(20, 5)];
        assert_eq!(slice(&runs, 0, 10), runs);
        assert_eq!(slice(&runs, 3, 4), [run(13, 2), run(20, 2)]);
        assert_eq!(slice(&runs, 5, 2), [run(20, 2)]);
        assert_eq!(slice(&runs, 10, 2), []);
    }
}
