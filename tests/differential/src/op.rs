// SPDX-License-Identifier: GPL-2.0-or-later

//! What can be done to the devices, as data and as a line of text.

use crate::action::Part;
use std::fmt;
use std::str::FromStr;

/// COW volumes, and so snapshots at a time.
pub(crate) const COWS: usize = 3;

/// A device that does I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dev {
    /// The origin's.
    Origin,
    /// The snapshot on this COW volume.
    Snapshot(usize),
    /// The merge.
    Merge,
}

impl fmt::Display for Dev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Origin => f.write_str("origin"),
            Self::Snapshot(n) => write!(f, "snapshot{n}"),
            Self::Merge => f.write_str("merge"),
        }
    }
}

impl FromStr for Dev {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "origin" => Ok(Self::Origin),
            "merge" => Ok(Self::Merge),
            _ => match word.strip_prefix("snapshot") {
                Some(number) => Ok(Self::Snapshot(cow_number(number)?)),
                None => Err(format!("'{word}' is no device")),
            },
        }
    }
}

/// Reads the number of a COW volume.
pub(crate) fn cow_number(word: &str) -> Result<usize, String> {
    let number: usize = parse(word)?;
    if number < COWS {
        Ok(number)
    } else {
        Err(format!("there are {COWS} COW volumes, from 0 on"))
    }
}

fn parse<T: FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("'{word}' is no number"))
}

/// How exceptions are kept, and what else a table line of a snapshot says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoreWords {
    pub(crate) kind: Kind,
    /// In sectors; 0 takes it from the store.
    pub(crate) chunk: u64,
    pub(crate) zeroes: bool,
    pub(crate) passdown: bool,
}

impl StoreWords {
    pub(crate) fn new(kind: Kind, chunk: u64) -> Self {
        Self {
            kind,
            chunk,
            zeroes: false,
            passdown: false,
        }
    }

    /// The features, as they stand in a table line behind the chunk size.
    pub(crate) fn features(&self) -> String {
        let words = [
            (self.zeroes, "discard_zeroes_cow"),
            (self.passdown, "discard_passdown_origin"),
        ];
        let words: Vec<&str> = words.iter().filter(|w| w.0).map(|w| w.1).collect();
        if words.is_empty() {
            return String::new();
        }
        format!(" {} {}", words.len(), words.join(" "))
    }

    fn parse(words: &[&str]) -> Result<Self, String> {
        let [kind, chunk, features @ ..] = words else {
            return Err("a store and a chunk size are missing".to_owned());
        };
        let mut store = Self::new(kind.parse()?, parse(chunk)?);
        for word in features.iter().skip(1) {
            match *word {
                "discard_zeroes_cow" => store.zeroes = true,
                "discard_passdown_origin" => store.passdown = true,
                _ => return Err(format!("'{word}' is no feature")),
            }
        }
        Ok(store)
    }
}

impl fmt::Display for StoreWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.kind, self.chunk, self.features())
    }
}

/// The store word of a table line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    P,
    PO,
    N,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "P" => Ok(Self::P),
            "PO" => Ok(Self::PO),
            "N" => Ok(Self::N),
            _ => Err(format!("'{word}' is none of P, PO and N")),
        }
    }
}

/// Sectors of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) dev: Dev,
    pub(crate) sector: u64,
    pub(crate) count: u64,
}

impl Span {
    pub(crate) fn end(self) -> u64 {
        self.sector.saturating_add(self.count)
    }

    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.dev == other.dev && self.sector < other.end() && other.sector < self.end()
    }

    fn parse(words: &[&str]) -> Result<Self, String> {
        let [dev, sector, count] = words else {
            return Err("device, sector and number of sectors are needed".to_owned());
        };
        let span = Self {
            dev: dev.parse()?,
            sector: parse(sector)?,
            count: parse(count)?,
        };
        match span.count {
            0 => Err("the number of sectors is 0".to_owned()),
            _ => Ok(span),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.dev, self.sector, self.count)
    }
}

/// One step of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Makes the origin's device, or makes it an origin again after a merge on it.
    CreateOrigin,
    /// Makes a snapshot, with the origin suspended for the moment.
    CreateSnapshot(usize, StoreWords),
    /// Makes a merge device, in place of the origin's and the snapshot's if there are any.
    CreateMerge(usize),
    /// Turns a live snapshot into a merge, on the origin's device if there is one.
    HandOver(usize),
    Remove(Dev),
    /// Loads the table of the origin once more.
    ReloadOrigin,
    /// Loads the table of a snapshot once more, perhaps with another store word.
    ReloadSnapshot(usize, Kind),
    /// Gives the exceptions of a snapshot to a new device.
    Move(usize),
    /// The same, but the old device is still in use: refused.
    MoveTooEarly(usize),
    Suspend {
        dev: Dev,
        noflush: bool,
    },
    Resume(Dev),
    Write {
        span: Span,
        fua: bool,
    },
    Read(Span),
    Zero(Span),
    Discard(Span),
    /// Writes at the same time.
    Burst(Vec<Span>),
    Flush(Dev),
    /// Gives a COW volume more room.
    Grow(usize, u64),
    /// Removes the store from an unused COW volume, as LVM does.
    Wipe(usize),
    /// Waits until the merge is over.
    FinishMerge,
    /// A table line that nobody takes: target and words.
    Refuse(String),
}

/// Sectors beside the place of an operation that are looked at with it: the largest chunk.
const BESIDE: u64 = 128;

