// SPDX-License-Identifier: GPL-2.0-or-later

//! The image commands on files.

mod common;

use common::pattern;
use common::Lab;

const CHUNK: usize = 4096;

type Change = fn(&mut Vec<u8>);

/// A lab with `old`, `new` (every third of 100 chunks differs, and a bit at the end) and `x.cow`.
fn lab() -> Lab {
    let lab = Lab::new();
    let mut new = pattern(100 * CHUNK + 512, 1);
    lab.write("old", &new);
    for n in (0..100).step_by(3) {
        new[n * CHUNK + 8] ^= 0xff;
    }
    new[3 * CHUNK..4 * CHUNK].fill(0);
    new[100 * CHUNK + 511] ^= 1;
    lab.write("new", &new);
    lab.run(&["cow", "diff", "old", "new", "-o", "x.cow"])
        .code(0);
    lab
}

#[test]
fn a_difference_is_described() {
    let lab = lab();
    let args = ["cow", "diff", "old", "new", "-o", "y.cow"];
    let ran = lab.run(&args).code(0);
    assert_eq!(ran.out, "y.cow: 35 of 101 chunks differ, 148 KiB\n");
    assert_eq!(lab.read("x.cow"), lab.read("y.cow"));

    let ran = lab.run(&["cow", "info", "x.cow"]).code(0);
    for part in [
        "35 in 34 runs, sorted",
        "4 KiB",
        "140 KiB",
        "at least 410112 bytes",
    ] {
        assert!(ran.out.contains(part), "{ran:#?}");
    }
    let info = lab.run(&["cow", "info", "x.cow", "--json"]).code(0).json();
    assert_eq!(info["exceptions"], 35);
    assert_eq!(info["zero_chunks"], serde_json::Value::Null);
    assert_eq!(info["chunk_sectors"], 8);
    assert_eq!(info["valid"], true);

    let ran = lab.run(&["cow", "dump", "x.cow"]).code(0);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines.len(), 34);
    assert_eq!((lines[0], lines[33]), ("0 2 1", "99 35 2"));
    let ran = lab.run(&["cow", "dump", "x.cow", "--json"]).code(0);
    assert_eq!(
        ran.out.lines().next(),
        Some(r#"{"origin":0,"cow":2,"len":1}"#)
    );
}

#[test]
fn json_of_a_difference() {
    let lab = lab();
    let args = [
        "cow", "diff", "old", "new", "-o", "y.cow", "--json", "-q", "--chunk", "16K",
    ];
    let made = lab.run(&args).code(0).json();
    assert_eq!(made["image"], "y.cow");
    assert_eq!(made["chunk_sectors"], 32);
    assert_eq!(made["chunks"], 26);
    assert_eq!(made["image_bytes"], 100 * CHUNK + 512);
}

#[test]
fn quiet_is_quiet() {
    let lab = lab();
    for args in [
        &["cow", "diff", "old", "new", "-o", "z.cow", "-q"][..],
        &["cow", "apply", "x.cow", "--to", "old", "--quiet"],
        &["cow", "check", "x.cow", "-q"],
    ] {
        let ran = lab.run(args).code(0);
        assert_eq!((ran.out.as_str(), ran.err.as_str()), ("", ""));
    }
}

#[test]
fn applying_makes_old_new_and_can_be_repeated() {
    let lab = lab();
    let image = lab.read("x.cow");
    for _ in 0..2 {
        let ran = lab.run(&["cow", "apply", "x.cow", "--to", "old"]).code(0);
        assert!(ran.out.starts_with("old: 35 chunks applied"), "{ran:#?}");
        assert!(lab.read("old") == lab.read("new"));
        assert!(lab.read("x.cow") == image);
    }
}

#[test]
fn consuming_empties_the_image() {
    let lab = lab();
    let args = [
        "cow",
        "apply",
        "x.cow",
        "--to",
        "old",
        "--consume",
        "--json",
    ];
    let report = lab.run(&args).code(0).json();
    assert_eq!(report["consumed"], true);
    assert_eq!(report["way"], "offline");
    assert!(lab.read("old") == lab.read("new"));
    let info = lab.run(&["cow", "info", "x.cow", "--json"]).code(0).json();
    assert_eq!(info["exceptions"], 0);
    lab.run(&["cow", "check", "x.cow"]).code(0);
}

#[test]
fn a_disk_of_another_size_is_not_touched() {
    let lab = lab();
    let old = lab.read("old");
    lab.write("small", &old[..50 * CHUNK]);
    lab.run_untouched(&["cow", "apply", "x.cow", "--to", "small"])
        .code(6)
        .error(&["small: too small for x.cow"]);
    lab.run_untouched(&["cow", "diff", "old", "small", "-o", "y.cow"])
        .code(6)
        .error(&["small", "truncate -s 410112"]);
    lab.run_untouched(&["cow", "apply", "x.cow", "--to", "x.cow"])
        .code(6)
        .error(&["is the image itself"]);
}

#[test]
fn nothing_is_replaced_without_force() {
    let lab = lab();
    let args = ["cow", "diff", "new", "old", "-o", "x.cow"];
    lab.run_untouched(&args)
        .code(6)
        .error(&["x.cow: exists", "--force"]);
    lab.run_untouched(&["cow", "diff", "old", "new", "-o", "new", "--force"])
        .code(6)
        .error(&["is also an input"]);
    let before = lab.read("x.cow");
    let mut args = args.to_vec();
    args.push("--force");
    lab.run(&args).code(0);
    assert!(lab.read("x.cow") != before);
}

#[test]
fn a_damaged_image_is_found_and_not_applied() {
    let lab = lab();
    let whole = lab.read("x.cow");
    let damage: [(&str, Change); 4] = [
        ("cow-chunk", |image| image.truncate(30 * CHUNK)),
        ("cow-twice", |image| image[CHUNK + 8] = 9),
        ("origin-twice", |image| image[CHUNK] = 9),
        ("invalidated", |image| image[4] = 0),
    ];
    for (code, change) in damage {
        let mut image = whole.clone();
        change(&mut image);
        lab.write("bad.cow", &image);
        let ran = lab.run_untouched(&["cow", "check", "bad.cow"]).code(3);
        assert!(ran.out.contains(&format!("error: {code}: ")), "{ran:#?}");
        let report = lab
            .run(&["cow", "check", "bad.cow", "--json"])
            .code(3)
            .json();
        assert_eq!(report["findings"][0]["code"], code);
        lab.run_untouched(&["cow", "apply", "bad.cow", "--to", "old"])
            .code(5)
            .error(&["bad.cow"]);
    }
}

#[test]
fn a_check_knows_the_origin() {
    let lab = lab();
    lab.run(&["cow", "check", "x.cow", "--origin", "old"])
        .code(0);
    lab.run(&["cow", "check", "x.cow", "--origin-size", "410112"])
        .code(0);
    let ran = lab
        .run(&["cow", "check", "x.cow", "--origin-size", "400K"])
        .code(3);
    assert!(ran.out.contains("error: origin-chunk: "), "{ran:#?}");
    lab.run(&[
        "cow",
        "check",
        "x.cow",
        "--origin-size",
        "1",
        "--origin",
        "old",
    ])
    .code(2);
}
