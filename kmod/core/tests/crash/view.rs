// SPDX-License-Identifier: GPL-2.0

//! What a device may show: the model that the block layer's rules describe.
//!
//! Every sector has the row of values that were written to it. Some prefix of the row is over: a
//! later value is durable, because it was written with FUA or a flush followed. After a power cut
//! the sector may show any value that is not over, and nothing else.

use crate::disk::Sector;

/// The values of a sector that has been written to.
#[derive(Clone, Debug)]
struct History {
    values: Vec<Sector>,
    /// The values before this one are over.
    floor: usize,
    /// The newest value that has been acknowledged.
    acked: usize,
}

/// What a value is to a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It may be shown.
    Allowed,
    /// It was there once, but a newer one is durable.
    Over,
    /// It was never written there.
    Foreign,
}

/// The sectors of a device.
#[derive(Clone)]
pub(crate) struct View {
    /// The durable value of every sector.
    durable: Vec<Sector>,
    /// Number of its history, by sector, plus one.
    written: Vec<u32>,
    histories: Vec<History>,
    /// Sectors to which a write is under way.
    busy: Vec<bool>,
}

/// What had been acknowledged when a flush came: by number of history.
pub(crate) type Mark = Vec<(u32, usize)>;

impl View {
    /// A device that shows these values, durably.
    pub(crate) fn new(values: Vec<Sector>) -> Self {
        Self {
            written: vec![0; values.len()],
            busy: vec![false; values.len()],
            durable: values,
            histories: Vec::new(),
        }
    }

    /// Sectors of the device.
    pub(crate) fn len(&self) -> usize {
        self.durable.len()
    }

    /// The durable values.
    pub(crate) fn durable(&self) -> &[Sector] {
        &self.durable
    }

    /// What a value is to a sector after a power cut.
    pub(crate) fn standing(&self, at: usize, value: Sector) -> Standing {
        if value == self.durable[at] {
            return Standing::Allowed;
        }
        match self.history(at) {
            Some(history) if history.values[history.floor..].contains(&value) => Standing::Allowed,
            Some(history) if history.values.contains(&value) => Standing::Over,
            _ => Standing::Foreign,
        }
    }

    /// The machine was reset and shows these values now; nothing more is durable than before.
    pub(crate) fn reset(&mut self, shown: &[Sector]) {
        self.busy.fill(false);
        for (at, value) in shown.iter().enumerate() {
            let newest = self.history(at).and_then(|history| history.values.last());
            if *newest.unwrap_or(&self.durable[at]) != *value {
                self.write(at, &[*value]);
            }
            if self.written[at] != 0 {
                self.ended(at, 1, true, false);
            }
        }
    }

    /// Whether a read that was sent when [`Self::acked`] said `since` may return this.
    pub(crate) fn may_read(&self, at: usize, since: usize, value: Sector) -> bool {
        match self.history(at) {
            Some(history) => history.values[since..].contains(&value),
            None => value == self.durable[at],
        }
    }

    /// The place of the newest acknowledged value in the row of a sector.
    pub(crate) fn acked(&self, at: usize) -> usize {
        self.history(at).map_or(0, |history| history.acked)
    }

    /// The values that a sector may show, for messages.
    pub(crate) fn allowed(&self, at: usize) -> Vec<Sector> {
        match self.history(at) {
            Some(history) => history.values[history.floor..].to_vec(),
            None => vec![self.durable[at]],
        }
    }

    /// Whether a write to some of these sectors is under way.
    pub(crate) fn is_busy(&self, from: usize, count: usize) -> bool {
        self.busy[from..from + count].contains(&true)
    }

    /// A write is sent. No other write to the same sectors is under way.
    pub(crate) fn write(&mut self, from: usize, values: &[Sector]) {
        for (at, value) in (from..).zip(values) {
            if self.written[at] == 0 {
                self.histories.push(History {
                    values: vec![self.durable[at]],
                    floor: 0,
                    acked: 0,
                });
                self.written[at] = self.histories.len() as u32;
            }
            let n = self.written[at] as usize - 1;
            self.histories[n].values.push(*value);
            self.busy[at] = true;
        }
    }

    /// A write has ended. Nobody knows what one that has failed has done.
    pub(crate) fn ended(&mut self, from: usize, count: usize, ok: bool, durable: bool) {
        for at in from..from + count {
            self.busy[at] = false;
            let n = self.written[at] as usize - 1;
            let history = &mut self.histories[n];
            if ok {
                history.acked = history.values.len() - 1;
                if durable {
                    history.floor = history.acked;
                    self.durable[at] = history.values[history.floor];
                }
            }
        }
    }

    /// A flush is sent.
    pub(crate) fn mark(&self) -> Mark {
        let histories = (0..).zip(&self.histories);
        let open = histories.filter(|(_, history)| history.acked > history.floor);
        open.map(|(n, history)| (n, history.acked)).collect()
    }

    /// A flush is acknowledged.
    pub(crate) fn flushed(&mut self, mark: &Mark) {
        for (n, acked) in mark {
            let history = &mut self.histories[*n as usize];
            history.floor = history.floor.max(*acked);
        }
        for at in 0..self.written.len() {
            if self.written[at] != 0 {
                let history = &self.histories[self.written[at] as usize - 1];
                self.durable[at] = history.values[history.floor];
            }
        }
    }

    fn history(&self, at: usize) -> Option<&History> {
        self.histories
            .get((self.written[at] as usize).wrapping_sub(1))
    }
}