impl Op {
    /// The sectors that an operation may change, with some beside them. `None`: any.
    pub(crate) fn surroundings(&self) -> Part {
        let spans = match self {
            Self::Write { span, .. } | Self::Read(span) | Self::Zero(span) => {
                std::slice::from_ref(span)
            }
            Self::Burst(spans) => spans,
            Self::Flush(_) => return Some((0, 1)),
            _ => return None,
        };
        let start = spans.iter().map(|span| span.sector).min()?;
        let end = spans.iter().map(|span| span.end()).max()?;
        Some((start.saturating_sub(BESIDE), end + BESIDE))
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateOrigin => write!(f, "create origin"),
            Self::CreateSnapshot(n, store) => write!(f, "create snapshot{n} {store}"),
            Self::CreateMerge(n) => write!(f, "create merge {n}"),
            Self::HandOver(n) => write!(f, "hand-over {n}"),
            Self::Remove(dev) => write!(f, "remove {dev}"),
            Self::ReloadOrigin => write!(f, "reload origin"),
            Self::ReloadSnapshot(n, kind) => write!(f, "reload snapshot{n} {kind}"),
            Self::Move(n) => write!(f, "move {n}"),
            Self::MoveTooEarly(n) => write!(f, "move-too-early {n}"),
            Self::Suspend { dev, noflush } => {
                write!(f, "suspend {dev}{}", if *noflush { " noflush" } else { "" })
            }
            Self::Resume(dev) => write!(f, "resume {dev}"),
            Self::Write { span, fua } => {
                write!(f, "write {span}{}", if *fua { " fua" } else { "" })
            }
            Self::Read(span) => write!(f, "read {span}"),
            Self::Zero(span) => write!(f, "zero {span}"),
            Self::Discard(span) => write!(f, "discard {span}"),
            Self::Burst(spans) => {
                let spans: Vec<String> = spans.iter().map(Span::to_string).collect();
                write!(f, "burst {}", spans.join(", "))
            }
            Self::Flush(dev) => write!(f, "flush {dev}"),
            Self::Grow(n, sectors) => write!(f, "grow {n} {sectors}"),
            Self::Wipe(n) => write!(f, "wipe {n}"),
            Self::FinishMerge => write!(f, "finish merge"),
            Self::Refuse(line) => write!(f, "refuse {line}"),
        }
    }
}

impl FromStr for Op {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (verb, rest) = words.split_first().ok_or("an empty line")?;
        match (*verb, rest) {
            ("create", ["origin"]) => Ok(Self::CreateOrigin),
            ("create", ["merge", n]) => Ok(Self::CreateMerge(cow_number(n)?)),
            ("create", [dev, store @ ..]) => {
                let n = snapshot_number(dev)?;
                Ok(Self::CreateSnapshot(n, StoreWords::parse(store)?))
            }
            ("hand-over", [n]) => Ok(Self::HandOver(cow_number(n)?)),
            ("remove", [dev]) => Ok(Self::Remove(dev.parse()?)),
            ("reload", ["origin"]) => Ok(Self::ReloadOrigin),
            ("reload", [dev, kind]) => {
                let n = snapshot_number(dev)?;
                Ok(Self::ReloadSnapshot(n, kind.parse()?))
            }
            ("move", [n]) => Ok(Self::Move(cow_number(n)?)),
            ("move-too-early", [n]) => Ok(Self::MoveTooEarly(cow_number(n)?)),
            ("suspend", [dev, flags @ ..]) => Ok(Self::Suspend {
                dev: dev.parse()?,
                noflush: flag(flags, "noflush")?,
            }),
            ("resume", [dev]) => Ok(Self::Resume(dev.parse()?)),
            ("write", [dev, sector, count, flags @ ..]) => Ok(Self::Write {
                span: Span::parse(&[dev, sector, count])?,
                fua: flag(flags, "fua")?,
            }),
            ("read", span) => Ok(Self::Read(Span::parse(span)?)),
            ("zero", span) => Ok(Self::Zero(Span::parse(span)?)),
            ("discard", span) => Ok(Self::Discard(Span::parse(span)?)),
            ("burst", _) => {
                let text = line.trim_start().trim_start_matches("burst");
                let spans = text.split(',').map(|span| {
                    let words: Vec<&str> = span.split_ascii_whitespace().collect();
                    Span::parse(&words)
                });
                Ok(Self::Burst(spans.collect::<Result<_, _>>()?))
            }
            ("flush", [dev]) => Ok(Self::Flush(dev.parse()?)),
            ("grow", [n, sectors]) => Ok(Self::Grow(cow_number(n)?, parse(sectors)?)),
            ("wipe", [n]) => Ok(Self::Wipe(cow_number(n)?)),
            ("finish", ["merge"]) => Ok(Self::FinishMerge),
            ("refuse", [_, ..]) => Ok(Self::Refuse(rest.join(" "))),
            _ => Err(format!("'{line}' is no operation")),
        }
    }
}

fn snapshot_number(word: &str) -> Result<usize, String> {
    match word.parse()? {
        Dev::Snapshot(n) => Ok(n),
        _ => Err(format!("'{word}' is no snapshot")),
    }
}

fn flag(words: &[&str], name: &str) -> Result<bool, String> {
    match words {
        [] => Ok(false),
        [word] if *word == name => Ok(true),
        _ => Err(format!("only '{name}' may follow")),
    }
}
