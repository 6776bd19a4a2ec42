// SPDX-License-Identifier: GPL-2.0-or-later

//! The index: what becomes of which block, and where the units are that make new content.
//!
//! It is checked to its end before anything in it is used: all numbers are within their limits, no
//! block is written twice, and all sources lie in the old image.

use crate::digest::Digest;
use crate::error::Broken;
use crate::format::blocks;
use crate::format::Header;
use crate::format::BLOCK_LEN;
use crate::format::MAX_GROUP;
use crate::format::MAX_IMAGE;
use crate::format::MAX_OUTPUT;
use crate::format::MAX_PACKED;
use crate::format::MAX_PIECES;
use crate::format::MAX_RUNS;
use crate::format::MAX_SOURCE;
use crate::gzip::Recipe;
use crate::varint;
use crate::varint::Reader;
use serde::Serialize;

/// Blocks that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Run {
    /// The first block.
    pub start: u64,
    /// How many, at least one.
    pub len: u32,
}

impl Run {
    /// The block behind the last one.
    pub fn end(self) -> u64 {
        self.start + u64::from(self.len)
    }

    /// Bytes of the run.
    pub fn bytes(self) -> u64 {
        u64::from(self.len) * BLOCK_LEN
    }
}

/// Adds a block to runs that ascend.
pub fn push_block(runs: &mut Vec<Run>, block: u64) {
    match runs.last_mut() {
        Some(last) if last.end() == block && last.len < u32::MAX => last.len += 1,
        _ => runs.push(Run {
            start: block,
            len: 1,
        }),
    }
}

/// Bytes of some runs.
pub(crate) fn bytes_of(runs: &[Run]) -> u64 {
    runs.iter().map(|run| run.bytes()).sum()
}

/// Blocks that are in the old image, elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Copy {
    /// The first block in the new image.
    pub target: u64,
    /// The first block in the old image.
    pub source: u64,
    /// How many, at least one.
    pub len: u32,
}

/// Copies with a common digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// In the order of the digest.
    pub copies: Vec<Copy>,
    /// Of their content, one behind the other.
    pub digest: Digest,
}

impl Group {
    /// Blocks of all copies.
    pub fn blocks(&self) -> u64 {
        self.copies.iter().map(|copy| u64::from(copy.len)).sum()
    }
}

/// How a unit's bytes become its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// A zstd frame.
    Data,
    /// A zstd frame with the source as its prefix.
    Prefix,
    /// Additions to parts of the source, and new bytes between them.
    Program,
}

/// Blocks of the old image, as a part of a unit's source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Length of the inflated content if they start with a gzip file that is to be inflated.
    pub inflate: Option<u64>,
    /// Where they are.
    pub runs: Vec<Run>,
}

impl Source {
    /// Bytes it adds to the source.
    pub fn bytes(&self) -> u64 {
        self.inflate.unwrap_or_else(|| bytes_of(&self.runs))
    }

    /// Bytes of memory it takes: of a file that is inflated, both forms.
    pub fn room(&self) -> u64 {
        self.inflate.unwrap_or(0) + bytes_of(&self.runs)
    }
}

/// Blocks of the new image, as a part of a unit's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Length of the inflated content, and how it becomes a gzip file again.
    pub gzip: Option<(u64, Recipe)>,
    /// Where they are.
    pub runs: Vec<Run>,
}

impl Output {
    /// Bytes it takes from the output.
    pub fn bytes(&self) -> u64 {
        self.gzip
            .map_or_else(|| bytes_of(&self.runs), |(len, _)| len)
    }

    /// Bytes of memory it takes: of a file that is made again, both forms.
    pub fn room(&self) -> u64 {
        self.gzip.map_or(0, |(len, _)| len) + bytes_of(&self.runs)
    }
}

/// A part of the delta that is fetched, checked and applied by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// How it is encoded.
    pub method: Method,
    /// Where it is in the file.
    pub offset: u64,
    /// Bytes it has there.
    pub packed: u64,
    /// The digest of those bytes.
    pub digest: Digest,
    /// What it is made from.
    pub sources: Vec<Source>,
    /// The digest of what is read there, before anything is inflated. Of nothing without sources.
    pub source: Digest,
    /// What it makes.
    pub outputs: Vec<Output>,
    /// The digest of what is written.
    pub output: Digest,
}

