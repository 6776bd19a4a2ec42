// SPDX-License-Identifier: GPL-2.0

//! The target `holey-writer`: stability over the local snapshots and the copiers on other hosts.
//!
//! Table line: `holey-writer <volume> <chunk sectors> [<#words> write_back [<MiB>]]`.
//!
//! Status: `<epoch> <phase> <agent> <stable>/<chunks> <waiting> <held> <requests> <in flight>`, and
//! with `write_back` `<buffered> <written> <lost>`, see `Documentation/targets/holey-writer.rst`.

use crate::dm::without_io;
use crate::dm::Access;
use crate::dm::Args;
use crate::dm::CtrError;
use crate::dm::Device;
use crate::dm::Durability;
use crate::dm::Ended;
use crate::dm::EndedBio;
use crate::dm::Gate;
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
use crate::holey_core::format::SECTOR_SIZE;
use crate::holey_core::table::WriteBack as WriteBackLine;
use crate::holey_core::table::WriterLine;
use crate::origin_set::Origin;
use crate::origin_set::Outlet;
use crate::origin_set::Passage;
use crate::origin_set::Seat;
use crate::overlay::Bio;
use crate::overlay::Role;
use crate::overlay::Tag;
use crate::remote::Remote;
use crate::snapshot::failed;
use crate::snapshot::report;
use crate::write_back::Flushed;
use crate::write_back::WriteBack;
use crate::write_back::MOST_LOOKED_UP;
use core::fmt::Write;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;
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
    write_back: Option<WriteBackLine>,
    /// The last write that it has put into the buffer.
    last_put: AtomicU64,
    /// It is suspended, or about to be.
    stopping: AtomicBool,
    /// Writes from the buffer that are on their way to its device.
    flights: Arc<Gate>,
    queue: WorkQueue,
    #[pin]
    work: Work<Self>,
    #[pin]
    sweep: Work<Self, SWEEP>,
    #[pin]
    attendance: Work<Self, ATTENDANCE>,
}

/// Work for the write-back buffer.
const SWEEP: u64 = 1;
const ATTENDANCE: u64 = 2;

impl_has_work! {
    impl HasWork<Self> for Writer { self.work }
    impl HasWork<Self, 1> for Writer { self.sweep }
    impl HasWork<Self, 2> for Writer { self.attendance }
}

/// The device of the one who writes to a shared volume.
pub(crate) struct WriterTarget {
    writer: Arc<Writer>,
}

impl Writer {
    /// Looks whether there is an epoch to drain. Never sleeps.
    pub(crate) fn kick(this: &Arc<Self>) {
        // If it is queued already, it will look after this.
        let _ = this.queue.enqueue::<_, 0>(this.clone());
    }

    /// Has what may go sent from the buffer. Never sleeps.
    pub(crate) fn sweep(this: &Arc<Self>) {
        // If it is queued already, it will look after this.
        let _ = this.queue.enqueue::<_, SWEEP>(this.clone());
    }

    /// Has those looked after that wait for what is in the buffer. Never sleeps.
    pub(crate) fn attend(this: &Arc<Self>) {
        let _ = this.queue.enqueue::<_, ATTENDANCE>(this.clone());
    }

    pub(crate) fn remote(&self) -> &Remote {
        &self.remote
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn flights(&self) -> &Arc<Gate> {
        &self.flights
    }

    /// Whether it has to stop waiting.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Keeps a write until it can go, or sends it. May sleep for memory.
    pub(crate) fn hold(&self, buffer: Option<&WriteBack>, bio: Bio) {
        let mut bio = bio;
        if let Some(buffer) = buffer {
            let outlet = bio.data().outlet;
            match buffer.park(bio) {
                Some(other) => bio = other,
                None => return self.origin.dismiss_leaving(&self.remote, Some(outlet)),
            }
        }
        let (start, sectors) = (bio.sector(), u64::from(bio.sectors()));
        if let Some(bio) = self.origin.admit(start, sectors, bio) {
            bio.submit();
        }
    }

    /// Does not drive the volume any more; all that it has sent from the buffer has ended then.
    /// Sleeps.
    fn stop(this: &Arc<Self>) {
        this.stopping.store(true, Ordering::Release);
        this.origin.nudge();
        this.remote.abandon(this);
        this.queue.drain();
        this.flights.wait_idle();
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

impl WorkItem<SWEEP> for Writer {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        if let Some(buffer) = this.remote.buffer() {
            without_io(|| buffer.sweep(&this));
        }
    }
}

impl WorkItem<ATTENDANCE> for Writer {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        if let Some(buffer) = this.remote.buffer() {
            without_io(|| buffer.attend(&this));
        }
    }
}

#[vtable]
impl Target for WriterTarget {
    type Data = Tag;

