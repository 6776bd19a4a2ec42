// SPDX-License-Identifier: GPL-2.0-or-later

//! A copier that starts over by itself, when its overlay is too large or too old.
//!
//! It waits for its turn, so that no two do at a time. Then the application is told to let go of the device, the node
//! leaves, joins again with an empty overlay, and the application is told to go on.

use crate::config::recycle::Policy;
use crate::control::Control;
use crate::kernel::memory::age;
use crate::kernel::memory::Recycling;
use crate::shell;
use crate::shell::CommandError;
use dmholey::dm::status::Usage;
use dmholey_cluster::event::Input;
use dmholey_cluster::event::RoleName;
use std::sync::Arc;
use std::time::Duration;
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
        let Ok(_only) = control.recycling.try_lock() else {
            continue;
        };
        if let Err(failure) = control.take_turn(STEP).await {
            info!("the overlay stays as it is for now: {}", failure.text());
            continue;
        }
        info!("this node starts over: {reason}");
        let done = start_over(&control, &policy, reason).await;
        control.end_turn().await;
        if !done {
            sleep(policy.retry).await;
        }
    }
}

/// Why this node should start over, if it should.
async fn due(control: &Control, policy: &Policy) -> Option<&'static str> {
    if control.ask().await.ok()?.role != RoleName::Copier {
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
    match Recycling::read(&control.config.state) {
        Ok(None) => {}
        Ok(Some(begun)) => {
            info!("this node goes on with starting over");
            // Nobody is there to hear it if this fails.
            let _ = control.send(Input::Recycle { begun: true }).await;
            rejoin(control).await;
            resume(control, policy, &begun.reason).await;
            control.end_turn().await;
        }
        Err(error) => error!("whether this node was starting over is not known: {error}"),
    }
}

/// Whether it was done.
async fn start_over(control: &Control, policy: &Policy, reason: &str) -> bool {
    if let Err(error) = Recycling::begin(&control.config.state, reason) {
        error!("it cannot be remembered that this node starts over: {error}");
        return false;
    }
    if let Some(command) = &policy.drain {
        let drained = hook(control, policy, "drain", command, reason).await;
        control.inlets.figures.drain(drained.is_ok());
        if let Err(error) = drained {
            info!("the application does not let go of the device now; it is tried again");
            if matches!(error, CommandError::Late(_)) {
                // It may have let go by half.
                resume(control, policy, reason).await;
            } else {
                forget(control);
            }
            return false;
        }
    }
    let is_copier = matches!(control.ask().await, Ok(status) if status.role == RoleName::Copier);
    if is_copier {
        if let Err(failure) = control.leave(STEP).await {
            warn!("this node has not left: {}", failure.text());
        } else {
            control.inlets.figures.recycles.inc();
        }
    }
    rejoin(control).await;
    resume(control, policy, reason).await;
    true
}

/// Until it is a copier again, or something else that it was told to be.
async fn rejoin(control: &Control) {
    let mut said = String::new();
    while let Ok(status) = control.ask().await {
        match status.role {
            RoleName::Copier | RoleName::Writer | RoleName::Demoting => return,
            RoleName::Idle => {
                if let Err(failure) = control.join(STEP).await {
                    if said != failure.text() {
                        failure.text().clone_into(&mut said);
                        warn!("this node does not join again, which is tried on: {said}");
                    }
                }
            }
            RoleName::Joining | RoleName::Claiming => {}
        }
        sleep(LOOK).await;
    }
}

async fn resume(control: &Control, policy: &Policy, reason: &str) {
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
