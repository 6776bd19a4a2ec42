// SPDX-License-Identifier: GPL-2.0-or-later

//! Blocks: the codes of their symbols, and their bits.

use super::matches::MAX_MATCH;
use super::matches::MIN_MATCH;

const LITERALS: usize = 256;
const END: usize = 256;
const LENGTHS: usize = 29;
const L_CODES: usize = LITERALS + 1 + LENGTHS;
const D_CODES: usize = 30;
const BL_CODES: usize = 19;
/// Bits of a code at most.
const MAX_BITS: usize = 15;
const MAX_BL_BITS: usize = 7;
/// Nodes of the largest tree, and one.
const HEAP: usize = 2 * L_CODES + 1;

const EXTRA_L: [u8; LENGTHS] = [
    0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0,
];
const EXTRA_D: [u8; D_CODES] = [
    0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13,
    13,
];
const EXTRA_BL: [u8; BL_CODES] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 3, 7];
/// In this order the lengths of the codes for lengths are sent.
const BL_ORDER: [usize; BL_CODES] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];
/// Repeats the last length 3 to 6 times, a zero 3 to 10 times, a zero 11 to 138 times.
const REPEAT: usize = 16;
const ZEROS: usize = 17;
const MANY_ZEROS: usize = 18;

/// Code and base of a match length less the smallest one.
fn length_code(length: usize) -> (usize, usize) {
    if length == MAX_MATCH - MIN_MATCH {
        return (LENGTHS - 1, length);
    }
    if length < 8 {
        return (length, length);
    }
    // Four codes for each power of two.
    let power = length.ilog2() as usize;
    let quarter = (length >> (power - 2)) & 3;
    (4 * (power - 1) + quarter, (4 + quarter) << (power - 2))
}

/// Code and base of a distance less one.
fn distance_code(distance: usize) -> (usize, usize) {
    if distance < 4 {
        return (distance, distance);
    }
    // Two codes for each power of two.
    let power = distance.ilog2() as usize;
    let half = (distance >> (power - 1)) & 1;
    (2 * power + half, (2 + half) << (power - 1))
}

/// Bits, from the lowest one of each byte on.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    bits: u64,
    count: u32,
}

impl Writer {
    fn put(&mut self, value: u32, count: u32) {
        self.bits |= u64::from(value) << self.count;
        self.count += count;
        while self.count >= 8 {
            self.bytes.push(self.bits as u8);
            self.bits >>= 8;
            self.count -= 8;
        }
    }

    fn align(&mut self) {
        if self.count > 0 {
            self.put(0, 8 - self.count);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.align();
        self.bytes
    }
}

/// A code for each symbol.
#[derive(Clone, Debug)]
struct Tree {
    /// How often a symbol, or a node above symbols, occurs.
    freq: Vec<u32>,
    /// Bits of its code; one more than there are symbols, for a guard.
    len: Vec<u16>,
    code: Vec<u16>,
    symbols: usize,
    /// The last symbol that has a code.
    max_code: usize,
}

/// What a block has in bits.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    dynamic: i64,
    fixed: i64,
}

impl Tree {
    fn new(symbols: usize) -> Self {
        Self {
            freq: vec![0; HEAP],
            len: vec![0; HEAP],
            code: vec![0; symbols],
            symbols,
            max_code: 0,
        }
    }

    /// Makes the codes. `fixed` are the lengths of the fixed codes.
    fn build(&mut self, extra: &Extra, limit: usize, fixed: Option<&[u16]>, cost: &mut Cost) {
        let mut heap = Heap {
            nodes: Vec::with_capacity(HEAP),
            depth: vec![0; HEAP],
        };
        heap.nodes.push(0);
        for n in 0..self.symbols {
            if self.freq[n] != 0 {
                heap.nodes.push(n);
                self.max_code = n;
            } else {
                self.len[n] = 0;
            }
        }
        // There are always two codes, even if one is never used.
        while heap.len() < 2 {
            let node = match (heap.len(), self.max_code) {
                (0, _) => 0,
                (_, max @ 0..2) => max + 1,
                _ => 0,
            };
            self.max_code = self.max_code.max(node);
            heap.nodes.push(node);
            self.freq[node] = 1;
            cost.dynamic -= 1;
            if let Some(fixed) = fixed {
                cost.fixed -= i64::from(fixed[node]);
            }
        }
        for k in (1..=heap.len() / 2).rev() {
            heap.sift(&self.freq, k);
        }
        let (sorted, parent) = self.join(&mut heap);
        self.lengths(&sorted, &parent, extra, limit, fixed, cost);
        self.codes();
    }

