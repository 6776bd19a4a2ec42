// SPDX-License-Identifier: GPL-2.0-or-later

//! Where files are published.

mod bucket;
mod folder;
mod registry;

use crate::error::Error;
use crate::error::Result;
use async_trait::async_trait;
use bucket::Bucket;
use dmholey_cow::disk;
use dmholey_cow::disk::Access;
use dmholey_cow::progress;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use dmholey_cow::Progress;
use dmholey_registry::Address;
use folder::Folder;
use futures_util::stream;
use registry::Registry;
use std::fmt::Debug;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use tough::Transport;
use tough::TransportError;
use tough::TransportErrorKind;
use tough::TransportStream;
use url::Url;

/// Bytes of a file that are sent at a time.
const PIECE: u64 = 1 << 20;

/// What keeps files. Each appears whole, and is durable when the call ends, or after [`Store::commit`].
pub(crate) trait Store: Debug + Send + Sync {
    /// Its name for messages.
    fn name(&self) -> String;

    /// Bytes of a file, if it is there.
    fn size(&self, name: &str) -> Result<Option<u64>>;

    /// All of a file that has `max` bytes at most, if it is there.
    fn get(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>>;

    /// Puts bytes into a file, in one step.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()>;

    /// Puts a copy of a file there, in one step.
    fn put_file(&self, name: &str, from: &Device, watch: &dyn Progress) -> Result<()>;

    /// Removes a file, if it is there.
    fn remove(&self, name: &str) -> Result<()>;

    /// Keeps others from publishing here until the result is dropped, where that can be.
    fn lock(&self) -> Result<Option<File>> {
        Ok(None)
    }

    /// Shows clients what was done, where they do not see it at once.
    fn commit(&self) -> Result<()> {
        Ok(())
    }
}

/// A place: a folder, a bucket, or a registry.
#[derive(Clone, Debug)]
pub struct Place(Arc<dyn Store>);

impl Place {
    /// A folder, which is made if it is missing.
    pub fn folder(dir: &Path) -> Result<Self> {
        Ok(Self(Arc::new(Folder::open(dir)?)))
    }

    /// What a text names: `s3://BUCKET[/PREFIX]`, `oci://HOST/NAME[:TAG]`, or the path of a folder.
    pub fn named(text: &str) -> Result<Self> {
        if Address::is_meant(text) {
            let address = text.parse().map_err(|why: String| Error::Unknown(why))?;
            return Ok(Self(Arc::new(Registry::open(address)?)));
        }
        match text.split_once("://") {
            Some(("s3", _)) => Ok(Self(Arc::new(Bucket::open(text)?))),
            Some((scheme, _)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+') => {
                Err(Error::Unknown(format!(
                    "'{text}' is neither a folder nor s3://BUCKET[/PREFIX] nor oci://HOST/NAME[:TAG]"
                )))
            }
            _ => Self::folder(Path::new(text)),
        }
    }

    /// Puts a copy of a file there, in one step.
    pub(crate) fn put_file(&self, name: &str, from: &Path, watch: &dyn Progress) -> Result<()> {
        self.0
            .put_file(name, &Device::open(from, Access::Read)?, watch)
    }

    /// What does the work.
    pub(crate) fn store(&self) -> &dyn Store {
        &*self.0
    }

    /// What the library reads through.
    pub(crate) fn carrier(&self, max: u64) -> Carrier {
        Carrier {
            store: Arc::clone(&self.0),
            max,
        }
    }
}

/// Gets files for the library, each of them whole.
#[derive(Clone, Debug)]
pub(crate) struct Carrier {
    store: Arc<dyn Store>,
    max: u64,
}

impl Carrier {
    /// Where the library thinks that a part of it is. Only the path counts.
    pub(crate) fn url(part: &str) -> Option<Url> {
        Url::parse(&format!("file:///{part}/")).ok()
    }
}

#[async_trait]
impl Transport for Carrier {
    async fn fetch(&self, url: Url) -> std::result::Result<TransportStream, TransportError> {
        let file = url.path().trim_start_matches('/').to_owned();
        let (store, max) = (Arc::clone(&self.store), self.max);
        let got = tokio::task::spawn_blocking(move || store.get(&file, max)).await;
        let fail = |cause: Box<dyn std::error::Error + Send + Sync>| {
            TransportError::new_with_cause(TransportErrorKind::Other, &url, cause)
        };
        match got
            .map_err(|e| fail(e.into()))?
            .map_err(|e| fail(e.into()))?
        {
            Some(bytes) => Ok(Box::pin(stream::iter([Ok(bytes.into())]))),
            None => Err(TransportError::new(TransportErrorKind::FileNotFound, &url)),
        }
    }
}

/// Reads a file piece by piece.
struct Pieces<'a> {
    from: &'a Device,
    at: u64,
    watch: &'a dyn Progress,
}

impl<'a> Pieces<'a> {
    fn of(from: &'a Device, watch: &'a dyn Progress) -> Self {
        Self { from, at: 0, watch }
    }

    /// The next piece; none behind the end.
    fn next(&mut self) -> Result<Option<Vec<u8>>> {
        progress::step(self.watch, self.at, self.from.size())?;
        let len = PIECE.min(self.from.size() - self.at);
        if len == 0 {
            return Ok(None);
        }
        let mut piece = vec![0; usize::try_from(len).unwrap_or(0)];
        disk::read(self.from, self.at, &mut piece)?;
        self.at += len;
        Ok(Some(piece))
    }
}
