// SPDX-License-Identifier: GPL-2.0-or-later

//! Extended headers of archives: records, and what their values mean.

use crate::ext4::inode::Time;
use std::collections::BTreeMap;

/// Parts of a sparse file, at most.
pub(super) const MAX_PARTS: usize = 1 << 20;

/// Where the parts of a sparse file belong: offset and length, in order.
pub(super) type Parts = Vec<(u64, u64)>;

/// The records of an extended header: a length, a blank, a key, an equals sign, a value, a newline. The
/// value may hold any byte. Of several records with one key the last one counts.
pub(super) fn records(mut bytes: &[u8]) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut found = BTreeMap::new();
    while !bytes.is_empty() {
        let blank = bytes.iter().take(20).position(|&byte| byte == b' ')?;
        let len = usize::try_from(number(bytes.get(..blank)?)?).ok()?;
        let record = bytes.get(blank + 1..len)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|&byte| byte == b'=')?;
        let (key, value) = (record.get(..equals)?, record.get(equals + 1..)?);
        found.insert(key.to_vec(), value.to_vec());
        bytes = bytes.get(len..)?;
    }
    Some(found)
}

/// A number of digits alone.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A time such as `1700000000.123456789`; digits beyond nanoseconds are cut.
pub(super) fn time(text: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = format!("{part:0<9}");
    let nanos: u32 = digits.get(..9)?.parse().ok()?;
    if !whole.starts_with('-') || nanos == 0 {
        return Some(Time { seconds, nanos });
    }
    Some(Time {
        seconds: seconds.checked_sub(1)?,
        nanos: 1_000_000_000 - nanos,
    })
}

/// Checks that parts are in order and within `size` bytes.
pub(super) fn check(parts: Parts, size: u64) -> Option<Parts> {
    let mut end = 0;
    for &(offset, len) in &parts {
        if offset < end {
            return None;
        }
        end = offset.checked_add(len)?;
    }
    (end <= size && parts.len() <= MAX_PARTS).then_some(parts)
}

/// The map of format 0.1: `offset,length,offset,length,...`
pub(super) fn sparse_map(text: &[u8]) -> Option<Parts> {
    let text = std::str::from_utf8(text).ok()?;
    let numbers: Option<Vec<u64>> = text.split(',').map(|word| word.parse().ok()).collect();
    pairs(&numbers?)
}

fn pairs(numbers: &[u64]) -> Option<Parts> {
    let pairs = numbers.chunks(2).map(|pair| match pair {
        [offset, len] => Some((*offset, *len)),
        _ => None,
    });
    pairs.collect()
}

/// The map of format 1.0, which comes before the data: a count, then offsets and lengths, each on a
/// line, filled up with zeros to 512 bytes.
pub(super) fn sparse_lines(from: &mut dyn std::io::Read) -> std::io::Result<Parts> {
    let bad = || {
        std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            "its sparse map makes no sense",
        )
    };
    let mut lines = Lines {
        from,
        block: [0; 512],
        at: 512,
    };
    let count = usize::try_from(lines.number()?.ok_or_else(bad)?).map_err(|_| bad())?;
    if count > MAX_PARTS {
        return Err(bad());
    }
    let mut parts = Parts::new();
    for _ in 0..count {
        let (offset, len) = (lines.number()?, lines.number()?);
        parts.push(offset.zip(len).ok_or_else(bad)?);
    }
    Ok(parts)
}

/// Numbers on lines, in blocks.
struct Lines<'a> {
    from: &'a mut dyn std::io::Read,
    block: [u8; 512],
    at: usize,
}

impl Lines<'_> {
    fn number(&mut self) -> std::io::Result<Option<u64>> {
        let mut value: Option<u64> = None;
        loop {
            if self.at == self.block.len() {
                self.from.read_exact(&mut self.block)?;
                self.at = 0;
            }
            let byte = *self.block.get(self.at).unwrap_or(&0);
            self.at += 1;
            match byte {
                b'\n' => return Ok(value),
                b'0'..=b'9' => {
                    let digit = u64::from(byte - b'0');
                    let more = value
                        .unwrap_or(0)
                        .checked_mul(10)
                        .and_then(|v| v.checked_add(digit));
                    match more {
                        Some(more) => value = Some(more),
                        None => return Ok(None),
                    }
                }
                _ => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_may_hold_any_byte() {
        let found = records(b"8 a=b\n\n\n8 c==\0\xff\n").unwrap();
        assert_eq!(found[&b"a"[..]], b"b\n\n");
        assert_eq!(found[&b"c"[..]], b"=\0\xff");
        for bad in [
            &b"5 a=b"[..],
            b"x",
            b"9 a=b\n",
            b"0 a=b\n",
            b"4 a\n\n",
            b"99999999999999999999 a=b\n",
        ] {
            assert_eq!(records(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn times_have_nanoseconds_and_signs() {
        let is = |text: &str, seconds, nanos| {
            assert_eq!(
                time(text.as_bytes()),
                Some(Time { seconds, nanos }),
                "{text}"
            );
        };
        is("12", 12, 0);
        is("12.5", 12, 500_000_000);
        is("12.1234567899", 12, 123_456_789);
        is("-1.25", -2, 750_000_000);
        is("-0.25", -1, 750_000_000);
        for bad in ["", "x", "1.x", "1.-5", "--1"] {
            assert_eq!(time(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn sparse_maps_are_read() {
        assert_eq!(sparse_map(b"0,5,10,5"), Some(vec![(0, 5), (10, 5)]));
        assert_eq!(sparse_map(b"0,5,10"), None);
        let mut text = b"2\n0\n5\n10\n5\n".to_vec();
        text.resize(512, 0);
        assert_eq!(
            sparse_lines(&mut text.as_slice()).unwrap(),
            [(0, 5), (10, 5)]
        );
        assert!(sparse_lines(&mut &b"99999999999\n"[..]).is_err());
        assert_eq!(check(vec![(0, 5), (4, 5)], 100), None);
        assert_eq!(check(vec![(0, 5), (u64::MAX, 5)], 100), None);
        assert_eq!(check(vec![(0, 5)], 4), None);
    }
}
