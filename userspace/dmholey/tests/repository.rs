// SPDX-License-Identifier: GPL-2.0-or-later

//! The versions of a master image, by the command.

mod common;

use common::pattern;
use common::Lab;
use std::fs;
use std::time::Duration;
use std::time::Instant;

const CHUNK: usize = 4096;

/// A lab with three versions of an image, of which the last one is larger.
fn lab() -> Lab {
    let lab = Lab::new();
    let mut image = pattern(100 * CHUNK, 1);
    lab.write("v1", &image);
    image[7 * CHUNK] ^= 1;
    lab.write("v2", &image);
    image[90 * CHUNK..95 * CHUNK].fill(0);
    image.extend(pattern(CHUNK + 100, 2));
    lab.write("v3", &image);
    for (image, note) in [("v1", "first"), ("v2", ""), ("v3", "larger")] {
        lab.run(&[
            "image",
            "checkpoint",
            "r",
            image,
            "--note",
            note,
            "--level",
            "1",
        ])
        .code(0);
    }
    lab
}

#[test]
fn versions_are_kept_and_given_back() {
    let lab = lab();
    let list = lab.run(&["image", "list", "r", "--json"]).code(0).json();
    let numbers: Vec<u64> = list["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v["number"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert_eq!(list["versions"][1]["changed_bytes"], CHUNK);
    let text = lab.run(&["image", "list", "r"]).code(0).out;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("version  made"), "{text}");
    assert!(
        lines[1].contains(" -  ") && lines[1].ends_with("first"),
        "{text}"
    );
    assert!(
        lines[3].contains("2: ") && lines[3].ends_with("larger"),
        "{text}"
    );
    for version in ["1", "2", "3"] {
        lab.run(&["image", "extract", "r", version, "-o", "x", "--force"])
            .code(0);
        assert!(lab.read("x") == lab.read(&format!("v{version}")));
    }
    let again = lab.run(&["image", "checkpoint", "r", "v3"]).code(0);
    assert_eq!(again.out, "version 3: nothing has changed since\n");
    let check = lab.run(&["image", "check", "r"]).code(0);
    assert_eq!(check.out, "3 versions and 2 deltas: 0 problems\n");
}

#[test]
fn versions_have_a_root_for_dm_verity() {
    let lab = Lab::new();
    let mut image = vec![0; CHUNK];
    lab.write("v1", &image);
    image.extend([1; CHUNK]);
    lab.write("v2", &image);
    lab.write("odd", &image[..CHUNK + 512]);
    let checkpoint = |image| ["image", "checkpoint", "r", image, "--verity", "--json"];
    // What veritysetup prints for these.
    for (image, root) in [
        (
            "v1",
            "ad7facb2586fc6e966c004d7d1d16b024f5805ff7cb47c7a85dabd8b48892ca7",
        ),
        (
            "v2",
            "dd9c4d99ab2332f88ff3bd4cb99e3db16fea710ecbc8cef4b7e237fc5765401b",
        ),
    ] {
        assert_eq!(lab.run(&checkpoint(image)).code(0).json()["verity"], root);
    }
    lab.run(&checkpoint("odd"))
        .code(6)
        .error(&["dm-verity takes blocks of 4096 bytes", "4608 bytes"]);
    lab.run(&["image", "check", "r"]).code(0);
    let list = fs::read_to_string(lab.path("r/repository.json")).unwrap();
    lab.write("r/repository.json", list.replace("dd9c", "dd9d").as_bytes());
    let found = lab.run(&["image", "check", "r"]).code(3).out;
    assert!(
        found.contains("version 2: its digest for dm-verity is another one"),
        "{found}"
    );
}

#[test]
fn clients_skip_versions_and_old_ones_go() {
    let lab = lab();
    let made = lab
        .run(&["image", "squash", "r", "1", "3", "--json"])
        .code(0)
        .json();
    assert_eq!(made["delta"], "r/delta-1-3");
    lab.run(&["delta", "apply", "r/delta-1-3", "--base", "v1", "-o", "x"])
        .code(0);
    assert!(lab.read("x") == lab.read("v3"));
    lab.run(&["image", "squash", "r", "0", "3"]).code(0);
    lab.run(&["delta", "apply", "r/delta-0-3", "-o", "y"])
        .code(0);
    assert!(lab.read("y") == lab.read("v3"));
    lab.run(&["delta", "apply", "r/delta-2-3", "-o", "z"])
        .code(6)
        .error(&["name it with --base"]);
    let ran = lab.run(&["image", "prune", "r", "--keep", "2"]).code(0);
    assert_eq!(ran.out, "1 version removed; the oldest is 2 now\n");
    let mut names: Vec<_> = fs::read_dir(lab.path("r"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "base",
            "cow-3",
            "delta-0-3",
            "delta-2-3",
            "lock",
            "repository.json"
        ]
    );
    lab.run(&["image", "extract", "r", "1", "-o", "w"])
        .code(6)
        .error(&["r: has no version 1, but 2, 3"]);
    lab.run(&["image", "extract", "r", "2", "-o", "w"]).code(0);
    assert!(lab.read("w") == lab.read("v2"));
}

