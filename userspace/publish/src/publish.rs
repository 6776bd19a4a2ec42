// SPDX-License-Identifier: GPL-2.0-or-later

//! Puts a repository of versions to where clients find it.
//!
//! Deltas go first, then roots, the metadata of the targets and of the snapshot, each under a name that
//! nothing else ever had; at last the timestamp, which alone changes under its name. So a client sees what
//! was there before or what is there now, all of it. What is not offered any more stays for some time, for
//! clients that are in the middle of it.

use crate::error::Error;
use crate::error::Result;
use crate::keys::Keys;
use crate::keys::SPECIFICATION;
use crate::place::Carrier;
use crate::place::Place;
use crate::wait;
use crate::CATALOG;
use crate::METADATA;
use crate::TARGETS;
use dmholey_cow::disk;
use dmholey_cow::disk::Access;
use dmholey_cow::progress;
use dmholey_cow::progress::Silent;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use dmholey_cow::Progress;
use dmholey_delta::digest::Hasher;
use dmholey_delta::Digest;
use dmholey_repository::catalog::Withdrawn;
use dmholey_repository::catalog::MAX_LEN;
use dmholey_repository::catalog::TIMESTAMP;
use dmholey_repository::check;
use dmholey_repository::Catalog;
use dmholey_repository::Repository;
use futures_util::TryStreamExt;
use jiff::SignedDuration;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::num::NonZeroU64;
use std::path::Path;
use tough::editor::signed::SignedRole;
use tough::key_source::KeySource;
use tough::schema::Hashes;
use tough::schema::Metafile;
use tough::schema::Role;
use tough::schema::RoleType;
use tough::schema::Snapshot;
use tough::schema::Target;
use tough::schema::Targets;
use tough::ExpirationEnforcement;
use tough::RepositoryLoader;
use tough::TargetName;

/// The list of targets, as the metadata of the snapshot calls it.
const LIST: &str = "targets.json";
/// Bytes digested at a time.
const BATCH: u64 = 1 << 20;
/// So many of the last lists of targets and of metadata stay, for caches that have an older timestamp.
const KEPT: u64 = 16;

/// For how long what is signed is good, and what is withdrawn stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Now.
    pub now: Timestamp,
    /// The list of the targets.
    pub targets: SignedDuration,
    /// The list of the metadata.
    pub snapshot: SignedDuration,
    /// What tells that nothing is newer: so long can an attacker hide an update.
    pub timestamp: SignedDuration,
    /// How long files stay that are not offered any more.
    pub grace: SignedDuration,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Published {
    /// The newest version that clients get; none if only dates were renewed before there was any.
    pub version: Option<u64>,
    /// Number of the metadata of the snapshot.
    pub snapshot: u64,
    /// Files of deltas that were put there.
    pub added: Vec<String>,
    /// Files of deltas that were removed.
    pub removed: Vec<String>,
    /// Bytes that were put there, without metadata.
    pub bytes: u64,
}

/// What is published already.
struct Before {
    repository: tough::Repository,
    catalog: Catalog,
}

impl Before {
    /// The file of its catalog.
    fn file(&self) -> Option<String> {
        let name = TargetName::new(CATALOG).ok()?;
        let target = self.repository.targets().signed.targets.get(&name)?;
        let digest = Digest(target.hashes.sha256.as_ref().try_into().ok()?);
        Some(format!("{digest}.{CATALOG}"))
    }
}

