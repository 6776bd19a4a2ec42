// SPDX-License-Identifier: GPL-2.0-or-later

//! Published files on a web server, by HTTP/1.1 or HTTP/2, directly or through a proxy.
//!
//! Nothing that it sends is trusted: who asks knows the digest. TLS is for privacy, and for servers that
//! offer nothing else.

use crate::error::chain;
use crate::error::Error;
use crate::error::Result;
use crate::source::Got;
use crate::source::Sink;
use crate::source::Source;
use dmholey_registry::registry::Authorization;
use reqwest::header::HeaderMap;
use reqwest::header::HeaderValue;
use reqwest::header::ACCEPT;
use reqwest::header::CONTENT_RANGE;
use reqwest::header::ETAG;
use reqwest::header::IF_MODIFIED_SINCE;
use reqwest::header::IF_NONE_MATCH;
use reqwest::header::LAST_MODIFIED;
use reqwest::header::RANGE;
use reqwest::header::RETRY_AFTER;
use reqwest::Certificate;
use reqwest::Client;
use reqwest::Proxy;
use reqwest::RequestBuilder;
use reqwest::Response;
use reqwest::StatusCode;
use rustls::ClientConfig;
use rustls::RootCertStore;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;
use tokio::runtime::Runtime;
use url::Url;

/// A server that cannot be reached for so long is passed over.
const CONNECT: Duration = Duration::from_secs(10);
/// So is one that sends nothing for so long.
const SILENCE: Duration = Duration::from_secs(30);

/// And one that sends less than so many bytes a second, while it is waited for so long.
const SLOWEST: u64 = 1024;
const WINDOW: Duration = Duration::from_secs(60);

/// How servers are reached.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A proxy for all of them; otherwise that of the environment (`http_proxy`, `https_proxy`, `no_proxy`).
    pub proxy: Option<Url>,
    /// File with certificates (PEM) that are believed besides those of the system.
    pub certificates: Option<PathBuf>,
    /// No server needs TLS: the certificates of the system, which may have none, are not looked for.
    pub plain: bool,
    /// Bytes a second at most, of all servers together.
    pub rate: Option<NonZeroU64>,
}

/// What all servers are reached with: connections are kept and shared.
#[derive(Clone, Debug)]
pub struct Network {
    client: Client,
    /// What the client wants to run in; who asks waits for it.
    runtime: Arc<Runtime>,
    rate: Option<Arc<Rate>>,
}

impl Network {
    /// Prepares for it; nothing is sent yet.
    pub fn new(options: &Options) -> Result<Self> {
        // An error says that it was done already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!("dmholey/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE);
        if let Some(proxy) = &options.proxy {
            let fail = |e| Error::refused(proxy, format!("is no proxy: {}", chain(&e)));
            builder = builder.proxy(Proxy::all(proxy.as_str()).map_err(fail)?);
        }
        if let Some(path) = &options.certificates {
            let pem = std::fs::read(path).map_err(|e| Error::path("read", path, e))?;
            let fail = |e| {
                Error::refused(
                    path.display(),
                    format!("has no certificates: {}", chain(&e)),
                )
            };
            let all = Certificate::from_pem_bundle(&pem).map_err(fail)?;
            if all.is_empty() {
                return Err(Error::refused(
                    path.display(),
                    "has no certificates in PEM form",
                ));
            }
            builder = builder.tls_certs_merge(all);
        }
        if options.plain {
            let nobody = ClientConfig::builder().with_root_certificates(RootCertStore::empty());
            builder = builder.tls_backend_preconfigured(nobody.with_no_client_auth());
        }
        let fail = |e| Error::refused("the network", format!("cannot be used: {}", chain(&e)));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| dmholey_cow::Error::io("start", "a runtime", e))?;
        Ok(Self {
            client: builder.build().map_err(fail)?,
            runtime: Arc::new(runtime),
            rate: options.rate.map(|rate| Arc::new(Rate::new(rate))),
        })
    }

    /// A server with published files below this address.
    pub fn server(&self, mut base: Url) -> Web {
        // What is joined to it comes below, and not beside the last part.
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        Web {
            network: self.clone(),
            base,
            headers: HeaderMap::new(),
            authorization: Mutex::default(),
        }
    }
}

