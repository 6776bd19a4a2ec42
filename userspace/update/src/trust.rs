// SPDX-License-Identifier: GPL-2.0-or-later

//! What is believed of what is published, as The Update Framework wants it.
//!
//! A client is shipped with one root. From it, the library comes to the newest root, and by way of the
//! timestamp, the snapshot and the list of targets to the catalog; it refuses what is signed by others, what
//! is older than what was believed before, what does not belong together, and what has expired.
//!
//! The newest root is kept as soon as it was verified, whatever else a place has, and is where everything
//! starts the next time: a place that withholds it cannot make a key valid again that was replaced. With it
//! are kept the roots that led there, so that each of them may be the shipped one at any time. A shipped root
//! that is none of them counts if it is newer; if it is not, somebody has to say which one is meant.
//!
//! What was believed is kept, and replaced only after all of it was checked; so a place that has only some of
//! it, or that lies, spoils nothing for the next place. When a place says that its timestamp is the one it was,
//! which is one small request, the catalog is the one that is kept.

use crate::error::Error;
use crate::error::Result;
use crate::source::Got;
use crate::source::Mirrors;
use crate::source::Source;
use async_trait::async_trait;
use dmholey_cow::output;
use dmholey_repository::catalog::MAX_LEN;
use dmholey_repository::catalog::METADATA;
use dmholey_repository::catalog::NAME as CATALOG;
use dmholey_repository::catalog::TARGETS;
use dmholey_repository::catalog::TIMESTAMP;
use dmholey_repository::Catalog;
use futures_util::stream;
use futures_util::TryStreamExt;
use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use tough::schema::Root;
use tough::schema::Signed;
use tough::RepositoryLoader;
use tough::TargetName;
use tough::Transport;
use tough::TransportError;
use tough::TransportErrorKind;
use tough::TransportStream;
use url::Url;

/// Bytes of any file of the metadata at most; the library's own limits are below it.
const MAX_METADATA: u64 = 16 << 20;
/// Files that the library keeps, in the order in which they are replaced.
const KEPT: [&str; 4] = [
    "latest_known_time.json",
    "targets.json",
    "snapshot.json",
    "timestamp.json",
];
/// Where this program keeps the newest root, and those that led there.
const ROOTS: &str = "roots.json";
/// Where this program remembers which timestamp it saw.
const SEEN: &str = "seen.json";

/// What was believed, in a folder.
#[derive(Debug)]
pub struct Trust {
    dir: PathBuf,
    /// What it was shipped with, and where that is.
    shipped: (PathBuf, Vec<u8>),
}

/// What is published, as far as it is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The versions and deltas.
    pub catalog: Catalog,
    /// From then on it has to be asked for again.
    pub expires: Timestamp,
    /// Whether it is what was known before.
    pub is_same: bool,
}

/// The timestamp that was seen last.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    /// The place.
    mirror: String,
    /// What the place calls it.
    tag: Option<String>,
    /// When the first of what was believed expires, in seconds since 1970.
    expires: i64,
}

/// The newest root, and those that led there, from the first that was believed on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Roots {
    newest: Signed<Root>,
    before: Vec<Signed<Root>>,
}

impl Roots {
    fn version(&self) -> u64 {
        self.newest.signed.version.get()
    }

    fn has(&self, root: &Signed<Root>) -> bool {
        let mut all = self.before.iter().chain([&self.newest]);
        all.any(|known| known.signed == root.signed)
    }

    fn push(&mut self, root: Signed<Root>) {
        self.before.push(std::mem::replace(&mut self.newest, root));
    }

    /// Goes on to this root if it is the next one and is signed as it has to be. The library does the same, but tells
    /// where it came to only if all else is good, too.
    fn follow(&mut self, bytes: &[u8]) {
        let newest = &self.newest.signed;
        let is_next = |next: &Signed<Root>| {
            newest.version.checked_add(1) == Some(next.signed.version)
                && newest.verify_role(next).is_ok()
        };
        if let Some(next) = parse(bytes).ok().filter(is_next) {
            self.push(next);
        }
    }
}

/// Reads a root, which has to be signed by its own keys.
fn parse(bytes: &[u8]) -> std::result::Result<Signed<Root>, String> {
    let root: Signed<Root> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    root.signed.verify_role(&root).map_err(|e| e.to_string())?;
    Ok(root)
}

