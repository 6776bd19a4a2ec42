// SPDX-License-Identifier: GPL-2.0-or-later

//! The delta commands on files.

mod common;

use common::pattern;
use common::Lab;

const BLOCK: usize = 4096;

/// A lab with `old`, `new` (shifted by a block, with some changes and zeros) and `x.delta`.
fn lab() -> Lab {
    let lab = Lab::new();
    let old = pattern(200 * BLOCK, 1);
    let mut new = old[BLOCK..].to_vec();
    new.extend_from_slice(&old[..BLOCK]);
    for n in (0..150).step_by(15) {
        new[n * BLOCK + 8] ^= 0xff;
    }
    new[180 * BLOCK..190 * BLOCK].fill(0);
    lab.write("old", &old);
    lab.write("new", &new);
    let args = ["delta", "make", "old", "new", "-o", "x.delta"];
    lab.run(&args).code(0);
    lab
}

#[test]
fn a_delta_is_described() {
    let lab = lab();
    let args = ["delta", "make", "old", "new", "-o", "y.delta", "--json"];
    let made = lab.run(&args).code(0).json();
    assert_eq!(lab.read("x.delta"), lab.read("y.delta"));
    assert_eq!(made["zero_blocks"], 10);
    assert_eq!(made["made_blocks"], 10);
    assert_eq!(made["bytes"], lab.read("x.delta").len());

    let ran = lab.run(&["delta", "info", "x.delta"]).code(0);
    for part in ["819200 bytes", "10 blocks by 1 units", "identity"] {
        assert!(ran.out.contains(part), "{ran:#?}");
    }
    let info = lab
        .run(&["delta", "info", "x.delta", "--json"])
        .code(0)
        .json();
    assert_eq!(info["identity"], made["identity"]);
    assert_eq!(info["new_len"], 200 * BLOCK);
    assert_eq!(info["units"][0]["method"], "program");
}

#[test]
fn a_delta_makes_the_new_image() {
    let lab = lab();
    let args = [
        "delta", "apply", "x.delta", "--base", "old", "--output", "made",
    ];
    lab.run(&args).code(0);
    assert_eq!(lab.read("made"), lab.read("new"));
    lab.run_untouched(&args).code(6).error(&["made: exists"]);
    let args = [
        "delta", "apply", "x.delta", "--base", "old", "--output", "old",
    ];
    lab.run_untouched(&args)
        .code(6)
        .error(&["old: is also an input"]);
}

#[test]
fn a_delta_becomes_a_cow_image_and_back() {
    let lab = lab();
    lab.run(&["delta", "to-cow", "x.delta", "--base", "old", "-o", "x.cow"])
        .code(0);
    lab.run(&["cow", "diff", "old", "new", "-o", "y.cow"])
        .code(0);
    assert_eq!(lab.read("x.cow"), lab.read("y.cow"));
    lab.run(&[
        "delta", "from-cow", "x.cow", "--base", "old", "-o", "y.delta",
    ])
    .code(0);
    assert_eq!(lab.read("x.delta"), lab.read("y.delta"));
}

#[test]
fn sizes_may_differ_but_not_in_a_cow_image() {
    let lab = lab();
    let mut longer = lab.read("new");
    longer.extend_from_slice(b"a bit more");
    lab.write("longer", &longer);
    lab.run(&["delta", "make", "old", "longer", "-o", "y.delta"])
        .code(0);
    lab.run(&["delta", "apply", "y.delta", "--base", "old", "-o", "made"])
        .code(0);
    assert_eq!(lab.read("made"), longer);
    lab.run_untouched(&["delta", "to-cow", "y.delta", "--base", "old", "-o", "y.cow"])
        .code(6)
        .error(&["y.delta", "cannot change a size"]);
}

#[test]
fn a_check_tells_what_is_wrong() {
    let lab = lab();
    lab.run(&["delta", "check", "x.delta"]).code(0);
    let ran = lab
        .run(&["delta", "check", "x.delta", "--base", "old"])
        .code(0);
    assert!(ran.out.contains("no problem, 1 units"), "{ran:#?}");

    let ran = lab
        .run(&["delta", "check", "x.delta", "--base", "new"])
        .code(3);
    assert!(ran.out.contains("is not the old version"), "{ran:#?}");
    lab.run_untouched(&["delta", "apply", "x.delta", "--base", "new", "-o", "made"])
        .code(6)
        .error(&["new: is not the old version"]);

    let mut bytes = lab.read("x.delta");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    lab.write("damaged", &bytes);
    let ran = lab.run(&["delta", "check", "damaged"]).code(3);
    assert!(
        ran.out.contains("the digest of a unit is wrong"),
        "{ran:#?}"
    );
    lab.run_untouched(&["delta", "apply", "damaged", "--base", "old", "-o", "made"])
        .code(5)
        .error(&["damaged: the digest of a unit is wrong"]);
    lab.write("cut", &bytes[..last]);
    lab.run_untouched(&["delta", "check", "cut"])
        .code(5)
        .error(&["cut off"]);
}
