// SPDX-License-Identifier: GPL-2.0-or-later

//! The same battery for every subcommand: help, bad options, wrong inputs, a reader that goes away.

mod common;

use common::pattern;
use common::Lab;
use std::io::Read;
use std::process::Stdio;

/// All subcommands with arguments that would do, were there such files.
const COMMANDS: [&[&str]; 24] = [
    &["create", "origin", "n", "nothing"],
    &["create", "snapshot", "n", "nothing", "nothing2"],
    &["create", "merge", "n", "nothing", "nothing2"],
    &["remove", "n"],
    &["status", "n"],
    &["table", "origin", "nothing"],
    &["table", "snapshot", "nothing", "nothing2"],
    &["table", "merge", "nothing", "nothing2"],
    &["merge", "n"],
    &["monitor", "--config", "nothing"],
    &["cow", "info", "nothing"],
    &["cow", "dump", "nothing"],
    &["cow", "check", "nothing"],
    &["cow", "diff", "nothing", "nothing2", "-o", "x.cow"],
    &["cow", "apply", "nothing", "--to", "nothing2"],
    &["delta", "make", "nothing", "nothing2", "-o", "x.delta"],
    &["delta", "info", "nothing"],
    &["delta", "check", "nothing"],
    &["delta", "apply", "nothing", "--base", "nothing2", "-o", "x"],
    &[
        "delta", "to-cow", "nothing", "--base", "nothing2", "-o", "x",
    ],
    &[
        "delta", "from-cow", "nothing2", "--base", "nothing", "-o", "x",
    ],
    &[
        "image", "build", "--base", "nothing", "--tree", "nothing2", "-o", "x.img",
    ],
    &["man", "nothing"],
    &["completions", "bash"],
];

/// How many words of a command are its name.
fn words(command: &[&str]) -> usize {
    match command[0] {
        "create" | "table" | "cow" | "image" | "delta" => 2,
        _ => 1,
    }
}

/// Commands that read one image.
const READERS: [&[&str]; 8] = [
    &["cow", "info", "IMAGE"],
    &["cow", "dump", "IMAGE"],
    &["cow", "check", "IMAGE"],
    &["cow", "apply", "IMAGE", "--to", "disk"],
    &["delta", "info", "IMAGE"],
    &["delta", "check", "IMAGE"],
    &["delta", "apply", "IMAGE", "--base", "disk", "-o", "x"],
    &["delta", "to-cow", "IMAGE", "--base", "disk", "-o", "x"],
];

fn with_image<'a>(command: &[&'a str], image: &'a str) -> Vec<&'a str> {
    let put = |&word| if word == "IMAGE" { image } else { word };
    command.iter().map(put).collect()
}

#[test]
fn every_command_has_help() {
    let lab = Lab::new();
    for command in COMMANDS {
        let mut args = command[..words(command)].to_vec();
        args.push("--help");
        let ran = lab.run_untouched(&args).code(0);
        assert!(ran.out.contains("Usage: dmholey"), "{ran:#?}");
        assert!(ran.err.is_empty(), "{ran:#?}");
    }
    let ran = lab.run(&["--help"]).code(0);
    for part in [
        "Exit status:",
        "  3  a check found problems",
        "create",
        "cow",
    ] {
        assert!(ran.out.contains(part), "{ran:#?}");
    }
    assert!(!ran.out.contains("completions"), "{ran:#?}");
    let ran = lab.run(&["cow", "apply", "--help"]).code(0);
    assert!(
        ran.out.contains("The image is checked to its end"),
        "{ran:#?}"
    );
    let ran = lab.run(&["--version"]).code(0);
    assert!(ran.out.starts_with("dmholey 0."), "{ran:#?}");
}

