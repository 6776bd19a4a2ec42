// SPDX-License-Identifier: GPL-2.0-or-later

//! Lists everything that is wrong with a store. Findings are data, not errors.

use crate::disk::Disk;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::store::RawEntries;
use crate::store::Seen;
use crate::store::Store;
use crate::summary;
use crate::writer::is_zero;
use holey_core::format::Exception;
use holey_core::format::FormatError;
use holey_core::format::SECTOR_SIZE;
use serde::Serialize;

/// Findings beyond this many are only counted.
const MAX_LISTED: usize = 100;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The store must not be used.
    Error,
    /// The store can be used, but something that uses it may be misled.
    Warning,
    /// Worth knowing.
    Note,
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// A word for programs, which stays the same between versions.
    pub code: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What was found, the first of each.
    pub findings: Vec<Finding>,
    /// Errors and warnings found, also those that are not listed.
    pub problems: u64,
    /// Entries looked at.
    pub exceptions: u64,
}

impl Report {
    fn add(&mut self, severity: Severity, code: &'static str, message: String) {
        self.problems += u64::from(severity != Severity::Note);
        if self.findings.len() < MAX_LISTED {
            self.findings.push(Finding {
                severity,
                code,
                message,
            });
        }
    }
}

/// Checks the store on `disk`, for an origin of `origin_size` bytes if that is known. An error
/// means that the check itself failed.
pub fn check<D: Disk>(disk: D, origin_size: Option<u64>) -> Result<Report> {
    let mut report = Report::default();
    let mut store = match Store::open(disk) {
        Ok(store) => store,
        Err(error) if error.kind() == Kind::Store => {
            report.add(Severity::Error, header_code(&error), error.to_string());
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    if let Err(error) = store.usable() {
        report.add(Severity::Error, "invalidated", error.to_string());
    }
    if let Some(size) = origin_size {
        store.set_origin_size(size);
    }
    check_size(&store, &mut report);
    check_list(&store, &mut report)?;
    check_summary(&store, &mut report)?;
    Ok(report)
}

/// A summary that is no good costs time; one that is, and tells something else than the list, shows
/// other data.
fn check_summary<D: Disk>(store: &Store<D>, report: &mut Report) -> Result<()> {
    let told = match store.summary() {
        Ok(None) => return Ok(()),
        _ if report.problems != 0 => return Ok(()),
        Ok(Some(summary)) => summary::told(store, &summary)?,
        Err(error) => Err(error),
    };
    let told = match told {
        Ok(told) => told,
        Err(error) => {
            let message = format!("{error}: it is not made use of");
            report.add(Severity::Warning, "summary", message);
            return Ok(());
        }
    };
    let mut listed = store.raw_entries().collect::<Result<Vec<_>>>()?;
    listed.sort();
    if told != listed {
        let message = "the summary tells something else than the list".to_owned();
        report.add(Severity::Error, "summary-differs", message);
    }
    Ok(())
}

fn header_code(error: &Error) -> &'static str {
    match error {
        Error::Fresh { .. } => "fresh",
        Error::Format { reason, .. } => code(reason),
        _ => "header",
    }
}

fn code(reason: &FormatError) -> &'static str {
    match reason {
        FormatError::ChunkSize(_) => "chunk-size",
        FormatError::HeaderTooShort(_) => "too-short",
        FormatError::Magic(_) => "magic",
        FormatError::Version(_) => "version",
        FormatError::ValidFlag(_) => "valid-flag",
        FormatError::CowTooLarge(_) => "cow-too-large",
        FormatError::CowTooSmall(_) => "cow-too-small",
        FormatError::CowChunk(_) => "cow-chunk",
        FormatError::OriginChunk(_) => "origin-chunk",
        FormatError::CowTwice(_) => "cow-twice",
        FormatError::OriginTwice(_) => "origin-twice",
        FormatError::NoEnd(_) => "no-end",
    }
}

fn check_size<D: Disk>(store: &Store<D>, report: &mut Report) {
    let size = store.disk().size();
    if size % SECTOR_SIZE != 0 {
        let message = format!("the size, {size} bytes, is not a number of whole sectors");
        report.add(Severity::Note, "odd-size", message);
    }
}

fn check_list<D: Disk>(store: &Store<D>, report: &mut Report) -> Result<()> {
    let (layout, bounds) = (store.layout(), store.bounds());
    let mut seen = Seen::default();
    let mut last: Option<Exception> = None;
    let mut sorted = true;
    let mut entries = store.raw_entries();
    for entry in entries.by_ref() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(Error::Format { reason, .. }) => {
                report.add(Severity::Error, code(&reason), reason.to_string());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        report.exceptions += 1;
        if let Err(reason) = seen.check(entry, layout, bounds) {
            report.add(Severity::Error, code(&reason), reason.to_string());
        }
        sorted &= last.is_none_or(|last| last.origin < entry.origin);
        last = Some(entry);
    }
    check_rest(&entries, report);
    if !sorted {
        let message = "entries do not ascend by origin chunk: a merge seeks more".to_owned();
        report.add(Severity::Note, "unsorted", message);
    }
    if !seen.cow_is_dense() {
        let message = "there are unused COW chunks between used ones".to_owned();
        report.add(Severity::Note, "gaps", message);
    }
    Ok(())
}

fn check_rest<D: Disk>(entries: &RawEntries<'_, D>, report: &mut Report) {
    if !is_zero(entries.rest()) {
        let message =
            "entries stand behind the end of the list: a kernel that does not clear them \
                       may bring them back"
                .to_owned();
        report.add(Severity::Warning, "stale-entries", message);
    }
}
