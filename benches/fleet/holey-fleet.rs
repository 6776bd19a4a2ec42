// SPDX-License-Identifier: GPL-2.0-or-later

//! Many clients of a published image, in one process, for `scripts/bench-fleet`.
//!
//! They are the real client but for the disk: each has its connection, its folder of what it believes, and fetches what a
//! disk at the given version needs, checked as ever. What was fetched is thrown away.

use anyhow::ensure;
use anyhow::Context;
use clap::Parser;
use clap::Subcommand;
use dmholey_cow::progress::Silent;
use dmholey_update::fetch::fetch;
use dmholey_update::web::Options;
use dmholey_update::Mirrors;
use dmholey_update::Network;
use dmholey_update::Trust;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use url::Url;

#[derive(Debug, Parser)]
struct Args {
    /// How many clients there are
    #[arg(long)]
    clients: usize,
    /// How many of them are at work at a time
    #[arg(long, default_value_t = 32)]
    together: usize,
    /// Folder in which each has one of its own
    #[arg(long)]
    work: PathBuf,
    /// The root of the keys
    #[arg(long)]
    root: PathBuf,
    /// Where it is published
    #[arg(long)]
    mirror: Url,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Each asks what there is, and fetches what leads from a version to the newest one
    Update {
        /// The version
        from: u64,
    },
    /// Each asks again, and nothing is newer
    Poll,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let (next, fetched) = (AtomicUsize::new(0), AtomicU64::new(0));
    let work = || -> anyhow::Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= args.clients {
                return Ok(());
            }
            let bytes = client(&args, &args.work.join(number.to_string()));
            fetched.fetch_add(
                bytes.with_context(|| format!("client {number}"))?,
                Ordering::Relaxed,
            );
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..args.together).map(|_| scope.spawn(work)).collect();
        let mut ends = threads.into_iter().map(|thread| thread.join());
        ends.try_for_each(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    println!("{}", fetched.into_inner());
    Ok(())
}

/// What one client does. Returns the bytes of deltas that it has fetched.
fn client(args: &Args, dir: &Path) -> anyhow::Result<u64> {
    let options = Options {
        plain: true,
        ..Options::default()
    };
    let network = Network::new(&options)?;
    let mirrors = Mirrors::new(vec![Arc::new(network.server(args.mirror.clone()))]);
    let trust = Trust::open(&dir.join("trust"), &args.root)?;
    let known = trust.ask(&mirrors)?;
    let What::Update { from } = args.what else {
        ensure!(known.is_same, "something is newer");
        return Ok(0);
    };
    let to = known.catalog.last().context("there is no version")?;
    let way = known
        .catalog
        .way(from, to.number)
        .context("there is no way")?;
    let mut sum = 0;
    let deltas = dir.join("deltas");
    std::fs::create_dir_all(&deltas)?;
    for delta in &way {
        sum += fetch(&mirrors, delta, &deltas, &Silent)?.1.fetched;
    }
    std::fs::remove_dir_all(deltas)?;
    Ok(sum)
}
