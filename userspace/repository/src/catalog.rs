// SPDX-License-Identifier: GPL-2.0-or-later

//! The list of versions and deltas that clients get.

use crate::manifest::Link;
use crate::manifest::Manifest;
use crate::manifest::EMPTY;
use dmholey_delta::Digest;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// The form of the list that is described here.
pub const FORMAT: u32 = 1;
/// Folder of the metadata where something is published.
pub const METADATA: &str = "metadata";
/// Folder of the targets there.
pub const TARGETS: &str = "targets";
/// The target with the catalog.
pub const NAME: &str = "catalog.json";
/// The file there that changes with everything else.
pub const TIMESTAMP: &str = "metadata/timestamp.json";
/// Bytes of a catalog at most.
pub const MAX_LEN: u64 = 8 << 20;
/// Entries of each list in it at most.
const MAX_ENTRIES: usize = 1 << 16;

/// What is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    /// [`FORMAT`].
    pub format: u32,
    /// The versions, by number.
    pub versions: Vec<Version>,
    /// The deltas, by the two versions.
    pub deltas: Vec<Delta>,
    /// Files that are not offered any more, and stay for clients that are in the middle of them.
    #[serde(default)]
    pub withdrawn: Vec<Withdrawn>,
}

/// A version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Its number.
    pub number: u64,
    /// When it was made, in seconds since 1970.
    pub made: u64,
    /// Bytes of the image.
    pub bytes: u64,
    /// Digest of the image: see [`dmholey_delta::digest::image`].
    pub digest: Digest,
    /// Root digest for dm-verity, if there is one: see [`dmholey_delta::digest::verity`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verity: Option<Digest>,
    /// What was said about it.
    pub note: String,
}

/// A delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// The version it starts from; 0 is the empty image.
    pub from: u64,
    /// The version it makes.
    pub to: u64,
    /// Bytes of the delta.
    pub bytes: u64,
    /// What vouches for each part of it: see [`dmholey_delta::format::Header::identity`].
    pub identity: Digest,
    /// SHA-256 of all of it, which is also in its name.
    pub sha256: Digest,
}

/// A file that is not offered any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawn {
    /// Its name in the folder of the targets.
    pub name: String,
    /// Since when, in seconds since 1970.
    pub since: u64,
}

impl Delta {
    /// The name of the target.
    pub fn target(&self) -> String {
        format!("delta-{}-{}", self.from, self.to)
    }

    /// The name of the file in the folder of the targets.
    pub fn file(&self) -> String {
        format!("{}.{}", self.sha256, self.target())
    }
}

impl Catalog {
    /// The catalog of a repository, whose deltas have these SHA-256 digests.
    pub fn new(manifest: &Manifest, sha256: impl Fn(&Link) -> Option<Digest>) -> Self {
        let versions = manifest.versions.iter().map(|version| Version {
            number: version.number,
            made: version.made,
            bytes: version.bytes,
            digest: version.digest,
            verity: version.verity,
            note: version.note.clone(),
        });
        let deltas = manifest.deltas.iter().filter_map(|link| {
            Some(Delta {
                from: link.from,
                to: link.to,
                bytes: link.bytes,
                identity: link.identity,
                sha256: sha256(link)?,
            })
        });
        Self {
            format: FORMAT,
            versions: versions.collect(),
            deltas: deltas.collect(),
            withdrawn: Vec::new(),
        }
    }

