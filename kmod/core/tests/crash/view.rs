// SPDX-License-Identifier: GPL-2.0

//! What a device may show: the model that the block layer's rules describe.
//!
//! Every sector has the row of values that were written to it. Some prefix of the row is over: a
//! later value is durable, because it was written with FUA or a flush followed. After a power cut
//! the sector may show any value that is not over, and nothing else.

use std::collections::BTreeMap;

/// The values of one sector.
#[derive(Clone, Debug)]
struct History {
    /// Values from the durable one on; the last one is the newest.
    values: Vec<u64>,
    /// How many of the values have been acknowledged.
    acked: usize,
}

/// The sectors of a device.
#[derive(Clone)]
pub(crate) struct View {
    sectors: Vec<History>,
    /// Number of values that have been dropped from the front, by sector.
    dropped: Vec<usize>,
}

/// What had been acknowledged when a flush came: by sector, how many values in all.
pub(crate) type Mark = BTreeMap<usize, usize>;

impl View {
    /// A device that shows these values, durably.
    pub(crate) fn new(values: impl IntoIterator<Item = u64>) -> Self {
        let sectors: Vec<_> = values
            .into_iter()
            .map(|value| History {
                values: vec![value],
                acked: 1,
            })
            .collect();
        Self {
            dropped: vec![0; sectors.len()],
            sectors,
        }
    }

    /// Sectors of the device.
    pub(crate) fn len(&self) -> usize {
        self.sectors.len()
    }

    /// What a read must return now: the newest value.
    pub(crate) fn newest(&self, at: usize) -> u64 {
        *self.sectors[at].values.last().unwrap()
    }

    /// A write is sent. No other write to the same sectors is under way.
    pub(crate) fn write(&mut self, from: usize, values: &[u64]) {
        for (at, value) in (from..).zip(values) {
            self.sectors[at].values.push(*value);
        }
    }

    /// A write is acknowledged.
    pub(crate) fn acknowledge(&mut self, from: usize, count: usize, durable: bool) {
        for at in from..from + count {
            let history = &mut self.sectors[at];
            history.acked = history.values.len();
            if durable {
                let all = self.dropped[at] + history.acked;
                self.settle(at, all);
            }
        }
    }

    /// A flush is sent.
    pub(crate) fn mark(&self) -> Mark {
        let open = self.sectors.iter().enumerate();
        open.filter(|(_, history)| history.acked > 1)
            .map(|(at, history)| (at, self.dropped[at] + history.acked))
            .collect()
    }

    /// A flush is acknowledged.
    pub(crate) fn flushed(&mut self, mark: &Mark) {
        for (at, acked) in mark {
            self.settle(*at, *acked);
        }
    }

    /// Whether a sector may show this value after a power cut.
    pub(crate) fn allows(&self, at: usize, value: u64) -> bool {
        self.sectors[at].values.contains(&value)
    }

    /// The values that are allowed, for messages.
    pub(crate) fn allowed(&self, at: usize) -> &[u64] {
        &self.sectors[at].values
    }

    /// The first `count` values of all times but the last of them are over.
    fn settle(&mut self, at: usize, count: usize) {
        let over = count.saturating_sub(1).saturating_sub(self.dropped[at]);
        let history = &mut self.sectors[at];
        history.values.drain(..over);
        history.acked -= over;
        self.dropped[at] += over;
    }
}
