// SPDX-License-Identifier: GPL-2.0-or-later

//! What one operation means for the devices of either side, and what should come of it.

use crate::data::Tag;
use crate::deviations::Deviation;
use crate::view::View;
use dmholey::dm::table::Role;
use rustix::io::Errno;
use std::fmt;

/// Target type of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Linear,
    Error,
    Role(Role),
}

/// A table of one line. `{name}` in its words stands for the number of that device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) target: Target,
    pub(crate) len: u64,
    pub(crate) words: String,
}

/// A write of a burst.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) name: String,
    pub(crate) sector: u64,
    pub(crate) count: u64,
    pub(crate) tag: Tag,
}

/// Something to do. Devices go by their names without the prefix of a side.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Create(String),
    Load(String, Table),
    Resume(String),
    Suspend {
        name: String,
        noflush: bool,
    },
    Remove(String),
    Write {
        write: Write,
        fua: bool,
    },
    Burst(Vec<Write>),
    /// The device should hold `want` there.
    Read {
        name: String,
        sector: u64,
        want: Vec<u8>,
    },
    Zero {
        name: String,
        sector: u64,
        count: u64,
    },
    Discard {
        name: String,
        sector: u64,
        count: u64,
    },
    Flush(String),
    AwaitMerge(String),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(name) => write!(f, "creating {name}"),
            Self::Load(name, table) => write!(f, "loading {:?} into {name}", table.words),
            Self::Resume(name) => write!(f, "resuming {name}"),
            Self::Suspend { name, .. } => write!(f, "suspending {name}"),
            Self::Remove(name) => write!(f, "removing {name}"),
            Self::Write { write, .. } => write!(f, "writing to {}", write.name),
            Self::Burst(_) => write!(f, "writing to several places"),
            Self::Read { name, .. } => write!(f, "reading {name}"),
            Self::Zero { name, .. } => write!(f, "zeroing {name}"),
            Self::Discard { name, .. } => write!(f, "discarding {name}"),
            Self::Flush(name) => write!(f, "flushing {name}"),
            Self::AwaitMerge(name) => write!(f, "waiting for {name}"),
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Failed(Errno),
    /// It was done, and the content is wrong.
    Wrong(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("success"),
            Self::Failed(errno) => write!(f, "{errno}"),
            Self::Wrong(text) => f.write_str(text),
        }
    }
}

/// What should come of it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Want {
    Done,
    Failed(Errno),
    /// Any error, the same on both sides.
    Refused,
    /// Something else on either side, and that is known.
    Known(Deviation),
}

/// An action with what should come of it.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) action: Action,
    pub(crate) want: Want,
}

/// What a device should show.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) name: String,
    pub(crate) content: Content,
    pub(crate) status: Status,
    /// Words of its table, in which `{name}` stands for a device's number.
    pub(crate) table: String,
    pub(crate) suspended: bool,
    /// Its events are the same on both sides.
    pub(crate) counts_events: bool,
}

/// Sectors that are looked at, from the first on to the one before the last; `None`: all.
pub(crate) type Part = Option<(u64, u64)>;

/// What reading all of it should give.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Exactly(View),
    /// Each of these chunks is as in the one or as in the other, and all the rest as in both.
    Between {
        before: View,
        after: View,
    },
    /// An error.
    Failure,
    /// It is not read: it is suspended.
    Unread,
}

/// What the status should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Words(&'static str),
    Usage {
        allocated: (u64, u64),
        total: u64,
        metadata: (u64, u64),
        /// Nothing is left that is to be committed.
        settled: bool,
    },
}

impl Step {
    /// Whether a device may have another table after it.
    pub(crate) fn changes_tables(&self) -> bool {
        matches!(self.action, Action::Resume(_))
    }
}
