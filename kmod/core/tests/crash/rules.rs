// SPDX-License-Identifier: GPL-2.0

//! The rules of crash consistency by name, and ways to break them.

use std::fmt;

macro_rules! rules {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// A rule that is checked. The names are those of the design: C for copy on write, M for merges.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Rule {
            $($(#[doc = $doc])* $name,)*
        }

        impl Rule {
            /// All of them.
            pub(crate) const ALL: &[Self] = &[$(Self::$name),*];

            fn text(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),*),)*
                }
            }
        }
    };
}

rules! {
    /// A store that is being made is fresh or whole and empty.
    C1,
    /// A listed COW chunk holds what the snapshot may show there, never garbage.
    C2,
    /// The list is a prefix of what was committed, with everything durable in it, nothing twice.
    C3,
    /// What a torn write has left behind the end of the list is never taken up again.
    C4,
    /// The area behind a full one ends the list.
    C5,
    /// An origin write reaches the origin when each snapshot has a durable exception for each chunk.
    C6,
    /// No read of a snapshot returns data of a later origin write.
    C7,
    /// A write that was made durable is there; any other sector is old or new.
    C8,
    /// The header says durably that a store is invalid before an origin write skips a copy.
    C9,
    /// After a cut nothing that is listed is overwritten; a second cut is as harmless as the first.
    C10,
    /// A failed request ends in an error or an invalid store, never in silent loss.
    C11,
    /// A summary that the header points at, and the list behind it, tell what the list tells.
    C12,
    /// An entry is off the list only when the origin holds its chunk durably.
    M1,
    /// A write to a chunk that may still be listed after a cut is not in the origin alone.
    M2,
    /// A listed COW chunk holds what may be shown until it is off the list: copying again is harmless.
    M3,
    /// After a cut the list is a prefix of what it was; behind a truncation the area is zero.
    M4,
    /// The other snapshots have durable exceptions for a window before it is written to the origin.
    M5,
    /// A read of a merging device returns the newest data, wherever that is.
    M6,
    /// A merge ends with an empty, valid store and the view in the origin, wherever it was cut off.
    M7,
    /// A failed merge leaves a device that can be read and written, and that a retry completes.
    M8,
    /// A suspend in the middle of a merge ends every bio and leaves what a cut may leave.
    M9,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?} ({})", self.text().trim())
    }
}

/// A rule that was broken.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    pub(crate) what: String,
}

