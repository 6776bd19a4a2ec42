// SPDX-License-Identifier: GPL-2.0-or-later

//! What is in the base, and which of it stays.

use crate::error::show;
use crate::error::Result;
use crate::ext4::dir::Dir;
use crate::ext4::dir::Entries;
use crate::ext4::inode;
use crate::ext4::inode::Inode;
use crate::ext4::Fs;
use crate::ext4::Map;
use crate::ext4::ROOT;
use crate::progress::Step;
use crate::tree::Id;
use crate::tree::Kind;
use crate::tree::Tree;
use crate::tree::Visit;
use ring::digest::Context;
use ring::digest::SHA256;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// A file of the base.
pub(crate) struct Old {
    pub(crate) inode: Inode,
    pub(crate) map: Map,
    /// Names, if it is a folder.
    pub(crate) entries: Entries,
}

impl Old {
    fn is_dir(&self) -> bool {
        self.inode.kind() == inode::DIR
    }
}

/// All files of the base that have a name, by their inodes.
pub(crate) type Base = BTreeMap<u32, Old>;

/// Reads all folders and inodes. Finds what would make writing in place change two files.
pub(crate) fn read(fs: &mut Fs, step: &dyn Step) -> Result<Base> {
    let mut base = Base::new();
    let mut taken = Taken::default();
    let mut todo = vec![(ROOT, inode::DIR, Vec::new())];
    while let Some((ino, kind, path)) = todo.pop() {
        step.check()?;
        if let Some(known) = base.get(&ino) {
            if known.is_dir() {
                return Err(fs.damaged(format_args!("the folder {} has two names", show(&path))));
            }
            continue;
        }
        if !fs.is_user_inode(ino) {
            let what = format!("{} has the inode {ino}, which is not in use", show(&path));
            return Err(fs.damaged(what));
        }
        let inode = fs.read_inode(ino)?;
        if inode.kind() != kind || inode.links() == 0 {
            return Err(fs.damaged(format_args!("{} is not what its folder says", show(&path))));
        }
        if inode.is_foreign() {
            let why = format!(
                "{} is compressed, encrypted or the like, and cannot be read",
                show(&path)
            );
            return Err(crate::error::Error::input(fs.name(), why));
        }
        let map = map_of(fs, ino, &inode)?;
        taken.add(fs, &map, &path)?;
        let mut entries = Entries::new();
        if kind == inode::DIR {
            entries = load_dir(fs, ino, &inode, &map)?
                .entries()
                .map_err(|what| fs.damaged(format_args!("the folder {}: {what}", show(&path))))?;
            for (name, target) in &entries {
                let mut below = path.clone();
                below.push(b'/');
                below.extend_from_slice(name);
                todo.push((target.ino, kind_in_dir(target.kind), below));
            }
        }
        base.insert(
            ino,
            Old {
                inode,
                map,
                entries,
            },
        );
    }
    Ok(base)
}

/// The type that a directory tells, as a mode tells it.
fn kind_in_dir(kind: u8) -> u16 {
    match kind {
        1 => inode::FILE,
        2 => inode::DIR,
        3 => inode::CHAR,
        4 => inode::BLOCK,
        5 => inode::FIFO,
        6 => inode::SOCKET,
        7 => inode::SYMLINK,
        _ => 0,
    }
}

fn map_of(fs: &mut Fs, ino: u32, inode: &Inode) -> Result<Map> {
    let fast = (inode.size() as usize) < inode::FAST_SYMLINK && !inode.has_extents();
    match inode.kind() {
        inode::DIR | inode::FILE => fs.map(ino, inode),
        inode::SYMLINK if !fast => fs.map(ino, inode),
        _ => Ok(Map::default()),
    }
}

/// Loads the blocks of a folder.
pub(crate) fn load_dir(fs: &mut Fs, ino: u32, inode: &Inode, map: &Map) -> Result<Dir> {
    let size = fs.block_size();
    let count = inode.size() / size as u64;
    // A folder has no holes, so its size is no more than its blocks.
    let held: u64 = map.runs.iter().map(|run| run.len).sum();
    if count == 0 || inode.size() % size as u64 != 0 || count > held {
        return Err(fs.damaged(format_args!(
            "the folder with inode {ino} has no right size"
        )));
    }
    let mut blocks = Vec::new();
    for logical in 0..count {
        let Some((physical, _)) = map.find(logical) else {
            return Err(fs.damaged(format_args!("the folder with inode {ino} has a hole")));
        };
        let mut block = vec![0; size];
        fs.read_dir_block(ino, physical, &mut block)?;
        blocks.push(block);
    }
    Ok(Dir::load(blocks, inode.is_indexed(), fs.shape()))
}

/// Which blocks belong to somebody.
#[derive(Default)]
struct Taken(BTreeMap<u64, u64>);

