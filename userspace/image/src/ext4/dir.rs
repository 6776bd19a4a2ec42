// SPDX-License-Identifier: GPL-2.0-or-later

//! Directories: entries in blocks, with an index over them once there are many.
//!
//! [`Dir`] is a directory's blocks in memory. Changes touch as few of them as they can: what goes
//! leaves a gap, what comes fills one. An indexed directory whose leaf is full gets one leaf more; it
//! is made anew only when its index is full. All of this is bytes in, bytes out; sums are put in by
//! whoever writes the blocks.

use super::ffi;
use std::collections::BTreeMap;

/// Bytes of an entry before its name.
const HEAD: usize = 8;
/// Bytes at the end of a block with a sum.
const TAIL: usize = 12;
/// What an index of a root and of a node starts at.
const ROOT_INDEX: usize = 32;
const NODE_INDEX: usize = 8;
/// Part of a leaf that a new index fills, in percent: the rest is for later.
const FILL: usize = 80;
/// The longest name.
pub(crate) const MAX_NAME: usize = 255;

/// How directories of a file system look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Bytes in a block: 1024 to 4096.
    pub(crate) block: usize,
    /// Blocks end with a sum.
    pub(crate) sums: bool,
    /// Large directories are indexed.
    pub(crate) index: bool,
    /// Which hash, whether over unsigned characters, and its seed.
    pub(crate) hash_version: u8,
    pub(crate) unsigned: bool,
    pub(crate) seed: [u32; 4],
}

impl Shape {
    /// Where entries of a leaf end.
    fn end(&self) -> usize {
        self.block - if self.sums { TAIL } else { 0 }
    }

    /// How many entries an index that starts at `start` holds.
    fn limit(&self, start: usize) -> usize {
        (self.block - start - if self.sums { 8 } else { 0 }) / 8
    }

    fn hash(&self, version: u8, name: &[u8]) -> Result<(u32, u32), String> {
        let version = if self.unsigned && version < 3 {
            version + 3
        } else {
            version
        };
        let hash = ffi::dir_hash(version, name, &self.seed);
        let (hash, minor) = hash.map_err(|code| format!("its hash {version}: {code}"))?;
        Ok((hash & !1, minor))
    }
}

/// What a name stands for: an inode, and its type as directories tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) ino: u32,
    pub(crate) kind: u8,
}

/// Names and what they stand for, without `.` and `..`.
pub(crate) type Entries = BTreeMap<Vec<u8>, Target>;

/// The bytes that an entry with so long a name takes.
fn room(name: usize) -> usize {
    (HEAD + name).next_multiple_of(4)
}

/// One entry of a leaf, at `at`, with `len` bytes up to the next one.
#[derive(Clone, Debug)]
struct Slot {
    at: usize,
    len: usize,
    target: Target,
    name: Vec<u8>,
}

impl Slot {
    /// Bytes that it needs of those that it has.
    fn used(&self) -> usize {
        if self.target.ino == 0 {
            0
        } else {
            room(self.name.len())
        }
    }
}

fn get16(block: &[u8], at: usize) -> usize {
    let bytes = block.get(at..at + 2).and_then(|b| b.try_into().ok());
    u16::from_le_bytes(bytes.unwrap_or_default()).into()
}

fn get32(block: &[u8], at: usize) -> u32 {
    let bytes = block.get(at..at + 4).and_then(|b| b.try_into().ok());
    u32::from_le_bytes(bytes.unwrap_or_default())
}

fn put(block: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(to) = block.get_mut(at..at + bytes.len()) {
        to.copy_from_slice(bytes);
    }
}

fn put16(block: &mut [u8], at: usize, value: usize) {
    put(block, at, &(value as u16).to_le_bytes());
}

fn put_entry(block: &mut [u8], at: usize, len: usize, target: Target, name: &[u8]) {
    put(block, at, &target.ino.to_le_bytes());
    put16(block, at + 4, len);
    put(block, at + 6, &[name.len() as u8, target.kind]);
    put(block, at + HEAD, name);
}

