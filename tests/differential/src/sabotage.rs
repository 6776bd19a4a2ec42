// SPDX-License-Identifier: GPL-2.0-or-later

//! Faults made on purpose on our side, to show that they are found.

use crate::action::Outcome;
use crate::action::Step;
use crate::action::Write;
use clap::ValueEnum;
use rustix::io::Errno;

/// A write of at least so many sectors is spoilt.
const LONG: u64 = 5;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sabotage {
    /// Writes of some length to a snapshot have a wrong bit at their end.
    Data,
    /// Writes of some length to a snapshot are told to have failed.
    Errno,
    /// A status that tells of 3 exceptions tells of 2.
    Status,
}

impl Sabotage {
    /// Spoils data on its way to a device.
    pub(crate) fn data(self, write: &Write, data: &mut [u8]) {
        if self == Self::Data && is_victim(write) {
            if let Some(last) = data.last_mut() {
                *last ^= 1;
            }
        }
    }

    /// Spoils what came of an action.
    pub(crate) fn outcome(self, step: &Step, outcome: Outcome) -> Outcome {
        match &step.action {
            crate::action::Action::Write { write, .. }
                if self == Self::Errno && is_victim(write) =>
            {
                Outcome::Failed(Errno::NOMEM)
            }
            _ => outcome,
        }
    }

    /// Spoils a status.
    pub(crate) fn status(self, status: String) -> String {
        match status.strip_prefix("40/") {
            Some(rest) if self == Self::Status && rest.ends_with(" 16") => format!("32/{rest}"),
            _ => status,
        }
    }
}

fn is_victim(write: &Write) -> bool {
    write.name.starts_with("snapshot") && write.count >= LONG
}
