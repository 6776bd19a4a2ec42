// SPDX-License-Identifier: GPL-2.0-or-later

//! The first words on a stream.
//!
//! Both sides say one [`Hello`], and go on only if they agree. That the other is the node that it says it is, its
//! certificate proves.

use crate::config::Config;
use crate::config::Peer;
use crate::config::Volume;
use dmholey_cluster::hello;
use dmholey_cluster::hello::Hello;
use dmholey_cluster::ids::NodeId;
use dmholey_cluster::message::VERSION;
use ring::digest::Context;
use ring::digest::SHA256;
use ring::digest::SHA256_OUTPUT_LEN;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::ServerName;

/// The length of a digest, in bytes: that of SHA-256.
pub const DIGEST: usize = SHA256_OUTPUT_LEN;

/// Why a peer is not talked to.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HelloError {
    /// It is no hello, or one of another version.
    #[error(transparent)]
    Words(#[from] hello::HelloError),
    /// Another cluster.
    #[error("it belongs to the cluster \"{0}\"")]
    Cluster(String),
    /// Another volume.
    #[error("its volume has {0} chunks of {1} sectors")]
    Volume(u64, u32),
    /// A configuration that names other nodes.
    #[error("its configuration names other nodes: [[nodes]] has to have the same ids and names on all hosts")]
    Nodes,
    /// A node that should not be there.
    #[error("it says that it is node {0}, which it cannot be")]
    Node(u8),
    /// Somebody else.
    #[error("its certificate is not made out to {0}")]
    Certificate(String),
}

/// What this node says.
pub fn own(config: &Config) -> Hello {
    let Volume {
        chunks,
        chunk_sectors,
    } = config.volume;
    Hello {
        version: VERSION,
        node: config.me.number(),
        cluster: config.cluster.clone(),
        chunks,
        chunk_sectors,
        nodes: digest(config.nodes.values()),
    }
}

/// The peer that has said these bytes, if it may; `expected` is who should be there, if that is known.
pub fn check(
    bytes: &[u8],
    config: &Config,
    expected: Option<NodeId>,
    certificate: &CertificateDer<'_>,
) -> Result<Peer, HelloError> {
    let hello = Hello::decode(bytes)?;
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
    if hello.nodes != digest(config.nodes.values()) {
        return Err(HelloError::Nodes);
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

/// The SHA-256 of each node's number, one byte, the length of its name, eight bytes with the lowest first, and the name;
/// the lowest number first. Addresses are left out: a node may be reached by several.
pub fn digest<'a>(nodes: impl Iterator<Item = &'a Peer>) -> [u8; DIGEST] {
    let mut nodes: Vec<&Peer> = nodes.collect();
    nodes.sort_by_key(|peer| peer.id);
    let mut context = Context::new(&SHA256);
    for peer in nodes {
        context.update(&[peer.id.number()]);
        context.update(&(peer.name.len() as u64).to_le_bytes());
        context.update(peer.name.as_bytes());
    }
    let mut bytes = [0; DIGEST];
    // The algorithm gives as many.
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

/// Whether a certificate, the chain of which has been verified, is for this name.
fn is_made_out_to(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let Ok(name) = ServerName::try_from(name) else {
        return false;
    };
    webpki::EndEntityCert::try_from(certificate)
        .is_ok_and(|certificate| certificate.verify_is_valid_for_subject_name(&name).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: u8, name: &str, address: &str) -> Peer {
        Peer {
            id: NodeId::new(id).unwrap(),
            name: name.to_owned(),
            address: address.to_owned(),
        }
    }

    #[test]
    fn the_digest_is_of_numbers_and_names() {
        let all = [peer(1, "n1", "a:1"), peer(2, "n2", "b:1")];
        let same = [peer(2, "n2", "c:1"), peer(1, "n1", "d:1")];
        assert_eq!(digest(all.iter()), digest(same.iter()));
        // As printf '\1\2\0\0\0\0\0\0\0n1\2\2\0\0\0\0\0\0\0n2' | sha256sum says.
        let known = [
            0x5e, 0x6d, 0xbb, 0xcd, 0xbd, 0x92, 0x45, 0x5e, 0xc5, 0x3b, 0x53, 0xa9, 0xe6, 0x41,
            0x5b, 0x8c, 0x1d, 0x90, 0xd8, 0x7e, 0x11, 0x2b, 0x55, 0x5c, 0x82, 0x6b, 0x4b, 0xdf,
            0xc2, 0x2e, 0x4f, 0x35,
        ];
        assert_eq!(digest(all.iter()), known);
        for other in [
            vec![peer(1, "n1", "a:1")],
            vec![peer(1, "n1", "a:1"), peer(3, "n2", "b:1")],
            vec![peer(1, "n1", "a:1"), peer(2, "n3", "b:1")],
            vec![peer(1, "n2", "a:1"), peer(2, "n1", "b:1")],
        ] {
            assert_ne!(digest(all.iter()), digest(other.iter()));
        }
    }
}
