// SPDX-License-Identifier: GPL-2.0-or-later

//! Adds a version.

use crate::error::Error;
use crate::error::Result;
use crate::manifest::Base;
use crate::manifest::Layer;
use crate::manifest::Link;
#[cfg(doc)]
use crate::manifest::Manifest;
use crate::manifest::Version;
use crate::manifest::MAX_NOTE;
use crate::repository::Repository;
use crate::squash;
use crate::Watch;
use dmholey_cow::copy;
use dmholey_cow::diff;
use dmholey_cow::disk;
use dmholey_cow::disk::Access;
use dmholey_cow::format::ChunkSize;
use dmholey_cow::output::Output;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use dmholey_cow::Error as CowError;
use dmholey_cow::Writer;
use dmholey_delta::digest;
use dmholey_delta::format::BLOCK;
use dmholey_delta::make;
use dmholey_delta::Digest;
use std::ops::Range;

/// Sectors of a chunk in the stores: what a delta calls a block.
const CHUNK: u32 = 8;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// When it is, in seconds since 1970.
    pub made: u64,
    /// What is to be said about it.
    pub note: String,
    /// Record the root digest for dm-verity, too.
    pub verity: bool,
    /// How the delta from the version before is made, if it is.
    pub delta: Option<make::Options>,
    /// Add a version also if nothing has changed.
    pub same: bool,
    /// Ascending ranges of bytes outside of which the image is the newest version; with none, all of it is compared.
    pub places: Option<Vec<Range<u64>>>,
    /// What records changes to the image from now on: see [`Manifest::recorder`].
    pub recorder: Option<String>,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// There is a new version, and perhaps a delta to it.
    New(Version, Option<Link>),
    /// The image is the newest version, unchanged.
    Same(Version),
}

/// Adds what is on `source` as the newest version.
///
/// Nothing may write to `source` meanwhile. An interruption at any point leaves the repository as it was.
pub fn checkpoint(
    repository: &mut Repository,
    source: &impl Disk,
    options: &Options,
    watch: Watch<'_>,
) -> Result<Taken> {
    if options.note.len() > MAX_NOTE || options.note.chars().any(char::is_control) {
        let why = format!("the note may have {MAX_NOTE} bytes and no control characters");
        return Err(Error::refused(repository.dir(), why));
    }
    if options.verity && !digest::fits_verity(source.size()) {
        let why = format!(
            "dm-verity takes blocks of {} bytes, and the image has {} bytes",
            digest::VERITY_BLOCK,
            source.size()
        );
        return Err(CowError::refused(source.name(), why).into());
    }
    match repository.manifest().last().cloned() {
        None => first(repository, source, options, watch),
        Some(last) => next(repository, &last, source, options, watch),
    }
}

fn first(
    repository: &mut Repository,
    source: &impl Disk,
    options: &Options,
    watch: Watch<'_>,
) -> Result<Taken> {
    let bytes = source.size();
    let (output, file, _) = Output::create(&repository.base(), true)?;
    copy::data(source, &file, bytes, BLOCK, &*watch("copying"))?;
    disk::flush(&file)?;
    let file = Device::open(output.path(), Access::Read)?;
    let version = Version {
        number: 1,
        made: options.made,
        bytes,
        digest: digest::image(&file, &*watch("digesting"))?,
        verity: verity(&file, options, watch)?,
        changed_bytes: bytes,
        note: options.note.clone(),
    };
    output.commit()?;
    let mut manifest = repository.manifest().clone();
    manifest.base = Some(Base {
        version: version.number,
        bytes,
    });
    manifest.versions.push(version.clone());
    manifest.recorder.clone_from(&options.recorder);
    repository.commit(manifest)?;
    Ok(Taken::New(version, None))
}

fn next(
    repository: &mut Repository,
    last: &Version,
    source: &impl Disk,
    options: &Options,
    watch: Watch<'_>,
) -> Result<Taken> {
    let bytes = source.size();
    let number = last
        .number
        .checked_add(1)
        .ok_or_else(|| Error::broken(repository.dir().display(), "there are no more numbers"))?;
    let mut before = repository.content(last.number)?;
    before.resize(bytes);
    let chunk = ChunkSize::new(CHUNK).map_err(|e| CowError::format(source.name(), e))?;
    let (output, file, ground) = Output::create(&repository.layer(number), true)?;
    let writer = Writer::create(file, chunk, ground)?;
    let mut places = options.places.clone();
    if let Some(places) = &mut places {
        // Whoever records knows nothing of what has been added.
        places.push(last.bytes..bytes.max(last.bytes));
    }
    let (_file, found) = diff::diff(
        &before,
        source,
        places.as_deref(),
        writer,
        &*watch("comparing"),
    )?;
    let mut manifest = repository.manifest().clone();
    manifest.recorder.clone_from(&options.recorder);
    if found.written.exceptions == 0 && bytes == last.bytes && !options.same {
        if manifest != *repository.manifest() {
            repository.commit(manifest)?;
        }
        return Ok(Taken::Same(last.clone()));
    }
    output.commit()?;
    manifest.layers.push(Layer {
        version: number,
        bytes,
    });
    let mut version = Version {
        number,
        made: options.made,
        bytes,
        digest: last.digest,
        verity: None,
        changed_bytes: found.written.exceptions * chunk.bytes() as u64,
        note: options.note.clone(),
    };
    // What was kept, not the source: that is what clients get.
    let mut after = repository.content(last.number)?;
    after.resize(bytes);
    after.push(repository.open_layer(number)?)?;
    let mut link = None;
    if let Some(how) = options.delta {
        let before = repository.content(last.number)?;
        let (made, header) = squash::make(
            repository,
            (last.number, &before),
            (number, &after),
            how,
            watch,
        )?;
        if header.old != last.digest {
            let why = format!(
                "version {} is not what it was; 'dmholey image check' tells more",
                last.number
            );
            return Err(Error::broken(repository.dir().display(), why));
        }
        version.digest = header.new;
        manifest.set_delta(made);
        link = Some(made);
    } else {
        version.digest = digest::image(&after, &*watch("digesting"))?;
    }
    version.verity = verity(&after, options, watch)?;
    manifest.versions.push(version.clone());
    repository.commit(manifest)?;
    Ok(Taken::New(version, link))
}

fn verity(image: &impl Disk, options: &Options, watch: Watch<'_>) -> Result<Option<Digest>> {
    match options.verity {
        true => Ok(digest::verity(image, &*watch("digesting for dm-verity"))?),
        false => Ok(None),
    }
}
