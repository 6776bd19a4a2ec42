// SPDX-License-Identifier: GPL-2.0-or-later

//! Signs in at a registry, and puts files there.
//!
//! Names and passwords are those of `docker login` and `podman login` (`~/.docker/config.json`, or where
//! `DOCKER_CONFIG` says).

use crate::listing;
use crate::Address;
use crate::Error;
use crate::File;
use crate::Listing;
use crate::Result;
use bytes::Bytes;
use docker_credential::CredentialRetrievalError;
use docker_credential::DockerCredential;
use futures_util::stream;
use oci_client::client::Certificate;
use oci_client::client::CertificateEncoding;
use oci_client::client::ClientConfig;
use oci_client::client::ClientProtocol;
use oci_client::errors::OciDistributionError;
use oci_client::errors::OciErrorCode;
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use oci_client::Client;
use oci_client::RegistryOperation;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// A registry that cannot be reached for so long, or that sends nothing for so long, fails.
const CONNECT: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(60);
/// Pieces of a file that were read and not sent yet.
const AHEAD: usize = 2;

/// How a registry is reached.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A proxy; otherwise that of the environment.
    pub proxy: Option<String>,
    /// Certificates (PEM) that are believed besides those of the system.
    pub certificates: Option<Vec<u8>>,
}

/// What a web client shows to be let in.
#[derive(Clone, PartialEq, Eq)]
pub enum Authorization {
    /// A token.
    Bearer(String),
    /// A name and a password.
    Basic(String, String),
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Secrets get into no log.
        f.write_str("Authorization")
    }
}

/// An address at a registry, and how to get there.
pub struct Registry {
    address: Address,
    client: Arc<Client>,
    credentials: RegistryAuth,
    runtime: Runtime,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registry").field(&self.address).finish()
    }
}

