// SPDX-License-Identifier: GPL-2.0-or-later

//! What the program's exit code says.

use crate::dm;
use dmholey_cow::Kind;
use std::fmt::Write;
use std::io;

/// The exit codes, all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok,
    /// The operation failed.
    Failed,
    /// The command line makes no sense.
    Usage,
    /// A check found problems, or something newer.
    Findings,
    /// The kernel or one of its devices refused.
    Kernel,
    /// The input is no COW store, delta or repository, or a damaged or invalidated one.
    Store,
    /// Refused to protect data; nothing was changed.
    Refused,
    /// Not done yet; that is a matter of time.
    Later,
    /// Stopped by a signal.
    Interrupted,
}

impl Exit {
    /// All codes with their meaning, as the help shows them.
    pub const ALL: [(Self, &'static str); 9] = [
        (Self::Ok, "done"),
        (Self::Failed, "the operation failed"),
        (Self::Usage, "the command line makes no sense"),
        (Self::Findings, "a check found problems, or something newer"),
        (Self::Kernel, "the kernel or one of its devices refused"),
        (
            Self::Store,
            "the input is no COW store, delta or repository, or a damaged or invalidated one",
        ),
        (
            Self::Refused,
            "refused to protect data; nothing was changed",
        ),
        (Self::Later, "not done yet, which is a matter of time"),
        (Self::Interrupted, "stopped by a signal"),
    ];

    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Findings => 3,
            Self::Kernel => 4,
            Self::Store => 5,
            Self::Refused => 6,
            Self::Later => 7,
            Self::Interrupted => 130,
        }
    }

    /// The code for a failure, found by what caused it. A reader of our output who went away is no
    /// failure.
    pub fn of(error: &anyhow::Error) -> Self {
        for cause in error.chain() {
            if let Some(refusal) = cause.downcast_ref::<Refusal>() {
                return refusal.exit;
            }
            let cow = cause.downcast_ref::<dmholey_cow::Error>();
            let delta = cause.downcast_ref::<dmholey_delta::Error>();
            let repository = cause.downcast_ref::<dmholey_repository::Error>();
            let publish = cause.downcast_ref::<dmholey_publish::Error>();
            let update = cause.downcast_ref::<dmholey_update::Error>();
            let kind = cow.map(|e| e.kind()).or(delta.map(|e| e.kind()));
            let kind = kind.or(repository.map(|e| e.kind()));
            let kind = kind.or(publish.map(|e| e.kind()));
            if let Some(kind) = kind.or(update.map(|e| e.kind())) {
                return match kind {
                    Kind::Io => Self::Failed,
                    Kind::Store => Self::Store,
                    Kind::Refused => Self::Refused,
                    Kind::Interrupted => Self::Interrupted,
                };
            }
            if let Some(cause) = cause.downcast_ref::<dmholey_image::Error>() {
                return match cause.kind() {
                    dmholey_image::Kind::Io | dmholey_image::Kind::Input => Self::Failed,
                    dmholey_image::Kind::Refused => Self::Refused,
                    dmholey_image::Kind::Interrupted => Self::Interrupted,
                };
            }
            if cause.is::<dm::Error>() {
                return Self::Kernel;
            }
            let io = cause.downcast_ref::<io::Error>();
            if io.is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe) {
                return Self::Ok;
            }
        }
        Self::Failed
    }
}

/// An error of our own with the exit code that it means. See [`refuse`].
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Refusal {
    text: String,
    exit: Exit,
}

/// Refuses something: `text` names the object and the way out.
pub fn refuse(exit: Exit, text: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Refusal {
        text: text.into(),
        exit,
    })
}

/// The part of the help that lists the exit codes.
pub fn help() -> String {
    let mut text = "Exit status:".to_owned();
    for (exit, meaning) in Exit::ALL {
        // Writing to a string does not fail.
        let _ = write!(text, "\n  {:>3}  {meaning}", exit.code());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn codes_are_distinct_and_listed() {
        let mut codes: Vec<u8> = Exit::ALL.iter().map(|(exit, _)| exit.code()).collect();
        codes.dedup();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 130]);
        assert!(help().contains("  5  the input is no COW store"));
    }

    #[test]
    fn the_cause_decides() {
        let of = |error: anyhow::Error| Exit::of(&error.context("while testing"));
        assert_eq!(of(anyhow::anyhow!("plain")), Exit::Failed);
        assert_eq!(of(refuse(Exit::Refused, "no")), Exit::Refused);
        assert_eq!(
            of(dmholey_cow::Error::Interrupted.into()),
            Exit::Interrupted
        );
        let fresh = dmholey_cow::Error::Fresh {
            object: "x".to_owned(),
        };
        assert_eq!(of(fresh.into()), Exit::Store);
        let magic = dmholey_delta::Error::format("x", dmholey_delta::Broken::Magic);
        assert_eq!(of(magic.into()), Exit::Store);
        let pipe = Err::<(), _>(io::Error::from(io::ErrorKind::BrokenPipe)).context("write");
        assert_eq!(of(pipe.unwrap_err()), Exit::Ok);
    }
}
