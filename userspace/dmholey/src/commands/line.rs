// SPDX-License-Identifier: GPL-2.0-or-later

//! The arguments that 'create' and 'table' share, and the checks that come before the kernel's.

use crate::blockdev::BlockDev;
use crate::dm::table::Family;
use crate::dm::table::Overlay;
use crate::dm::table::Role;
use crate::dm::table::Table;
use crate::exit::refuse;
use crate::exit::Exit;
use crate::units::human;
use crate::units::parse_chunk;
use clap::builder::PossibleValue;
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser;
use clap::Args;
use dmholey_cow::format::Bounds;
use dmholey_cow::format::ChunkSize;
use dmholey_cow::output::is_blank;
use dmholey_cow::Device;
use dmholey_cow::Error as CowError;
use dmholey_cow::Store;
use holey_core::table::Features;
use holey_core::table::Patience;
use holey_core::table::StoreKind;
use std::path::Path;
use std::path::PathBuf;

/// Chunk size of a new store if nothing else is said, in sectors (4 KiB).
const DEFAULT_CHUNK_SECTORS: u32 = 8;

/// Whose targets to use.
#[derive(Clone, Copy, Debug, Args)]
pub struct FamilyArgs {
    /// Use the target names of dm-snapshot instead of holey-*
    #[arg(long)]
    stock: bool,
}

impl FamilyArgs {
    /// The family meant.
    pub fn family(self) -> Family {
        if self.stock {
            Family::Stock
        } else {
            Family::Holey
        }
    }
}

/// An origin.
#[derive(Debug, Args)]
pub struct OriginLine {
    /// Block device that is to be written to, while its snapshots stay as they are
    origin: PathBuf,
    #[command(flatten)]
    family: FamilyArgs,
}

/// A snapshot or a merge.
#[derive(Debug, Args)]
pub struct OverlayLine {
    /// Block device that the snapshot is of
    origin: PathBuf,
    /// Block device with the COW store, or for a new one: its first 4 KiB must be zero, but with
    /// --store N, which keeps nothing of what is there
    cow: PathBuf,
    /// Chunk size of a new store, if not 4K; an existing one has its own
    #[arg(long, value_name = "SIZE", value_parser = parse_chunk)]
    chunk: Option<ChunkSize>,
    /// How exceptions are kept
    #[arg(
        long,
        value_name = "KIND",
        value_parser = store_kinds(),
        default_value = "P",
        ignore_case = true
    )]
    store: StoreKind,
    #[command(flatten)]
    features: FeatureArgs,
    #[command(flatten)]
    family: FamilyArgs,
}

/// What is asked of the target beyond that.
#[derive(Clone, Copy, Debug, Args)]
struct FeatureArgs {
    /// A discard zeroes what the store holds of its range
    #[arg(long)]
    discard_zeroes_cow: bool,
    /// A discard goes to the origin, too; no snapshot keeps what it drops there
    #[arg(long, requires = "discard_zeroes_cow")]
    discard_passdown_origin: bool,
    /// Those who find the store full wait until it is extended, or for so many seconds; not in
    /// dm-snapshot
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = ENDLESS,
        value_parser = parse_patience
    )]
    queue_if_no_space: Option<Patience>,
    /// Keep a summary of the list of exceptions in the store, so that activating it takes no longer
    /// when there are many; dm-snapshot cannot use the store until it is activated without this
    #[arg(long)]
    summary: bool,
}

impl FeatureArgs {
    fn features(self) -> Features {
        Features {
            discard_zeroes_cow: self.discard_zeroes_cow,
            discard_passdown_origin: self.discard_passdown_origin,
            queue_if_no_space: self.queue_if_no_space,
            summary: self.summary,
        }
    }
}

/// For as long as it takes.
const ENDLESS: &str = "endless";

fn parse_patience(text: &str) -> Result<Patience, String> {
    if text == ENDLESS {
        return Ok(Patience::Endless);
    }
    text.parse().map(Patience::Seconds).map_err(|_| {
        format!("'{text}' is not a number of seconds; leave it out to wait for as long as it takes")
    })
}

