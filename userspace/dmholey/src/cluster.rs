// SPDX-License-Identifier: GPL-2.0-or-later

//! What the commands and the agent of a cluster say to each other.
//!
//! The agent listens on a socket of this host. A request is one line of JSON, and so is the reply; then the agent closes
//! the connection.

use crate::dm::status::Usage;
use serde::Deserialize;
use serde::Serialize;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// What the agent is asked to do. Nodes go by their names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// To say how things are.
    Status,
    /// To become a copier.
    Join {
        /// For how many seconds to wait for that.
        wait: u64,
    },
    /// To stop being one.
    Leave {
        /// As above.
        wait: u64,
    },
    /// To leave and to join again, with an empty overlay.
    Recycle {
        /// As above, for each of both.
        wait: u64,
    },
    /// To become the writer.
    Takeover {
        /// Nodes that cannot reach the volume.
        fenced: Vec<String>,
        /// The node that has merged a part of its overlay, if there is one.
        half_merged: Option<String>,
        /// As above.
        wait: u64,
    },
    /// To stop being the writer.
    Demote {
        /// As above.
        wait: u64,
    },
    /// To drop a copier that cannot reach the volume.
    Evict {
        /// Which.
        node: String,
    },
}

/// The agent's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// It was done; how things are now.
    Done(Box<Status>),
    /// It was not, and cannot be as things are.
    Failed(String),
    /// It is not yet: that is a matter of time.
    Later(String),
}

/// How things are at a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The cluster.
    pub cluster: String,
    /// The node.
    pub node: String,
    /// What it is: idle, joining, copier, claiming, writer, demoting.
    pub role: String,
    /// The ballot of the writer that it knows.
    pub ballot: String,
    /// Whether its overlay is being merged into the volume.
    pub merging: bool,
    /// All other nodes.
    pub peers: Vec<Peer>,
    /// The device for applications, and what the kernel says of it.
    pub device: String,
    /// How full the overlay of this node is, if it has one.
    #[serde(default)]
    pub overlay: Option<Usage>,
    /// Whose turn to start over it is, as far as this node knows.
    #[serde(default)]
    pub recycling: Option<String>,
    /// Why its device is not what it should be, if that is so.
    #[serde(default)]
    pub trouble: Option<String>,
    /// The last thing that could not be done.
    pub refusal: Option<String>,
}

/// Another node, as this one sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub node: String,
    /// Whether there is a stream to it.
    pub connected: bool,
    /// For a writer: whether it is a copier, and has joined.
    pub copier: Option<bool>,
    /// Whether it is such a copier and silent, or keeps nothing: writes wait for it.
    #[serde(default)]
    pub suspected: bool,
    /// Whether something waits for it.
    pub awaited: bool,
}

/// Asks the agent.
pub fn ask(socket: &Path, request: &Request) -> io::Result<Reply> {
    let mut stream = UnixStream::connect(socket)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    // Nobody is to take this for the end of a pipe that is read no more, which is no failure.
    stream
        .write_all(&line)
        .map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => io::ErrorKind::ConnectionReset.into(),
            _ => error,
        })?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    serde_json::from_str(&text).map_err(|error| {
        let text = format!("the agent's answer is not to be understood: {error}");
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_lines_of_json() {
        let takeover = Request::Takeover {
            fenced: vec!["n1".to_owned()],
            half_merged: None,
            wait: 5,
        };
        let text = serde_json::to_string(&takeover).unwrap();
        assert_eq!(
            text,
            r#"{"command":"takeover","fenced":["n1"],"half_merged":null,"wait":5}"#
        );
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), takeover);
        assert!(serde_json::from_str::<Request>(r#"{"command":"dance"}"#).is_err());
    }
}