impl Unit {
    /// Bytes of the source.
    pub fn source_bytes(&self) -> u64 {
        self.sources.iter().map(Source::bytes).sum()
    }

    /// Bytes of the output.
    pub fn output_bytes(&self) -> u64 {
        self.outputs.iter().map(Output::bytes).sum()
    }

    /// Blocks it writes.
    pub fn blocks(&self) -> u64 {
        let runs = self.outputs.iter().flat_map(|output| &output.runs);
        runs.map(|run| u64::from(run.len)).sum()
    }
}

/// Everything that becomes of the old image. Blocks that are not named stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// Blocks that become zero, ascending.
    pub zero: Vec<Run>,
    /// Blocks that come from elsewhere in the old image.
    pub groups: Vec<Group>,
    /// What makes all others.
    pub units: Vec<Unit>,
}

impl Index {
    /// Writes it. Offsets of units follow from their lengths.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut at = 0;
        varint::put(&mut out, self.zero.len() as u64);
        for run in &self.zero {
            varint::put(&mut out, run.start.wrapping_sub(at));
            varint::put(&mut out, run.len.into());
            at = run.end();
        }
        let mut places = Places::default();
        varint::put(&mut out, self.groups.len() as u64);
        for group in &self.groups {
            varint::put(&mut out, group.copies.len() as u64);
            for copy in &group.copies {
                places.target.put(&mut out, copy.target, copy.len);
                places.source.put_start(&mut out, copy.source, copy.len);
            }
            out.extend(group.digest.0);
        }
        varint::put(&mut out, self.units.len() as u64);
        for unit in &self.units {
            put_unit(&mut out, unit, &mut places);
        }
        out
    }

    /// Reads and checks it.
    pub fn parse(bytes: &[u8], header: &Header) -> Result<Self, Broken> {
        let mut parser = Parser {
            reader: Reader::new(bytes, "index"),
            old: blocks(header.old_len),
            new: blocks(header.new_len),
            runs: 0,
            pieces: 0,
            offset: header.units_at(),
            places: Places::default(),
        };
        let zero = parser.zero()?;
        let groups = parser.list(MAX_RUNS, "the number of groups", Parser::group)?;
        let units = parser.list(MAX_PIECES, "the number of units", Parser::unit)?;
        parser.reader.end()?;
        let index = Self {
            zero,
            groups,
            units,
        };
        index.no_overlap()?;
        Ok(index)
    }

    /// Bytes of all units in the file.
    pub fn units_len(&self) -> u64 {
        self.units.iter().map(|unit| unit.packed).sum()
    }

    /// All runs that are written, in no order.
    pub fn targets(&self) -> impl Iterator<Item = Run> + '_ {
        let copies = self.groups.iter().flat_map(|group| &group.copies);
        let copied = copies.map(|copy| Run {
            start: copy.target,
            len: copy.len,
        });
        let outputs = self.units.iter().flat_map(|unit| &unit.outputs);
        let made = outputs.flat_map(|output| output.runs.iter().copied());
        self.zero.iter().copied().chain(copied).chain(made)
    }

    fn no_overlap(&self) -> Result<(), Broken> {
        let mut all: Vec<Run> = self.targets().collect();
        all.sort_unstable();
        for (a, b) in all.iter().zip(all.iter().skip(1)) {
            if b.start < a.end() {
                return Err(Broken::Overlap(b.start));
            }
        }
        Ok(())
    }
}

/// Where the last run of a kind ended: the next one is told from there.
#[derive(Clone, Copy, Debug, Default)]
struct Place(u64);

impl Place {
    fn put_start(&mut self, out: &mut Vec<u8>, start: u64, len: u32) {
        varint::put_signed(out, start.wrapping_sub(self.0) as i64);
        self.0 = start + u64::from(len);
    }