/// The kinds of stores by their names in a table line.
fn store_kinds() -> impl TypedValueParser<Value = StoreKind> {
    let kinds = [
        (
            StoreKind::Persistent,
            "Persistent: it survives a restart, and is invalid once it has been full",
        ),
        (
            StoreKind::Overflow,
            "Persistent, and a full store only stops writes to the snapshot",
        ),
        (
            StoreKind::Transient,
            "Kept in memory: it is gone after a restart, and cannot be merged",
        ),
    ];
    let values = kinds.map(|(kind, help)| PossibleValue::new(kind.name()).help(help));
    PossibleValuesParser::new(values).map(move |name| {
        let known = kinds
            .iter()
            .find(|(kind, _)| name.eq_ignore_ascii_case(kind.name()));
        known.map_or(StoreKind::Persistent, |&(kind, _)| kind)
    })
}

/// How a table names devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// By number, which is never ambiguous.
    Numbers,
    /// By path, which means something on another machine or after a restart.
    Paths,
}

impl Naming {
    fn name(self, device: &BlockDev) -> String {
        match self {
            Self::Numbers => device.number.to_string(),
            Self::Paths => device.path.display().to_string(),
        }
    }
}

impl OriginLine {
    /// The table, after a look at the device.
    pub fn table(&self, naming: Naming) -> anyhow::Result<Table> {
        let (origin, _) = open_origin(&self.origin)?;
        Ok(self.with(origin.sectors, naming.name(&origin)))
    }

    /// The table for an origin of `len` sectors that is not looked at.
    pub fn table_unseen(&self, len: u64) -> Table {
        self.with(len, self.origin.display().to_string())
    }

    fn with(&self, len: u64, origin: String) -> Table {
        Table {
            role: Role::Origin,
            family: self.family.family(),
            len,
            origin,
            overlay: None,
        }
    }
}

impl OverlayLine {
    /// The table, after a look at the devices and the store.
    pub fn table(&self, role: Role, naming: Naming) -> anyhow::Result<Table> {
        self.check_role(role)?;
        let (origin, _) = open_origin(&self.origin)?;
        let (cow, device) = BlockDev::open(&self.cow)?;
        if cow.number == origin.number {
            let text = format!(
                "{} and {} are the same device; a store needs one of its own",
                self.origin.display(),
                self.cow.display()
            );
            return Err(refuse(Exit::Refused, text));
        }
        let chunk = if self.store == StoreKind::Transient {
            self.chunk.unwrap_or(default_chunk()?)
        } else {
            store_chunk(role, device, self.chunk)?
        };
        check_fit(&origin, &cow, chunk)?;
        Ok(self.with(
            role,
            origin.sectors,
            chunk,
            naming.name(&origin),
            naming.name(&cow),
        ))
    }

    /// The table for an origin of `len` sectors, without a look at anything.
    pub fn table_unseen(&self, role: Role, len: u64) -> anyhow::Result<Table> {
        self.check_role(role)?;
        let chunk = self.chunk.map_or_else(default_chunk, Ok)?;
        let path = |path: &Path| path.display().to_string();
        Ok(self.with(role, len, chunk, path(&self.origin), path(&self.cow)))
    }

    fn check_role(&self, role: Role) -> anyhow::Result<()> {
        if role == Role::Merge && self.store == StoreKind::Transient {
            let text = "a store N cannot be merged: it was in memory, and is gone";
            return Err(refuse(Exit::Usage, text));
        }
        Ok(())
    }

    fn with(&self, role: Role, len: u64, chunk: ChunkSize, origin: String, cow: String) -> Table {
        Table {
            role,
            family: self.family.family(),
            len,
            origin,
            overlay: Some(Overlay {
                cow,
                store: self.store,
                chunk: chunk.sectors(),
                features: self.features.features(),
            }),
        }
    }
}

fn default_chunk() -> anyhow::Result<ChunkSize> {
    ChunkSize::new(DEFAULT_CHUNK_SECTORS).map_err(|e| refuse(Exit::Usage, e.to_string()))
}

fn open_origin(path: &Path) -> anyhow::Result<(BlockDev, Device)> {
    let (origin, device) = BlockDev::open(path)?;
    if origin.sectors == 0 {
        let text = format!("{}: has no size; is there a medium in it?", path.display());
        return Err(refuse(Exit::Refused, text));
    }
    Ok((origin, device))
}

