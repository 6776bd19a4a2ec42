// SPDX-License-Identifier: GPL-2.0-or-later

//! Container images, and sparse files in archives.

mod common;

use common::*;
use dmholey_image::tree::Choice;
use dmholey_image::Options;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

/// The files of a layout.
type Files = BTreeMap<String, Vec<u8>>;

/// A blob's digest.
fn digest(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let add = |text: String, byte: &u8| text + &format!("{byte:02x}");
    digest.as_ref().iter().fold(String::new(), add)
}

/// A layout that is being made.
#[derive(Default)]
struct Layout {
    files: Files,
    manifests: Vec<String>,
}

impl Layout {
    fn blob(&mut self, kind: &str, bytes: Vec<u8>, more: &str) -> String {
        let digest = digest(&bytes);
        let text = format!(
            r#"{{"mediaType":"{kind}","digest":"sha256:{digest}","size":{}{more}}}"#,
            bytes.len()
        );
        self.files.insert(format!("blobs/sha256/{digest}"), bytes);
        text
    }

    fn image(&mut self, layers: &[(&str, Vec<u8>)], more: &str) {
        let mut told = Vec::new();
        for (how, bytes) in layers {
            told.push(self.blob(
                &format!("application/vnd.oci.image.layer.v1.tar{how}"),
                bytes.clone(),
                "",
            ));
        }
        let config = self.blob(
            "application/vnd.oci.image.config.v1+json",
            b"{}".to_vec(),
            "",
        );
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#,
            told.join(",")
        );
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let told = self.blob(kind, manifest.into_bytes(), more);
        self.manifests.push(told);
    }

    fn finish(mut self) -> Files {
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            self.manifests.join(",")
        );
        self.files
            .insert("index.json".to_owned(), index.into_bytes());
        self.files.insert(
            "oci-layout".to_owned(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        );
        self.files
    }
}

fn as_tar(files: &Files) -> Vec<u8> {
    let mut all = model(&[("blobs", What::Dir), ("blobs/sha256", What::Dir)]);
    for (path, bytes) in files {
        all.insert(
            path.clone().into_bytes(),
            Spec::new(What::File(bytes.clone())),
        );
    }
    tar(&all)
}

