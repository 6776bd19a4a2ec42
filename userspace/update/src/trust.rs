// SPDX-License-Identifier: GPL-2.0-or-later

//! What is believed of what is published, as The Update Framework wants it.
//!
//! A client is shipped with one root. From it, the library comes to the newest root, and by way of the
//! timestamp, the snapshot and the list of targets to the catalog; it refuses what is signed by others, what
//! is older than what was believed before, what does not belong together, and what has expired.
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
use std::sync::PoisonError;
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
/// Where this program remembers which timestamp it saw.
const SEEN: &str = "seen.json";

/// What was believed, in a folder.
#[derive(Debug)]
pub struct Trust {
    dir: PathBuf,
    root: Vec<u8>,
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

impl Trust {
    /// What was believed, in `dir`; at first it is the file `root` alone.
    pub fn open(dir: &Path, root: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| Error::path("make the folder", dir, e))?;
        let root = std::fs::read(root).map_err(|e| Error::path("read", root, e))?;
        let dir = dir.to_owned();
        Ok(Self { dir, root })
    }

    /// What is published now, of the first place that has something that can be believed.
    pub fn ask(&self, mirrors: &Mirrors) -> Result<Known> {
        let seen = self.seen();
        mirrors.ask("the list of versions", |source| {
            let seen = seen.as_ref().filter(|(seen, known)| {
                seen.tag.is_some()
                    && seen.mirror == source.name()
                    && known.expires > Timestamp::now()
            });
            if let Some((seen, known)) = seen {
                if source.get(TIMESTAMP, MAX_METADATA, seen.tag.as_deref())? == Got::Same {
                    return Ok(known.clone());
                }
            }
            self.load(source)
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

    /// Loads all of it from a place.
    fn load(&self, source: &Arc<dyn Source>) -> Result<Known> {
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
        };
        let url = |part: &str| Url::parse(&format!("mirror:///{part}/"));
        let url = |part| url(part).map_err(|e| Error::broken(part, e.to_string()));
        let loader = RepositoryLoader::new(&self.root, url(METADATA)?, url(TARGETS)?)
            .transport(carrier.clone())
            .datastore(scratch.path());
        let (repository, bytes) = wait(load(loader))??;
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
        let tag = carrier
            .tag
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
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
        let path = self.dir.join(SEEN);
        let fail =
            |e: serde_json::Error| Error::broken(path.display(), format!("cannot be written: {e}"));
        let bytes = serde_json::to_vec(&seen).map_err(fail)?;
        Ok(output::put(&path, &bytes, true)?)
    }
}

/// Loads the metadata and the catalog.
async fn load(loader: RepositoryLoader<'_>) -> Result<(tough::Repository, Vec<u8>)> {
    let repository = loader.load().await.map_err(Box::new)?;
    let name = TargetName::new(CATALOG).map_err(Box::new)?;
    let stream = repository.read_target(&name).await.map_err(Box::new)?;
    let stream = stream.ok_or_else(|| Error::broken(CATALOG, "is not published"))?;
    let bytes: Vec<_> = stream.try_collect().await.map_err(Box::new)?;
    Ok((repository, bytes.concat()))
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
                    *self.tag.lock().unwrap_or_else(PoisonError::into_inner) = tag;
                }
                Ok(Box::pin(stream::iter([Ok(bytes.into())])))
            }
            Got::Absent | Got::Same => {
                Err(TransportError::new(TransportErrorKind::FileNotFound, &url))
            }
        }
    }
}
