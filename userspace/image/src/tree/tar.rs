// SPDX-License-Identifier: GPL-2.0-or-later

//! A tree from a tar archive, and layers of container images, which are archives, too.

use super::acl;
use super::check_attribute;
use super::check_time;
use super::components;
use super::pax;
use super::pax::Parts;
use super::spool::Spool;
use super::Content;
use super::Id;
use super::Kind;
use super::Limits;
use super::Meta;
use super::Node;
use super::Tree;
use crate::error::show;
use crate::error::Error;
use crate::error::Result;
use crate::ext4::inode::Time;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use tar::EntryType;
use tar::GnuExtSparseHeader;
use tar::GnuSparseHeader;
use tar::Header;

/// What archives are made of.
const BLOCK: u64 = 512;
/// Bytes that one extended header may have.
const MAX_HEADERS: u64 = 1 << 20;
/// What removes a name of lower layers, and what all names of a folder.
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Reads an archive, which may be compressed with gzip or zstd. `name` is its name for messages.
pub fn read_tar(from: impl Read, name: &str, limits: Limits, spool: &mut Spool) -> Result<Tree> {
    let mut tree = Tree::new(limits);
    add(&mut tree, from, name, spool, None)?;
    Ok(tree)
}

/// Lays a layer over what is in `tree`.
pub(super) fn add_layer(
    tree: &mut Tree,
    from: impl Read,
    name: &str,
    spool: &mut Spool,
) -> Result<()> {
    add(tree, from, name, spool, Some(BTreeSet::new()))
}

/// Names that the present layer has told; nothing for a plain archive.
type Fresh = Option<BTreeSet<(Id, Vec<u8>)>>;

fn add(
    tree: &mut Tree,
    from: impl Read,
    name: &str,
    spool: &mut Spool,
    mut fresh: Fresh,
) -> Result<()> {
    let mut archive = Archive {
        from: decompressed(from, name)?,
        name: name.to_owned(),
        body: 0,
        padding: 0,
        total: tree.limits.with_holes,
    };
    while let Some(member) = archive.next()? {
        add_member(tree, &mut archive, &member, spool, &mut fresh)?;
    }
    Ok(())
}

/// Looks how it is compressed.
fn decompressed<'a>(from: impl Read + 'a, name: &str) -> Result<Box<dyn Read + 'a>> {
    let mut from = BufReader::with_capacity(1 << 17, from);
    let start = from.fill_buf().map_err(|e| Error::io("read", name, e))?;
    let refuse = |how: &str| {
        let why =
            format!("is compressed with {how}; decompress it first: {how} -dc FILE | ... --tree -");
        Err(Error::input(name, why))
    };
    if start.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(from)));
    }
    if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(from)
            .map_err(|e| Error::io("decompress", name, e))?;
        // Longer windows take more memory than an archive is worth.
        decoder
            .window_log_max(27)
            .map_err(|e| Error::io("decompress", name, e))?;
        return Ok(Box::new(decoder));
    }
    if start.starts_with(&[0xfd, b'7', b'z', b'X', b'Z']) {
        return refuse("xz");
    }
    if start.starts_with(b"BZh") {
        return refuse("bzip2");
    }
    Ok(Box::new(from))
}

/// An archive that is read member by member.
///
/// Headers are those of the tar library. Which of them belong together is found here: values of extended
/// headers may hold any byte, sparse files come in four formats, and no header may be of any length.
struct Archive<'a> {
    from: Box<dyn Read + 'a>,
    name: String,
    /// What is left of the present member.
    body: u64,
    padding: u64,
    /// What may be read yet.
    total: u64,
}

/// One member: its header, and what extended headers said.
struct Member {
    header: Header,
    path: Vec<u8>,
    link: Vec<u8>,
    extended: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Where the parts of a sparse file belong, and its size; none if the map comes with the data.
    parts: Option<Parts>,
    size: u64,
}

impl Read for Archive<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.body)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let read = self.from.read(buf.get_mut(..most).unwrap_or_default())?;
        if read == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.body -= read as u64;
        Ok(read)
    }
}

