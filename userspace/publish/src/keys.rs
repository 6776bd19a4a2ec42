// SPDX-License-Identifier: GPL-2.0-or-later

//! The keys of the four roles, and the root that names them.
//!
//! A folder has the private keys of each role, as `ROLE-ID.pk8` (Ed25519, PKCS #8; the first digits of the
//! key's ID), and every root there has been, as `N.root.json`. The keys of the root are needed only to change
//! keys, and should be elsewhere at all other times; each of them in a place of its own, if it takes several to
//! sign.

use crate::error::Error;
use crate::error::Result;
use crate::wait;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::Ed25519KeyPair;
use dmholey_cow::disk;
use dmholey_cow::disk::Access;
use dmholey_cow::output;
use dmholey_cow::output::Output;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::HashMap;
use std::fs::Permissions;
use std::num::NonZeroU64;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use tough::editor::signed::SignedRole;
use tough::key_source::KeySource;
use tough::key_source::LocalKeySource;
use tough::schema::decoded::Decoded;
use tough::schema::decoded::Hex;
use tough::schema::key::Key;
use tough::schema::KeyHolder;
use tough::schema::Role;
use tough::schema::RoleKeys;
pub use tough::schema::RoleType;
use tough::schema::Root;
use tough::schema::Signed;

/// The roles, from the one that is needed most rarely.
pub const ROLES: [RoleType; 4] = [
    RoleType::Root,
    RoleType::Targets,
    RoleType::Snapshot,
    RoleType::Timestamp,
];
/// The version of the specification that the library follows.
pub(crate) const SPECIFICATION: &str = "1.0.0";
/// Bytes of a root at most.
const MAX_ROOT: u64 = 1 << 20;

/// Keys that a role can have at most.
const MAX_KEYS: u64 = 16;

/// How many keys a role has, and how many of them have to sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signers {
    needed: NonZeroU64,
    keys: NonZeroU64,
}

impl Signers {
    /// One key.
    pub const ONE: Self = Self {
        needed: NonZeroU64::MIN,
        keys: NonZeroU64::MIN,
    };

    /// So many of so many keys; `None` if that cannot be, or is more than 16.
    pub fn new(needed: u64, keys: u64) -> Option<Self> {
        let (needed, keys) = (NonZeroU64::new(needed)?, NonZeroU64::new(keys)?);
        (needed <= keys && keys.get() <= MAX_KEYS).then_some(Self { needed, keys })
    }
}

/// A folder of keys and roots.
#[derive(Debug)]
pub struct Keys {
    dir: PathBuf,
    version: NonZeroU64,
}

