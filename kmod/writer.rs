// SPDX-License-Identifier: GPL-2.0

//! The target `holey-writer`: stability over the local snapshots and the copiers on other hosts.
//!
//! Table line: `holey-writer <volume> <chunk sectors>`.
//!
//! Status: `<epoch> <phase> <agent> <stable>/<chunks> <waiting> <held> <requests>`, see
//! `Documentation/cluster.rst`.

use crate::dm::without_io;
use crate::dm::Access;
use crate::dm::Args;
use crate::dm::CtrError;
use crate::dm::Device;
use crate::dm::Durability;
use crate::dm::Ended;
use crate::dm::EndedBio;
use crate::dm::IoBuffer;
use crate::dm::IoClient;
use crate::dm::Mapped;
use crate::dm::NewBio;
use crate::dm::Setup;
use crate::dm::Status;
use crate::dm::StatusKind;
use crate::dm::Stop;
use crate::dm::SuspendKind;
use crate::dm::Target;
use crate::dm::Visitor;
use crate::dm::WorkQueue;
use crate::holey_core::epoch::Ticket;
use crate::holey_core::format::ChunkSize;
use crate::holey_core::format::SECTOR_SIZE;
use crate::holey_core::table::WriterLine;
use crate::origin_set::Origin;
use crate::origin_set::Outlet;
use crate::origin_set::Passage;
use crate::origin_set::Seat;
use crate::overlay::Role;
use crate::overlay::Tag;
use crate::snapshot::failed;
use crate::snapshot::report;
use core::fmt::Write;
use kernel::impl_has_work;
use kernel::new_mutex;
use kernel::new_work;
use kernel::prelude::*;
use kernel::str::CStr;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use kernel::workqueue::Work;
use kernel::workqueue::WorkItem;

/// What writes to the volume.
#[pin_data]
pub(crate) struct Writer {
    remote: Seat,
    origin: Origin,
    outlet: Arc<Outlet>,
    device: Device,
    sectors: u64,
    io: IoClient,
    /// One block, to see whether the volume takes it.
    #[pin]
    block: Mutex<IoBuffer>,
    queue: WorkQueue,
    #[pin]
    work: Work<Self>,
}

impl_has_work! {
    impl HasWork<Self> for Writer { self.work }
}

/// The device of the one who writes to a shared volume.
pub(crate) struct WriterTarget {
    writer: Arc<Writer>,
}

impl Writer {
    /// Looks whether there is an epoch to drain. Never sleeps.
    pub(crate) fn kick(this: &Arc<Self>) {
        // If it is queued already, it will look after this.
        let _ = this.queue.enqueue(this.clone());
    }

    /// Whether the volume takes a write: its first block, as it is. Nobody else writes to it now:
    /// what goes through writers was waited for, and during a merge it is not tried. Nobody joins
    /// then, so that it is not needed.
    fn probe(&self) -> Result {
        if self.origin.has_merge() {
            return Ok(());
        }
        let mut block = self.block.lock();
        let whole = 0..block.len();
        self.io.read(&self.device, 0, &mut block, whole.clone())?;
        self.io
            .write(&self.device, 0, &block, whole, Durability::Volatile)
    }
}

impl WorkItem for Writer {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let _drainer = this.remote.drainer.lock();
        while let Some(epoch) = this.remote.drain() {
            let taken = without_io(|| this.probe());
            if let Err(error) = taken {
                pr_err!(
                    "volume {}: it takes no writes from this node: error {}\n",
                    this.device.number(),
                    error.to_errno()
                );
            }
            this.remote.drained(epoch, taken.is_ok());
            if taken.is_err() {
                this.origin.left_alone();
            }
        }
    }
}

#[vtable]
impl Target for WriterTarget {
    type Data = Tag;

    const VERSION: [u32; 3] = [1, 0, 0];
    const IS_MEASURED: bool = false;

