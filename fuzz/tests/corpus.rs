// SPDX-License-Identifier: GPL-2.0-or-later

//! Replays the corpora without libFuzzer: every input.

use std::path::Path;

#[test]
fn corpora_pass() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in dmholey_fuzz::TARGETS {
        let mut count = 0;
        for entry in corpora.join(name).read_dir().unwrap() {
            let path = entry.unwrap().path();
            // What is shown when a target panics.
            println!("{}", path.display());
            let data = std::fs::read(&path).unwrap();
            target(&data);
            count += 1;
        }
        assert!(count >= 10, "{name} has {count} inputs only");
    }
}