impl Registry {
    /// Prepares for it; nothing is sent yet.
    pub fn new(address: Address, options: Options) -> Result<Self> {
        // An error says that it was done already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let certificate = |data| Certificate {
            encoding: CertificateEncoding::Pem,
            data,
        };
        let config = ClientConfig {
            protocol: if address.plain {
                ClientProtocol::Http
            } else {
                ClientProtocol::Https
            },
            extra_root_certificates: options.certificates.into_iter().map(certificate).collect(),
            read_timeout: Some(SILENCE),
            connect_timeout: Some(CONNECT),
            user_agent: concat!("dmholey/", env!("CARGO_PKG_VERSION")),
            https_proxy: options.proxy.clone(),
            http_proxy: options.proxy,
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|source| fail(&address, source))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let runtime = runtime.map_err(|source| Error::Io {
            action: "start",
            object: "a runtime".to_owned(),
            source,
        })?;
        Ok(Self {
            credentials: credentials(&address)?,
            client: Arc::new(client),
            runtime,
            address,
        })
    }

    /// The address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What lets a web client read files there; nothing if anybody may.
    pub fn authorization(&self) -> Result<Option<Authorization>> {
        let reference = &self.address.reference;
        let asked = self
            .client
            .auth(reference, &self.credentials, RegistryOperation::Pull);
        // Its own limit is between two pieces, of which there may be any number.
        let asked = async { tokio::time::timeout(SILENCE, asked).await };
        let token = self.runtime.block_on(asked).map_err(|_| Error::Io {
            action: "get a token from",
            object: self.address.to_string(),
            source: io::ErrorKind::TimedOut.into(),
        })?;
        let token = token.map_err(|e| self.fail(e))?;
        Ok(match (token, &self.credentials) {
            (Some(token), _) => Some(Authorization::Bearer(token)),
            (None, RegistryAuth::Basic(name, password)) => {
                Some(Authorization::Basic(name.clone(), password.clone()))
            }
            (None, _) => None,
        })
    }

    /// What there is now, if there is anything.
    pub fn listing(&self) -> Result<Option<Listing>> {
        let reference = &self.address.reference;
        let pulled =
            self.client
                .pull_manifest_raw(reference, &self.credentials, &[listing::MEDIA_TYPE]);
        match self.runtime.block_on(pulled) {
            Ok((bytes, _)) => {
                let parsed = Listing::parse(&bytes);
                Ok(Some(
                    parsed.map_err(|why| Error::broken(&self.address, why))?,
                ))
            }
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// All of a file, whose size the caller is content with.
    pub fn read(&self, file: &File) -> Result<Vec<u8>> {
        let mut to = Limited {
            bytes: Vec::new(),
            most: file.size,
        };
        let blob = OciDescriptor {
            digest: file.digest.clone(),
            ..OciDescriptor::default()
        };
        let pulled = async {
            self.sign_in().await;
            let reference = &self.address.reference;
            self.client.pull_blob(reference, &blob, &mut to).await
        };
        self.runtime.block_on(pulled).map_err(|e| self.fail(e))?;
        Ok(to.bytes)
    }

    /// Puts a file's content there, unless it is there already. `next` gives it piece by piece.
    pub fn push<E: From<Error>>(
        &self,
        file: &File,
        mut next: impl FnMut() -> std::result::Result<Option<Vec<u8>>, E>,
    ) -> std::result::Result<(), E> {
        let there = async {
            self.sign_in().await;
            let reference = &self.address.reference;
            self.client.blob_exists(reference, &file.digest).await
        };
        if self.runtime.block_on(there).map_err(|e| self.fail(e))? {
            return Ok(());
        }
        let (pieces, arriving) = mpsc::channel(AHEAD);
        let sending = {
            let (client, reference) = (Arc::clone(&self.client), self.address.reference.clone());
            let File { digest, size } = file.clone();
            let pieces = stream::unfold(arriving, |mut arriving| async {
                arriving.recv().await.map(|piece| (Ok(piece), arriving))
            });
            self.runtime.spawn(async move {
                let pushed = client.push_blob_stream(&reference, pieces, &digest, Some(size));
                pushed.await.map(|_| ())
            })
        };
        loop {
            match next() {
                Ok(Some(piece)) => {
                    // Whoever does not take it has failed, and says why below.
                    if pieces.blocking_send(Bytes::from(piece)).is_err() {
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    // Not as if the file ended here.
                    sending.abort();
                    return Err(error);
                }
            }
        }
        drop(pieces);
        let sent = self.runtime.block_on(sending);
        let gone = |e| Error::broken(&self.address, format!("sending was ended: {e}"));
        sent.map_err(gone)?.map_err(|e| self.fail(e))?;
        Ok(())
    }

    /// From now on these files are what there is.
    pub fn publish(&self, files: &Listing) -> Result<()> {
        let configuration = File {
            digest: listing::CONFIGURATION_DIGEST.to_owned(),
            size: listing::CONFIGURATION.len() as u64,
        };
        let mut content = Some(listing::CONFIGURATION.to_vec());
        self.push::<Error>(&configuration, || Ok(content.take()))?;
        let media_type = listing::MEDIA_TYPE.parse();
        let media_type =
            media_type.map_err(|_| Error::broken(listing::MEDIA_TYPE, "is no type"))?;
        let reference = &self.address.reference;
        let pushed = self
            .client
            .push_manifest_raw(reference, files.encode(), media_type);
        self.runtime.block_on(pushed).map_err(|e| self.fail(e))?;
        Ok(())
    }

    /// The client asks for a token when it needs one, with these.
    async fn sign_in(&self) {
        let registry = self.address.reference.resolve_registry();
        self.client
            .store_auth_if_needed(registry, &self.credentials)
            .await;
    }

    fn fail(&self, source: OciDistributionError) -> Error {
        fail(&self.address, source)
    }
}

/// Takes so many bytes at most.
struct Limited {
    bytes: Vec<u8>,
    most: u64,
}

impl AsyncWrite for Limited {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let len = self.bytes.len().saturating_add(bytes.len());
        if len as u64 > self.most {
            return Poll::Ready(Err(io::Error::other("it is longer than it should be")));
        }
        self.bytes.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn fail(address: &Address, source: OciDistributionError) -> Error {
    Error::Registry {
        address: address.to_string(),
        source: Box::new(source),
    }
}

/// Whether the registry says that there is no such manifest, or no such repository yet.
fn is_absent(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => true,
        OciDistributionError::ServerError { code, .. } => *code == 404,
        OciDistributionError::RegistryError { envelope, .. } => envelope.errors.iter().any(|e| {
            matches!(
                e.code,
                OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound
            )
        }),
        _ => false,
    }
}

/// What this user has signed in with.
fn credentials(address: &Address) -> Result<RegistryAuth> {
    match docker_credential::get_credential(address.reference.registry()) {
        Ok(DockerCredential::UsernamePassword(name, password)) => {
            Ok(RegistryAuth::Basic(name, password))
        }
        Ok(DockerCredential::IdentityToken(_)) => {
            let why =
                "signing in with an identity token is not supported; use a name and a password";
            Err(Error::broken(address, why))
        }
        Err(
            CredentialRetrievalError::ConfigNotFound
            | CredentialRetrievalError::ConfigReadError
            | CredentialRetrievalError::NoCredentialConfigured,
        ) => Ok(RegistryAuth::Anonymous),
        Err(error) => Err(Error::broken(address, format!("no credentials: {error}"))),
    }
}
