// SPDX-License-Identifier: GPL-2.0-or-later

//! Programs: output out of a source, with additions.
//!
//! Two versions of a machine program differ in few instructions, and in all addresses that have moved.
//! So an instruction of a program adds bytes to a part of the source, nearly all of them zero, and then
//! puts bytes that are new. The numbers of the instructions, the bytes to add and the new bytes are
//! three streams, each compressed by itself.

use crate::error::Broken;
use crate::format::MAX_CONTROL;
use crate::pack;
use crate::varint;
use crate::varint::Reader;

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    /// Bytes from the source, with as many added to them.
    add: u64,
    /// New bytes behind them.
    put: u64,
    /// From where the source is left, how far its next part is.
    seek: i64,
}

/// The three streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// For each instruction, how much it adds and puts, and how far the next part of the source is.
    pub control: Vec<u8>,
    /// The bytes to add.
    pub add: Vec<u8>,
    /// The new bytes.
    pub put: Vec<u8>,
}

impl Program {
    /// Adds an instruction with its bytes.
    pub(crate) fn push(&mut self, add: &[u8], put: &[u8], seek: i64) {
        varint::put(&mut self.control, add.len() as u64);
        varint::put(&mut self.control, put.len() as u64);
        varint::put_signed(&mut self.control, seek);
        self.add.extend_from_slice(add);
        self.put.extend_from_slice(put);
    }

    /// Compresses it.
    pub(crate) fn encode(&self, level: i32) -> Result<Vec<u8>, Broken> {
        let control = pack::encode(&self.control, &[], level)?;
        let add = pack::encode(&self.add, &[], level)?;
        let put = pack::encode(&self.put, &[], level)?;
        let mut out = Vec::with_capacity(control.len() + add.len() + put.len() + 20);
        for len in [control.len(), self.control.len(), add.len(), self.add.len()] {
            varint::put(&mut out, len as u64);
        }
        out.extend(control);
        out.extend(add);
        out.extend(put);
        Ok(out)
    }

    /// Whether the control stream is within its limit.
    pub(crate) fn fits(&self) -> bool {
        self.control.len() as u64 <= MAX_CONTROL
    }

    /// Bytes that are new.
    pub(crate) fn put_len(&self) -> usize {
        self.put.len()
    }

    /// Reads what was encoded for an output of `len` bytes.
    pub fn decode(packed: &[u8], len: usize) -> Result<Self, Broken> {
        let mut reader = Reader::new(packed, "program");
        let max = packed.len() as u64;
        let control_packed = reader.limited(max, "a stream")?;
        let control_len = reader.limited(MAX_CONTROL, "a stream")?;
        let add_packed = reader.limited(max, "a stream")?;
        let add_len = reader.limited(len as u64, "a stream")? as usize;
        let control = reader.slice(control_packed)?;
        let control = pack::decode(control, &[], control_len as usize, "control stream")?;
        let add = reader.slice(add_packed)?;
        let add = pack::decode(add, &[], add_len, "stream of additions")?;
        let put = pack::decode(reader.rest(), &[], len - add_len, "stream of new bytes")?;
        Ok(Self { control, add, put })
    }

    /// Makes the output. All of every stream has to be used.
    pub fn run(&self, source: &[u8]) -> Result<Vec<u8>, Broken> {
        let mut control = Reader::new(&self.control, "control stream");
        let mut out = Vec::with_capacity(self.add.len() + self.put.len());
        let (mut add, mut put) = (self.add.as_slice(), self.put.as_slice());
        let mut at = 0u64;
        while !control.rest().is_empty() {
            let step = Step {
                add: control.number()?,
                put: control.number()?,
                seek: control.signed()?,
            };
            let from = part(source, at, step.add)?;
            let more = split(&mut add, step.add)?;
            out.extend(from.iter().zip(more).map(|(a, b)| a.wrapping_add(*b)));
            out.extend_from_slice(split(&mut put, step.put)?);
            at = (at + step.add)
                .checked_add_signed(step.seek)
                .filter(|&at| at <= source.len() as u64)
                .ok_or(Broken::Program)?;
        }
        if !add.is_empty() || !put.is_empty() {
            return Err(Broken::Program);
        }
        Ok(out)
    }
}

/// `len` bytes of `source`.
fn part(source: &[u8], at: u64, len: u64) -> Result<&[u8], Broken> {
    let end = at
        .checked_add(len)
        .and_then(|end| usize::try_from(end).ok());
    let start = usize::try_from(at).ok();
    let range = start.zip(end).map(|(start, end)| start..end);
    range
        .and_then(|range| source.get(range))
        .ok_or(Broken::Program)
}

/// The next `len` bytes of a stream.
fn split<'a>(stream: &mut &'a [u8], len: u64) -> Result<&'a [u8], Broken> {
    let len = usize::try_from(len).map_err(|_| Broken::Program)?;
    let (taken, rest) = stream.split_at_checked(len).ok_or(Broken::Program)?;
    *stream = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_add_put_and_seek() {
        let mut program = Program::default();
        program.push(&[0, 1, 0], b"xy", -3);
        program.push(&[0, 0], &[], 1);
        program.push(&[], b"!", 0);
        let made = program.run(b"abcdef").unwrap();
        assert_eq!(made, b"accxyab!");
        let packed = program.encode(3).unwrap();
        assert_eq!(Program::decode(&packed, made.len()), Ok(program));
        assert!(Program::decode(&packed, made.len() + 1).is_err());
    }

    #[test]
    fn bounds_are_kept() {
        for (add, seek) in [(7, 0), (3, 4), (3, -4), (0, i64::MIN), (0, i64::MAX)] {
            let mut program = Program::default();
            program.push(&vec![0; add], &[], seek);
            assert_eq!(program.run(b"abcdef"), Err(Broken::Program));
        }
        let long = Program {
            control: vec![0, 0, 0],
            add: vec![1],
            put: vec![],
        };
        assert_eq!(long.run(b"abc"), Err(Broken::Program));
    }
}
