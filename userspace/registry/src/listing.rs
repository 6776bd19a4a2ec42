// SPDX-License-Identifier: GPL-2.0-or-later

//! The manifest: which files there are, and which blob each of them is.

use oci_client::annotations::ORG_OPENCONTAINERS_IMAGE_TITLE;
use oci_client::manifest::OciDescriptor;
use oci_client::manifest::OciImageManifest;
use oci_client::manifest::OCI_IMAGE_MEDIA_TYPE;
use std::collections::BTreeMap;

/// What the artifact is.
pub const ARTIFACT: &str = "application/vnd.dmholey.images.v1";
/// What each file of it is.
const FILE: &str = "application/vnd.dmholey.image.file.v1";
/// The configuration, which an artifact has none of: `{}`.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// What a manifest says that it is.
pub const MEDIA_TYPE: &str = OCI_IMAGE_MEDIA_TYPE;
/// The content of an empty configuration.
pub const CONFIGURATION: &[u8] = b"{}";
/// Its digest.
pub const CONFIGURATION_DIGEST: &str =
    "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
/// Bytes of a manifest at most, as registries have it.
pub const MAX_LEN: u64 = 4 << 20;

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Of its content, with the name of the algorithm: `sha256:` and hexadecimal digits.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

impl File {
    /// Where its content is, below the base of an address.
    pub fn blob(&self) -> String {
        format!("blobs/{}", self.digest)
    }
}

/// The files, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing(pub BTreeMap<String, File>);

impl Listing {
    /// Reads a manifest, which comes from anywhere.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let manifest: OciImageManifest =
            serde_json::from_slice(bytes).map_err(|e| format!("is no manifest: {e}"))?;
        if manifest.artifact_type.as_deref() != Some(ARTIFACT) {
            return Err(format!("is no artifact of the type {ARTIFACT}"));
        }
        let mut files = BTreeMap::new();
        for layer in manifest.layers {
            let title = layer.annotations.as_ref();
            let title = title.and_then(|all| all.get(ORG_OPENCONTAINERS_IMAGE_TITLE));
            let title = title.ok_or("has a layer without a title")?;
            let digest = layer.digest.strip_prefix("sha256:");
            let digits =
                |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
            if !digest.is_some_and(digits) {
                return Err(format!("the digest of {title} is no SHA-256"));
            }
            let size = u64::try_from(layer.size)
                .map_err(|_| format!("the size of {title} is negative"))?;
            let file = File {
                digest: layer.digest,
                size,
            };
            if files.insert(title.clone(), file).is_some() {
                return Err(format!("lists {title} twice"));
            }
        }
        Ok(Self(files))
    }

    /// The manifest.
    pub fn encode(&self) -> Vec<u8> {
        let layers = self.0.iter().map(|(name, file)| {
            let title = (ORG_OPENCONTAINERS_IMAGE_TITLE.to_owned(), name.clone());
            OciDescriptor {
                annotations: Some(BTreeMap::from([title])),
                ..descriptor(FILE, &file.digest, file.size)
            }
        });
        let manifest = OciImageManifest {
            media_type: Some(MEDIA_TYPE.to_owned()),
            artifact_type: Some(ARTIFACT.to_owned()),
            config: descriptor(EMPTY, CONFIGURATION_DIGEST, CONFIGURATION.len() as u64),
            layers: layers.collect(),
            ..OciImageManifest::default()
        };
        // Strings and numbers in maps with strings as keys can always be written.
        serde_json::to_vec(&manifest).unwrap_or_default()
    }
}

fn descriptor(media_type: &str, digest: &str, size: u64) -> OciDescriptor {
    OciDescriptor {
        media_type: media_type.to_owned(),
        digest: digest.to_owned(),
        size: i64::try_from(size).unwrap_or(i64::MAX),
        ..OciDescriptor::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn listing(names: &[&str]) -> Listing {
        let file = |size| File {
            digest: CONFIGURATION_DIGEST.to_owned(),
            size,
        };
        let files = names.iter().zip(1..);
        Listing(
            files
                .map(|(name, size)| (name.to_string(), file(size)))
                .collect(),
        )
    }

    #[test]
    fn a_listing_is_read_as_it_was_written() {
        let some = listing(&["metadata/timestamp.json", "targets/abc.delta-1-2"]);
        assert_eq!(Listing::parse(&some.encode()).unwrap(), some);
        let none = Listing::default();
        assert_eq!(Listing::parse(&none.encode()).unwrap(), none);
    }

    #[test]
    fn what_is_wrong_with_a_manifest_is_said() {
        let good = String::from_utf8(listing(&["a", "b"]).encode()).unwrap();
        for (what, by, why) in [
            (
                ARTIFACT,
                "application/vnd.example",
                "no artifact of the type",
            ),
            ("\"b\"", "\"a\"", "lists a twice"),
            ("org.opencontainers.image.title", "other", "without a title"),
            ("\"size\":1,", "\"size\":-1,", "negative"),
            ("sha256:44136fa355b3", "sha512:44136fa355b3", "no SHA-256"),
            ("sha256:44136fa355b3", "sha256:../36fa355b3", "no SHA-256"),
            ("{", "", "is no manifest"),
        ] {
            // Behind the configuration, which has a digest as well.
            let (head, tail) = good.split_at(good.find("\"layers\"").unwrap());
            let bad = if what == ARTIFACT || what == "{" {
                good.replacen(what, by, 1)
            } else {
                format!("{head}{}", tail.replacen(what, by, 1))
            };
            let error = Listing::parse(bad.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{error}: {bad}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Listing::parse(&bytes);
        }
    }
}
