// SPDX-License-Identifier: GPL-2.0-or-later

//! How an overlay gets into the volume, window by window: `kmod/merge.rs`.

use super::Cause;
use super::Chunk;
use super::Effect;
use super::Target;
use super::Write;
use dmholey_cluster::event::Input;
use std::mem;

/// Chunks of a window.
const WINDOW: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    /// The first so many chunks of the window are stable; the others are waited for.
    Secures(usize),
    /// The window is written to the volume; writes to its chunks are held.
    Copies,
    /// Until it is resumed.
    Failed,
    Done,
}

pub(crate) struct Merge {
    stage: Stage,
    window: Vec<Chunk>,
    held: Vec<Write>,
}

impl Merge {
    pub(super) fn new() -> Self {
        Self {
            stage: Stage::Idle,
            window: Vec::new(),
            held: Vec::new(),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    pub(super) fn has_published(&self, chunk: Chunk) -> bool {
        self.stage == Stage::Copies && self.window.contains(&chunk)
    }

    pub(super) fn hold(&mut self, write: Write) {
        self.held.push(write);
    }

    pub(super) fn held(&self) -> usize {
        self.held.len()
    }
}

impl Target {
    /// Goes on, if it can.
    pub(super) fn merge(&mut self, out: &mut Vec<Effect>) {
        let Some(writer) = &mut self.writer else {
            return;
        };
        let stopping = writer.demoting;
        let merge = &mut writer.merge;
        if merge.stage == Stage::Idle && !stopping {
            let window = self.overlay.keys().rev().take(WINDOW);
            merge.window = window.copied().collect();
            if merge.window.is_empty() {
                // Its agent finds that and makes a writer's target of it.
                if writer.remote.bound {
                    merge.stage = Stage::Done;
                    out.push(Effect::Merged);
                    out.push(Effect::Tell(Input::Merged));
                }
                return;
            }
            merge.stage = Stage::Secures(0);
            for &chunk in &merge.window {
                writer.remote.standing(chunk, chunk + 1, out);
            }
        }
        let Stage::Secures(mut secured) = merge.stage else {
            return;
        };
        while let Some(&chunk) = merge.window.get(secured) {
            if !writer.remote.is_stable(chunk, chunk + 1, out) {
                if stopping {
                    merge.stage = Stage::Idle;
                    return;
                }
                writer.remote.standing(chunk, chunk + 1, out);
                merge.stage = Stage::Secures(secured);
                return;
            }
            secured += 1;
        }
        merge.stage = Stage::Copies;
        let values: Vec<_> = merge
            .window
            .iter()
            .filter_map(|&chunk| Some((chunk, *self.overlay.get(&chunk)?)))
            .collect();
        writer.send(&values, Cause::Merge, super::writer::Job::Merge, out);
    }

    /// The window is in the volume, or is not.
    pub(super) fn window_ends(&mut self, well: bool, out: &mut Vec<Effect>) {
        let Some(writer) = &mut self.writer else {
            return;
        };
        let merge = &mut writer.merge;
        merge.stage = if well { Stage::Idle } else { Stage::Failed };
        let window = mem::take(&mut merge.window);
        let held = mem::take(&mut merge.held);
        if well {
            for chunk in &window {
                self.overlay.remove(chunk);
            }
        } else {
            out.push(Effect::MergeFailed);
        }
        for write in held {
            match &mut self.writer {
                Some(writer) if well && !writer.demoting => writer.admit(write, out),
                _ if well => self.ends(write, false, false, out),
                // Its chunks are where they were.
                _ => {
                    let chunks = write.first..write.end;
                    self.overlay
                        .extend(chunks.map(|chunk| (chunk, write.value)));
                    self.ends(write, true, false, out);
                }
            }
        }
        out.push(Effect::Listed);
        self.merge(out);
    }

    /// The agent has found that it has failed.
    pub(crate) fn merge_again(&mut self, out: &mut Vec<Effect>) {
        if let Some(writer) = &mut self.writer {
            if writer.merge.stage == Stage::Failed {
                writer.merge.stage = Stage::Idle;
            }
        }
        self.merge(out);
    }
}
