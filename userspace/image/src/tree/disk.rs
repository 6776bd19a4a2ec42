// SPDX-License-Identifier: GPL-2.0-or-later

//! A tree from a folder.

use super::acl;
use super::check_time;
use super::Content;
use super::Id;
use super::Kind;
use super::Limits;
use super::Meta;
use super::Node;
use super::Place;
use super::Tree;
use super::MAX_DEPTH;
use super::ROOT;
use crate::error::Error;
use crate::error::Result;
use crate::ext4::inode::Time;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The longest list of names of attributes, and the longest value, that the kernel gives.
const MAX_ATTRIBUTE: usize = 1 << 16;

/// Reads what is in a folder, with the folder itself as the root. Symbolic links are not followed.
pub fn read_dir(path: &Path, limits: Limits) -> Result<Tree> {
    let mut tree = Tree::new(limits);
    let look =
        |path: &Path| std::fs::symlink_metadata(path).map_err(|e| Error::path("look at", path, e));
    // The folder itself may be named through a link.
    let top = std::fs::canonicalize(path).map_err(|e| Error::path("open", path, e))?;
    let meta = look(&top)?;
    tree.implied.remove(&ROOT);
    if let Some(root) = tree.get_mut(ROOT) {
        root.meta = meta_of(&top, &meta)?;
    }
    let mut links: BTreeMap<(u64, u64), Id> = BTreeMap::new();
    let mut todo = vec![(top, ROOT, 0)];
    while let Some((folder, dir, depth)) = todo.pop() {
        if depth > MAX_DEPTH {
            let why = format!("is in more than {MAX_DEPTH} folders");
            return Err(Error::input(folder.display(), why));
        }
        let list = std::fs::read_dir(&folder).map_err(|e| Error::path("list", &folder, e))?;
        for entry in list {
            let entry = entry.map_err(|e| Error::path("list", &folder, e))?;
            let (path, name) = (entry.path(), entry.file_name());
            let meta = look(&path)?;
            let key = (meta.dev(), meta.ino());
            let linked = !meta.is_dir() && meta.nlink() > 1;
            if let Some(&id) = links.get(&key).filter(|_| linked) {
                tree.link(dir, name.as_bytes(), id)?;
                continue;
            }
            let node = Node {
                meta: meta_of(&path, &meta)?,
                kind: kind_of(&path, &meta)?,
            };
            let id = tree.add(node);
            tree.link(dir, name.as_bytes(), id)?;
            if linked {
                links.insert(key, id);
            }
            if meta.is_dir() {
                todo.push((path, id, depth + 1));
            }
        }
    }
    Ok(tree)
}

fn kind_of(path: &Path, meta: &Metadata) -> Result<Kind> {
    let kind = meta.file_type();
    let device = || {
        (
            rustix::fs::major(meta.rdev()),
            rustix::fs::minor(meta.rdev()),
        )
    };
    Ok(if kind.is_dir() {
        Kind::Dir(BTreeMap::new())
    } else if kind.is_file() {
        Kind::File(Content {
            size: meta.len(),
            place: Place::Path(path.to_path_buf(), meta.blocks().saturating_mul(512)),
        })
    } else if kind.is_symlink() {
        let target = std::fs::read_link(path).map_err(|e| Error::path("read", path, e))?;
        Kind::Symlink(target.as_os_str().as_bytes().to_vec())
    } else if kind.is_char_device() {
        let (major, minor) = device();
        Kind::Char(major, minor)
    } else if kind.is_block_device() {
        let (major, minor) = device();
        Kind::Block(major, minor)
    } else if kind.is_fifo() {
        Kind::Fifo
    } else {
        Kind::Socket
    })
}

fn meta_of(path: &Path, meta: &Metadata) -> Result<Meta> {
    let time = Time {
        seconds: meta.mtime(),
        nanos: u32::try_from(meta.mtime_nsec()).unwrap_or(0),
    };
    Ok(Meta {
        mode: (meta.mode() & 0o7777) as u16,
        uid: meta.uid(),
        gid: meta.gid(),
        mtime: check_time(path.as_os_str().as_bytes(), time)?,
        attributes: attributes(path)?,
    })
}

/// The attributes that ext4 can hold. Others belong to the file system that the folder is on.
fn attributes(path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let failed = |errno: Errno| {
        Error::path(
            "read the extended attributes of",
            path,
            io::Error::from(errno),
        )
    };
    let mut list = vec![0; MAX_ATTRIBUTE];
    let len = match rustix::fs::llistxattr(path, list.as_mut_slice()) {
        Ok(len) => len,
        Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => 0,
        Err(errno) => return Err(failed(errno)),
    };
    let names = list.get(..len).unwrap_or_default();
    for name in names
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
    {
        if super::check_attribute(b"", name).is_err() {
            continue;
        }
        let mut value = vec![0; MAX_ATTRIBUTE];
        match rustix::fs::lgetxattr(path, name, value.as_mut_slice()) {
            Ok(len) => value.truncate(len),
            Err(Errno::NODATA) => continue,
            Err(errno) => return Err(failed(errno)),
        }
        acl::settle(name, &mut value);
        found.insert(name.to_vec(), value);
    }
    Ok(found)
}
