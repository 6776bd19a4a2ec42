// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey image serve`

use crate::exit::refuse;
use crate::exit::Exit;
use crate::output::Output;
use anyhow::Context;
use clap::Args;
use dmholey_repository::catalog::TIMESTAMP;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::net::TcpListener;
use tower_http::services::ServeDir;

/// Arguments of `image serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Folder to which something was published
    dir: PathBuf,
    /// Address and port; port 0 is any that is free
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

#[derive(Debug, Serialize)]
struct Report {
    url: String,
}

/// Runs the command, until a signal ends it.
pub fn run(args: &Serve, output: Output) -> anyhow::Result<Exit> {
    if !args.dir.join(TIMESTAMP).exists() {
        let text = format!("{}: nothing was published there", args.dir.display());
        return Err(refuse(Exit::Refused, text));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.context("cannot start a runtime")?;
    runtime.block_on(serve(args, output))
}

async fn serve(args: &Serve, output: Output) -> anyhow::Result<Exit> {
    let fail = || format!("cannot listen on {}", args.listen);
    let listener = TcpListener::bind(args.listen).await.with_context(fail)?;
    let address = listener.local_addr().with_context(fail)?;
    let url = format!("http://{address}/");
    let dir = args.dir.display();
    output.fact(&Report { url }, |report| {
        format!("{} serves {dir}", report.url)
    })?;
    let files = ServeDir::new(&args.dir).append_index_html_on_directories(false);
    loop {
        // Whoever has gone again meanwhile, and having too many files open, are no reason to end.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let service = TowerToHyperService::new(files.clone());
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            // Who breaks a connection off knows it.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
