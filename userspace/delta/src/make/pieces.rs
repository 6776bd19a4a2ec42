// SPDX-License-Identifier: GPL-2.0-or-later

//! Puts what units have to make in order, and finds what it is likely to be made from.

use super::blocks::Map;
use super::similar::Similar;
use super::units::Class;
use super::units::Covered;
use super::units::Piece;
use super::Options;
use super::Pair;
use crate::error::Result;
use crate::ext4;
use crate::ext4::File;
use crate::format::blocks;
use crate::format::BLOCK;
use crate::format::BLOCK_LEN;
use crate::format::MAX_OUTPUT;
use crate::format::MAX_SOURCE;
use crate::gzip;
use crate::index::bytes_of;
use crate::index::push_block;
use crate::index::Output;
use crate::index::Run;
use crate::index::Source;
use crate::unit::read_blocks;
use crate::unit::read_runs;
use dmholey_cow::Disk;
use std::collections::BTreeMap;
use std::collections::HashMap;

/// Larger compressed files are not inflated: both forms have to fit into a unit.
const MAX_GZIP: u64 = 2 << 20;
/// Blocks that belong to no file are put into pieces of so many.
const LOOSE: u64 = 256;

/// What was found on the way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    /// Files whose old version was found.
    pub(super) paired: usize,
    /// Compressed files that can be made again.
    pub(super) gzip: usize,
}

/// The files of both images.
#[derive(Debug, Default)]
pub(super) struct Files {
    old: Vec<File>,
    new: Vec<File>,
    /// Old files by path, by the name alone, and by the path without digits.
    paths: HashMap<Vec<u8>, usize>,
    names: HashMap<Vec<u8>, usize>,
    stems: HashMap<Vec<u8>, usize>,
    /// Old files by their extents' places.
    places: Vec<(Run, usize)>,
}

impl Files {
    pub(super) fn read<O: Disk, N: Disk>(pair: &Pair<'_, O, N>) -> Self {
        let mut old = ext4::files(pair.old);
        let mut new = ext4::files(pair.new);
        old.sort_by(|a, b| a.path.cmp(&b.path));
        new.sort_by(|a, b| a.path.cmp(&b.path));
        let mut files = Self {
            places: places(&old),
            old,
            new,
            ..Self::default()
        };
        for (n, file) in files.old.iter().enumerate() {
            files.paths.insert(file.path.clone(), n);
            files.names.entry(name(&file.path).to_vec()).or_insert(n);
            files.stems.entry(stem(&file.path)).or_insert(n);
        }
        files
    }

    /// The old version of a new file: that of the same path; the one that most of its blocks are copied
    /// from; one whose path differs in digits only; or one of the same name elsewhere.
    fn old_version(&self, file: &File, map: &Map) -> Option<&File> {
        let same = self.paths.get(&file.path).copied();
        let same = same.filter(|&n| {
            self.old
                .get(n)
                .is_some_and(|old| old.directory == file.directory)
        });
        let found = same
            .or_else(|| self.most_copied(file, map))
            .or_else(|| self.stems.get(&stem(&file.path)).copied())
            .or_else(|| self.names.get(name(&file.path)).copied());
        found
            .and_then(|n| self.old.get(n))
            .filter(|old| !old.extents.is_empty())
    }

    fn most_copied(&self, file: &File, map: &Map) -> Option<usize> {
        let mut votes: BTreeMap<usize, u64> = BTreeMap::new();
        for extent in &file.extents {
            for block in extent.start..extent.start + u64::from(extent.len) {
                let owner = map
                    .source(block)
                    .and_then(|source| owner(&self.places, source));
                if let Some(owner) = owner {
                    *votes.entry(owner).or_default() += 1;
                }
            }
        }
        votes
            .into_iter()
            .max_by_key(|&(n, votes)| (votes, n))
            .map(|(n, _)| n)
    }
}

/// Extents of all files, by their place.
fn places(files: &[File]) -> Vec<(Run, usize)> {
    let mut places: Vec<(Run, usize)> = files
        .iter()
        .enumerate()
        .flat_map(|(n, file)| runs(file).into_iter().map(move |run| (run, n)))
        .collect();
    places.sort_unstable();
    places
}

fn owner(places: &[(Run, usize)], block: u64) -> Option<usize> {
    let behind = places.partition_point(|(run, _)| run.start <= block);
    let &(run, n) = places.get(behind.checked_sub(1)?)?;
    (block < run.end()).then_some(n)
}

fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

/// A path without digits, so that versions do not matter.
fn stem(path: &[u8]) -> Vec<u8> {
    path.iter()
        .copied()
        .filter(|byte| !byte.is_ascii_digit())
        .collect()
}

/// Where a file's blocks are, in their order in the file.
fn runs(file: &File) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for extent in &file.extents {
        match runs.last_mut() {
            Some(last) if last.end() == extent.start => last.len += extent.len,
            _ => runs.push(Run {
                start: extent.start,
                len: extent.len,
            }),
        }
    }
    runs
}

