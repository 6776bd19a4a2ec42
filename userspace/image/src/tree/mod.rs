// SPDX-License-Identifier: GPL-2.0-or-later

//! A tree of files, wherever it comes from: what an image is to hold.
//!
//! Names and contents are bytes. Content stays where it is, in files of a folder or in a [`Spool`],
//! and is read when it is needed.

pub(crate) mod acl;
mod disk;
mod oci;
mod pax;
mod spool;
mod tar;

pub use disk::read_dir;
pub use oci::flatten;
pub use oci::is_layout;
pub use oci::Choice;
pub use spool::Spool;
pub use tar::read_tar;

use crate::error::show;
use crate::error::Error;
use crate::error::Result;
use crate::ext4::dir::MAX_NAME;
use crate::ext4::inode;
use crate::ext4::inode::Time;
use ring::digest::Context;
use ring::digest::SHA256;
use spool::Pieces;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::rc::Rc;

/// A node of a tree. Several names may stand for one.
pub type Id = usize;
/// The root folder.
pub const ROOT: Id = 0;

/// Folders in each other, at most: what reads and writes them calls itself.
const MAX_DEPTH: usize = 512;

/// What a node has beside its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permissions, with the set-id and sticky bits, without the type.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When its content changed last.
    pub mtime: Time,
    /// Extended attributes, as getxattr(2) gives them.
    pub attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A folder and the names in it.
    Dir(BTreeMap<Vec<u8>, Id>),
    /// A regular file.
    File(Content),
    /// A symbolic link and where it leads.
    Symlink(Vec<u8>),
    /// A character device, by its numbers.
    Char(u32, u32),
    /// A block device, by its numbers.
    Block(u32, u32),
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
}

impl Kind {
    /// The type, as a mode tells it.
    pub(crate) fn mode(&self) -> u16 {
        match self {
            Self::Dir(_) => inode::DIR,
            Self::File(_) => inode::FILE,
            Self::Symlink(_) => inode::SYMLINK,
            Self::Char(..) => inode::CHAR,
            Self::Block(..) => inode::BLOCK,
            Self::Fifo => inode::FIFO,
            Self::Socket => inode::SOCKET,
        }
    }

    /// The type, as a directory tells it.
    pub(crate) fn in_dir(&self) -> u8 {
        match self {
            Self::File(_) => 1,
            Self::Dir(_) => 2,
            Self::Char(..) => 3,
            Self::Block(..) => 4,
            Self::Fifo => 5,
            Self::Socket => 6,
            Self::Symlink(_) => 7,
        }
    }
}

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it has.
    pub meta: Meta,
    /// What it is.
    pub kind: Kind,
}

/// The content of a regular file.
#[derive(Clone, Debug)]
pub struct Content {
    size: u64,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    /// A file of a folder, and how much of it may be data.
    Path(PathBuf, u64),
    /// Pieces in a spool; what is between them is zero.
    Spooled(Rc<File>, Rc<Pieces>),
}

impl Content {
    /// Bytes in it.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes in it that may be something else than zero, at most.
    pub(crate) fn data(&self) -> u64 {
        match &self.place {
            Place::Path(_, data) => *data,
            Place::Spooled(_, pieces) => pieces.bytes(),
        }
        .min(self.size)
    }

    /// Opens it for reading.
    pub(crate) fn open(&self) -> Result<Opened<'_>> {
        let file = match &self.place {
            Place::Spooled(..) => None,
            Place::Path(path, _) => {
                let no_follow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
                let file = OpenOptions::new()
                    .read(true)
                    .custom_flags(no_follow)
                    .open(path);
                Some(file.map_err(|e| Error::path("open", path, e))?)
            }
        };
        Ok(Opened {
            content: self,
            file,
        })
    }
}

/// Open content.
pub(crate) struct Opened<'a> {
    content: &'a Content,
    file: Option<File>,
}

