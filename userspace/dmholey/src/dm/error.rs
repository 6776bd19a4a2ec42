// SPDX-License-Identifier: GPL-2.0-or-later

//! What the kernel answers when it does not do what it is asked.

use std::io;

/// A refusal, with the object and the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The control device cannot be used.
    #[error("device-mapper cannot be reached ({hint})")]
    Control {
        /// The way out.
        hint: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The device does not exist.
    #[error("{0}: no such device; 'dmholey status' lists those there are")]
    NoDevice(String),
    /// A device of this name exists.
    #[error("{0}: a device of this name exists; choose another name or remove it first")]
    Exists(String),
    /// The device has users.
    #[error("{0}: in use; unmount it, or remove it with --deferred")]
    Busy(String),
    /// The kernel does not know the target type.
    #[error("{device}: the kernel has no target {target}; is the module loaded? (modprobe {module}, or insmod {module}.ko)")]
    NoTarget {
        /// The device that was to be made.
        device: String,
        /// The target type.
        target: String,
        /// The module that has it.
        module: &'static str,
    },
    /// Anything else.
    #[error("{device}: the kernel does not {action} ({said})")]
    Refused {
        /// The device.
        device: String,
        /// What was asked, as an infinitive.
        action: &'static str,
        /// What its log says about that, or where to look.
        said: String,
        /// Its answer.
        source: io::Error,
    },
    /// The name cannot be one.
    #[error("'{name}' cannot be a device name: {why}")]
    Name {
        /// The name.
        name: String,
        /// The reason.
        why: &'static str,
    },
    /// A merge ended badly.
    #[error("{device}: {why}")]
    Merge {
        /// The device.
        device: String,
        /// The reason and the way out.
        why: &'static str,
    },
    /// A device is not what the command is for.
    #[error("{device}: {why}")]
    Wrong {
        /// The device.
        device: String,
        /// What it is, and what it should be.
        why: String,
    },
}

impl Error {
    /// Whether a signal came in between, and nothing was done.
    pub fn is_interrupted(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.kind() == io::ErrorKind::Interrupted)
    }
}