impl Archive<'_> {
    fn broken(&self, what: impl std::fmt::Display) -> Error {
        Error::input(&self.name, format!("is no complete tar archive: {what}"))
    }

    /// Begins a member's data.
    fn begin(&mut self, size: u64) -> Result<()> {
        let padded = size.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
        self.total = self
            .total
            .checked_sub(padded.saturating_add(BLOCK))
            .ok_or_else(|| Error::input(&self.name, "holds more than the image could"))?;
        self.body = size;
        self.padding = padded - size;
        Ok(())
    }

    /// Skips what is left of a member.
    fn skip(&mut self) -> Result<()> {
        let left = self.body + self.padding;
        let skipped = io::copy(&mut self.from.as_mut().take(left), &mut io::sink());
        if skipped.map_err(|e| self.broken(e))? != left {
            return Err(self.broken("it ends within a member"));
        }
        (self.body, self.padding) = (0, 0);
        Ok(())
    }

    fn block(&mut self, block: &mut [u8]) -> Result<()> {
        self.from.read_exact(block).map_err(|e| self.broken(e))
    }

    /// The next header, or nothing at the end.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        self.block(header.as_mut_bytes())?;
        let bytes = header.as_bytes();
        if bytes.iter().all(|&byte| byte == 0) {
            // Whatever follows is read, so that what compressed it can compare its sum.
            let rest = io::copy(&mut self.from.as_mut().take(self.total), &mut io::sink());
            rest.map_err(|e| self.broken(e))?;
            return Ok(None);
        }
        let sum: u32 = bytes
            .iter()
            .enumerate()
            .map(|(i, &byte)| u32::from(if (148..156).contains(&i) { b' ' } else { byte }))
            .sum();
        match header.cksum() {
            Ok(told) if told == sum => Ok(Some(header)),
            _ => Err(self.broken("a header's sum is wrong")),
        }
    }

    /// The whole of a member that extends the next one.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = header.entry_size().map_err(|e| self.broken(e))?;
        if size > MAX_HEADERS {
            return Err(self.broken(format_args!("a header of {size} bytes")));
        }
        self.begin(size)?;
        let mut bytes = vec![0; size as usize];
        self.block(&mut bytes)?;
        self.body = 0;
        self.skip()?;
        Ok(bytes)
    }

    /// The next member, or nothing at the end. What was not read of the last one is skipped.
    fn next(&mut self) -> Result<Option<Member>> {
        self.skip()?;
        let (mut path, mut link, mut extended) = (None, None, BTreeMap::new());
        loop {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let name = |mut bytes: Vec<u8>| {
                bytes.truncate(
                    bytes
                        .iter()
                        .position(|&byte| byte == 0)
                        .unwrap_or(bytes.len()),
                );
                bytes
            };
            match header.entry_type() {
                EntryType::GNULongName => path = Some(name(self.extension(&header)?)),
                EntryType::GNULongLink => link = Some(name(self.extension(&header)?)),
                EntryType::XHeader => {
                    let bytes = self.extension(&header)?;
                    extended = pax::records(&bytes)
                        .ok_or_else(|| self.broken("an extended header makes no sense"))?;
                }
                EntryType::XGlobalHeader => {
                    let bytes = self.extension(&header)?;
                    self.global(&bytes)?;
                }
                _ => {
                    let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
                    let link =
                        link.or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
                    return self
                        .member(header, path, link.unwrap_or_default(), extended)
                        .map(Some);
                }
            }
        }
    }

    /// A header for all members that follow. git writes one, with a comment; others would change what
    /// they mean.
    fn global(&self, bytes: &[u8]) -> Result<()> {
        let records =
            pax::records(bytes).ok_or_else(|| self.broken("a global header makes no sense"))?;
        match records.keys().find(|key| *key != b"comment") {
            None => Ok(()),
            Some(key) => {
                let why = format!("has a global header that is not read: {}", show(key));
                Err(Error::input(&self.name, why))
            }
        }
    }

    fn member(
        &mut self,
        header: Header,
        path: Vec<u8>,
        link: Vec<u8>,
        extended: BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Result<Member> {
        let get = |key: &str| extended.get(key.as_bytes());
        let path = get("GNU.sparse.name")
            .or(get("path"))
            .cloned()
            .unwrap_or(path);
        let link = get("linkpath").cloned().unwrap_or(link);
        let bad = || Error::input(show(&path), "has a header that makes no sense");
        let mut stored = header.entry_size().map_err(|_| bad())?;
        if let Some(text) = get("size") {
            stored = pax::number(text).ok_or_else(bad)?;
        }
        // Only files have data, whatever the header says.
        let is_file = matches!(
            header.entry_type(),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse
        );
        self.begin(if is_file { stored } else { 0 })?;
        let (mut parts, mut size) = (None, stored);
        if header.entry_type() == EntryType::GNUSparse {
            let (found, real) = self.old_sparse(&header)?.ok_or_else(bad)?;
            (parts, size) = (Some(found), real);
        } else if let Some(text) = get("GNU.sparse.realsize").or(get("GNU.sparse.size")) {
            size = pax::number(text).ok_or_else(bad)?;
            if get("GNU.sparse.major").is_none() {
                let map = get("GNU.sparse.map").ok_or_else(bad)?;
                parts = Some(pax::sparse_map(map).ok_or_else(bad)?);
            }
        } else {
            parts = Some(vec![(0, stored)]);
        }
        Ok(Member {
            path,
            link,
            header,
            extended,
            parts,
            size,
        })
    }

    /// The map of GNU's own format, which is in the header and in blocks behind it.
    fn old_sparse(&mut self, header: &Header) -> Result<Option<(Parts, u64)>> {
        let Some(gnu) = header.as_gnu() else {
            return Ok(None);
        };
        let Ok(size) = gnu.real_size() else {
            return Ok(None);
        };
        let mut parts = Parts::new();
        let mut add = |blocks: &[GnuSparseHeader]| {
            for block in blocks.iter().filter(|block| !block.is_empty()) {
                parts.push((block.offset().ok()?, block.length().ok()?));
            }
            Some(parts.len())
        };
        let (mut known, mut more) = (add(&gnu.sparse), gnu.is_extended());
        while more && known.is_some_and(|known| known < pax::MAX_PARTS) {
            let mut block = GnuExtSparseHeader::new();
            self.block(block.as_mut_bytes())?;
            known = add(block.sparse());
            more = block.is_extended();
        }
        Ok((known.is_some() && !more).then_some((parts, size)))
    }
}

