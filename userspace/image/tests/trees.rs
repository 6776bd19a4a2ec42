// SPDX-License-Identifier: GPL-2.0-or-later

//! Trees of every kind of file come out as they went in, and what did not change stays where it was.

mod common;

use common::*;
use dmholey_image::Error;
use dmholey_image::Options;
use std::fs;

fn file(len: usize, seed: u64) -> What {
    What::File(pattern(len, seed))
}

/// One of everything.
fn zoo() -> Model {
    let mut sparse = vec![0; 300 << 10];
    sparse[100_000..100_100].fill(7);
    sparse[299 << 10..].fill(9);
    let mut model = model(&[
        ("bin", What::Dir),
        ("bin/tool", file(20_000, 1)),
        ("bin/tool-too", What::Link(b"bin/tool".to_vec())),
        ("dev", What::Dir),
        ("dev/null", What::Char(1, 3)),
        ("dev/disk", What::Block(259, 70_000)),
        ("dev/pipe", What::Fifo),
        ("empty", What::Dir),
        ("empty-file", What::File(Vec::new())),
        ("sparse", What::File(sparse)),
        ("short-link", What::Symlink(b"bin/tool".to_vec())),
        ("link-59", What::Symlink(vec![b'a'; 59])),
        ("link-60", What::Symlink(vec![b'b'; 60])),
        ("long-link", What::Symlink(b"a/b/".repeat(750))),
        ("many", What::Dir),
    ]);
    let mut add = |path: Vec<u8>, spec: Spec| model.insert(path, spec);
    add(vec![b'n'; 255], Spec::new(file(10, 2)));
    add(b"no text \xff\xfe\n\x01".to_vec(), Spec::new(file(5000, 3)));
    for n in 0..600 {
        let path = format!("many/a name of some length, with the number {n}");
        add(path.into_bytes(), Spec::new(file(1, n)));
    }
    let mut spec = Spec::new(file(100, 4));
    spec.mode = 0o4755;
    (spec.uid, spec.gid) = (123_456_789, 4_000_000_000);
    spec.mtime = (5_000_000_000, 123_456_789);
    spec.attributes = [
        (
            "security.capability",
            b"\x01\0\0\x02\n\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(),
        ),
        ("user.empty", Vec::new()),
        ("user.text", b"a\nvalue".to_vec()),
        ("trusted.large", pattern(2000, 5)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    add(b"bin/set-id".to_vec(), spec);
    let mut spec = Spec::new(What::Dir);
    spec.mode = 0o1777;
    spec.mtime = (1 << 33, 250_000_000);
    let acl = [
        2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 10, 0, 0, 0, 4, 0, 5, 0, 255, 255,
        255, 255, 16, 0, 5, 0, 255, 255, 255, 255, 32, 0, 5, 0, 255, 255, 255, 255,
    ];
    spec.attributes
        .insert("system.posix_acl_access".to_owned(), acl.to_vec());
    spec.attributes
        .insert("system.posix_acl_default".to_owned(), acl.to_vec());
    add(b"tmp".to_vec(), spec);
    model
}

#[test]
fn everything_is_kept() {
    let lab = Lab::new();
    let built = lab.fresh(&zoo(), "a.img");
    assert_eq!(built.counts.added as usize, zoo().len() - 2);
    let holes = &blocks(&lab.path("a.img"), &zoo())[&b"sparse"[..]];
    assert_eq!(holes.iter().filter(|&&block| block != 0).count(), 2);
}

#[test]
fn the_same_tree_changes_nothing() {
    let lab = Lab::new();
    lab.fresh(&zoo(), "a.img");
    let built = lab.over("a.img", &zoo(), "b.img");
    assert_eq!(built.counts.unchanged, built.counts.files);
    assert!(lab.read("a.img") == lab.read("b.img"));
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let lab = Lab::new();
    lab.fresh(&zoo(), "a.img");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    lab.fresh(&zoo(), "b.img");
    assert!(lab.read("a.img") == lab.read("b.img"));
    // Members in another order.
    let mut builder = tar::Builder::new(Vec::new());
    let zoo = zoo();
    let (links, others): (Vec<_>, Vec<_>) = zoo
        .iter()
        .partition(|(_, spec)| matches!(spec.what, What::Link(_)));
    for (path, spec) in others.iter().rev().chain(&links) {
        append(&mut builder, path, spec);
    }
    let options = Options {
        size: Some(16 << 20),
        ..Options::default()
    };
    lab.build(&builder.into_inner().unwrap(), "c.img", &options)
        .unwrap();
    assert!(lab.read("a.img") == lab.read("c.img"));
}

#[test]
fn only_what_changed_is_written() {
    let lab = Lab::new();
    let mut model = zoo();
    model.insert(b"large".to_vec(), Spec::new(file(1 << 20, 6)));
    lab.fresh(&model, "a.img");
    let before = blocks(&lab.path("a.img"), &model);

    // One byte in the middle, one file with another time, one gone, one new, one moved.
    let What::File(data) = &mut model.get_mut(&b"large"[..]).unwrap().what else {
        unreachable!()
    };
    data[500_000] ^= 1;
    model.get_mut(&b"bin/set-id"[..]).unwrap().mtime.0 += 1;
    model.remove(&b"empty-file"[..]);
    model.insert(b"new".to_vec(), Spec::new(file(3000, 7)));
    let moved = model.remove(&b"sparse"[..]).unwrap();
    model.insert(b"empty/moved".to_vec(), moved);
    let built = lab.over("a.img", &model, "b.img");
    assert_eq!(
        (
            built.counts.renamed,
            built.counts.added,
            built.counts.removed
        ),
        (1, 1, 1)
    );
    let after = blocks(&lab.path("b.img"), &model);
    assert_eq!(before[&b"large"[..]], after[&b"large"[..]]);
    assert_eq!(before[&b"sparse"[..]], after[&b"empty/moved"[..]]);
    // Two of content, two of folders, some of inodes, bitmaps, descriptors and the superblock.
    assert!(changed(&lab.read("a.img"), &lab.read("b.img")) <= 12);
}

#[test]
fn files_shrink_grow_and_get_holes() {
    let lab = Lab::new();
    let long = pattern(200_000, 8);
    let variants: Vec<Vec<u8>> = vec![
        long.clone(),
        long[..100_000].to_vec(),
        Vec::new(),
        [&long[..50_000], &vec![0; 100_000], &long[50_000..]].concat(),
        [&vec![0; 4096 * 30], &long[..5000]].concat(),
        vec![0; 300_000],
        long,
    ];
    let at = |data: &Vec<u8>| model(&[("f", What::File(data.clone())), ("g", file(9000, 9))]);
    lab.fresh(&at(&variants[0]), "0.img");
    for (n, data) in variants.iter().enumerate().skip(1) {
        let base = format!("{}.img", n - 1);
        let built = lab.over(&base, &at(data), &format!("{n}.img"));
        assert_eq!(built.counts.content_changed, 1);
    }
    let holes = &blocks(&lab.path("5.img"), &at(&variants[5]))[&b"f"[..]];
    assert!(holes.iter().all(|&block| block == 0));
}

#[test]
fn types_and_folders_change() {
    let lab = Lab::new();
    let a = model(&[
        ("a", What::Dir),
        ("a/b", What::Dir),
        ("a/b/c", file(9000, 1)),
        ("d", file(9000, 2)),
        ("e", What::Symlink(b"short".to_vec())),
        ("f", What::Link(b"d".to_vec())),
        ("g", What::Char(1, 2)),
    ]);
    let b = model(&[
        ("a", file(9000, 3)),
        ("d", What::Dir),
        ("d/c", file(9000, 1)),
        ("e", What::Symlink(vec![b'x'; 100])),
        ("f", file(9000, 2)),
        ("g", What::Char(300, 2)),
        ("h", What::Link(b"f".to_vec())),
    ]);
    lab.fresh(&a, "a.img");
    lab.over("a.img", &b, "b.img");
    lab.over("b.img", &a, "c.img");
    lab.over("c.img", &b, "d.img");
}

#[test]
fn a_large_folder_is_indexed_and_stays_where_it_is() {
    let lab = Lab::new();
    let at = |from: u64, to: u64| {
        let mut model = model(&[]);
        for n in from..to {
            let path = format!("a name that is not so short, number {n}");
            model.insert(path.into_bytes(), Spec::new(What::File(Vec::new())));
        }
        model
    };
    lab.fresh(&at(0, 900), "a.img");
    let tree = debugfs(&lab.path("a.img"), &["htree /".to_owned()]).concat();
    assert!(tree.contains("Root node dump"), "{tree}");
    let built = lab.over("a.img", &at(1, 901), "b.img");
    assert!(built.counts.blocks_written <= 2);
    lab.over("b.img", &at(400, 1900), "c.img");
    lab.over("c.img", &at(1890, 1900), "d.img");
}

#[test]
fn what_other_tools_made_is_a_base() {
    let lab = Lab::new();
    let zoo = zoo();
    for (n, args) in [
        &["-b", "1024"][..],
        &["-b", "4096"],
        &["-b", "4096", "-O", "^metadata_csum,^64bit,^flex_bg"],
        &[
            "-b",
            "1024",
            "-O",
            "^has_journal,^resize_inode,uninit_bg,^metadata_csum",
        ],
        &["-b", "2048", "-O", "^dir_index"],
        &["-b", "4096", "-I", "512", "-O", "sparse_super2"],
    ]
    .iter()
    .enumerate()
    {
        let (base, name) = (format!("{n}-base.img"), format!("{n}.img"));
        lab.mke2fs(&base, "32M", args);
        let mut small = zoo.clone();
        // A symbolic link is not longer than a block.
        small.get_mut(&b"long-link"[..]).unwrap().what = What::Symlink(b"a/b/".repeat(225));
        if !args.contains(&"4096") {
            small
                .get_mut(&b"bin/set-id"[..])
                .unwrap()
                .attributes
                .remove("trusted.large");
        }
        lab.over(&base, &small, &name);
        let built = lab.over(&name, &model(&[]), &format!("{n}-empty.img"));
        assert_eq!(built.counts.files, 1);
        lab.over(&format!("{n}-empty.img"), &small, &format!("{n}-again.img"));
    }
}

#[test]
fn a_folder_is_a_tree() {
    let lab = Lab::new();
    let tree = lab.path("tree");
    fs::create_dir_all(tree.join("sub/empty")).unwrap();
    fs::write(tree.join("sub/file"), pattern(10_000, 1)).unwrap();
    fs::hard_link(tree.join("sub/file"), tree.join("link")).unwrap();
    std::os::unix::fs::symlink("../nowhere", tree.join("sub/symlink")).unwrap();
    std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
    let options = Options {
        size: Some(16 << 20),
        owner: Some((7, 8)),
        ..Options::default()
    };
    let build = |name: &str| {
        let source = dmholey_image::Source::of(&tree).unwrap();
        dmholey_image::build(
            &source,
            &lab.path(name),
            &options,
            &dmholey_cow::progress::Silent,
        )
        .unwrap()
    };
    let built = build("a.img");
    build("b.img");
    assert!(lab.read("a.img") == lab.read("b.img"));
    assert_eq!(built.counts.files, 6);
    run("e2fsck", &["-fn"], &lab.path("a.img"), &[]);
    let told = debugfs(
        &lab.path("a.img"),
        &[
            "stat /link".to_owned(),
            "stat /socket".to_owned(),
            "stat /sub/symlink".to_owned(),
        ],
    );
    assert!(
        told[0].contains("Links: 2") && told[0].contains("User:     7   Group:     8"),
        "{told:?}"
    );
    assert!(told[1].contains("Type: socket"), "{told:?}");
    assert!(
        told[2].contains("Fast link dest: \"../nowhere\""),
        "{told:?}"
    );
    assert!(
        ext4_view::Ext4::load_from_path(lab.path("a.img"))
            .unwrap()
            .read("/sub/file")
            .unwrap()
            == pattern(10_000, 1)
    );
}

#[test]
fn times_before_1970_are_kept() {
    let lab = Lab::new();
    let mut model = model(&[("old", file(1, 1))]);
    model.get_mut(&b"old"[..]).unwrap().mtime = (-5, 250_000_000);
    let options = Options {
        size: Some(16 << 20),
        ..Options::default()
    };
    // ext4-view takes them for damage.
    lab.build(&tar(&model), "a.img", &options).unwrap();
    run("e2fsck", &["-fn"], &lab.path("a.img"), &[]);
    check_details(&lab.path("a.img"), &model);
}

#[test]
fn an_image_can_grow() {
    let lab = Lab::new();
    lab.fresh(&zoo(), "a.img");
    let mut more = zoo();
    more.insert(b"more".to_vec(), Spec::new(file(20 << 20, 1)));
    let error = lab.build(&tar(&more), "b.img", &over("a.img")).unwrap_err();
    assert!(matches!(error, Error::NoRoom { .. }), "{error}");
    assert!(error.to_string().contains("--size"), "{error}");
    lab.has_only(&["a.img", "tree.tar"]);
    for name in ["b.img", "c.img"] {
        let options = Options {
            size: Some(48 << 20),
            ..over("a.img")
        };
        lab.build(&tar(&more), name, &options).unwrap();
        check(&lab.path(name), &more);
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    assert!(lab.read("b.img") == lab.read("c.img"));
}

#[test]
fn free_blocks_can_be_made_zero() {
    let lab = Lab::new();
    let a = model(&[("secret", What::File(b"secret ".repeat(3000)))]);
    lab.fresh(&a, "a.img");
    let has = |name: &str| lab.read(name).windows(7).any(|bytes| bytes == b"secret ");
    lab.over("a.img", &model(&[]), "b.img");
    assert!(has("b.img"));
    let options = Options {
        zero_free: true,
        ..over("a.img")
    };
    lab.build(&tar(&model(&[])), "c.img", &options).unwrap();
    check(&lab.path("c.img"), &model(&[]));
    assert!(!has("c.img"));
}
