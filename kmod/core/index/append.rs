// SPDX-License-Identifier: GPL-2.0

//! Inserting many runs at a time.

use super::leaf::Tail;
use super::Directory;
use super::Index;
use super::IndexError;
use super::IndexWriter;
use super::Run;

/// Inserts runs as [`Index::insert_run`] does, each of which may be anywhere; but one that lies
/// behind all that the index holds costs little, as most do that come in the order of the origin.
pub struct Inserter<'a, D> {
    index: &'a Index<D>,
    writer: &'a mut IndexWriter,
    /// The end of the last leaf, if it is known.
    tail: Option<Tail<'a>>,
}

impl<D: Directory> Inserter<'_, D> {
    /// Maps the chunks of a run, none of which is mapped.
    // As a function of its own it makes reading a list longer by a sixteenth.
    #[inline(always)]
    pub fn insert_run(&mut self, run: Run) -> Result<(), IndexError> {
        if let Some(tail) = self.tail.as_mut().filter(|tail| tail.takes(run)) {
            self.index.append(self.writer, tail, run);
            return Ok(());
        }
        self.insert_anywhere(run)
    }

    #[cold]
    fn insert_anywhere(&mut self, run: Run) -> Result<(), IndexError> {
        self.index.insert_run(self.writer, run)?;
        self.tail = self.index.spot(u64::MAX)?.and_then(|spot| spot.leaf.tail());
        Ok(())
    }
}

impl<D: Directory> Index<D> {
    /// What inserts many runs.
    pub fn inserter<'a>(&'a self, writer: &'a mut IndexWriter) -> Inserter<'a, D> {
        Inserter {
            index: self,
            writer,
            tail: None,
        }
    }
}