impl Opened<'_> {
    /// Fills `buf` from `offset` on; zeros behind the end.
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let left = usize::try_from(self.content.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let (data, rest) = buf.split_at_mut(left.min(buf.len()));
        rest.fill(0);
        match (&self.content.place, &self.file) {
            (Place::Path(path, _), Some(file)) => file.read_exact_at(data, offset).map_err(|e| {
                if e.kind() == io::ErrorKind::UnexpectedEof {
                    let why = "has become shorter while it was read; leave the tree alone";
                    return Error::input(path.display(), why);
                }
                Error::path("read", path, e)
            }),
            (Place::Spooled(file, pieces), _) => pieces
                .read(file, offset, data)
                .map_err(|e| Error::io("read", "a temporary file", e)),
            (Place::Path(..), None) => Ok(()),
        }
    }

    /// Where the next bytes from `offset` on may be something else than zero; the size if nowhere.
    pub(crate) fn next_data(&self, offset: u64) -> u64 {
        let size = self.content.size;
        let next = match (&self.content.place, &self.file) {
            (Place::Spooled(_, pieces), _) => pieces.next(offset).unwrap_or(size),
            (Place::Path(..), Some(file)) => {
                match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
                    Ok(found) => found,
                    Err(rustix::io::Errno::NXIO) => size,
                    Err(_) => offset,
                }
            }
            (Place::Path(..), None) => size,
        };
        next.clamp(offset.min(size), size)
    }

    /// The SHA-256 of it.
    pub(crate) fn digest(&self) -> Result<[u8; 32]> {
        let mut context = Context::new(&SHA256);
        let mut buf = vec![0; 1 << 18];
        let mut at = 0;
        while at < self.content.size {
            let len = (self.content.size - at).min(buf.len() as u64);
            let part = buf.get_mut(..len as usize).unwrap_or_default();
            self.read(at, part)?;
            context.update(part);
            at += len;
        }
        Ok(context.finish().as_ref().try_into().unwrap_or_default())
    }
}

/// How much a tree may hold, against input that is made to take all memory or time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Names, at most.
    pub names: u64,
    /// Bytes of content and of archives, at most.
    pub bytes: u64,
    /// The same, with the holes of sparse files.
    pub with_holes: u64,
}

impl Limits {
    /// For a file system with so many bytes and inodes: more could not be put into it anyway.
    pub fn of(bytes: u64, inodes: u64) -> Self {
        Self {
            names: inodes.saturating_mul(16),
            bytes: bytes.saturating_mul(4),
            with_holes: bytes.saturating_mul(64).max(1 << 40),
        }
    }
}

/// A tree of files.
#[derive(Clone, Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    /// Folders that were not told, only what is in them.
    implied: BTreeSet<Id>,
    names: u64,
    limits: Limits,
}

impl Tree {
    /// A tree with nothing but the root folder, which is implied.
    pub fn new(limits: Limits) -> Self {
        let mut tree = Self {
            nodes: Vec::new(),
            implied: BTreeSet::new(),
            names: 0,
            limits,
        };
        tree.add(implied_dir(Time::default()));
        tree.implied.insert(ROOT);
        tree
    }

