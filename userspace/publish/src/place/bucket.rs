// SPDX-License-Identifier: GPL-2.0-or-later

//! A bucket of an object store with the protocol of Amazon's S3.
//!
//! Keys, region and endpoint are those of the environment, as Amazon's own tools know them: `AWS_ACCESS_KEY_ID`,
//! `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL`, `AWS_ALLOW_HTTP` for an endpoint without TLS.

use super::Pieces;
use super::Store;
use crate::error::Error;
use crate::error::Result;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use dmholey_cow::Progress;
use dmholey_repository::catalog::TIMESTAMP;
use object_store::aws::AmazonS3;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::Attribute;
use object_store::Attributes;
use object_store::ObjectStore;
use object_store::ObjectStoreExt;
use object_store::PutMultipartOptions;
use object_store::PutOptions;
use object_store::WriteMultipart;
use std::io;
use tokio::runtime::Runtime;
use url::Url;

/// Parts of a file that are on their way at a time.
const PARTS: usize = 4;
/// Bytes of a file that is sent in one part: what a part has at least, but for the last one.
const ONE_PART: u64 = 5 << 20;
/// For how long caches may keep what never changes: a year.
const FOREVER: &str = "public, max-age=31536000, immutable";
/// And what does: never, without asking.
const ASK: &str = "no-cache";

/// A bucket, or what is below a prefix in it.
#[derive(Debug)]
pub(super) struct Bucket {
    name: String,
    prefix: Path,
    store: AmazonS3,
    runtime: Runtime,
}

impl Bucket {
    /// A bucket that is there, by `s3://BUCKET[/PREFIX]`. Nothing is sent yet.
    pub(super) fn open(text: &str) -> Result<Self> {
        // An error says that it was done already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let why = |why: String| {
            Error::Unknown(format!(
                "'{text}' is no bucket such as s3://images/debian: {why}"
            ))
        };
        let url = Url::parse(text).map_err(|e| why(e.to_string()))?;
        let bucket = url.host_str().ok_or_else(|| why("it has no name".into()))?;
        let prefix = Path::from_url_path(url.path()).map_err(|e| why(e.to_string()))?;
        let builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
        let store = builder.build().map_err(|e| why(e.to_string()))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        Ok(Self {
            name: text.trim_end_matches('/').to_owned(),
            prefix,
            store,
            runtime: runtime.map_err(|e| dmholey_cow::Error::io("start", "a runtime", e))?,
        })
    }

    /// The object that has a file.
    fn object(&self, file: &str) -> Path {
        let parts = self.prefix.parts();
        parts.chain(file.split('/').map(Into::into)).collect()
    }

    fn fail(&self, action: &'static str, file: &str, source: object_store::Error) -> Error {
        let object = format!("{}/{file}", self.name);
        // Its text ends with those of its causes.
        let source = io::Error::other(source.to_string());
        dmholey_cow::Error::io(action, object, source).into()
    }
}

impl Store for Bucket {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn size(&self, name: &str) -> Result<Option<u64>> {
        match self.runtime.block_on(self.store.head(&self.object(name))) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.fail("look at", name, e)),
        }
    }

    fn get(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>> {
        let object = self.object(name);
        let got = async {
            let got = self.store.get(&object).await?;
            if got.meta.size > max {
                return Ok(None);
            }
            Ok(Some(got.bytes().await?))
        };
        match self.runtime.block_on(got) {
            Ok(Some(bytes)) => Ok(Some(bytes.into())),
            Ok(None) => {
                let object = format!("{}/{name}", self.name);
                Err(Error::broken(object, "is too large"))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.fail("read", name, e)),
        }
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let options = PutOptions {
            attributes: attributes(name),
            ..PutOptions::default()
        };
        let object = self.object(name);
        let put = self.store.put_opts(&object, bytes.to_vec().into(), options);
        let put = self.runtime.block_on(put);
        put.map_err(|e| self.fail("write", name, e))?;
        Ok(())
    }

    fn put_file(&self, name: &str, from: &Device, watch: &dyn Progress) -> Result<()> {
        let mut pieces = Pieces::of(from, watch);
        if from.size() <= ONE_PART {
            let mut all = Vec::new();
            while let Some(piece) = pieces.next()? {
                all.extend_from_slice(&piece);
            }
            return self.put(name, &all);
        }
        let options = PutMultipartOptions {
            attributes: attributes(name),
            ..PutMultipartOptions::default()
        };
        let fail = |e| self.fail("write", name, e);
        let object = self.object(name);
        let begun = self.store.put_multipart_opts(&object, options);
        let mut writer = WriteMultipart::new(self.runtime.block_on(begun).map_err(fail)?);
        let _inside = self.runtime.enter();
        loop {
            match pieces.next() {
                Ok(Some(piece)) => {
                    writer.put(piece.into());
                    let room = self.runtime.block_on(writer.wait_for_capacity(PARTS));
                    room.map_err(fail)?;
                }
                Ok(None) => break,
                Err(error) => {
                    // What was sent costs money as long as it is there; if it cannot be removed, it stays.
                    let _ = self.runtime.block_on(writer.abort());
                    return Err(error);
                }
            }
        }
        self.runtime.block_on(writer.finish()).map_err(fail)?;
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        match self.runtime.block_on(self.store.delete(&self.object(name))) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.fail("remove", name, e)),
        }
    }
}

/// What the store tells those who read a file.
fn attributes(name: &str) -> Attributes {
    let (keep, content) = if name == TIMESTAMP {
        (ASK, "application/json")
    } else if name.ends_with(".json") {
        (FOREVER, "application/json")
    } else {
        (FOREVER, "application/octet-stream")
    };
    Attributes::from_iter([
        (Attribute::CacheControl, keep),
        (Attribute::ContentType, content),
    ])
}
