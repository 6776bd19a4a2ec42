// SPDX-License-Identifier: GPL-2.0

//! What a table line asks for.
//!
//! The grammar is that of the stock targets, with two more features:
//!
//! ```text
//! snapshot-origin <origin>
//! snapshot        <origin> <COW device> <store> <chunk sectors> [<#words> <feature>...]
//! snapshot-merge  <origin> <COW device> <store> <chunk sectors> [<#words> <feature>...]
//! holey-copier    <volume> <COW device> P       <chunk sectors> [<#words> <feature>...]
//! holey-writer    <volume> <chunk sectors>                     [<#words> <feature>...]
//!
//! <store>   P (persistent), PO (persistent, a full store stays readable), N (transient)
//! <feature> discard_zeroes_cow | discard_passdown_origin | queue_if_no_space [<seconds>] | summary
//!           of a writer: write_back [<MiB>]
//! ```

use super::format::ChunkSize;
use super::format::FormatError;
use core::fmt;

/// Most words that features take.
const MOST_FEATURE_WORDS: usize = 5;
/// The largest write-back buffer, in MiB.
pub const MOST_WRITE_BACK: u32 = 256;

/// What follows the two devices in a table line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLine {
    /// Where exceptions are kept.
    pub kind: StoreKind,
    /// The chunk size; `None` (written as 0) takes it from the store's header.
    pub chunk: Option<ChunkSize>,
    /// What is asked for beyond that.
    pub features: Features,
}

/// Where exceptions are kept, and what becomes of a store that is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// `P`: on the COW device. A write that finds it full makes the snapshot invalid.
    Persistent,
    /// `PO`: as `P`, but a write to the snapshot that finds it full only ends the writing.
    Overflow,
    /// `N`: in memory; the COW device has data only.
    Transient,
}

impl StoreKind {
    /// As it is written in a table line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Persistent => "P",
            Self::Overflow => "PO",
            Self::Transient => "N",
        }
    }
}

/// What a table line asks for beyond the store; printed as in the line, with a space before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// A discard zeroes the chunks that are in the COW device.
    pub discard_zeroes_cow: bool,
    /// A discard is passed to the origin, too.
    pub discard_passdown_origin: bool,
    /// Those who find the store full wait until it has been extended.
    pub queue_if_no_space: Option<Patience>,
    /// The list has a [summary](super::summary), so that it need not be read when the snapshot is
    /// activated. Means nothing to a merge.
    pub summary: bool,
}

/// How long those who find the store full wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// For as long as it takes.
    Endless,
    /// For so many seconds.
    Seconds(u32),
}

/// Why a table line is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableError {
    /// Fewer words than the grammar needs.
    TooFewWords {
        /// Words there are.
        got: usize,
        /// Words there should be.
        want: usize,
    },
    /// More words than the grammar has.
    TooManyWords {
        /// Words there are.
        got: usize,
        /// Words there should be.
        want: usize,
    },
    /// The store of a copier is not `P`.
    CopierStore,
    /// A copier does not change its volume.
    CopierPassdown,
    /// The number of feature words is no number, too large, or more than there are.
    FeatureCount,
    /// A feature that nobody knows.
    FeatureUnknown,
    /// A writer has another one.
    WriterFeature,
    /// `discard_passdown_origin` without `discard_zeroes_cow`.
    PassdownAlone,
    /// `summary` where there is no list.
    SummaryAlone,
    /// The store is neither P nor N.
    Store,
    /// The letter after P is not O.
    StoreOption,
    /// The chunk size is not a number.
    ChunkNumber,
    /// The chunk size is out of range.
    Chunk(FormatError),
    /// A transient store whose chunk size is left open: there is no header to take it from.
    TransientChunk,
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooFewWords { got, want } => write!(f, "{got} arguments are too few, {want} are needed"),
            Self::TooManyWords { got, want } => write!(f, "{got} arguments are too many, there are {want}"),
            Self::CopierStore => f.write_str("the exception store of a copier must be P, with a chunk size"),
            Self::CopierPassdown => f.write_str("a copier cannot have discard_passdown_origin: the volume is not its own"),
            Self::FeatureCount => write!(
                f,
                "the number of feature words must be from 0 to {MOST_FEATURE_WORDS} and no more than follow it"
            ),
            Self::FeatureUnknown => f.write_str(
                "unknown feature; there are discard_zeroes_cow, discard_passdown_origin, queue_if_no_space [SECONDS] and summary",
            ),
            Self::WriterFeature => write!(
                f,
                "unknown feature; there is write_back [MIB], with a buffer of 1 to {MOST_WRITE_BACK} MiB"
            ),
            Self::SummaryAlone => f.write_str("summary needs store P or PO of a snapshot: only these have a list on the COW device"),
            Self::PassdownAlone => f.write_str("discard_passdown_origin needs discard_zeroes_cow"),
            Self::Store => f.write_str("the exception store must be P or PO (persistent) or N (transient)"),
            Self::StoreOption => f.write_str("the only option of store P is O, as in PO"),
            Self::ChunkNumber => f.write_str("the chunk size must be a number of sectors, or 0 to take it from the COW device"),
            Self::Chunk(error) => error.fmt(f),
            Self::TransientChunk => f.write_str("store N has no header to take the chunk size from: it cannot be 0"),
        }
    }
}

