// SPDX-License-Identifier: GPL-2.0-or-later

//! The first words on a stream.
//!
//! Both sides say one [`Hello`], and go on only if they agree. That the other is the node that it says it is, its
//! certificate proves.

use crate::config::Config;
use crate::config::Peer;
use crate::config::Volume;
use dmholey_cluster::ids::NodeId;
use dmholey_cluster::message::VERSION;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::ServerName;
use serde::Deserialize;
use serde::Serialize;

/// What a node says of itself. Its first bytes stay in all versions: whoever speaks another one can tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of the protocol.
    pub version: u16,
    /// The number of the node.
    pub node: u8,
    /// The name of the cluster.
    pub cluster: String,
    /// The length of the volume.
    pub chunks: u64,
    /// The length of a chunk, in sectors.
    pub chunk_sectors: u32,
}

/// Why a peer is not talked to.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HelloError {
    /// It is no hello.
    #[error("it did not say hello as version {VERSION} does")]
    Malformed,
    /// Another version.
    #[error("it speaks version {0} of the protocol, this agent {VERSION}: install the same on all nodes")]
    Version(u16),
    /// Another cluster.
    #[error("it belongs to the cluster \"{0}\"")]
    Cluster(String),
    /// Another volume.
    #[error("its volume has {0} chunks of {1} sectors")]
    Volume(u64, u32),
    /// A node that should not be there.
    #[error("it says that it is node {0}, which it cannot be")]
    Node(u8),
    /// Somebody else.
    #[error("its certificate is not made out to {0}")]
    Certificate(String),
}

impl Hello {
    /// What this node says.
    pub fn of(config: &Config) -> Self {
        let Volume {
            chunks,
            chunk_sectors,
        } = config.volume;
        Self {
            version: VERSION,
            node: config.me.number(),
            cluster: config.cluster.clone(),
            chunks,
            chunk_sectors,
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// The peer that has said these bytes, if it may; `expected` is who should be there, if that is known.
    pub fn check(
        bytes: &[u8],
        config: &Config,
        expected: Option<NodeId>,
        certificate: &CertificateDer<'_>,
    ) -> Result<Peer, HelloError> {
        let (version, _): (u16, _) =
            postcard::take_from_bytes(bytes).map_err(|_| HelloError::Malformed)?;
        if version != VERSION {
            return Err(HelloError::Version(version));
        }
        let (hello, rest): (Self, _) =
            postcard::take_from_bytes(bytes).map_err(|_| HelloError::Malformed)?;
        if !rest.is_empty() {
            return Err(HelloError::Malformed);
        }
        if hello.cluster != config.cluster {
            return Err(HelloError::Cluster(hello.cluster));
        }
        let volume = Volume {
            chunks: hello.chunks,
            chunk_sectors: hello.chunk_sectors,
        };
        if volume != config.volume {
            return Err(HelloError::Volume(hello.chunks, hello.chunk_sectors));
        }
        let wrong = HelloError::Node(hello.node);
        let peer = NodeId::new(hello.node)
            .filter(|&node| expected.is_none_or(|expected| expected == node))
            .and_then(|node| config.peers().find(|peer| peer.id == node))
            .ok_or(wrong)?;
        if is_made_out_to(certificate, &peer.name) {
            Ok(peer.clone())
        } else {
            Err(HelloError::Certificate(peer.name.clone()))
        }
    }
}

/// Whether a certificate, the chain of which has been verified, is for this name.
fn is_made_out_to(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let Ok(name) = ServerName::try_from(name) else {
        return false;
    };
    webpki::EndEntityCert::try_from(certificate)
        .is_ok_and(|certificate| certificate.verify_is_valid_for_subject_name(&name).is_ok())
}
