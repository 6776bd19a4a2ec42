// SPDX-License-Identifier: GPL-2.0-or-later

//! Draws scripts. A script depends on its seed and its number alone.

use crate::model::Model;
use crate::op::Dev;
use crate::op::Kind;
use crate::op::Op;
use crate::op::Span;
use crate::op::StoreWords;
use crate::op::COWS;
use crate::refusals;
use crate::rng::Rng;
use crate::script::Script;
use crate::script::Sizes;
use crate::script::SLOT;

/// What our targets can do by now, so that it is drawn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capabilities {
    /// Chunk sizes, in sectors.
    pub(crate) chunks: &'static [u64],
    /// Those of snapshots that take discards: with smaller ones stock brings the kernel down.
    pub(crate) discard_chunks: &'static [u64],
    pub(crate) kinds: &'static [Kind],
}

pub(crate) const CAPABILITIES: Capabilities = Capabilities {
    chunks: &[1, 2, 4, 8, 8, 8, 16, 16, 32, 64, 128],
    discard_chunks: &[512, 1024],
    kinds: &[Kind::P, Kind::P, Kind::PO, Kind::PO, Kind::N],
};

/// An operation that fits the state is looked for so many times.
const TRIES: usize = 200;

/// What a script is mostly about.
#[derive(Clone, Copy, Debug)]
struct Profile {
    /// How many of a hundred operations are I/O.
    io: u64,
    /// How many of a hundred pieces of I/O are near the place of the last one.
    near: u64,
    /// How many of a hundred reads and writes are long.
    long: u64,
    /// Snapshots take discards.
    discards: bool,
}

/// The script with this number.
pub(crate) fn generate(seed: u64, number: u64, ops: usize) -> Script {
    let mut rng = Rng::new(seed, number);
    let discards = rng.chance(12);
    let origin = match rng.range(0, 5) {
        _ if discards => rng.range(1500, 6000),
        0 => rng.range(1, 64),
        1..=3 => rng.range(64, 900),
        4 => rng.range(900, 2100),
        _ => rng.range(2100, 4100),
    };
    let cows = [(); COWS].map(|()| match rng.range(0, 5) {
        // Enough for all of the origin, or for a part, or for very little.
        0..=2 => origin + origin / 8 + rng.range(24, 600),
        _ if discards => rng.range(1600, 5000),
        3..=4 => rng.range(24, origin.max(64)),
        _ => rng.range(24, 200),
    });
    let sizes = Sizes { origin, cows };
    let profile = Profile {
        io: rng.pick(&[50, 70, 85]),
        near: rng.pick(&[10, 50, 80]),
        long: rng.pick(&[2, 10, 30]),
        discards,
    };
    let mut drawing = Drawing {
        model: Model::new(&sizes),
        rng,
        profile,
        last: 0,
    };
    let ops = (0..ops).filter_map(|_| drawing.next()).collect();
    Script { sizes, ops }
}

struct Drawing {
    model: Model,
    rng: Rng,
    profile: Profile,
    /// Where the last I/O was.
    last: u64,
}

impl Drawing {
    fn next(&mut self) -> Option<Op> {
        let usable = self.model.usable();
        let is_io = !usable.is_empty() && self.rng.chance(self.profile.io);
        (0..TRIES).find_map(|_| {
            let op = match is_io {
                true => self.draw_io(&usable),
                false => self.draw_change(),
            };
            self.model.apply(&op).map(|_| op)
        })
    }

