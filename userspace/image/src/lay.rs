// SPDX-License-Identifier: GPL-2.0-or-later

//! Lays a tree over what is in a file system, and touches nothing that does not differ.
//!
//! The file system is a private copy, so blocks are changed where they are: a piece of a file that
//! changed is written to the block that held it, which costs the delta that one block and keeps the
//! file as contiguous as it was. What files lose is freed before anything is taken, and blocks and
//! inodes are taken from the front, so that few bitmaps and inode tables change.
//!
//! Everything is done in the order of names. Together with the file system, which takes the first that fits, the
//! result depends on the base and the tree alone.

use crate::error::show;
use crate::error::Error;
use crate::error::Result;
use crate::ext4::dir::Dir;
use crate::ext4::dir::Entries;
use crate::ext4::dir::Target;
use crate::ext4::inode;
use crate::ext4::inode::Inode;
use crate::ext4::Fs;
use crate::ext4::Map;
use crate::old;
use crate::old::Base;
use crate::old::Claims;
use crate::old::Old;
use crate::progress::Step;
use crate::tree::Content;
use crate::tree::Id;
use crate::tree::Kind;
use crate::tree::Meta;
use crate::tree::Opened;
use crate::tree::Tree;
use crate::tree::Visit;
use serde::Serialize;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// Bytes looked at a time.
const BATCH: u64 = 1 << 20;
/// Names that a file may have, and folders in a folder, before their number is no longer kept.
const MAX_LINKS: u64 = 65_000;
/// The folder where e2fsck puts what it finds. It stays, though no tree has it.
const LOST: &[u8] = b"lost+found";

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Files of every type in the image, folders among them.
    pub files: u64,
    /// Not touched at all.
    pub unchanged: u64,
    /// Only their inode changed.
    pub metadata_changed: u64,
    /// Their content changed, or the names in a folder.
    pub content_changed: u64,
    /// Of all of these: taken over from a file with another name.
    pub renamed: u64,
    /// New.
    pub added: u64,
    /// Gone.
    pub removed: u64,
    /// Blocks of content and folders that were written.
    pub blocks_written: u64,
    /// Free blocks that are in use now.
    pub blocks_taken: u64,
    /// Blocks that were in use.
    pub blocks_freed: u64,
}

/// Lays `tree` over `fs`. Returns what was done.
pub(crate) fn lay(fs: &mut Fs, tree: &Tree, step: &dyn Step) -> Result<Counts> {
    let visits = tree.walk();
    let base = old::read(fs, step)?;
    let claims = old::claim(fs, &base, tree, &visits, step)?;
    let mut links = BTreeMap::new();
    for visit in &visits {
        for (_, id) in tree.entries(visit.id) {
            *links.entry(id).or_insert(0) += 1;
        }
    }
    let mut layer = Layer {
        fs,
        tree,
        base: &base,
        claims: &claims,
        links,
        inodes: BTreeMap::new(),
        lost: None,
        counts: Counts::default(),
        step,
    };
    layer.keep_lost();
    layer.check_room(&visits)?;
    layer.free_gone()?;
    layer.number(&visits)?;
    for visit in &visits {
        layer.step.check()?;
        if let Err(error) = layer.node(visit) {
            return Err(layer.with_missing(error, visit, &visits));
        }
    }
    Ok(layer.counts)
}

struct Layer<'a> {
    fs: &'a mut Fs,
    tree: &'a Tree,
    base: &'a Base,
    claims: &'a Claims,
    /// How many names each node has.
    links: BTreeMap<Id, u64>,
    inodes: BTreeMap<Id, (u32, Inode)>,
    /// `lost+found` of the base.
    lost: Option<Target>,
    counts: Counts,
    step: &'a dyn Step,
}

