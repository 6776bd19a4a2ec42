// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholeyd`: what runs in the background.

#![forbid(unsafe_code)]

use anyhow::Context;
use clap::Args;
use clap::CommandFactory;
use clap::Parser;
use clap::Subcommand;
use clap_complete::Shell;
use dmholey::exit;
use dmholey::exit::Exit;
use dmholey::output::Output;
use dmholey::progress;
use dmholey::signals;
use dmholey::update::config::Automatic;
use dmholey::update::disk;
use dmholey::update::disk::How;
use dmholey::update::Session;
use dmholey_agent::config::Config;
use dmholey_agent::control::Control;
use dmholey_agent::driver::queues;
use dmholey_agent::driver::Driver;
use dmholey_agent::http;
use dmholey_agent::kernel;
use dmholey_agent::link;
use dmholey_agent::metrics::Exporter;
use dmholey_agent::names::Names;
use dmholey_agent::observe::Observer;
use dmholey_agent::recycle;
use dmholey_update::state::Phase;
use rustix::mm::MlockAllFlags;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::signal;
use tokio::signal::unix::SignalKind;
use tokio::sync::mpsc;
use tracing_subscriber::filter::LevelFilter;

/// Services of dmholey.
#[derive(Debug, Parser)]
#[command(name = "dmholeyd", version, disable_help_subcommand = true)]
struct Cli {
    /// Log as JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
    /// Log warnings and errors only
    #[arg(short, long, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Service,
}