fn as_dir(files: &Files, to: &Path) {
    for (path, bytes) in files {
        let path = to.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn file(text: &str) -> What {
    What::File(text.as_bytes().to_vec())
}

/// Three layers, each compressed in another way, and what they are together.
fn layers() -> (Vec<(&'static str, Vec<u8>)>, Model) {
    let first = tar(&model(&[
        ("etc", What::Dir),
        ("etc/a", file("one")),
        ("etc/b", file("one")),
        ("opt", What::Dir),
        ("opt/x", What::Dir),
        ("opt/x/y", file("one")),
        ("var", What::Dir),
        ("var/z", file("one")),
    ]));
    let second = tar(&model(&[
        ("etc", What::Dir),
        ("etc/.wh.a", file("")),
        ("etc/b", file("two")),
        ("etc/c", What::Link(b"var/z".to_vec())),
        ("opt", What::Dir),
        ("opt/.wh..wh..opq", file("")),
        ("opt/x", What::Dir),
        ("opt/x/new", file("two")),
        (".wh.nothing", file("")),
    ]));
    let third = tar(&model(&[
        ("var", What::Dir),
        ("var/.wh.z", file("")),
        ("var/z", What::Dir),
    ]));
    let whole = model(&[
        ("etc", What::Dir),
        ("etc/b", file("two")),
        ("etc/c", file("one")),
        ("opt", What::Dir),
        ("opt/x", What::Dir),
        ("opt/x/new", file("two")),
        ("var", What::Dir),
        ("var/z", What::Dir),
    ]);
    let zstd = zstd::encode_all(third.as_slice(), 3).unwrap();
    (
        vec![("", first), ("+gzip", gzip(&second)), ("+zstd", zstd)],
        whole,
    )
}

fn options() -> Options {
    Options {
        size: Some(16 << 20),
        ..Options::default()
    }
}

#[test]
fn layers_are_laid_over_each_other() {
    let lab = Lab::new();
    let (layers, whole) = layers();
    let mut layout = Layout::default();
    layout.image(&layers, "");
    let files = layout.finish();
    lab.build(&as_tar(&files), "a.img", &options()).unwrap();
    check(&lab.path("a.img"), &whole);
    as_dir(&files, &lab.path("layout"));
    let source = dmholey_image::Source::of(&lab.path("layout")).unwrap();
    dmholey_image::build(
        &source,
        &lab.path("b.img"),
        &options(),
        &dmholey_cow::progress::Silent,
    )
    .unwrap();
    assert!(lab.read("a.img") == lab.read("b.img"));
}

#[test]
fn one_of_several_images_is_chosen() {
    let lab = Lab::new();
    let mut layout = Layout::default();
    for arch in ["amd64", "arm64"] {
        let layer = tar(&model(&[("arch", file(arch))]));
        let more = format!(
            r#","platform":{{"os":"linux","architecture":"{arch}"}},"annotations":{{"org.opencontainers.image.ref.name":"v-{arch}"}}"#
        );
        layout.image(&[("", layer)], &more);
    }
    let archive = as_tar(&layout.finish());
    let error = lab
        .build(&archive, "a.img", &options())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("v-amd64 (linux/amd64), v-arm64 (linux/arm64)"),
        "{error}"
    );
    for choice in [
        Choice {
            platform: Some("linux/arm64".to_owned()),
            name: None,
        },
        Choice {
            platform: None,
            name: Some("v-arm64".to_owned()),
        },
    ] {
        let options = Options {
            choice,
            ..options()
        };
        lab.build(&archive, "a.img", &options).unwrap();
        check(&lab.path("a.img"), &model(&[("arch", file("arm64"))]));
    }
}

#[test]
fn a_layout_that_is_not_what_it_says_is_refused() {
    let lab = Lab::new();
    let (layers, _) = layers();
    let mut layout = Layout::default();
    layout.image(&layers, "");
    let files = layout.finish();
    let check = |change: &dyn Fn(&mut Files), part: &str| {
        let mut files = files.clone();
        change(&mut files);
        let error = lab
            .build(&as_tar(&files), "a.img", &options())
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "no '{part}' in: {error}");
        lab.has_only(&["tree.tar"]);
    };
    let layer = format!("blobs/sha256/{}", digest(&layers[1].1));
    check(&|files| drop(files.remove(&layer)), "missing");
    check(
        &|files| files.get_mut(&layer).unwrap()[20] ^= 1,
        "another content",
    );
    check(
        &|files| files.get_mut(&layer).unwrap().push(0),
        "bytes instead of",
    );
    check(
        &|files| drop(files.insert("index.json".to_owned(), b"{".to_vec())),
        "index.json: makes no sense",
    );
    check(
        &|files| {
            drop(files.insert(
                "oci-layout".to_owned(),
                br#"{"imageLayoutVersion":"9"}"#.to_vec(),
            ))
        },
        "version 9",
    );
}

#[test]
fn every_sparse_format_is_read() {
    let mut data = vec![0; 1 << 20];
    data[..4096].fill(1);
    data[512 << 10..(512 << 10) + 4096].fill(2);
    let packed = [vec![1; 4096], vec![2; 4096]].concat();
    let whole = model(&[("sparse", What::File(data))]);
    let mut header = tar::Header::new_ustar();
    header.set_path("GNUSparseFile.0/sparse").unwrap();
    header.set_mode(0o644);
    header.set_mtime(1_700_000_000);
    let root = Spec::new(What::Dir);
    let pax = |records: &[(&str, &[u8])], data: &[u8]| {
        let mut builder = tar::Builder::new(Vec::new());
        append(&mut builder, b"", &root);
        builder
            .append_pax_extensions(records.iter().copied())
            .unwrap();
        let mut header = header.clone();
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data).unwrap();
        builder.into_inner().unwrap()
    };
    let mut map = b"2\n0\n4096\n524288\n4096\n".to_vec();
    map.resize(512, 0);
    let mut old = tar::Header::new_gnu();
    old.set_path("sparse").unwrap();
    old.set_mode(0o644);
    old.set_mtime(1_700_000_000);
    old.set_uid(0);
    old.set_gid(0);
    old.set_entry_type(tar::EntryType::GNUSparse);
    old.set_size(packed.len() as u64);
    let gnu = old.as_gnu_mut().unwrap();
    gnu.set_real_size(1 << 20);
    for (slot, (offset, len)) in gnu
        .sparse
        .iter_mut()
        .zip([("0", "10000"), ("2000000", "10000")])
    {
        slot.offset[..offset.len()].copy_from_slice(offset.as_bytes());
        slot.numbytes[..len.len()].copy_from_slice(len.as_bytes());
    }
    old.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    append(&mut builder, b"", &root);
    builder.append(&old, packed.as_slice()).unwrap();
    let archives = [
        pax(
            &[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"sparse"),
                ("GNU.sparse.realsize", b"1048576"),
            ],
            &[map, packed.clone()].concat(),
        ),
        pax(
            &[
                ("GNU.sparse.size", b"1048576"),
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.name", b"sparse"),
                ("GNU.sparse.map", b"0,4096,524288,4096"),
            ],
            &packed,
        ),
        builder.into_inner().unwrap(),
    ];
    for archive in archives {
        let lab = Lab::new();
        lab.build(&archive, "a.img", &options()).unwrap();
        check(&lab.path("a.img"), &whole);
        let blocks = &blocks(&lab.path("a.img"), &whole)[&b"sparse"[..]];
        assert_eq!(blocks.iter().filter(|&&block| block != 0).count(), 2);
    }
}
