// SPDX-License-Identifier: GPL-2.0

//! Tests of the buffer.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

fn buffer(slots: usize) -> Buffer<Vec<Slot>, Vec<u32>> {
    Buffer::new(vec![Slot::FREE; slots], vec![EMPTY; slots])
}

const fn piece(start: u64, sectors: u64) -> Piece {
    Piece { start, sectors }
}

fn put(buffer: &mut Buffer<Vec<Slot>, Vec<u32>>, start: u64, sectors: u64) -> Put {
    buffer.put(piece(start, sectors), |_| {})
}

fn next(buffer: &mut Buffer<Vec<Slot>, Vec<u32>>) -> Option<Piece> {
    loop {
        match buffer.next(64, |_| Some(())) {
            Step::Piece(piece, ()) => return Some(piece),
            Step::More => {}
            Step::End => return None,
        }
    }
}

#[test]
fn a_write_is_taken_as_a_whole() {
    let mut buffer = buffer(2);
    let mut parts = Vec::new();
    let taken = buffer.put(piece(6, 4), |part| parts.push((part.first, part.sectors)));
    assert_eq!(taken, Put::Taken);
    assert_eq!(parts, [(6, 2), (0, 2)]);
    assert_eq!((buffer.used(), buffer.sectors()), (2, 4));
    assert_eq!(put(&mut buffer, 100, 1), Put::Full);
    assert_eq!(put(&mut buffer, 15, 2), Put::Waits);
    assert_eq!(put(&mut buffer, 0, 16), Put::Taken);
    assert_eq!((buffer.used(), buffer.sectors()), (2, 16));
}

#[test]
fn what_flies_is_not_touched() {
    let mut buffer = buffer(4);
    put(&mut buffer, 0, 8);
    buffer.rewind();
    let found = next(&mut buffer).unwrap();
    let sent = buffer.fly(found, |_| {}).unwrap();
    assert_eq!(put(&mut buffer, 7, 2), Put::Waits);
    assert!(buffer.overlaps(piece(7, 1)));
    assert_eq!(buffer.clear(), 0);
    buffer.rewind();
    assert_eq!(next(&mut buffer), None);
    buffer.land(sent);
    assert_eq!((buffer.used(), buffer.sectors()), (0, 0));
    assert_eq!(put(&mut buffer, 7, 2), Put::Taken);
}

#[test]
fn neighbours_go_together_up_to_a_limit() {
    let mut buffer = buffer(16);
    for block in [3, 1, 2, 5] {
        put(&mut buffer, block * 8, 8);
    }
    put(&mut buffer, 32, 4);
    buffer.rewind();
    let all = |_| Some(());
    assert_eq!(buffer.next(3, all), Step::Piece(piece(24, 12), ()));
    assert_eq!(buffer.next(3, all), Step::Piece(piece(8, 24), ()));
    assert_eq!(buffer.fly(piece(8, 24), |_| {}), Some(piece(8, 24)));
    assert_eq!(buffer.fly(piece(24, 12), |_| {}), None);
    let some = |piece: Piece| (piece.start != 32).then_some(());
    buffer.rewind();
    assert_eq!(buffer.next(3, some), Step::Piece(piece(40, 8), ()));
}

#[test]
fn what_is_of_another_kind_is_another_piece() {
    let mut buffer = buffer(4);
    put(&mut buffer, 0, 32);
    buffer.rewind();
    let kind = |piece: Piece| Some(piece.start < 16);
    assert_eq!(buffer.next(4, kind), Step::Piece(piece(0, 16), true));
    assert_eq!(buffer.next(4, kind), Step::Piece(piece(8, 8), true));
    assert_eq!(buffer.next(4, kind), Step::Piece(piece(16, 16), false));
}

#[test]
fn holes_are_left_to_the_volume() {
    let mut buffer = buffer(4);
    put(&mut buffer, 2, 2);
    put(&mut buffer, 6, 4);
    assert_eq!(buffer.look(piece(0, 16)), Found::Elsewhere(2));
    assert!(matches!(buffer.look(piece(2, 14)), Found::Here(part) if part.sectors == 2));
    assert_eq!(buffer.look(piece(4, 2)), Found::Elsewhere(2));
    assert!(!buffer.overlaps(piece(4, 2)));
    assert_eq!(buffer.look(piece(10, 30)), Found::Elsewhere(30));
    buffer.rewind();
    assert_eq!(next(&mut buffer), Some(piece(2, 2)));
    let sent = buffer.fly(piece(2, 2), |_| {}).unwrap();
    assert_eq!(buffer.clear(), 4);
    buffer.land(sent);
    assert_eq!(buffer.used(), 0);
}

#[test]
fn a_long_way_is_gone_in_steps() {
    let mut buffer = buffer(1000);
    for block in 0..1000 {
        put(&mut buffer, block * 16, 1);
    }
    buffer.rewind();
    let mut steps = 0;
    while buffer.next(8, |_| None::<()>) == Step::More {
        steps += 1;
    }
    assert_eq!(steps, 1000 / STEPS);
}

#[derive(Clone, Debug)]
enum Op {
    Put(Piece),
    Read(Piece),
    Send(u64),
    Land(usize),
    Clear,
}