/// The entries of a block, those without an inode among them.
fn slots(block: &[u8], shape: &Shape) -> Result<Vec<Slot>, String> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < shape.end() {
        let (len, name) = (
            get16(block, at + 4),
            usize::from(*block.get(at + 6).unwrap_or(&0)),
        );
        let end = at + len;
        // An index node is one entry over the whole block.
        let fits = end <= shape.end() || end == shape.block;
        let target = Target {
            ino: get32(block, at),
            kind: *block.get(at + 7).unwrap_or(&0),
        };
        if len < HEAD || len % 4 != 0 || !fits || (target.ino != 0 && room(name) > len) {
            return Err(format!("its entry at byte {at} makes no sense"));
        }
        let name = block.get(at + HEAD..at + HEAD + name).unwrap_or_default();
        found.push(Slot {
            at,
            len,
            target,
            name: name.to_vec(),
        });
        at = end;
    }
    Ok(found)
}

/// An empty leaf.
fn empty(shape: &Shape) -> Vec<u8> {
    let mut block = vec![0; shape.block];
    put16(&mut block, 4, shape.end());
    if shape.sums {
        put16(&mut block, shape.end() + 4, TAIL);
        put(&mut block, shape.end() + 7, &[0xde]);
    }
    block
}

/// A leaf with these entries, which fit.
fn leaf(entries: &[(&[u8], Target)], shape: &Shape) -> Vec<u8> {
    let mut block = empty(shape);
    let mut at = 0;
    for (i, (name, target)) in entries.iter().enumerate() {
        let last = i + 1 == entries.len();
        let len = if last {
            shape.end() - at
        } else {
            room(name.len())
        };
        put_entry(&mut block, at, len, *target, name);
        at += len;
    }
    block
}

/// Entries of an index: the first hash of a block, and the block's number in the directory.
type Index = Vec<(u32, u32)>;

fn read_index(block: &[u8], start: usize, shape: &Shape) -> Result<Index, String> {
    let (limit, count) = (get16(block, start), get16(block, start + 2));
    if limit != shape.limit(start) || count == 0 || count > limit {
        return Err("its index makes no sense".to_owned());
    }
    let entry = |i: usize| {
        let at = start + i * 8;
        let hash = if i == 0 { 0 } else { get32(block, at) };
        (hash, get32(block, at + 4))
    };
    Ok((0..count).map(entry).collect())
}

fn write_index(block: &mut [u8], start: usize, index: &Index, shape: &Shape) {
    for (i, (hash, number)) in index.iter().enumerate() {
        put(block, start + i * 8, &hash.to_le_bytes());
        put(block, start + i * 8 + 4, &number.to_le_bytes());
    }
    put16(block, start, shape.limit(start));
    put16(block, start + 2, index.len());
}

/// A directory's blocks in memory, and which of them have changed.
pub(crate) struct Dir {
    shape: Shape,
    blocks: Vec<Vec<u8>>,
    changed: Vec<bool>,
    indexed: bool,
}

impl Dir {
    /// A directory that is there already.
    pub(crate) fn load(blocks: Vec<Vec<u8>>, indexed: bool, shape: Shape) -> Self {
        Self {
            shape,
            changed: vec![false; blocks.len()],
            blocks,
            indexed,
        }
    }

    /// A new one.
    pub(crate) fn new(
        own: u32,
        parent: u32,
        entries: &Entries,
        shape: Shape,
    ) -> Result<Self, String> {
        let mut block = empty(&shape);
        put_dots(&mut block, own, parent, shape.end());
        let mut dir = Self::load(vec![block], false, shape);
        dir.touch(0);
        for (name, target) in entries {
            if !dir.insert_plainly(name, *target)? {
                dir.rebuild(entries)?;
                break;
            }
        }
        Ok(dir)
    }

    /// Its blocks, and whether each has changed. Call after everything else.
    pub(crate) fn blocks(&mut self) -> impl Iterator<Item = (&mut Vec<u8>, bool)> {
        self.blocks.iter_mut().zip(self.changed.iter().copied())
    }

    /// How many blocks it has.
    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether it is indexed.
    pub(crate) fn is_indexed(&self) -> bool {
        self.indexed
    }