/// Published files on a web server.
#[derive(Debug)]
pub struct Web {
    network: Network,
    base: Url,
    /// What goes with every request.
    headers: HeaderMap,
    /// What is shown to be let in.
    authorization: Mutex<Option<Authorization>>,
}

impl Web {
    /// Asks for these types of content.
    pub(crate) fn accepting(mut self, types: &str) -> Result<Self> {
        let value = HeaderValue::from_str(types);
        let value =
            value.map_err(|e| Error::refused(types, format!("is no list of types: {e}")))?;
        self.headers.insert(ACCEPT, value);
        Ok(self)
    }

    /// Shows this from now on.
    pub(crate) fn authorize(&self, authorization: Option<Authorization>) {
        *self.shown() = authorization;
    }

    fn shown(&self) -> MutexGuard<'_, Option<Authorization>> {
        // Nothing that holds it can fail halfway.
        self.authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn request(&self, file: &str) -> Result<(Url, RequestBuilder)> {
        let url = self.base.join(file);
        let url = url.map_err(|e| Error::refused(&self.base, format!("is no address: {e}")))?;
        let request = self.network.client.get(url.clone());
        let request = request.headers(self.headers.clone());
        let request = match &*self.shown() {
            Some(Authorization::Bearer(token)) => request.bearer_auth(token),
            Some(Authorization::Basic(name, password)) => request.basic_auth(name, Some(password)),
            None => request,
        };
        Ok((url, request))
    }

    /// Sends a request. A server that fails may do better later; one that refuses will not.
    fn send(&self, url: &Url, request: RequestBuilder) -> Result<Response> {
        // Inside of the runtime, where its timers are.
        let response = async { request.send().await };
        let response = self.network.runtime.block_on(response);
        let response = response.map_err(|e| Error::later(url, chain(&e.without_url()), None))?;
        let status = response.status();
        if status == StatusCode::UNAUTHORIZED {
            let object = url.to_string();
            return Err(Error::Unauthorized { object });
        }
        let busy = status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT;
        if busy || status.is_server_error() {
            let after = after(response.headers());
            return Err(Error::later(
                url,
                format!("the server says {status}"),
                after,
            ));
        }
        Ok(response)
    }

    /// Reads what comes, up to `max` bytes. Returns how many that were.
    fn body(&self, url: &Url, mut response: Response, max: u64, sink: Sink<'_>) -> Result<u64> {
        let mut sum = 0;
        let mut pace = Pace::default();
        while sum < max {
            let begun = Instant::now();
            let piece = self.network.runtime.block_on(response.chunk());
            let waited = begun.elapsed();
            let piece = piece.map_err(|e| {
                let why = format!("the transfer broke off: {}", chain(&e.without_url()));
                Error::later(url, why, None)
            })?;
            let Some(piece) = piece else {
                break;
            };
            let len = piece
                .len()
                .min(usize::try_from(max - sum).unwrap_or(usize::MAX));
            sink(piece.get(..len).unwrap_or_default())?;
            sum += len as u64;
            if !pace.holds(waited, len as u64) {
                let why = format!("the server sends less than {SLOWEST} bytes a second");
                return Err(Error::later(url, why, None));
            }
            if let Some(rate) = &self.network.rate {
                rate.took(len);
            }
        }
        Ok(sum)
    }
}

impl Source for Web {
    fn name(&self) -> String {
        self.base.to_string()
    }

