// SPDX-License-Identifier: GPL-2.0-or-later

//! Disks in memory to lay the volumes on: null_blk's, with a cache that has to be flushed.

use crate::op::COWS;
use crate::script::SLOT;
use anyhow::Context;
use dmholey::dm::DevNum;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

const CONFIG: &str = "/sys/kernel/config/nullb";

/// A disk in memory. It goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Pool {
    folder: PathBuf,
    pub(crate) number: DevNum,
}

impl Pool {
    /// Makes one.
    pub(crate) fn new(name: &str) -> anyhow::Result<Self> {
        let folder = Path::new(CONFIG).join(format!("diff-{name}"));
        let failed = || format!("cannot make a disk in memory: {}", folder.display());
        if folder.exists() {
            // Left by a run that did not come to its end.
            fs::remove_dir(&folder).with_context(failed)?;
        }
        fs::create_dir(&folder).with_context(failed)?;
        let megabytes = (SLOT * (COWS as u64 + 1)) >> 11;
        let settings = [
            ("size", megabytes.to_string()),
            ("blocksize", "512".to_owned()),
            ("memory_backed", "1".to_owned()),
            ("discard", "1".to_owned()),
            ("cache_size", "4".to_owned()),
            ("irqmode", "0".to_owned()),
            ("power", "1".to_owned()),
        ];
        for (file, value) in settings {
            fs::write(folder.join(file), value).with_context(|| format!("{}: {file}", failed()))?;
        }
        let index = fs::read_to_string(folder.join("index")).with_context(failed)?;
        let dev = format!("/sys/block/nullb{}/dev", index.trim());
        // Under a name of its own, in kernels that give it one.
        let named = format!("/sys/block/diff-{name}/dev");
        let text = fs::read_to_string(&dev).or_else(|_| fs::read_to_string(&named));
        let text = text.with_context(|| format!("neither {dev} nor {named}"))?;
        let number = text.trim().parse::<DevNum>();
        let number = number.map_err(|()| anyhow::anyhow!("{dev}: '{text}' is no device number"))?;
        Ok(Self { folder, number })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // If it is in use it stays, and the next run tells.
        let _ = fs::remove_dir(&self.folder);
    }
}
