// SPDX-License-Identifier: GPL-2.0-or-later

//! Table lines of the three targets, with the grammar of the stock ones.

use super::Line;
use holey_core::table::Features;
use holey_core::table::StoreKind;
use serde::Serialize;
use std::fmt;

/// What a device is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Writes go to the origin, after its snapshots have kept what they need.
    Origin,
    /// The content of the origin at one instant, writable.
    Snapshot,
    /// A snapshot on its way back into its origin.
    Merge,
}

/// Whose targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Those of dmholey under their own names.
    Holey,
    /// The names of dm-snapshot, whoever has registered them.
    Stock,
}

/// All target types.
const NAMES: [(Role, Family, &str); 6] = [
    (Role::Origin, Family::Holey, "holey-origin"),
    (Role::Snapshot, Family::Holey, "holey-snapshot"),
    (Role::Merge, Family::Holey, "holey-merge"),
    (Role::Origin, Family::Stock, "snapshot-origin"),
    (Role::Snapshot, Family::Stock, "snapshot"),
    (Role::Merge, Family::Stock, "snapshot-merge"),
];

/// The name of a target type.
pub fn target_name(role: Role, family: Family) -> &'static str {
    NAMES
        .iter()
        .find(|&&(r, f, _)| (r, f) == (role, family))
        .map_or("", |&(_, _, name)| name)
}

/// What a target type is, if it is one of ours.
pub fn target_of(name: &str) -> Option<(Role, Family)> {
    NAMES
        .iter()
        .find(|&&(_, _, n)| n == name)
        .map(|&(role, family, _)| (role, family))
}

/// The module that has the targets of a family.
pub fn module(family: Family) -> &'static str {
    match family {
        Family::Holey => "dm-holey",
        Family::Stock => "dm-snapshot",
    }
}

/// What follows the origin in the line of a snapshot or a merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// The COW device: path or number.
    pub cow: String,
    /// How exceptions are kept.
    pub store: StoreKind,
    /// Chunk size in sectors; 0 takes it from the store.
    pub chunk: u32,
    /// What is asked for beyond that.
    pub features: Features,
}

impl fmt::Display for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cow, store, chunk) = (&self.cow, self.store.name(), self.chunk);
        write!(f, "{cow} {store} {chunk}{}", self.features)
    }
}

/// A table of one of our targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// What the device is for.
    pub role: Role,
    /// Whose target.
    pub family: Family,
    /// Size of the device in sectors.
    pub len: u64,
    /// The origin: path or number.
    pub origin: String,
    /// All the rest; `None` for an origin.
    pub overlay: Option<Overlay>,
}

impl Table {
    /// The line that the kernel gets.
    pub fn line(&self) -> Line {
        let params = match &self.overlay {
            Some(overlay) => format!("{} {overlay}", self.origin),
            None => self.origin.clone(),
        };
        Line {
            start: 0,
            len: self.len,
            target: target_name(self.role, self.family).to_owned(),
            params,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_roles_match() {
        for (role, family, name) in NAMES {
            assert_eq!(target_of(name), Some((role, family)));
            assert_eq!(target_name(role, family), name);
        }
        assert_eq!(target_of("linear"), None);
    }

    #[test]
    fn lines_are_those_of_the_stock_targets() {
        let mut table = Table {
            role: Role::Snapshot,
            family: Family::Stock,
            len: 2048,
            origin: "8:1".to_owned(),
            overlay: Some(Overlay {
                cow: "8:2".to_owned(),
                store: StoreKind::Persistent,
                chunk: 8,
                features: Features::default(),
            }),
        };
        assert_eq!(table.line().to_string(), "0 2048 snapshot 8:1 8:2 P 8");
        if let Some(overlay) = &mut table.overlay {
            overlay.store = StoreKind::Overflow;
            overlay.features.discard_zeroes_cow = true;
        }
        table.role = Role::Merge;
        table.family = Family::Holey;
        assert_eq!(
            table.line().to_string(),
            "0 2048 holey-merge 8:1 8:2 PO 8 1 discard_zeroes_cow"
        );
        let origin = Table {
            role: Role::Origin,
            overlay: None,
            ..table
        };
        assert_eq!(origin.line().to_string(), "0 2048 holey-origin 8:1");
    }
}
