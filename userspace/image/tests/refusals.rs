// SPDX-License-Identifier: GPL-2.0-or-later

//! Input that is damaged or made to do harm ends in an error that says why, and leaves nothing behind.

mod common;

use common::*;
use dmholey_image::Options;

#[track_caller]
fn refused(archive: &[u8], parts: &[&str]) {
    let lab = Lab::new();
    let options = Options {
        size: Some(16 << 20),
        ..Options::default()
    };
    let error = lab
        .build(archive, "a.img", &options)
        .unwrap_err()
        .to_string();
    for part in parts {
        assert!(error.contains(part), "no '{part}' in: {error}");
    }
    lab.has_only(&["tree.tar"]);
}

fn file() -> Spec {
    Spec::new(What::File(b"x".to_vec()))
}

#[test]
fn paths_that_lead_out_are_refused() {
    let only = |path: &[u8], spec: Spec| tar(&Model::from([(path.to_vec(), spec)]));
    refused(&only(b"/etc/passwd", file()), &["/etc/passwd", "absolute"]);
    refused(&only(b"../x", file()), &["../x", "'..'"]);
    refused(&only(b"a/../../x", file()), &["'..'"]);
    refused(&only(&[b'n'; 300], file()), &["no name of 1 to 255 bytes"]);
    refused(
        &only(b"a", Spec::new(What::Link(b"b".to_vec()))),
        &["hard link to b", "not there"],
    );
    refused(
        &only(b"a", Spec::new(What::Link(b"../b".to_vec()))),
        &["'..'"],
    );
    let deep = vec![&b"a"[..]; 600].join(&b'/');
    refused(&only(&deep, file()), &["more than 512 folders"]);
    refused(
        &tar(&Model::from([
            (b"a".to_vec(), Spec::new(What::Symlink(b"/etc".to_vec()))),
            (b"a/passwd".to_vec(), file()),
        ])),
        &["a/passwd", "put into a", "symbolic link"],
    );
    refused(
        &tar(&Model::from([
            (b"a".to_vec(), file()),
            (b"a/b".to_vec(), file()),
        ])),
        &["a/b", "no folder"],
    );
}

#[test]
fn archives_that_are_none_are_refused() {
    refused(b"", &["no complete tar archive"]);
    refused(&pattern(10_000, 1), &["sum is wrong"]);
    refused(&[0xfd, b'7', b'z', b'X', b'Z', 0], &["xz -dc"]);
    let whole = tar(&Model::from([(
        b"a".to_vec(),
        Spec::new(What::File(pattern(5000, 1))),
    )]));
    for end in (512..whole.len() - 1024).step_by(512) {
        refused(&whole[..end], &["no complete tar archive"]);
    }
}

#[test]
fn what_ext4_cannot_hold_is_refused() {
    let with = |change: fn(&mut Spec)| {
        let mut spec = file();
        change(&mut spec);
        tar(&Model::from([(b"a".to_vec(), spec)]))
    };
    refused(&with(|spec| spec.mtime.0 = 1 << 40), &["a: ", "time"]);
    refused(
        &with(|spec| spec.what = What::Symlink(vec![b'x'; 4096])),
        &["symbolic link of more than"],
    );
    refused(
        &with(|spec| {
            spec.attributes
                .insert("user.x".to_owned(), pattern(9000, 1));
        }),
        &["a: has extended attributes", "more room"],
    );
    refused(
        &with(|spec| {
            spec.attributes.insert("odd.x".to_owned(), Vec::new());
        }),
        &["ext4 cannot hold: odd.x"],
    );
}