impl Layer<'_> {
    fn old(&self, id: Id) -> Option<(u32, &Old)> {
        let ino = *self.claims.inode.get(&id)?;
        Some((ino, self.base.get(&ino)?))
    }

    fn keep_lost(&mut self) {
        let root = self.base.get(&crate::ext4::ROOT);
        let lost = root.and_then(|root| root.entries.get(LOST)).copied();
        let is_dir = |target: &Target| {
            let old = self.base.get(&target.ino);
            old.is_some_and(|old| old.inode.kind() == inode::DIR && old.entries.is_empty())
        };
        let told = self
            .tree
            .entries(crate::tree::ROOT)
            .any(|(name, _)| name == LOST);
        self.lost = lost.filter(is_dir).filter(|_| !told);
    }

    /// How many blocks a node needs that it does not have, at most.
    fn need(&self, id: Id) -> u64 {
        let size = self.fs.block_size() as u64;
        let has = |old: &Old| old.map.runs.iter().map(|run| run.len).sum::<u64>();
        let wants = match self.tree.get(id).map(|node| &node.kind) {
            Some(Kind::File(content)) => content.data().div_ceil(size),
            Some(Kind::Symlink(to)) if to.len() >= inode::FAST_SYMLINK => 1,
            Some(Kind::Dir(names)) => (names.len() as u64 * 32).div_ceil(size).max(1),
            _ => 0,
        };
        wants.saturating_sub(self.old(id).map_or(0, |(_, old)| has(old)))
    }

    /// Which files of the base go.
    fn gone(&self) -> Vec<u32> {
        let kept: BTreeSet<u32> = self.claims.inode.values().copied().collect();
        let lost = self.lost.map(|lost| lost.ino);
        let goes = |ino: &&u32| !kept.contains(*ino) && lost != Some(**ino);
        self.base.keys().filter(goes).copied().collect()
    }

    fn check_room(&self, visits: &[Visit]) -> Result<()> {
        let (_, free) = self.fs.free();
        let new = visits
            .iter()
            .filter(|visit| self.old(visit.id).is_none())
            .count() as u64;
        let free = u64::from(free) + self.gone().len() as u64;
        if new > free {
            return Err(Error::NoRoom {
                object: self.fs.name().to_owned(),
                missing: new - free,
                what: "inodes",
            });
        }
        Ok(())
    }

    /// Tells with an error that there is no room how much all that is left would need.
    fn with_missing(&self, error: Error, visit: &Visit, visits: &[Visit]) -> Error {
        if !matches!(error, Error::NoRoom { .. }) {
            return error;
        }
        let rest = visits.iter().skip_while(|other| other.id != visit.id);
        let need: u64 = rest.map(|visit| self.need(visit.id)).sum();
        let (free, _) = self.fs.free();
        self.fs.no_room(need.saturating_sub(free).max(1))
    }

    fn free(&mut self, map: &Map) -> Result<()> {
        for run in &map.runs {
            self.fs.free_blocks(run.physical, run.len)?;
        }
        for &block in &map.tree {
            self.fs.free_blocks(block, 1)?;
        }
        self.counts.blocks_freed += map.blocks();
        Ok(())
    }

    fn free_gone(&mut self) -> Result<()> {
        for ino in self.gone() {
            let Some(old) = self.base.get(&ino) else {
                continue;
            };
            self.free(&old.map)?;
            let mut inode = old.inode.clone();
            self.fs.free_attributes(ino, &mut inode)?;
            self.fs.free_inode(ino, old.inode.kind() == inode::DIR)?;
            self.counts.removed += 1;
        }
        Ok(())
    }

    /// Gives every node an inode.
    fn number(&mut self, visits: &[Visit]) -> Result<()> {
        for visit in visits {
            if let Some((ino, old)) = self.old(visit.id) {
                let inode = old.inode.clone();
                self.inodes.insert(visit.id, (ino, inode));
                continue;
            }
            let near = self
                .inodes
                .get(&visit.parent)
                .map_or(crate::ext4::ROOT, |known| known.0);
            let mode = self.tree.get(visit.id).map_or(0, |node| node.kind.mode());
            let new = self.fs.new_inode(near, mode)?;
            self.inodes.insert(visit.id, new);
        }
        Ok(())
    }

    /// Makes one inode and its content what the tree says.
    fn node(&mut self, visit: &Visit) -> Result<()> {
        let Some((node, (ino, inode))) = self
            .tree
            .get(visit.id)
            .zip(self.inodes.get(&visit.id).cloned())
        else {
            return Ok(());
        };
        let old = self.base.get(&ino).filter(|_| self.old(visit.id).is_some());
        let empty = Map::default();
        let mut work = Work {
            ino,
            inode,
            old_map: old.map_or(&empty, |old| &old.map),
            kind: node.kind.mode(),
            new: old.is_none(),
            content: false,
        };
        match &node.kind {
            Kind::Dir(_) => self.directory(&mut work, visit, old)?,
            Kind::File(content) => self.file(&mut work, content)?,
            Kind::Symlink(target) => self.symlink(&mut work, target, &visit.path)?,
            Kind::Char(major, minor) | Kind::Block(major, minor) => {
                if work.new || work.inode.device() != (*major, *minor) {
                    work.inode.set_device(*major, *minor);
                    work.content = true;
                }
            }
            Kind::Fifo | Kind::Socket => {}
        }
        let told = node.meta.clone();
        let meta = match (self.tree.is_implied(visit.id), old) {
            // Nothing was said about this folder, so it stays as it is.
            (true, Some(old)) => Meta {
                mode: old.inode.mode() & !inode::TYPE,
                uid: old.inode.uid(),
                gid: old.inode.gid(),
                mtime: old.inode.mtime(),
                attributes: self.fs.attributes(ino)?,
            },
            _ => told,
        };
        let links = self.link_count(visit, &node.kind)?;
        let changed = self.metadata(&mut work, &meta, links, &visit.path)?;
        self.counts.files += 1;
        if self.claims.renamed.contains(&visit.id) {
            self.counts.renamed += 1;
        }
        let count = match (work.new, work.content, changed) {
            (true, ..) => &mut self.counts.added,
            (_, true, _) => &mut self.counts.content_changed,
            (_, _, true) => &mut self.counts.metadata_changed,
            _ => &mut self.counts.unchanged,
        };
        *count += 1;
        Ok(())
    }

    fn link_count(&self, visit: &Visit, kind: &Kind) -> Result<u16> {
        let links = match kind {
            Kind::Dir(_) => {
                let is_dir = |id: Id| {
                    let node = self.tree.get(id);
                    node.is_some_and(|node| matches!(node.kind, Kind::Dir(_)))
                };
                let below = self
                    .tree
                    .entries(visit.id)
                    .filter(|(_, id)| is_dir(*id))
                    .count() as u64;
                let lost = visit.id == crate::tree::ROOT && self.lost.is_some();
                2 + below + u64::from(lost)
            }
            _ => self.links.get(&visit.id).copied().unwrap_or(1),
        };
        match u16::try_from(links) {
            Ok(links) if u64::from(links) < MAX_LINKS => Ok(links),
            // One means: too many to count.
            _ if matches!(kind, Kind::Dir(_)) && self.fs.many_links() => Ok(1),
            _ => {
                let why = format!("has more than {MAX_LINKS} links, which ext4 cannot hold");
                Err(Error::input(show(&visit.path), why))
            }
        }
    }

    /// Brings the inode itself and its attributes to what the tree says. Returns whether they changed.
    fn metadata(
        &mut self,
        work: &mut Work<'_>,
        meta: &Meta,
        links: u16,
        path: &[u8],
    ) -> Result<bool> {
        let (ino, kind, inode) = (work.ino, work.kind, &mut work.inode);
        let mode = kind | meta.mode;
        let same = inode.mode() == mode
            && (inode.uid(), inode.gid()) == (meta.uid, meta.gid)
            && inode.mtime() == meta.mtime
            && inode.links() == links;
        if !inode.keeps_times() {
            let why =
                format!("inode {ino} has no room for nanoseconds; make a new base with mke2fs");
            return Err(Error::input(self.fs.name(), why));
        }
        let before = if work.new {
            BTreeMap::new()
        } else {
            self.fs.attributes(ino)?
        };
        let attributes = before != meta.attributes;
        if same && !attributes && !work.content && !work.new {
            return Ok(false);
        }
        if work.new {
            inode.set_created(meta.mtime);
        }
        inode.set_mode(mode);
        inode.set_owner(meta.uid, meta.gid);
        inode.set_links(links);
        if work.new || work.content || inode.mtime() != meta.mtime {
            inode.set_times(meta.mtime);
        }
        self.fs.write_inode(ino, inode)?;
        if attributes {
            self.fs
                .set_attributes(ino, &before, &meta.attributes, path)?;
        }
        let mut now = self.fs.read_inode(ino)?;
        let map = match kind {
            inode::FILE | inode::DIR | inode::SYMLINK if now.has_extents() => {
                self.fs.map(ino, &now)?
            }
            _ => Map::default(),
        };
        let blocks = map.blocks() + u64::from(now.attribute_block() != 0);
        now.set_sectors(blocks * (self.fs.block_size() as u64 / 512));
        self.fs.write_inode(ino, &mut now)?;
        Ok(true)
    }

    /// The names that a folder is to have.
    fn names(&self, id: Id) -> Entries {
        let target = |id: Id| {
            let (ino, _) = self.inodes.get(&id)?;
            let kind = self.tree.get(id)?.kind.in_dir();
            Some(Target { ino: *ino, kind })
        };
        let mut names: Entries = self
            .tree
            .entries(id)
            .filter_map(|(name, id)| Some((name.clone(), target(id)?)))
            .collect();
        if let Some(lost) = self.lost.filter(|_| id == crate::tree::ROOT) {
            names.insert(LOST.to_vec(), lost);
        }
        names
    }

    fn directory(&mut self, work: &mut Work<'_>, visit: &Visit, old: Option<&Old>) -> Result<()> {
        let names = self.names(visit.id);
        let failed = |what: String| {
            Error::input(
                show(&visit.path),
                format!("is a folder that failed: {what}"),
            )
        };
        let mut dir = match old {
            Some(old) if old.entries == names => return Ok(()),
            Some(old) => {
                let mut dir = old::load_dir(self.fs, work.ino, &work.inode, &old.map)?;
                dir.change(&old.entries, &names).map_err(failed)?;
                dir
            }
            None => {
                let parent = self
                    .inodes
                    .get(&visit.parent)
                    .map_or(work.ino, |known| known.0);
                Dir::new(work.ino, parent, &names, self.fs.shape()).map_err(failed)?
            }
        };
        work.content = true;
        let count = dir.len() as u64;
        let mut map = self.resize(work, count)?;
        work.inode.set_size(count * self.fs.block_size() as u64);
        work.inode.set_indexed(dir.is_indexed());
        self.remap(work, &mut map)?;
        for (logical, (block, changed)) in (0..).zip(dir.blocks()) {
            let Some((physical, _)) = map.find(logical) else {
                continue;
            };
            let is_new = work.old_map.find(logical).is_none();
            if changed || is_new {
                self.fs.write_dir_block(work.ino, physical, block)?;
                self.counts.blocks_written += 1;
            }
        }
        Ok(())
    }

    /// The map with exactly the first `count` blocks, those that are missing taken anew.
    fn resize(&mut self, work: &Work<'_>, count: u64) -> Result<Map> {
        let mut new = Map::default();
        let mut logical = 0;
        while logical < count {
            if let Some((physical, run)) = work.old_map.find(logical) {
                let len = run.min(count - logical);
                new.push(logical, physical, len);
                logical += len;
            } else {
                let end = work
                    .old_map
                    .next(logical)
                    .map_or(count, |next| next.min(count));
                logical += self
                    .take(&mut new, work.ino, logical, end - logical, end - logical)?
                    .1;
            }
        }
        Ok(self.keep_tree(new, work))
    }

    fn keep_tree(&self, new: Map, work: &Work<'_>) -> Map {
        Map {
            tree: work.old_map.tree.clone(),
            ..new
        }
    }

    /// Takes up to `need` blocks for what is at `logical`, behind the last one of the file if it can be.
    fn take(
        &mut self,
        new: &mut Map,
        ino: u32,
        logical: u64,
        need: u64,
        want: u64,
    ) -> Result<(u64, u64)> {
        let near = new.runs.last().map(|last| last.physical + last.len);
        let goal = self.fs.goal(ino);
        let (first, len) = self.fs.take_blocks(near, goal, need, want)?;
        new.push(logical, first, len);
        self.counts.blocks_taken += len;
        Ok((first, len))
    }

    /// Frees what the old map has and the new one has not, and writes the new one if it is another.
    fn remap(&mut self, work: &mut Work<'_>, map: &mut Map) -> Result<()> {
        if work.old_map.runs == map.runs && !work.new {
            return Ok(());
        }
        let kept: BTreeMap<u64, u64> = map.runs.iter().map(|run| (run.physical, run.len)).collect();
        for run in &work.old_map.runs {
            let (mut at, end) = (run.physical, run.physical + run.len);
            while at < end {
                let before = kept
                    .range(..=at)
                    .next_back()
                    .map(|(first, len)| first + len);
                if let Some(inside) = before.filter(|&inside| inside > at) {
                    at = inside;
                    continue;
                }
                let next = kept
                    .range(at..)
                    .next()
                    .map_or(end, |(first, _)| *first)
                    .min(end);
                self.fs.free_blocks(at, next - at)?;
                self.counts.blocks_freed += next - at;
                at = next;
            }
        }
        self.fs.set_map(work.ino, &mut work.inode, map)
    }

    fn symlink(&mut self, work: &mut Work<'_>, target: &[u8], path: &[u8]) -> Result<()> {
        let size = self.fs.block_size();
        if target.len() >= size {
            let why = format!(
                "is a symbolic link of more than {} bytes, which ext4 cannot hold",
                size - 1
            );
            return Err(Error::input(show(path), why));
        }
        if !work.new && self.link_target(work)? == target {
            return Ok(());
        }
        work.content = true;
        self.free(work.old_map)?;
        work.inode.set_size(target.len() as u64);
        if target.len() < inode::FAST_SYMLINK {
            work.inode.set_place(target);
            return Ok(());
        }
        let mut new = Map::default();
        let (first, _) = self.take(&mut new, work.ino, 0, 1, 1)?;
        let mut block = target.to_vec();
        block.resize(size, 0);
        self.fs.write_blocks(first, &block)?;
        self.counts.blocks_written += 1;
        self.fs.set_map(work.ino, &mut work.inode, &mut new)
    }

    fn link_target(&mut self, work: &Work<'_>) -> Result<Vec<u8>> {
        let len = usize::try_from(work.inode.size()).unwrap_or(usize::MAX);
        let bytes = match work.old_map.find(0) {
            Some((physical, _)) => {
                let mut block = vec![0; self.fs.block_size()];
                self.fs.read_blocks(physical, &mut block)?;
                block
            }
            None => work.inode.place().to_vec(),
        };
        Ok(bytes.get(..len).unwrap_or_default().to_vec())
    }

    fn file(&mut self, work: &mut Work<'_>, content: &Content) -> Result<()> {
        let opened = content.open()?;
        if !work.new
            && work.inode.size() == content.size()
            && self.is_same(work, content, &opened)?
        {
            return Ok(());
        }
        work.content = true;
        let mut map = self.write(work, content, &opened)?;
        work.inode.set_size(content.size());
        self.remap(work, &mut map)
    }

    /// Where from `at` on either side may have data, in blocks; `end` if nowhere.
    fn next(&self, map: &Map, opened: &Opened<'_>, at: u64, end: u64) -> u64 {
        let size = self.fs.block_size() as u64;
        let old = map.next(at).unwrap_or(end);
        let new = opened.next_data(at * size) / size;
        old.min(new.max(at)).min(end)
    }

    /// Whether a file of the same size has the same content.
    fn is_same(&mut self, work: &Work<'_>, content: &Content, opened: &Opened<'_>) -> Result<bool> {
        let size = self.fs.block_size() as u64;
        let end = content.size().div_ceil(size);
        let (mut is, mut was) = (Vec::new(), Vec::new());
        let mut at = self.next(work.old_map, opened, 0, end);
        while at < end {
            let count = (BATCH / size).min(end - at);
            let bytes = (count * size).min(content.size() - at * size) as usize;
            is.resize((count * size) as usize, 0);
            opened.read(at * size, &mut is)?;
            self.read_old(work.old_map, at, count, &mut was)?;
            // What is behind the end of the file does not count.
            if is.get(..bytes) != was.get(..bytes) {
                return Ok(false);
            }
            self.step.done(bytes as u64)?;
            at = self.next(work.old_map, opened, at + count, end);
        }
        Ok(true)
    }

    /// Reads blocks of the base's file; holes are zeros.
    fn read_old(&mut self, map: &Map, at: u64, count: u64, buf: &mut Vec<u8>) -> Result<()> {
        let size = self.fs.block_size() as u64;
        buf.clear();
        buf.resize((count * size) as usize, 0);
        let mut done = 0;
        while done < count {
            let Some((physical, run)) = map.find(at + done) else {
                done = map.next(at + done).map_or(count, |next| next - at);
                continue;
            };
            let len = run.min(count - done);
            let range = (done * size) as usize..((done + len) * size) as usize;
            if let Some(part) = buf.get_mut(range) {
                self.fs.read_blocks(physical, part)?;
            }
            done += len;
        }
        Ok(())
    }

    /// Writes the blocks of a file that differ: where they are if they are there, else to new ones.
    /// Blocks of zeros become holes. Returns the new map.
    fn write(&mut self, work: &Work<'_>, content: &Content, opened: &Opened<'_>) -> Result<Map> {
        let size = self.fs.block_size() as u64;
        let end = content.size().div_ceil(size);
        let most = if self.fs.large_files() {
            u64::MAX
        } else {
            i32::MAX as u64
        };
        if end > u64::from(u32::MAX) || content.size() > most {
            let why = format!("no file of {} bytes fits into ext4", content.size());
            return Err(Error::input(self.fs.name(), why));
        }
        let mut todo = content.data().div_ceil(size);
        let mut new = Map::default();
        let (mut is, mut was) = (Vec::new(), Vec::new());
        let mut at = self.next(work.old_map, opened, 0, end);
        while at < end {
            let count = (BATCH / size).min(end - at);
            is.resize((count * size) as usize, 0);
            opened.read(at * size, &mut is)?;
            self.read_old(work.old_map, at, count, &mut was)?;
            self.batch(work, &mut new, at, &is, &was, todo)?;
            todo = todo.saturating_sub(count);
            self.step.done(count * size)?;
            at = self.next(work.old_map, opened, at + count, end);
        }
        Ok(self.keep_tree(new, work))
    }

    fn batch(
        &mut self,
        work: &Work<'_>,
        new: &mut Map,
        at: u64,
        is: &[u8],
        was: &[u8],
        todo: u64,
    ) -> Result<()> {
        let size = self.fs.block_size();
        let mut blocks = is.chunks(size).zip(was.chunks(size)).zip(at..).peekable();
        while let Some(((block, old), logical)) = blocks.next() {
            if block.iter().all(|&byte| byte == 0) {
                continue;
            }
            if let Some((physical, _)) = work.old_map.find(logical) {
                if block != old {
                    self.fs.write_blocks(physical, block)?;
                    self.counts.blocks_written += 1;
                }
                new.push(logical, physical, 1);
                continue;
            }
            // As many as come next and have no place, together.
            let mut bytes = block.to_vec();
            while let Some(((block, _), logical)) = blocks.peek() {
                if block.iter().all(|&byte| byte == 0) || work.old_map.find(*logical).is_some() {
                    break;
                }
                bytes.extend_from_slice(block);
                blocks.next();
            }
            let (mut done, count) = (0, (bytes.len() / size) as u64);
            while done < count {
                let (first, len) = self.take(
                    new,
                    work.ino,
                    logical + done,
                    count - done,
                    todo.saturating_sub(done),
                )?;
                let range = done as usize * size..(done + len) as usize * size;
                self.fs
                    .write_blocks(first, bytes.get(range).unwrap_or_default())?;
                self.counts.blocks_written += len;
                done += len;
            }
        }
        Ok(())
    }
}

/// An inode that is being worked on.
struct Work<'a> {
    ino: u32,
    inode: Inode,
    old_map: &'a Map,
    /// The type, as a mode tells it.
    kind: u16,
    new: bool,
    /// The content has changed.
    content: bool,
}
