// SPDX-License-Identifier: GPL-2.0-or-later

//! Trees as a model, archives made from it, and images read by others: e2fsck, debugfs and ext4-view.

#![allow(dead_code, unreachable_pub)]

use dmholey_cow::progress::Silent;
use dmholey_image::build;
use dmholey_image::Built;
use dmholey_image::Options;
use dmholey_image::Result;
use dmholey_image::Source;
use ext4_view::Ext4;
use ext4_view::FileType;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// What a file is in the model. Links name the path that they share a file with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Dir,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
    Link(Vec<u8>),
}

/// A file in the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub what: What,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    pub attributes: BTreeMap<String, Vec<u8>>,
}

impl Spec {
    pub fn new(what: What) -> Self {
        Self {
            what,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: (1_700_000_000, 0),
            attributes: BTreeMap::new(),
        }
    }
}

/// Paths without a slash at the start. The root is the empty path.
pub type Model = BTreeMap<Vec<u8>, Spec>;

pub fn model(files: &[(&str, What)]) -> Model {
    let mut model: Model = files
        .iter()
        .map(|(path, what)| (path.as_bytes().to_vec(), Spec::new(what.clone())))
        .collect();
    model.insert(Vec::new(), Spec::new(What::Dir));
    model
}

/// Bytes that differ from place to place.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The model as an archive.
pub fn tar(model: &Model) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let links = model
        .iter()
        .filter(|(_, spec)| matches!(spec.what, What::Link(_)));
    let others = model
        .iter()
        .filter(|(_, spec)| !matches!(spec.what, What::Link(_)));
    for (path, spec) in others.chain(links) {
        append(&mut builder, path, spec);
    }
    builder.into_inner().unwrap()
}

pub fn append(builder: &mut tar::Builder<Vec<u8>>, path: &[u8], spec: &Spec) {
    let mut header = tar::Header::new_ustar();
    let empty = Vec::new();
    let (kind, data, link) = match &spec.what {
        What::Dir => (tar::EntryType::Directory, &empty, None),
        What::File(data) => (tar::EntryType::Regular, data, None),
        What::Symlink(to) => (tar::EntryType::Symlink, &empty, Some(to)),
        What::Link(to) => (tar::EntryType::Link, &empty, Some(to)),
        What::Char(..) => (tar::EntryType::Char, &empty, None),
        What::Block(..) => (tar::EntryType::Block, &empty, None),
        What::Fifo => (tar::EntryType::Fifo, &empty, None),
    };
    if let What::Char(major, minor) | What::Block(major, minor) = spec.what {
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
    }
    header.set_entry_type(kind);
    header.set_mode(spec.mode.into());
    header.set_size(data.len() as u64);
    let mut records: Vec<(String, Vec<u8>)> = vec![
        (
            "path".into(),
            if path.is_empty() {
                b"./".to_vec()
            } else {
                path.to_vec()
            },
        ),
        ("uid".into(), spec.uid.to_string().into()),
        ("gid".into(), spec.gid.to_string().into()),
        ("mtime".into(), decimal(spec.mtime).into()),
    ];
    if let Some(link) = link {
        records.push(("linkpath".into(), link.clone()));
    }
    for (name, value) in &spec.attributes {
        records.push((format!("SCHILY.xattr.{name}"), value.clone()));
    }
    let records = records
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_slice()));
    builder.append_pax_extensions(records).unwrap();
    header.as_mut_bytes()[..4].copy_from_slice(b"name");
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    builder.append(&header, data.as_slice()).unwrap();
}

fn decimal((seconds, nanos): (i64, u32)) -> String {
    if seconds < 0 && nanos > 0 {
        return format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos);
    }
    format!("{seconds}.{nanos:09}")
}

/// A folder to work in.
pub struct Lab {
    dir: TempDir,
}

impl Lab {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Builds an image from an archive.
    pub fn build(&self, archive: &[u8], name: &str, options: &Options) -> Result<Built> {
        let options = Options {
            base: options.base.as_ref().map(|base| self.dir.path().join(base)),
            force: true,
            ..options.clone()
        };
        let archive = self.write("tree.tar", archive);
        build(
            &Source::of(&archive).unwrap(),
            &self.path(name),
            &options,
            &Silent,
        )
    }

    /// A new image.
    pub fn fresh(&self, model: &Model, name: &str) -> Built {
        let options = Options {
            size: Some(16 << 20),
            ..Options::default()
        };
        let built = self.build(&tar(model), name, &options).unwrap();
        check(&self.path(name), model);
        built
    }

    /// An image over another one.
    pub fn over(&self, base: &str, model: &Model, name: &str) -> Built {
        let built = self.build(&tar(model), name, &over(base)).unwrap();
        check(&self.path(name), model);
        built
    }