/// The services.
#[derive(Debug, Subcommand)]
enum Service {
    /// Share a volume with other nodes
    Cluster(Cluster),
    /// Look for a newer version of the disk's image, once
    Update(Update),
    /// Write the manual pages
    #[command(hide = true)]
    Man {
        /// Existing folder that gets one page for each service
        dir: PathBuf,
    },
    /// Print a completion script for a shell
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Share a volume with other nodes
///
/// Runs the protocol of the cluster that the configuration describes. What this node is to be is told by
/// dmholey cluster. When it ends the devices stay as they are: reads go on, and so do writes that need no copier.
#[derive(Debug, Args)]
struct Cluster {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/dmholey/cluster.toml")]
    config: PathBuf,
    /// Where to listen for commands
    #[arg(long, value_name = "PATH", default_value = "/run/dmholey/cluster.sock")]
    socket: PathBuf,
}

/// Look for a newer version of the disk's image, once
///
/// What follows depends on the configuration ('automatic'): it is told, fetched, or fetched and applied. What
/// an earlier run was interrupted in is done first. A timer starts this again and again; if nothing has changed
/// it costs one small request.
#[derive(Debug, Args)]
#[command(after_help = exit::help())]
struct Update {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = dmholey::update::config::DEFAULT_PATH)]
    config: PathBuf,
    #[command(flatten)]
    how: How,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = if cli.quiet {
        LevelFilter::WARN
    } else {
        LevelFilter::INFO
    };
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false);
    if cli.json {
        log.json().init();
    } else {
        log.with_ansi(false).init();
    }
    let done = match &cli.command {
        Service::Cluster(args) => {
            avoid_waiting_for_oneself();
            cluster(args)
        }
        Service::Update(args) => update(args),
        Service::Man { dir } => clap_mangen::generate_to(Cli::command(), dir)
            .with_context(|| format!("cannot write manual pages to {}", dir.display())),
        Service::Completions { shell } => {
            let out = &mut std::io::stdout();
            clap_complete::generate(*shell, &mut Cli::command(), "dmholeyd", out);
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            match &cli.command {
                // As the commands of dmholey do.
                Service::Update(_) => ExitCode::from(Exit::of(&error).code().max(1)),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Writes wait for this process, so it must not wait for memory that is had by writing. All threads that are started
/// later inherit it.
fn avoid_waiting_for_oneself() {
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE;
    if let Err(error) = rustix::mm::mlockall(all) {
        tracing::warn!(
            "the memory cannot be locked ({error}): writes may wait for it when there is little"
        );
    }
    if let Err(error) = rustix::process::configure_io_flusher_behavior(true) {
        tracing::warn!(
            "the kernel does not treat this process as one that writes wait for ({error}): they may wait when there is \
             little memory"
        );
    }
}

/// Nobody watches.
const UNWATCHED: Output = Output {
    json: false,
    quiet: true,
};

fn update(args: &Update) -> anyhow::Result<()> {
    signals::install()?;
    let config = dmholey::update::Config::read(&args.config)?;
    let mut session = Session::open(&config, |what| tracing::warn!("{what}; passed over"))?;
    match session.client.state().phase {
        Phase::Applying => {
            tracing::info!("goes on to apply what an earlier run began with");
            return apply(&mut session, args);
        }
        Phase::RollingBack => {
            tracing::info!("goes on to roll back what an earlier run began with");
            disk::roll_back(&mut session.client, &args.how, UNWATCHED)?;
        }
        Phase::Repairing => {
            tracing::info!("goes on with the repair that an earlier run began with");
            disk::repair(&mut session, None, false, &args.how, UNWATCHED)?;
        }
        Phase::Applied => {
            tracing::info!(
                "an update was applied and is neither committed nor rolled back: nothing to do"
            );
            return Ok(());
        }
        Phase::Idle | Phase::Staged => {}
    }
    let (known, plan) = session.check(None)?;
    let version = plan.target.number;
    if plan.is_done() {
        tracing::info!(version, "nothing is newer");
        return Ok(());
    }
    let state = session.client.state();
    if state.phase == Phase::Idle && state.refused == Some(plan.target) {
        tracing::info!(
            version,
            "was rolled back: nothing to do, unless somebody pulls it ('dmholey update pull')"
        );
        return Ok(());
    }
    tracing::info!(version, "is published");
    if config.automatic == Automatic::Check {
        return Ok(());
    }
    let watch = &progress::watch(UNWATCHED);
    let pulled = session
        .client
        .pull(&session.mirrors, &known.catalog, None, watch)?;
    let fetched = pulled.fetched;
    if session.client.state().phase != Phase::Staged {
        tracing::info!(version, "is there already");
        return Ok(());
    }
    tracing::info!(version, fetched, "is ready to be applied");
    if config.automatic == Automatic::Pull {
        return Ok(());
    }
    apply(&mut session, args)
}

fn apply(session: &mut Session, args: &Update) -> anyhow::Result<()> {
    let way = disk::apply(&mut session.client, &args.how, UNWATCHED)?;
    let version = session.client.state().target.map(|version| version.number);
    tracing::info!(version, way, "is applied; commit it or roll back");
    Ok(())
}

#[tokio::main]
async fn cluster(args: &Cluster) -> anyhow::Result<()> {
    let config = Arc::new(Config::read(&args.config)?);
    let devices = config.devices.clone().with_context(|| {
        let path = args.config.display();
        format!("{path}: [devices] is missing")
    })?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let own = config
        .nodes
        .get(&config.me)
        .map(|peer| peer.address.clone());
    let address = config.listen.clone().or(own).unwrap_or_default();
    let listener = TcpListener::bind(&address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    let (inlets, queues) = queues();
    let (reports, reported) = mpsc::unbounded_channel();
    let (before, target) = kernel::start(&config, &devices, &inlets)?;
    let driver = Driver::new(&config, before, target.clone(), queues, reports)?;
    link::start(&config, listener, &inlets.events);
    let observer = Arc::new(Observer::new(&devices)?);
    if let Some(address) = &config.metrics {
        let listener = TcpListener::bind(address).await;
        let listener =
            listener.with_context(|| format!("cannot listen on {address}, for metrics"))?;
        let exporter = Exporter::new(Names::of(&config), inlets.clone(), Some(observer.clone()));
        tokio::spawn(http::serve(listener, Arc::new(exporter)));
    }
    let device = dmholey::dm::node::path(&devices.name).display().to_string();
    let policy = config.recycle.clone();
    let control = Control::new(config, inlets, target, device, Some(observer), reported);
    if let Some(policy) = policy {
        tokio::spawn(recycle::run(control.clone(), policy));
    }
    control
        .serve(&args.socket)
        .with_context(|| format!("cannot listen on {}", args.socket.display()))?;
    // Without a service manager there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tokio::select! {
        ended = driver.run() => ended.context("the agent cannot go on"),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