impl Taken {
    fn add(&mut self, fs: &Fs, map: &Map, path: &[u8]) -> Result<()> {
        let runs = map.runs.iter().map(|run| (run.physical, run.len));
        for (first, len) in runs.chain(map.tree.iter().map(|&block| (block, 1))) {
            let before = self.0.range(..first + len).next_back();
            if before.is_some_and(|(_, &end)| end > first) {
                let what = format!("blocks of {} belong to another file, too", show(path));
                return Err(fs.damaged(what));
            }
            if !fs.all_used(first, len) {
                let what = format!("blocks of {} are marked as free", show(path));
                return Err(fs.damaged(what));
            }
            self.0.insert(first, first + len);
        }
        Ok(())
    }
}

/// Which node takes over which inode.
pub(crate) struct Claims {
    /// By node.
    pub(crate) inode: BTreeMap<Id, u32>,
    /// Nodes that are files of the base under another name.
    pub(crate) renamed: BTreeSet<Id>,
}

/// Finds the inodes that stay: those with the same path and type, then those of files whose content
/// appears under another name.
pub(crate) fn claim(
    fs: &mut Fs,
    base: &Base,
    tree: &Tree,
    visits: &[Visit],
    step: &dyn Step,
) -> Result<Claims> {
    let mut claims = Claims {
        inode: BTreeMap::new(),
        renamed: BTreeSet::new(),
    };
    let mut claimed = BTreeSet::from([ROOT]);
    claims.inode.insert(crate::tree::ROOT, ROOT);
    for visit in visits {
        let Some(old) = claims.inode.get(&visit.id).and_then(|ino| base.get(ino)) else {
            continue;
        };
        for (name, id) in tree.entries(visit.id) {
            let (Some(target), Some(node)) = (old.entries.get(name), tree.get(id)) else {
                continue;
            };
            let same = base
                .get(&target.ino)
                .is_some_and(|old| old.inode.kind() == node.kind.mode());
            if same && !claims.inode.contains_key(&id) && claimed.insert(target.ino) {
                claims.inode.insert(id, target.ino);
            }
        }
    }
    find_renamed(fs, base, tree, visits, &mut claims, &mut claimed, step)?;
    Ok(claims)
}

fn find_renamed(
    fs: &mut Fs,
    base: &Base,
    tree: &Tree,
    visits: &[Visit],
    claims: &mut Claims,
    claimed: &mut BTreeSet<u32>,
    step: &dyn Step,
) -> Result<()> {
    let mut gone: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for (&ino, old) in base {
        let size = old.inode.size();
        if old.inode.kind() == inode::FILE && size > 0 && !claimed.contains(&ino) {
            gone.entry(size).or_default().push(ino);
        }
    }
    let mut digests: BTreeMap<u32, [u8; 32]> = BTreeMap::new();
    for visit in visits {
        let Some(Kind::File(content)) = tree.get(visit.id).map(|node| &node.kind) else {
            continue;
        };
        let Some(candidates) = gone.get_mut(&content.size()) else {
            continue;
        };
        if claims.inode.contains_key(&visit.id) || candidates.is_empty() {
            continue;
        }
        step.check()?;
        let wanted = content.open()?.digest()?;
        let mut found = None;
        for (at, ino) in candidates.iter().enumerate() {
            let is = match digests.get(ino) {
                Some(known) => *known,
                None => {
                    let Some(old) = base.get(ino) else { continue };
                    let digest = digest(fs, old)?;
                    digests.insert(*ino, digest);
                    digest
                }
            };
            if is == wanted {
                found = Some(at);
                break;
            }
        }
        if let Some(at) = found {
            let ino = candidates.remove(at);
            claimed.insert(ino);
            claims.inode.insert(visit.id, ino);
            claims.renamed.insert(visit.id);
        }
    }
    Ok(())
}

/// The SHA-256 of a file of the base.
fn digest(fs: &mut Fs, old: &Old) -> Result<[u8; 32]> {
    let size = fs.block_size() as u64;
    let mut context = Context::new(&SHA256);
    let zeros = vec![0; 1 << 16];
    let (mut at, end) = (0, old.inode.size());
    while at < end {
        let block = at / size;
        let len = match old.map.find(block) {
            Some((physical, run)) => {
                let blocks = run.min((1 << 16) / size);
                let mut buf = vec![0; (blocks * size) as usize];
                fs.read_blocks(physical, &mut buf)?;
                let len = (blocks * size).min(end - at);
                context.update(buf.get(..len as usize).unwrap_or_default());
                len
            }
            None => {
                let next = old.map.next(block).map_or(end, |next| next * size).min(end);
                let len = (next - at).min(zeros.len() as u64);
                context.update(zeros.get(..len as usize).unwrap_or_default());
                len
            }
        };
        at += len;
    }
    Ok(context.finish().as_ref().try_into().unwrap_or_default())
}
