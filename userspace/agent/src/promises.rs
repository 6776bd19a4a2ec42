// SPDX-License-Identifier: GPL-2.0-or-later

//! The ballots that a node must not forget: its own last claim, those of others that it has accepted, and the last
//! one with which it was the writer.

use dmholey_cluster::event::Memory;
use dmholey_cluster::ids::Ballot;
use dmholey_cluster::ids::NodeId;
use serde::Deserialize;
use serde::Serialize;
use std::fs::File;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

/// The name of the file.
const NAME: &str = "promises.toml";

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    #[serde(default)]
    won: Ballot,
    #[serde(default)]
    promises: Vec<Promise>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Promise {
    node: NodeId,
    ballot: Ballot,
}

/// They, in a file.
#[derive(Debug)]
pub struct Promises {
    folder: PathBuf,
    memory: Memory,
}

impl Promises {
    /// Those in a folder, which is made if it is not there. A file that cannot be read is an error: without what it
    /// says the node could break its word.
    pub fn open(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let contents = match std::fs::read_to_string(folder.join(NAME)) {
            Ok(text) => toml::from_str::<Contents>(&text).map_err(|error| {
                let path = folder.join(NAME);
                io::Error::other(format!("{}: {error}", path.display()))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Contents::default(),
            Err(error) => return Err(error),
        };
        let promises = contents.promises.iter();
        let memory = Memory {
            promised: promises
                .map(|promise| (promise.node, promise.ballot))
                .collect(),
            won: contents.won,
        };
        Ok(Self {
            folder: folder.to_owned(),
            memory,
        })
    }

    /// All of them.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Remembers a promise; it is on stable media afterwards.
    pub fn keep(&mut self, node: NodeId, ballot: Ballot) -> io::Result<()> {
        self.memory.promised.insert(node, ballot);
        self.write()
    }

    /// Remembers that this node is the writer; it is on stable media afterwards.
    pub fn won(&mut self, ballot: Ballot) -> io::Result<()> {
        self.memory.won = ballot;
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        let promises = self.memory.promised.iter();
        let contents = Contents {
            won: self.memory.won,
            promises: promises
                .map(|(&node, &ballot)| Promise { node, ballot })
                .collect(),
        };
        let text = toml::to_string(&contents).map_err(io::Error::other)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(self.folder.join(NAME))?;
        File::open(&self.folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_outlives_the_agent() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let node = |number| NodeId::new(number).unwrap();
        let ballot = |number| Ballot { number, node: 1 };
        let mut promises = Promises::open(&state).unwrap();
        assert_eq!(promises.memory(), &Memory::default());
        promises.keep(node(1), ballot(3)).unwrap();
        promises.keep(node(0), ballot(4)).unwrap();
        promises.keep(node(1), ballot(5)).unwrap();
        promises.won(ballot(u64::MAX)).unwrap();
        let again = Promises::open(&state).unwrap();
        assert_eq!(again.memory(), promises.memory());
        assert_eq!(again.memory().promised[&node(1)], ballot(5));
        assert_eq!(again.memory().won, ballot(u64::MAX));
        std::fs::write(state.join(NAME), "promises = 1").unwrap();
        let error = Promises::open(&state).unwrap_err().to_string();
        assert!(error.contains(NAME), "{error}");
    }
}
