// SPDX-License-Identifier: GPL-2.0-or-later

//! The configuration of a cluster, as each of its nodes has it in a file.

use crate::kernel::Devices;
use dmholey_cluster::ids::NodeId;
use rustls::client::WebPkiServerVerifier;
use rustls::server::WebPkiClientVerifier;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::ServerName;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub mod recycle;

use recycle::Policy;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cluster: String,
    node: String,
    state: PathBuf,
    volume: Volume,
    devices: Option<Devices>,
    listen: Option<String>,
    metrics: Option<String>,
    /// Fences a copier that is silent.
    fence: Option<String>,
    #[serde(default = "fence_ms")]
    fence_ms: u64,
    recycle: Option<recycle::Section>,
    #[serde(default = "beat_ms")]
    beat_ms: u64,
    #[serde(default = "patience_ms")]
    patience_ms: u64,
    #[serde(default = "keep_patience_ms")]
    keep_patience_ms: u64,
    tls: Tls,
    nodes: Vec<Peer>,
}

const fn beat_ms() -> u64 {
    500
}

const fn patience_ms() -> u64 {
    3000
}

const fn fence_ms() -> u64 {
    240_000
}

const fn keep_patience_ms() -> u64 {
    30_000
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tls {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

/// What is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Its length.
    pub chunks: u64,
    /// The length of a chunk, in sectors of 512 bytes.
    pub chunk_sectors: u32,
}

/// A node, as the configuration describes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its number, below 64.
    pub id: NodeId,
    /// Its name; that its certificate is made out to.
    pub name: String,
    /// Where it listens: a name or an address, a colon, a port.
    pub address: String,
}

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name of the cluster.
    pub cluster: String,
    /// This node.
    pub me: NodeId,
    /// All nodes, this one too.
    pub nodes: BTreeMap<NodeId, Peer>,
    /// A folder of this node, for what has to outlive it.
    pub state: PathBuf,
    /// What is shared.
    pub volume: Volume,
    /// The devices of this node, if it has any.
    pub devices: Option<Devices>,
    /// Where this node listens, if that is not its address in `nodes`.
    pub listen: Option<String>,
    /// Where this node tells its figures, if it does.
    pub metrics: Option<String>,
    /// A command for the shell that fences the node `$DMHOLEY_NODE`.
    pub fence: Option<String>,
    /// It is killed after so long.
    pub fence_limit: Duration,
    /// When this node starts over by itself, if it does.
    pub recycle: Option<Policy>,
    /// Time between two signs of life.
    pub beat: Duration,
    /// After so much silence somebody is suspected.
    pub patience: Duration,
    /// And so is a copier that has kept nothing for so long, while others do or the volume answers.
    pub keep_patience: Duration,
    /// For streams that this node opens.
    pub client: Arc<ClientConfig>,
    /// For streams that others open.
    pub server: Arc<ServerConfig>,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, std::io::Error),
    /// It is not what it should be.
    #[error("{0}: {1}")]
    Parse(PathBuf, String),
    /// What it says cannot be.
    #[error("{0}: {1}")]
    Wrong(PathBuf, String),
}

impl Config {
    /// Reads a file, and those that it names; relative names are relative to its folder.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Read(path.to_owned(), error))?;
        let file: File = toml::from_str(&text)
            .map_err(|error| ConfigError::Parse(path.to_owned(), error.to_string()))?;
        let wrong = |text: String| ConfigError::Wrong(path.to_owned(), text);
        let mut nodes = BTreeMap::new();
        for peer in &file.nodes {
            ServerName::try_from(peer.name.as_str())
                .map_err(|_| wrong(format!("\"{}\" is no name for a host", peer.name)))?;
            if nodes.values().any(|other: &Peer| other.name == peer.name) {
                return Err(wrong(format!("two nodes are called {}", peer.name)));
            }
            if let Some(other) = nodes.insert(peer.id, peer.clone()) {
                let text = format!("{} and {} have the same id", other.name, peer.name);
                return Err(wrong(text));
            }
        }
        let me = nodes.values().find(|peer| peer.name == file.node);
        let me = me
            .map(|peer| peer.id)
            .ok_or_else(|| wrong(format!("this node, {}, is not among [[nodes]]", file.node)))?;
        if file.volume.chunks == 0 || !file.volume.chunk_sectors.is_power_of_two() {
            let text = "[volume] needs chunks, and a power of two as chunk_sectors";
            return Err(wrong(text.into()));
        }
        if file.beat_ms == 0 || file.patience_ms < 2 * file.beat_ms {
            let text = "patience_ms has to be at least twice beat_ms, and that not 0";
            return Err(wrong(text.into()));
        }
        if file.fence_ms < 1000 {
            return Err(wrong("fence_ms has to be at least 1000".into()));
        }
        if file.keep_patience_ms < file.patience_ms {
            return Err(wrong(
                "keep_patience_ms has to be at least patience_ms".into(),
            ));
        }
        let recycle = file.recycle.map(recycle::Section::check).transpose();
        let recycle = recycle.map_err(|text| wrong(format!("[recycle]: {text}")))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let (client, server) = file.tls.load(folder)?;
        Ok(Self {
            cluster: file.cluster,
            me,
            nodes,
            state: folder.join(file.state),
            volume: file.volume,
            devices: file.devices,
            listen: file.listen,
            metrics: file.metrics,
            fence: file.fence,
            fence_limit: Duration::from_millis(file.fence_ms),
            recycle,
            beat: Duration::from_millis(file.beat_ms),
            patience: Duration::from_millis(file.patience_ms),
            keep_patience: Duration::from_millis(file.keep_patience_ms),
            client: Arc::new(client),
            server: Arc::new(server),
        })
    }

    /// All but this node.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.nodes.values().filter(|peer| peer.id != self.me)
    }
}

impl Tls {
    /// TLS 1.3 with certificates of this authority on both sides, and nothing else.
    fn load(&self, folder: &Path) -> Result<(ClientConfig, ServerConfig), ConfigError> {
        let (ca, certificate, key) = (
            folder.join(&self.ca),
            folder.join(&self.certificate),
            folder.join(&self.key),
        );
        let pem = |path: &Path, error: rustls_pki_types::pem::Error| {
            ConfigError::Parse(path.to_owned(), error.to_string())
        };
        let wrong = |path: &Path, error: String| ConfigError::Wrong(path.to_owned(), error);
        let mut roots = RootCertStore::empty();
        for root in certificates(&ca).map_err(|error| pem(&ca, error))? {
            roots
                .add(root)
                .map_err(|error| wrong(&ca, error.to_string()))?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(&certificate).map_err(|error| pem(&certificate, error))?;
        let private = PrivateKeyDer::from_pem_file(&key).map_err(|error| pem(&key, error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = &[&rustls::version::TLS13];
        let to_text = |error: rustls::Error| wrong(&certificate, error.to_string());

        let verifier = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| wrong(&ca, error.to_string()))?;
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(to_text)?
            .with_webpki_verifier(verifier)
            .with_client_auth_cert(chain.clone(), private.clone_key())
            .map_err(to_text)?;

        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|error| wrong(&ca, error.to_string()))?;
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(to_text)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, private)
            .map_err(to_text)?;
        Ok((client, server))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, rustls_pki_types::pem::Error> {
    let all: Vec<_> = CertificateDer::pem_file_iter(path)?.collect::<Result<_, _>>()?;
    if all.is_empty() {
        return Err(rustls_pki_types::pem::Error::NoItemsFound);
    }
    Ok(all)
}
