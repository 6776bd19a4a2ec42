// SPDX-License-Identifier: GPL-2.0-or-later

//! Commands of the configuration, which may take only so long.

use rustix::process::kill_process_group;
use rustix::process::Pid;
use rustix::process::Signal;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

/// A command that did not do what it was for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// It could not be run.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It said so.
    #[error("{0}")]
    Failed(ExitStatus),
    /// It was killed, with all that it had started.
    #[error("it took longer than {0:?} and was killed")]
    Late(Duration),
}

/// A command for the shell, to be [`run`].
pub(crate) fn command(text: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", text]).process_group(0);
    command
}

/// Runs a [`command`] for up to `limit`.
pub(crate) async fn run(mut command: Command, limit: Duration) -> Result<(), CommandError> {
    let mut child = command.spawn()?;
    let group = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
    let Ok(status) = timeout(limit, child.wait()).await else {
        // It may have ended just now.
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        let _ = child.wait().await;
        return Err(CommandError::Late(limit));
    };
    match status? {
        status if status.success() => Ok(()),
        status => Err(CommandError::Failed(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(text: &str, limit: Duration) -> Result<(), CommandError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(run(command(text), limit))
    }

    #[test]
    fn how_a_command_ends_is_told() {
        let limit = Duration::from_secs(60);
        ends("true", limit).unwrap();
        let failed = ends("exit 3", limit);
        assert!(matches!(failed, Err(CommandError::Failed(status)) if status.code() == Some(3)));
    }

    #[test]
    fn what_takes_too_long_goes_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let text = format!("sleep 1000 & echo $! >{}; wait", file.display());
        let limit = Duration::from_secs(5);
        let error = ends(&text, limit).unwrap_err();
        assert_eq!(error.to_string(), "it took longer than 5s and was killed");
        let pid = std::fs::read_to_string(file).unwrap();
        let running = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
            stat.is_ok_and(|stat| !stat.contains(") Z "))
        };
        for _ in 0..600 {
            if !running() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("process {pid} still runs");
    }
}