/// Publishes the newest state of `repository`.
pub fn publish(
    repository: &Repository,
    place: &Place,
    keys: &Keys,
    options: Options,
    watch: &dyn Progress,
) -> Result<Published> {
    let sources = keys.sources(&[RoleType::Targets, RoleType::Snapshot, RoleType::Timestamp])?;
    if repository.manifest().last().is_none() {
        return Err(Error::refused(repository.dir(), "has no version yet"));
    }
    let _lock = place.store().lock()?;
    let before = before(place, keys)?;
    let mut published = Published::default();
    let mut catalog = offer(repository, watch)?;
    carry_on(&mut catalog, before.as_ref(), options);
    for delta in &catalog.deltas {
        let name = format!("{TARGETS}/{}", delta.file());
        if place.store().size(&name)? != Some(delta.bytes) {
            place.put_file(&name, &repository.delta(delta.from, delta.to), watch)?;
            published.added.push(delta.file());
            published.bytes += delta.bytes;
        }
    }
    let bytes = catalog.encode();
    let digest = Digest::of(&bytes);
    let file = format!("{digest}.{CATALOG}");
    place.store().put(&format!("{TARGETS}/{file}"), &bytes)?;
    let old = before
        .as_ref()
        .map(|b| b.repository.targets().signed.version);
    let mut targets = Targets::new(
        SPECIFICATION.to_owned(),
        next(old, options.now, place, Some("targets"))?,
        later(options.now, options.targets),
    );
    let fail = || Error::tuf("cannot list what is published");
    let mut add = |name: &str, length, digest| {
        let name = TargetName::new(name).map_err(fail())?;
        targets.add_target(name, target(length, digest));
        Ok::<_, Error>(())
    };
    add(CATALOG, bytes.len() as u64, digest)?;
    for delta in &catalog.deltas {
        add(&delta.target(), delta.bytes, delta.sha256)?;
    }
    let targets = keys.sign(targets, &sources)?;
    let (meta, number) = (metafile(&targets), targets.signed().signed.version.get());
    put(place, &targets)?;
    let snapshot = finish(place, keys, &sources, before.as_ref(), meta, options)?;
    published.version = catalog.last().map(|version| version.number);
    published.snapshot = snapshot;
    published.removed = remove(&catalog, file, before.as_ref(), place)?;
    forget(place, "targets", number)?;
    place.store().commit()?;
    Ok(published)
}

/// Renews the dates of what is published, and puts new roots there. This needs no key of the targets.
pub fn refresh(place: &Place, keys: &Keys, options: Options) -> Result<Published> {
    let sources = keys.sources(&[RoleType::Snapshot, RoleType::Timestamp])?;
    let _lock = place.store().lock()?;
    let Some(before) = before(place, keys)? else {
        let why = "has nothing that was published; publish something first";
        return Err(Error::broken(place.store().name(), why));
    };
    let meta = before.repository.snapshot().signed.meta.get(LIST).cloned();
    let meta = meta.ok_or_else(|| Error::broken(place.store().name(), "has no list of targets"))?;
    let snapshot = finish(place, keys, &sources, Some(&before), meta, options)?;
    place.store().commit()?;
    Ok(Published {
        version: before.catalog.last().map(|version| version.number),
        snapshot,
        ..Published::default()
    })
}

/// The catalog of what there is now.
fn offer(repository: &Repository, watch: &dyn Progress) -> Result<Catalog> {
    let links = &repository.manifest().deltas;
    let total = links.iter().map(|link| link.bytes).sum();
    let mut done = 0;
    let mut digests = HashMap::new();
    for link in links {
        check::delta(repository, link.from, link.to, &Silent)?;
        let path = repository.delta(link.from, link.to);
        let digest = file_digest(&path, &mut done, total, watch)?;
        digests.insert((link.from, link.to), digest);
    }
    let catalog = Catalog::new(repository.manifest(), |link| {
        digests.get(&(link.from, link.to)).copied()
    });
    // What clients would refuse is not published.
    Catalog::parse(&catalog.encode()).map_err(|why| Error::broken(repository.dir().display(), why))
}

fn file_digest(path: &Path, done: &mut u64, total: u64, watch: &dyn Progress) -> Result<Digest> {
    let file = Device::open(path, Access::Read)?;
    let mut hasher = Hasher::default();
    let mut buf = Vec::new();
    let mut at = 0;
    while at < file.size() {
        let len = BATCH.min(file.size() - at);
        buf.resize(usize::try_from(len).unwrap_or(0), 0);
        disk::read(&file, at, &mut buf)?;
        hasher.update(&buf);
        at += len;
        *done += len;
        progress::step(watch, *done, total)?;
    }
    Ok(hasher.finish())
}