fn add_member(
    tree: &mut Tree,
    archive: &mut Archive<'_>,
    member: &Member,
    spool: &mut Spool,
    fresh: &mut Fresh,
) -> Result<()> {
    let path = &member.path;
    let names = components(path)?;
    if fresh.is_some() && whiteout(tree, &names, fresh) {
        return Ok(());
    }
    let meta = meta_of(member)?;
    let refuse = |why: String| Err(Error::input(show(path), why));
    let kind = match member.header.entry_type() {
        EntryType::Link => return hard_link(tree, member, &names, meta.mtime, fresh),
        EntryType::Directory => Kind::Dir(BTreeMap::new()),
        // Old archives have no other sign for it.
        EntryType::Regular if path.ends_with(b"/") => Kind::Dir(BTreeMap::new()),
        EntryType::Symlink if member.link.is_empty() || member.link.contains(&0) => {
            return refuse("is a symbolic link to nothing".to_owned());
        }
        EntryType::Symlink => Kind::Symlink(member.link.clone()),
        EntryType::Fifo => Kind::Fifo,
        EntryType::Char => device(member).map(|(major, minor)| Kind::Char(major, minor))?,
        EntryType::Block => device(member).map(|(major, minor)| Kind::Block(major, minor))?,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            Kind::File(content(archive, member, spool)?)
        }
        other => {
            return refuse(format!(
                "is of a type that is not known: {:?}",
                char::from(other.as_byte())
            ))
        }
    };
    tree.put(&names, Node { meta, kind })?;
    remember(tree, &names, fresh);
    Ok(())
}

fn remember(tree: &Tree, names: &[&[u8]], fresh: &mut Fresh) {
    let (Some(fresh), Some((name, folders))) = (fresh, names.split_last()) else {
        return;
    };
    if let Some(dir) = tree.find(folders) {
        fresh.insert((dir, name.to_vec()));
    }
}

fn meta_of(member: &Member) -> Result<Meta> {
    let (path, header) = (&member.path, &member.header);
    let bad = |what: &str| {
        Error::input(
            show(path),
            format!("has a header that makes no sense: {what}"),
        )
    };
    let id = |key: &[u8], plain: io::Result<u64>| {
        let id = match member.extended.get(key) {
            Some(text) => pax::number(text),
            None => plain.ok(),
        };
        id.and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| bad("its owner"))
    };
    let time = match member.extended.get(&b"mtime"[..]) {
        Some(text) => pax::time(text),
        None => header_time(header).map(|seconds| Time { seconds, nanos: 0 }),
    };
    let mut attributes = BTreeMap::new();
    for (key, value) in &member.extended {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            check_attribute(path, name)?;
            let mut value = value.clone();
            acl::settle(name, &mut value);
            attributes.insert(name.to_vec(), value);
        } else if let Some(which) = key.strip_prefix(b"SCHILY.acl.") {
            let name = [b"system.posix_acl_", which].concat();
            check_attribute(path, &name)?;
            let value = acl::from_text(value).map_err(|e| {
                Error::input(show(path), format!("has an ACL that makes no sense: {e}"))
            })?;
            attributes.insert(name, value);
        }
    }
    Ok(Meta {
        mode: (header.mode().map_err(|_| bad("its mode"))? & 0o7777) as u16,
        uid: id(b"uid", header.uid())?,
        gid: id(b"gid", header.gid())?,
        mtime: check_time(path, time.ok_or_else(|| bad("its time"))?)?,
        attributes,
    })
}

