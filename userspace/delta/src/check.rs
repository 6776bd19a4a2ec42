// SPDX-License-Identifier: GPL-2.0-or-later

//! Checks a delta: that all units are there and undamaged, and, given the old image, that it makes the
//! new one. Nothing is written.

use crate::apply;
use crate::apply::Old;
use crate::apply::Target;
use crate::delta::Delta;
use crate::digest;
use crate::digest::Digest;
use crate::error::Broken;
use crate::error::Error;
use crate::error::Result;
use dmholey_cow::progress;
use dmholey_cow::Disk;
use dmholey_cow::Kind;
use dmholey_cow::Progress;
use serde::Serialize;

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Units that were looked at.
    pub units: usize,
    /// Whether the old image was looked at, too.
    pub base: bool,
    /// What is wrong.
    pub findings: Vec<String>,
}

/// Takes everything and keeps nothing.
struct Nowhere;

impl Target for Nowhere {
    fn put(&self, _start: u64, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// Checks the digest of every unit.
pub fn units<D: Disk>(delta: &Delta<D>, watch: &dyn Progress) -> Result<Report> {
    let mut report = Report::default();
    let total = delta.plan.header.file_len;
    for unit in &delta.plan.index.units {
        let packed = delta.packed(unit)?;
        report.units += 1;
        if Digest::of(&packed) != unit.digest {
            let error = Error::format(delta.name(), Broken::Digest("a unit"));
            let text = format!("{error} (at byte {}, {} bytes)", unit.offset, unit.packed);
            report.findings.push(text);
        }
        progress::step(watch, unit.offset + unit.packed, total)?;
    }
    Ok(report)
}

/// The same; and `base` must be the old image, and everything must be made of it as it should be.
pub fn with_base<D: Disk, B: Disk>(
    delta: &Delta<D>,
    base: &B,
    watch: &dyn Progress,
) -> Result<Report> {
    let mut report = units(delta, &progress::Silent)?;
    report.base = true;
    let old = Old::new(delta, base)?;
    if digest::image(&old, &progress::Silent)? != delta.plan.header.old {
        let text = format!(
            "{}: is not the old version: its digest differs",
            base.name()
        );
        report.findings.push(text);
    }
    match apply::changes(delta, base, &Nowhere, watch) {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), Kind::Store | Kind::Refused) => {
            report.findings.push(error.to_string());
        }
        Err(error) => return Err(error),
    }
    Ok(report)
}
