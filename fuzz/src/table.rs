// SPDX-License-Identifier: GPL-2.0-or-later

//! Table lines.

use holey_core::table::Features;
use holey_core::table::StoreKind;
use holey_core::table::StoreLine;
use holey_core::table::TableError;
use holey_core::table::WriterLine;

/// Parses a line. What is accepted says the same when it is written again; what is refused is
/// refused for a reason that can be told.
pub fn table(data: &[u8]) {
    let words = data.split(|&byte| byte == b' ');
    if let Ok(line) = WriterLine::parse(words.clone()) {
        let again = format!("o {}", line.chunk.sectors());
        let again = again.split(' ').map(str::as_bytes);
        assert_eq!(WriterLine::parse(again), Ok(line));
    }
    match StoreLine::parse(words.clone()) {
        Ok(line) => accepted(line, &words.collect::<Vec<_>>()),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let too_few = TableError::TooFewWords {
                got: words.clone().count(),
                want: 4,
            };
            assert_eq!(words.count() < 4, error == too_few);
        }
    }
}

fn accepted(line: StoreLine, words: &[&[u8]]) {
    let sectors = line.chunk.map_or(0, |chunk| chunk.sectors());
    let word = std::str::from_utf8(words[3]).unwrap();
    assert_eq!(word.parse(), Ok(sectors));
    assert!(sectors > 0 || line.kind != StoreKind::Transient);
    let name = line.kind.name().as_bytes();
    assert!(words[2][..name.len()].eq_ignore_ascii_case(name));
    assert_eq!(
        line.features == Features::default(),
        line.features.to_string().is_empty()
    );
    let again = format!("o c {} {sectors}{}", line.kind.name(), line.features);
    let again = again.split(' ').map(str::as_bytes);
    assert_eq!(StoreLine::parse(again), Ok(line));
}