    /// The image that mke2fs itself makes of an empty tree.
    pub fn mke2fs(&self, name: &str, size: &str, args: &[&str]) {
        let path = self.path(name);
        run(
            "mke2fs",
            &[&["-q", "-F", "-t", "ext4"], args].concat(),
            &path,
            &[size],
        );
    }

    /// Nothing but these files is there.
    #[track_caller]
    pub fn has_only(&self, names: &[&str]) {
        let mut found: Vec<String> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        assert_eq!(found, names);
    }
}

pub fn over(base: &str) -> Options {
    Options {
        base: Some(base.into()),
        ..Options::default()
    }
}

/// Runs a program of e2fsprogs, which has to succeed.
pub fn run(program: &str, before: &[&str], path: &Path, after: &[&str]) -> String {
    let output = Command::new(program)
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .args(before)
        .arg(path)
        .args(after)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {before:?}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Runs commands of debugfs and returns what it says to each.
pub fn debugfs(image: &Path, commands: &[String]) -> Vec<String> {
    let mut script = tempfile::NamedTempFile::new().unwrap();
    for command in commands {
        use std::io::Write;
        writeln!(script, "{command}").unwrap();
    }
    let name = script.path().to_str().unwrap().to_owned();
    let text = run("debugfs", &["-f", &name], image, &[]);
    let parts = text.split("debugfs: ").skip(1);
    parts
        .map(|part| part.split_once('\n').unwrap_or_default().1.to_owned())
        .collect()
}

/// Compares an image with a model, by what others read of it.
#[track_caller]
pub fn check(image: &Path, model: &Model) {
    run("e2fsck", &["-fn"], image, &[]);
    let fs = Ext4::load_from_path(image).unwrap();
    let mut found = Vec::new();
    let mut todo = vec![Vec::new()];
    while let Some(dir) = todo.pop() {
        let path = [b"/", dir.as_slice()].concat();
        for entry in fs.read_dir(ext4_view::Path::new(&path)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name();
            let name: &[u8] = name.as_ref();
            let at = if dir.is_empty() {
                name.to_vec()
            } else {
                [&dir, &b"/"[..], name].concat()
            };
            if name == b"." || name == b".." || at == b"lost+found" && !model.contains_key(&at) {
                continue;
            }
            if entry.file_type().unwrap() == FileType::Directory {
                todo.push(at.clone());
            }
            found.push(at);
        }
    }
    found.push(Vec::new());
    found.sort();
    let names: Vec<Vec<u8>> = model.keys().cloned().collect();
    assert_eq!(found, names);
    for (path, spec) in model {
        check_file(&fs, path, resolve(model, spec));
    }
    check_details(image, model);
}

/// The file that a link shares.
pub fn resolve<'a>(model: &'a Model, spec: &'a Spec) -> &'a Spec {
    match &spec.what {
        What::Link(to) => &model[to],
        _ => spec,
    }
}

fn check_file(fs: &Ext4, path: &[u8], spec: &Spec) {
    let full = [b"/", path].concat();
    let full = ext4_view::Path::new(&full);
    let meta = fs.symlink_metadata(full).unwrap();
    let text = path.escape_ascii();
    assert_eq!(meta.mode() & 0o7777, spec.mode, "{text}");
    assert_eq!((meta.uid(), meta.gid()), (spec.uid, spec.gid), "{text}");
    let kind = match &spec.what {
        What::Dir => FileType::Directory,
        What::File(data) => {
            assert!(fs.read(full).unwrap() == *data, "{text}");
            FileType::Regular
        }
        What::Symlink(to) => {
            let target = fs.read_link(full).unwrap();
            assert_eq!(target.as_path().as_ref() as &[u8], to.as_slice(), "{text}");
            FileType::Symlink
        }
        What::Char(..) => FileType::CharacterDevice,
        What::Block(..) => FileType::BlockDevice,
        What::Fifo => FileType::Fifo,
        What::Link(_) => unreachable!(),
    };
    assert_eq!(meta.file_type(), kind, "{text}");
}

/// What ext4-view does not tell, and debugfs does: inodes, links, times, devices, attributes.
pub fn check_details(image: &Path, model: &Model) {
    let inodes = inodes(image, model);
    let mut by_inode: BTreeMap<u32, Vec<&Vec<u8>>> = BTreeMap::new();
    for (path, ino) in &inodes {
        by_inode.entry(*ino).or_default().push(path);
    }
    let stats: Vec<String> = by_inode.keys().map(|ino| format!("stat <{ino}>")).collect();
    let told = debugfs(image, &stats);
    for ((ino, paths), stat) in by_inode.iter().zip(&told) {
        let spec = resolve(model, &model[paths[0]]);
        let text = format!("{} <{ino}>: {stat}", paths[0].escape_ascii());
        for path in paths {
            assert_eq!(resolve(model, &model[*path]), spec, "{text}");
        }
        let (seconds, nanos) = spec.mtime;
        let low = seconds as u32;
        let extra = (nanos << 2) | ((seconds - i64::from(low as i32)) >> 32) as u32 & 3;
        assert!(
            stat.contains(&format!("mtime: 0x{low:08x}:{extra:08x}")),
            "{text}"
        );
        if spec.what != What::Dir {
            assert!(stat.contains(&format!("Links: {} ", paths.len())), "{text}");
        }
        if let What::Char(major, minor) | What::Block(major, minor) = spec.what {
            assert!(
                stat.contains(&format!("Device major/minor number: {major:02}:{minor:02}")),
                "{text}"
            );
        }
    }
    let lists: Vec<String> = by_inode
        .keys()
        .map(|ino| format!("ea_list <{ino}>"))
        .collect();
    for ((ino, paths), list) in by_inode.iter().zip(debugfs(image, &lists)) {
        check_attributes(image, *ino, &list, resolve(model, &model[paths[0]]));
    }
}

fn check_attributes(image: &Path, ino: u32, list: &str, spec: &Spec) {
    let names = list
        .lines()
        .filter_map(|line| line.trim().split_once(' ').map(|(name, _)| name));
    let mut names: Vec<String> = names
        .filter(|name| name.contains('.'))
        .map(str::to_owned)
        .collect();
    names.sort();
    let wanted: Vec<String> = spec.attributes.keys().cloned().collect();
    assert_eq!(names, wanted, "{list}");
    let file = tempfile::NamedTempFile::new().unwrap();
    for (name, value) in &spec.attributes {
        let to = file.path().display();
        debugfs(image, &[format!("ea_get -f {to} <{ino}> {name}")]);
        let mut told = fs::read(file.path()).unwrap();
        if name.starts_with("system.posix_acl") {
            // debugfs has zero where nobody in particular is meant, and the kernel has minus one.
            for entry in told[4..]
                .chunks_mut(8)
                .filter(|entry| ![2, 8].contains(&entry[0]))
            {
                assert_eq!(entry[4..], [0; 4]);
                entry[4..].fill(255);
            }
        }
        assert_eq!(&told, value, "{name}");
    }
}

/// The inode of every path.
pub fn inodes(image: &Path, model: &Model) -> BTreeMap<Vec<u8>, u32> {
    let mut found = BTreeMap::from([(Vec::new(), 2)]);
    // Folders come before what is in them, so that their inodes are known. Only names that debugfs
    // prints as they are can be told apart, so lists are read raw.
    let dirs = model.iter().filter(|(_, spec)| spec.what == What::Dir);
    for (dir, _) in dirs {
        let ino = found[dir];
        for (name, child) in raw_dir(image, ino) {
            let path = if dir.is_empty() {
                name
            } else {
                [dir, &b"/"[..], &name].concat()
            };
            if model.contains_key(&path) {
                found.insert(path, child);
            }
        }
    }
    found
}

/// The entries of a folder, from its content as debugfs dumps it.
fn raw_dir(image: &Path, ino: u32) -> Vec<(Vec<u8>, u32)> {
    let file = tempfile::NamedTempFile::new().unwrap();
    debugfs(image, &[format!("dump <{ino}> {}", file.path().display())]);
    let bytes = fs::read(file.path()).unwrap();
    let mut found = Vec::new();
    let mut at = 0;
    while at + 8 <= bytes.len() {
        let child = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let len = usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
        let name = usize::from(bytes[at + 6]);
        if child != 0 {
            found.push((bytes[at + 8..at + 8 + name].to_vec(), child));
        }
        assert!(len >= 8);
        at += len;
    }
    found.retain(|(name, _)| name != b"." && name != b"..");
    found
}

/// The blocks of every regular file, in order.
pub fn blocks(image: &Path, model: &Model) -> BTreeMap<Vec<u8>, Vec<u64>> {
    let inodes = inodes(image, model);
    let files: Vec<&Vec<u8>> = model
        .keys()
        .filter(|path| matches!(resolve(model, &model[*path]).what, What::File(_)))
        .collect();
    let commands: Vec<String> = files
        .iter()
        .map(|path| format!("blocks <{}>", inodes[*path]))
        .collect();
    let told = debugfs(image, &commands);
    let numbers = |text: &String| {
        text.split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect()
    };
    files
        .into_iter()
        .cloned()
        .zip(told.iter().map(numbers))
        .collect()
}

/// How many blocks of 4 KiB differ.
pub fn changed(a: &[u8], b: &[u8]) -> usize {
    assert_eq!(a.len(), b.len());
    a.chunks(4096)
        .zip(b.chunks(4096))
        .filter(|(a, b)| a != b)
        .count()
}

/// A path's bytes.
pub fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}