impl Trust {
    /// What was believed, in `dir`; at first it is the file `root` alone.
    pub fn open(dir: &Path, root: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| Error::path("make the folder", dir, e))?;
        let bytes = std::fs::read(root).map_err(|e| Error::path("read", root, e))?;
        Ok(Self {
            dir: dir.to_owned(),
            shipped: (root.to_owned(), bytes),
        })
    }

    /// What is published now, of the first place that has something that can be believed.
    pub fn ask(&self, mirrors: &Mirrors) -> Result<Known> {
        // What is wrong here is not better elsewhere.
        self.roots()?;
        mirrors.ask("the list of versions", |source| {
            let (roots, are_kept) = self.roots()?;
            // It was believed because of the root that is kept.
            let seen = self.seen().filter(|(seen, known)| {
                are_kept
                    && seen.tag.is_some()
                    && seen.mirror == source.name()
                    && known.expires > Timestamp::now()
            });
            if let Some((seen, known)) = seen {
                if source.get(TIMESTAMP, MAX_METADATA, seen.tag.as_deref())? == Got::Same {
                    return Ok(known);
                }
            }
            self.load(source, roots, are_kept)
        })
    }

    /// What was known when somebody asked last.
    pub fn known(&self) -> Option<Known> {
        self.seen().map(|(_, known)| known)
    }

    /// What was seen last. What cannot be read is asked for again.
    fn seen(&self) -> Option<(Seen, Known)> {
        let read = |name| std::fs::read(self.dir.join(name)).ok();
        let seen: Seen = serde_json::from_slice(&read(SEEN)?).ok()?;
        let known = Known {
            catalog: Catalog::parse(&read(CATALOG)?).ok()?,
            expires: Timestamp::from_second(seen.expires).ok()?,
            is_same: true,
        };
        Some((seen, known))
    }

    /// The roots, with the newest of which everything starts; and whether they are those that are kept.
    fn roots(&self) -> Result<(Roots, bool)> {
        let (path, bytes) = &self.shipped;
        let fail = |why| Error::refused(path.display(), format!("cannot be used as a root: {why}"));
        let shipped = parse(bytes).map_err(fail)?;
        let Some(mut roots) = self.kept()? else {
            let newest = shipped;
            let before = Vec::new();
            return Ok((Roots { newest, before }, false));
        };
        if roots.has(&shipped) {
            return Ok((roots, true));
        }
        let (number, newest) = (shipped.signed.version.get(), roots.version());
        if number <= newest {
            let why = format!(
                "is root {number}, and none of those that led to root {newest}, the newest that is known: put a newer \
                 one there, or remove {} to forget what is known and to believe this one",
                self.dir.display()
            );
            return Err(Error::refused(path.display(), why));
        }
        if roots.newest.signed.verify_role(&shipped).is_err() {
            roots.before.clear();
            roots.newest = shipped;
        } else {
            roots.push(shipped);
        }
        Ok((roots, false))
    }

    /// The roots that are kept. What is damaged is as if it were not there.
    fn kept(&self) -> Result<Option<Roots>> {
        let path = self.dir.join(ROOTS);
        let bytes = match std::fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|e| Error::path("read", &path, e))?,
        };
        let roots: Option<Roots> = serde_json::from_slice(&bytes).ok();
        Ok(roots.filter(|roots| {
            let newest = &roots.newest;
            newest.signed.verify_role(newest).is_ok()
        }))
    }

    /// Keeps the roots, durably. They come before all else that is kept: what the newest one does not believe of it
    /// counts for nothing from then on.
    fn keep_roots(&self, roots: &Roots) -> Result<()> {
        // It was believed because of the root before.
        let seen = self.dir.join(SEEN);
        match std::fs::remove_file(&seen) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Error::path("remove", &seen, e))
            }
            _ => {}
        }
        self.put(ROOTS, roots)
    }

    /// Writes a file, durably and in one step.
    fn put(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let path = self.dir.join(name);
        let fail =
            |e: serde_json::Error| Error::broken(path.display(), format!("cannot be written: {e}"));
        let bytes = serde_json::to_vec(value).map_err(fail)?;
        Ok(output::put(&path, &bytes, true)?)
    }

    /// Loads all of it from a place.
    fn load(&self, source: &Arc<dyn Source>, mut roots: Roots, are_kept: bool) -> Result<Known> {
        // The library writes here whatever it believes at the moment.
        let fail = |e| Error::path("make a folder in", &self.dir, e);
        let scratch = tempfile::tempdir_in(&self.dir).map_err(fail)?;
        for name in KEPT {
            let (from, to) = (self.dir.join(name), scratch.path().join(name));
            match std::fs::copy(&from, to) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::path("copy", &from, e))
                }
                _ => {}
            }
        }
        let carrier = Carrier {
            source: Arc::clone(source),
            tag: Arc::default(),
            roots: Arc::default(),
        };
        let url = |part: &str| Url::parse(&format!("mirror:///{part}/"));
        let url = |part| url(part).map_err(|e| Error::broken(part, e.to_string()));
        let fail = |e: serde_json::Error| Error::broken("the newest root", e.to_string());
        let start = serde_json::to_vec(&roots.newest).map_err(fail)?;
        let loader = RepositoryLoader::new(&start, url(METADATA)?, url(TARGETS)?)
            .transport(carrier.clone())
            .datastore(scratch.path());
        let loaded = wait(load(loader))?;
        // A root that was verified counts from now on, whatever else the place has.
        let start = roots.version();
        for bytes in lock(&carrier.roots).iter() {
            roots.follow(bytes);
        }
        if roots.version() > start || (loaded.is_ok() && !are_kept) {
            self.keep_roots(&roots)?;
        }
        let fail = |source| Error::Tuf {
            root: roots.version(),
            source,
        };
        let (repository, bytes) = loaded.map_err(fail)?;
        let bytes = bytes.ok_or_else(|| Error::broken(CATALOG, "is not published"))?;
        let catalog = Catalog::parse(&bytes).map_err(|why| Error::broken(CATALOG, why))?;
        let expires = [
            repository.root().signed.expires,
            repository.timestamp().signed.expires,
            repository.snapshot().signed.expires,
            repository.targets().signed.expires,
        ];
        // As it is kept: to the second.
        let expires = expires.into_iter().min().map(Timestamp::as_second);
        let expires = expires.and_then(|seconds| Timestamp::from_second(seconds).ok());
        let expires = expires.unwrap_or(Timestamp::MIN);
        let tag = lock(&carrier.tag).clone();
        self.keep(scratch.path(), source, &bytes, tag, expires)?;
        Ok(Known {
            catalog,
            expires,
            is_same: false,
        })
    }

    /// Keeps what was believed, durably; each file fits those that were replaced before it.
    fn keep(
        &self,
        scratch: &Path,
        source: &Arc<dyn Source>,
        catalog: &[u8],
        tag: Option<String>,
        expires: Timestamp,
    ) -> Result<()> {
        for name in KEPT {
            let path = scratch.join(name);
            let bytes = std::fs::read(&path).map_err(|e| Error::path("read", &path, e))?;
            output::put(&self.dir.join(name), &bytes, true)?;
        }
        output::put(&self.dir.join(CATALOG), catalog, true)?;
        let seen = Seen {
            mirror: source.name(),
            tag,
            expires: expires.as_second(),
        };
        self.put(SEEN, &seen)
    }
}

