// SPDX-License-Identifier: GPL-2.0-or-later

//! Data that says where and when it was written: each sector is one word, repeated.

pub(crate) const SECTOR: usize = 512;
const WORD: usize = 8;

/// Who wrote a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag(u32);

impl Tag {
    /// What the origin holds at first.
    pub(crate) const ORIGIN: Self = Self(0xba5e_0000);

    /// What COW volume `n` holds at first.
    pub(crate) fn garbage(n: usize) -> Self {
        Self(0xdead_0000 + n as u32)
    }

    /// Write number `part` of step `step` of a script, both from 0 on.
    pub(crate) fn step(step: usize, part: usize) -> Self {
        Self(((step as u32 + 1) << 8) + part as u32)
    }
}

/// The data that `count` sectors of a device get, from `sector` on.
pub(crate) fn fill(tag: Tag, sector: u64, count: u64) -> Vec<u8> {
    let mut data = vec![0; count as usize * SECTOR];
    fill_into(tag, sector, &mut data);
    data
}

/// The same, into a buffer.
pub(crate) fn fill_into(tag: Tag, sector: u64, data: &mut [u8]) {
    for (place, number) in data.chunks_exact_mut(SECTOR).zip(sector..) {
        let word = ((u64::from(tag.0) << 32) | number).to_le_bytes();
        for part in place.chunks_exact_mut(WORD) {
            part.copy_from_slice(&word);
        }
    }
}

/// Tells what a sector holds.
fn describe(sector: &[u8]) -> String {
    let Some(first) = sector.first_chunk::<WORD>() else {
        return "nothing".to_owned();
    };
    let word = u64::from_le_bytes(*first);
    let (tag, number) = ((word >> 32) as u32, word as u32);
    let mixed = match sector.chunks_exact(WORD).position(|part| part != first) {
        Some(at) => format!(", something else from byte {} on", at * WORD),
        None => String::new(),
    };
    let what = match tag {
        _ if word == 0 => "zeroes".to_owned(),
        tag if Tag(tag) == Tag::ORIGIN => {
            format!("the first content of the origin's sector {number}")
        }
        tag if tag >> 16 == 0xdead => {
            format!("garbage of COW volume {}, sector {number}", tag & 0xffff)
        }
        tag if (1 << 8..1 << 24).contains(&tag) => {
            format!("sector {number} of what step {} has written", tag >> 8)
        }
        _ => format!("{word:#018x}"),
    };
    format!("{what}{mixed}")
}

/// Where two contents differ first, if they do.
pub(crate) fn difference(got: &[u8], want: &[u8], first: u64) -> Option<String> {
    if got == want {
        return None;
    }
    if got.len() != want.len() {
        return Some(format!("{} bytes instead of {}", got.len(), want.len()));
    }
    let pairs = || got.chunks(SECTOR).zip(want.chunks(SECTOR));
    let bad = pairs().filter(|(got, want)| got != want).count();
    let at = pairs().position(|(got, want)| got != want).unwrap_or(0);
    let (got, want) = pairs().nth(at)?;
    let (got, want) = (describe(got), describe(want));
    let sector = first + at as u64;
    Some(format!(
        "{bad} sectors are wrong, the first is {sector}: it is {got}; should be {want}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_bit_is_found() {
        let want = fill(Tag::ORIGIN, 10, 3);
        assert_eq!(difference(&want, &want, 10), None);
        for at in 0..want.len() {
            let mut got = want.clone();
            got[at] ^= 1 << (at % 8);
            let text = difference(&got, &want, 10).expect("a bit is wrong");
            let sector = format!("the first is {}:", 10 + at / SECTOR);
            assert!(text.starts_with("1 sectors are wrong"), "{text}");
            assert!(text.contains(&sector), "{text}");
        }
        assert!(difference(&want[SECTOR..], &want, 10).is_some());
    }

    #[test]
    fn sectors_tell_their_story() {
        let told = |tag, sector| describe(&fill(tag, sector, 1));
        assert!(told(Tag::ORIGIN, 7).contains("origin's sector 7"));
        assert!(told(Tag::garbage(2), 9).contains("COW volume 2, sector 9"));
        assert!(told(Tag::step(4, 1), 3).contains("sector 3 of what step 5"));
        assert_eq!(describe(&[0; SECTOR]), "zeroes");
    }
}
