// SPDX-License-Identifier: GPL-2.0-or-later

//! What the kernel says of the targets of this node, for people and for figures. Nothing is changed.

use crate::kernel::Devices;
use dmholey::dm;
use dmholey::dm::ioctl::Dm;
use dmholey::dm::status::State;
use dmholey::dm::status::Usage;
use dmholey::dm::Kernel as _;

/// What is in a writer's write-back buffer, and was; in sectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buffer {
    /// Now.
    pub buffered: u64,
    /// Written from it, ever.
    pub written: u64,
    /// Acknowledged, and lost.
    pub lost: u64,
}

/// What `holey-writer` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriterState {
    /// Its epoch.
    pub epoch: u64,
    /// `closed`, `draining` or `open`.
    pub phase: String,
    /// Chunks that are stable.
    pub stable: u64,
    /// Chunks of the volume.
    pub chunks: u64,
    /// Writes that are held now.
    pub waiting: u64,
    /// Writes that ever were.
    pub held: u64,
    /// Ranges that were asked for, ever.
    pub requests: u64,
    /// Writes that were let through and have not ended.
    pub in_flight: u64,
    /// Its write-back buffer, if it has one.
    pub buffer: Option<Buffer>,
}

impl WriterState {
    /// Reads a status line; what may stand behind what is known is left alone. Modules before 1.2 of the target say nothing
    /// of what is in flight: with a buffer they have ten words, without one seven.
    pub fn parse(text: &str) -> Option<Self> {
        let count = text.split_ascii_whitespace().count();
        let mut words = text.split_ascii_whitespace();
        let epoch = words.next()?.parse().ok()?;
        let phase = words.next()?.to_owned();
        let (stable, chunks) = words.nth(1)?.split_once('/')?;
        let mut number = || words.next()?.parse().ok();
        let (waiting, held, requests) = (number()?, number()?, number()?);
        let in_flight = if matches!(count, 7 | 10) {
            0
        } else {
            number()?
        };
        let mut buffer = || {
            Some(Buffer {
                buffered: number()?,
                written: number()?,
                lost: number()?,
            })
        };
        Some(Self {
            epoch,
            phase,
            stable: stable.parse().ok()?,
            chunks: chunks.parse().ok()?,
            waiting,
            held,
            requests,
            in_flight,
            buffer: buffer(),
        })
    }
}

/// How the targets are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The writer's, if this node is that.
    pub writer: Option<WriterState>,
    /// How full the overlay is, if there is one that is valid.
    pub overlay: Option<Usage>,
}

/// Looks at the devices of a node.
#[derive(Debug)]
pub struct Observer {
    dm: Dm,
    name: String,
    helper: String,
}

impl Observer {
    /// For the devices of a configuration.
    pub fn new(devices: &Devices) -> dm::Result<Self> {
        Ok(Self {
            dm: Dm::open()?,
            name: devices.name.clone(),
            helper: devices.helper(),
        })
    }

    fn status(&self, name: &str) -> Option<(String, String)> {
        let line = self.dm.status(name).ok()?.into_iter().next()?;
        Some((line.target, line.params))
    }

    /// What they say now. A device that is not there says nothing.
    pub fn look(&self) -> Observed {
        let mut observed = Observed::default();
        let Some((target, params)) = self.status(&self.name) else {
            return observed;
        };
        match target.as_str() {
            "holey-writer" => observed.writer = WriterState::parse(&params),
            "holey-copier" | "holey-merge" => {
                if let Some(State::Ok(usage)) = State::parse(&params) {
                    observed.overlay = Some(usage);
                }
            }
            _ => {}
        }
        if target == "holey-merge" {
            let helper = self.status(&self.helper);
            observed.writer = helper.and_then(|(_, params)| WriterState::parse(&params));
        }
        observed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writers_status_is_read() {
        let state = WriterState {
            epoch: 3,
            phase: "open".to_owned(),
            stable: 17,
            chunks: 2048,
            waiting: 1,
            held: 40,
            requests: 12,
            in_flight: 6,
            buffer: None,
        };
        let text = "3 open agent 17/2048 1 40 12 6";
        assert_eq!(WriterState::parse(text), Some(state.clone()));
        let older = WriterState {
            in_flight: 0,
            ..state.clone()
        };
        let text_of_older = "3 open agent 17/2048 1 40 12";
        assert_eq!(WriterState::parse(text_of_older), Some(older.clone()));
        let more = WriterState::parse(&format!("{text} more"));
        assert_eq!(more, Some(state.clone()));
        let buffer = Buffer {
            buffered: 8,
            written: 640,
            lost: 16,
        };
        let buffered = |state| WriterState {
            buffer: Some(buffer),
            ..state
        };
        let text_of_older = format!("{text_of_older} 8 640 16");
        assert_eq!(WriterState::parse(&text_of_older), Some(buffered(older)));
        let text = format!("{text} 8 640 16");
        assert_eq!(WriterState::parse(&text), Some(buffered(state)));
        assert_eq!(WriterState::parse("3 open agent 17 1 40 12"), None);
        assert_eq!(WriterState::parse(""), None);
    }
}
