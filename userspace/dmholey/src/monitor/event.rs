// SPDX-License-Identifier: GPL-2.0-or-later

//! What is told to people, to programs and to the hook.

use super::child;
use crate::dm::DevNum;
use dmholey_cow::format::SECTOR_SIZE;
use serde::Serialize;
use std::io;
use std::io::Write;
use std::process::Command;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

/// So many lines wait for a reader; what comes then is lost.
const LINES: usize = 1000;
/// At the end the reader gets so much time for them.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// A hook that takes longer is ended.
const HOOK_LIMIT: Duration = Duration::from_secs(60);
/// Memory for the stack of a thread.
pub(crate) const STACK: usize = 512 << 10;

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A snapshot was found.
    Watching,
    /// A snapshot is gone.
    Gone,
    /// An extension begins; as a call of the hook: it is to extend the store.
    Extend,
    /// It would begin if that was wanted.
    WouldExtend,
    /// A store has become larger.
    Extended,
    /// A store could not be made larger.
    Failed,
    /// A store should become larger and must not.
    Maximum,
    /// A snapshot was given up.
    Invalid,
    /// A store was full; its snapshot can only be read.
    Overflow,
    /// A merge was stopped by an error.
    MergeFailed,
    /// The hook has failed.
    HookFailed,
    /// Something is not as it should be with the monitor or a device.
    Problem,
}

impl Kind {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Watching => "watching",
            Self::Gone => "gone",
            Self::Extend => "extend",
            Self::WouldExtend => "would-extend",
            Self::Extended => "extended",
            Self::Failed => "failed",
            Self::Maximum => "maximum",
            Self::Invalid => "invalid",
            Self::Overflow => "overflow",
            Self::MergeFailed => "merge-failed",
            Self::HookFailed => "hook-failed",
            Self::Problem => "problem",
        }
    }

    /// Whether the hook is called to tell of it.
    pub fn is_for_hook(self) -> bool {
        match self {
            Self::Extended
            | Self::Failed
            | Self::Maximum
            | Self::Invalid
            | Self::Overflow
            | Self::MergeFailed => true,
            Self::Watching
            | Self::Gone
            | Self::Extend
            | Self::WouldExtend
            | Self::HookFailed
            | Self::Problem => false,
        }
    }

    /// How bad it is, as syslog counts.
    fn level(self) -> u8 {
        match self {
            Self::Failed | Self::Invalid | Self::Overflow | Self::MergeFailed => 3,
            Self::Maximum | Self::HookFailed | Self::Problem => 4,
            Self::Extend | Self::Extended => 5,
            Self::Watching | Self::Gone | Self::WouldExtend => 6,
        }
    }
}

/// Something that has happened.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// What.
    pub event: Kind,
    /// The device.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DevNum>,
    /// Its COW device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cow: Option<DevNum>,
    /// How much of that is in use,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocated_sectors: Option<u64>,
    /// how much there is,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_sectors: Option<u64>,
    /// and how much there is to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted_sectors: Option<u64>,
    /// The same for people.
    pub message: String,
}

impl Event {
    /// Something that is about no device.
    pub fn problem(message: String) -> Self {
        Self {
            event: Kind::Problem,
            name: String::new(),
            device: None,
            cow: None,
            allocated_sectors: None,
            total_sectors: None,
            wanted_sectors: None,
            message,
        }
    }

    fn text(&self) -> String {
        // A message may have the output of programs in it.
        let message = self.message.replace('\n', "; ");
        if self.name.is_empty() {
            return message;
        }
        format!("{}: {message}", self.name)
    }

    /// The variables that the hook gets.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let number = |number: Option<DevNum>| number.map(|n| n.to_string()).unwrap_or_default();
        let bytes = |sectors: Option<u64>| {
            let bytes = sectors.map(|sectors| sectors.saturating_mul(SECTOR_SIZE));
            bytes.map(|bytes| bytes.to_string()).unwrap_or_default()
        };
        vec![
            ("DMHOLEY_EVENT", self.event.word().to_owned()),
            ("DMHOLEY_NAME", self.name.clone()),
            ("DMHOLEY_DEVICE", number(self.device)),
            ("DMHOLEY_COW", number(self.cow)),
            ("DMHOLEY_ALLOCATED_BYTES", bytes(self.allocated_sectors)),
            ("DMHOLEY_TOTAL_BYTES", bytes(self.total_sectors)),
            ("DMHOLEY_WANTED_BYTES", bytes(self.wanted_sectors)),
            ("DMHOLEY_MESSAGE", self.message.clone()),
        ]
    }
}