#[test]
fn wrong_usage_is_told_apart() {
    let lab = Lab::new();
    for command in COMMANDS {
        let name = &command[..words(command)];
        let mut args = command.to_vec();
        args.push("--frobnicate");
        let ran = lab.run_untouched(&args).code(2);
        assert!(ran.err.contains("--frobnicate"), "{ran:#?}");
        // These need no argument.
        if name != ["status"] && name != ["monitor"] {
            lab.run_untouched(name).code(2);
        }
    }
    lab.run_untouched(&[]).code(2);
    lab.run_untouched(&["frobnicate"]).code(2);
    for chunk in ["0", "5", "6K", "1T", "x"] {
        let args = ["cow", "diff", "a", "b", "-o", "c", "--chunk", chunk];
        lab.run_untouched(&args).code(2);
    }
    lab.run_untouched(&["merge", "n", "--wait", "--interval", "0"])
        .code(2);
    for odd in [
        &["--threshold", "100"][..],
        &["--threshold", "x"],
        &["--amount", "0%"],
        &["--amount", "1000"],
        &["--maximum", "1"],
        &["--interval", "0"],
    ] {
        let mut args = vec!["monitor", "--once"];
        args.extend(odd);
        lab.run_untouched(&args).code(2);
    }
}

#[test]
fn missing_inputs_are_named() {
    let lab = Lab::new();
    for command in COMMANDS {
        if ["remove", "status", "merge", "completions"].contains(&command[0]) {
            continue;
        }
        lab.run_untouched(command)
            .code(1)
            .error(&["nothing", "No such file"]);
    }
}

#[test]
fn directories_and_odd_files_are_refused() {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("dir")).unwrap();
    lab.write("disk", &pattern(8192, 1));
    for command in READERS {
        let args = with_image(command, "dir");
        lab.run_untouched(&args)
            .code(6)
            .error(&["dir: is a directory"]);
        let args = with_image(command, "/dev/null");
        lab.run_untouched(&args)
            .code(6)
            .error(&["/dev/null: is no image"]);
    }
    let kinds: [&[&str]; 3] = [
        &["table", "origin", "disk"],
        &["table", "snapshot", "disk", "disk"],
        &["create", "merge", "n", "disk", "disk"],
    ];
    for args in kinds {
        lab.run_untouched(args)
            .code(6)
            .error(&["disk: is a regular file", "losetup"]);
    }
    lab.run_untouched(&["cow", "diff", "disk", "dir", "-o", "x"])
        .code(6)
        .error(&["dir: is a directory"]);
    lab.run_untouched(&["cow", "diff", "disk", "disk", "-o", "dir"])
        .code(6)
        .error(&["dir: is a directory"]);
}

#[test]
fn what_is_no_store_is_refused() {
    let lab = Lab::new();
    lab.write("disk", &pattern(8192, 1));
    let mut odd = pattern(40960, 3);
    odd[..4].copy_from_slice(b"SnAp");
    let images: [(&str, &[u8], &str); 4] = [
        ("empty", b"", "0 bytes are too few"),
        ("tiny", b"SnAp\x01", "5 bytes are too few"),
        ("foreign", &pattern(40960, 7), "is not that of a COW store"),
        ("odd", &odd, "version"),
    ];
    for (name, bytes, part) in images {
        lab.write(name, bytes);
        for command in READERS.iter().filter(|command| command[0] == "cow") {
            let args = with_image(command, name);
            let ran = lab.run_untouched(&args);
            if command[1] == "check" {
                let ran = ran.code(3);
                assert!(ran.out.contains(part), "{ran:#?}");
            } else {
                ran.code(5).error(&[name, part]);
            }
        }
    }
}