    fn create(setup: &mut Setup<'_>, args: Args<'_>) -> Result<Pin<KBox<Self>>, CtrError> {
        let words = (0..args.len())
            .filter_map(|n| args.get(n))
            .map(CStr::to_bytes);
        let line = WriterLine::parse(words).map_err(report)?;
        let Some(path) = args.get(0) else {
            return Err(failed(EINVAL));
        };
        if setup.begin() != 0 {
            return Err(CtrError::new(EINVAL, c"The target must begin at sector 0"));
        }
        let device = setup
            .open(path, Access::AsTable)
            .map_err(|errno| CtrError::new(errno, c"Cannot get target device"))?;
        let sectors = setup.sectors();
        let writer = Writer::new(device, line.chunk, sectors).map_err(|error| match error {
            EBUSY => CtrError::new(
                EBUSY,
                c"The volume has a writer with other chunks or another length",
            ),
            other => failed(other),
        })?;
        setup.set_flush_bios(1);
        KBox::pin(Self { writer }, GFP_KERNEL).map_err(|_| failed(ENOMEM))
    }

    fn teardown(&self) {
        let writer = &self.writer;
        writer.remote.abandon(writer);
        writer.queue.drain();
        writer.origin.remove_outlet(&writer.outlet);
    }

    fn map(&self, mut bio: NewBio<Tag>) -> Mapped {
        let writer = &self.writer;
        let (start, sectors) = (bio.sector(), u64::from(bio.sectors()));
        if !bio.is_write() || bio.is_flush() {
            return bio.remap(&writer.device, start);
        }
        // Counted first: see `remote.rs`.
        let ticket = writer.remote.enter();
        if writer.origin.is_clear(start, sectors) {
            let tag = bio.data();
            tag.role = Role::Tracked;
            tag.epoch = ticket.to_raw();
            return bio.remap(&writer.device, start);
        }
        writer.remote.leave(ticket);
        bio.set_target(&writer.device, start);
        let tag = bio.data();
        tag.role = Role::Writing;
        tag.outlet = writer.outlet.id();
        let (bio, held) = bio.hold();
        if let Some(bio) = writer.origin.admit(start, sectors, bio) {
            bio.submit();
        }
        held
    }

    fn end_io(&self, mut bio: EndedBio<Tag>) -> Ended {
        let tag = *bio.data();
        if tag.role == Role::Tracked {
            if bio.is_refused() {
                self.writer.remote.refused();
            }
            self.writer.remote.leave(Ticket::from_raw(tag.epoch));
        }
        bio.done()
    }

    fn presuspend(&self, kind: SuspendKind) {
        self.writer.origin.leave(&self.writer.outlet, kind);
    }

    fn presuspend_undo(&self) {
        self.writer.outlet.stay();
    }

    fn postsuspend(&self) {
        self.writer.remote.abandon(&self.writer);
        self.writer.queue.drain();
    }

    fn resume(&self) {
        self.writer.outlet.stay();
        self.writer.remote.drive(&self.writer);
    }

    fn status(&self, kind: StatusKind, out: &mut Status<'_>) {
        // Writing to a status line does not fail: what does not fit is cut off.
        let _ = match kind {
            StatusKind::Table => write!(
                out,
                "{} {}",
                self.writer.device.number(),
                self.writer.remote.chunk().sectors()
            ),
            StatusKind::Info => {
                let figures = self.writer.remote.figures();
                write!(
                    out,
                    "{} {} {} {}/{} {} {} {}",
                    figures.epoch,
                    figures.phase.name(),
                    if figures.agent { "agent" } else { "alone" },
                    figures.stable,
                    figures.chunks,
                    figures.waiting,
                    figures.held,
                    figures.requests
                )
            }
            StatusKind::Measurement => Ok(()),
        };
    }

    fn devices(&self, visitor: &mut Visitor<'_>) -> Result<(), Stop> {
        visitor.visit(&self.writer.device, 0, self.writer.sectors)
    }
}

impl Writer {
    fn new(device: Device, chunk: ChunkSize, sectors: u64) -> Result<Arc<Self>> {
        let origin = Origin::get(device.number())?;
        let bytes = u64::from(device.block_sectors()).saturating_mul(SECTOR_SIZE);
        let block = IoBuffer::new(usize::try_from(bytes)?)?;
        let io = IoClient::new()?;
        let queue = WorkQueue::new(c"holey_writer")?;
        let remote = origin.new_seat(chunk, sectors)?;
        let outlet = origin.add_outlet(Passage::Counted)?;
        Arc::pin_init(
            pin_init!(Self {
                remote,
                origin,
                outlet,
                device,
                sectors,
                io,
                block <- new_mutex!(block, "holey_probe"),
                queue,
                work <- new_work!("holey_writer"),
            }? Error),
            GFP_KERNEL,
        )
    }
}
