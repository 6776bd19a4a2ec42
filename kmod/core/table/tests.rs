// SPDX-License-Identifier: GPL-2.0

//! Tests of the parsing of table lines.

use super::*;
use std::format;

fn parse(line: &str) -> Result<StoreLine, TableError> {
    StoreLine::parse(line.split(' ').map(str::as_bytes))
}

fn line(kind: StoreKind, chunk: u32) -> StoreLine {
    StoreLine {
        kind,
        chunk: (chunk != 0).then(|| ChunkSize::new(chunk).unwrap()),
        features: Features::default(),
    }
}

#[test]
fn lines_that_are_accepted() {
    let cases = [
        ("a b P 8", line(StoreKind::Persistent, 8)),
        ("a b p 0", line(StoreKind::Persistent, 0)),
        ("a b P 1 0 ignored", line(StoreKind::Persistent, 1)),
        ("a b POzz 8", line(StoreKind::Overflow, 8)),
        ("a b nzz 16", line(StoreKind::Transient, 16)),
    ];
    for (text, want) in cases {
        assert_eq!(parse(text), Ok(want), "{text}");
    }
}

#[test]
fn lines_of_a_shared_volume() {
    let writer = |line: &str| WriterLine::parse(line.split(' ').map(str::as_bytes));
    let chunk = ChunkSize::new(8).unwrap();
    let plain = WriterLine {
        chunk,
        write_back: None,
    };
    assert_eq!(writer("a 8"), Ok(plain));
    assert_eq!(writer("a 8 0"), Ok(plain));
    assert_eq!(
        writer("a"),
        Err(TableError::TooFewWords { got: 1, want: 2 })
    );
    for features in [" 1 write_back", " 2 write_back 1", " 2 write_back 256"] {
        let line = writer(&format!("a 8{features}")).unwrap();
        assert_eq!(format!("{}", line.write_back.unwrap()), features);
    }
    let sizes = ["a 8 1 WRITE_BACK", "a 8 2 write_back 7"]
        .map(|line| writer(line).unwrap().write_back.unwrap().mib());
    assert_eq!(sizes, [16, 7]);
    for line in ["a 8 9", "a 8 b", "a 8 1", "a 8 2 write_back"] {
        assert_eq!(writer(line), Err(TableError::FeatureCount), "{line}");
    }
    for line in ["a 8 1 b", "a 8 2 write_back 0", "a 8 2 write_back 257"] {
        assert_eq!(writer(line), Err(TableError::WriterFeature), "{line}");
    }
    assert_eq!(
        writer("a 8 1 write_back 7"),
        Err(TableError::TooManyWords { got: 5, want: 4 })
    );
    assert_eq!(writer("a b"), Err(TableError::ChunkNumber));
    assert_eq!(
        writer("a 0"),
        Err(TableError::Chunk(FormatError::ChunkSize(0)))
    );
    let copier = |line: &str| parse(line).and_then(|line| line.copier_chunk());
    assert_eq!(copier("a b P 8"), Ok(chunk));
    assert_eq!(copier("a b P 8 1 summary"), Err(TableError::SummaryAlone));
    assert_eq!(
        copier("a b P 8 2 discard_zeroes_cow discard_passdown_origin"),
        Err(TableError::CopierPassdown)
    );
    for line in ["a b N 8", "a b PO 8", "a b P 0"] {
        assert_eq!(copier(line), Err(TableError::CopierStore));
    }
}

#[test]
fn features_are_printed_as_they_are_written() {
    for features in [
        "",
        " 1 discard_zeroes_cow",
        " 2 discard_zeroes_cow discard_passdown_origin",
        " 1 queue_if_no_space",
        " 2 queue_if_no_space 30",
        " 4 discard_zeroes_cow discard_passdown_origin queue_if_no_space 0",
        " 1 summary",
        " 5 discard_zeroes_cow discard_passdown_origin queue_if_no_space 7 summary",
    ] {
        let line = parse(&format!("a b P 8{features}")).unwrap();
        assert_eq!(format!("{}", line.features), features);
    }
}

#[test]
fn features_may_repeat_in_any_order_and_case_and_words_beyond_their_number_are_ignored() {
    let line = parse("a b P 8 2 DISCARD_passdown_origin discard_ZEROES_cow nonsense").unwrap();
    assert!(line.features.discard_zeroes_cow && line.features.discard_passdown_origin);
    let line = parse("a b P 8 2 discard_zeroes_cow discard_zeroes_cow").unwrap();
    assert_eq!(format!("{}", line.features), " 1 discard_zeroes_cow");
    let line = parse("a b P 8 2 queue_if_no_space discard_zeroes_cow 7").unwrap();
    assert_eq!(line.features.queue_if_no_space, Some(Patience::Endless));
}

#[test]
fn lines_that_are_refused() {
    let cases = [
        ("a b P", TableError::TooFewWords { got: 3, want: 4 }),
        ("a b X 8", TableError::Store),
        ("a b Px 8", TableError::StoreOption),
        ("a b N 0", TableError::TransientChunk),
        ("a b P eight", TableError::ChunkNumber),
        ("a b P -8", TableError::ChunkNumber),
        ("a b P 12", TableError::Chunk(FormatError::ChunkSize(12))),
        ("a b P 8 6 a b c d e f", TableError::FeatureCount),
        ("a b N 8 1 summary", TableError::SummaryAlone),
        ("a b P 8 -1", TableError::FeatureCount),
        ("a b P 8 1", TableError::FeatureCount),
        ("a b P 8 2 discard_zeroes_cow", TableError::FeatureCount),
        ("a b P 8 1 nonsense", TableError::FeatureUnknown),
        ("a b P 8 2 discard_zeroes_cow 7", TableError::FeatureUnknown),
        (
            "a b P 8 1 discard_passdown_origin",
            TableError::PassdownAlone,
        ),
    ];
    for (line, error) in cases {
        assert_eq!(parse(line), Err(error), "{line}");
    }
}
