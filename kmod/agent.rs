// SPDX-License-Identifier: GPL-2.0

//! `/dev/dmholey`, through which the agent of a cluster speaks to the targets on its host.
//!
//! Each open file is one agent for one volume. What is said is in `core/agent.rs`. Nothing here
//! waits for an agent, nor an agent for another: reading and writing return `EAGAIN`, and poll tells
//! when to try again. Only writes that an agent lets through are sent by it, and wait with it if the
//! volume takes no more at a time. What an agent can make the kernel keep is limited: a number of
//! requests that it has not fetched the answers of, and nothing else.
//!
//! An agent that goes takes nothing along: the next one begins an epoch, in which all that writes
//! wait for is asked anew.

use crate::dm::new_wait_queue;
use crate::dm::without_io;
use crate::dm::DeviceFile;
use crate::dm::DeviceNumber;
use crate::dm::Ready;
use crate::dm::WaitQueue;
use crate::holey_core::agent::Event;
use crate::holey_core::agent::Order;
use crate::holey_core::agent::Role;
use crate::holey_core::agent::LEN;
use crate::holey_core::format::ChunkSize;
use crate::keeper::Keeper;
use crate::origin_set::Origin;
use crate::overlay::Bios;
use crate::remote::Remote;
use crate::remote::SLICE;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::ArcBorrow;
use kernel::sync::Mutex;
use kernel::sync::SetOnce;
use kernel::uaccess::UserSliceReader;
use kernel::uaccess::UserSliceWriter;

/// Records that are handled by one call, at most.
const RECORDS: usize = 512;

/// What an agent speaks for.
enum Bound {
    Writer(Origin, Arc<Remote>),
    Copier(Arc<Keeper>),
}

/// An open file.
#[pin_data]
pub(crate) struct Agent {
    bound: SetOnce<Bound>,
    #[pin]
    binding: Mutex<()>,
    #[pin]
    called: WaitQueue,
}

impl Agent {
    /// There is something to read, or room to write. Never sleeps.
    pub(crate) fn wake(&self) {
        self.called.wake();
    }

    fn bind(
        self: ArcBorrow<'_, Self>,
        role: Role,
        number: DeviceNumber,
        chunk: ChunkSize,
    ) -> Result {
        let _binding = self.binding.lock();
        if self.bound.as_ref().is_some() {
            return Err(EBUSY);
        }
        let origin = Origin::get(number)?;
        let agent: Arc<Self> = self.into();
        let bound = match role {
            Role::Writer => {
                let remote = origin.remote().ok_or(ENODEV)?;
                if remote.chunk() != chunk {
                    return Err(EINVAL);
                }
                remote.bind(&agent)?;
                Bound::Writer(origin, remote)
            }
            Role::Copier if !origin.has_copiers() => return Err(ENODEV),
            Role::Copier => Bound::Copier(Keeper::new(origin, chunk, agent.clone())?),
        };
        agent.bound.populate(bound);
        agent.wake();
        Ok(())
    }

    /// See [`DeviceFile::read`].
    fn tell(self: ArcBorrow<'_, Self>, mut to: UserSliceWriter) -> Result<usize> {
        let room = (to.len() / LEN).min(RECORDS);
        if room == 0 {
            return Err(EINVAL);
        }
        let mut records = KVVec::with_capacity(room.saturating_mul(LEN), GFP_KERNEL)?;
        // There is room for all of them.
        let accept = |event: Event| {
            records
                .extend_from_slice(&event.encode(), GFP_NOWAIT)
                .is_ok()
        };
        match self.bound.as_ref().ok_or(EBADF)? {
            Bound::Writer(_, remote) => remote.fetch(limited(room, accept)),
            Bound::Copier(keeper) => keeper.fetch(limited(room, accept)),
        }
        if records.is_empty() {
            return Err(EAGAIN);
        }
        to.write_slice(&records)?;
        Ok(records.len())
    }