    const VERSION: [u32; 3] = [1, 2, 0];
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
        let writer = Writer::new(device, line, sectors).map_err(|error| match error {
            EBUSY => CtrError::new(
                EBUSY,
                c"The volume has a writer with other chunks, or of another length or buffer",
            ),
            other => failed(other),
        })?;
        setup.set_flush_bios(1);
        if line.write_back.is_some() {
            setup.set_write_cache();
        }
        KBox::pin(Self { writer }, GFP_KERNEL).map_err(|_| failed(ENOMEM))
    }

    fn teardown(&self) {
        Writer::stop(&self.writer);
        self.writer.origin.remove_outlet(&self.writer.outlet);
    }

    fn map(&self, mut bio: NewBio<Tag>) -> Mapped {
        let writer = &self.writer;
        let buffer = writer.remote.buffer();
        // What was acknowledged before this bio was sent is seen here.
        if let Some(buffer) = buffer.filter(|buffer| !buffer.is_idle()) {
            return self.map_over(buffer, bio);
        }
        let start = bio.sector();
        if !bio.is_write() || bio.is_flush() {
            return bio.remap(&writer.device, start);
        }
        if writer.let_through(&mut bio) {
            return bio.remap(&writer.device, start);
        }
        self.map_later(buffer, bio)
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
        self.finish();
    }

    fn presuspend_undo(&self) {
        self.writer.outlet.stay();
    }

    fn postsuspend(&self) {
        // Nothing is put into the buffer any more.
        self.finish();
        Writer::stop(&self.writer);
    }

    fn preresume(&self) -> Result {
        let writer = &self.writer;
        let owing = writer.remote.buffer().is_some_and(WriteBack::is_owing);
        if writer.write_back.is_none() && owing && !writer.remote.is_driven() {
            pr_err!(
                "volume {}: data that was acknowledged is not written, or is lost and nobody was told; \
                 load a table with write_back\n",
                writer.device.number()
            );
            return Err(EBUSY);
        }
        Ok(())
    }

    fn resume(&self) {
        let writer = &self.writer;
        writer.outlet.stay();
        writer.stopping.store(false, Ordering::Release);
        if let Some(buffer) = writer.remote.buffer() {
            buffer.resumed();
            // What an earlier table has left is seen to by this one.
            if !writer.remote.is_driven() {
                let last = buffer.last_order();
                writer.last_put.fetch_max(last, Ordering::AcqRel);
            }
        }
        writer.remote.drive(writer);
    }

    fn status(&self, kind: StatusKind, out: &mut Status<'_>) {
        // Writing to a status line does not fail: what does not fit is cut off.
        let _ = match kind {
            StatusKind::Table => write!(
                out,
                "{} {}",
                self.writer.device.number(),
                self.writer.remote.chunk().sectors()
            )
            .and_then(|()| match self.writer.write_back {
                Some(line) => write!(out, "{line}"),
                None => Ok(()),
            }),
            StatusKind::Info => {
                let figures = self.writer.remote.figures();
                write!(
                    out,
                    "{} {} {} {}/{} {} {} {} {}",
                    figures.epoch,
                    figures.phase.name(),
                    if figures.agent { "agent" } else { "alone" },
                    figures.stable,
                    figures.chunks,
                    figures.waiting,
                    figures.held,
                    figures.requests,
                    figures.in_flight
                )
                .and_then(|()| self.buffer_status(out))
            }
            StatusKind::Measurement => Ok(()),
        };
    }

    fn devices(&self, visitor: &mut Visitor<'_>) -> Result<(), Stop> {
        visitor.visit(&self.writer.device, 0, self.writer.sectors)
    }
}

impl WriterTarget {
    /// Decides what becomes of a bio while there is something in the buffer, or something was lost.
    fn map_over(&self, buffer: &WriteBack, mut bio: NewBio<Tag>) -> Mapped {
        let writer = &self.writer;
        let start = bio.sector();
        if bio.is_flush() {
            return self.map_flush(buffer, bio);
        }
        if !bio.is_write() {
            if !buffer.read(&mut bio) {
                return bio.remap(&writer.device, start);
            }
            let (bio, held) = bio.hold();
            bio.end_ok();
            return held;
        }
        bio.shorten(MOST_LOOKED_UP);
        let sectors = u64::from(bio.sectors());
        if !buffer.overlaps(start, sectors) && writer.let_through(&mut bio) {
            return bio.remap(&writer.device, start);
        }
        self.map_later(Some(buffer), bio)
    }