impl Keys {
    /// Makes keys for all roles in a new or empty folder, and the first root, which expires at some time. A role
    /// has one key if nothing else is said of it.
    pub fn create(
        dir: &Path,
        signers: &HashMap<RoleType, Signers>,
        expires: Timestamp,
    ) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| Error::path("make the folder", dir, e))?;
        let fail = |e| Error::path("change the mode of", dir, e);
        std::fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(fail)?;
        let mut entries = std::fs::read_dir(dir).map_err(|e| Error::path("read", dir, e))?;
        if entries.next().is_some() {
            return Err(Error::refused(
                dir,
                "is not empty; keys get a folder of their own",
            ));
        }
        let keys = Self {
            dir: dir.to_owned(),
            version: NonZeroU64::MIN,
        };
        let mut root = Root {
            spec_version: SPECIFICATION.to_owned(),
            consistent_snapshot: true,
            version: keys.version,
            expires,
            keys: HashMap::new(),
            roles: HashMap::new(),
            _extra: HashMap::new(),
        };
        for role in ROLES {
            let signers = signers.get(&role).copied().unwrap_or(Signers::ONE);
            keys.renew(&mut root, role, signers)?;
        }
        let sources = keys.there(&root, RoleType::Root)?;
        keys.write(&sign(root.clone(), &root, &sources)?, &root)?;
        Ok(keys)
    }

    /// Opens a folder that has a root.
    pub fn open(dir: &Path) -> Result<Self> {
        let fail = |e| Error::path("read", dir, e);
        let mut newest = None;
        for entry in std::fs::read_dir(dir).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_suffix(".root.json"));
            newest = newest.max(number.and_then(|number| number.parse().ok()));
        }
        let why = "has no N.root.json; 'dmholey image keys' makes one, with its keys";
        let version = newest.ok_or_else(|| Error::refused(dir, why))?;
        Ok(Self {
            dir: dir.to_owned(),
            version,
        })
    }

    /// The number of the newest root.
    pub fn version(&self) -> u64 {
        self.version.get()
    }

    /// Where a root is.
    pub fn root(&self, version: u64) -> PathBuf {
        self.dir.join(format!("{version}.root.json"))
    }

    /// Replaces the keys of these roles, and makes the next root, which expires at some time. Clients that
    /// have any earlier root come to it by way of all those between. A role gets as many keys as it had, if
    /// nothing else is said of it.
    pub fn rotate(
        &mut self,
        roles: &[RoleType],
        signers: &HashMap<RoleType, Signers>,
        expires: Timestamp,
    ) -> Result<()> {
        let old = self.read(self.version())?;
        let mut root = old.signed.clone();
        let next = root.version.checked_add(1);
        let path = self.root(self.version());
        root.version = next.ok_or_else(|| Error::broken(path.display(), "is the last one"))?;
        root.expires = expires;
        let before = self.there(&old.signed, RoleType::Root)?;
        for &role in roles {
            let now = signers.get(&role).copied();
            let signers = now.or_else(|| signers_of(&root, role));
            self.renew(&mut root, role, signers.unwrap_or(Signers::ONE))?;
        }
        let version = root.version;
        let now = self.there(&root, RoleType::Root)?;
        let signed = sign(root.clone(), &root, &now)?;
        // Whoever knows the root before believes its keys only.
        let before = sign(root, &old.signed, &before)?
            .signed()
            .signatures
            .clone();
        let signed = signed.add_old_signatures(before);
        let signed = signed.map_err(Error::tuf("cannot sign the root"))?;
        self.write(&signed, &old.signed)?;
        self.version = version;
        Ok(())
    }

    /// The keys of these roles that are there, or an error that names the first role that lacks too many.
    pub(crate) fn sources(&self, roles: &[RoleType]) -> Result<Vec<Box<dyn KeySource>>> {
        let root = self.read(self.version())?.signed;
        let mut found = Vec::new();
        for &role in roles {
            found.append(&mut self.there(&root, role)?);
        }
        Ok(found)
    }

    /// The keys of a role that are there; they have to be enough to sign.
    fn there(&self, root: &Root, role: RoleType) -> Result<Vec<Box<dyn KeySource>>> {
        let (there, missing): (Vec<_>, Vec<_>) = self
            .paths(root, role)?
            .into_iter()
            .partition(|path| path.exists());
        let needed = signers_of(root, role).map_or(1, |signers| signers.needed.get());
        if (there.len() as u64) < needed {
            let what = match there.len() + missing.len() {
                1 => "its key here".to_owned(),
                keys => format!("{needed} of its {keys} keys here, and has {}", there.len()),
            };
            let names: Vec<&str> = missing
                .iter()
                .filter_map(|path| path.file_name()?.to_str())
                .collect();
            let names = names.join(", ");
            let why = format!("the role '{role}' needs {what}; missing: {names}");
            return Err(Error::refused(&self.dir, why));
        }
        for path in &there {
            self.check(role, path)?;
        }
        Ok(there.into_iter().map(source).collect())
    }

    /// Makes sure that a file has the key of its name: a copy of another one would not count.
    fn check(&self, role: RoleType, path: &Path) -> Result<()> {
        let secret = std::fs::read(path).map_err(|e| Error::path("read", path, e))?;
        let (id, _) = public(&secret, path)?;
        let named = self.path(role, &id);
        if named != path {
            let why = format!(
                "does not have the key of its name, but that of {}",
                named.display()
            );
            return Err(Error::refused(path, why));
        }
        Ok(())
    }

    /// Reads a root.
    pub(crate) fn read(&self, version: u64) -> Result<Signed<Root>> {
        let path = self.root(version);
        let file = Device::open(&path, Access::Read)?;
        if file.size() > MAX_ROOT {
            return Err(Error::broken(path.display(), "is too large"));
        }
        let mut bytes = vec![0; usize::try_from(file.size()).unwrap_or(0)];
        disk::read(&file, 0, &mut bytes)?;
        serde_json::from_slice(&bytes).map_err(|e| Error::broken(path.display(), e.to_string()))
    }

    /// Where the keys of a role are, when they are there.
    fn paths(&self, root: &Root, role: RoleType) -> Result<Vec<PathBuf>> {
        let ids = root.roles.get(&role).map_or(&[][..], |keys| &keys.keyids);
        if ids.is_empty() {
            let path = self.root(root.version.get());
            let why = format!("names no key for the role '{role}'");
            return Err(Error::broken(path.display(), why));
        }
        Ok(ids.iter().map(|id| self.path(role, id)).collect())
    }

    /// Where a key of a role is, when it is there.
    fn path(&self, role: RoleType, id: &[u8]) -> PathBuf {
        let digits = id.iter().take(8);
        let digits = digits.fold(0, |all, &byte| (all << 8) | u64::from(byte));
        self.dir.join(format!("{role}-{digits:016x}.pk8"))
    }

    /// Makes keys for a role, in place of those it had.
    fn renew(&self, root: &mut Root, role: RoleType, signers: Signers) -> Result<()> {
        let mut keys = RoleKeys {
            keyids: Vec::new(),
            threshold: signers.needed,
            _extra: HashMap::new(),
        };
        let mut secrets = Vec::new();
        for _ in 0..signers.keys.get() {
            let unspecified = |_| Error::broken(self.dir.display(), "no key can be made");
            let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
            let pkcs8 = pkcs8.map_err(unspecified)?;
            let (id, key) = public(pkcs8.as_ref(), &self.dir)?;
            root.keys.insert(id.clone(), key);
            keys.keyids.push(id);
            secrets.push(pkcs8);
        }
        root.roles.insert(role, keys);
        let roles = root.roles.clone();
        root.keys
            .retain(|id, _| roles.values().any(|keys| keys.keyids.contains(id)));
        for (path, secret) in self.paths(root, role)?.iter().zip(&secrets) {
            let (output, file, _) = Output::create(path, false)?;
            let mode = Permissions::from_mode(0o600);
            let fail = |e| Error::path("change the mode of", path, e);
            file.file().set_permissions(mode).map_err(fail)?;
            disk::write(&file, 0, secret.as_ref())?;
            disk::flush(&file)?;
            output.commit()?;
        }
        Ok(())
    }

    /// Signs metadata with those of the keys that the newest root names for it.
    pub(crate) fn sign<T: Role + Serialize>(
        &self,
        role: T,
        keys: &[Box<dyn KeySource>],
    ) -> Result<SignedRole<T>> {
        sign(role, &self.read(self.version())?.signed, keys)
    }

    /// Writes a root that those believe who know the one before, or nothing else.
    fn write(&self, root: &SignedRole<Root>, before: &Root) -> Result<()> {
        let path = self.root(root.signed().signed.version.get());
        // The library does not make sure that a root has enough signatures.
        for known in [before, &root.signed().signed] {
            let refused = |e| {
                let why = format!("is not written, for clients would refuse it: {e}");
                Error::broken(path.display(), why)
            };
            known.verify_role(root.signed()).map_err(refused)?;
        }
        Ok(output::put(&path, root.buffer(), false)?)
    }
}