impl TableError {
    /// Whether the line is refused before its devices are opened.
    pub fn comes_before_devices(&self) -> bool {
        matches!(
            self,
            Self::TooFewWords { .. }
                | Self::TooManyWords { .. }
                | Self::FeatureCount
                | Self::FeatureUnknown
                | Self::WriterFeature
                | Self::PassdownAlone
        )
    }
}

impl StoreLine {
    /// Reads words 2 and following of a `snapshot` or `snapshot-merge` line; `words` yields them
    /// all, the devices first.
    pub fn parse<'a>(words: impl Iterator<Item = &'a [u8]> + Clone) -> Result<Self, TableError> {
        let mut rest = words.clone().skip(2);
        let (Some(store), Some(chunk)) = (rest.next(), rest.next()) else {
            return Err(TableError::TooFewWords {
                got: words.count(),
                want: 4,
            });
        };
        let features = Features::parse(rest)?;
        let kind = StoreKind::parse(store)?;
        let chunk = match number(chunk).ok_or(TableError::ChunkNumber)? {
            0 if kind == StoreKind::Transient => return Err(TableError::TransientChunk),
            0 => None,
            sectors => Some(ChunkSize::new(sectors).map_err(TableError::Chunk)?),
        };
        if features.summary && kind == StoreKind::Transient {
            return Err(TableError::SummaryAlone);
        }
        Ok(Self {
            kind,
            chunk,
            features,
        })
    }
}

/// What follows the device in the table line of a shared volume's writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterLine {
    /// In what stability is counted.
    pub chunk: ChunkSize,
    /// Writes are acknowledged before they are on the volume.
    pub write_back: Option<WriteBack>,
}

/// The buffer for writes that were acknowledged; printed as in the line, with a space before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteBack {
    /// Its size in MiB, if the line tells.
    mib: Option<u32>,
}

impl WriteBack {
    /// Its size in MiB.
    pub fn mib(self) -> u32 {
        self.mib.unwrap_or(16)
    }
}

impl fmt::Display for WriteBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mib {
            None => f.write_str(" 1 write_back"),
            Some(mib) => write!(f, " 2 write_back {mib}"),
        }
    }
}

impl WriterLine {
    /// Reads the line; `words` yields them all, the device first.
    pub fn parse<'a>(words: impl Iterator<Item = &'a [u8]> + Clone) -> Result<Self, TableError> {
        let (got, want) = (words.clone().count(), 2);
        let mut rest = words.skip(1);
        let Some(word) = rest.next() else {
            return Err(TableError::TooFewWords { got, want });
        };
        let write_back = Self::features(rest, got)?;
        let sectors = number(word).ok_or(TableError::ChunkNumber)?;
        let chunk = ChunkSize::new(sectors).map_err(TableError::Chunk)?;
        Ok(Self { chunk, write_back })
    }

    fn features<'a>(
        mut rest: impl Iterator<Item = &'a [u8]> + Clone,
        got: usize,
    ) -> Result<Option<WriteBack>, TableError> {
        let Some(count) = rest.next() else {
            return Ok(None);
        };
        let count = number(count).ok_or(TableError::FeatureCount)? as usize;
        let there = rest.clone().count();
        if count > MOST_FEATURE_WORDS || count > there {
            return Err(TableError::FeatureCount);
        }
        if count < there {
            let want = got - (there - count);
            return Err(TableError::TooManyWords { got, want });
        }
        let mut write_back = None;
        let mut words = rest.peekable();
        while let Some(word) = words.next() {
            if !word.eq_ignore_ascii_case(b"write_back") {
                return Err(TableError::WriterFeature);
            }
            let mib = words.next_if(|word| number(word).is_some());
            let mib = mib.and_then(number);
            if mib.is_some_and(|mib| !(1..=MOST_WRITE_BACK).contains(&mib)) {
                return Err(TableError::WriterFeature);
            }
            write_back = Some(WriteBack { mib });
        }
        Ok(write_back)
    }
}