    fn touch(&mut self, block: usize) {
        if let Some(changed) = self.changed.get_mut(block) {
            *changed = true;
        }
    }

    /// All names in it.
    pub(crate) fn entries(&self) -> Result<Entries, String> {
        let mut entries = Entries::new();
        for (i, block) in self.blocks.iter().enumerate() {
            let dots = if i == 0 { 2 } else { 0 };
            for slot in slots(block, &self.shape)?.into_iter().skip(dots) {
                if slot.target.ino == 0 {
                    continue;
                }
                let odd =
                    slot.name.is_empty() || slot.name.contains(&b'/') || slot.name.contains(&0);
                let odd = odd || slot.name == b"." || slot.name == b"..";
                if odd || entries.insert(slot.name, slot.target).is_some() {
                    return Err("a name in it is empty, there twice or impossible".to_owned());
                }
            }
        }
        Ok(entries)
    }

    /// Brings it to `new` from `old`, which is what is in it.
    pub(crate) fn change(&mut self, old: &Entries, new: &Entries) -> Result<(), String> {
        let goes = |name: &Vec<u8>| new.get(name) != old.get(name);
        let places = self.places(&goes)?;
        for (name, number) in &places {
            match new.get(name) {
                Some(target) => self.replace(*number, name, *target)?,
                None => self.remove(*number, name)?,
            }
        }
        for (name, target) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
            if !self.insert(name, *target)? {
                return self.rebuild(new);
            }
        }
        Ok(())
    }

    /// In which blocks those names are that `wanted` wants.
    fn places(
        &self,
        wanted: &dyn Fn(&Vec<u8>) -> bool,
    ) -> Result<BTreeMap<Vec<u8>, usize>, String> {
        let mut places = BTreeMap::new();
        for (number, block) in self.blocks.iter().enumerate() {
            let dots = if number == 0 { 2 } else { 0 };
            for slot in slots(block, &self.shape)?.into_iter().skip(dots) {
                if slot.target.ino != 0 && wanted(&slot.name) {
                    places.insert(slot.name, number);
                }
            }
        }
        Ok(places)
    }

    /// A name in a block: all slots there, and which of them it is.
    fn find(&self, number: usize, name: &[u8]) -> Result<(Vec<Slot>, usize), String> {
        let slots = slots(
            self.blocks.get(number).map_or(&[], Vec::as_slice),
            &self.shape,
        )?;
        let is = |slot: &Slot| slot.target.ino != 0 && slot.name == name;
        let at = slots.iter().position(is).ok_or("a name in it has gone")?;
        Ok((slots, at))
    }

    fn remove(&mut self, number: usize, name: &[u8]) -> Result<(), String> {
        let (slots, at) = self.find(number, name)?;
        self.touch(number);
        let (Some(block), Some(slot)) = (self.blocks.get_mut(number), slots.get(at)) else {
            return Ok(());
        };
        let before = at.checked_sub(1).and_then(|before| slots.get(before));
        let end = slot.at + slot.used();
        if let Some(bytes) = block.get_mut(slot.at..end) {
            bytes.fill(0);
        }
        match before {
            Some(before) => put16(block, before.at + 4, before.len + slot.len),
            None => put16(block, slot.at + 4, slot.len),
        }
        Ok(())
    }

    fn replace(&mut self, number: usize, name: &[u8], target: Target) -> Result<(), String> {
        let (slots, at) = self.find(number, name)?;
        self.touch(number);
        if let (Some(block), Some(slot)) = (self.blocks.get_mut(number), slots.get(at)) {
            put_entry(block, slot.at, slot.len, target, name);
        }
        Ok(())
    }

    /// Puts an entry into a gap of a block; false if there is none that is large enough.
    fn fill_gap(&mut self, number: usize, name: &[u8], target: Target) -> Result<bool, String> {
        let need = room(name.len());
        let Some(block) = self.blocks.get_mut(number) else {
            return Ok(false);
        };
        for slot in slots(block, &self.shape)? {
            let free = slot.len - slot.used();
            if free < need || slot.at + slot.len > self.shape.end() {
                continue;
            }
            if slot.used() > 0 {
                put16(block, slot.at + 4, slot.used());
            }
            put_entry(block, slot.at + slot.used(), free, target, name);
            self.touch(number);
            return Ok(true);
        }
        Ok(false)
    }

    fn insert_plainly(&mut self, name: &[u8], target: Target) -> Result<bool, String> {
        for number in 0..self.blocks.len() {
            if self.fill_gap(number, name, target)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Adds a name; false if the directory has to be made anew for that.
    fn insert(&mut self, name: &[u8], target: Target) -> Result<bool, String> {
        if self.indexed {
            return self.insert_indexed(name, target);
        }
        if self.insert_plainly(name, target)? {
            return Ok(true);
        }
        if self.blocks.len() == 1 && self.shape.index {
            return Ok(false);
        }
        self.blocks.push(leaf(&[(name, target)], &self.shape));
        self.changed.push(true);
        Ok(true)
    }

    /// Where the index is that leads to a hash: its block and start, and the entry.
    fn lookup(&self, hash: u32) -> Result<(usize, usize, Index, usize), String> {
        let (mut number, mut start) = (0, ROOT_INDEX);
        let levels = self.levels()?;
        for level in 0..=levels {
            let block = self
                .blocks
                .get(number)
                .ok_or("its index leads outside of it")?;
            let index = read_index(block, start, &self.shape)?;
            let at = index.partition_point(|entry| entry.0 <= hash).max(1) - 1;
            if level == levels {
                return Ok((number, start, index, at));
            }
            number = index.get(at).map_or(0, |entry| entry.1) as usize;
            start = NODE_INDEX;
        }
        Err("its index has no end".to_owned())
    }

    fn levels(&self) -> Result<u8, String> {
        let root = self.blocks.first().ok_or("it has no block")?;
        let levels = *root.get(30).unwrap_or(&0);
        if levels > 2 || root.get(29) != Some(&8) {
            return Err("the root of its index makes no sense".to_owned());
        }
        Ok(levels)
    }

    fn version(&self) -> u8 {
        let root = self.blocks.first();
        *root.and_then(|root| root.get(28)).unwrap_or(&0)
    }

    fn insert_indexed(&mut self, name: &[u8], target: Target) -> Result<bool, String> {
        let version = self.version();
        let (hash, _) = self.shape.hash(version, name)?;
        let (node, start, mut index, at) = self.lookup(hash)?;
        let number = index.get(at).map_or(0, |entry| entry.1) as usize;
        if number == 0 || number >= self.blocks.len() {
            return Err("its index leads outside of it".to_owned());
        }
        if self.fill_gap(number, name, target)? {
            return Ok(true);
        }
        if index.len() >= self.shape.limit(start) {
            return Ok(false);
        }
        // The leaf becomes two, with half of the bytes each.
        let block = self
            .blocks
            .get(number)
            .ok_or("its index leads outside of it")?;
        let mut all = vec![(hash, name.to_vec(), target)];
        for slot in slots(block, &self.shape)? {
            if slot.target.ino != 0 {
                all.push((
                    self.shape.hash(version, &slot.name)?.0,
                    slot.name,
                    slot.target,
                ));
            }
        }
        all.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let total: usize = all.iter().map(|entry| room(entry.1.len())).sum();
        let (mut bytes, mut cut) = (0, 0);
        for entry in &all {
            if bytes + room(entry.1.len()) > total / 2 && cut > 0 {
                break;
            }
            bytes += room(entry.1.len());
            cut += 1;
        }
        let (low, high) = all.split_at(cut);
        let (Some(before), Some(first)) = (low.last(), high.first()) else {
            return Ok(false);
        };
        let fits = |half: &[(u32, Vec<u8>, Target)]| {
            half.iter().map(|entry| room(entry.1.len())).sum::<usize>() <= self.shape.end()
        };
        if !fits(low) || !fits(high) {
            return Ok(false);
        }
        // One hash on both sides is told by the lowest bit.
        let mark = first.0 | u32::from(before.0 == first.0);
        let new = self.blocks.len();
        index.insert(at + 1, (mark, new as u32));
        let plain = |half: &[(u32, Vec<u8>, Target)]| {
            let entries: Vec<_> = half.iter().map(|e| (e.1.as_slice(), e.2)).collect();
            leaf(&entries, &self.shape)
        };
        let (low, high) = (plain(low), plain(high));
        if let Some(block) = self.blocks.get_mut(number) {
            *block = low;
        }
        self.blocks.push(high);
        self.changed.push(true);
        self.touch(number);
        let shape = self.shape;
        if let Some(block) = self.blocks.get_mut(node) {
            write_index(block, start, &index, &shape);
        }
        self.touch(node);
        Ok(true)
    }

    /// Makes it anew with these entries, indexed if that can be.
    fn rebuild(&mut self, entries: &Entries) -> Result<(), String> {
        let dots = self
            .blocks
            .first()
            .map(|block| (get32(block, 0), get32(block, 12)));
        let (own, parent) = dots.unwrap_or_default();
        let built = if self.shape.index {
            self.indexed_blocks(own, parent, entries)?
        } else {
            self.plain_blocks(own, parent, entries)
        };
        self.indexed = self.shape.index;
        self.changed = vec![true; built.len()];
        self.blocks = built;
        Ok(())
    }

    fn plain_blocks(&self, own: u32, parent: u32, entries: &Entries) -> Vec<Vec<u8>> {
        let shape = &self.shape;
        let dot = |name: &'static [u8], ino| (name, Target { ino, kind: 2 });
        let first = [dot(b".", own), dot(b"..", parent)];
        let rest = entries
            .iter()
            .map(|(name, target)| (name.as_slice(), *target));
        pack(first.into_iter().chain(rest), shape.end())
            .iter()
            .map(|part| leaf(part, shape))
            .collect()
    }

    fn indexed_blocks(
        &self,
        own: u32,
        parent: u32,
        entries: &Entries,
    ) -> Result<Vec<Vec<u8>>, String> {
        let shape = &self.shape;
        let version = if self.indexed {
            self.version()
        } else {
            shape.hash_version
        };
        let mut all = Vec::new();
        for (name, target) in entries {
            all.push((shape.hash(version, name)?, name.as_slice(), *target));
        }
        all.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
        let plain = all.iter().map(|(_, name, target)| (*name, *target));
        let parts = pack(plain, shape.end() * FILL / 100);
        let mut hashes = all.iter().map(|entry| entry.0 .0);
        let (mut index, mut before) = (Index::new(), None);
        // Leaves come behind the root, nodes behind the leaves.
        for (number, part) in (1u32..).zip(&parts) {
            let hashes: Vec<u32> = hashes.by_ref().take(part.len()).collect();
            let first = hashes.first().copied().unwrap_or(0);
            index.push((first | u32::from(before == Some(first)), number));
            before = hashes.last().copied();
        }
        let mut blocks = vec![vec![0; shape.block]];
        blocks.extend(parts.iter().map(|part| leaf(part, shape)));
        let mut levels = 0;
        if index.len() > shape.limit(ROOT_INDEX) {
            levels = 1;
            let each = shape.limit(NODE_INDEX) * FILL / 100;
            let mut above = Index::new();
            for part in index.chunks(each) {
                above.push((part.first().map_or(0, |entry| entry.0), blocks.len() as u32));
                let mut node = vec![0; shape.block];
                put16(&mut node, 4, shape.block);
                write_index(&mut node, NODE_INDEX, &part.to_vec(), shape);
                blocks.push(node);
            }
            index = above;
        }
        if index.len() > shape.limit(ROOT_INDEX) {
            return Err("it has more names than an index of two levels can hold".to_owned());
        }
        if let Some(root) = blocks.first_mut() {
            put_dots(root, own, parent, shape.block);
            put(root, 28, &[version, 8, levels, 0]);
            write_index(root, ROOT_INDEX, &index, shape);
        }
        Ok(blocks)
    }
}

/// `.` and `..` at the start of a block; the second one reaches to `end`.
fn put_dots(block: &mut [u8], own: u32, parent: u32, end: usize) {
    put_entry(block, 0, 12, Target { ino: own, kind: 2 }, b".");
    put_entry(
        block,
        12,
        end - 12,
        Target {
            ino: parent,
            kind: 2,
        },
        b"..",
    );
}

/// Cuts entries into parts of at most `most` bytes.
fn pack<'a>(
    entries: impl Iterator<Item = (&'a [u8], Target)>,
    most: usize,
) -> Vec<Vec<(&'a [u8], Target)>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = 0;
    for entry in entries {
        let need = room(entry.0.len());
        if bytes + need > most {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += need;
        if let Some(part) = parts.last_mut() {
            part.push(entry);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shape(block: usize, sums: bool, index: bool) -> Shape {
        Shape {
            block,
            sums,
            index,
            hash_version: 1,
            unsigned: false,
            seed: [1, 2, 3, 4],
        }
    }

    fn names(range: std::ops::Range<u32>) -> Entries {
        let entry = |n| {
            (
                format!("name-{n:05}-{}", "x".repeat(n as usize % 40)).into_bytes(),
                Target {
                    ino: n + 20,
                    kind: 1,
                },
            )
        };
        range.map(entry).collect()
    }

    /// Every name is found by its hash, and every leaf is in the index once.
    fn check_index(dir: &Dir) {
        if !dir.indexed {
            return;
        }
        for name in dir.entries().unwrap().keys() {
            let (hash, _) = dir.shape.hash(dir.version(), name).unwrap();
            let (_, _, index, at) = dir.lookup(hash).unwrap();
            let numbers = index[..=at].iter().rev().map(|entry| entry.1 as usize);
            let mut blocks = numbers.map(|number| slots(&dir.blocks[number], &dir.shape).unwrap());
            assert!(blocks.any(|slots| slots.iter().any(|slot| slot.name == *name)));
        }
    }

    #[test]
    fn a_large_one_is_indexed_and_grows() {
        for block in [1024, 4096] {
            let shape = shape(block, true, true);
            let mut known = names(0..3000);
            let mut dir = Dir::new(11, 2, &known, shape).unwrap();
            assert!(dir.is_indexed());
            for end in [3010, 4000, 9000] {
                let next = names(end - 2900..end);
                dir.changed.fill(false);
                dir.change(&known, &next).unwrap();
                assert_eq!(dir.entries().unwrap(), next);
                check_index(&dir);
                known = next;
            }
        }
    }

    #[test]
    fn few_blocks_change_for_few_names() {
        let shape = shape(4096, true, true);
        let old = names(0..5000);
        let mut dir = Dir::new(11, 2, &old, shape).unwrap();
        dir.changed.fill(false);
        let mut new = old.clone();
        new.remove(old.keys().next().unwrap());
        new.insert(b"another".to_vec(), Target { ino: 9, kind: 1 });
        dir.change(&old, &new).unwrap();
        assert!(dir.changed.iter().filter(|&&changed| changed).count() <= 2);
    }

    proptest! {
        #[test]
        fn changes_lead_to_what_was_asked_for(
            sums: bool,
            index: bool,
            small: bool,
            steps in prop::collection::vec(prop::collection::btree_set(0u32..200, 0..200), 1..5),
        ) {
            let shape = shape(if small { 1024 } else { 4096 }, sums, index);
            let entries = |set: &std::collections::BTreeSet<u32>, step: usize| -> Entries {
                let all = names(0..200).into_iter().zip(0u32..);
                let kept = all.filter(|(_, n)| set.contains(n));
                kept.map(|((name, target), n)| (name, Target { ino: target.ino + (n % 3) * step as u32, ..target })).collect()
            };
            let mut known = entries(&steps[0], 0);
            let mut dir = Dir::new(11, 2, &known, shape).unwrap();
            for (step, set) in steps.iter().enumerate().skip(1) {
                let next = entries(set, step);
                dir.change(&known, &next).unwrap();
                prop_assert_eq!(&dir.entries().unwrap(), &next);
                check_index(&dir);
                known = next;
            }
        }

        #[test]
        fn no_bytes_make_it_panic(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1024), 0..4), indexed: bool) {
            let mut dir = Dir::load(blocks, indexed, shape(1024, true, true));
            let old = dir.entries().unwrap_or_default();
            let _ = dir.change(&old, &names(0..50));
        }
    }
}