/// The chunk size of the store on a device, or the one asked for if it has none yet.
fn store_chunk(role: Role, device: Device, asked: Option<ChunkSize>) -> anyhow::Result<ChunkSize> {
    let path = device.path().display().to_string();
    let blank = is_blank(&device)?;
    let store = match Store::open(device) {
        Ok(store) => store,
        // To the kernel four zeros are a new store; file systems begin with as many.
        Err(CowError::Fresh { .. }) if role == Role::Snapshot && !blank => {
            let text = format!(
                "{path}: holds something: its first 4 KiB are not zero; zero them to make a store there and lose it"
            );
            return Err(refuse(Exit::Refused, text));
        }
        Err(CowError::Fresh { .. }) if role == Role::Snapshot => {
            return asked.map_or_else(default_chunk, Ok);
        }
        Err(error) => return Err(error.into()),
    };
    store.usable()?;
    let chunk = store.header().chunk;
    match asked {
        Some(asked) if asked != chunk => {
            let text = format!(
                "{path}: its store has chunks of {}, not {}; leave out --chunk, or zero its \
                 first 4 KiB to lose the snapshot and make a new one",
                human(chunk.bytes() as u64),
                human(asked.bytes() as u64)
            );
            Err(refuse(Exit::Refused, text))
        }
        _ => Ok(chunk),
    }
}

fn check_fit(origin: &BlockDev, cow: &BlockDev, chunk: ChunkSize) -> anyhow::Result<()> {
    for device in [origin, cow] {
        if chunk.bytes() % (device.block as usize).max(1) != 0 {
            let text = format!(
                "{}: its blocks of {} bytes are larger than a chunk; use a larger --chunk",
                device.path.display(),
                device.block
            );
            return Err(refuse(Exit::Refused, text));
        }
    }
    Bounds::new(chunk, origin.sectors, cow.sectors)
        .map_err(|reason| refuse(Exit::Refused, format!("{}: {reason}", cow.path.display())))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dm::DevNum;
    use dmholey_cow::disk::Access;

    fn chunk(sectors: u32) -> ChunkSize {
        ChunkSize::new(sectors).unwrap()
    }

    fn device(dir: &tempfile::TempDir, start: &[u8]) -> Device {
        let path = dir.path().join("cow");
        let mut bytes = start.to_vec();
        bytes.resize(16 * 4096, 0);
        std::fs::write(&path, bytes).unwrap();
        Device::open(&path, Access::Read).unwrap()
    }

    #[test]
    fn an_existing_store_keeps_its_chunk_size() {
        let dir = tempfile::tempdir().unwrap();
        let header = b"SnAp\x01\0\0\0\x01\0\0\0\x10\0\0\0";
        let open = || device(&dir, header);
        let size = |asked| store_chunk(Role::Merge, open(), asked).map(ChunkSize::sectors);
        assert_eq!(size(None).unwrap(), 16);
        assert_eq!(size(Some(chunk(16))).unwrap(), 16);
        let error = size(Some(chunk(8))).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Refused);
        assert!(error.to_string().contains("leave out --chunk"), "{error}");
    }

    #[test]
    fn a_store_is_made_by_a_snapshot_only() {
        let dir = tempfile::tempdir().unwrap();
        let of = |role, start: &[u8], asked| store_chunk(role, device(&dir, start), asked);
        assert_eq!(of(Role::Snapshot, b"", None).unwrap(), chunk(8));
        assert_eq!(of(Role::Snapshot, b"", Some(chunk(64))).unwrap(), chunk(64));
        let invalid = b"SnAp\0\0\0\0\x01\0\0\0\x08\0\0\0";
        for error in [
            of(Role::Merge, b"", None),
            of(Role::Snapshot, b"\x53\xef", None),
            of(Role::Snapshot, invalid, None),
        ] {
            assert_eq!(Exit::of(&error.unwrap_err()), Exit::Store);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_before_the_kernel() {
        let device = |sectors, block| BlockDev {
            path: "x".into(),
            number: DevNum { major: 8, minor: 1 },
            sectors,
            block,
        };
        let origin = device(2048, 512);
        check_fit(&origin, &device(24, 512), chunk(8)).unwrap();
        for (cow, size) in [
            (device(23, 512), 8),
            (device(2048, 8192), 8),
            (device(100, 512), 64),
        ] {
            let error = check_fit(&origin, &cow, chunk(size)).unwrap_err();
            assert_eq!(Exit::of(&error), Exit::Refused, "{error}");
        }
    }
}