    /// A write that cannot go now: it goes into the buffer, or is held.
    fn map_later(&self, buffer: Option<&WriteBack>, mut bio: NewBio<Tag>) -> Mapped {
        let writer = &self.writer;
        let start = bio.sector();
        let wanted = writer.write_back.is_some() && !bio.is_fua() && writer.outlet.is_staying();
        if let Some(buffer) = buffer.filter(|_| wanted) {
            if let Ok(order) = buffer.put(&mut bio) {
                writer.last_put.fetch_max(order, Ordering::AcqRel);
                buffer.ask(&writer.remote, start, u64::from(bio.sectors()));
                let (bio, held) = bio.hold();
                bio.end_ok();
                return held;
            }
        }
        bio.set_target(&writer.device, start);
        let tag = bio.data();
        tag.role = Role::Writing;
        tag.outlet = writer.outlet.id();
        let (bio, held) = bio.hold();
        writer.hold(buffer, bio);
        held
    }

    fn map_flush(&self, buffer: &WriteBack, mut bio: NewBio<Tag>) -> Mapped {
        let writer = &self.writer;
        bio.set_target(&writer.device, 0);
        bio.data().outlet = writer.outlet.id();
        let (bio, held) = bio.hold();
        match buffer.flush(bio) {
            Flushed::Pass(bio) => bio.submit(),
            Flushed::Failed(bio) => bio.end_error(),
            Flushed::Kept => {
                let outlet = writer.outlet.id();
                writer.origin.dismiss_leaving(&writer.remote, Some(outlet));
            }
        }
        held
    }

    /// If the device is suspended so that nothing is left to write, waits until all is written that
    /// came through it; not if nobody can let it through, nor after a signal.
    fn finish(&self) {
        let writer = &self.writer;
        let last = writer.last_put.load(Ordering::Acquire);
        if writer.outlet.is_finishing() && !writer.remote.await_landed(last) {
            pr_warn!(
                "volume {}: data that was acknowledged stays in memory until the device is resumed\n",
                writer.device.number()
            );
        }
    }

    fn buffer_status(&self, out: &mut Status<'_>) -> core::fmt::Result {
        match (self.writer.write_back, self.writer.remote.buffer()) {
            (Some(_), Some(buffer)) => {
                let amounts = buffer.amounts();
                let (buffered, written) = (amounts.buffered, amounts.written);
                write!(out, " {buffered} {written} {}", amounts.lost)
            }
            _ => Ok(()),
        }
    }
}

impl Writer {
    /// Whether a write may go at once: then it is counted, until it ends.
    fn let_through(&self, bio: &mut NewBio<Tag>) -> bool {
        // Counted first: see `remote.rs`.
        let ticket = self.remote.enter();
        if !self.origin.is_clear(bio.sector(), u64::from(bio.sectors())) {
            self.remote.leave(ticket);
            return false;
        }
        let tag = bio.data();
        tag.role = Role::Tracked;
        tag.epoch = ticket.to_raw();
        true
    }

    fn new(device: Device, line: WriterLine, sectors: u64) -> Result<Arc<Self>> {
        let origin = Origin::get(device.number())?;
        let bytes = u64::from(device.block_sectors()).saturating_mul(SECTOR_SIZE);
        let block = IoBuffer::new(usize::try_from(bytes)?)?;
        let io = IoClient::new()?;
        let queue = WorkQueue::new(c"holey_writer")?;
        let mib = line.write_back.map(WriteBackLine::mib);
        let remote = origin.new_seat(line.chunk, sectors, mib)?;
        let outlet = origin.add_outlet(Passage::Counted)?;
        let flights = Gate::new()?;
        Arc::pin_init(
            pin_init!(Self {
                remote,
                origin,
                outlet,
                device,
                sectors,
                io,
                block <- new_mutex!(block, "holey_probe"),
                write_back: line.write_back,
                last_put: AtomicU64::new(0),
                stopping: AtomicBool::new(false),
                flights,
                queue,
                work <- new_work!("holey_writer"),
                sweep <- new_work!("holey_writer_sweep"),
                attendance <- new_work!("holey_writer_attendance"),
            }? Error),
            GFP_KERNEL,
        )
    }
}