    /// Joins the two rarest nodes until one is left. Returns the nodes from the root on, and what is
    /// above each.
    fn join(&mut self, heap: &mut Heap) -> (Vec<usize>, Vec<usize>) {
        let mut parent = vec![0; HEAP];
        let mut sorted = Vec::with_capacity(HEAP);
        let mut node = self.symbols;
        while heap.len() >= 2 {
            let a = heap.pop(&self.freq);
            let b = heap.nodes[1];
            sorted.push(a);
            sorted.push(b);
            self.freq[node] = self.freq[a] + self.freq[b];
            heap.depth[node] = heap.depth[a].max(heap.depth[b]) + 1;
            parent[a] = node;
            parent[b] = node;
            heap.nodes[1] = node;
            node += 1;
            heap.sift(&self.freq, 1);
        }
        sorted.push(heap.nodes[1]);
        sorted.reverse();
        (sorted, parent)
    }

    fn lengths(
        &mut self,
        sorted: &[usize],
        parent: &[usize],
        extra: &Extra,
        limit: usize,
        fixed: Option<&[u16]>,
        cost: &mut Cost,
    ) {
        let mut count = [0i32; MAX_BITS + 1];
        let mut overflow = 0;
        self.len[sorted[0]] = 0;
        for &n in &sorted[1..] {
            let mut bits = usize::from(self.len[parent[n]]) + 1;
            if bits > limit {
                bits = limit;
                overflow += 1;
            }
            self.len[n] = bits as u16;
            if n >= self.symbols || n > self.max_code {
                continue;
            }
            count[bits] += 1;
            let (freq, more) = (i64::from(self.freq[n]), extra.of(n));
            cost.dynamic += freq * (bits as i64 + more);
            if let Some(fixed) = fixed {
                cost.fixed += freq * (i64::from(fixed[n]) + more);
            }
        }
        if overflow > 0 {
            self.shorten(sorted, &mut count, overflow, limit, cost);
        }
    }

    /// Moves codes so that none is longer than `limit`.
    fn shorten(
        &mut self,
        sorted: &[usize],
        count: &mut [i32; MAX_BITS + 1],
        mut overflow: i32,
        limit: usize,
        cost: &mut Cost,
    ) {
        while overflow > 0 {
            let mut bits = limit - 1;
            while bits > 0 && count[bits] == 0 {
                bits -= 1;
            }
            count[bits] -= 1;
            count[bits + 1] += 2;
            count[limit] -= 1;
            overflow -= 2;
        }
        let mut leaves = sorted.iter().rev().filter(|&&n| n <= self.max_code);
        for bits in (1..=limit).rev() {
            for _ in 0..count[bits] {
                let Some(&n) = leaves.next() else { return };
                let change = bits as i64 - i64::from(self.len[n]);
                cost.dynamic += change * i64::from(self.freq[n]);
                self.len[n] = bits as u16;
            }
        }
    }

    fn codes(&mut self) {
        let mut count = [0u16; MAX_BITS + 1];
        for &len in &self.len[..=self.max_code] {
            count[usize::from(len)] += u16::from(len != 0);
        }
        let mut next = [0u16; MAX_BITS + 1];
        let mut code = 0u16;
        for bits in 1..=MAX_BITS {
            code = code.wrapping_add(count[bits - 1]) << 1;
            next[bits] = code;
        }
        for n in 0..=self.max_code {
            let len = self.len[n];
            if len != 0 {
                let next = &mut next[usize::from(len)];
                self.code[n] = next.reverse_bits() >> (16 - len);
                *next = next.wrapping_add(1);
            }
        }
    }

    fn send(&self, writer: &mut Writer, symbol: usize) {
        writer.put(self.code[symbol].into(), self.len[symbol].into());
    }

