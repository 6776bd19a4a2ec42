// SPDX-License-Identifier: GPL-2.0-or-later

//! Removes old versions.
//!
//! The base becomes the oldest version that is kept, in place: the stores between are copied into it, as a
//! merge would do. While that goes on, and if it is interrupted, every version that is kept still reads as
//! what it is, because each has those stores over the base; so it is simply done again.

use crate::error::Error;
use crate::error::Result;
use crate::manifest::Base;
use crate::manifest::EMPTY;
use crate::repository::Repository;
use crate::Watch;
use dmholey_cow::apply;
use dmholey_cow::disk::Access;
use dmholey_cow::Device;
use std::fs::OpenOptions;
use std::path::Path;

/// Keeps version `oldest` and all later ones. Returns the numbers of those that are gone, with which
/// deltas from and to them go as well.
pub fn prune(repository: &mut Repository, oldest: u64, watch: Watch<'_>) -> Result<Vec<u64>> {
    repository.version(oldest)?;
    let mut manifest = repository.manifest().clone();
    let gone: Vec<u64> = manifest
        .versions
        .iter()
        .map(|v| v.number)
        .filter(|&number| number < oldest)
        .collect();
    manifest.versions.retain(|v| v.number >= oldest);
    manifest
        .deltas
        .retain(|d| d.to >= oldest && (d.from >= oldest || d.from == EMPTY));
    if manifest != *repository.manifest() {
        repository.commit(manifest)?;
    }
    advance(repository, oldest, watch)?;
    repository.remove_leftovers()?;
    Ok(gone)
}

/// Makes version `oldest` of the base.
fn advance(repository: &mut Repository, oldest: u64, watch: Watch<'_>) -> Result<()> {
    let mut manifest = repository.manifest().clone();
    let Some(base) = manifest.base.filter(|base| base.version < oldest) else {
        return Ok(());
    };
    let path = repository.base();
    let mut bytes = base.bytes;
    resize(&path, bytes)?;
    for layer in manifest.layers.iter().filter(|l| l.version <= oldest) {
        // What was cut off is zero if the image grows again.
        bytes = layer.bytes;
        resize(&path, bytes)?;
        let target = Device::open(&path, Access::Write)?;
        let mut store = repository.open_layer(layer.version)?;
        let title = format!("moving the base to version {}", layer.version);
        apply::apply(&mut store, &target, &*watch(&title))?;
    }
    manifest.base = Some(Base {
        version: oldest,
        bytes,
    });
    manifest.layers.retain(|layer| layer.version > oldest);
    repository.commit(manifest)
}

fn resize(path: &Path, bytes: u64) -> Result<()> {
    let file = OpenOptions::new().write(true).open(path);
    file.and_then(|file| file.set_len(bytes))
        .map_err(|e| Error::path("resize", path, e))
}