    /// See [`DeviceFile::write`].
    fn hear(self: ArcBorrow<'_, Self>, mut from: UserSliceReader) -> Result<usize> {
        if from.is_empty() || from.len() % LEN != 0 {
            return Err(EINVAL);
        }
        let count = (from.len() / LEN).min(RECORDS);
        let mut orders = KVVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            let mut record = [0; LEN];
            from.read_slice(&mut record)?;
            let order = Order::decode(&record).map_err(|error| {
                pr_err!("an agent is not to be understood: {}\n", error);
                EINVAL
            })?;
            orders.push_within_capacity(order).map_err(|_| ENOMEM)?;
        }
        Ok(self.take(&orders)?.saturating_mul(LEN))
    }

    /// Takes orders, as many as there is room for. Says how many.
    fn take(self: ArcBorrow<'_, Self>, orders: &[Order]) -> Result<usize> {
        let (first, rest) = orders.split_first().ok_or(EINVAL)?;
        if let Order::Bind {
            role,
            major,
            minor,
            chunk,
        } = *first
        {
            if !rest.is_empty() {
                return Err(EINVAL);
            }
            let number = DeviceNumber::new(major, minor).ok_or(ENODEV)?;
            return self.bind(role, number, chunk).map(|()| 1);
        }
        match self.bound.as_ref().ok_or(EBADF)? {
            Bound::Writer(origin, remote) => take_as_writer(origin, remote, orders),
            Bound::Copier(keeper) => take_as_copier(keeper, orders),
        }
    }
}

fn take_as_writer(origin: &Origin, remote: &Remote, orders: &[Order]) -> Result<usize> {
    let fits = |order: &Order| matches!(order, Order::Stable { .. } | Order::Epoch { .. });
    if !orders.iter().all(fits) {
        return Err(EINVAL);
    }
    let mut ready = Bios::default();
    let mut done = Ok(());
    let mut taken = 0;
    'orders: for order in orders {
        match *order {
            Order::Stable { epoch, range } => {
                for slice in remote.within(range).slices(SLICE) {
                    // Whoever is told to end need not go through a large volume again and again. To be
                    // told of a chunk once more does no harm.
                    if kernel::current!().signal_pending() {
                        break 'orders;
                    }
                    ready.append(&mut remote.settle(epoch, slice));
                }
            }
            Order::Epoch { epoch } => done = done.and(remote.begin_epoch(epoch)),
            _ => {}
        }
        taken += 1;
    }
    let mut count = 0;
    while let Some(bio) = ready.pop() {
        count += 1;
        let (start, sectors) = (bio.sector(), u64::from(bio.sectors()));
        if let Some(bio) = origin.admit(start, sectors, bio) {
            bio.submit();
        }
    }
    remote.released(count);
    match done {
        Ok(()) if taken == 0 => Err(EINTR),
        _ => done.map(|()| taken),
    }
}

fn take_as_copier(keeper: &Arc<Keeper>, orders: &[Order]) -> Result<usize> {
    let fits = |order: &Order| matches!(order, Order::Keep { range, .. } if keeper.suits(*range));
    if !orders.iter().all(fits) {
        return Err(EINVAL);
    }
    let mut count = 0;
    for order in orders {
        if let Order::Keep { number, range } = *order {
            if !keeper.keep(number, range) {
                break;
            }
            count += 1;
        }
    }
    if count == 0 {
        return Err(EAGAIN);
    }
    Keeper::kick(keeper);
    Ok(count)
}

impl DeviceFile for Agent {
    fn open() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                bound: SetOnce::new(),
                binding <- new_mutex!((), "holey_binding"),
                called <- new_wait_queue!(c"holey_agent"),
            }),
            GFP_KERNEL,
        )
    }

    // Neither must come back to this process for memory: writes wait for it.
    fn read(self: ArcBorrow<'_, Self>, to: UserSliceWriter) -> Result<usize> {
        without_io(|| self.tell(to))
    }

    fn write(self: ArcBorrow<'_, Self>, from: UserSliceReader) -> Result<usize> {
        without_io(|| self.hear(from))
    }

    fn ready(&self) -> Ready {
        match self.bound.as_ref() {
            None => Ready {
                to_read: false,
                to_write: true,
            },
            Some(Bound::Writer(_, remote)) => Ready {
                to_read: remote.has_events(),
                to_write: true,
            },
            Some(Bound::Copier(keeper)) => keeper.ready(),
        }
    }

    fn waiters(&self) -> &WaitQueue {
        &self.called
    }

    fn close(&self) {
        match self.bound.as_ref() {
            None => {}
            Some(Bound::Writer(origin, remote)) => {
                remote.unbind();
                origin.left_alone();
            }
            Some(Bound::Copier(keeper)) => keeper.stop(),
        }
    }
}

/// Accepts no more than so many.
fn limited(mut room: usize, mut accept: impl FnMut(Event) -> bool) -> impl FnMut(Event) -> bool {
    move |event| {
        let taken = room > 0 && accept(event);
        room = room.saturating_sub(usize::from(taken));
        taken
    }
}
