// SPDX-License-Identifier: GPL-2.0-or-later

//! The streams to the peers.
//!
//! Of two nodes the one with the higher number connects, and does so again when the stream breaks. What is said over
//! a stream is a row of frames, each four bytes with its length, highest first, and so many bytes: a [`Hello`](dmholey_cluster::hello::Hello), then
//! messages.

use crate::config::Config;
use crate::config::Peer;
use crate::hello;
use crate::hello::HelloError;
use bytes::Bytes;
use dmholey_cluster::ids::NodeId;
use dmholey_cluster::message::DecodeError;
use dmholey_cluster::message::Message;
use dmholey_cluster::message::MAX_LEN;
use futures_util::SinkExt;
use futures_util::StreamExt;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::ServerName;
use socket2::SockRef;
use socket2::TcpKeepalive;
use std::convert::Infallible;
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::TlsConnector;
use tokio_rustls::TlsStream;
use tokio_util::codec::Framed;
use tokio_util::codec::LengthDelimitedCodec;
use tracing::debug;
use tracing::info;
use tracing::warn;

/// The time between two attempts to connect: at first, and at most.
const RETRY: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(500)];
/// A peer that has not proven itself after this is not waited for.
const GREETING: Duration = Duration::from_secs(10);
/// Messages that wait to be sent to a peer. When there are more the stream is given up: the next one begins with what
/// is still of interest.
const QUEUE: usize = 4096;
/// Messages that are put into the stream together.
const BATCH: usize = 64;
/// Connections that have not proven who they are yet. More have to wait.
const STRANGERS: usize = 64;

/// What happens on a stream.
#[derive(Debug)]
pub enum Event {
    /// It is there. Its number, and where to put what is to be said.
    Up(NodeId, u64, Outgoing),
    /// A message.
    Message(NodeId, u64, Message),
    /// It has ended.
    Down(NodeId, u64),
}

/// The way into a stream. The stream ends when this is dropped, whatever is still in the queue.
#[derive(Debug)]
pub struct Outgoing {
    /// Messages to be sent.
    pub queue: mpsc::Sender<Message>,
    _wanted: oneshot::Sender<Infallible>,
}

/// Why a stream has ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error(transparent)]
    Message(#[from] DecodeError),
    #[error("it said nothing in time")]
    Silent,
    #[error("it has closed the stream")]
    Closed,
    #[error("there is another stream, or it took nothing any more")]
    Unwanted,
}

type Frames = Framed<TlsStream<TcpStream>, LengthDelimitedCodec>;

/// Connects to peers and lets them connect, until `events` is closed.
pub fn start(config: &Arc<Config>, listener: TcpListener, events: &mpsc::Sender<Event>) {
    tokio::spawn(accept(config.clone(), listener, events.clone()));
    for peer in config.peers().filter(|peer| peer.id < config.me) {
        tokio::spawn(connect(config.clone(), peer.clone(), events.clone()));
    }
}

async fn accept(config: Arc<Config>, listener: TcpListener, events: mpsc::Sender<Event>) {
    let acceptor = TlsAcceptor::from(config.server.clone());
    let strangers = Arc::new(Semaphore::new(STRANGERS));
    loop {
        let Ok(stranger) = strangers.clone().acquire_owned().await else {
            return;
        };
        let incoming = tokio::select! {
            incoming = listener.accept() => incoming,
            () = events.closed() => return,
        };
        let (stream, address) = match incoming {
            Ok(incoming) => incoming,
            Err(error) => {
                // Too many open files, say. That may pass.
                warn!("cannot accept a connection: {error}");
                sleep(RETRY[1]).await;
                continue;
            }
        };
        let (acceptor, config, events) = (acceptor.clone(), config.clone(), events.clone());
        tokio::spawn(async move {
            let ended = async {
                prepare(&stream, &config)?;
                let stream = timeout(GREETING, acceptor.accept(stream)).await;
                let stream = stream.map_err(|_| LinkError::Silent)??;
                converse(stream.into(), &config, None, &events, Some(stranger)).await
            };
            if let Err(error) = ended.await {
                info!("{address}: {error}");
            }
        });
    }
}

