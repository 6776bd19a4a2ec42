// SPDX-License-Identifier: GPL-2.0-or-later

//! Operations that read and write.

use super::ops::done;
use super::ops::Steps;
use super::Model;
use crate::action::Action;
use crate::action::Step;
use crate::action::Want;
use crate::action::Write;
use crate::data;
use crate::data::Tag;
use crate::data::SECTOR;
use crate::deviations::Deviation;
use crate::op::Dev;
use crate::op::Span;
use crate::view::View;
use rustix::io::Errno;

impl Model {
    /// Whether a span lies on a device that takes I/O.
    fn fits(&self, span: Span) -> bool {
        self.is_usable(span.dev) && span.end() <= self.sectors()
    }

    /// Writes data. `None` if that is not allowed; false if it fails.
    fn put(&mut self, span: Span, data: &[u8]) -> Option<bool> {
        if !self.fits(span) {
            return None;
        }
        match span.dev {
            Dev::Origin => self.write_origin(span.sector, data),
            Dev::Merge => self.write_merge(span.sector, data),
            Dev::Snapshot(n) if self.is_look(n) => return None,
            Dev::Snapshot(n) => return Some(self.write_snapshot(n, span.sector, data)),
        }
        Some(true)
    }

    fn described(&self, span: Span, part: usize) -> Write {
        Write {
            name: self.name(span.dev),
            sector: span.sector,
            count: span.count,
            tag: Tag::step(self.step, part),
        }
    }

    pub(super) fn write(&mut self, span: Span, fua: bool) -> Steps {
        if !self.fits(span) {
            return None;
        }
        let write = self.described(span, 0);
        let data = data::fill(write.tag, span.sector, span.count);
        let want = expect(self.put(span, &data)?);
        if let (Dev::Snapshot(n), true) = (span.dev, fua) {
            // Ours commits all exceptions that are ready, not only those of this write.
            self.set_settled(n);
        }
        let action = Action::Write { write, fua };
        Some(vec![Step { action, want }])
    }

    fn set_settled(&mut self, n: usize) {
        if let Some(snapshot) = &mut self.snapshots[n] {
            snapshot.settled = true;
        }
    }

    pub(super) fn zero(&mut self, span: Span) -> Steps {
        let data = vec![0; span.count as usize * SECTOR];
        let want = expect(self.put(span, &data)?);
        let action = Action::Zero {
            name: self.name(span.dev),
            sector: span.sector,
            count: span.count,
        };
        Some(vec![Step { action, want }])
    }

    pub(super) fn discard(&mut self, span: Span) -> Steps {
        if !self.fits(span) {
            return None;
        }
        let action = Action::Discard {
            name: self.name(span.dev),
            sector: span.sector,
            count: span.count,
        };
        let want = match span.dev {
            Dev::Snapshot(n) if self.takes_discards(n) => expect(self.drop_chunks(n, span)?),
            _ => Want::Failed(Errno::OPNOTSUPP),
        };
        Some(vec![Step { action, want }])
    }

    fn takes_discards(&self, n: usize) -> bool {
        self.snapshots[n].as_ref().is_some_and(|s| s.words.zeroes)
    }

    /// Zeroes what a snapshot has of its own. `None` if stock does something else; false if it fails.
    fn drop_chunks(&mut self, n: usize, span: Span) -> Option<bool> {
        let snapshot = self.snapshots[n].as_ref().filter(|_| !self.is_merging())?;
        let (passes, chunk) = (snapshot.words.passdown, self.chunk(n)?);
        // Deviation::UnalignedDiscard
        if span.sector % chunk != 0 {
            return None;
        }
        if snapshot.overflowed || !self.is_valid(n) {
            return Some(false);
        }
        let zeroes = vec![0; span.count as usize * SECTOR];
        for (number, at, part) in self.pieces(n, span.sector, &zeroes) {
            self.cows[n].store_mut()?.write(number, at, part);
        }
        if passes {
            self.pass_down(span.sector, &zeroes);
        }
        Some(true)
    }

    pub(super) fn burst(&mut self, spans: &[Span]) -> Steps {
        let apart =
            |(n, span): (usize, &Span)| !spans[..n].iter().any(|other| other.overlaps(*span));
        if !spans.iter().enumerate().all(apart) || !spans.iter().all(|&span| self.fits(span)) {
            return None;
        }
        let writes: Vec<Write> = (0..)
            .zip(spans)
            .map(|(n, &span)| self.described(span, n))
            .collect();
        let valid = [0, 1, 2].map(|n| self.is_valid(n));
        for (span, write) in spans.iter().zip(&writes) {
            let data = data::fill(write.tag, span.sector, span.count);
            if !self.put(*span, &data)? {
                return None;
            }
        }
        // Which of the writes finds no room is not foreseeable.
        if valid != [0, 1, 2].map(|n| self.is_valid(n)) {
            return None;
        }
        Some(vec![done(Action::Burst(writes))])
    }

    pub(super) fn read(&mut self, span: Span) -> Steps {
        if !self.fits(span) {
            return None;
        }
        let view = match span.dev {
            Dev::Origin => None,
            Dev::Snapshot(n) => Some(self.cows[n].store()?),
            Dev::Merge => {
                let merge = self.live_merge()?;
                self.cows[merge.cow].store().filter(|_| !merge.done)
            }
        };
        let failing = matches!(span.dev, Dev::Snapshot(n) if !self.is_valid(n));
        let view = view.map_or_else(|| View::plain(&self.base), |store| store.view(&self.base));
        let range = span.sector as usize * SECTOR..span.end() as usize * SECTOR;
        let action = Action::Read {
            name: self.name(span.dev),
            sector: span.sector,
            want: view.bytes(range),
        };
        let want = expect(!failing);
        Some(vec![Step { action, want }])
    }

    pub(super) fn flush(&mut self, dev: Dev) -> Steps {
        if !self.is_usable(dev) {
            return None;
        }
        let want = match dev {
            Dev::Snapshot(n) if !self.is_valid(n) => Want::Known(Deviation::FlushOfInvalid),
            _ => Want::Done,
        };
        if let Dev::Snapshot(n) = dev {
            self.set_settled(n);
        }
        let action = Action::Flush(self.name(dev));
        Some(vec![Step { action, want }])
    }
}

fn expect(success: bool) -> Want {
    if success {
        Want::Done
    } else {
        Want::Failed(Errno::IO)
    }
}
