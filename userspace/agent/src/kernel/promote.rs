// SPDX-License-Identifier: GPL-2.0-or-later

//! How the target becomes the writer's.
//!
//! What the kernel refuses now it may do later: another device is on the volume, the COW device does not take the
//! list. So it is asked again, as nobody else is the writer meanwhile. Each step may have been done before.
//!
//! Until the kernel has taken the new table the copier goes on. After that what it had in memory is the merge's, and
//! its device waits until the list of it is written: nothing else than that may be done with it.

use super::Merging;
use super::Result;
use super::TargetError;
use super::Worker;
use crate::control::Failure;
use dmholey::dm::status::State;
use dmholey_cluster::event::Content;
use dmholey_cluster::event::Input;
use dmholey_cluster::ids::Epoch;
use holey_core::agent::Order;
use std::io;
use tracing::error;
use tracing::info;
use tracing::warn;

/// What the target is to become.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promotion {
    pub(super) epoch: Epoch,
    pub(super) content: Content,
}

impl Worker {
    /// Becomes the writer's, or sees to it that this is tried again.
    pub(super) fn try_to_promote(&mut self) {
        let Some(promotion) = self.promotion.take() else {
            return;
        };
        let done = self.promote(promotion);
        self.inlets.figures.promotion(done.is_ok());
        let Err(failed) = done else {
            self.settle(Ok(()));
            return;
        };
        let text = format!("{} does not become the writer's: {failed}", self.name);
        if failed.may_pass() {
            let again = format!("{text}; it is tried again");
            if self.settle(Err(Failure::Later(again.clone()))) {
                warn!("{again}");
            }
            self.promotion = Some(promotion);
        } else {
            error!("{text}");
            self.demote();
            self.settle(Err(Failure::Refused(text)));
        }
    }

    fn promote(&mut self, promotion: Promotion) -> Result<()> {
        let Promotion { epoch, content } = promotion;
        let target = self.target_of(&self.name)?.unwrap_or_default();
        if !self.speaks_for_writer() {
            // A copier keeps nothing any more for an older writer.
            self.close();
        }
        self.attachment = None;
        match (target.as_str(), content) {
            ("holey-writer", Content::AsItIs | Content::Volume) => {
                self.begin(epoch)?;
                self.dm.wake(&self.name)?;
                // An agent may have ended before it had forgotten the merge, which has ended.
                Ok(Merging::forget(&self.state)?)
            }
            ("holey-merge", Content::AsItIs | Content::View | Content::List) => {
                self.begin(epoch)?;
                self.dm.wake(&self.name)?;
                self.merging = true;
                Ok(())
            }
            ("holey-copier", Content::View) if self.is_valid()? => self.merge(epoch),
            ("error", Content::List) if self.has_begun_merge()? => self.merge(epoch),
            ("error", Content::List) => Err(TargetError::Wrong(
                "this node has not begun a merge; promote the one that has, or a copier".to_owned(),
            )),
            ("error", Content::Volume) => {
                self.dm.reload(&self.name, &[self.writer_line()])?;
                self.begin(epoch)
            }
            _ => Err(TargetError::Wrong(format!(
                "the target is {target}, which does not have what is to become the volume: its overlay is lost"
            ))),
        }
    }

    /// Speaks for the writer's target, and begins the first epoch.
    fn begin(&mut self, epoch: Epoch) -> Result<()> {
        if self.speaks_for_writer() {
            return Ok(());
        }
        let port = self.open_as_writer()?;
        // A target that does not begin it lets nothing through, or what is stable no more.
        port.insist(Order::Epoch { epoch: epoch.0 })?;
        self.port = Some(port);
        Ok(())
    }

    fn has_begun_merge(&self) -> io::Result<bool> {
        Ok(Merging::read(&self.state)?.is_some())
    }

    /// The overlay becomes part of the volume. A copier's list is written when the new table is put to use.
    fn merge(&mut self, epoch: Epoch) -> Result<()> {
        match self.target_of(&self.helper)?.as_deref() {
            None => self.create_helper()?,
            Some("holey-writer") => {}
            // Somebody had it open when it was to go.
            Some(_) => self.exchange(&self.helper, self.writer_line())?,
        }
        self.begin(epoch)?;
        // From here on the volume is not what it was.
        let ballot = self.ballot;
        Merging { ballot }.write(&self.state)?;
        self.suspend(&self.name)?;
        let line = self.overlay_line("holey-merge");
        if let Err(refused) = self.dm.reload(&self.name, &[line]) {
            // If it has not taken the table the view is still what it was.
            self.dm.wake(&self.name)?;
            return Err(refused.into());
        }
        self.merging = true;
        Ok(())
    }

    pub(super) fn look_at_merge(&mut self) -> Result<()> {
        let status = self.status_of(&self.name)?;
        match State::parse(&status) {
            Some(state) if state.is_merged() => {}
            Some(State::MergeFailed) => {
                warn!("the merge has failed, and is tried again");
                self.suspend(&self.name)?;
                return Ok(self.dm.wake(&self.name)?);
            }
            _ => return Ok(()),
        }
        // Writes that wait for copiers go back meanwhile: this thread is the one who would let them through.
        self.exchange(&self.name, self.writer_line())?;
        self.merging = false;
        Merging::forget(&self.state)?;
        info!("the overlay is merged");
        self.say(Input::Merged);
        // Who looks at all devices may have it open: then it goes with the writer, or the next agent.
        self.remove_helper()
    }
}