/// How many keys a root names for a role, and how many of them have to sign.
fn signers_of(root: &Root, role: RoleType) -> Option<Signers> {
    let keys = root.roles.get(&role)?;
    Some(Signers {
        needed: keys.threshold,
        keys: NonZeroU64::new(keys.keyids.len() as u64)?,
    })
}

/// The public key of a secret one from a path, and its ID.
fn public(secret: &[u8], path: &Path) -> Result<(Decoded<Hex>, Key)> {
    let pair = tough::sign::parse_keypair(secret).map_err(Error::tuf(path.display()))?;
    let key = tough::sign::Sign::tuf_key(&pair);
    let fail = |e: tough::schema::Error| Error::broken(path.display(), e.to_string());
    Ok((key.key_id().map_err(fail)?, key))
}

/// A key in a file.
fn source(path: PathBuf) -> Box<dyn KeySource> {
    Box::new(LocalKeySource { path })
}

/// Signs metadata with those of the keys that a root names for it.
fn sign<T: Role + Serialize>(
    role: T,
    root: &Root,
    keys: &[Box<dyn KeySource>],
) -> Result<SignedRole<T>> {
    let what = T::TYPE;
    let holder = KeyHolder::Root(root.clone());
    let random = SystemRandom::new();
    let signed = wait(SignedRole::new(role, &holder, keys, &random))?;
    signed.map_err(Error::tuf(format!("cannot sign for the role '{what}'")))
}
