// SPDX-License-Identifier: GPL-2.0

//! The target `holey-nothing`: the device of a node that is nothing in its cluster now.
//!
//! Table line: `holey-nothing`.
//!
//! All that comes fails, as with the kernel's `error`. But that has no write cache, so that flushes
//! do not reach it and succeed: whoever has written through a `holey-writer` with a write-back
//! buffer, and flushes when the node is nothing any more, would believe that the data is there.

use crate::dm::Args;
use crate::dm::CtrError;
use crate::dm::Mapped;
use crate::dm::NewBio;
use crate::dm::Setup;
use crate::dm::Status;
use crate::dm::StatusKind;
use crate::dm::Stop;
use crate::dm::Target;
use crate::dm::Visitor;
use crate::snapshot::failed;
use kernel::prelude::*;

/// A device on which all fails.
pub(crate) struct Nothing;

#[vtable]
impl Target for Nothing {
    type Data = ();

    const VERSION: [u32; 3] = [1, 0, 0];
    const IS_MEASURED: bool = false;

    fn create(setup: &mut Setup<'_>, args: Args<'_>) -> Result<Pin<KBox<Self>>, CtrError> {
        if args.len() != 0 {
            return Err(CtrError::new(EINVAL, c"Incorrect number of arguments"));
        }
        setup.set_flush_bios(1);
        setup.set_write_cache();
        KBox::pin(Self, GFP_KERNEL).map_err(|_| failed(ENOMEM))
    }

    fn map(&self, bio: NewBio<()>) -> Mapped {
        bio.kill()
    }

    fn status(&self, _kind: StatusKind, _out: &mut Status<'_>) {}

    fn devices(&self, _visitor: &mut Visitor<'_>) -> Result<(), Stop> {
        Ok(())
    }
}
