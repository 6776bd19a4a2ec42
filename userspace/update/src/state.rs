// SPDX-License-Identifier: GPL-2.0-or-later

//! What was done, in a file that is replaced as a whole.

use crate::error::Error;
use crate::error::Result;
use dmholey_cow::disk;
use dmholey_cow::disk::Access;
use dmholey_cow::output;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use dmholey_delta::Digest;
use serde::Deserialize;
use serde::Serialize;
use std::path::Path;

/// The form of the file that is described here.
pub const FORMAT: u32 = 1;
/// Bytes of the file at most.
const MAX_LEN: u64 = 1 << 20;

/// A version of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// Its number.
    pub number: u64,
    /// Bytes of the image.
    pub bytes: u64,
    /// Digest of the image.
    pub digest: Digest,
}

/// How far an update is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// There is none.
    #[default]
    Idle,
    /// The store that makes the new version is complete; the disk is as it was.
    Staged,
    /// The store is being copied or merged into the disk. The way back is complete.
    Applying,
    /// The disk is the new version, and may be brought back.
    Applied,
    /// The way back is being copied or merged into the disk.
    RollingBack,
    /// The disk was no known version, and what differs is being written to it: from the store if there is one, in place
    /// otherwise. There is no way back.
    Repairing,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// [`FORMAT`].
    pub format: u32,
    /// The version that the disk was, or is if nothing is going on; unknown before anybody looked, and while it is
    /// repaired.
    pub installed: Option<Version>,
    /// The version that it is to become, or has become.
    pub target: Option<Version>,
    /// How far that is.
    pub phase: Phase,
    /// The version that was rolled back last: nobody takes it again without being told to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Version>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            format: FORMAT,
            installed: None,
            target: None,
            phase: Phase::Idle,
            refused: None,
        }
    }
}

impl State {
    /// Reads the file, if it is there.
    pub fn load(path: &Path) -> Result<Self> {
        if !path
            .try_exists()
            .map_err(|e| Error::path("look for", path, e))?
        {
            return Ok(Self::default());
        }
        let file = Device::open(path, Access::Read)?;
        let fail = |why: String| Error::broken(path.display(), why);
        if file.size() > MAX_LEN {
            return Err(fail("is too large".into()));
        }
        let mut bytes = vec![0; usize::try_from(file.size()).unwrap_or(0)];
        disk::read(&file, 0, &mut bytes)?;
        let state: Self = serde_json::from_slice(&bytes).map_err(|e| fail(e.to_string()))?;
        let complete = match state.phase {
            Phase::Idle => true,
            Phase::Repairing => state.target.is_some(),
            _ => state.installed.and(state.target).is_some(),
        };
        if state.format != FORMAT || !complete {
            return Err(fail("is not one of this program's states".into()));
        }
        Ok(state)
    }

    /// Writes the file, durably and in one step.
    pub fn save(&self, path: &Path) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(self).map_err(|e| {
            let why = format!("cannot be written: {e}");
            Error::broken(path.display(), why)
        })?;
        Ok(output::put(path, &bytes, true)?)
    }
}