/// Loads the metadata and, if there is one, the catalog.
async fn load(
    loader: RepositoryLoader<'_>,
) -> std::result::Result<(tough::Repository, Option<Vec<u8>>), Box<tough::error::Error>> {
    let repository = loader.load().await?;
    let name = TargetName::new(CATALOG)?;
    let Some(stream) = repository.read_target(&name).await? else {
        return Ok((repository, None));
    };
    let bytes: Vec<_> = stream.try_collect().await?;
    Ok((repository, Some(bytes.concat())))
}

/// Runs what the library wants to run asynchronously. Nothing here waits for more than one thing.
fn wait<T>(work: impl std::future::Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|e| dmholey_cow::Error::io("start", "a runtime", e))?;
    Ok(runtime.block_on(work))
}

/// Gets files from a place for the library, each of them whole.
#[derive(Clone, Debug)]
struct Carrier {
    source: Arc<dyn Source>,
    /// What the place calls the timestamp.
    tag: Arc<Mutex<Option<String>>>,
    /// The roots that it has, in their order.
    roots: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// What only one thread at a time uses.
fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds it can fail halfway.
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Transport for Carrier {
    async fn fetch(&self, url: Url) -> std::result::Result<TransportStream, TransportError> {
        let file = url.path().trim_start_matches('/').to_owned();
        let max = if file.starts_with(METADATA) {
            MAX_METADATA
        } else {
            MAX_LEN
        };
        let source = Arc::clone(&self.source);
        let wanted = file.clone();
        let got = tokio::task::spawn_blocking(move || source.get(&wanted, max, None)).await;
        let fail = |cause: Box<dyn std::error::Error + Send + Sync>| {
            TransportError::new_with_cause(TransportErrorKind::Other, &url, cause)
        };
        match got
            .map_err(|e| fail(e.into()))?
            .map_err(|e| fail(e.into()))?
        {
            Got::File { bytes, tag } => {
                if file == TIMESTAMP {
                    *lock(&self.tag) = tag;
                } else if file.starts_with(METADATA) && file.ends_with(".root.json") {
                    lock(&self.roots).push(bytes.clone());
                }
                Ok(Box::pin(stream::iter([Ok(bytes.into())])))
            }
            Got::Absent | Got::Same => {
                Err(TransportError::new(TransportErrorKind::FileNotFound, &url))
            }
        }
    }
}