    /// The lengths of its codes as symbols: each with its extra value.
    fn length_symbols(&self) -> Vec<(usize, u32)> {
        let mut out = Vec::new();
        let lens = &self.len[..=self.max_code];
        let mut last = None;
        let mut n = 0;
        while n < lens.len() {
            let len = usize::from(lens[n]);
            let run = lens[n..]
                .iter()
                .take_while(|&&l| usize::from(l) == len)
                .count();
            let (most, least) = match (len, last == Some(len)) {
                (0, _) => (138, 3),
                (_, true) => (6, 3),
                (_, false) => (7, 4),
            };
            let run = run.min(most);
            if run < least {
                out.extend(std::iter::repeat_n((len, 0), run));
            } else if len != 0 {
                let mut rest = run;
                if last != Some(len) {
                    out.push((len, 0));
                    rest -= 1;
                }
                out.push((REPEAT, rest as u32 - 3));
            } else if run <= 10 {
                out.push((ZEROS, run as u32 - 3));
            } else {
                out.push((MANY_ZEROS, run as u32 - 11));
            }
            last = Some(len);
            n += run;
        }
        out
    }
}

/// Extra bits of symbols, from `base` on.
struct Extra {
    bits: &'static [u8],
    base: usize,
}

impl Extra {
    fn of(&self, symbol: usize) -> i64 {
        let extra = symbol.checked_sub(self.base);
        extra
            .and_then(|n| self.bits.get(n))
            .map_or(0, |&bits| bits.into())
    }
}

/// Nodes, the rarest first; of equals, the shallowest.
struct Heap {
    /// From 1 on.
    nodes: Vec<usize>,
    depth: Vec<u8>,
}

impl Heap {
    fn len(&self) -> usize {
        self.nodes.len() - 1
    }

    fn less(&self, freq: &[u32], a: usize, b: usize) -> bool {
        (freq[a], self.depth[a]) <= (freq[b], self.depth[b])
    }

    fn sift(&mut self, freq: &[u32], mut k: usize) {
        let moved = self.nodes[k];
        let mut child = 2 * k;
        while child <= self.len() {
            if child < self.len() && self.less(freq, self.nodes[child + 1], self.nodes[child]) {
                child += 1;
            }
            if self.less(freq, moved, self.nodes[child]) {
                break;
            }
            self.nodes[k] = self.nodes[child];
            k = child;
            child *= 2;
        }
        self.nodes[k] = moved;
    }

    fn pop(&mut self, freq: &[u32]) -> usize {
        let first = self.nodes[1];
        let last = self.nodes.pop().unwrap_or(first);
        self.nodes[1] = last;
        self.sift(freq, 1);
        first
    }
}

/// Symbols of a block.
#[derive(Debug)]
pub(super) struct Block {
    /// Distance, or 0; and length less the smallest one, or the byte.
    symbols: Vec<(u16, u8)>,
    literals: Tree,
    distances: Tree,
    matches: usize,
}

impl Default for Block {
    fn default() -> Self {
        let mut literals = Tree::new(L_CODES);
        literals.freq[END] = 1;
        Self {
            symbols: Vec::new(),
            literals,
            distances: Tree::new(D_CODES),
            matches: 0,
        }
    }
}

impl Block {
    pub(super) fn literal(&mut self, byte: u8) {
        self.symbols.push((0, byte));
        self.literals.freq[usize::from(byte)] += 1;
    }

    pub(super) fn matched(&mut self, distance: usize, length: usize) {
        let length = length - MIN_MATCH;
        self.symbols.push((distance as u16, length as u8));
        self.literals.freq[LITERALS + 1 + length_code(length).0] += 1;
        self.distances.freq[distance_code(distance - 1).0] += 1;
        self.matches += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.symbols.len()
    }

    pub(super) fn matches(&self) -> usize {
        self.matches
    }

    /// How many bits it would have with a byte for each symbol and the usual codes for distances.
    pub(super) fn estimate(&self) -> usize {
        let distances = self.distances.freq.iter().zip(EXTRA_D);
        let bits: usize = distances
            .map(|(&freq, extra)| freq as usize * (5 + usize::from(extra)))
            .sum();
        self.symbols.len() * 8 + bits
    }

