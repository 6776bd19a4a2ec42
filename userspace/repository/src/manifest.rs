// SPDX-License-Identifier: GPL-2.0-or-later

//! The list of what is in a repository.

use dmholey_delta::Digest;
use serde::Deserialize;
use serde::Serialize;

/// The form of the list that is described here.
pub const FORMAT: u32 = 1;
/// The number of the empty image: a delta from there is a whole image.
pub const EMPTY: u64 = 0;
/// Bytes of a list at most.
pub const MAX_LEN: u64 = 64 << 20;
/// Bytes of a remark at most.
pub const MAX_NOTE: usize = 4096;

/// What is in a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The image at the bottom; missing before the first checkpoint.
    pub base: Option<Base>,
    /// The stores over it, from below.
    pub layers: Vec<Layer>,
    /// The versions that can be read, by number.
    pub versions: Vec<Version>,
    /// The deltas, by the two versions.
    pub deltas: Vec<Link>,
    /// The UUID of the snapshot, a device of the host that the master is on, that records what has changed in the master
    /// since the newest version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorder: Option<String>,
}

/// The image at the bottom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// The version that it is.
    pub version: u64,
    /// Its bytes. What the file has behind them means nothing.
    pub bytes: u64,
}

/// A store that makes a version of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// The version that it makes.
    pub version: u64,
    /// Bytes of that version.
    pub bytes: u64,
}

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// Its number: 1 for the first one, and never given again.
    pub number: u64,
    /// When it was made, in seconds since 1970.
    pub made: u64,
    /// Bytes of the image.
    pub bytes: u64,
    /// Digest of the image: see [`dmholey_delta::digest::image`].
    pub digest: Digest,
    /// Root digest for dm-verity, if it was asked for: see [`dmholey_delta::digest::verity`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verity: Option<Digest>,
    /// Bytes of the chunks that differ from the version before.
    pub changed_bytes: u64,
    /// What was said about it.
    pub note: String,
}

/// A delta between two versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// The version it starts from; [`EMPTY`] for a whole image.
    pub from: u64,
    /// The version it makes.
    pub to: u64,
    /// Bytes of the delta.
    pub bytes: u64,
    /// What vouches for all of it: see [`dmholey_delta::format::Header::identity`].
    pub identity: Digest,
}

impl Default for Manifest {
    fn default() -> Self {
        Self {
            format: FORMAT,
            base: None,
            layers: Vec::new(),
            versions: Vec::new(),
            deltas: Vec::new(),
            recorder: None,
        }
    }
}

