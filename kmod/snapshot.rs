// SPDX-License-Identifier: GPL-2.0

//! The targets `holey-snapshot` and, under its stock name, `snapshot`: index + exception store; and
//! `holey-copier`: the same on a shared volume that another host writes to.
//!
//! The exceptions of a copier are in memory only, as it is lost with its host. When it becomes the
//! writer, `holey-merge` takes them over, and writes their list first.

use crate::copier::Copier;
use crate::dm::without_io;
use crate::dm::Access;
use crate::dm::Args;
use crate::dm::CtrError;
use crate::dm::Device;
use crate::dm::Ended;
use crate::dm::EndedBio;
use crate::dm::Failure;
use crate::dm::IoClient;
use crate::dm::Limits;
use crate::dm::Mapped;
use crate::dm::NewBio;
use crate::dm::Setup;
use crate::dm::Status;
use crate::dm::StatusKind;
use crate::dm::Stop;
use crate::dm::SuspendKind;
use crate::dm::Target;
use crate::dm::Visitor;
use crate::holey_core::table::StoreKind;
use crate::holey_core::table::StoreLine;
use crate::holey_core::table::TableError;
use crate::origin_set::Origin;
use crate::overlay::Condition;
use crate::overlay::Overlay;
use crate::overlay::Tag;
use crate::store;
use crate::store::Reading;
use core::fmt::Write;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering;
use kernel::prelude::*;
use kernel::str::CStr;
use kernel::sync::Arc;

/// A snapshot of an origin, or (`REMOTE`) a copier of a shared volume.
pub(crate) struct Snapshot<const REMOTE: bool> {
    copier: Arc<Copier>,
    /// What was on the COW device is still to be erased, before the table is put to use.
    unerased: AtomicBool,
}

/// The devices and the store that a table line of a snapshot or a merge names.
pub(crate) struct Line {
    pub(crate) origin: Device,
    pub(crate) cow: Device,
    pub(crate) store: StoreLine,
}

impl Line {
    /// Parses a line and opens its devices.
    pub(crate) fn open(
        setup: &mut Setup<'_>,
        args: Args<'_>,
        origin_access: Access,
    ) -> Result<Self, CtrError> {
        let words = (0..args.len())
            .filter_map(|n| args.get(n))
            .map(CStr::to_bytes);
        let mut store = StoreLine::parse(words);
        if store.as_ref().is_err_and(TableError::comes_before_devices) {
            store = Ok(store.map_err(report)?);
        }
        let (Some(origin), Some(cow)) = (args.get(0), args.get(1)) else {
            return Err(report(TableError::TooFewWords { got: 0, want: 4 }));
        };
        if setup.begin() != 0 {
            return Err(CtrError::new(EINVAL, c"The target must begin at sector 0"));
        }
        if setup.same_device(origin, cow) {
            return Err(CtrError::new(
                EINVAL,
                c"COW device cannot be the same as origin device",
            ));
        }
        let origin = setup
            .open(origin, origin_access)
            .map_err(|errno| CtrError::new(errno, c"Cannot get origin device"))?;
        let cow = setup
            .open(cow, Access::AsTable)
            .map_err(|errno| CtrError::new(errno, c"Cannot get COW device"))?;
        let store = store.map_err(report)?;
        Ok(Self { origin, cow, store })
    }
}

/// Logs what is wrong with a table line.
pub(crate) fn report(error: TableError) -> CtrError {
    pr_err!("table line refused: {}\n", error);
    CtrError::new(
        EINVAL,
        c"Invalid arguments (the kernel log has the details)",
    )
}

/// An error without details.
pub(crate) fn failed(errno: Error) -> CtrError {
    CtrError::new(errno, c"Cannot set up the target")
}