#[test]
fn versions_are_published() {
    let lab = lab();
    let made = lab.run(&["image", "keys", "keys", "--json"]).code(0).json();
    assert_eq!(made["root"], "keys/1.root.json");
    let publish = ["image", "publish", "r", "--to", "web", "--keys", "keys"];
    let text = lab.run(&publish).code(0).out;
    let (first, rest) = text.split_once(": ").unwrap();
    let number: u64 = first
        .strip_prefix("version 3 in snapshot ")
        .and_then(|number| number.parse().ok())
        .unwrap();
    assert!(rest.starts_with("2 files added, "), "{text}");
    let names = |dir: &str| {
        let entries = fs::read_dir(lab.path(dir)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let metadata = [
        "1.root.json",
        &format!("{number}.snapshot.json"),
        &format!("{number}.targets.json"),
        "lock",
        "timestamp.json",
    ];
    assert_eq!(names("web/metadata"), metadata);
    // Two deltas and the catalog, by their digests.
    for name in names("web/targets") {
        let (digest, _) = name.split_once('.').unwrap();
        let bytes = lab.read(&format!("web/targets/{name}"));
        assert_eq!(dmholey_delta::Digest::of(&bytes).to_string(), digest);
    }
    let args = [
        "image",
        "keys",
        "keys",
        "--rotate",
        "timestamp",
        "--rotate",
        "root",
    ];
    assert_eq!(lab.run(&args).code(0).out, "keys/2.root.json: root 2\n");
    let refresh = [
        "image", "refresh", "--to", "web", "--keys", "keys", "--json",
    ];
    let done = lab.run(&refresh).code(0).json();
    assert_eq!(
        (&done["version"], &done["snapshot"]),
        (&3.into(), &(number + 1).into())
    );
    assert!(names("web/metadata").contains(&"2.root.json".to_owned()));
    let refuse = |args: &[&str], parts: &[&str]| {
        lab.run_untouched(args).code(6).error(parts);
    };
    refuse(&["image", "keys", "keys"], &["is not empty"]);
    refuse(&["image", "keys", "web", "--renew"], &["no N.root.json"]);
    let signers = |of| {
        let args = ["image", "keys", "keys", "--renew", "--signers", of];
        lab.run_untouched(&args).code(2)
    };
    signers("root=2/3").error(&["add --rotate root"]);
    for of in ["root", "root=3/2", "root=0/1", "nobody=1/1", "root=1/17"] {
        let text = signers(of).err;
        assert!(text.contains("is not ROLE=M/N, such as root=2/3"), "{text}");
    }
    for name in names("keys") {
        if name.starts_with("targets-") {
            fs::remove_file(lab.path("keys").join(name)).unwrap();
        }
    }
    let lacks = "keys: the role 'targets' needs its key here; missing: targets-";
    refuse(&publish, &[lacks]);
}

#[test]
fn roles_have_several_keys() {
    let lab = Lab::new();
    let keys_of = |role: &str| {
        let entries = fs::read_dir(lab.path("k")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(role)).count()
    };
    // The keys that a root names for a role, and how many of them have to sign.
    let named = |root: &str, role: &str| {
        let root: serde_json::Value = serde_json::from_slice(&lab.read(root)).unwrap();
        let role = &root["signed"]["roles"][role];
        let keys = role["keyids"].as_array().unwrap().len();
        (keys, role["threshold"].as_u64().unwrap())
    };
    let keys = |args: &[&str]| lab.run(&[&["image", "keys", "k"], args].concat());
    keys(&["--signers", "root=2/3", "--signers", "root=1/1"])
        .code(2)
        .error(&["--signers names the role 'root' twice"]);
    assert!(!lab.path("k").exists());
    keys(&["--signers", "root=2/3"]).code(0);
    assert_eq!((keys_of("root-"), keys_of("targets-")), (3, 1));
    assert_eq!(named("k/1.root.json", "root"), (3, 2));
    assert_eq!(named("k/1.root.json", "targets"), (1, 1));
    keys(&["--rotate", "targets", "--signers", "targets=1/2"]).code(0);
    // The old key stays where it is, and the root names it no more.
    assert_eq!((keys_of("root-"), keys_of("targets-")), (3, 1 + 2));
    assert_eq!(named("k/2.root.json", "root"), (3, 2));
    assert_eq!(named("k/2.root.json", "targets"), (2, 1));
}

#[test]
fn refusals_change_nothing() {
    let lab = lab();
    lab.write("x", b"");
    let refuse = |args: &[&str], code, parts: &[&str]| {
        lab.run_untouched(args).code(code).error(parts);
    };
    refuse(&["image", "list", "v1"], 6, &["v1: is no repository"]);
    refuse(
        &["image", "checkpoint", "r", "r"],
        6,
        &["r: is a directory"],
    );
    refuse(
        &["image", "checkpoint", "r", "none"],
        1,
        &["cannot open none"],
    );
    refuse(&["image", "checkpoint", ".", "v1"], 6, &["holds something"]);
    refuse(&["image", "squash", "r", "3", "1"], 6, &["from version 3"]);
    refuse(
        &["image", "squash", "r", "1", "9"],
        6,
        &["no version 9, but 1, 2, 3"],
    );
    refuse(&["image", "diff", "r", "9", "1"], 6, &["no version 9"]);
    refuse(
        &["image", "checkpoint", "r", "v1", "--note", "a\nb"],
        6,
        &["control characters"],
    );
    lab.write("r/repository.json", b"{\"format\": 2}");
    refuse(&["image", "list", "r"], 5, &["repository.json: format 2"]);
}

/// Versions that were complete when the program was killed are there, and the next run goes on.
#[test]
fn a_kill_leaves_whole_versions() {
    let lab = Lab::new();
    let mut image = pattern(800 * CHUNK, 1);
    lab.write("image", &image);
    let checkpoint = ["image", "checkpoint", "r", "image", "--no-delta", "-q"];
    lab.run(&checkpoint).code(0);
    let mut images = vec![image.clone()];
    let begin = Instant::now();
    let mut pause = Duration::from_millis(1);
    let mut kills = 0;
    while images.len() < 3 || kills == 0 {
        assert!(begin.elapsed() < Duration::from_secs(300), "it never ends");
        for n in 0..250 {
            image[(n * 3 + images.len()) * CHUNK] ^= 0x55;
        }
        lab.write("image", &image);
        let mut child = lab.command(&checkpoint).spawn().unwrap();
        std::thread::sleep(pause);
        child.kill().unwrap();
        let ended = child.wait().unwrap().success();
        let list = lab.run(&["image", "list", "r", "--json"]).code(0).json();
        let there = list["versions"].as_array().unwrap().len();
        if there == images.len() + 1 {
            images.push(image.clone());
        }
        assert_eq!(there, images.len());
        kills += usize::from(!ended);
        // Until it gets to its end, and then from the start again.
        pause = if ended {
            Duration::from_millis(3)
        } else {
            pause * 2
        };
    }
    lab.run(&["image", "check", "r"]).code(0);
    for (n, image) in images.iter().enumerate() {
        let number = (n + 1).to_string();
        lab.run(&["image", "extract", "r", &number, "-o", "x", "--force"])
            .code(0);
        assert!(lab.read("x") == *image, "version {number}");
    }
}

#[test]
fn changed_files_are_named() {
    let lab = Lab::new();
    let file = |name: &str, bytes: &[u8]| {
        let path = lab.path("tree").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    file("etc/same", &pattern(20_000, 1));
    file("etc/gone", &pattern(9000, 2));
    file("usr/bin/tool", &pattern(50_000, 3));
    file("usr/empty", b"");
    let build = |args: &[&str]| {
        let all = [&["image", "build", "--tree", "tree"], args].concat();
        lab.run(&all).code(0);
    };
    build(&["--size", "16M", "-o", "old"]);
    fs::remove_file(lab.path("tree/etc/gone")).unwrap();
    let mut tool = pattern(50_000, 3);
    tool[40_000] ^= 1;
    file("usr/bin/tool", &tool);
    file("usr/new", &pattern(5000, 4));
    // The blocks of the same files are elsewhere.
    build(&["--size", "16M", "-o", "new"]);
    for image in ["old", "new"] {
        lab.run(&["image", "checkpoint", "r", image, "--level", "1"])
            .code(0);
    }
    let diff = lab
        .run(&["image", "diff", "r", "1", "2", "--json"])
        .code(0)
        .json();
    let files: Vec<(&str, &str)> = diff["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| (f["path"].as_str().unwrap(), f["change"].as_str().unwrap()))
        .collect();
    let expected = [
        ("etc/gone", "removed"),
        ("usr/bin/tool", "changed"),
        ("usr/new", "added"),
    ];
    assert_eq!(files, expected);
    let text = lab.run(&["image", "diff", "r", "1", "2"]).code(0).out;
    assert!(text.contains("M  usr/bin/tool  50000  50000\n"), "{text}");
    let sum = "files: 1 added, 1 removed, 1 with other content\n";
    assert!(text.ends_with(sum), "{text}");
}