    fn read(&self, file: &str, offset: u64, len: u64, sink: Sink<'_>) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let last = offset.saturating_add(len - 1);
        let (url, request) = self.request(file)?;
        let response = self.send(
            &url,
            request.header(RANGE, format!("bytes={offset}-{last}")),
        )?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if starts_at(response.headers(), offset) => {}
            StatusCode::PARTIAL_CONTENT => {
                return Err(Error::broken(
                    url,
                    "the server sends another range than was asked for",
                ));
            }
            // A server that knows no ranges sends all, which begins with what is wanted.
            StatusCode::OK if offset == 0 => {}
            StatusCode::OK => {
                let why =
                    "the server knows no ranges, without which nothing can be fetched in parts";
                return Err(Error::broken(url, why));
            }
            status => return Err(Error::broken(url, format!("the server says {status}"))),
        }
        let came = self.body(&url, response, len, sink)?;
        if came != len {
            let why = format!("the transfer ended after {came} of {len} bytes");
            return Err(Error::later(url, why, None));
        }
        Ok(())
    }

    fn get(&self, file: &str, max: u64, tag: Option<&str>) -> Result<Got> {
        let (url, mut request) = self.request(file)?;
        if let Some(tag) = tag {
            let is_etag = tag.starts_with(['"', 'W']) && tag.ends_with('"');
            let header = if is_etag {
                IF_NONE_MATCH
            } else {
                IF_MODIFIED_SINCE
            };
            request = request.header(header, tag);
        }
        let response = self.send(&url, request)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED if tag.is_some() => return Ok(Got::Same),
            // Object stores say the second of what is not there to whom they do not show a list.
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN | StatusCode::GONE => {
                return Ok(Got::Absent)
            }
            status => return Err(Error::broken(url, format!("the server says {status}"))),
        }
        // A time is second to a tag: it does not tell apart what was changed within a second.
        let headers = response.headers();
        let tag = headers.get(ETAG).or(headers.get(LAST_MODIFIED));
        let tag = tag.and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        let mut bytes = Vec::new();
        let came = self.body(&url, response, max.saturating_add(1), &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        if came > max {
            return Err(Error::broken(url, format!("has more than {max} bytes")));
        }
        Ok(Got::File { bytes, tag })
    }
}

/// Whether a partial answer starts where it should.
fn starts_at(headers: &HeaderMap, offset: u64) -> bool {
    let range = headers
        .get(CONTENT_RANGE)
        .and_then(|range| range.to_str().ok());
    let start = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-'));
    start.and_then(|(start, _)| start.trim().parse().ok()) == Some(offset)
}

/// How long the server wants to be left alone.
fn after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Whether a server goes on sending enough. What is done with it meanwhile takes no time of its.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    came: u64,
}

impl Pace {
    /// So many bytes came after so long; false if that is too slow.
    fn holds(&mut self, waited: Duration, came: u64) -> bool {
        self.waited += waited;
        self.came += came;
        if self.waited < WINDOW {
            return true;
        }
        let least = SLOWEST.saturating_mul(self.waited.as_secs());
        let is_enough = self.came >= least;
        *self = Self::default();
        is_enough
    }
}

/// Keeps a rate by making who takes something wait until that was due.
#[derive(Debug)]
struct Rate {
    bytes: NonZeroU64,
    /// When everything that was taken is due.
    due: Mutex<Instant>,
}

impl Rate {
    fn new(bytes: NonZeroU64) -> Self {
        Self {
            bytes,
            due: Mutex::new(Instant::now()),
        }
    }

    fn took(&self, len: usize) {
        let time = Duration::from_secs_f64(len as f64 / self.bytes.get() as f64);
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // What was not used before is lost.
        *due = (*due).max(now) + time;
        let wait = due.saturating_duration_since(now);
        drop(due);
        std::thread::sleep(wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_dribbles_is_given_up_however_fast_it_was() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::default();
        assert!((0..600).all(|_| pace.holds(second, SLOWEST)));
        // Nearly at once, and then a byte now and then.
        assert!(pace.holds(Duration::ZERO, 10 * SLOWEST));
        let given_up = (0..).find(|_| !pace.holds(29 * second, 1));
        assert_eq!(given_up, Some(2));
    }
}
