// SPDX-License-Identifier: GPL-2.0-or-later

//! A delta as a COW store.
//!
//! A store has the same content as a delta for one base: to make it takes the base, and to make a delta
//! of it is to make one between the base and what the store shows over it ([`dmholey_cow::stack`]).

use crate::apply;
use crate::apply::Applied;
use crate::apply::Old;
use crate::apply::Target;
use crate::delta::Delta;
use crate::digest;
use crate::error::Error;
use crate::error::Result;
use crate::format::BLOCK;
use crate::format::BLOCK_LEN;
use crate::index::Run;
use dmholey_cow::format::ChunkSize;
use dmholey_cow::format::SECTOR_SIZE;
use dmholey_cow::progress::Stoppable;
use dmholey_cow::writer::Ground;
use dmholey_cow::writer::Written;
use dmholey_cow::Disk;
use dmholey_cow::Error as CowError;
use dmholey_cow::Progress;
use dmholey_cow::Scatter;

/// Makes a store on `output` that shows the new image over `base`, which has to be the old one.
pub fn to_cow<D: Disk, B: Disk, O: Disk>(
    delta: &Delta<D>,
    base: &B,
    output: O,
    ground: Ground,
    watch: &dyn Progress,
) -> Result<(O, Written, Applied)> {
    can_be_cow(delta)?;
    // The store has nothing of what did not change.
    let old = Old::new(delta, base)?;
    if digest::image(&old, &Stoppable(watch))? != delta.plan.header.old {
        return Err(Error::Drift {
            object: base.name(),
            what: "its digest".to_owned(),
        });
    }
    changes_to_cow(delta, base, output, ground, watch)
}

/// As [`to_cow`], but nobody looks at what does not change, and of images whose sizes may differ: the store shows the new
/// image over `base` only for somebody who knows the new size, and that all is zero behind the old one.
pub fn changes_to_cow<D: Disk, B: Disk, O: Disk>(
    delta: &Delta<D>,
    base: &B,
    output: O,
    ground: Ground,
    watch: &dyn Progress,
) -> Result<(O, Written, Applied)> {
    let chunk = ChunkSize::new((BLOCK_LEN / SECTOR_SIZE) as u32)
        .map_err(|e| CowError::format(output.name(), e))?;
    let mut runs: Vec<Run> = delta.plan.index.targets().collect();
    runs.sort_unstable();
    let runs = runs.into_iter().map(|run| (run.start, run.len.into()));
    let store = Scatter::create(output, chunk, ground, runs)?;
    let applied = apply::changes(delta, base, &Exceptions(&store), watch)?;
    let (output, written) = store.finish()?;
    Ok((output, written, applied))
}

/// Fails, with the way out, if the images differ in size.
pub fn can_be_cow<D: Disk>(delta: &Delta<D>) -> Result<()> {
    let header = delta.plan.header;
    if header.old_len == header.new_len {
        return Ok(());
    }
    let why = format!(
        "makes {} bytes of {}, but a COW image cannot change a size; apply it to a new image",
        header.new_len, header.old_len
    );
    Err(CowError::refused(delta.name(), why).into())
}

struct Exceptions<'a, O>(&'a Scatter<O>);

impl<O: Disk> Target for Exceptions<'_, O> {
    fn put(&self, start: u64, bytes: &[u8]) -> Result<()> {
        debug_assert_eq!(bytes.len() % BLOCK, 0);
        Ok(self.0.write(start, bytes)?)
    }
}
