// SPDX-License-Identifier: GPL-2.0

//! Inserting many runs at a time.

use super::leaf::Leaf;
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
    /// The last leaf, if it is known.
    last: Option<Leaf<'a>>,
}

impl<D: Directory> Inserter<'_, D> {
    /// Maps the chunks of a run, none of which is mapped.
    pub fn insert_run(&mut self, run: Run) -> Result<(), IndexError> {
        if let Some(leaf) = self.last.filter(|leaf| leaf.takes_behind(run)) {
            self.index.append(self.writer, leaf, run);
            return Ok(());
        }
        self.index.insert_run(self.writer, run)?;
        self.last = self.index.spot(u64::MAX)?.map(|spot| spot.leaf);
        Ok(())
    }
}

impl<D: Directory> Index<D> {
    /// What inserts many runs.
    pub fn inserter<'a>(&'a self, writer: &'a mut IndexWriter) -> Inserter<'a, D> {
        Inserter {
            index: self,
            writer,
            last: None,
        }
    }
}