    fn add(&mut self, node: Node) -> Id {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// A node, if there is one of that number.
    pub fn get(&self, id: Id) -> Option<&Node> {
        self.nodes.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: Id) -> Option<&mut Node> {
        self.nodes.get_mut(id)
    }

    /// Whether the tree told nothing about this folder itself.
    pub(crate) fn is_implied(&self, id: Id) -> bool {
        self.implied.contains(&id)
    }

    /// The names in a folder; none if it is no folder.
    pub fn entries(&self, id: Id) -> impl Iterator<Item = (&Vec<u8>, Id)> {
        let names = match self.get(id).map(|node| &node.kind) {
            Some(Kind::Dir(names)) => Some(names),
            _ => None,
        };
        names.into_iter().flatten().map(|(name, id)| (name, *id))
    }

    fn names_mut(&mut self, id: Id) -> Option<&mut BTreeMap<Vec<u8>, Id>> {
        match self.get_mut(id).map(|node| &mut node.kind) {
            Some(Kind::Dir(names)) => Some(names),
            _ => None,
        }
    }

    fn child(&self, dir: Id, name: &[u8]) -> Option<Id> {
        match self.get(dir).map(|node| &node.kind) {
            Some(Kind::Dir(names)) => names.get(name).copied(),
            _ => None,
        }
    }

    /// What a path stands for, without following symbolic links.
    pub fn find(&self, path: &[&[u8]]) -> Option<Id> {
        path.iter().try_fold(ROOT, |at, name| self.child(at, name))
    }

    /// The folder that `path` is in; those that are missing are made, with the time `mtime`.
    fn parent(&mut self, path: &[&[u8]], mtime: Time) -> Result<Id> {
        let (_, folders) = path.split_last().unwrap_or((&&[][..], &[]));
        if path.len() > MAX_DEPTH {
            let why = format!("is in more than {MAX_DEPTH} folders");
            return Err(Error::input(show(&path.join(&b'/')), why));
        }
        let mut at = ROOT;
        for (depth, name) in folders.iter().enumerate() {
            at = match self.child(at, name) {
                Some(id) => id,
                None => {
                    let id = self.add(implied_dir(mtime));
                    self.implied.insert(id);
                    self.link(at, name, id)?;
                    id
                }
            };
            if !matches!(self.get(at).map(|node| &node.kind), Some(Kind::Dir(_))) {
                let through = path.get(..=depth).unwrap_or_default().join(&b'/');
                let what = match self.get(at).map(|node| &node.kind) {
                    Some(Kind::Symlink(_)) => "a symbolic link, which is not followed",
                    _ => "no folder",
                };
                let why = format!("cannot be put into {}: it is {what}", show(&through));
                return Err(Error::input(show(&path.join(&b'/')), why));
            }
        }
        Ok(at)
    }

    /// Makes a name in a folder stand for a node.
    fn link(&mut self, dir: Id, name: &[u8], id: Id) -> Result<()> {
        if name.is_empty() || name.len() > MAX_NAME || name == b"." || name == b".." {
            let why = format!("is no name of 1 to {MAX_NAME} bytes that ext4 could hold");
            return Err(Error::input(show(name), why));
        }
        self.names += 1;
        if self.names > self.limits.names {
            let why = format!(
                "has more than {} names, too many for the image",
                self.limits.names
            );
            return Err(Error::input("the tree", why));
        }
        if let Some(names) = self.names_mut(dir) {
            names.insert(name.to_vec(), id);
        }
        Ok(())
    }

    /// Puts a node at a path. A folder that is there keeps its names if the new one is a folder, too.
    fn put(&mut self, path: &[&[u8]], node: Node) -> Result<Id> {
        let Some(name) = path.last() else {
            if !matches!(node.kind, Kind::Dir(_)) {
                return Err(Error::input("/", "is to be something else than a folder"));
            }
            self.implied.remove(&ROOT);
            if let Some(root) = self.get_mut(ROOT) {
                root.meta = node.meta;
            }
            return Ok(ROOT);
        };
        let dir = self.parent(path, node.meta.mtime)?;
        if let (Some(id), Kind::Dir(_)) = (self.child(dir, name), &node.kind) {
            self.implied.remove(&id);
            if let Some(Node {
                meta,
                kind: Kind::Dir(_),
            }) = self.get_mut(id)
            {
                *meta = node.meta;
                return Ok(id);
            }
        }
        let id = self.add(node);
        self.link(dir, name, id)?;
        Ok(id)
    }

    /// All nodes that have a name, each once, folders before what is in them, in the order of names.
    pub(crate) fn walk(&self) -> Vec<Visit> {
        let mut seen = vec![false; self.nodes.len()];
        let mut found = Vec::new();
        let mut todo = vec![(ROOT, ROOT, Vec::new())];
        while let Some((id, parent, path)) = todo.pop() {
            match seen.get_mut(id) {
                Some(seen) if !*seen => *seen = true,
                _ => continue,
            }
            let at = todo.len();
            for (name, child) in self.entries(id) {
                let mut below: Vec<u8> = path.clone();
                below.push(b'/');
                below.extend_from_slice(name);
                todo.push((child, id, below));
            }
            // The last one pushed comes out first.
            if let Some(new) = todo.get_mut(at..) {
                new.reverse();
            }
            found.push(Visit { id, parent, path });
        }
        found
    }

    /// A digest of all names and what nodes have, not of contents.
    pub fn digest(&self) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        let number = |context: &mut Context, number: u64| context.update(&number.to_le_bytes());
        let bytes = |context: &mut Context, bytes: &[u8]| {
            context.update(&(bytes.len() as u64).to_le_bytes());
            context.update(bytes);
        };
        for visit in self.walk() {
            let Some(Node { meta, kind }) = self.get(visit.id) else {
                continue;
            };
            bytes(&mut context, &visit.path);
            number(
                &mut context,
                ((u64::from(kind.mode()) | u64::from(meta.mode)) << 32)
                    | u64::from(meta.mtime.nanos),
            );
            number(
                &mut context,
                (u64::from(meta.uid) << 32) | u64::from(meta.gid),
            );
            number(&mut context, meta.mtime.seconds as u64);
            for (name, value) in &meta.attributes {
                bytes(&mut context, name);
                bytes(&mut context, value);
            }
            match kind {
                Kind::File(content) => number(&mut context, content.size),
                Kind::Symlink(to) => bytes(&mut context, to),
                Kind::Char(a, b) | Kind::Block(a, b) => {
                    number(&mut context, (u64::from(*a) << 32) | u64::from(*b))
                }
                Kind::Dir(names) => number(&mut context, names.len() as u64),
                Kind::Fifo | Kind::Socket => {}
            }
        }
        context.finish().as_ref().try_into().unwrap_or_default()
    }