/// Calls the hook and waits for it.
pub fn call_hook(hook: &str, event: &Event) -> Result<(), String> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", hook]).envs(event.variables());
    let mut run = || -> io::Result<Option<String>> {
        let mut running = child::start(&mut command)?;
        match running.wait(HOOK_LIMIT)? {
            Some(status) => Ok(child::complaint(status, &running.said(|_| false))),
            None => {
                running.kill()?;
                Ok(Some(format!("ended after {} s", HOOK_LIMIT.as_secs())))
            }
        }
    };
    match run() {
        Ok(None) => Ok(()),
        Ok(Some(complaint)) => Err(complaint),
        Err(error) => Err(format!("cannot be run: {error}")),
    }
}

/// Writes lines for whoever reads them, and never waits for that: a journal, for instance, cannot write while its
/// file system waits for space.
#[derive(Debug)]
pub struct Voice {
    lines: Option<SyncSender<String>>,
    ended: mpsc::Receiver<()>,
    json: bool,
    quiet: bool,
    /// Whether each line begins with its level, for the journal.
    levels: bool,
}

impl Voice {
    /// JSON goes to standard output, text to standard error. Quiet leaves out what is no problem.
    pub fn new(json: bool, quiet: bool) -> io::Result<Self> {
        let (lines, received) = mpsc::sync_channel::<String>(LINES);
        let (end, ended) = mpsc::sync_channel(1);
        let write = move || {
            for line in received {
                // Nobody may be there to read it.
                let _ = if json {
                    let mut out = io::stdout().lock();
                    writeln!(out, "{line}").and_then(|()| out.flush())
                } else {
                    writeln!(io::stderr(), "{line}")
                };
            }
            let _ = end.send(());
        };
        std::thread::Builder::new()
            .name("voice".to_owned())
            .stack_size(STACK)
            .spawn(write)?;
        Ok(Self {
            lines: Some(lines),
            ended,
            json,
            quiet,
            levels: std::env::var_os("JOURNAL_STREAM").is_some(),
        })
    }

    /// Tells of an event.
    pub fn tell(&self, event: &Event) {
        let level = event.event.level();
        if self.quiet && !self.json && level > 4 {
            return;
        }
        let line = if self.json {
            serde_json::to_string(event).unwrap_or_default()
        } else if self.levels {
            format!("<{level}>{}", event.text())
        } else {
            format!("dmholey: {}", event.text())
        };
        if let Some(lines) = &self.lines {
            // With nobody reading there is nobody to tell.
            let _ = lines.try_send(line);
        }
    }
}

impl Drop for Voice {
    fn drop(&mut self) {
        self.lines = None;
        if self.ended.recv_timeout(LAST_WORDS) == Err(RecvTimeoutError::Timeout) {
            // Whoever reads it does not; there is nothing left to do.
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: Kind) -> Event {
        Event {
            event: kind,
            name: "snap".to_owned(),
            device: Some(DevNum {
                major: 253,
                minor: 1,
            }),
            total_sectors: Some(2),
            ..Event::problem("it's\nbad".to_owned())
        }
    }

    #[test]
    fn words_are_those_of_json() {
        for kind in [
            Kind::Watching,
            Kind::Gone,
            Kind::Extend,
            Kind::WouldExtend,
            Kind::Extended,
            Kind::Failed,
            Kind::Maximum,
            Kind::Invalid,
            Kind::Overflow,
            Kind::MergeFailed,
            Kind::HookFailed,
            Kind::Problem,
        ] {
            let json = serde_json::to_value(kind).unwrap();
            assert_eq!(json, kind.word());
        }
        assert_eq!(
            serde_json::to_string(&event(Kind::Failed)).unwrap(),
            r#"{"event":"failed","name":"snap","device":"253:1","total_sectors":2,"message":"it's\nbad"}"#
        );
        assert_eq!(event(Kind::Failed).text(), "snap: it's; bad");
    }

    #[test]
    fn a_hook_gets_what_it_needs() {
        let event = event(Kind::Maximum);
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display();
        let hook = format!(
            "echo $DMHOLEY_EVENT $DMHOLEY_NAME $DMHOLEY_DEVICE $DMHOLEY_TOTAL_BYTES >{path}"
        );
        call_hook(&hook, &event).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(text, "maximum snap 253:1 1024\n");
        let error = call_hook("echo why >&2; exit 4", &event).unwrap_err();
        assert_eq!(error, "why (exit status: 4)");
    }
}
