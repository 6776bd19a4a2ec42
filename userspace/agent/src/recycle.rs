// SPDX-License-Identifier: GPL-2.0-or-later

//! A copier that starts over by itself, when its overlay is too large or too old.
//!
//! It waits for its turn, so that no two do at a time. Then the application is told to let go of the device, the node
//! leaves, joins again with an empty overlay, and the application is told to go on.

use crate::config::recycle::Policy;
use crate::control::Control;
use crate::control::Failure;
use crate::kernel::memory::age;
use crate::kernel::memory::Recycling;
use crate::shell;
use crate::shell::CommandError;
use dmholey::dm::status::Usage;
use dmholey_cluster::event::Input;
use dmholey_cluster::event::RoleName;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use tokio::time::sleep;
use tracing::error;
use tracing::info;
use tracing::warn;

/// How often the overlay is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How many seconds one step may take before it is looked at anew.
const STEP: u64 = 60;

/// Runs as long as the agent.
pub async fn run(control: Arc<Control>, policy: Policy) {
    finish_what_was_begun(&control, &policy).await;
    loop {
        sleep(LOOK).await;
        let Some(reason) = due(&control, &policy).await else {
            continue;
        };
        let Ok(only) = control.recycling.try_lock() else {
            continue;
        };
        if let Err(failure) = control.take_turn(STEP).await {
            info!("the overlay stays as it is for now: {}", failure.text());
            continue;
        }
        info!("this node starts over: {reason}");
        let done = start_over(&control, &policy, reason).await;
        control.end_turn().await;
        drop(only);
        if !done {
            sleep(policy.retry).await;
        }
    }
}

/// Why this node should start over, if it should.
async fn due(control: &Control, policy: &Policy) -> Option<&'static str> {
    if control.ask().await.ok()?.role != RoleName::Copier || control.is_told_to_leave().await {
        return None;
    }
    let overlay = control.observe().await.overlay;
    if matches!((overlay, policy.above), (Some(usage), Some(most)) if is_above(usage, most)) {
        return Some("size");
    }
    let age = age(&control.config.state);
    matches!((age, policy.after), (Some(age), Some(most)) if age > most).then_some("age")
}

/// Whether an overlay takes up more than so many percent of its COW device.
fn is_above(usage: Usage, percent: f64) -> bool {
    usage.allocated as f64 * 100.0 > percent * usage.total as f64
}

/// An agent of this node has ended on the way: the application waits for its device.
async fn finish_what_was_begun(control: &Control, policy: &Policy) {
    let _only = control.recycling.lock().await;
    match Recycling::read(&control.config.state) {
        Ok(None) => {}
        Ok(Some(begun)) => {
            info!("this node goes on with starting over");
            // Nobody is there to hear it if this fails.
            let _ = control.send(Input::Recycle { begun: true }).await;
            rejoin(control, policy.limit).await;
            resume(control, policy, &begun.reason).await;
            control.end_turn().await;
        }
        Err(error) => error!("whether this node was starting over is not known: {error}"),
    }
}

/// Whether it was done.
async fn start_over(control: &Control, policy: &Policy, reason: &str) -> bool {
    if let Err(failure) = control.begin_recycling(reason).await {
        warn!("{}", failure.text());
        return false;
    }
    if let Some(command) = &policy.drain {
        let drained = hook(control, policy, "drain", command, reason).await;
        control.inlets.figures.drain(drained.is_ok());
        if drained.is_err() {
            info!("the application does not let go of the device now; it is tried again");
            // It may have let go by half.
            resume(control, policy, reason).await;
            return false;
        }
    }
    let is_copier = matches!(control.ask().await, Ok(status) if status.role == RoleName::Copier);
    if is_copier {
        leave(control, STEP).await;
    }
    rejoin(control, policy.limit).await;
    resume(control, policy, reason).await;
    true
}

async fn leave(control: &Control, wait: u64) {
    let left = control.detach(wait).await;
    if let Err(failure) = &left {
        warn!("this node has not left: {}", failure.text());
    }
    if matches!(left, Err(Failure::Later(_))) {
        // Nobody may use the device before it has, and others need not wait for that.
        control.end_turn().await;
        while matches!(control.ask().await, Ok(status) if status.role == RoleName::Copier) {
            sleep(LOOK).await;
        }
    }
    if !matches!(left, Err(Failure::Refused(_))) {
        control.inlets.figures.recycles.inc();
    }
}