impl Manifest {
    /// Reads a list and checks it, or tells what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if format != FORMAT {
            let why = "is not known here; a newer dmholey may know it";
            return Err(format!("format {format} {why}"));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Writes it.
    pub fn encode(&self) -> Vec<u8> {
        // Serialising to memory cannot fail for these types; an empty list would be refused when read.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// The version with this number.
    pub fn version(&self, number: u64) -> Option<&Version> {
        self.versions.iter().find(|v| v.number == number)
    }

    /// The newest version.
    pub fn last(&self) -> Option<&Version> {
        self.versions.last()
    }

    /// The delta between two versions.
    pub fn delta(&self, from: u64, to: u64) -> Option<&Link> {
        self.deltas.iter().find(|d| (d.from, d.to) == (from, to))
    }

    /// Puts a delta into its place, instead of another one for the same versions.
    pub fn set_delta(&mut self, link: Link) {
        self.deltas
            .retain(|d| (d.from, d.to) != (link.from, link.to));
        self.deltas.push(link);
        self.deltas.sort_unstable_by_key(|d| (d.from, d.to));
    }

    fn check(&self) -> Result<(), String> {
        let Some(base) = self.base else {
            let empty = self.layers.is_empty() && self.versions.is_empty();
            let empty = empty && self.deltas.is_empty();
            return empty.then_some(()).ok_or_else(|| "it has no base".into());
        };
        let mut known = vec![(base.version, base.bytes)];
        known.extend(self.layers.iter().map(|layer| (layer.version, layer.bytes)));
        ascend(known.iter().map(|&(version, _)| version), "layer")?;
        ascend(self.versions.iter().map(|v| v.number), "version")?;
        if known.first().is_some_and(|&(version, _)| version == EMPTY) {
            return Err("version 0 is the empty image, which is in no list".into());
        }
        for version in &self.versions {
            if !known.contains(&(version.number, version.bytes)) {
                return Err(format!("nothing makes version {}", version.number));
            }
        }
        if self.last().map(|v| v.number) != known.last().map(|&(version, _)| version) {
            return Err("the newest version is missing".into());
        }
        ascend(self.deltas.iter().map(|d| (d.from, d.to)), "delta")?;
        for delta in &self.deltas {
            let from = delta.from == EMPTY || self.version(delta.from).is_some();
            if !from || self.version(delta.to).is_none() || delta.from >= delta.to {
                let (from, to) = (delta.from, delta.to);
                return Err(format!("there cannot be a delta from {from} to {to}"));
            }
        }
        Ok(())
    }
}

/// Fails unless each is greater than the one before.
fn ascend<T: PartialOrd + Copy>(
    all: impl Iterator<Item = T> + Clone,
    what: &str,
) -> Result<(), String> {
    let sorted = all.clone().zip(all.skip(1)).all(|(a, b)| a < b);
    let why = || format!("a {what} is listed twice or out of order");
    sorted.then_some(()).ok_or_else(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        let digest = Digest::of(b"x");
        let version = |number, bytes| Version {
            number,
            made: 0,
            bytes,
            digest,
            verity: None,
            changed_bytes: 0,
            note: String::new(),
        };
        Manifest {
            format: FORMAT,
            base: Some(Base {
                version: 1,
                bytes: 10,
            }),
            layers: vec![
                Layer {
                    version: 2,
                    bytes: 20,
                },
                Layer {
                    version: 3,
                    bytes: 30,
                },
            ],
            versions: vec![version(1, 10), version(2, 20), version(3, 30)],
            deltas: vec![Link {
                from: 1,
                to: 3,
                bytes: 5,
                identity: digest,
            }],
            recorder: None,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut verified = sample();
        verified.versions[1].verity = Some(Digest::of(b"root"));
        let mut recorded = sample();
        recorded.recorder = Some("a-device".to_owned());
        for manifest in [Manifest::default(), sample(), verified, recorded] {
            assert_eq!(Manifest::parse(&manifest.encode()), Ok(manifest));
        }
    }

    #[test]
    fn broken_lists_are_refused() {
        let refuse = |change: &dyn Fn(&mut Manifest), text: &str| {
            let mut manifest = sample();
            change(&mut manifest);
            let error = Manifest::parse(&manifest.encode()).unwrap_err();
            assert!(error.contains(text), "{error}");
        };
        refuse(&|m| m.format = 2, "format 2 is not known");
        refuse(&|m| m.base = None, "no base");
        refuse(&|m| m.layers.swap(0, 1), "out of order");
        refuse(&|m| m.versions.swap(0, 1), "out of order");
        refuse(&|m| m.layers[0].bytes = 21, "nothing makes version 2");
        refuse(&|m| m.layers[0].version = 1, "twice");
        refuse(&|m| drop(m.versions.pop()), "newest version is missing");
        refuse(&|m| m.deltas[0].to = 4, "from 1 to 4");
        refuse(
            &|m| m.base = m.base.map(|base| Base { version: 0, ..base }),
            "empty image",
        );
        refuse(&|m| m.deltas.push(m.deltas[0]), "twice");
        let error = Manifest::parse(b"{\"format\": 1, \"extra\": 2}").unwrap_err();
        assert!(error.contains("extra"), "{error}");
    }

    #[test]
    fn a_delta_replaces_another() {
        let mut manifest = sample();
        let link = |from, to, bytes| Link {
            from,
            to,
            bytes,
            identity: Digest::of(b"y"),
        };
        manifest.set_delta(link(1, 3, 7));
        manifest.set_delta(link(1, 2, 8));
        let deltas: Vec<_> = manifest.deltas.iter().map(|d| (d.to, d.bytes)).collect();
        assert_eq!(deltas, [(2, 8), (3, 7)]);
        assert_eq!(manifest.delta(1, 3).map(|d| d.bytes), Some(7));
    }
}
