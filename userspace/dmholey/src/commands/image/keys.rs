// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey image keys`

use super::days;
use super::now;
use crate::exit::refuse;
use crate::exit::Exit;
use crate::output::Output;
use clap::Args;
use clap::ValueEnum;
use dmholey_publish::keys::RoleType;
use dmholey_publish::keys::Signers;
use dmholey_publish::Keys;
use serde::Serialize;
use std::collections::HashMap;
use std::path::PathBuf;

/// Arguments of `image keys`.
#[derive(Debug, Args)]
pub struct KeysOf {
    /// Folder of the keys: a new or empty one, unless --rotate or --renew is given
    keys: PathBuf,
    /// Give this role other keys, in place of all that it has
    #[arg(long, value_name = "ROLE")]
    rotate: Vec<Role>,
    /// Let this role have N keys, of which M have to sign: root=2/3; it has one otherwise
    ///
    /// Together with --rotate it is for a role that gets other keys.
    #[arg(long, value_name = "ROLE=M/N", value_parser = signers)]
    signers: Vec<(RoleType, Signers)>,
    /// Make the next root with the keys there are, so that it expires later
    #[arg(long)]
    renew: bool,
    /// For how many days the root is good
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    root_days: u32,
}

/// The roles that have keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Names the keys of all roles
    Root,
    /// Signs what is published
    Targets,
    /// Signs which metadata belongs together
    Snapshot,
    /// Signs that nothing is newer
    Timestamp,
}

impl From<Role> for RoleType {
    fn from(role: Role) -> Self {
        match role {
            Role::Root => Self::Root,
            Role::Targets => Self::Targets,
            Role::Snapshot => Self::Snapshot,
            Role::Timestamp => Self::Timestamp,
        }
    }
}

/// Reads `ROLE=M/N`.
fn signers(text: &str) -> Result<(RoleType, Signers), String> {
    let parts = || {
        let (role, numbers) = text.split_once('=')?;
        let (needed, keys) = numbers.split_once('/')?;
        let role = Role::from_str(role, false).ok()?;
        let signers = Signers::new(needed.parse().ok()?, keys.parse().ok()?)?;
        Some((role.into(), signers))
    };
    let why = "is not ROLE=M/N, such as root=2/3: M of at most 16 keys";
    parts().ok_or_else(|| why.to_owned())
}

/// What there is now.
#[derive(Debug, Serialize)]
struct Made {
    /// The newest root.
    root: String,
    version: u64,
}

/// Runs the command.
pub fn run(args: &KeysOf, output: Output) -> anyhow::Result<Exit> {
    let expires = days(now(), args.root_days);
    let mut signers = HashMap::new();
    for &(role, of) in &args.signers {
        if signers.insert(role, of).is_some() {
            let why = format!("--signers names the role '{role}' twice");
            return Err(refuse(Exit::Usage, why));
        }
    }
    let keys = if args.renew || !args.rotate.is_empty() {
        let mut keys = Keys::open(&args.keys)?;
        let roles: Vec<RoleType> = args.rotate.iter().map(|&role| role.into()).collect();
        if let Some((role, _)) = args.signers.iter().find(|(role, _)| !roles.contains(role)) {
            let why = format!("--signers is for a role that gets other keys: add --rotate {role}");
            return Err(refuse(Exit::Usage, why));
        }
        keys.rotate(&roles, &signers, expires)?;
        keys
    } else {
        Keys::create(&args.keys, &signers, expires)?
    };
    let made = Made {
        root: keys.root(keys.version()).display().to_string(),
        version: keys.version(),
    };
    output.done(&made, |made| {
        format!("{}: root {}", made.root, made.version)
    })?;
    Ok(Exit::Ok)
}
