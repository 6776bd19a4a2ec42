// SPDX-License-Identifier: GPL-2.0-or-later

//! Runs programs, and never waits for one that reads or writes what it should not.
//!
//! What a program says goes to a file in memory: there is no pipe that could be full, or that a process left behind
//! could keep open.

use rustix::fs::MemfdFlags;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::os::unix::process::CommandExt;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

/// Time between two looks at a program.
const POLL: Duration = Duration::from_millis(20);
/// So much of what a program says is read, from its end.
const MOST_SAID: u64 = 64 << 10;
/// So many of its last lines are repeated.
const LINES: usize = 3;

/// A program that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    said: File,
}

/// Starts a program, in a process group of its own.
pub fn start(command: &mut Command) -> io::Result<Running> {
    let said = File::from(rustix::fs::memfd_create("output", MemfdFlags::CLOEXEC)?);
    let child = command
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said.try_clone()?)
        .process_group(0)
        .spawn()?;
    Ok(Running { child, said })
}

impl Running {
    /// Waits for its end, but not for longer than `limit`.
    pub fn wait(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let start = Instant::now();
        loop {
            let ended = self.child.try_wait()?;
            if ended.is_some() || start.elapsed() >= limit {
                return Ok(ended);
            }
            std::thread::sleep(POLL);
        }
    }

    /// Ends it, and all that it has started.
    pub fn kill(&mut self) -> io::Result<()> {
        let id = i32::try_from(self.child.id()).ok();
        if let Some(group) = id.and_then(rustix::process::Pid::from_raw) {
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL)?;
        }
        self.child.wait()?;
        Ok(())
    }

    /// The last lines that it has said, but for those that `skip` picks.
    pub fn said(&mut self, skip: impl Fn(&str) -> bool) -> String {
        let mut bytes = Vec::new();
        let end = self.said.metadata().map_or(0, |meta| meta.len());
        let start = io::SeekFrom::Start(end.saturating_sub(MOST_SAID));
        // What cannot be read was not said.
        let _ = self
            .said
            .seek(start)
            .and_then(|_| (&self.said).take(MOST_SAID).read_to_end(&mut bytes));
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !skip(line))
            .collect();
        let last = lines.len().saturating_sub(LINES);
        lines.get(last..).unwrap_or_default().join("; ")
    }
}

/// How a program ended, if not well.
pub fn complaint(status: ExitStatus, said: &str) -> Option<String> {
    if status.success() {
        return None;
    }
    if said.is_empty() {
        return Some(status.to_string());
    }
    Some(format!("{said} ({status})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn shell(text: &str) -> Running {
        start(Command::new("sh").args(["-c", text])).unwrap()
    }

    #[test]
    fn the_last_lines_are_kept() {
        let mut running = shell("seq 100; echo ' skipped'; echo end >&2; exit 3");
        let status = running.wait(LONG).unwrap().unwrap();
        let said = running.said(|line| line == "skipped");
        assert_eq!(said, "99; 100; end");
        let text = complaint(status, &said).unwrap();
        assert_eq!(text, "99; 100; end (exit status: 3)");
        assert_eq!(complaint(status, "").as_deref(), Some("exit status: 3"));
        let mut quiet = shell("exit 0");
        let status = quiet.wait(LONG).unwrap().unwrap();
        assert_eq!(complaint(status, &quiet.said(|_| false)), None);
    }

    #[test]
    fn much_output_stops_nobody() {
        let mut running = shell("seq 300000");
        assert!(running.wait(LONG).unwrap().unwrap().success());
        assert_eq!(running.said(|_| false), "299998; 299999; 300000");
    }

    #[test]
    fn patience_has_an_end() {
        let mut running = shell("sleep 1000 & sleep 1000");
        assert!(running.wait(Duration::from_millis(50)).unwrap().is_none());
        running.kill().unwrap();
    }
}
