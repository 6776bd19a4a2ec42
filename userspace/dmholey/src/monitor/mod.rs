// SPDX-License-Identifier: GPL-2.0-or-later

//! Extends the stores of snapshots before they are full.
//!
//! | module | does |
//! | --- | --- |
//! | [`policy`] | from how full a store is to how large it should be |
//! | [`track`] | what one device went through: when to extend it, when to try again, what to tell |
//! | [`backing`] | what a COW device lies on, and so how it can grow |
//! | [`extend`] | makes it grow |
//! | [`lvm`] | the same for logical volumes |
//! | [`child`] | runs programs |
//! | [`event`] | what is told to people, to programs and to the hook |
//! | [`config`] | the file |
//! | [`watch`] | the loop that drives all of this |
//!
//! [`policy`] and [`track`] know no kernel and no clock: they are told what is seen, and say what is to be done.
//!
//! The root file system may be what waits for space. So the loop itself writes to no file, holds its memory, and waits
//! for nobody: whatever might wait is done by a thread of its own, one for each extension, each call of the hook, and
//! the output.

pub mod backing;
pub mod child;
pub mod config;
pub mod event;
pub mod extend;
pub mod lvm;
pub mod policy;
pub mod track;
pub mod watch;
