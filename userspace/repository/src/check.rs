// SPDX-License-Identifier: GPL-2.0-or-later

//! Reads everything and compares it with its digests. Nothing is written.

use crate::error::Error;
use crate::error::Result;
use crate::repository::Repository;
use crate::Watch;
use dmholey_cow::Kind;
use dmholey_cow::Progress;
use dmholey_delta::check;
use dmholey_delta::digest;
use serde::Serialize;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Versions that were looked at.
    pub versions: usize,
    /// Deltas that were looked at.
    pub deltas: usize,
    /// What is wrong.
    pub findings: Vec<String>,
}

/// Checks every version and every delta.
pub fn check(repository: &Repository, watch: Watch<'_>) -> Result<Report> {
    let mut report = Report::default();
    let manifest = repository.manifest();
    for version in &manifest.versions {
        report.versions += 1;
        let found = repository.content(version.number).and_then(|content| {
            let title = format!("reading version {}", version.number);
            let digest = digest::image(&content, &*watch(&title))?;
            let verity = match version.verity {
                Some(_) => digest::verity(&content, &*watch(&title))?,
                None => None,
            };
            Ok((digest, verity))
        });
        let object = || format!("{}: version {}", repository.dir().display(), version.number);
        match found {
            Ok((digest, _)) if digest != version.digest => report
                .findings
                .push(format!("{}: its content has changed", object())),
            Ok((_, verity)) if verity != version.verity => report.findings.push(format!(
                "{}: its digest for dm-verity is another one",
                object()
            )),
            Ok(_) => {}
            Err(error) => report.add(error, &object())?,
        }
    }
    for link in &manifest.deltas {
        report.deltas += 1;
        let title = format!("reading the delta from {} to {}", link.from, link.to);
        let object = || repository.delta(link.from, link.to).display().to_string();
        let found = repository
            .open_delta(link.from, link.to)
            .and_then(|delta| Ok((delta.plan.header, check::units(&delta, &*watch(&title))?)));
        match found {
            Ok((header, units)) => {
                report.findings.extend(units.findings);
                let ends = (repository.digest(link.from)?, repository.digest(link.to)?);
                if (header.old, header.new) != ends {
                    let what = format!("{}: is one between other images", object());
                    report.findings.push(what);
                }
            }
            Err(error) => report.add(error, &object())?,
        }
    }
    Ok(report)
}

/// Fails if a delta in the list is damaged.
pub fn delta(repository: &Repository, from: u64, to: u64, watch: &dyn Progress) -> Result<()> {
    let delta = repository.open_delta(from, to)?;
    if check::units(&delta, watch)?.findings.is_empty() {
        return Ok(());
    }
    let why = format!(
        "is damaged; 'dmholey image squash {} {from} {to}' makes it anew",
        repository.dir().display()
    );
    Err(Error::broken(repository.delta(from, to).display(), why))
}

impl Report {
    /// Takes an error as a finding, unless the check itself was interrupted.
    fn add(&mut self, error: Error, object: &str) -> Result<()> {
        if error.kind() == Kind::Interrupted {
            return Err(error);
        }
        let source = std::error::Error::source(&error);
        let cause = source.map_or_else(String::new, |cause| format!(": {cause}"));
        self.findings.push(format!("{object}: {error}{cause}"));
        Ok(())
    }
}
