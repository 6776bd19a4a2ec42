// SPDX-License-Identifier: GPL-2.0

//! The targets `holey-origin` and, under its stock name, `snapshot-origin`: stability over the
//! set of local snapshots.

use crate::dm::Access;
use crate::dm::Args;
use crate::dm::CtrError;
use crate::dm::Device;
use crate::dm::Mapped;
use crate::dm::NewBio;
use crate::dm::Setup;
use crate::dm::Status;
use crate::dm::StatusKind;
use crate::dm::Stop;
use crate::dm::SuspendKind;
use crate::dm::Target;
use crate::dm::Visitor;
use crate::origin_set::Origin;
use crate::origin_set::Outlet;
use crate::origin_set::Passage;
use crate::overlay::Tag;
use crate::snapshot::failed;
use core::fmt::Write;
use kernel::prelude::*;
use kernel::sync::Arc;

/// A device of which snapshots are taken.
pub(crate) struct OriginTarget {
    origin: Origin,
    outlet: Arc<Outlet>,
    device: Device,
    sectors: u64,
}

#[vtable]
impl Target for OriginTarget {
    type Data = Tag;

    const VERSION: [u32; 3] = [1, 9, 0];
    const IS_MEASURED: bool = false;

    fn create(setup: &mut Setup<'_>, args: Args<'_>) -> Result<Pin<KBox<Self>>, CtrError> {
        let (1, Some(path)) = (args.len(), args.get(0)) else {
            return Err(CtrError::new(EINVAL, c"Incorrect number of arguments"));
        };
        if setup.begin() != 0 {
            return Err(CtrError::new(EINVAL, c"The target must begin at sector 0"));
        }
        let device = setup
            .open(path, Access::AsTable)
            .map_err(|errno| CtrError::new(errno, c"Cannot get target device"))?;
        let origin = Origin::get(device.number()).map_err(failed)?;
        setup.set_flush_bios(1);
        let sectors = setup.sectors();
        let outlet = origin
            .add_outlet(Passage::Plain)
            .map_err(|error| match error {
                EBUSY => CtrError::new(EBUSY, c"The device is a shared volume: use holey-writer"),
                other => failed(other),
            })?;
        let target = Self {
            origin,
            outlet,
            device,
            sectors,
        };
        KBox::pin(target, GFP_KERNEL).map_err(|_| failed(ENOMEM))
    }

    fn presuspend(&self, kind: SuspendKind) {
        self.origin.leave(&self.outlet, kind);
    }

    fn presuspend_undo(&self) {
        self.outlet.stay();
    }

    fn resume(&self) {
        self.outlet.stay();
    }

    fn map(&self, mut bio: NewBio<Tag>) -> Mapped {
        let (start, sectors) = (bio.sector(), bio.sectors());
        if !bio.is_write() || bio.is_flush() {
            return bio.remap(&self.device, start);
        }
        if self.origin.is_clear(start, u64::from(sectors)) {
            return bio.remap(&self.device, start);
        }
        bio.set_target(&self.device, start);
        bio.data().outlet = self.outlet.id();
        let (bio, held) = bio.hold();
        if let Some(bio) = self.origin.admit(start, u64::from(sectors), bio) {
            bio.submit();
        }
        held
    }

    fn teardown(&self) {
        self.origin.remove_outlet(&self.outlet);
    }

    fn status(&self, kind: StatusKind, out: &mut Status<'_>) {
        if kind == StatusKind::Table {
            // Writing to a status line does not fail: what does not fit is cut off.
            let _ = write!(out, "{}", self.device.number());
        }
    }

    fn devices(&self, visitor: &mut Visitor<'_>) -> Result<(), Stop> {
        visitor.visit(&self.device, 0, self.sectors)
    }
}