impl Violation {
    /// Says what was seen.
    pub(crate) fn new(rule: Rule, what: impl Into<String>) -> Self {
        Self {
            rule,
            what: what.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

macro_rules! faults {
    ($($(#[doc = $doc:literal])* $name:ident => [$($rule:ident),*],)*) => {
        /// Something that is done wrong on purpose, to see that it is found.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Fault {
            $($(#[doc = $doc])* $name,)*
        }

        impl Fault {
            /// All of them, each with the rules that it may be found to break.
            pub(crate) const ALL: &[(Self, &[Rule])] = &[$((Self::$name, &[$(Rule::$rule),*])),*];
        }
    };
}

faults! {
    /// A store is made header first.
    HeaderBeforeArea => [C1],
    /// A store's first area and header are not ordered by a flush.
    AreaNotFlushed => [C1],
    /// The area is written without a flush before it.
    CommitWithoutFlush => [C2],
    /// The area is written without FUA.
    CommitWithoutFua => [C3, C6, C8],
    /// An exception is listed when its copy has begun.
    ListedBeforeCopied => [C2],
    /// The area is put together from exceptions whose data is written while it is flushed.
    CommitsCross => [C2],
    /// An area is filled without an end behind it.
    NextAreaNotZeroed => [C4, C5],
    /// The end behind an area is sent with the area's last entries, not before.
    NextAreaZeroedLate => [C3, C4, C5],
    /// Stale entries are left where they are.
    TailNotScrubbed => [C4],
    /// Stale entries are overwritten by the very write that lists new ones.
    TailScrubbedByCommit => [C4],
    /// The areas behind the first one of a commit are written after it.
    SpillWrittenLast => [C3, C6],
    /// An origin write goes when the copies are complete.
    OriginWaitsForDataOnly => [C6],
    /// An origin write waits for one snapshot.
    OriginWaitsForOneSnapshot => [C6],
    /// An origin write waits for the first chunk that it touches.
    OriginWaitsForOneChunk => [C6],
    /// An origin write does not wait for readers of the origin.
    ReadersNotAwaited => [C7],
    /// A reader looks a chunk up, then counts itself.
    ReaderCountedLate => [C7],
    /// A flush goes to the COW device only.
    FlushWithoutCommit => [C8],
    /// A flush is answered by a commit that was under way.
    FlushNotForwarded => [C8],
    /// A write with FUA is acknowledged when its data is durable.
    FuaBeforeCommit => [C8],
    /// A write with FUA to a chunk that is mapped does not ask for its exception.
    FuaOfYoungChunk => [C8],
    /// The header is not durable when origin writes go on.
    InvalidHeaderVolatile => [C9],
    /// Origin writes go on before the header is written.
    InvalidationNotAwaited => [C9],
    /// A list that is loaded from a disk's cache is taken for durable.
    LoadedFromCache => [C3, C6, M4],
    /// Space is handed out from the number of entries, as if there were no holes.
    HolesNotCounted => [C10],
    /// The header that points at a summary is written without a flush before it.
    SummaryNotFlushed => [C12],
    /// The header points at a summary that names what is not listed yet.
    SummaryBeforeCommit => [C12],
    /// What was listed while a summary was made counts as in it.
    SummaryCountedLate => [C12],
    /// Chunks are handed out where a summary is.
    SummaryRoomHandedOut => [C2, C8, C10, C12],
    /// An area that was zeroed ahead is taken to be so when a summary is there.
    NextAreaUnderSummary => [C4, C5],
    /// A summary is written over the one that the header points at.
    SummaryOverTheOther => [C12],
    /// The header that does without a summary is not durable when its room is handed out, or the list
    /// is cut off.
    SummaryForgottenVolatile => [C12, M4],
    /// A merge leaves the header as it is.
    SummaryKeptByMerge => [C12, M4],
    /// A copy that has failed counts as done.
    FailedCopyIgnored => [C11],
    /// An area write that has failed counts as done.
    FailedCommitIgnored => [C11],
    /// A suspend does not commit.
    SuspendWithoutCommit => [C3],
    /// The list is cut off without a flush of the origin.
    TruncateWithoutFlush => [M1],
    /// The origin is flushed before the copies are done.
    FlushBeforeCopies => [M1],
    /// The list is cut off without FUA.
    TruncateVolatile => [M2, M4],
    /// Held writes go to the origin when the truncation is sent.
    ReleasedBeforeTruncation => [M2],
    /// The list is cut off in front of the next window as well, whose copies are under way.
    CutsNextWindowToo => [M1, M2, M4, M6],
    /// Writes that are held for the next window go when a window ends.
    HeldWithNextWindowToo => [M1, M2, M6],
    /// Writes to a window go to the origin at once.
    WindowWritesToOrigin => [M2, M6],
    /// Writes to a window go to the COW device.
    WindowWritesToCow => [M1, M2, M6],
    /// Writes under way when a window begins are not waited for.
    WritersNotDrained => [M1, M2, M6],
    /// Chunks are taken off the list from its start.
    MergedFromTheStart => [M3, M4, M1, M2],
    /// The truncation zeroes the first block only.
    TruncatesOneBlock => [M4, M7],
    /// Other snapshots are not asked.
    SiblingsNotSecured => [M5],
    /// Other snapshots' copies are complete, but not listed.
    SiblingsNotCommitted => [M5],
    /// Reads go to the origin when the window begins.
    WindowReadsFromOrigin => [M6],
    /// Reads go on to the COW device when writes go to the origin.
    IndexKeepsWindow => [M1, M2, M6],
    /// Window by window, the rest of the list is forgotten.
    EndsEarly => [M7],
    /// After a failed truncation the window's chunks are written to.
    FailedTruncationForgotten => [M8],
    /// A copy to the origin that has failed counts as done.
    FailedMergeCopyIgnored => [M8],
    /// A flush of the origin that has failed counts as done.
    FailedMergeFlushIgnored => [M8],
    /// A suspend leaves the window and what is held for it.
    SuspendLeavesWindow => [M9],
}
