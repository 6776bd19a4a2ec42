// SPDX-License-Identifier: GPL-2.0-or-later

//! From a tree and a base to an image.

use crate::base;
use crate::base::New;
use crate::error::Error;
use crate::error::Result;
use crate::ext4::Fs;
use crate::lay;
use crate::lay::Counts;
use crate::progress::Counter;
use crate::tree;
use crate::tree::Choice;
use crate::tree::Kind;
use crate::tree::Limits;
use crate::tree::Spool;
use crate::tree::Tree;
use dmholey_cow::disk::Access;
use dmholey_cow::output::Output;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use dmholey_cow::Progress;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use serde::Serialize;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;

/// What is put into an image.
#[derive(Clone, Debug)]
pub enum Source {
    /// What is in a folder, or the container image whose layout it is.
    Dir(PathBuf),
    /// What is in an archive, or the container image whose layout that is.
    Archive(PathBuf),
    /// The same, from standard input.
    Stdin,
}

impl Source {
    /// What a path stands for.
    pub fn of(path: &Path) -> Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stdin);
        }
        let meta = std::fs::metadata(path).map_err(|e| Error::path("open", path, e))?;
        Ok(if meta.is_dir() {
            Self::Dir(path.to_path_buf())
        } else {
            Self::Archive(path.to_path_buf())
        })
    }
}

/// How an image is built.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The image that the tree is laid over; a new file system without one.
    pub base: Option<PathBuf>,
    /// Bytes in the image. Needed without a base; with one, it may make the image larger.
    pub size: Option<u64>,
    /// Features of a new file system beside Debian's, as `mke2fs -O` takes them.
    pub features: Option<String>,
    /// The label of a new file system.
    pub label: Option<String>,
    /// The UUID of a new file system; made from the tree without one.
    pub uuid: Option<[u8; 16]>,
    /// The time of the build, in seconds.
    pub epoch: Option<u64>,
    /// Who owns everything.
    pub owner: Option<(u32, u32)>,
    /// Which container image of a layout.
    pub choice: Choice,
    /// The tree is no container image, whatever it looks like.
    pub plain: bool,
    /// Fill what is free with zeros.
    pub zero_free: bool,
    /// Replace what is at the output.
    pub force: bool,
}

/// What was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Built {
    /// Bytes in the image.
    pub image_bytes: u64,
    /// Bytes in a block.
    pub block_bytes: u64,
    /// Blocks that are free.
    pub blocks_free: u64,
    /// Inodes that are free.
    pub inodes_free: u32,
    /// The UUID of the file system.
    pub uuid: String,
    /// What became of each file.
    #[serde(flatten)]
    pub counts: Counts,
}

