// SPDX-License-Identifier: GPL-2.0-or-later

//! Sizes and times as people write and read them.

use dmholey_cow::format::ChunkSize;
use dmholey_cow::format::SECTOR_SIZE;
use jiff::Timestamp;

/// Units by their letter, in bytes.
const UNITS: [(char, u64); 6] = [
    ('s', SECTOR_SIZE),
    ('b', 1),
    ('k', 1 << 10),
    ('m', 1 << 20),
    ('g', 1 << 30),
    ('t', 1 << 40),
];

/// Reads a size: a whole number with a unit (s: sectors of 512 bytes; K, M, G, T: powers of 1024;
/// B or nothing: bytes). Returns bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let (digits, factor) = UNITS
        .iter()
        .find_map(|&(letter, factor)| Some((lower.strip_suffix(letter)?, factor)))
        .unwrap_or((&lower, 1));
    let number: u64 = digits.parse().map_err(|_| {
        format!("'{text}' is not a size; write a whole number and a unit, such as 4K or 8s")
    })?;
    number
        .checked_mul(factor)
        .ok_or_else(|| format!("'{text}' is too large"))
}

/// Reads a chunk size.
pub fn parse_chunk(text: &str) -> Result<ChunkSize, String> {
    let bytes = parse_size(text)?;
    if bytes % SECTOR_SIZE != 0 || bytes == 0 {
        return Err(format!(
            "{bytes} bytes are not a number of sectors of 512 bytes, the smallest chunk"
        ));
    }
    u32::try_from(bytes / SECTOR_SIZE)
        .map_err(|_| format!("'{text}' is too large"))
        .and_then(|sectors| ChunkSize::new(sectors).map_err(|e| e.to_string()))
}

/// Reads a size that must be whole sectors. Returns sectors.
pub fn parse_sectors(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text)?;
    if bytes % SECTOR_SIZE != 0 || bytes == 0 {
        return Err(format!(
            "'{text}' is not a number of sectors of 512 bytes; write 2048s for 2048 sectors"
        ));
    }
    Ok(bytes / SECTOR_SIZE)
}

/// Bytes for people: three digits and a unit.
pub fn human(bytes: u64) -> String {
    const NAMES: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut names = NAMES.iter();
    let mut name = names.next().unwrap_or(&"KiB");
    while value >= 1023.95 {
        let Some(next) = names.next() else { break };
        value /= 1024.0;
        name = next;
    }
    if value >= 99.95 {
        return format!("{value:.0} {name}");
    }
    let text = format!("{value:.1}");
    format!("{} {name}", text.strip_suffix(".0").unwrap_or(&text))
}

/// Parts of a whole, in percent with one digit.
pub fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 100.0;
    }
    (part as f64 * 1000.0 / whole as f64).floor() / 10.0
}

/// A time in seconds since 1970, as a date with a time in UTC.
pub fn utc(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok();
    let time = time.and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(|| format!("{seconds} s"), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        assert_eq!(utc(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(utc(u64::MAX), format!("{} s", u64::MAX));
    }

    #[test]
    fn sizes_are_read() {
        let good = [
            ("0", 0),
            ("512", 512),
            ("8s", 4096),
            ("4k", 4096),
            ("4K", 4096),
            ("1M", 1 << 20),
            ("2g", 2 << 30),
            ("3T", 3 << 40),
            ("7B", 7),
        ];
        for (text, bytes) in good {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "K",
            "-1",
            "1.5M",
            "4KiB",
            "99999999999999999999",
            "18446744073709551615K",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn chunk_sizes_are_checked() {
        for (text, sectors) in [("512", 1), ("2K", 4), ("4K", 8), ("64M", 131_072)] {
            assert_eq!(parse_chunk(text).unwrap().sectors(), sectors, "{text}");
        }
        for text in ["8", "0", "12K", "128M", "5s", "16T"] {
            assert!(parse_chunk(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_are_shown_shortly() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (150 * 1024 + 300, "150 KiB"),
            ((1 << 20) - 1, "1 MiB"),
            (5 << 40, "5 TiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(human(bytes), text);
        }
    }

    #[test]
    fn percent_never_rounds_up_to_all() {
        assert_eq!(percent(9999, 10000), 99.9);
        assert_eq!(percent(0, 0), 100.0);
    }
}