    /// Writes it in the form that is the shortest. Nothing if it cannot be stored, but should be.
    pub(super) fn write(&mut self, writer: &mut Writer, stored: &[u8], last: bool) -> Option<()> {
        let mut cost = Cost::default();
        let fixed = fixed_lengths();
        let fixed_distances = [5u16; D_CODES];
        let extra = Extra {
            bits: &EXTRA_L,
            base: LITERALS + 1,
        };
        self.literals
            .build(&extra, MAX_BITS, Some(&fixed), &mut cost);
        let extra = Extra {
            bits: &EXTRA_D,
            base: 0,
        };
        self.distances
            .build(&extra, MAX_BITS, Some(&fixed_distances), &mut cost);
        let lengths = Lengths::of(&self.literals, &self.distances, &mut cost);
        let dynamic = (cost.dynamic + 3 + 7) >> 3;
        let fixed_bytes = (cost.fixed + 3 + 7) >> 3;
        let last = u32::from(last);
        if stored.len() as i64 + 4 <= dynamic.min(fixed_bytes) {
            let len = u16::try_from(stored.len()).ok()?;
            writer.put(last, 3);
            writer.align();
            writer.put(len.into(), 16);
            writer.put((!len).into(), 16);
            writer.bytes.extend_from_slice(stored);
        } else if fixed_bytes <= dynamic {
            writer.put((1 << 1) + last, 3);
            let (literals, distances) = fixed_trees(&fixed);
            self.send(writer, &literals, &distances);
        } else {
            writer.put((2 << 1) + last, 3);
            lengths.send(writer, &self.literals, &self.distances);
            self.send(writer, &self.literals, &self.distances);
        }
        Some(())
    }

    fn send(&self, writer: &mut Writer, literals: &Tree, distances: &Tree) {
        for &(distance, value) in &self.symbols {
            let value = usize::from(value);
            if distance == 0 {
                literals.send(writer, value);
                continue;
            }
            let (code, base) = length_code(value);
            literals.send(writer, LITERALS + 1 + code);
            writer.put((value - base) as u32, EXTRA_L[code].into());
            let distance = usize::from(distance) - 1;
            let (code, base) = distance_code(distance);
            distances.send(writer, code);
            writer.put((distance - base) as u32, EXTRA_D[code].into());
        }
        literals.send(writer, END);
    }
}

/// Lengths of the fixed codes.
fn fixed_lengths() -> [u16; L_CODES + 2] {
    let mut lens = [8; L_CODES + 2];
    lens.iter_mut().take(256).skip(144).for_each(|len| *len = 9);
    lens.iter_mut().take(280).skip(256).for_each(|len| *len = 7);
    lens
}

fn fixed_trees(lens: &[u16]) -> (Tree, Tree) {
    // Two codes that never occur take part in the numbering.
    let mut literals = Tree::new(lens.len());
    literals.len[..lens.len()].copy_from_slice(lens);
    literals.max_code = lens.len() - 1;
    literals.codes();
    let mut distances = Tree::new(D_CODES);
    distances.len[..D_CODES].fill(5);
    distances.max_code = D_CODES - 1;
    distances.codes();
    (literals, distances)
}

/// How the codes of a block are sent.
struct Lengths {
    tree: Tree,
    literals: Vec<(usize, u32)>,
    distances: Vec<(usize, u32)>,
    /// How many lengths of its own codes are sent.
    count: usize,
}

impl Lengths {
    fn of(literals: &Tree, distances: &Tree, cost: &mut Cost) -> Self {
        let mut lengths = Self {
            tree: Tree::new(BL_CODES),
            literals: literals.length_symbols(),
            distances: distances.length_symbols(),
            count: BL_CODES,
        };
        for &(symbol, _) in lengths.literals.iter().chain(&lengths.distances) {
            lengths.tree.freq[symbol] += 1;
        }
        let extra = Extra {
            bits: &EXTRA_BL,
            base: 0,
        };
        lengths.tree.build(&extra, MAX_BL_BITS, None, cost);
        while lengths.count > 4 && lengths.tree.len[BL_ORDER[lengths.count - 1]] == 0 {
            lengths.count -= 1;
        }
        cost.dynamic += 3 * lengths.count as i64 + 5 + 5 + 4;
        lengths
    }

    fn send(&self, writer: &mut Writer, literals: &Tree, distances: &Tree) {
        writer.put((literals.max_code + 1 - 257) as u32, 5);
        writer.put(distances.max_code as u32, 5);
        writer.put(self.count as u32 - 4, 4);
        for &symbol in BL_ORDER.iter().take(self.count) {
            writer.put(self.tree.len[symbol].into(), 3);
        }
        for &(symbol, value) in self.literals.iter().chain(&self.distances) {
            self.tree.send(writer, symbol);
            writer.put(value, EXTRA_BL[symbol].into());
        }
    }
}
