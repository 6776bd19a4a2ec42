// SPDX-License-Identifier: GPL-2.0

//! dmholey: snapshots, merges and shared volumes for device-mapper.
//!
//! Three small mechanisms carry everything:
//!
//! | mechanism | question | where |
//! | --- | --- | --- |
//! | index | which chunks live somewhere else, and where? | `core/index`, `overlay.rs` |
//! | stability | who must copy a chunk before it is overwritten? | `origin_set.rs`, `copier.rs`, `remote.rs` |
//! | merge | how is an overlay folded back into its origin? | `core/merge.rs`, `merge_window.rs` |
//!
//! The targets (`origin.rs`, `snapshot.rs`, `merge.rs`, `writer.rs`) combine them. Copiers on other
//! hosts are reached through an agent (`agent.rs`, `keeper.rs`).

// What may panic has no place in a kernel.
#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable,
    clippy::unwrap_used
)]

use core::borrow::Borrow;
use kernel::prelude::*;
use kernel::str::CStr;

mod agent;
mod arena;
mod commit;
mod copier;
mod dm;
#[path = "core/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports)]
mod holey_core;
mod keeper;
mod merge;
mod merge_window;
mod nothing;
mod origin;
mod origin_set;
mod overlay;
mod parameters;
mod remote;
mod snapshot;
mod snapshot_io;
mod store;
mod summary;
mod write_back;
mod writer;

use crate::agent::Agent;
use crate::dm::CharDevice;
use crate::dm::Registration;
use crate::dm::Target;
use crate::merge::MergeTarget;
use crate::nothing::Nothing;
use crate::origin::OriginTarget;
use crate::snapshot::Snapshot;
use crate::writer::WriterTarget;

module! {
    type: Holey,
    name: "dm_holey",
    authors: ["The dmholey developers"],
    description: "device-mapper snapshots, merges and shared volumes",
    license: "GPL v2",
    alias: [
        "dm-holey-origin",
        "dm-holey-snapshot",
        "dm-holey-merge",
        "dm-holey-writer",
        "dm-holey-copier",
        "dm-holey-nothing",
        "dm-snapshot",
        "dm-snapshot-origin",
        "dm-snapshot-merge",
    ],
    params: {
        stock_names: u8 {
            default: 0,
            description: "1: also register as snapshot, snapshot-origin and snapshot-merge",
        },
    },
}

/// The registered target types.
struct Holey {
    // First of all that goes: what it opens may ask for the targets.
    _agents: CharDevice<Agent>,
    _own: Types,
    _writer: Registration<WriterTarget>,
    _copier: Registration<Snapshot<true>>,
    _nothing: Registration<Nothing>,
    _stock: Option<Types>,
}

/// One set of names.
struct Types {
    _origin: Registration<OriginTarget>,
    _snapshot: Registration<Snapshot<false>>,
    _merge: Registration<MergeTarget>,
}

impl Types {
    fn register(names: [&'static CStr; 3], module: &'static ThisModule) -> Result<Self> {
        let [origin, snapshot, merge] = names;
        Ok(Self {
            _origin: register(origin, module)?,
            _snapshot: register(snapshot, module)?,
            _merge: register(merge, module)?,
        })
    }
}

fn register<T: Target>(
    name: &'static CStr,
    module: &'static ThisModule,
) -> Result<Registration<T>> {
    Registration::new(name, module).inspect_err(|error| {
        pr_err!(
            "target {} cannot be registered: error {} (unload the module that has it first)\n",
            name.to_str().unwrap_or_default(),
            error.to_errno()
        );
    })
}

/// Whether a parameter is set; 7.2 hands out a reference to its value, 7.3 the value.
fn is_set(value: impl Borrow<u8>) -> bool {
    *value.borrow() != 0
}

impl kernel::Module for Holey {
    fn init(module: &'static ThisModule) -> Result<Self> {
        // SAFETY: Called once, before anything uses it: targets are registered below.
        unsafe { origin_set::ORIGINS.init() };
        let own = Types::register([c"holey-origin", c"holey-snapshot", c"holey-merge"], module)?;
        let stock = if is_set(module_parameters::stock_names.value()) {
            let names = [c"snapshot-origin", c"snapshot", c"snapshot-merge"];
            Some(Types::register(names, module)?)
        } else {
            None
        };
        Ok(Self {
            _writer: register(c"holey-writer", module)?,
            _copier: register(c"holey-copier", module)?,
            _nothing: register(c"holey-nothing", module)?,
            _own: own,
            _stock: stock,
            // Last: files may be opened from here on.
            _agents: CharDevice::new(c"dmholey", module)?,
        })
    }
}