    fn draw_change(&mut self) -> Op {
        let n = self.rng.range(0, COWS as u64 - 1) as usize;
        let merge_percent = if self.model.is_merging() { 60 } else { 0 };
        if self.rng.chance(merge_percent) {
            return match self.rng.range(0, 9) {
                0..=4 => Op::FinishMerge,
                5 => Op::Remove(Dev::Merge),
                6 => Op::CreateMerge(n),
                7 => Op::CreateSnapshot(n, StoreWords::new(Kind::P, 0)),
                8 => self.suspend(Dev::Merge),
                _ => Op::Resume(Dev::Merge),
            };
        }
        match self.rng.range(0, 99) {
            0..=16 => Op::CreateOrigin,
            17..=34 => Op::CreateSnapshot(n, self.store_words()),
            35..=38 => Op::CreateMerge(n),
            39..=44 => Op::HandOver(n),
            45..=46 => Op::Remove(Dev::Origin),
            47..=54 => Op::Remove(Dev::Snapshot(n)),
            55..=58 => Op::Remove(Dev::Merge),
            59..=61 => Op::ReloadOrigin,
            62..=66 => Op::ReloadSnapshot(n, self.rng.pick(CAPABILITIES.kinds)),
            67..=70 => Op::Move(n),
            71 => Op::MoveTooEarly(n),
            72..=77 => {
                let dev = self.any_dev(n);
                self.suspend(dev)
            }
            78..=87 => match self.model.suspended()[..] {
                [] => self.suspend(Dev::Snapshot(n)),
                ref all => Op::Resume(self.rng.pick(all)),
            },
            88..=91 => {
                let most = self.rng.range(8, 800);
                Op::Grow(n, (self.model.cow_sectors(n) + most).min(SLOT))
            }
            92..=94 => Op::Wipe(n),
            _ => Op::Refuse(refusals::draw(&mut self.rng, n)),
        }
    }

    fn any_dev(&mut self, n: usize) -> Dev {
        self.rng.pick(&[Dev::Origin, Dev::Snapshot(n), Dev::Merge])
    }

    fn suspend(&mut self, dev: Dev) -> Op {
        let noflush = self.rng.chance(40);
        Op::Suspend { dev, noflush }
    }

    fn store_words(&mut self) -> StoreWords {
        let kind = self.rng.pick(CAPABILITIES.kinds);
        if self.profile.discards {
            let zeroes = self.rng.chance(75);
            return StoreWords {
                zeroes,
                passdown: zeroes && self.rng.chance(50),
                ..StoreWords::new(kind, self.rng.pick(CAPABILITIES.discard_chunks))
            };
        }
        let chunk = match self.rng.range(0, 9) {
            0 if kind != Kind::N => 0,
            _ => self.rng.pick(CAPABILITIES.chunks),
        };
        StoreWords::new(kind, chunk)
    }

    fn draw_io(&mut self, usable: &[Dev]) -> Op {
        let dev = match usable.contains(&Dev::Origin) && self.rng.chance(35) {
            true => Dev::Origin,
            false => self.rng.pick(usable),
        };
        match self.rng.range(0, 99) {
            0..=59 => Op::Write {
                span: self.span(dev),
                fua: self.rng.chance(15),
            },
            60..=69 => Op::Read(self.span(dev)),
            70..=84 => {
                let count = self.rng.range(2, 6);
                let spans = (0..count).map(|_| {
                    let dev = self.rng.pick(usable);
                    self.span(dev)
                });
                let mut apart: Vec<Span> = Vec::new();
                for span in spans.collect::<Vec<_>>() {
                    if !apart.iter().any(|other| other.overlaps(span)) {
                        apart.push(span);
                    }
                }
                Op::Burst(apart)
            }
            85..=88 => Op::Zero(self.span(dev)),
            89..=91 => Op::Discard(self.span(dev)),
            92..=96 if self.profile.discards => {
                let span = self.span(dev);
                let sector = span.sector / 1024 * 1024;
                Op::Discard(Span { sector, ..span })
            }
            _ => Op::Flush(dev),
        }
    }