#[test]
fn what_is_no_delta_is_refused() {
    let lab = Lab::new();
    lab.write("disk", &pattern(8192, 1));
    let images: [(&str, &[u8], &str); 4] = [
        ("empty", b"", "no delta"),
        ("tiny", b"DMHdelta", "it has 8 bytes"),
        ("foreign", &pattern(40960, 7), "no delta"),
        ("odd", &b"DMHdelta".repeat(100), "version"),
    ];
    for (name, bytes, part) in images {
        lab.write(name, bytes);
        for command in READERS.iter().filter(|command| command[0] == "delta") {
            let args = with_image(command, name);
            lab.run_untouched(&args).code(5).error(&[name, part]);
        }
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let lab = Lab::new();
    let mut new = pattern(30_000 * 4096, 1);
    lab.write("old", &new);
    for chunk in new.chunks_mut(8192) {
        chunk[0] ^= 1;
    }
    lab.write("new", &new);
    lab.run(&["cow", "diff", "old", "new", "-o", "x.cow"])
        .code(0);
    for args in [&["cow", "dump", "x.cow"][..], &["completions", "bash"]] {
        let mut child = lab
            .command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut [0; 10]).unwrap();
        drop(out);
        let output = child.wait_with_output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), err.as_str()), (Some(0), ""));
    }
}

#[test]
fn manual_pages_and_completions_are_made() {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("man")).unwrap();
    lab.run(&["man", "man"]).code(0);
    for page in [
        "dmholey.1",
        "dmholey-cow-diff.1",
        "dmholey-create-merge.1",
        "dmholey-delta-make.1",
    ] {
        let text = String::from_utf8(lab.read(&format!("man/{page}"))).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
    let main = String::from_utf8(lab.read("man/dmholey.1")).unwrap();
    assert!(main.contains("the kernel or one of its devices refused"));
    for shell in ["bash", "zsh", "fish"] {
        let ran = lab.run(&["completions", shell]).code(0);
        assert!(ran.out.contains("dmholey"), "{shell}");
    }
}

#[test]
fn tables_can_be_printed_for_another_machine() {
    let lab = Lab::new();
    let cases: [(&[&str], &str); 6] = [
        (
            &["table", "origin", "/dev/a", "--length", "1M"],
            "0 2048 holey-origin /dev/a",
        ),
        (
            &[
                "table", "snapshot", "/dev/a", "/dev/b", "--length", "2048s", "--stock",
            ],
            "0 2048 snapshot /dev/a /dev/b P 8",
        ),
        (
            &[
                "table", "merge", "/dev/a", "/dev/b", "--length", "1G", "--chunk", "64K",
            ],
            "0 2097152 holey-merge /dev/a /dev/b P 128",
        ),
        (
            &[
                "table",
                "snapshot",
                "8:1",
                "8:2",
                "--length",
                "1M",
                "--store",
                "po",
                "--discard-zeroes-cow",
                "--discard-passdown-origin",
                "--queue-if-no-space=30",
                "--chunk",
                "512",
            ],
            "0 2048 holey-snapshot 8:1 8:2 PO 1 4 discard_zeroes_cow discard_passdown_origin queue_if_no_space 30",
        ),
        (
            &["table", "merge", "8:1", "8:2", "--length", "1M", "--queue-if-no-space"],
            "0 2048 holey-merge 8:1 8:2 P 8 1 queue_if_no_space",
        ),
        (
            &["table", "snapshot", "8:1", "8:2", "--length", "1M", "--store", "N"],
            "0 2048 holey-snapshot 8:1 8:2 N 8",
        ),
    ];
    for (args, line) in cases {
        let ran = lab.run(args).code(0);
        assert_eq!(ran.out, format!("{line}\n"));
        let mut args = args.to_vec();
        args.push("--json");
        assert_eq!(lab.run(&args).code(0).json()["table"], line);
    }
    lab.run(&["table", "origin", "/dev/a", "--length", "1000"])
        .code(2);
    for odd in [
        &["snapshot", "--discard-passdown-origin"][..],
        &["snapshot", "--queue-if-no-space=soon"],
        &["snapshot", "--store", "X"],
        &["merge", "--store", "N"],
    ] {
        let mut args = vec!["table", odd[0], "8:1", "8:2", "--length", "1M"];
        args.extend(&odd[1..]);
        lab.run_untouched(&args).code(2);
    }
}
