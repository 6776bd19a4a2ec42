// SPDX-License-Identifier: GPL-2.0-or-later

//! A tree of files as an archive, or as an archive of a container image's layout.

use dmholey_image::tree;
use dmholey_image::tree::Choice;
use dmholey_image::tree::Kind;
use dmholey_image::tree::Limits;
use dmholey_image::tree::Spool;
use dmholey_image::tree::Tree;
use dmholey_image::tree::ROOT;

/// What a file system of this size could hold is read, and nothing larger.
const BYTES: u64 = 1 << 16;
const INODES: u64 = 64;

/// Reads it, and what it is an archive of, twice: both times it is the same, and within the limits.
pub fn tree(data: &[u8]) {
    assert_eq!(read(data), read(data));
}

/// The digests of the tree, and of the image whose layout it is.
fn read(data: &[u8]) -> Option<([u8; 32], Option<[u8; 32]>)> {
    let limits = Limits::of(BYTES, INODES);
    let mut spool = Spool::create(&std::env::temp_dir(), limits).unwrap();
    let archive = tree::read_tar(data, "archive", limits, &mut spool).ok()?;
    check(&archive, limits);
    let flattened = tree::is_layout(&archive)
        .then(|| tree::flatten(&archive, &Choice::default(), limits, &mut spool).ok())
        .flatten();
    if let Some(flattened) = &flattened {
        check(flattened, limits);
    }
    Some((archive.digest(), flattened.map(|tree| tree.digest())))
}

/// Every name is one, every number is that of a node, and there is no more than there may be.
fn check(tree: &Tree, limits: Limits) {
    let (mut names, mut bytes) = (0, 0);
    let mut folders = vec![(ROOT, 0)];
    while let Some((folder, depth)) = folders.pop() {
        assert!(depth <= 512);
        for (name, id) in tree.entries(folder) {
            names += 1;
            assert!(
                !name.is_empty()
                    && name.len() <= 255
                    && !name.contains(&b'/')
                    && !name.contains(&0)
            );
            assert!(name != b"." && name != b"..");
            match &tree.get(id).unwrap().kind {
                Kind::Dir(_) => folders.push((id, depth + 1)),
                Kind::File(content) => bytes += content.size(),
                _ => {}
            }
        }
    }
    assert!(names <= limits.names);
    // A file may have as many names as there may be.
    assert!(bytes <= limits.with_holes.saturating_mul(limits.names));
}
