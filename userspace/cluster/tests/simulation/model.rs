// SPDX-License-Identifier: GPL-2.0-or-later

//! What each node may see.
//!
//! The view of a node has for each chunk the values that a read may return: one, or two while a write is under way and
//! after one that was cut off. A read settles which.

use crate::target::Chunk;
use crate::target::Value;

#[derive(Clone, Debug)]
pub(crate) struct View(Vec<Vec<Value>>);

impl View {
    pub(crate) fn of(disk: &[Value]) -> Self {
        Self(disk.iter().map(|&value| vec![value]).collect())
    }

    pub(crate) fn begins(&mut self, chunk: Chunk, value: Value) {
        self.0[chunk as usize].push(value);
    }

    pub(crate) fn ends(&mut self, chunk: Chunk, value: Value, well: bool) {
        if well {
            self.0[chunk as usize] = vec![value];
        }
    }

    pub(crate) fn read(&mut self, chunk: Chunk, value: Value) -> Result<(), String> {
        let may = &mut self.0[chunk as usize];
        if may.contains(&value) {
            *may = vec![value];
            Ok(())
        } else {
            Err(format!("chunk {chunk} holds {value}, not one of {may:?}"))
        }
    }
}
