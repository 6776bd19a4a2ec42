// SPDX-License-Identifier: GPL-2.0-or-later

//! A disk is kept at what is published, by the commands alone: published, served, checked, pulled, applied.

mod common;

use common::pattern;
use common::Lab;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::process::Child;
use std::process::Stdio;

const CHUNK: usize = 4096;

/// A lab with three versions that are published, and a disk that is the first.
fn lab() -> Lab {
    let lab = Lab::new();
    let mut image = pattern(100 * CHUNK, 1);
    lab.write("v1", &image);
    lab.write("disk", &image);
    image[7 * CHUNK] ^= 1;
    lab.write("v2", &image);
    image[30 * CHUNK..60 * CHUNK].copy_from_slice(&pattern(30 * CHUNK, 5));
    lab.write("v3", &image);
    for image in ["v1", "v2", "v3"] {
        lab.run(&["image", "checkpoint", "r", image, "--level", "1"])
            .code(0);
    }
    lab.run(&["image", "squash", "r", "0", "3", "--level", "1"])
        .code(0);
    lab.run(&["image", "keys", "keys"]).code(0);
    lab.run(&["image", "publish", "r", "--to", "web", "--keys", "keys"])
        .code(0);
    lab
}

/// `dmholey image serve`, until it is dropped.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(lab: &Lab) -> Self {
        let mut child = lab
            .command(&["--json", "image", "serve", "web", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let url = said["url"].as_str().unwrap().to_owned();
        Self { child, url }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a configuration with these mirrors.
fn configure(lab: &Lab, mirrors: &[&str]) {
    let path = |name: &str| lab.path(name).display().to_string();
    let text = format!(
        "disk = '{}'\nroot = '{}'\nstate = '{}'\nmirrors = {mirrors:?}\npatience = 0\n",
        path("disk"),
        path("keys/1.root.json"),
        path("client"),
    );
    lab.write("update.toml", text.as_bytes());
}

fn update<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["update"];
    all.extend(words);
    all.extend(["--config", "update.toml"]);
    all
}

#[test]
fn a_disk_is_updated_over_http() {
    let lab = lab();
    let server = Server::start(&lab);
    configure(&lab, &["/nowhere", &server.url]);
    let check = lab.run(&update(&["check"])).code(3);
    assert!(
        check.out.starts_with("version 3 is published;"),
        "{check:?}"
    );
    assert!(
        check.err.contains("/nowhere") && check.err.contains("passed over"),
        "{check:?}"
    );
    // A machine without certificates has no need for any.
    let bare = lab
        .command(&update(&["check", "--quiet"]))
        .envs([("SSL_CERT_FILE", "/none"), ("SSL_CERT_DIR", "/none")])
        .output();
    assert_eq!(bare.unwrap().status.code(), Some(3));
    // Also while an update is running.
    let running = std::fs::File::open(lab.path("client/lock")).unwrap();
    rustix::fs::flock(&running, rustix::fs::FlockOperation::LockExclusive).unwrap();
    lab.run(&update(&["pull"])).code(6).error(&["in use"]);
    let status = lab.run(&update(&["status", "--json"])).code(0).json();
    drop(running);
    assert_eq!(status["phase"], "idle");
    assert_eq!(status["newest"], 3);
    let pulled = lab
        .run(&update(&["pull", "--json", "--quiet"]))
        .code(0)
        .json();
    assert_eq!(
        (&pulled["version"], &pulled["staged"]),
        (&3.into(), &true.into())
    );
    assert_eq!(pulled["steps"], serde_json::json!([1, 2]));
    assert_eq!(pulled["found"], 0);
    let check = lab
        .run(&update(&["check", "--quiet", "--json"]))
        .code(3)
        .json();
    assert_eq!(check["installed"], 1);
    let applied = lab.run(&update(&["apply", "--json"])).code(0).json();
    assert_eq!(applied["way"], "offline");
    assert_eq!(lab.read("disk"), lab.read("v3"));
    lab.run(&update(&["pull"])).code(6);
    let text = lab.run(&update(&["status"])).code(0).out;
    assert!(text.contains("to 3: applied, and not committed"), "{text}");
    lab.run(&update(&["commit"])).code(0);
    let check = lab.run(&update(&["check", "--quiet"])).code(0).out;
    assert!(check.starts_with("version 3 is there already"), "{check}");
    // Nobody is there any more.
    drop(server);
    let error = lab.run(&update(&["check", "--quiet"])).code(1);
    error.error(&["no mirror has it", "/nowhere", "refused"]);
}

#[test]
fn what_is_between_versions_goes_back() {
    let lab = lab();
    configure(&lab, &[&lab.path("web").display().to_string()]);
    lab.run(&update(&["pull"])).code(0);
    lab.run(&update(&["rollback"])).code(0);
    lab.run(&update(&["rollback"]))
        .code(6)
        .error(&["nothing was pulled"]);
    lab.run(&update(&["pull", "--to", "2"])).code(0);
    lab.run(&update(&["apply"])).code(0);
    assert_eq!(lab.read("disk"), lab.read("v2"));
    lab.run(&update(&["rollback"])).code(0);
    assert_eq!(lab.read("disk"), lab.read("v1"));
    let status = lab.run(&update(&["status", "--json"])).code(0).json();
    assert_eq!(
        (&status["refused"], &status["phase"]),
        (&2.into(), &"idle".into())
    );
}

#[test]
fn a_disk_that_drifted_is_repaired() {
    let lab = lab();
    configure(&lab, &[&lab.path("web").display().to_string()]);
    let mut disk = lab.read("v3");
    disk[50 * CHUNK] ^= 1;
    lab.write("disk", &disk);
    let error = lab.run(&update(&["pull"])).code(6);
    error.error(&["no version that is published", "update repair"]);
    let repaired = lab.run(&update(&["repair", "--json"])).code(0).json();
    assert_eq!(
        (&repaired["version"], &repaired["blocks"]),
        (&3.into(), &1.into())
    );
    assert_eq!(repaired["way"], "offline");
    assert_eq!(lab.read("disk"), lab.read("v3"));
}

#[test]
fn a_whole_image_is_written_from_a_pipe() {
    let lab = lab();
    let image = lab.read("v3");
    let mut child = lab
        .command(&["--json", "update", "write", "-", "--to", "disk"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&image).unwrap();
    let said = child.wait_with_output().unwrap();
    assert!(said.status.success());
    let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(said["bytes"], 100 * CHUNK);
    assert_eq!(said["written"], 31 * CHUNK);
    assert_eq!(lab.read("disk"), image);
    let digest = "0".repeat(64);
    let error = lab.run(&["update", "write", "v1", "--to", "disk", "--sha256", &digest]);
    error.code(5).error(&["do not use the disk"]);
    lab.run(&["update", "write", "disk", "--to", "disk"])
        .code(6)
        .error(&["is also an input"]);
}

#[test]
fn configurations_are_checked() {
    let lab = lab();
    lab.run(&update(&["check"]))
        .code(1)
        .error(&["cannot read update.toml"]);
    lab.write("update.toml", b"disk = 'x'\n");
    lab.run(&update(&["check"]))
        .code(1)
        .error(&["update.toml, line 1: missing field"]);
    lab.run(&["image", "serve", "keys"])
        .code(6)
        .error(&["nothing was published"]);
}