/// The time in the header itself, which is negative if its first byte says so.
fn header_time(header: &Header) -> Option<i64> {
    let field = header.as_old().mtime;
    if let [0xff, .., a, b, c, d, e, f, g, h] = field {
        return Some(i64::from_be_bytes([a, b, c, d, e, f, g, h]));
    }
    i64::try_from(header.mtime().ok()?).ok()
}

fn device(member: &Member) -> Result<(u32, u32)> {
    let numbers = (member.header.device_major(), member.header.device_minor());
    match numbers {
        (Ok(Some(major)), Ok(Some(minor))) if major < 1 << 12 && minor < 1 << 20 => {
            Ok((major, minor))
        }
        _ => Err(Error::input(
            show(&member.path),
            "is a device with numbers that make no sense",
        )),
    }
}

fn hard_link(
    tree: &mut Tree,
    member: &Member,
    names: &[&[u8]],
    mtime: Time,
    fresh: &mut Fresh,
) -> Result<()> {
    let refuse = |why: &str| {
        let why = format!("is a hard link to {}, which {why}", show(&member.link));
        Err(Error::input(show(&member.path), why))
    };
    let Some(id) = tree.find(&components(&member.link)?) else {
        return refuse("is not there");
    };
    let Some(name) = names.last() else {
        return refuse("cannot be the root");
    };
    if matches!(
        tree.get(id).map(|node| &node.kind),
        Some(Kind::Dir(_)) | None
    ) {
        return refuse("is a folder");
    }
    let dir = tree.parent(names, mtime)?;
    tree.link(dir, name, id)?;
    remember(tree, names, fresh);
    Ok(())
}

fn content(archive: &mut Archive<'_>, member: &Member, spool: &mut Spool) -> Result<Content> {
    let bad = || Error::input(show(&member.path), "has a sparse map that makes no sense");
    let parts = match &member.parts {
        Some(parts) => parts.clone(),
        None => pax::sparse_lines(archive).map_err(|_| bad())?,
    };
    let parts = pax::check(parts, member.size).ok_or_else(bad)?;
    let stored: u64 = parts.iter().map(|part| part.1).sum();
    if stored > archive.body {
        return Err(bad());
    }
    let mut filler = spool.begin(member.size)?;
    for (offset, len) in parts {
        filler.copy(archive, offset, len)?;
    }
    Ok(filler.finish())
}

/// If a name removes others, does that. Names of the layer itself stay.
fn whiteout(tree: &mut Tree, names: &[&[u8]], fresh: &Fresh) -> bool {
    let (Some((name, folders)), Some(fresh)) = (names.split_last(), fresh) else {
        return false;
    };
    let Some(hidden) = name.strip_prefix(WHITEOUT) else {
        return false;
    };
    let Some(dir) = tree.find(folders) else {
        return true;
    };
    if *name == OPAQUE {
        prune(tree, dir, fresh);
    } else if !hidden.starts_with(WHITEOUT) {
        if let Some(id) = tree.child(dir, hidden) {
            let told = fresh.contains(&(dir, hidden.to_vec()));
            if !prune(tree, id, fresh) && !told {
                remove(tree, dir, hidden);
            }
        }
    }
    true
}

fn remove(tree: &mut Tree, dir: Id, name: &[u8]) {
    if let Some(names) = tree.names_mut(dir) {
        names.remove(name);
        tree.names = tree.names.saturating_sub(1);
    }
}

/// Removes from a folder what the layer has not told. Returns whether anything is left.
fn prune(tree: &mut Tree, dir: Id, fresh: &BTreeSet<(Id, Vec<u8>)>) -> bool {
    let below: Vec<(Vec<u8>, Id)> = tree
        .entries(dir)
        .map(|(name, id)| (name.clone(), id))
        .collect();
    let mut left = false;
    for (name, id) in below {
        let kept = prune(tree, id, fresh);
        let told = fresh.contains(&(dir, name.clone()));
        if kept || told {
            left = true;
        } else {
            remove(tree, dir, &name);
        }
    }
    left
}