/// Until it is a copier again, or something else that it was told to be, or has failed to for so long.
async fn rejoin(control: &Control, limit: Duration) {
    let mut said = String::new();
    let mut failing_since = None;
    while let Ok(status) = control.ask().await {
        if control.is_told_to_leave().await {
            return;
        }
        match status.role {
            RoleName::Copier | RoleName::Writer | RoleName::Demoting => return,
            RoleName::Idle => {
                let joined = control.join_again(STEP).await;
                if let Err(failure) = &joined {
                    if said != failure.text() {
                        failure.text().clone_into(&mut said);
                        warn!("this node does not join again, which is tried on: {said}");
                    }
                }
                // How long it takes to hear of a writer, or for a merge to end, says nothing.
                if matches!(joined, Err(Failure::Refused(_)))
                    && failing_since.get_or_insert_with(Instant::now).elapsed() >= limit
                {
                    error!("this node does not join again, which is given up: {said}");
                    control.end_turn().await;
                    return;
                }
            }
            RoleName::Joining | RoleName::Claiming => {}
        }
        sleep(LOOK).await;
    }
}

/// Whoever has told the node to leave has no use for the application here.
async fn resume(control: &Control, policy: &Policy, reason: &str) {
    if control.is_told_to_leave().await {
        info!("this node was told to leave, and does not start over");
        return;
    }
    if let Some(command) = &policy.resume {
        let done = hook(control, policy, "resume", command, reason).await;
        if done.is_err() {
            error!("the application may not go on: {command}");
        }
    }
    forget(control);
}

fn forget(control: &Control) {
    if let Err(error) = Recycling::end(&control.config.state) {
        error!("it cannot be forgotten that this node starts over: {error}");
    }
}

