// SPDX-License-Identifier: GPL-2.0-or-later

//! A tree from a container image in the OCI layout, which is itself a tree: a folder or an archive.

use super::tar::add_layer;
use super::Content;
use super::Kind;
use super::Limits;
use super::Opened;
use super::Spool;
use super::Tree;
use crate::error::Error;
use crate::error::Result;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::io::Read;

/// An index or a manifest is not longer than this.
const MAX_TEXT: u64 = 4 << 20;
/// Indexes in each other, at most.
const MAX_NESTED: usize = 4;
/// Layers, at most.
const MAX_LAYERS: usize = 1024;

/// The mark of a layout.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciLayout {
    image_layout_version: String,
}

/// A list of manifests, or of further lists.
#[derive(Debug, Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

/// An image.
#[derive(Debug, Deserialize)]
struct Manifest {
    layers: Vec<Descriptor>,
}

/// What leads to a blob.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// What an image runs on.
#[derive(Debug, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl Descriptor {
    fn name(&self) -> Option<&String> {
        self.annotations.get("org.opencontainers.image.ref.name")
    }

    fn platform(&self) -> Option<String> {
        let platform = self.platform.as_ref()?;
        let variant = platform
            .variant
            .as_ref()
            .map(|variant| format!("/{variant}"));
        let variant = variant.unwrap_or_default();
        Some(format!(
            "{}/{}{variant}",
            platform.os, platform.architecture
        ))
    }

    fn is_manifest(&self) -> bool {
        MANIFESTS.contains(&self.media_type.as_str())
    }

    fn is_index(&self) -> bool {
        INDEXES.contains(&self.media_type.as_str())
    }

    fn is_layer(&self) -> bool {
        let how = LAYERS
            .iter()
            .find_map(|start| self.media_type.strip_prefix(start));
        how.is_some_and(|how| ["", "+gzip", "+zstd", ".gzip", ".zstd"].contains(&how))
    }
}

/// Types of blobs, those of OCI and those of Docker.
const MANIFESTS: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const INDEXES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const LAYERS: [&str; 2] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
];

/// Which image of a layout is meant.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Its name, in the annotation `org.opencontainers.image.ref.name`.
    pub name: Option<String>,
    /// Its platform, such as `linux/arm64` or `linux/arm/v7`.
    pub platform: Option<String>,
}

/// Whether a tree is the layout of a container image.
pub fn is_layout(tree: &Tree) -> bool {
    let file = |name: &[u8]| {
        let node = tree.find(&[name]).and_then(|id| tree.get(id));
        matches!(node.map(|node| &node.kind), Some(Kind::File(_)))
    };
    file(b"oci-layout") && file(b"index.json") && tree.find(&[b"blobs"]).is_some()
}

/// Lays the layers of an image over each other.
pub fn flatten(layout: &Tree, choice: &Choice, limits: Limits, spool: &mut Spool) -> Result<Tree> {
    let version: OciLayout = parse("oci-layout", &text(layout, &[b"oci-layout"], "oci-layout")?)?;
    if !version.image_layout_version.starts_with("1.") {
        let why = format!(
            "has version {}, which is not known",
            version.image_layout_version
        );
        return Err(Error::input("oci-layout", why));
    }
    let index: Index = parse("index.json", &text(layout, &[b"index.json"], "index.json")?)?;
    let manifest = manifest(layout, &index, choice, 0)?;
    if manifest.layers.len() > MAX_LAYERS {
        return Err(Error::input(
            "the manifest",
            format!("has more than {MAX_LAYERS} layers"),
        ));
    }
    let mut tree = Tree::new(limits);
    for layer in &manifest.layers {
        if !layer.is_layer() {
            let why = format!(
                "is a layer of a type that is not known: {}",
                layer.media_type
            );
            return Err(Error::input(&layer.digest, why));
        }
        let content = blob(layout, layer)?;
        let opened = content.open()?;
        // How it is compressed is seen in its first bytes; that it is what is meant, in its digest.
        add_layer(
            &mut tree,
            Stream::new(&opened, content.size()),
            &layer.digest,
            spool,
        )?;
    }
    Ok(tree)
}

