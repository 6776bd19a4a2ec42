// SPDX-License-Identifier: GPL-2.0

//! Safe abstractions over device-mapper, for targets written in Rust.
//!
//! How a target is made:
//!
//! 1. Implement [`Target`]: [`Target::create`] parses the table line and opens devices through
//!    [`Setup`]; [`Target::map`] decides what becomes of a bio.
//! 2. Register it with [`Registration::new`]; dropping the registration unregisters it.
//!
//! | here | stands for |
//! | --- | --- |
//! | [`Target`], [`Registration`] | `struct target_type` |
//! | [`Setup`] | `struct dm_target` while the constructor runs |
//! | [`Device`] | `struct dm_dev`, as a counted reference |
//! | [`Bio`], [`NewBio`], [`EndedBio`], [`BioList`] | `struct bio`, owned by who has to finish it |
//! | [`CopyClient`], [`CopyJob`], [`ZeroJob`] | copies between devices, by bios or by `dm-kcopyd` |
//! | [`IoClient`] | a `dm-io` client, synchronous |
//! | [`Memory`], [`WriteClient`] | pages, and bios that write them |
//! | [`CharDevice`], [`DeviceFile`] | `struct miscdevice` and a file of it |
//! | [`MemPool`], [`PoolBox`] | `mempool_t` and an element of it |
//! | [`IrqLock`], [`WaitQueue`], [`Gate`], [`WorkQueue`], [`OnceBox`] | what has no other wrapper |
//!
//! Ownership of a bio: from [`Target::map`] to the moment it is submitted, ended or handed back as
//! remapped, a bio belongs to one owner; dropping it ends it with an I/O error, so that none is
//! ever forgotten.
//!
//! Ownership of devices: a [`Device`] may be cloned into jobs and shared state. The destructor of
//! the target waits until every clone is gone before the core takes the device back.

mod args;
mod bindings;
mod bio;
mod chardev;
mod copy;
mod device;
mod flags;
mod io;
mod kcopyd;
mod lock;
mod memory;
mod noio;
mod once;
mod pool;
mod target;
mod wait;
mod workqueue;

pub(crate) use self::args::Args;
pub(crate) use self::args::CtrError;
pub(crate) use self::bio::Bio;
pub(crate) use self::bio::BioList;
pub(crate) use self::bio::EndedBio;
pub(crate) use self::bio::Failure;
pub(crate) use self::bio::NewBio;
pub(crate) use self::chardev::CharDevice;
pub(crate) use self::chardev::DeviceFile;
pub(crate) use self::chardev::Ready;
pub(crate) use self::copy::CopyClient;
pub(crate) use self::copy::Flight;
pub(crate) use self::device::Access;
pub(crate) use self::device::Device;
pub(crate) use self::device::DeviceNumber;
pub(crate) use self::device::Region;
pub(crate) use self::io::Durability;
pub(crate) use self::io::IoBuffer;
pub(crate) use self::io::IoClient;
pub(crate) use self::kcopyd::CopyJob;
pub(crate) use self::kcopyd::Outcome;
pub(crate) use self::kcopyd::Throttle;
pub(crate) use self::kcopyd::ZeroJob;
pub(crate) use self::kcopyd::MAX_DESTINATIONS;
pub(crate) use self::lock::new_irq_lock;
pub(crate) use self::lock::IrqLock;
pub(crate) use self::memory::Memory;
pub(crate) use self::memory::WriteClient;
pub(crate) use self::memory::WriteJob;
pub(crate) use self::memory::Written;
pub(crate) use self::noio::without_io;
pub(crate) use self::once::OnceBox;
pub(crate) use self::pool::MemPool;
pub(crate) use self::pool::PoolBox;
pub(crate) use self::target::Ended;
pub(crate) use self::target::Limits;
pub(crate) use self::target::Mapped;
pub(crate) use self::target::Registration;
pub(crate) use self::target::Setup;
pub(crate) use self::target::Status;
pub(crate) use self::target::StatusKind;
pub(crate) use self::target::Stop;
pub(crate) use self::target::SuspendKind;
pub(crate) use self::target::Table;
pub(crate) use self::target::Target;
pub(crate) use self::target::Visitor;
pub(crate) use self::wait::new_wait_queue;
pub(crate) use self::wait::Gate;
pub(crate) use self::wait::Pass;
pub(crate) use self::wait::WaitQueue;
pub(crate) use self::workqueue::WorkQueue;