/// Writes the part of the status that snapshots and merges share.
pub(crate) fn write_status(
    kind: StatusKind,
    out: &mut Status<'_>,
    origin: &Device,
    cow: &Device,
    line: &StoreLine,
    overlay: Option<&Arc<Overlay>>,
    merge_failed: bool,
) {
    let (condition, overflowed) = overlay.map_or((None, false), |overlay| {
        let state = overlay.state.lock();
        (Some(state.condition), state.overflowed)
    });
    let valid = condition == Some(Condition::Valid);
    let chunk = overlay.map_or(0, |overlay| overlay.chunk().sectors());
    let yes_no = |yes| if yes { 'y' } else { 'n' };
    // Writing to a status line does not fail: what does not fit is cut off.
    let _ = match (kind, overlay) {
        (StatusKind::Info, None) => write!(out, "Unknown"),
        (StatusKind::Info, Some(_)) if !valid => write!(out, "Invalid"),
        (StatusKind::Info, Some(_)) if merge_failed => write!(out, "Merge failed"),
        (StatusKind::Info, Some(_)) if overflowed => write!(out, "Overflow"),
        (StatusKind::Info, Some(overlay)) => {
            let (allocated, metadata) = overlay.usage();
            write!(out, "{}/{} {}", allocated, cow.sectors(), metadata)
        }
        (StatusKind::Table, _) => {
            let (origin, cow) = (origin.number(), cow.number());
            let transient = overlay.is_some_and(|overlay| overlay.layout.is_transient());
            // After a handover the store is what the source has made.
            let kind = match line.kind {
                _ if transient => StoreKind::Transient,
                StoreKind::Transient if overlay.is_some() => StoreKind::Persistent,
                kind => kind,
            };
            write!(out, "{} {} {} {}{}", origin, cow, kind.name(), chunk, line.features)
        }
        (StatusKind::Measurement, _) => write!(
            out,
            ",snap_origin_name={},snap_cow_name={},snap_valid={},snap_merge_failed={},snapshot_overflowed={};",
            origin.number(),
            cow.number(),
            yes_no(valid),
            yes_no(merge_failed),
            yes_no(overflowed)
        ),
    };
}

#[vtable]
impl<const REMOTE: bool> Target for Snapshot<REMOTE> {
    type Data = Tag;

    const VERSION: [u32; 3] = [1, 16, 0];

    fn create(setup: &mut Setup<'_>, args: Args<'_>) -> Result<Pin<KBox<Self>>, CtrError> {
        let line = Line::open(setup, args, Access::Read)?;
        let set = Origin::get(line.origin.number()).map_err(failed)?;
        let _opening = set.opening.lock();
        if set.is_merging(line.cow.number()) {
            return Err(CtrError::new(EBUSY, c"The COW device is being merged"));
        }
        let remote_chunk = REMOTE
            .then(|| line.store.copier_chunk().map_err(report))
            .transpose()?;
        let overlay = match set.user_of(line.cow.number(), None) {
            // Its exceptions are handed over when this table is resumed.
            Some(source) if source.is_remote() == REMOTE => None,
            Some(_) => {
                return Err(CtrError::new(
                    EBUSY,
                    c"The COW device is in use: a copier does not take a snapshot over, nor the other way round",
                ))
            }
            None => {
                let sectors = setup.sectors();
                let (origin, cow) = (&line.origin, &line.cow);
                let opened = match remote_chunk {
                    Some(chunk) => store::make_unlisted(origin, cow, sectors, chunk),
                    None => {
                        let io = IoClient::new().map_err(failed)?;
                        let reading = Reading {
                            later: line.store.features.summary,
                            writable: setup.is_writable(),
                        };
                        store::open(&io, origin, cow, sectors, line.store, reading)
                    }
                };
                Some(opened.map_err(|error| error.report(&line.cow))?)
            }
        };
        setup.set_flush_bios(1);
        // What is taken over may be persistent, whatever the table says.
        if line.store.kind != StoreKind::Transient || overlay.is_none() {
            setup.set_write_cache();
        }
        set_up_discards(setup, &line.store);
        let copier = Copier::new(
            Origin::get(line.origin.number()).map_err(failed)?,
            line.origin,
            line.cow,
            setup,
            line.store,
            overlay,
        )
        .map_err(failed)?;
        let unerased = AtomicBool::new(REMOTE && copier.overlay().is_some());
        let target = Self { copier, unerased };
        let target = KBox::pin(target, GFP_KERNEL).map_err(|_| failed(ENOMEM))?;
        set.add_copier(&target.copier).map_err(failed)?;
        Ok(target)
    }

    fn teardown(&self) {
        // Out of the set first: from then on nobody finds it and asks it for copies.
        self.copier.origin.remove_copier(&self.copier);
        Copier::shut_down(&self.copier);
    }

