// SPDX-License-Identifier: GPL-2.0-or-later

//! Serves the figures at `/metrics`, over HTTP.

use crate::metrics::Exporter;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::Method;
use hyper::Request;
use hyper::Response;
use hyper::StatusCode;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::debug;
use tracing::warn;

/// Connections at a time; more have to wait.
const MOST: usize = 16;
/// How long one may last.
const LONGEST: Duration = Duration::from_secs(10);
const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers whoever connects, for ever.
pub async fn serve(listener: TcpListener, exporter: Arc<Exporter>) {
    let room = Arc::new(Semaphore::new(MOST));
    while let Ok(place) = room.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let exporter = exporter.clone();
                tokio::spawn(async move {
                    if timeout(LONGEST, converse(stream, exporter)).await.is_err() {
                        debug!("who asked for figures took too long");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                warn!("cannot accept who asks for figures: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, exporter: Arc<Exporter>) {
    let service = service_fn(move |request| answer(request, exporter.clone()));
    let connection = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        debug!("who asked for figures: {error}");
    }
}

async fn answer(
    request: Request<Incoming>,
    exporter: Arc<Exporter>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::default());
    if request.uri().path() != "/metrics" {
        *response.status_mut() = StatusCode::NOT_FOUND;
        *response.body_mut() = Full::from("the figures are at /metrics\n");
    } else if ![Method::GET, Method::HEAD].contains(request.method()) {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    } else if let Some(text) = exporter.text().await {
        let format = HeaderValue::from_static(FORMAT);
        response.headers_mut().insert(CONTENT_TYPE, format);
        *response.body_mut() = Full::from(text);
    } else {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        *response.body_mut() = Full::from("the agent or the kernel does not answer\n");
    }
    Ok(response)
}