    /// The newest time of all nodes.
    pub fn newest(&self) -> Option<Time> {
        let visits = self.walk();
        let known = visits.iter().filter(|visit| !self.is_implied(visit.id));
        known
            .filter_map(|visit| self.get(visit.id))
            .map(|node| node.meta.mtime)
            .max()
    }

    /// Gives everything to one owner.
    pub fn set_owner(&mut self, uid: u32, gid: u32) {
        for node in &mut self.nodes {
            node.meta.uid = uid;
            node.meta.gid = gid;
        }
    }
}

/// One step of a walk.
#[derive(Clone, Debug)]
pub(crate) struct Visit {
    pub(crate) id: Id,
    /// The folder of the first of its names.
    pub(crate) parent: Id,
    /// That name, from the root on; empty for the root.
    pub(crate) path: Vec<u8>,
}

/// A folder that nothing is known about.
fn implied_dir(mtime: Time) -> Node {
    Node {
        meta: Meta {
            mode: 0o755,
            mtime,
            ..Meta::default()
        },
        kind: Kind::Dir(BTreeMap::new()),
    }
}

/// The names of a path from an archive, which may start with `./` and end with `/`.
fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    let refuse = |why: &str| Err(Error::input(show(path), why));
    if path.first() == Some(&b'/') {
        return refuse("is an absolute path; make the archive with relative ones");
    }
    if path.contains(&0) {
        return refuse("has a zero byte in it");
    }
    let names: Vec<&[u8]> = path
        .split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .collect();
    if names.contains(&&b".."[..]) {
        return refuse("leads out of a folder with '..'; that is not followed");
    }
    Ok(names)
}

/// Checks the name of an attribute. Those that no ext4 keeps are refused.
fn check_attribute(path: &[u8], name: &[u8]) -> Result<()> {
    let known = [&b"user."[..], b"trusted.", b"security."]
        .iter()
        .any(|prefix| name.len() > prefix.len() && name.starts_with(prefix));
    let acl = name == b"system.posix_acl_access" || name == b"system.posix_acl_default";
    if (known && name.len() <= MAX_NAME && !name.contains(&0)) || acl {
        return Ok(());
    }
    let why = format!(
        "has an extended attribute that ext4 cannot hold: {}",
        show(name)
    );
    Err(Error::input(show(path), why))
}

/// Checks that an inode can hold a time.
fn check_time(path: &[u8], time: Time) -> Result<Time> {
    if Time::RANGE.contains(&time.seconds) && time.nanos < 1_000_000_000 {
        return Ok(time);
    }
    let why = format!("has a time that ext4 cannot hold: {} s", time.seconds);
    Err(Error::input(show(path), why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        assert_eq!(components(b"./a//b/").unwrap(), [b"a", b"b"]);
        assert!(components(b"./").unwrap().is_empty());
        for path in [&b"/etc/passwd"[..], b"../x", b"a/../../x", b"a/..", b"a\0b"] {
            assert!(components(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn a_walk_has_folders_first_and_every_node_once() {
        let mut tree = Tree::new(Limits::of(1 << 20, 100));
        let node = |kind| Node {
            meta: Meta::default(),
            kind,
        };
        let id = tree.put(&[b"b", b"x"], node(Kind::Fifo)).unwrap();
        let dir = tree.put(&[b"a"], node(Kind::Dir(BTreeMap::new()))).unwrap();
        tree.link(dir, b"y", id).unwrap();
        let paths: Vec<_> = tree
            .walk()
            .into_iter()
            .map(|v| String::from_utf8(v.path).unwrap())
            .collect();
        assert_eq!(paths, ["", "/a", "/a/y", "/b"]);
    }
}