async fn connect(config: Arc<Config>, peer: Peer, events: mpsc::Sender<Event>) {
    let connector = TlsConnector::from(config.client.clone());
    let mut pause = RETRY[0];
    while !events.is_closed() {
        let begun = Instant::now();
        let ended = async {
            let name = ServerName::try_from(peer.name.clone()).map_err(io::Error::other)?;
            let stream = async {
                let stream = TcpStream::connect(&peer.address).await?;
                prepare(&stream, &config)?;
                connector.connect(name, stream).await
            };
            let stream = timeout(GREETING, stream).await;
            let stream = stream.map_err(|_| LinkError::Silent)??;
            converse(stream.into(), &config, Some(peer.id), &events, None).await
        };
        if let Err(error) = ended.await {
            match error {
                // That it is not there now is nothing to speak of.
                LinkError::Io(_) | LinkError::Silent => debug!("{}: {error}", peer.name),
                _ => info!("{}: {error}", peer.name),
            }
        }
        // One that has lasted is opened again at once.
        if begun.elapsed() > GREETING * 2 {
            pause = RETRY[0];
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY[1]);
    }
}

/// A peer that is gone without a word is to be noticed about when it is suspected.
fn prepare(stream: &TcpStream, config: &Config) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    // Seconds are what it counts in.
    let time = config.patience.max(Duration::from_secs(1));
    let often = Duration::from_secs(1);
    let keepalive = TcpKeepalive::new().with_time(time).with_interval(often);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(config.patience))
}

async fn converse(
    stream: TlsStream<TcpStream>,
    config: &Config,
    expected: Option<NodeId>,
    events: &mpsc::Sender<Event>,
    stranger: Option<OwnedSemaphorePermit>,
) -> Result<(), LinkError> {
    static STREAMS: AtomicU64 = AtomicU64::new(0);
    let mut frames = LengthDelimitedCodec::builder()
        .max_frame_length(MAX_LEN)
        .new_framed(stream);
    let peer = timeout(GREETING, greet(&mut frames, config, expected)).await;
    let peer = peer.map_err(|_| LinkError::Silent)??;
    drop(stranger);
    info!("{} is connected", peer.name);
    let number = STREAMS.fetch_add(1, Ordering::Relaxed);
    let (sender, queue) = mpsc::channel(QUEUE);
    let (wanted, unwanted) = oneshot::channel();
    let outgoing = Outgoing {
        queue: sender,
        _wanted: wanted,
    };
    // Whoever listens for events may be gone; then there is nothing to do any more.
    if events
        .send(Event::Up(peer.id, number, outgoing))
        .await
        .is_err()
    {
        return Ok(());
    }
    let (sink, source) = frames.split();
    let ended = tokio::select! {
        ended = speak(sink, queue) => ended,
        ended = listen(source, peer.id, number, events) => ended,
        _ = unwanted => Err(LinkError::Unwanted),
    };
    let _ = events.send(Event::Down(peer.id, number)).await;
    ended
}

async fn greet(
    frames: &mut Frames,
    config: &Config,
    expected: Option<NodeId>,
) -> Result<Peer, LinkError> {
    frames
        .send(Bytes::from(hello::own(config).encode()))
        .await?;
    let first = frames.next().await.ok_or(LinkError::Closed)??;
    let (_, session) = frames.get_ref().get_ref();
    let certificate: &CertificateDer<'_> = session
        .peer_certificates()
        .and_then(<[_]>::first)
        .ok_or(LinkError::Closed)?;
    Ok(hello::check(&first, config, expected, certificate)?)
}

async fn speak(
    mut sink: impl SinkExt<Bytes, Error = io::Error> + Unpin,
    mut queue: mpsc::Receiver<Message>,
) -> Result<(), LinkError> {
    let mut messages = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut messages, BATCH).await > 0 {
        for message in messages.drain(..) {
            sink.feed(message.encode(Vec::new()).into()).await?;
        }
        sink.flush().await?;
    }
    Ok(())
}

async fn listen(
    mut source: impl StreamExt<Item = io::Result<bytes::BytesMut>> + Unpin,
    peer: NodeId,
    number: u64,
    events: &mpsc::Sender<Event>,
) -> Result<(), LinkError> {
    while let Some(frame) = source.next().await {
        let message = Message::decode(&frame?)?;
        if events
            .send(Event::Message(peer, number, message))
            .await
            .is_err()
        {
            return Ok(());
        }
    }
    Err(LinkError::Closed)
}
