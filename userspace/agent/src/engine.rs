// SPDX-License-Identifier: GPL-2.0-or-later

//! The engine that there is without another one: it remembers what the node reports, and has silent nodes fenced.

use crate::config::Config;
use crate::control::Failure;
use crate::driver::Command;
use crate::driver::Inlets;
use crate::driver::Report;
use crate::names::Names;
use dmholey_cluster::event::Input;
use dmholey_cluster::event::RoleName;
use dmholey_cluster::ids::NodeId;
use std::sync::Arc;
use tokio::process;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tracing::error;
use tracing::info;

/// What the node has said last.
#[derive(Clone, Debug)]
pub struct News {
    pub(crate) role: RoleName,
    /// How often something was refused, and the last reason.
    pub(crate) refusals: u64,
    pub(crate) refusal: Option<Failure>,
    /// How often it was this node's turn to start over.
    pub(crate) turns: u64,
}

impl Default for News {
    fn default() -> Self {
        Self {
            role: RoleName::Idle,
            refusals: 0,
            refusal: None,
            turns: 0,
        }
    }
}

/// Remembers what the driver reports, and has silent copiers fenced if there is a command for that.
pub(crate) async fn listen(
    config: Arc<Config>,
    inlets: Inlets,
    mut reports: mpsc::UnboundedReceiver<Report>,
    told: watch::Sender<News>,
) {
    let names = Names::of(&config);
    while let Some(report) = reports.recv().await {
        match report {
            Report::Role(role) => {
                told.send_modify(|news| news.role = role);
            }
            Report::Refused(refusal) => {
                told.send_modify(|news| {
                    news.refusals += 1;
                    news.refusal = Some(names.refusal(refusal));
                });
            }
            Report::Suspect(node, attachment) => {
                let fenced = Input::Fenced(node, Some(attachment));
                begin_fencing(&config, node, fenced, &inlets);
            }
            Report::Awaited(node, ballot) => {
                let fenced = Input::FencedFor(node, ballot);
                begin_fencing(&config, node, fenced, &inlets);
            }
            Report::Turn => told.send_modify(|news| news.turns += 1),
            // Who is to be the writer then is for the engine to say.
            Report::WriterLost(_) => {}
        }
    }
}

/// Has a node fenced, if there is a command for that.
fn begin_fencing(config: &Config, node: NodeId, fenced: Input, inlets: &Inlets) {
    if let Some(command) = config.fence.clone() {
        let name = config.nodes.get(&node).map(|peer| peer.name.clone());
        tokio::spawn(fence(
            command,
            name.unwrap_or_default(),
            fenced,
            inlets.clone(),
        ));
    }
}

/// Runs the command. Its exit status tells whether the node is fenced.
async fn fence(command: String, name: String, fenced: Input, inlets: Inlets) {
    info!("{name} is being fenced");
    let mut shell = process::Command::new("/bin/sh");
    shell.args(["-c", &command]).env("DMHOLEY_NODE", &name);
    let status = shell.status().await;
    let well = status.as_ref().is_ok_and(|status| status.success());
    inlets.figures.fence(well);
    match status {
        Ok(status) if status.success() => {
            info!("{name} is fenced");
            if inlets.engine.send(Command::Input(fenced)).await.is_err() {
                info!("the agent ends");
            }
        }
        Ok(status) => error!("{name} could not be fenced: {status}; writes wait for it"),
        Err(error) => error!("{command}: {error}; writes wait for {name}"),
    }
}