/// Takes over what was withdrawn and has to stay, and withdraws what is not offered any more.
fn carry_on(catalog: &mut Catalog, before: Option<&Before>, options: Options) {
    let Some(before) = before else {
        return;
    };
    let now = u64::try_from(options.now.as_second()).unwrap_or(0);
    let grace = u64::try_from(options.grace.as_secs()).unwrap_or(0);
    let offered = catalog.files();
    let gone = before.catalog.files().into_iter();
    let gone = gone.map(|name| Withdrawn { name, since: now });
    let all = before.catalog.withdrawn.iter().cloned().chain(gone);
    let mut known = BTreeSet::new();
    for old in all {
        let stays = old.since.saturating_add(grace) > now;
        if stays && !offered.contains(&old.name) && known.insert(old.name.clone()) {
            catalog.withdrawn.push(old);
        }
    }
    // That older catalogs need not stay any more is no reason for a new one, which would be one more.
    let without = |catalog: &Catalog| {
        let mut catalog = catalog.clone();
        catalog.withdrawn.retain(|old| !old.name.ends_with(CATALOG));
        catalog
    };
    if without(catalog) == without(&before.catalog) {
        catalog.withdrawn.clone_from(&before.catalog.withdrawn);
    } else {
        let own = before.file().map(|name| Withdrawn { name, since: now });
        catalog.withdrawn.extend(own);
    }
}

/// Removes the files that `before` had and that need not stay, now that there is this catalog, in this file. Returns
/// those of deltas.
fn remove(
    catalog: &Catalog,
    file: String,
    before: Option<&Before>,
    place: &Place,
) -> Result<Vec<String>> {
    let Some(before) = before else {
        return Ok(Vec::new());
    };
    let mut stays = catalog.files();
    stays.insert(file);
    stays.extend(catalog.withdrawn.iter().map(|old| old.name.clone()));
    let mut had = before.catalog.files();
    had.extend(before.file());
    had.extend(before.catalog.withdrawn.iter().map(|old| old.name.clone()));
    let mut removed = Vec::new();
    for name in had.difference(&stays) {
        place.store().remove(&format!("{TARGETS}/{name}"))?;
        if !name.ends_with(CATALOG) {
            removed.push(name.clone());
        }
    }
    Ok(removed)
}

fn target(length: u64, sha256: Digest) -> Target {
    Target {
        length,
        hashes: hashes(&sha256.0),
        custom: HashMap::new(),
        _extra: HashMap::new(),
    }
}

fn hashes(sha256: &[u8]) -> Hashes {
    Hashes {
        sha256: sha256.to_vec().into(),
        _extra: HashMap::new(),
    }
}

/// Reads what is published, and checks it as a client would, but for dates: it may be late.
fn before(place: &Place, keys: &Keys) -> Result<Option<Before>> {
    if place.store().size(TIMESTAMP)?.is_none() {
        return Ok(None);
    }
    let root = place
        .store()
        .get(&format!("{METADATA}/1.root.json"), MAX_LEN)?;
    let root = root.unwrap_or_default();
    if root != std::fs::read(keys.root(1)).unwrap_or_default() {
        let why = "was published with other keys; publish to another place, or with those";
        return Err(Error::broken(place.store().name(), why));
    }
    let (Some(metadata), Some(targets)) = (Carrier::url(METADATA), Carrier::url(TARGETS)) else {
        return Err(Error::broken(place.store().name(), "has no URL"));
    };
    let loader = RepositoryLoader::new(&root, metadata, targets)
        .transport(place.carrier(MAX_LEN))
        .expiration_enforcement(ExpirationEnforcement::Unsafe);
    let fail = || {
        Error::tuf(format!(
            "{}: is not what was published",
            place.store().name()
        ))
    };
    let name = TargetName::new(CATALOG).map_err(fail())?;
    let (repository, bytes) = wait(async {
        let repository = loader.load().await.map_err(fail())?;
        let stream = repository.read_target(&name).await.map_err(fail())?;
        let why = "has no catalog";
        let stream = stream.ok_or_else(|| Error::broken(place.store().name(), why))?;
        let bytes: Vec<_> = stream.try_collect().await.map_err(fail())?;
        Ok::<_, Error>((repository, bytes.concat()))
    })??;
    let catalog = Catalog::parse(&bytes).map_err(|why| Error::broken(place.store().name(), why))?;
    Ok(Some(Before {
        repository,
        catalog,
    }))
}