/// Runs one of the policy's commands.
async fn hook(
    control: &Control,
    policy: &Policy,
    what: &str,
    text: &str,
    reason: &str,
) -> Result<(), CommandError> {
    let mut command = shell::command(text);
    command
        .env("DMHOLEY_CLUSTER", &control.names.cluster)
        .env("DMHOLEY_NODE", control.names.me())
        .env("DMHOLEY_DEVICE", &control.device)
        .env("DMHOLEY_REASON", reason);
    let done = shell::run(command, policy.limit).await;
    done.inspect_err(|error| match error {
        CommandError::Failed(_) => info!("{what}: {error}"),
        _ => error!("{what}: {text}: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::Stand;
    use crate::kernel::lock;
    use dmholey::cluster::Request;
    use std::path::Path;
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A copier whose hooks say that they are run, and the drain does what `drain` says then.
    fn copier(drain: &str) -> (Stand, Policy) {
        let stand = Stand::new(RoleName::Copier);
        let hooks = stand.folder.path().join("hooks").display().to_string();
        let policy = Policy {
            above: None,
            after: None,
            drain: Some(format!("echo drain >>{hooks}; {drain}")),
            resume: Some(format!("echo resume >>{hooks}")),
            limit: MINUTE,
            retry: MINUTE,
        };
        (stand, policy)
    }

    fn hooks(stand: &Stand) -> String {
        std::fs::read_to_string(stand.folder.path().join("hooks")).unwrap_or_default()
    }

    fn has_joined(stand: &Stand) -> bool {
        stand.was_told(|input| matches!(input, Input::Attach(_)))
    }

    fn begins(stand: &Stand, policy: &Policy) -> JoinHandle<bool> {
        let (control, policy) = (stand.control.clone(), policy.clone());
        tokio::spawn(async move {
            let _only = control.recycling.lock().await;
            let done = start_over(&control, &policy, "age").await;
            control.end_turn().await;
            done
        })
    }

    async fn ends(begun: JoinHandle<bool>) -> bool {
        timeout(2 * MINUTE, begun).await.unwrap().unwrap()
    }

    async fn until(holds: impl Fn() -> bool) {
        let wait = async {
            while !holds() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(MINUTE, wait).await.unwrap();
    }

    fn is_remembered(folder: &Path) -> bool {
        Recycling::read(folder).unwrap().is_some()
    }

    #[tokio::test]
    async fn a_copier_starts_over() {
        let (stand, policy) = copier("true");
        assert!(ends(begins(&stand, &policy)).await);
        assert_eq!(hooks(&stand), "drain\nresume\n");
        assert!(has_joined(&stand));
        assert_eq!(stand.role(), RoleName::Copier);
        assert!(!is_remembered(stand.folder.path()));
    }

    #[tokio::test]
    async fn an_application_that_has_let_go_by_half_is_resumed() {
        let (stand, policy) = copier("exit 1");
        assert!(!ends(begins(&stand, &policy)).await);
        assert_eq!(hooks(&stand), "drain\nresume\n");
        assert!(!stand.was_told(|input| matches!(input, Input::Detach)));
        assert!(!is_remembered(stand.folder.path()));
    }

    #[tokio::test]
    async fn who_is_told_to_leave_while_it_drains_stays_out() {
        let go = tempfile::tempdir().unwrap();
        let go = go.path().join("go");
        let wait = format!("until [ -e {} ]; do sleep 0.1; done", go.display());
        let (stand, policy) = copier(&wait);
        let begun = begins(&stand, &policy);
        until(|| hooks(&stand) == "drain\n").await;
        assert!(is_remembered(stand.folder.path()));
        stand.asks(Request::Leave { wait: 60 }).await.unwrap();
        assert!(!is_remembered(stand.folder.path()));
        assert!(stand.was_told(|input| matches!(input, Input::Recycled)));
        std::fs::write(go, "").unwrap();
        ends(begun).await;
        assert_eq!(stand.role(), RoleName::Idle);
        assert!(!has_joined(&stand));
        assert_eq!(hooks(&stand), "drain\n");
        assert!(!is_remembered(stand.folder.path()));
        // Nor does the next agent join.
        finish_what_was_begun(&stand.control, &policy).await;
        assert!(!has_joined(&stand));
    }

    #[tokio::test]
    async fn who_is_told_to_leave_when_it_has_left_already_stays_out() {
        let (stand, policy) = copier("true");
        lock(&stand.node).refuses = Some("no table for you");
        let begun = begins(&stand, &policy);
        until(|| stand.role() == RoleName::Idle).await;
        stand.asks(Request::Leave { wait: 60 }).await.unwrap();
        lock(&stand.node).refuses = None;
        ends(begun).await;
        assert_eq!(stand.role(), RoleName::Idle);
        assert!(!has_joined(&stand));
        assert_eq!(hooks(&stand), "drain\n");
    }

    #[tokio::test]
    async fn joining_again_is_given_up() {
        let (stand, policy) = copier("true");
        lock(&stand.node).refuses = Some("no table for you");
        lock(&stand.node).status.recycling = Some(stand.control.names.id());
        let limit = Duration::from_secs(1);
        ends(begins(&stand, &Policy { limit, ..policy })).await;
        assert_eq!(stand.role(), RoleName::Idle);
        assert_eq!(lock(&stand.node).status.recycling, None);
        assert_eq!(hooks(&stand), "drain\nresume\n");
        assert!(!is_remembered(stand.folder.path()));
    }

    #[tokio::test]
    async fn a_device_that_is_about_to_end_is_not_used() {
        let (stand, _) = copier("true");
        lock(&stand.node).hangs = true;
        let control = stand.control.clone();
        let leaving = tokio::spawn(async move { leave(&control, 0).await });
        until(|| stand.was_told(|input| matches!(input, Input::Recycled))).await;
        sleep(2 * LOOK).await;
        assert!(!leaving.is_finished());
        stand.become_role(RoleName::Idle);
        timeout(MINUTE, leaving).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_next_agent_goes_on() {
        let (stand, policy) = copier("true");
        stand.become_role(RoleName::Idle);
        Recycling::begin(stand.folder.path(), "age").unwrap();
        finish_what_was_begun(&stand.control, &policy).await;
        assert!(has_joined(&stand));
        assert_eq!(hooks(&stand), "resume\n");
        assert!(!is_remembered(stand.folder.path()));
    }
}
