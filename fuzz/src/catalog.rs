// SPDX-License-Identifier: GPL-2.0-or-later

//! A catalog that clients read, and the list of a repository.

use dmholey_repository::Catalog;
use dmholey_repository::Manifest;

/// What is read is the same when it is written and read again, and a way leads where it should.
pub fn catalog(data: &[u8]) {
    if let Ok(manifest) = Manifest::parse(data) {
        assert_eq!(Manifest::parse(&manifest.encode()).as_ref(), Ok(&manifest));
        if let Some(last) = manifest.last() {
            assert_eq!(manifest.version(last.number), Some(last));
        }
    }
    let Ok(catalog) = Catalog::parse(data) else {
        return;
    };
    assert_eq!(Catalog::parse(&catalog.encode()).as_ref(), Ok(&catalog));
    let numbers = catalog.versions.iter().map(|version| version.number);
    for from in [0].into_iter().chain(numbers.take(4)) {
        for to in &catalog.versions {
            let mut at = from;
            for delta in catalog.way(from, to.number).into_iter().flatten() {
                assert_eq!(delta.from, at);
                assert!(!delta.file().contains('/'));
                at = delta.to;
            }
            assert!(at == from || at == to.number);
        }
    }
}
