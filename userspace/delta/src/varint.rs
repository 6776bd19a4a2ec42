// SPDX-License-Identifier: GPL-2.0-or-later

//! Numbers of variable length: seven bits a byte, the lowest first, the top bit set on all but the last.

use crate::error::Broken;

/// Bytes of the longest number.
const MAX_LEN: usize = 10;

/// Appends `value`.
pub(crate) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed `value`: 0, -1, 1, -2, … as 0, 1, 2, 3, …
pub(crate) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Reads what was put.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    /// What is read, for messages.
    part: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], part: &'static str) -> Self {
        Self { bytes, part }
    }

    /// A number. Each has one form only.
    pub(crate) fn number(&mut self) -> Result<u64, Broken> {
        let mut value = 0u64;
        for i in 0..MAX_LEN {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            let shift = 7 * i as u32;
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && i > 0 {
                    break;
                }
                return Ok(value);
            }
        }
        Err(Broken::Number(self.part))
    }

    /// A number up to `max`.
    pub(crate) fn limited(&mut self, max: u64, what: &'static str) -> Result<u64, Broken> {
        let value = self.number()?;
        if value > max {
            return Err(Broken::Limit(what));
        }
        Ok(value)
    }

    /// A number from 1 to `max`.
    pub(crate) fn positive(&mut self, max: u64, what: &'static str) -> Result<u64, Broken> {
        match self.limited(max, what)? {
            0 => Err(Broken::Limit(what)),
            value => Ok(value),
        }
    }

    /// A signed number.
    pub(crate) fn signed(&mut self) -> Result<i64, Broken> {
        let value = self.number()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// A byte.
    pub(crate) fn byte(&mut self) -> Result<u8, Broken> {
        let (&byte, rest) = self.bytes.split_first().ok_or(Broken::Number(self.part))?;
        self.bytes = rest;
        Ok(byte)
    }

    /// A fixed number of bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let (array, rest) = self
            .bytes
            .split_first_chunk()
            .ok_or(Broken::Number(self.part))?;
        self.bytes = rest;
        Ok(*array)
    }

    /// `len` bytes.
    pub(crate) fn slice(&mut self, len: u64) -> Result<&'a [u8], Broken> {
        let len = usize::try_from(len).map_err(|_| Broken::Number(self.part))?;
        let (slice, rest) = self
            .bytes
            .split_at_checked(len)
            .ok_or(Broken::Number(self.part))?;
        self.bytes = rest;
        Ok(slice)
    }

    /// What is left.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// Fails if anything is left.
    pub(crate) fn end(&self) -> Result<(), Broken> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        Err(Broken::Rest(self.part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_put_is_read(values: Vec<u64>, signed: Vec<i64>) {
            let mut bytes = Vec::new();
            values.iter().for_each(|&value| put(&mut bytes, value));
            signed.iter().for_each(|&value| put_signed(&mut bytes, value));
            let mut reader = Reader::new(&bytes, "test");
            for value in values {
                prop_assert_eq!(reader.number(), Ok(value));
            }
            for value in signed {
                prop_assert_eq!(reader.signed(), Ok(value));
            }
            prop_assert_eq!(reader.end(), Ok(()));
        }

        #[test]
        fn what_is_read_has_one_form(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let mut reader = Reader::new(&bytes, "test");
            if let Ok(value) = reader.number() {
                let mut again = Vec::new();
                put(&mut again, value);
                prop_assert_eq!(&bytes[..bytes.len() - reader.rest().len()], &again[..]);
            }
        }
    }

    #[test]
    fn odd_forms_are_refused() {
        for bytes in [
            &[][..],
            &[0x80],
            &[0x80, 0],
            &[0xff; 10],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
        ] {
            assert!(Reader::new(bytes, "test").number().is_err());
        }
    }
}
