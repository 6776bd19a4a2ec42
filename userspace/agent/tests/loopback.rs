// SPDX-License-Identifier: GPL-2.0-or-later

//! Agents that speak TLS with each other on this machine, with targets that are none.

mod cluster;

use cluster::authority;
use cluster::id;
use cluster::Agent;
use cluster::Cluster;
use dmholey_agent::config::Config;
use dmholey_agent::driver::Report;
use dmholey_agent::driver::Status;
use dmholey_agent::http;
use dmholey_agent::metrics::Exporter;
use dmholey_agent::names::Names;
use dmholey_cluster::event::Input;
use dmholey_cluster::event::RoleName;
use dmholey_cluster::ids::Attachment;
use dmholey_cluster::ids::NodeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_from_the_start_to_a_take_over() {
    let mut cluster = Cluster::new(3).await;
    let mut agents: Vec<Agent> = (0..3).map(|node| cluster.start(node)).collect();

    let epoch = agents[0].promote(NodeSet::EMPTY).await;
    agents[0].write(epoch, 0..10).await;
    agents[1].join(11).await;
    agents[2].join(22).await;
    let both = |status: &Status| status.members.iter().filter(|member| member.2).count() == 2;
    agents[0].until("both are members", both).await;
    let _ = agents[0].epoch().await;
    let epoch = agents[0].epoch().await;
    agents[0].write(epoch, 0..5000).await;

    // A copier dies. Its chunks are waited for until it is fenced.
    let dead = agents.pop().unwrap();
    dead.task.abort();
    drop(dead);
    let dead = (id(2), Attachment(22));
    let suspected = |report| match report {
        // On a busy machine the other one may be late, too.
        Report::Suspect(node, attachment) => ((node, attachment) == dead).then_some(()),
        _ => None,
    };
    agents[0].report(suspected).await;
    agents[0].tell(Input::Fenced(dead.0, Some(dead.1))).await;
    agents[0].write(epoch, 5000..6000).await;

    // The writer dies, and the other copier takes its place.
    let dead = agents.remove(0);
    dead.task.abort();
    drop(dead);
    let lost = |report| matches!(report, Report::WriterLost(_)).then_some(());
    agents[0].report(lost).await;
    let fenced = [id(0), id(2)].into_iter().collect();
    let epoch = agents[0].promote(fenced).await;
    agents[0].write(epoch, 0..10).await;
    assert_eq!(agents[0].status().await.role, RoleName::Writer);
    let state = cluster.folder.path().join("1/state/promises.toml");
    assert!(Path::new(&state).exists());
}

/// What there is at an address, over HTTP.
async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_are_served() {
    let mut cluster = Cluster::new(2).await;
    let names = Names::of(&cluster.config(0, "test", "n0", &cluster.authority));
    let mut agents: Vec<Agent> = (0..2).map(|node| cluster.start(node)).collect();
    agents[0].promote(NodeSet::EMPTY).await;
    agents[1].join(11).await;
    let epoch = agents[0].epoch().await;
    agents[0].write(epoch, 0..100).await;

    let exporter = Exporter::new(names, agents[0].inlets.clone(), None);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(http::serve(listener, Arc::new(exporter)));
    let text = get(address, "/metrics").await;
    assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
    for line in [
        r#"dmholey_cluster_node{cluster="test",node="n0",version=""#,
        r#"dmholey_cluster_role{role="writer"} 1"#,
        r#"dmholey_cluster_role{role="copier"} 0"#,
        "dmholey_cluster_ballot 1",
        "dmholey_cluster_members 1",
        r#"dmholey_cluster_peer_connected{peer="n1"} 1"#,
        r#"dmholey_cluster_peer_copier{peer="n1"} 1"#,
        r#"dmholey_cluster_peer_suspected{peer="n1"} 0"#,
        r#"dmholey_cluster_requests_sent_total{peer="n1"} 100"#,
        r#"dmholey_cluster_requests_answered_total{peer="n1"} 100"#,
        r#"dmholey_cluster_requests_outstanding{peer="n1"} 0"#,
        r#"dmholey_cluster_round_trip_seconds_bucket{le="+Inf",peer="n1"}"#,
        r#"dmholey_cluster_claims_total{result="won"} 1"#,
        "# EOF",
    ] {
        let mut lines = text.lines();
        assert!(lines.any(|other| other.starts_with(line)), "{line}\n{text}");
    }
    assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copiers_start_over_in_turn() {
    let mut cluster = Cluster::new(3).await;
    let mut agents: Vec<Agent> = (0..3).map(|node| cluster.start(node)).collect();
    agents[0].promote(NodeSet::EMPTY).await;
    agents[1].join(11).await;
    agents[2].join(22).await;
    for copier in [1, 2] {
        let agent = &mut agents[copier];
        agent.tell(Input::Recycle { begun: false }).await;
        let turn = |report| matches!(report, Report::Turn).then_some(());
        agent.report(turn).await;
        let node = id(copier as u8);
        let is_its = |status: &Status| status.recycling == Some(node);
        agents[0]
            .until("the writer knows of the turn", is_its)
            .await;
        agents[copier].tell(Input::Recycled).await;
    }
    let nobody = |status: &Status| status.recycling.is_none();
    agents[0].until("the turn is over", nobody).await;
}

/// Whoever does not belong there is never connected.
async fn stranger(make: impl Fn(&Cluster) -> Config) {
    let mut cluster = Cluster::new(3).await;
    let agents: Vec<Agent> = (0..2).map(|node| cluster.start(node)).collect();
    let config = make(&cluster);
    let stranger = cluster.start_with(2, config);
    let one = |status: &Status| status.connected.contains(id(0));
    agents[1].until("the others are connected", one).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!agents[0].status().await.connected.contains(id(2)));
    assert_eq!(stranger.status().await.connected, NodeSet::EMPTY);
}

#[tokio::test]
async fn another_cluster_is_refused() {
    stranger(|cluster| cluster.config(2, "other", "n2", &cluster.authority)).await;
}

#[tokio::test]
async fn a_certificate_of_another_node_is_refused() {
    stranger(|cluster| cluster.config(2, "test", "n1", &cluster.authority)).await;
}

#[tokio::test]
async fn another_authority_is_refused() {
    stranger(|cluster| cluster.config(2, "test", "n2", &authority())).await;
}

#[tokio::test]
async fn a_configuration_with_other_nodes_is_refused() {
    stranger(|cluster| {
        let mut config = cluster.config(2, "test", "n2", &cluster.authority);
        let mut more = config.nodes[&id(1)].clone();
        more.id = id(3);
        more.name = "n3".to_owned();
        config.nodes.insert(more.id, more);
        config
    })
    .await;
}
