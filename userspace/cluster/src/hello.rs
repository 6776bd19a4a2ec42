// SPDX-License-Identifier: GPL-2.0-or-later

//! The first words on a stream, from both sides.

use crate::message::VERSION;
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
    /// A digest of all nodes: each node asks those of its own configuration, so all have to name the same.
    pub nodes: [u8; 32],
}

/// Why bytes are no [`Hello`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// They are something else.
    #[error("it did not say hello as version {VERSION} does")]
    Malformed,
    /// They are one of another version.
    #[error("it speaks version {0} of the protocol, this agent {VERSION}: install the same on all nodes")]
    Version(u16),
}

impl Hello {
    /// Its bytes, by postcard as those of messages.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// Reads what [`Self::encode`] has written.
    pub fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        let malformed = |_| HelloError::Malformed;
        let (version, _): (u16, _) = postcard::take_from_bytes(bytes).map_err(malformed)?;
        if version != VERSION {
            return Err(HelloError::Version(version));
        }
        match postcard::take_from_bytes(bytes).map_err(malformed)? {
            (hello, []) => Ok(hello),
            _ => Err(HelloError::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            version: VERSION,
            node: 2,
            cluster: "c".to_owned(),
            chunks: 300,
            chunk_sectors: 8,
            nodes: [9; 32],
        }
    }

    /// The bytes as Documentation/cluster-protocol.rst describes them.
    #[test]
    fn the_format_stays() {
        let mut bytes = vec![2, 2, 1, b'c', 0xac, 0x02, 8];
        bytes.extend([9; 32]);
        assert_eq!(hello().encode(), bytes);
        assert_eq!(Hello::decode(&bytes), Ok(hello()));
        for cut in 0..bytes.len() {
            assert_eq!(Hello::decode(&bytes[..cut]), Err(HelloError::Malformed));
        }
        bytes.push(0);
        assert_eq!(Hello::decode(&bytes), Err(HelloError::Malformed));
    }

    #[test]
    fn another_version_is_told_by_its_first_bytes() {
        assert_eq!(Hello::decode(&[3, 1, 2]), Err(HelloError::Version(3)));
        assert_eq!(Hello::decode(&[0xff]), Err(HelloError::Malformed));
    }
}