fn ops() -> impl Strategy<Value = Op> {
    let range = || (0u64..200, 1u64..30).prop_map(|(start, sectors)| piece(start, sectors));
    prop_oneof![
        6 => range().prop_map(Op::Put),
        3 => range().prop_map(Op::Read),
        3 => any::<u64>().prop_map(Op::Send),
        3 => any::<usize>().prop_map(Op::Land),
        1 => Just(Op::Clear),
    ]
}

/// A volume, and what was acknowledged: by sector, the number of the write that it is from.
struct Model {
    buffer: Buffer<Vec<Slot>, Vec<u32>>,
    memory: Vec<[u64; BLOCK as usize]>,
    volume: BTreeMap<u64, u64>,
    newest: BTreeMap<u64, u64>,
    flights: Vec<(Piece, Vec<u64>)>,
    lost: bool,
}

impl Model {
    fn read(&self, range: Piece) -> Vec<u64> {
        let (mut at, mut seen) = (range.start, Vec::new());
        while at < range.end() {
            match self.buffer.look(piece(at, range.end() - at)) {
                Found::Here(part) => {
                    let from = part.first as usize;
                    let to = from + part.sectors as usize;
                    seen.extend(&self.memory[part.slot][from..to]);
                    at += part.sectors;
                }
                Found::Elsewhere(sectors) => {
                    let there = at..at + sectors;
                    seen.extend(there.map(|at| self.volume.get(&at).unwrap_or(&0)));
                    at += sectors;
                }
            }
        }
        seen
    }

    fn put(&mut self, range: Piece) -> Put {
        let number = self.buffer.last_order() + 1;
        let memory = &mut self.memory;
        let mut placed = 0;
        let put = self.buffer.put(range, |part| {
            let from = part.first as usize;
            memory[part.slot][from..from + part.sectors as usize].fill(number);
            placed += part.sectors;
        });
        if put == Put::Taken {
            assert_eq!(placed, range.sectors);
            self.newest
                .extend((range.start..range.end()).map(|at| (at, number)));
        }
        put
    }

    fn send(&mut self, choice: u64) -> bool {
        self.buffer.rewind();
        // Only some chunks are stable.
        let stable = |piece: Piece| ((piece.start / 32 + choice) % 3 != 0).then_some(());
        let Step::Piece(found, ()) = self.buffer.next(4, stable) else {
            return false;
        };
        let mut data = Vec::new();
        let memory = &self.memory;
        let sent = self.buffer.fly(found, |part| {
            let from = part.first as usize;
            data.extend(&memory[part.slot][from..from + part.sectors as usize]);
        });
        let sent = sent.unwrap();
        assert_eq!((sent, data.len() as u64), (found, sent.sectors));
        self.flights.push((sent, data));
        true
    }

    fn land(&mut self, choice: usize) -> bool {
        if self.flights.is_empty() {
            return false;
        }
        let (sent, data) = self.flights.swap_remove(choice % self.flights.len());
        self.volume.extend((sent.start..).zip(data));
        self.buffer.land(sent)
    }
}

proptest! {
    /// Whatever is written, sent and landed in which order, a read sees the newest data, a write
    /// is on the volume when the buffer says that it is through, and in the end all is, if all is
    /// sent that can be once, and again only when a landing says so.
    #[test]
    fn nothing_is_lost_or_overtaken(
        ops in proptest::collection::vec(ops(), 1..200),
        slots in 1usize..30,
    ) {
        let mut model = Model {
            buffer: buffer(slots),
            memory: vec![[0; BLOCK as usize]; slots],
            volume: BTreeMap::new(),
            newest: BTreeMap::new(),
            flights: Vec::new(),
            lost: false,
        };
        for op in ops {
            match op {
                Op::Put(range) => {
                    let met = model.buffer.overlaps(range);
                    match model.put(range) {
                        Put::Full => prop_assert!(!met || model.buffer.used() == slots),
                        Put::Waits | Put::Taken => {}
                    }
                }
                Op::Read(range) => {
                    let seen = model.read(range);
                    let all = range.start..range.end();
                    let newest: Vec<u64> =
                        all.map(|at| *model.newest.get(&at).unwrap_or(&0)).collect();
                    prop_assert!(model.lost || seen == newest, "{seen:?} {newest:?}");
                }
                Op::Send(choice) => _ = model.send(choice),
                Op::Land(choice) => _ = model.land(choice),
                Op::Clear => model.lost |= model.buffer.clear() != 0,
            }
            prop_assert!(model.buffer.used() <= slots);
            for (at, &number) in &model.newest {
                if !model.lost && model.buffer.is_through(number) {
                    prop_assert_eq!(model.volume.get(at), Some(&number));
                }
            }
        }
        let mut due = true;
        while model.buffer.used() != 0 {
            while due && (0..3).any(|choice| model.send(choice)) {}
            prop_assert!(!model.flights.is_empty(), "something is forgotten");
            due = model.land(0);
        }
        prop_assert_eq!(model.buffer.sectors(), 0);
        prop_assert!(model.lost || model.volume == model.newest);
        prop_assert!(model.buffer.is_through(0));
    }
}
