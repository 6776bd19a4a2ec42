// SPDX-License-Identifier: GPL-2.0-or-later

//! Makes a delta between any two versions, in one step.
//!
//! It is made anew from the content of both versions, and not put together from the deltas between them:
//! so what was changed twice is in it once, copies go straight to the oldest version, and what is like
//! something there is told by its difference to it.

use crate::check;
use crate::error::Error;
use crate::error::Result;
use crate::manifest::Link;
use crate::repository::Repository;
use crate::Watch;
use dmholey_cow::disk::Access;
use dmholey_cow::output::Output;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use dmholey_cow::Kind;
use dmholey_delta::format::Header;
use dmholey_delta::make;
use dmholey_delta::Delta;

/// Makes the delta from version `from` to version `to`, or finds it. From [`crate::manifest::EMPTY`] it is
/// a whole image.
pub fn squash(
    repository: &mut Repository,
    from: u64,
    to: u64,
    how: make::Options,
    watch: Watch<'_>,
) -> Result<Link> {
    if let Some(&link) = repository.manifest().delta(from, to) {
        // One that is damaged is made anew.
        match check::delta(
            repository,
            from,
            to,
            &*watch("checking the delta that there is"),
        ) {
            Ok(()) => return Ok(link),
            Err(error) if error.kind() == Kind::Interrupted => return Err(error),
            Err(_) => {}
        }
    }
    if from >= to {
        let why = format!("a delta from version {from} must lead to a later one, not to {to}");
        return Err(Error::refused(repository.dir(), why));
    }
    let (old, new) = (repository.digest(from)?, repository.digest(to)?);
    let (before, after) = (repository.content(from)?, repository.content(to)?);
    let (link, header) = make(repository, (from, &before), (to, &after), how, watch)?;
    if (header.old, header.new) != (old, new) {
        let why = "a version is not what it was; 'dmholey image check' tells which";
        return Err(Error::broken(repository.dir().display(), why));
    }
    let mut manifest = repository.manifest().clone();
    manifest.set_delta(link);
    repository.commit(manifest)?;
    Ok(link)
}

/// Makes the file of a delta between two versions. It is not in the list yet.
pub(crate) fn make(
    repository: &Repository,
    (from, before): (u64, &impl Disk),
    (to, after): (u64, &impl Disk),
    how: make::Options,
    watch: Watch<'_>,
) -> Result<(Link, Header)> {
    let (output, file, _) = Output::create(&repository.delta(from, to), true)?;
    let title = format!("making the delta from {from} to {to}");
    let report = make::make(before, after, &file, how, &*watch(&title))?;
    let header = Delta::open(Device::open(output.path(), Access::Read)?)?
        .plan
        .header;
    output.commit()?;
    let link = Link {
        from,
        to,
        bytes: report.bytes,
        identity: report.identity,
    };
    Ok((link, header))
}