#[test]
fn bombs_are_refused() {
    use std::io::Write;
    // More than the image could hold, of anything but zeros, which are holes.
    let mut header = tar::Header::new_ustar();
    header.set_path("bomb").unwrap();
    header.set_size(1 << 30);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(header.as_bytes()).unwrap();
    for _ in 0..70 {
        gz.write_all(&vec![1; 1 << 20]).unwrap();
    }
    refused(&gz.finish().unwrap(), &["more than the image could"]);
    // An extended header of a gigabyte.
    header.set_entry_type(tar::EntryType::XHeader);
    header.set_cksum();
    refused(header.as_bytes(), &["a header of 1073741824 bytes"]);
    // A sparse file of an exabyte.
    let mut builder = tar::Builder::new(Vec::new());
    let records: [(&str, &[u8]); 3] = [
        ("GNU.sparse.size", b"1152921504606846976"),
        ("GNU.sparse.map", b"0,1"),
        ("GNU.sparse.numblocks", b"1"),
    ];
    builder.append_pax_extensions(records).unwrap();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(1);
    header.set_cksum();
    builder.append(&header, &b"x"[..]).unwrap();
    refused(&builder.into_inner().unwrap(), &["even as sparse files"]);
}

#[test]
fn bases_that_cannot_be_worked_with_are_refused() {
    let archive = tar(&model(&[]));
    let check = |prepare: &dyn Fn(&Lab), parts: &[&str]| {
        let lab = Lab::new();
        prepare(&lab);
        let before = lab.read("base.img");
        let error = lab
            .build(&archive, "a.img", &over("base.img"))
            .unwrap_err()
            .to_string();
        for part in parts {
            assert!(error.contains(part), "no '{part}' in: {error}");
        }
        assert!(before == lab.read("base.img"));
        lab.has_only(&["base.img", "tree.tar"]);
    };
    let made = |args: &'static [&'static str]| move |lab: &Lab| lab.mke2fs("base.img", "16M", args);
    check(
        &|lab| drop(lab.write("base.img", &pattern(1 << 20, 1))),
        &["no ext4 file system"],
    );
    check(
        &|lab| drop(lab.write("base.img", b"")),
        &["no ext4 file system"],
    );
    check(&made(&["-O", "^extent,^64bit,^flex_bg"]), &["no extents"]);
    check(
        &made(&["-O", "inline_data"]),
        &["inline_data", "mke2fs -O ^inline_data"],
    );
    check(&made(&["-O", "bigalloc"]), &["bigalloc"]);
    check(&made(&["-O", "quota"]), &["quota"]);
    check(
        &made(&["-I", "128", "-O", "^orphan_file"]),
        &["nanoseconds"],
    );
    let damage = |at: usize, byte: u8| {
        move |lab: &Lab| {
            lab.mke2fs("base.img", "16M", &["-b", "4096", "-O", "^metadata_csum"]);
            let mut bytes = lab.read("base.img");
            bytes[1024 + at] = byte;
            lab.write("base.img", &bytes);
        }
    };
    check(&damage(0x3a, 0), &["e2fsck -f"]);
    check(&damage(0x3a, 3), &["e2fsck -f"]);
    check(&damage(0x60, 0xc6), &["journal", "e2fsck -f"]);
    check(
        &|lab| {
            lab.mke2fs("base.img", "16M", &["-b", "4096"]);
            let bytes = lab.read("base.img");
            lab.write("base.img", &bytes[..8 << 20]);
        },
        &["damaged"],
    );
}

#[test]
fn a_damaged_base_never_makes_it_panic() {
    let lab = Lab::new();
    let mut zoo = model(&[("d", What::Dir), ("d/l", What::Symlink(vec![b'x'; 200]))]);
    for n in 0..300u64 {
        let path = format!("d/some name, of the number {n}");
        zoo.insert(path.into_bytes(), Spec::new(What::File(pattern(5000, n))));
    }
    lab.mke2fs(
        "empty.img",
        "16M",
        &["-b", "1024", "-O", "^metadata_csum,^has_journal"],
    );
    lab.over("empty.img", &zoo, "base.img");
    let good = lab.read("base.img");
    let archive = tar(&model(&[("d", What::Dir), ("d/x", file().what)]));
    let used: Vec<usize> = (0..good.len())
        .filter(|&at| good[at] != 0 && at < 2 << 20)
        .collect();
    let mut seed = 1u64;
    for _ in 0..40 {
        let mut bytes = good.clone();
        for _ in 0..4 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = used[(seed >> 33) as usize % used.len()];
            bytes[at] = (seed >> 20) as u8;
        }
        lab.write("bad.img", &bytes);
        let _ = lab.build(&archive, "new.img", &over("bad.img"));
    }
}