    fn map(&self, bio: NewBio<Tag>) -> Mapped {
        Copier::map(&self.copier, bio)
    }

    fn end_io(&self, bio: EndedBio<Tag>) -> Ended {
        Copier::end_io(&self.copier, bio)
    }

    fn presuspend(&self, kind: SuspendKind) {
        self.copier.leave(Some(match kind {
            SuspendKind::Flush => Failure::NoSpace,
            SuspendKind::NoFlush => Failure::Requeue,
        }));
    }

    fn presuspend_undo(&self) {
        self.copier.leave(None);
    }

    fn postsuspend(&self) {
        Copier::commit_all(&self.copier);
        Copier::pause(&self.copier, true);
        self.copier.set_suspended(true);
    }

    fn preresume(&self) -> Result {
        if let Some(overlay) = self.copier.overlay() {
            if self.unerased.load(Ordering::Relaxed) {
                let (io, cow) = (&self.copier.io, self.copier.cow_device());
                without_io(|| store::erase(io, cow, overlay))?;
                self.unerased.store(false, Ordering::Relaxed);
            }
            return Ok(());
        }
        source_of(
            &self.copier.origin,
            self.copier.cow_device(),
            Some(&self.copier),
        )
        .map(|_| ())
    }

    fn resume(&self) {
        let copier = &self.copier;
        if copier.overlay().is_none() {
            if let Ok(source) = source_of(&copier.origin, copier.cow_device(), Some(copier)) {
                copier.origin.hand_over(&source, copier);
            }
        }
        copier.set_suspended(false);
        Copier::pause(copier, false);
        copier.leave(None);
        Copier::activate(copier);
    }

    fn status(&self, kind: StatusKind, out: &mut Status<'_>) {
        let copier = &self.copier;
        if kind == StatusKind::Info && copier.is_retired() {
            // Its exceptions belong to another table.
            let _ = write!(out, "Invalid");
            return;
        }
        let overlay = copier.overlay().filter(|_| !copier.is_retired());
        write_status(
            kind,
            out,
            copier.origin_device(),
            copier.cow_device(),
            copier.line(),
            overlay,
            false,
        );
    }

    fn io_hints(&self, limits: &mut Limits<'_>) {
        hint_discards(
            &self.copier.origin,
            self.copier.cow_device(),
            self.copier.overlay(),
            self.copier.line(),
            limits,
        );
    }

    fn devices(&self, visitor: &mut Visitor<'_>) -> Result<(), Stop> {
        let copier = &self.copier;
        visitor.visit(copier.origin_device(), 0, copier.origin_sectors())?;
        visitor.visit(copier.cow_device(), 0, copier.cow_device().sectors())
    }
}

/// Says how many discards the target wants of each.
pub(crate) fn set_up_discards(setup: &mut Setup<'_>, line: &StoreLine) {
    if line.features.discard_zeroes_cow {
        setup.set_discard_bios(1 + u32::from(line.features.discard_passdown_origin));
    }
}

/// Makes the core split discards at the borders of chunks. Until a handover, the chunks are those of the source.
pub(crate) fn hint_discards(
    origin: &Origin,
    cow: &Device,
    overlay: Option<&Arc<Overlay>>,
    line: &StoreLine,
    limits: &mut Limits<'_>,
) {
    if !line.features.discard_zeroes_cow {
        return;
    }
    let source = origin.user_of(cow.number(), None);
    let overlay = overlay.or(source.as_ref().and_then(|source| source.overlay()));
    if let Some(overlay) = overlay {
        limits.set_discard_unit(overlay.chunk().sectors());
    }
}

/// The copier whose exceptions a new table on the same COW device takes over.
pub(crate) fn source_of(
    origin: &Origin,
    cow: &Device,
    but: Option<&Arc<Copier>>,
) -> Result<Arc<Copier>> {
    let Some(source) = origin.user_of(cow.number(), but) else {
        pr_err!(
            "COW device {}: its previous user is gone; load the table again\n",
            cow.number()
        );
        return Err(EINVAL);
    };
    if !source.is_suspended() || source.overlay().is_none() {
        pr_err!(
            "COW device {}: suspend the device that uses it before this one takes over\n",
            cow.number()
        );
        return Err(EINVAL);
    }
    Ok(source)
}
