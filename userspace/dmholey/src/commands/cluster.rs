// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey cluster`

use crate::cluster;
use crate::cluster::Reply;
use crate::cluster::Request;
use crate::cluster::Status;
use crate::dm::status::State;
use crate::exit::refuse;
use crate::exit::Exit;
use crate::output::columns;
use crate::output::Output;
use anyhow::Context;
use clap::Args;
use clap::Subcommand;
use std::path::PathBuf;

/// Where agents listen, if nothing else is said.
const SOCKET: &str = "/run/dmholey/cluster.sock";

/// Tell the agent of this node what to be, or ask how things are
///
/// The agent is dmholeyd cluster. Whoever says that a node is fenced has to be sure: it must not be able to reach
/// the volume until it has started anew.
#[derive(Debug, Args)]
pub struct Cluster {
    /// Where the agent listens
    #[arg(long, global = true, value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,
    /// For how many seconds to wait for what is asked
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
    #[command(subcommand)]
    action: Action,
}

/// What the agent is told.
#[derive(Debug, Subcommand)]
enum Action {
    /// Show what this node is, and what it knows of the others
    Status,
    /// Become a copier: see the volume as it is now, and keep that
    Join,
    /// Stop being a copier; the overlay is lost
    Leave,
    /// Leave and join again, when no other copier does: the overlay starts empty
    Recycle,
    /// Become the writer; what this node sees becomes the content of the volume
    Takeover(Takeover),
    /// Stop being the writer
    Demote,
    /// Drop a copier that is fenced, so that writes no longer wait for it
    Evict {
        /// Its name
        node: String,
        /// It cannot reach the volume until it has started anew
        #[arg(long, required = true)]
        fenced: bool,
    },
}

/// `dmholey cluster takeover`
#[derive(Debug, Args)]
struct Takeover {
    /// A node that cannot reach the volume until it has started anew; all others are asked
    #[arg(long, value_name = "NODE")]
    fenced: Vec<String>,
    /// The node that was made writer and has not ended the merge of its overlay
    #[arg(long, value_name = "NODE")]
    half_merged: Option<String>,
}

/// Runs the command.
pub fn run(args: &Cluster, output: Output) -> anyhow::Result<Exit> {
    let wait = args.wait;
    let request = match &args.action {
        Action::Status => Request::Status,
        Action::Join => Request::Join { wait },
        Action::Leave => Request::Leave { wait },
        Action::Recycle => Request::Recycle { wait },
        Action::Takeover(takeover) => Request::Takeover {
            fenced: takeover.fenced.clone(),
            half_merged: takeover.half_merged.clone(),
            wait,
        },
        Action::Demote => Request::Demote { wait },
        Action::Evict { node, .. } => Request::Evict { node: node.clone() },
    };
    let reply = cluster::ask(&args.socket, &request).with_context(|| {
        let socket = args.socket.display();
        format!("{socket}: no agent answers; is dmholeyd cluster running?")
    })?;
    match reply {
        Reply::Done(status) if request == Request::Status => output.fact(&*status, text)?,
        Reply::Done(status) => output.done(&*status, text)?,
        Reply::Failed(why) => return Err(refuse(Exit::Refused, why)),
        Reply::Later(why) => return Err(refuse(Exit::Later, why)),
    }
    Ok(Exit::Ok)
}

fn text(status: &Status) -> String {
    let merging = if status.merging { ", merging" } else { "" };
    let mut lines = vec![
        format!(
            "{}: {}{merging} of {}, ballot {}",
            status.node, status.role, status.cluster, status.ballot
        ),
        format!("device: {}", status.device),
    ];
    if let Some(usage) = status.overlay {
        lines.push(format!("overlay: {}", State::Ok(usage)));
    }
    let peers: Vec<Vec<String>> = status
        .peers
        .iter()
        .map(|peer| {
            let connected = if peer.connected { "connected" } else { "away" };
            let copier = match peer.copier {
                Some(true) => "copier",
                Some(false) => "joining",
                None => "-",
            };
            let awaited = match (peer.suspected, peer.awaited) {
                (true, _) => "suspected",
                (false, true) => "awaited",
                (false, false) => "",
            };
            [&peer.node, connected, copier, awaited]
                .map(str::to_owned)
                .to_vec()
        })
        .collect();
    lines.push(columns(&peers));
    if let Some(node) = &status.recycling {
        lines.push(format!("starts over: {node}"));
    }
    if let Some(trouble) = &status.trouble {
        lines.push(format!("trouble: {trouble}"));
    }
    if let Some(refusal) = &status.refusal {
        lines.push(format!("refused: {refusal}"));
    }
    lines.join("\n")
}