    /// Sectors of a device: few or many, with and without regard to chunks.
    fn span(&mut self, dev: Dev) -> Span {
        let most = self.model.sectors();
        let chunk = (0..COWS)
            .filter_map(|n| self.model.chunk(n))
            .collect::<Vec<_>>();
        let chunk = match chunk[..] {
            [] => 8,
            ref sizes => self.rng.pick(sizes),
        };
        let long = self.rng.chance(self.profile.long);
        let mut count = match self.rng.range(0, 5) {
            _ if long => self.rng.range(1, 1000),
            0 => 1,
            1 => self.rng.range(1, 8),
            2 => chunk,
            3 => chunk * self.rng.range(1, 6),
            4 => self.rng.range(1, chunk),
            _ => self.rng.range(1, 3 * chunk),
        };
        count = count.clamp(1, most);
        let place = match self.rng.chance(self.profile.near) {
            true => (self.last + self.rng.range(0, 4 * chunk)).saturating_sub(2 * chunk),
            false => self.rng.range(0, most),
        };
        let place = match self.rng.range(0, 3) {
            0 => place,
            1..=2 => place / chunk * chunk,
            _ => (place / chunk * chunk).saturating_sub(self.rng.range(0, chunk)),
        };
        let sector = place.min(most - count);
        self.last = sector;
        Span { dev, sector, count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Content;
    use crate::action::Seen;
    use crate::action::Status;
    use std::collections::BTreeMap;

    #[test]
    fn scripts_repeat_with_their_seed() {
        assert_eq!(generate(1, 2, 30), generate(1, 2, 30));
        assert_ne!(generate(1, 2, 30), generate(1, 3, 30));
        assert_ne!(generate(1, 2, 30), generate(2, 2, 30));
    }

    /// What a state is like that is worth to be in.
    fn features(model: &Model) -> Vec<&'static str> {
        let views = model.views();
        let snapshots = || {
            views
                .iter()
                .filter(|seen| seen.name.starts_with("snapshot"))
        };
        let says = |word| snapshots().any(|seen| seen.status == Status::Words(word));
        let area = |seen: &Seen| match seen.status {
            Status::Usage { metadata, .. } => {
                let chunk = seen
                    .table
                    .split(' ')
                    .nth(3)
                    .and_then(|word| word.parse().ok());
                chunk.is_some_and(|chunk: u64| metadata.0 > 2 * chunk)
            }
            Status::Words(_) => false,
        };
        let is_between = |seen: &Seen| matches!(seen.content, Content::Between { .. });
        [
            ("one snapshot", snapshots().count() == 1),
            ("three snapshots", snapshots().count() == 3),
            (
                "snapshots and an origin",
                model.usable().contains(&Dev::Origin) && snapshots().count() > 1,
            ),
            ("invalid", says("Invalid")),
            ("overflow", says("Overflow")),
            ("second area", snapshots().any(area)),
            ("merging", model.is_merging()),
            (
                "merging beside snapshots",
                model.is_merging() && snapshots().count() > 0,
            ),
            (
                "half merged",
                views.iter().any(is_between) && !views.iter().any(|s| s.name == "merge"),
            ),
            (
                "transient",
                views.iter().any(|seen| seen.table.contains(" N ")),
            ),
            (
                "discards",
                views.iter().any(|seen| seen.table.contains("zeroes")),
            ),
            ("suspended", views.iter().any(|seen| seen.suspended)),
        ]
        .into_iter()
        .filter_map(|(name, is)| is.then_some(name))
        .collect()
    }

    #[test]
    fn states_of_interest_are_reached() {
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for number in 0..200 {
            let script = generate(1, number, 30);
            let mut model = Model::new(&script.sizes);
            for op in &script.ops {
                model.apply(op);
                for feature in features(&model) {
                    *counts.entry(feature).or_default() += 1;
                }
            }
        }
        println!("of 6000 states: {counts:#?}");
        assert_eq!(counts.len(), 12);
        for (name, count) in counts {
            assert!(count > 60, "'{name}': {count} of 6000 states only");
        }
    }

    #[test]
    fn every_operation_is_drawn() {
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for number in 0..200 {
            let script = generate(1, number, 40);
            assert!(script.ops.len() > 30, "{script}");
            for op in script.ops {
                let text = op.to_string();
                let mut words = text.split(' ');
                let verb = words.next().unwrap_or_default();
                let kind = match words.next() {
                    Some(dev) if verb != "refuse" => dev.trim_end_matches(char::is_numeric),
                    _ => "",
                };
                *counts.entry(format!("{verb} {kind}")).or_default() += 1;
            }
        }
        println!("{counts:#?}");
        for (verb, least) in [
            ("create origin", 100),
            ("create snapshot", 300),
            ("create merge", 50),
            ("hand-over ", 50),
            ("finish merge", 50),
            ("remove merge", 20),
            ("reload origin", 50),
            ("reload snapshot", 50),
            ("move ", 50),
            ("move-too-early ", 10),
            ("suspend merge", 5),
            ("suspend origin", 20),
            ("suspend snapshot", 50),
            ("write merge", 50),
            ("write origin", 500),
            ("write snapshot", 500),
            ("burst snapshot", 100),
            ("discard snapshot", 50),
            ("grow ", 50),
            ("wipe ", 50),
            ("refuse ", 50),
        ] {
            let count = counts.get(verb).copied().unwrap_or_default();
            assert!(count >= least, "'{verb}' is drawn {count} times only");
        }
    }
}