    /// Reads a catalog and checks it, or tells what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        if bytes.len() as u64 > MAX_LEN {
            return Err("it is too large".into());
        }
        let Format { format } = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if format != FORMAT {
            let why = "is not known here; a newer dmholey may know it";
            return Err(format!("format {format} {why}"));
        }
        let catalog: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        catalog.check()?;
        Ok(catalog)
    }

    /// Writes it.
    pub fn encode(&self) -> Vec<u8> {
        // Serialising to memory cannot fail for these types; an empty catalog would be refused when read.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// The version with this number.
    pub fn version(&self, number: u64) -> Option<&Version> {
        let place = self.versions.binary_search_by_key(&number, |v| v.number);
        place.ok().and_then(|n| self.versions.get(n))
    }

    /// The newest version.
    pub fn last(&self) -> Option<&Version> {
        self.versions.last()
    }

    /// The deltas that lead from one version to another with the fewest bytes; of those, the fewest deltas.
    /// Nothing if there is no way.
    pub fn way(&self, from: u64, to: u64) -> Option<Vec<Delta>> {
        // Deltas lead upwards only, and are sorted by where they start.
        let mut best: BTreeMap<u64, (u64, usize, Option<&Delta>)> = BTreeMap::new();
        best.insert(from, (0, 0, None));
        for delta in &self.deltas {
            let Some(&(bytes, steps, _)) = best.get(&delta.from) else {
                continue;
            };
            let cost = (bytes.saturating_add(delta.bytes), steps + 1);
            let known = best.get(&delta.to).map(|&(bytes, steps, _)| (bytes, steps));
            if delta.to <= to && known.is_none_or(|known| cost < known) {
                best.insert(delta.to, (cost.0, cost.1, Some(delta)));
            }
        }
        let mut way = Vec::new();
        let mut at = to;
        while at != from {
            let (_, _, delta) = *best.get(&at)?;
            let delta = delta?;
            way.push(*delta);
            at = delta.from;
        }
        way.reverse();
        Some(way)
    }

    /// The cheapest way to a version for whoever has `from`: as [`Self::way`], or from the empty image if
    /// that has fewer bytes, or is the only one.
    pub fn cheapest(&self, from: u64, to: u64) -> Option<Vec<Delta>> {
        let bytes = |way: &Vec<Delta>| way.iter().map(|d| d.bytes).fold(0, u64::saturating_add);
        let ways = [self.way(from, to), self.way(EMPTY, to)];
        // Of two that are equal the first.
        ways.into_iter().flatten().min_by_key(bytes)
    }

    fn check(&self) -> Result<(), String> {
        let lengths = [self.versions.len(), self.deltas.len(), self.withdrawn.len()];
        if lengths.iter().any(|&len| len > MAX_ENTRIES) {
            return Err("it has too many entries".into());
        }
        let sorted = self.versions.windows(2).all(|pair| match pair {
            [a, b] => a.number < b.number,
            _ => true,
        });
        if !sorted || self.versions.first().is_some_and(|v| v.number == 0) {
            return Err("its versions are out of order".into());
        }
        let mut last = None;
        for delta in &self.deltas {
            let from = delta.from == 0 || self.version(delta.from).is_some();
            if !from || self.version(delta.to).is_none() || delta.from >= delta.to {
                let Delta { from, to, .. } = delta;
                return Err(format!("there cannot be a delta from {from} to {to}"));
            }
            if last >= Some((delta.from, delta.to)) {
                return Err("its deltas are out of order".into());
            }
            last = Some((delta.from, delta.to));
        }
        // These names are paths to be removed: they must not lead out of their folder.
        let bad =
            |w: &&Withdrawn| w.name.is_empty() || w.name.contains('/') || w.name.starts_with('.');
        if let Some(bad) = self.withdrawn.iter().find(bad) {
            return Err(format!("'{}' is no name of a file", bad.name));
        }
        Ok(())
    }

    /// The files of all deltas.
    pub fn files(&self) -> BTreeSet<String> {
        self.deltas.iter().map(Delta::file).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn catalog(versions: u64, deltas: &[(u64, u64, u64)]) -> Catalog {
        let digest = Digest::of(b"x");
        let versions = (1..=versions).map(|number| Version {
            number,
            made: 0,
            bytes: 1,
            digest,
            verity: None,
            note: String::new(),
        });
        let mut deltas: Vec<Delta> = deltas
            .iter()
            .map(|&(from, to, bytes)| Delta {
                from,
                to,
                bytes,
                identity: digest,
                sha256: digest,
            })
            .collect();
        deltas.sort_by_key(|d| (d.from, d.to));
        deltas.dedup_by_key(|d| (d.from, d.to));
        Catalog {
            format: FORMAT,
            versions: versions.collect(),
            deltas,
            withdrawn: Vec::new(),
        }
    }

    fn steps(catalog: &Catalog, from: u64, to: u64) -> Option<Vec<(u64, u64)>> {
        let way = catalog.way(from, to)?;
        Some(way.iter().map(|d| (d.from, d.to)).collect())
    }

    #[test]
    fn the_cheapest_way_is_found() {
        let deltas = [(0, 3, 100), (1, 2, 10), (2, 3, 10), (1, 3, 15)];
        let catalog = catalog(4, &deltas);
        assert_eq!(steps(&catalog, 1, 3), Some(vec![(1, 3)]));
        assert_eq!(steps(&catalog, 2, 3), Some(vec![(2, 3)]));
        assert_eq!(steps(&catalog, 0, 3), Some(vec![(0, 3)]));
        assert_eq!(steps(&catalog, 3, 3), Some(vec![]));
        assert_eq!(steps(&catalog, 3, 1), None);
        assert_eq!(steps(&catalog, 1, 4), None);
        assert_eq!(steps(&catalog, 9, 3), None);
    }

    #[test]
    fn the_whole_image_is_a_way_too() {
        let deltas = [(0, 1, 90), (0, 3, 14), (1, 2, 10), (2, 3, 10), (3, 4, 50)];
        let catalog = catalog(4, &deltas);
        let steps = |from, to| {
            let way = catalog.cheapest(from, to)?;
            Some(way.iter().map(|d| (d.from, d.to)).collect::<Vec<_>>())
        };
        assert_eq!(steps(1, 3), Some(vec![(0, 3)]), "it is smaller");
        assert_eq!(steps(2, 3), Some(vec![(2, 3)]));
        assert_eq!(steps(1, 4), Some(vec![(0, 3), (3, 4)]));
        assert_eq!(steps(4, 3), Some(vec![(0, 3)]), "to an older one");
        assert_eq!(steps(3, 2), Some(vec![(0, 1), (1, 2)]));
        assert_eq!(steps(3, 3), Some(vec![]));
        assert_eq!(steps(1, 9), None);
    }

    proptest! {
        #[test]
        fn no_way_is_cheaper(deltas in prop::collection::vec((0u64..6, 1u64..6, 1u64..50), 0..20)) {
            let deltas: Vec<_> = deltas.into_iter().filter(|(from, to, _)| from < to).collect();
            let catalog = catalog(5, &deltas);
            prop_assert_eq!(Catalog::parse(&catalog.encode()), Ok(catalog.clone()));
            // Bellman and Ford's way: as many rounds as there are versions.
            for from in 0..6 {
                let mut cost = [None; 6];
                cost[from] = Some(0);
                for _ in 0..6 {
                    for d in &catalog.deltas {
                        if let Some(before) = cost[d.from as usize] {
                            let after = before + d.bytes;
                            let known = &mut cost[d.to as usize];
                            *known = Some(known.map_or(after, |known: u64| known.min(after)));
                        }
                    }
                }
                for (to, &cheapest) in cost.iter().enumerate().skip(from) {
                    let way = catalog.way(from as u64, to as u64);
                    let bytes = way.as_ref().map(|way| way.iter().map(|d| d.bytes).sum::<u64>());
                    prop_assert_eq!(bytes, cheapest);
                    let mut at = from as u64;
                    for delta in way.into_iter().flatten() {
                        prop_assert_eq!(delta.from, at);
                        at = delta.to;
                    }
                }
            }
        }

        #[test]
        fn foreign_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Catalog::parse(&bytes);
        }
    }

    #[test]
    fn broken_catalogs_are_refused() {
        let refuse = |change: &dyn Fn(&mut Catalog), text: &str| {
            let mut catalog = catalog(3, &[(1, 2, 5), (2, 3, 5)]);
            change(&mut catalog);
            let error = Catalog::parse(&catalog.encode()).unwrap_err();
            assert!(error.contains(text), "{error}");
        };
        refuse(&|c| c.format = 7, "format 7 is not known");
        refuse(&|c| c.versions.swap(0, 1), "out of order");
        refuse(&|c| c.deltas.swap(0, 1), "out of order");
        refuse(&|c| c.deltas[0].to = 9, "from 1 to 9");
        refuse(&|c| c.deltas[1].to = 2, "from 2 to 2");
        let name = |name: &str| Withdrawn {
            name: name.to_owned(),
            since: 0,
        };
        refuse(&|c| c.withdrawn.push(name("../x")), "no name of a file");
        refuse(&|c| c.withdrawn.push(name(".x")), "no name of a file");
    }
}