impl StoreLine {
    /// The chunk size, if this can be the line of a copier.
    pub fn copier_chunk(&self) -> Result<ChunkSize, TableError> {
        match (self.kind, self.chunk) {
            _ if self.features.discard_passdown_origin => Err(TableError::CopierPassdown),
            _ if self.features.summary => Err(TableError::SummaryAlone),
            (StoreKind::Persistent, Some(chunk)) => Ok(chunk),
            _ => Err(TableError::CopierStore),
        }
    }
}

impl StoreKind {
    /// What follows the letters that mean something is ignored, as stock does.
    fn parse(word: &[u8]) -> Result<Self, TableError> {
        match (word.first(), word.get(1)) {
            (Some(b'P' | b'p'), None) => Ok(Self::Persistent),
            (Some(b'P' | b'p'), Some(b'O' | b'o')) => Ok(Self::Overflow),
            (Some(b'P' | b'p'), Some(_)) => Err(TableError::StoreOption),
            (Some(b'N' | b'n'), _) => Ok(Self::Transient),
            _ => Err(TableError::Store),
        }
    }
}

impl Features {
    fn parse<'a>(mut rest: impl Iterator<Item = &'a [u8]> + Clone) -> Result<Self, TableError> {
        let mut features = Self::default();
        let Some(count) = rest.next() else {
            return Ok(features);
        };
        let count = number(count).ok_or(TableError::FeatureCount)? as usize;
        if count > MOST_FEATURE_WORDS || rest.clone().take(count).count() < count {
            return Err(TableError::FeatureCount);
        }
        let mut words = rest.take(count).peekable();
        while let Some(word) = words.next() {
            if word.eq_ignore_ascii_case(b"discard_zeroes_cow") {
                features.discard_zeroes_cow = true;
            } else if word.eq_ignore_ascii_case(b"discard_passdown_origin") {
                features.discard_passdown_origin = true;
            } else if word.eq_ignore_ascii_case(b"summary") {
                features.summary = true;
            } else if word.eq_ignore_ascii_case(b"queue_if_no_space") {
                let seconds = words.next_if(|word| number(word).is_some());
                features.queue_if_no_space = Some(match seconds.and_then(number) {
                    Some(seconds) => Patience::Seconds(seconds),
                    None => Patience::Endless,
                });
            } else {
                return Err(TableError::FeatureUnknown);
            }
        }
        if features.discard_passdown_origin && !features.discard_zeroes_cow {
            return Err(TableError::PassdownAlone);
        }
        Ok(features)
    }

    fn words(&self) -> usize {
        usize::from(self.discard_zeroes_cow)
            + usize::from(self.discard_passdown_origin)
            + match self.queue_if_no_space {
                None => 0,
                Some(Patience::Endless) => 1,
                Some(Patience::Seconds(_)) => 2,
            }
            + usize::from(self.summary)
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.words() == 0 {
            return Ok(());
        }
        write!(f, " {}", self.words())?;
        if self.discard_zeroes_cow {
            f.write_str(" discard_zeroes_cow")?;
        }
        if self.discard_passdown_origin {
            f.write_str(" discard_passdown_origin")?;
        }
        match self.queue_if_no_space {
            None => {}
            Some(Patience::Endless) => f.write_str(" queue_if_no_space")?,
            Some(Patience::Seconds(seconds)) => write!(f, " queue_if_no_space {seconds}")?,
        }
        if self.summary {
            f.write_str(" summary")?;
        }
        Ok(())
    }
}

fn number(word: &[u8]) -> Option<u32> {
    core::str::from_utf8(word).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