/// The number behind `old`. The first one of a place is the time, in seconds since 1970: if the place was lost and is
/// filled anew, clients know smaller ones. Where it is in the name of a `role`'s file, one that nothing has: what an
/// interrupted run has left may be in caches by now.
fn next(
    old: Option<NonZeroU64>,
    now: Timestamp,
    place: &Place,
    role: Option<&str>,
) -> Result<NonZeroU64> {
    let before = u64::try_from(now.as_second())
        .unwrap_or(0)
        .saturating_sub(1);
    let mut last = old.map_or(before, NonZeroU64::get);
    loop {
        let next = last.checked_add(1).and_then(NonZeroU64::new);
        let next =
            next.ok_or_else(|| Error::broken(place.store().name(), "there are no more numbers"))?;
        let name = role.map(|role| format!("{METADATA}/{next}.{role}.json"));
        let size = name.map(|name| place.store().size(&name)).transpose()?;
        if size.flatten().is_none() {
            return Ok(next);
        }
        last = next.get();
    }
}

/// A time, or the last one there is.
fn later(now: Timestamp, after: SignedDuration) -> Timestamp {
    now.saturating_add(after).unwrap_or(Timestamp::MAX)
}

/// Puts the roots, a snapshot with this list of targets, and the timestamp there. Returns the number of the
/// snapshot.
fn finish(
    place: &Place,
    keys: &Keys,
    sources: &[Box<dyn KeySource>],
    before: Option<&Before>,
    list: Metafile,
    options: Options,
) -> Result<u64> {
    let before = before.map(|before| &before.repository);
    let mut snapshot = Snapshot::new(
        SPECIFICATION.to_owned(),
        next(
            before.map(|b| b.snapshot().signed.version),
            options.now,
            place,
            Some("snapshot"),
        )?,
        later(options.now, options.snapshot),
    );
    snapshot.meta.insert(LIST.to_owned(), list);
    let snapshot = keys.sign(snapshot, sources)?;
    let mut timestamp = tough::schema::Timestamp::new(
        SPECIFICATION.to_owned(),
        next(
            before.map(|b| b.timestamp().signed.version),
            options.now,
            place,
            None,
        )?,
        later(options.now, options.timestamp),
    );
    let meta = metafile(&snapshot);
    timestamp.meta.insert("snapshot.json".to_owned(), meta);
    let timestamp = keys.sign(timestamp, sources)?;
    for version in 1..=keys.version() {
        let name = format!("{METADATA}/{version}.root.json");
        place.put_file(&name, &keys.root(version), &Silent)?;
    }
    put(place, &snapshot)?;
    put(place, &timestamp)?;
    let snapshot = snapshot.signed().signed.version.get();
    forget(place, "snapshot", snapshot)?;
    Ok(snapshot)
}

/// Removes the metadata of a role that is so old that no cache has a timestamp that leads there.
fn forget(place: &Place, role: &str, newest: u64) -> Result<()> {
    let name = |version: u64| format!("{METADATA}/{version}.{role}.json");
    let end = newest.saturating_sub(KEPT) + 1;
    let mut first = end;
    while first > 1 && place.store().size(&name(first - 1))?.is_some() {
        first -= 1;
    }
    // The oldest first: what is interrupted leaves no gap behind which the others would stay.
    for version in first..end {
        place.store().remove(&name(version))?;
    }
    Ok(())
}

/// What the metadata above tells about this one.
fn metafile<T: Role + Serialize>(role: &SignedRole<T>) -> Metafile {
    Metafile {
        length: Some(*role.length()),
        hashes: Some(hashes(role.sha256())),
        version: role.signed().signed.version(),
        _extra: HashMap::new(),
    }
}

/// Puts signed metadata there, under the name that it has with consistent snapshots.
fn put<T: Role + Serialize>(place: &Place, role: &SignedRole<T>) -> Result<()> {
    let name = role.signed().signed.filename(true);
    place
        .store()
        .put(&format!("{METADATA}/{name}"), role.buffer())
}
