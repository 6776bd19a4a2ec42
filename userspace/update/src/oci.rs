// SPDX-License-Identifier: GPL-2.0-or-later

//! Published files in an OCI registry, as one artifact ([`dmholey_registry`]).

use crate::error::Error;
use crate::error::Result;
use crate::source::Got;
use crate::source::Sink;
use crate::source::Source;
use crate::web::Network;
use crate::web::Web;
use dmholey_registry::listing::MAX_LEN;
use dmholey_registry::listing::MEDIA_TYPE;
use dmholey_registry::registry::Options;
use dmholey_registry::Address;
use dmholey_registry::File;
use dmholey_registry::Listing;
use dmholey_registry::Registry;
use dmholey_repository::catalog::TIMESTAMP;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use url::Url;

/// A registry. Blobs are read as from any web server; one that wants to know who asks is told when it says so.
#[derive(Debug)]
pub struct Oci {
    address: Address,
    options: Options,
    web: Web,
    /// The files of the manifest that was read last.
    listing: Mutex<Option<Arc<Listing>>>,
}

impl Oci {
    /// A registry that is reached by a network. `options` are for signing in.
    pub fn new(address: Address, network: &Network, options: Options) -> Result<Self> {
        let base = address.base();
        let base: Url = base
            .parse()
            .map_err(|e| Error::refused(&address, format!("is no address: {e}")))?;
        // Without the type that is wanted, a registry may make a manifest of another type.
        let accept = format!("{MEDIA_TYPE}, application/octet-stream");
        Ok(Self {
            web: network.server(base).accepting(&accept)?,
            address,
            options,
            listing: Mutex::default(),
        })
    }

    /// Asks, and once more with a token if it has to be.
    fn ask<T>(&self, mut work: impl FnMut(&Web) -> Result<T>) -> Result<T> {
        match work(&self.web) {
            Err(Error::Unauthorized { .. }) => {
                let fail = |e: dmholey_registry::Error| {
                    Error::later(&self.address, crate::error::chain(&e), None)
                };
                let registry = Registry::new(self.address.clone(), self.options.clone());
                let authorization = registry.and_then(|r| r.authorization()).map_err(fail)?;
                self.web.authorize(authorization);
                work(&self.web)
            }
            done => done,
        }
    }

    fn listed(&self) -> MutexGuard<'_, Option<Arc<Listing>>> {
        // Nothing that holds it can fail halfway.
        self.listing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the manifest; its files are those that there are from now on.
    fn renew(&self, tag: Option<&str>) -> Result<Got> {
        let got = self.ask(|web| web.get(&self.address.manifest(), MAX_LEN, tag))?;
        if let Got::File { bytes, .. } = &got {
            let listing = Listing::parse(bytes);
            let listing = listing.map_err(|why| Error::broken(&self.address, why))?;
            *self.listed() = Some(Arc::new(listing));
        }
        Ok(got)
    }

    /// A file of the manifest that was read last, or of that of now.
    fn find(&self, name: &str) -> Result<Option<File>> {
        if self.listed().is_none() {
            self.renew(None)?;
        }
        let listing = self.listed().clone();
        Ok(listing.and_then(|listing| listing.0.get(name).cloned()))
    }
}

impl Source for Oci {
    fn name(&self) -> String {
        self.address.to_string()
    }

    fn read(&self, name: &str, offset: u64, len: u64, sink: Sink<'_>) -> Result<()> {
        let file = self.find(name)?;
        let file = file.ok_or_else(|| {
            let object = format!("{}: {name}", self.address);
            Error::broken(object, "is not there")
        })?;
        self.ask(|web| web.read(&file.blob(), offset, len, sink))
    }

    fn get(&self, name: &str, max: u64, tag: Option<&str>) -> Result<Got> {
        let mut tag_now = None;
        // What changes is asked for with the manifest: whoever has that has all of one moment.
        if name == TIMESTAMP {
            match self.renew(tag)? {
                Got::File { tag, .. } => tag_now = tag,
                other => return Ok(other),
            }
        }
        let Some(file) = self.find(name)? else {
            return Ok(Got::Absent);
        };
        match self.ask(|web| web.get(&file.blob(), max, None))? {
            Got::File { bytes, .. } => Ok(Got::File {
                bytes,
                tag: tag_now,
            }),
            other => Ok(other),
        }
    }
}