fn manifest(layout: &Tree, index: &Index, choice: &Choice, depth: usize) -> Result<Manifest> {
    if depth > MAX_NESTED {
        return Err(Error::input(
            "index.json",
            "leads to indexes in each other without end",
        ));
    }
    let fits = |d: &&Descriptor| {
        let named = match (&choice.name, depth) {
            (Some(wanted), 0) => d.name() == Some(wanted),
            _ => true,
        };
        // What tells no platform may be an index that does.
        let platform = match (&choice.platform, d.platform()) {
            (Some(wanted), Some(is)) => *wanted == is,
            _ => true,
        };
        // Attestations are beside images, for a platform that is none.
        let real = d.platform().as_deref() != Some("unknown/unknown");
        named && platform && real && (d.is_manifest() || d.is_index())
    };
    let found: Vec<&Descriptor> = index.manifests.iter().filter(fits).collect();
    let [one] = found.as_slice() else {
        let all: Vec<String> = index
            .manifests
            .iter()
            .map(|d| {
                format!(
                    "{} ({})",
                    d.name().map_or("", String::as_str),
                    d.platform().unwrap_or_default()
                )
            })
            .collect();
        let why = format!(
            "has {} images that fit; choose one with --image NAME or --platform OS/ARCH; there are: {}",
            found.len(),
            all.join(", ")
        );
        return Err(Error::input("index.json", why));
    };
    let bytes = read(&blob(layout, one)?, &one.digest)?;
    if one.is_index() {
        return manifest(layout, &parse(&one.digest, &bytes)?, choice, depth + 1);
    }
    parse(&one.digest, &bytes)
}

/// A blob, whose digest and size are what the descriptor says.
fn blob(layout: &Tree, descriptor: &Descriptor) -> Result<Content> {
    let digest = &descriptor.digest;
    let Some(hex) = digest.strip_prefix("sha256:") else {
        return Err(Error::input(
            digest,
            "is a digest of a kind that is not known; SHA-256 is",
        ));
    };
    let node = layout
        .find(&[b"blobs", b"sha256", hex.as_bytes()])
        .and_then(|id| layout.get(id));
    let Some(Kind::File(content)) = node.map(|node| &node.kind) else {
        return Err(Error::input(digest, "is missing in the layout"));
    };
    if content.size() != descriptor.size {
        let why = format!(
            "has {} bytes instead of {}",
            content.size(),
            descriptor.size
        );
        return Err(Error::input(digest, why));
    }
    let is = crate::base::hex(&content.open()?.digest()?);
    if is != hex {
        return Err(Error::input(
            digest,
            format!("has another content, with the digest sha256:{is}"),
        ));
    }
    Ok(content.clone())
}

fn text(layout: &Tree, path: &[&[u8]], name: &str) -> Result<Vec<u8>> {
    let node = layout.find(path).and_then(|id| layout.get(id));
    match node.map(|node| &node.kind) {
        Some(Kind::File(content)) => read(content, name),
        _ => Err(Error::input(name, "is missing in the layout")),
    }
}

fn read(content: &Content, name: &str) -> Result<Vec<u8>> {
    if content.size() > MAX_TEXT {
        return Err(Error::input(
            name,
            format!("is longer than {MAX_TEXT} bytes"),
        ));
    }
    let mut bytes = vec![0; content.size() as usize];
    content.open()?.read(0, &mut bytes)?;
    Ok(bytes)
}

fn parse<T: serde::de::DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::input(name, format!("makes no sense: {e}")))
}

/// Content as a stream.
struct Stream<'a> {
    content: &'a Opened<'a>,
    at: u64,
    size: u64,
}

impl<'a> Stream<'a> {
    fn new(content: &'a Opened<'a>, size: u64) -> Self {
        Self {
            content,
            at: 0,
            size,
        }
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size - self.at).unwrap_or(usize::MAX);
        let len = buf.len().min(left);
        if let Some(part) = buf.get_mut(..len) {
            self.content.read(self.at, part).map_err(io::Error::other)?;
        }
        self.at += len as u64;
        Ok(len)
    }
}