    fn put(&mut self, out: &mut Vec<u8>, start: u64, len: u32) {
        self.put_start(out, start, len);
        varint::put(out, len.into());
    }

    fn start(&self, reader: &mut Reader<'_>, what: &'static str) -> Result<u64, Broken> {
        let start = self.0.checked_add_signed(reader.signed()?);
        start.ok_or(Broken::Limit(what))
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Places {
    source: Place,
    target: Place,
}

/// Names of methods and transforms in the file.
const DATA: u8 = 0;
const PREFIX: u8 = 1;
const PROGRAM: u8 = 2;
const PLAIN: u8 = 0;
const INFLATED: u8 = 1;

fn put_unit(out: &mut Vec<u8>, unit: &Unit, places: &mut Places) {
    out.push(match unit.method {
        Method::Data => DATA,
        Method::Prefix => PREFIX,
        Method::Program => PROGRAM,
    });
    varint::put(out, unit.packed);
    out.extend(unit.digest.0);
    out.extend(unit.output.0);
    if unit.method != Method::Data {
        out.extend(unit.source.0);
        varint::put(out, unit.sources.len() as u64);
        for source in &unit.sources {
            match source.inflate {
                None => out.push(PLAIN),
                Some(len) => {
                    out.push(INFLATED);
                    varint::put(out, len);
                }
            }
            put_runs(out, &source.runs, &mut places.source);
        }
    }
    varint::put(out, unit.outputs.len() as u64);
    for output in &unit.outputs {
        match output.gzip {
            None => out.push(PLAIN),
            Some((len, recipe)) => {
                out.push(INFLATED);
                varint::put(out, len);
                out.extend(recipe.encode());
            }
        }
        put_runs(out, &output.runs, &mut places.target);
    }
}

fn put_runs(out: &mut Vec<u8>, runs: &[Run], place: &mut Place) {
    varint::put(out, runs.len() as u64);
    for run in runs {
        place.put(out, run.start, run.len);
    }
}

struct Parser<'a> {
    reader: Reader<'a>,
    /// Blocks of the images.
    old: u64,
    new: u64,
    /// Runs and lists read so far.
    runs: u64,
    pieces: u64,
    /// Where the next unit is.
    offset: u64,
    places: Places,
}

impl Parser<'_> {
    fn list<T>(
        &mut self,
        max: u64,
        what: &'static str,
        item: impl Fn(&mut Self) -> Result<T, Broken>,
    ) -> Result<Vec<T>, Broken> {
        let count = self.count(max, what)?;
        // It grows with what is there, and not with what is announced.
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(item(self)?);
        }
        list.shrink_to_fit();
        Ok(list)
    }

    fn count(&mut self, max: u64, what: &'static str) -> Result<u64, Broken> {
        let count = self.reader.limited(max, what);
        count.map_err(|why| match why {
            Broken::Limit(what) => Broken::TooMany(what),
            why => why,
        })
    }

    /// Counts a run of `len` blocks from `start`, which must lie in an image of `blocks`.
    fn run(&mut self, start: u64, blocks: u64, what: &'static str) -> Result<u32, Broken> {
        self.runs += 1;
        if self.runs > MAX_RUNS {
            return Err(Broken::TooMany("the number of runs"));
        }
        let len = self.reader.positive(u32::MAX.into(), what)?;
        if start.checked_add(len).is_none_or(|end| end > blocks) {
            return Err(Broken::Limit(what));
        }
        u32::try_from(len).map_err(|_| Broken::Limit(what))
    }

    fn source_run(&mut self) -> Result<Run, Broken> {
        const WHAT: &str = "a source";
        let start = self.places.source.start(&mut self.reader, WHAT)?;
        let len = self.run(start, self.old, WHAT)?;
        let run = Run { start, len };
        self.places.source = Place(run.end());
        Ok(run)
    }

    fn target_run(&mut self) -> Result<Run, Broken> {
        const WHAT: &str = "a target";
        let start = self.places.target.start(&mut self.reader, WHAT)?;
        let len = self.run(start, self.new, WHAT)?;
        let run = Run { start, len };
        self.places.target = Place(run.end());
        Ok(run)
    }

    fn zero(&mut self) -> Result<Vec<Run>, Broken> {
        const WHAT: &str = "a run of zeros";
        let (mut at, mut zero) = (0, Vec::new());
        for _ in 0..self.count(MAX_RUNS, WHAT)? {
            let start = at + self.reader.limited(MAX_IMAGE, WHAT)?;
            let len = self.run(start, self.new, WHAT)?;
            let run = Run { start, len };
            at = run.end();
            zero.push(run);
        }
        zero.shrink_to_fit();
        Ok(zero)
    }

    fn group(&mut self) -> Result<Group, Broken> {
        let copies = self.list(MAX_GROUP, "a group of copies", Self::copy)?;
        let group = Group {
            copies,
            digest: Digest(self.reader.array()?),
        };
        if !(1..=MAX_GROUP).contains(&group.blocks()) {
            return Err(Broken::Limit("a group of copies"));
        }
        Ok(group)
    }

    fn copy(&mut self) -> Result<Copy, Broken> {
        let Run { start: target, len } = self.target_run()?;
        let source = self.places.source.start(&mut self.reader, "a source")?;
        let end = source
            .checked_add(len.into())
            .filter(|&end| end <= self.old);
        self.places.source = Place(end.ok_or(Broken::Limit("a source"))?);
        Ok(Copy {
            target,
            source,
            len,
        })
    }

    fn unit(&mut self) -> Result<Unit, Broken> {
        let method = match self.reader.byte()? {
            DATA => Method::Data,
            PREFIX => Method::Prefix,
            PROGRAM => Method::Program,
            other => return Err(Broken::Unknown("method", other.into())),
        };
        let packed = self.reader.positive(MAX_PACKED, "a unit's length")?;
        let digest = Digest(self.reader.array()?);
        let output = Digest(self.reader.array()?);
        let (mut sources, mut source) = (Vec::new(), Digest::of(&[]));
        if method != Method::Data {
            source = Digest(self.reader.array()?);
            sources = self.list(MAX_PIECES, "the number of sources", Self::source)?;
        }
        let outputs = self.list(MAX_PIECES, "the number of outputs", Self::output)?;
        let unit = Unit {
            method,
            offset: self.offset,
            packed,
            digest,
            sources,
            source,
            outputs,
            output,
        };
        self.offset += packed;
        check_sizes(&unit)?;
        Ok(unit)
    }

    fn source(&mut self) -> Result<Source, Broken> {
        self.piece()?;
        let inflate = match self.reader.byte()? {
            PLAIN => None,
            INFLATED => Some(self.reader.limited(MAX_SOURCE, "a source")?),
            other => return Err(Broken::Unknown("transform", other.into())),
        };
        let runs = self.list(MAX_RUNS, "the number of runs", Self::source_run)?;
        Ok(Source { inflate, runs })
    }

    fn output(&mut self) -> Result<Output, Broken> {
        self.piece()?;
        let gzip = match self.reader.byte()? {
            PLAIN => None,
            INFLATED => {
                let len = self.reader.limited(MAX_OUTPUT, "an output")?;
                Some((len, Recipe::parse(self.reader.array()?)?))
            }
            other => return Err(Broken::Unknown("transform", other.into())),
        };
        let runs = self.list(MAX_RUNS, "the number of runs", Self::target_run)?;
        Ok(Output { gzip, runs })
    }

    fn piece(&mut self) -> Result<(), Broken> {
        self.pieces += 1;
        if self.pieces > MAX_PIECES {
            return Err(Broken::TooMany("the number of pieces"));
        }
        Ok(())
    }
}

/// Everything that is in memory for a unit has to fit.
fn check_sizes(unit: &Unit) -> Result<(), Broken> {
    if unit.sources.iter().map(Source::room).sum::<u64>() > MAX_SOURCE {
        return Err(Broken::Limit("a unit's source"));
    }
    let output: u64 = unit.outputs.iter().map(Output::room).sum();
    if unit.blocks() == 0 || output > MAX_OUTPUT {
        return Err(Broken::Limit("a unit's output"));
    }
    Ok(())
}
