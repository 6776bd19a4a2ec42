// SPDX-License-Identifier: GPL-2.0-or-later

//! A registry for containers, which keeps the files as one artifact.

use super::Pieces;
use super::Store;
use crate::error::Error;
use crate::error::Result;
use dmholey_cow::progress::Silent;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use dmholey_cow::Progress;
use dmholey_delta::digest::Hasher;
use dmholey_delta::Digest;
use dmholey_registry::registry;
use dmholey_registry::Address;
use dmholey_registry::File;
use dmholey_registry::Listing;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

/// A registry. What is put there is shown with the manifest, all at once.
#[derive(Debug)]
pub(super) struct Registry {
    registry: registry::Registry,
    /// What the next manifest lists.
    files: Mutex<Listing>,
}

impl Registry {
    /// What is at an address now, and what will be.
    pub(super) fn open(address: Address) -> Result<Self> {
        let registry = registry::Registry::new(address, registry::Options::default())?;
        let files = registry.listing()?.unwrap_or_default();
        Ok(Self {
            registry,
            files: Mutex::new(files),
        })
    }

    fn files(&self) -> MutexGuard<'_, Listing> {
        // Nothing that holds it can fail halfway.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, name: &str) -> Option<File> {
        self.files().0.get(name).cloned()
    }
}

impl Store for Registry {
    fn name(&self) -> String {
        self.registry.address().to_string()
    }

    fn size(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.file(name).map(|file| file.size))
    }

    fn get(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.file(name) else {
            return Ok(None);
        };
        if file.size > max {
            let object = format!("{}: {name}", self.name());
            return Err(Error::broken(object, "is too large"));
        }
        Ok(Some(self.registry.read(&file)?))
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let file = file(Digest::of(bytes), bytes.len() as u64);
        let mut content = Some(bytes.to_vec());
        self.registry.push::<Error>(&file, || Ok(content.take()))?;
        self.files().0.insert(name.to_owned(), file);
        Ok(())
    }

    fn put_file(&self, name: &str, from: &Device, watch: &dyn Progress) -> Result<()> {
        let mut hasher = Hasher::default();
        let mut pieces = Pieces::of(from, &Silent);
        while let Some(piece) = pieces.next()? {
            hasher.update(&piece);
        }
        let file = file(hasher.finish(), from.size());
        let mut pieces = Pieces::of(from, watch);
        self.registry.push(&file, || pieces.next())?;
        self.files().0.insert(name.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        // The registry collects what no manifest lists.
        self.files().0.remove(name);
        Ok(())
    }

    fn commit(&self) -> Result<()> {
        Ok(self.registry.publish(&self.files())?)
    }
}

fn file(digest: Digest, size: u64) -> File {
    File {
        digest: format!("sha256:{digest}"),
        size,
    }
}