/// All pieces. `map` changes where a unit makes more than it has to.
pub(super) fn pieces<O: Disk, N: Disk>(
    pair: &Pair<'_, O, N>,
    files: &Files,
    map: &mut Map,
    options: Options,
    found: &mut Found,
) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut taken = Covered::default();
    for file in &files.new {
        let mut made = Vec::new();
        for extent in &file.extents {
            for block in extent.start..extent.start + u64::from(extent.len) {
                // In a damaged file system a block may belong to two files.
                let run = Run {
                    start: block,
                    len: 1,
                };
                if map.is_made(block) && !taken.add(run).is_empty() {
                    push_block(&mut made, block);
                }
            }
        }
        if made.is_empty() {
            continue;
        }
        let old = files.old_version(file, map);
        found.paired += usize::from(old.is_some());
        let content = Content { pair, file, old };
        // Making all of a file is right only if no block of it is another's, too.
        let shared = taken.count(&runs(file)) != bytes_of(&made) / BLOCK_LEN;
        let inflated = if options.gzip && !shared {
            content.inflated()?
        } else {
            None
        };
        pieces.push(match inflated {
            Some(piece) => {
                for &run in &piece.output.runs {
                    (run.start..run.end()).for_each(|block| map.set_made(block));
                    taken.add(run);
                }
                found.gzip += 1;
                piece
            }
            None => content.plain(made)?,
        });
    }
    let mut loose = Vec::new();
    for run in map.made() {
        loose.extend(taken.add(run));
    }
    pieces.extend(loose_pieces(pair, &loose)?);
    Ok(pieces)
}

/// A file and its old version.
struct Content<'a, O, N> {
    pair: &'a Pair<'a, O, N>,
    file: &'a File,
    old: Option<&'a File>,
}

impl<O: Disk, N: Disk> Content<'_, O, N> {
    /// The piece that makes all of a compressed file, if that can be done.
    fn inflated(&self) -> Result<Option<Piece>> {
        let runs = runs(self.file);
        let whole = blocks(self.file.len) == self.file.blocks();
        let len = bytes_of(&runs);
        if self.file.directory || !whole || len > MAX_GZIP || !self.starts_as_gzip(&runs)? {
            return Ok(None);
        }
        let mut packed = Vec::new();
        read_runs(self.pair.new, &runs, &mut packed)?;
        let Some((inflated, recipe)) = gzip::recipe(&packed, MAX_GZIP as usize) else {
            return Ok(None);
        };
        let output = Output {
            gzip: Some((inflated.len() as u64, recipe)),
            runs,
        };
        if output.room() > MAX_OUTPUT {
            return Ok(None);
        }
        Ok(Some(Piece {
            class: Class::Inflated,
            output,
            sources: self.inflated_source()?.into_iter().collect(),
        }))
    }

    fn starts_as_gzip(&self, runs: &[Run]) -> Result<bool> {
        Ok(gzip::is_start(&first_block(self.pair.new, runs)?))
    }

    fn inflated_source(&self) -> Result<Option<Source>> {
        let Some(old) = self.old else {
            return Ok(None);
        };
        let plain = Source {
            inflate: None,
            runs: runs(old),
        };
        if bytes_of(&plain.runs) > MAX_GZIP {
            return Ok(None);
        }
        let mut packed = Vec::new();
        read_runs(self.pair.old, &plain.runs, &mut packed)?;
        let inflated = gzip::inflate_all(&packed, MAX_GZIP as usize);
        let source = Source {
            inflate: inflated.map(|inflated| inflated.len() as u64),
            ..plain
        };
        Ok(Some(source).filter(|source| source.room() <= MAX_SOURCE))
    }

    /// The piece that makes the blocks that have changed.
    fn plain(&self, made: Vec<Run>) -> Result<Piece> {
        let class = self.class()?;
        let sources = self.old.map(|old| Source {
            inflate: None,
            runs: runs(old),
        });
        Ok(Piece {
            class,
            output: Output {
                gzip: None,
                runs: made,
            },
            sources: sources.into_iter().collect(),
        })
    }

    fn class(&self) -> Result<Class> {
        if self.file.directory {
            return Ok(Class::Metadata);
        }
        let block = first_block(self.pair.new, &runs(self.file))?;
        Ok(if block.starts_with(b"\x7fELF") {
            Class::Program
        } else if self.file.path.ends_with(b".pyc") {
            Class::Python
        } else {
            Class::Other
        })
    }
}

fn first_block<D: Disk>(disk: &D, runs: &[Run]) -> Result<Vec<u8>> {
    let mut block = vec![0; BLOCK];
    if let Some(run) = runs.first() {
        read_blocks(disk, run.start, &mut block)?;
    }
    Ok(block)
}

/// Pieces of what belongs to no file: made from what was in their place, and from what is like it.
fn loose_pieces<O: Disk, N: Disk>(pair: &Pair<'_, O, N>, loose: &[Run]) -> Result<Vec<Piece>> {
    let similar = Similar::new(pair, loose)?;
    let old_blocks = blocks(pair.old.size());
    let mut pieces = Vec::new();
    let mut rest = loose.to_vec();
    while !rest.is_empty() {
        let runs = super::units::slice(&rest, 0, LOOSE);
        rest = super::units::slice(&rest, LOOSE, u64::MAX);
        let mut seen = Covered::default();
        let mut sources = Vec::new();
        for &run in &runs {
            let end = run.end().min(old_blocks);
            if run.start < end {
                let len = (end - run.start) as u32;
                sources.extend(seen.add(Run { len, ..run }));
            }
        }
        for run in similar.sources(&runs)? {
            sources.extend(seen.add(run));
        }
        pieces.push(Piece {
            class: Class::Metadata,
            output: Output { gzip: None, runs },
            sources: if sources.is_empty() {
                vec![]
            } else {
                vec![Source {
                    inflate: None,
                    runs: sources,
                }]
            },
        });
    }
    Ok(pieces)
}
