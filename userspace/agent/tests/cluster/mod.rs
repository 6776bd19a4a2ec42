// SPDX-License-Identifier: GPL-2.0-or-later

//! Agents on this machine, with a certificate each and targets that are none.

use dmholey_agent::config::Config;
use dmholey_agent::driver::queues;
use dmholey_agent::driver::Command;
use dmholey_agent::driver::Driver;
use dmholey_agent::driver::Inlets;
use dmholey_agent::driver::Order;
use dmholey_agent::driver::Report;
use dmholey_agent::driver::Status;
use dmholey_agent::driver::Target;
use dmholey_agent::link;
use dmholey_cluster::event::Before;
use dmholey_cluster::event::Input;
use dmholey_cluster::ids::Attachment;
use dmholey_cluster::ids::Epoch;
use dmholey_cluster::ids::NodeId;
use dmholey_cluster::ids::NodeSet;
use dmholey_cluster::ids::Range;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::CertifiedIssuer;
use rcgen::IsCa;
use rcgen::KeyPair;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub(crate) const CHUNKS: u64 = 1_000_000;
/// Longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) fn id(number: u8) -> NodeId {
    NodeId::new(number).unwrap()
}

pub(crate) type Issuer = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn authority() -> Issuer {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A folder for each node, with all that it needs.
pub(crate) struct Cluster {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) authority: Issuer,
    addresses: Vec<String>,
    listeners: Vec<Option<TcpListener>>,
}

impl Cluster {
    pub(crate) async fn new(nodes: usize) -> Self {
        let mut addresses = Vec::new();
        let mut listeners = Vec::new();
        for _ in 0..nodes {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap().to_string());
            listeners.push(Some(listener));
        }
        Self {
            folder: tempfile::tempdir().unwrap(),
            authority: authority(),
            addresses,
            listeners,
        }
    }

    pub(crate) fn config(
        &self,
        node: usize,
        cluster: &str,
        made_out_to: &str,
        issuer: &Issuer,
    ) -> Config {
        let folder = self.folder.path().join(node.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([made_out_to.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, issuer).unwrap();
        let write = |name: &str, text: String| std::fs::write(folder.join(name), text).unwrap();
        write("ca.pem", self.authority.pem());
        write("cert.pem", certificate.pem());
        write("key.pem", key.serialize_pem());
        let mut text = format!(
            "cluster = \"{cluster}\"\nnode = \"n{node}\"\nstate = \"state\"\nbeat_ms = 50\npatience_ms = 500\n\
             [volume]\nchunks = {CHUNKS}\nchunk_sectors = 8\n\
             [tls]\nca = \"ca.pem\"\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n"
        );
        for (node, address) in self.addresses.iter().enumerate() {
            text +=
                &format!("[[nodes]]\nid = {node}\nname = \"n{node}\"\naddress = \"{address}\"\n");
        }
        write("cluster.toml", text);
        Config::read(&folder.join("cluster.toml")).unwrap()
    }

    pub(crate) fn start(&mut self, node: usize) -> Agent {
        let config = self.config(node, "test", &format!("n{node}"), &self.authority);
        self.start_with(node, config)
    }

    pub(crate) fn start_with(&mut self, node: usize, config: Config) -> Agent {
        let listener = self.listeners[node].take().unwrap();
        let (inlets, queues) = queues();
        let (orders, heard) = mpsc::unbounded_channel();
        let (reports, reported) = mpsc::unbounded_channel();
        let target = NoTarget {
            orders,
            answers: inlets.target.clone(),
        };
        let driver = Driver::new(&config, Before::Nothing, target, queues, reports).unwrap();
        link::start(&Arc::new(config), listener, &inlets.events);
        Agent {
            inlets,
            orders: heard,
            reports: reported,
            task: tokio::spawn(driver.run()),
        }
    }
}

/// Keeps everything at once, and tells what it was told.
pub(crate) struct NoTarget {
    orders: mpsc::UnboundedSender<Order>,
    answers: mpsc::Sender<Input>,
}

impl Target for NoTarget {
    fn act(&mut self, order: Order) {
        match &order {
            Order::Keep(ballot, requests) => {
                let seqs = requests.iter().map(|&(seq, _)| seq).collect();
                self.answers.try_send(Input::Kept(*ballot, seqs)).unwrap();
            }
            Order::Epoch(epoch) => self.answers.try_send(Input::Drained(*epoch)).unwrap(),
            _ => {}
        }
        let _ = self.orders.send(order);
    }
}

pub(crate) struct Agent {
    pub(crate) inlets: Inlets,
    orders: mpsc::UnboundedReceiver<Order>,
    reports: mpsc::UnboundedReceiver<Report>,
    pub(crate) task: JoinHandle<std::io::Result<()>>,
}

impl Agent {
    pub(crate) async fn tell(&self, input: Input) {
        self.inlets
            .engine
            .send(Command::Input(input))
            .await
            .unwrap();
    }

    pub(crate) async fn status(&self) -> Status {
        self.inlets.status().await.unwrap()
    }

    /// Waits until its status is such.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
        let look = async {
            loop {
                let status = self.status().await;
                if holds(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let looked = timeout(LONG, look).await;
        looked.unwrap_or_else(|_| panic!("it never came true that {what}"))
    }

    /// The next order that `pick` finds something in.
    pub(crate) async fn order<R>(&mut self, pick: impl Fn(Order) -> Option<R>) -> R {
        next(&mut self.orders, pick).await.expect("an order")
    }

    /// The next report that `pick` finds something in.
    pub(crate) async fn report<R>(&mut self, pick: impl Fn(Report) -> Option<R>) -> R {
        next(&mut self.reports, pick).await.expect("a report")
    }

    pub(crate) async fn promote(&mut self, fenced: NodeSet) -> Epoch {
        let half_merged = None;
        self.tell(Input::Claim {
            fenced,
            half_merged,
        })
        .await;
        let promoted = |order| match order {
            Order::Promote(_, epoch, _) => Some(epoch),
            _ => None,
        };
        let epoch = self.order(promoted).await;
        self.inlets
            .target
            .send(Input::Drained(epoch))
            .await
            .unwrap();
        epoch
    }

    /// The next epoch that begins because somebody joins.
    pub(crate) async fn epoch(&mut self) -> Epoch {
        let begins = |order| match order {
            Order::Epoch(epoch) => Some(epoch),
            _ => None,
        };
        self.order(begins).await
    }

    pub(crate) async fn join(&mut self, attachment: u64) {
        self.tell(Input::Attach(Attachment(attachment))).await;
        self.order(|order| matches!(order, Order::Serve(_)).then_some(()))
            .await;
    }

    /// Needs chunks one by one, and waits until all are stable.
    pub(crate) async fn write(&mut self, epoch: Epoch, chunks: std::ops::Range<u64>) {
        let mut left = chunks.end - chunks.start;
        for first in chunks {
            let range = Range { first, len: 1 };
            self.inlets.needs.send((epoch, vec![range])).await.unwrap();
        }
        while left > 0 {
            let stable = |order| match order {
                Order::Stable(_, ranges) => Some(ranges.len() as u64),
                _ => None,
            };
            left -= self.order(stable).await;
        }
    }
}

/// What `pick` finds in a queue, if it comes in time.
async fn next<T, R>(
    queue: &mut mpsc::UnboundedReceiver<T>,
    pick: impl Fn(T) -> Option<R>,
) -> Option<R> {
    let wait = async {
        while let Some(said) = queue.recv().await {
            let found = pick(said);
            if found.is_some() {
                return found;
            }
        }
        None
    };
    timeout(LONG, wait).await.ok().flatten()
}