/// Builds an image in the file `output`, which appears when it is complete.
pub fn build(
    source: &Source,
    output: &Path,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Built> {
    let base = match &options.base {
        Some(path) => Some(Device::open(path, Access::Read)?),
        None => None,
    };
    let size = size(base.as_ref(), output, options)?;
    let (place, device, _) = Output::create(output, options.force)?;
    if device.is_block() {
        return Err(Error::refused(
            output.display(),
            "is a block device; build into a file, and copy it there",
        ));
    }
    let path = place.path().to_path_buf();
    let (mut fs, tree) = match &base {
        Some(base) => {
            base::duplicate(base, &device, progress)?;
            let fs = open_copy(base, &device, &path, size, options)?;
            let limits = Limits::of(size, fs.inodes().into());
            let tree = read_tree(source, output, options, limits)?;
            (fs, tree)
        }
        None => {
            let limits = Limits::of(size, size / 4096);
            let tree = read_tree(source, output, options, limits)?;
            device
                .reserve(size)
                .map_err(|e| Error::path("make room in", output, e))?;
            base::make(&path, output, &new(size, &tree, options))?;
            (Fs::open(&path, output)?, tree)
        }
    };
    fs.set_write_time(options.epoch);
    let total = total(&tree);
    let counts = lay::lay(&mut fs, &tree, &Counter::new(progress, total))?;
    let (blocks_free, inodes_free) = fs.free();
    let built = Built {
        image_bytes: size,
        block_bytes: fs.block_size() as u64,
        blocks_free,
        inodes_free,
        uuid: base::uuid_text(&fs.uuid()),
        counts,
    };
    let free = options
        .zero_free
        .then(|| fs.free_runs())
        .unwrap_or_default();
    fs.finish()?;
    for (first, len) in free {
        zero(&device, first * built.block_bytes, len * built.block_bytes)?;
    }
    device
        .flush()
        .map_err(|e| Error::path("flush", output, e))?;
    place.commit()?;
    Ok(built)
}

fn size(base: Option<&Device>, output: &Path, options: &Options) -> Result<u64> {
    let has = base.map(Device::size);
    match (has, options.size) {
        (None, None) => Err(Error::refused(
            output.display(),
            "needs a size without a base; give one with --size",
        )),
        (Some(has), Some(wanted)) if wanted < has => {
            let why = format!(
                "the base has {has} bytes, and an image cannot be made smaller than that; leave --size away"
            );
            Err(Error::refused(output.display(), why))
        }
        (_, Some(wanted)) => Ok(wanted),
        (Some(has), None) => Ok(has),
    }
}

/// Opens the copy of a base, after it has been made as large as it is to be.
fn open_copy(
    base: &Device,
    device: &Device,
    path: &Path,
    size: u64,
    options: &Options,
) -> Result<Fs> {
    let mut fs = Fs::open(path, base.path())?;
    let bytes = fs.blocks().saturating_mul(fs.block_size() as u64);
    if bytes > base.size() {
        let why = format!("is damaged: it is shorter than the {bytes} bytes of its file system");
        return Err(Error::input(base.name(), why));
    }
    if size > base.size() {
        let epoch = options.epoch.unwrap_or(fs.write_time()).max(1);
        drop(fs);
        device
            .reserve(size)
            .map_err(|e| Error::io("make room in", device.name(), e))?;
        base::grow(path, base.path(), size, epoch)?;
        fs = Fs::open(path, base.path())?;
    }
    Ok(fs)
}

fn new<'a>(size: u64, tree: &Tree, options: &'a Options) -> New<'a> {
    let newest = tree
        .newest()
        .and_then(|time| u64::try_from(time.seconds).ok());
    let uuid = options.uuid.unwrap_or_else(|| derived_uuid(&tree.digest()));
    New {
        size,
        features: options.features.as_deref(),
        label: options.label.as_deref(),
        uuid,
        epoch: options.epoch.or(newest).unwrap_or(1).max(1),
    }
}

/// A UUID of the version for those that are made from something.
fn derived_uuid(digest: &[u8; 32]) -> [u8; 16] {
    let mut uuid = [0; 16];
    for (to, from) in uuid.iter_mut().zip(digest) {
        *to = *from;
    }
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

fn read_tree(source: &Source, output: &Path, options: &Options, limits: Limits) -> Result<Tree> {
    let folder = match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut spool = Spool::create(folder, limits)?;
    let mut tree = match source {
        Source::Dir(path) => tree::read_dir(path, limits)?,
        Source::Archive(path) => {
            let file = File::open(path).map_err(|e| Error::path("open", path, e))?;
            tree::read_tar(file, &path.display().to_string(), limits, &mut spool)?
        }
        Source::Stdin => tree::read_tar(
            std::io::stdin().lock(),
            "standard input",
            limits,
            &mut spool,
        )?,
    };
    if !options.plain && tree::is_layout(&tree) {
        tree = tree::flatten(&tree, &options.choice, limits, &mut spool)?;
    }
    if let Some((uid, gid)) = options.owner {
        tree.set_owner(uid, gid);
    }
    Ok(tree)
}

fn total(tree: &Tree) -> u64 {
    let size = |id| match tree.get(id).map(|node| &node.kind) {
        Some(Kind::File(content)) => content.size(),
        _ => 0,
    };
    tree.walk().iter().map(|visit| size(visit.id)).sum()
}

/// Makes a part of an image zero, and a hole if that can be.
fn zero(device: &Device, offset: u64, len: u64) -> Result<()> {
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(device.file(), punch, offset, len) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP) => {
            let zeros = vec![0; 1 << 20];
            let mut done = 0;
            while done < len {
                let part = (len - done).min(zeros.len() as u64);
                device
                    .write_at(
                        offset + done,
                        zeros.get(..part as usize).unwrap_or_default(),
                    )
                    .map_err(|e| Error::io("write", device.name(), e))?;
                done += part;
            }
            Ok(())
        }
        Err(errno) => Err(Error::io("write", device.name(), errno.into())),
    }
}
