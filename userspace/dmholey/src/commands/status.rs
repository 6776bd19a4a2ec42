// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey status`

use crate::dm::flow;
use crate::dm::flow::Report;
use crate::dm::flow::StoreFacts;
use crate::dm::ioctl::Dm;
use crate::dm::node;
use crate::exit::Exit;
use crate::output::columns;
use crate::output::Output;
use crate::units::human;
use clap::Args;
use dmholey_cow::format::SECTOR_SIZE;

/// Show devices and how full their stores are
#[derive(Debug, Args)]
pub struct Status {
    /// Names of the devices; none means all snapshots, origins and merges
    names: Vec<String>,
}

/// Runs the command.
pub fn run(args: &Status, output: Output) -> anyhow::Result<Exit> {
    let names: Vec<String> = args
        .names
        .iter()
        .map(|n| node::name(n).to_owned())
        .collect();
    let reports = flow::reports(&Dm::open()?, &names)?;
    output.fact(&reports, |reports| text(reports))?;
    Ok(Exit::Ok)
}

fn text(reports: &[Report]) -> String {
    if reports.is_empty() {
        return String::new();
    }
    let head = ["NAME", "DEVICE", "TARGET", "SIZE", "STORE", "STATE"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(reports.iter().map(|report| {
        vec![
            report.name.clone(),
            report.device.to_string(),
            report.target.clone(),
            human(report.sectors.saturating_mul(SECTOR_SIZE)),
            report.store.as_ref().map_or("-".to_owned(), store),
            report.state.to_string(),
        ]
    }));
    columns(&rows)
}

/// Kind, chunk size and features, as the table line has them, but for the size in bytes.
fn store(store: &StoreFacts) -> String {
    let chunk = store.chunk_sectors.map_or("-".to_owned(), |sectors| {
        human(u64::from(sectors).saturating_mul(SECTOR_SIZE))
    });
    let mut words = vec![store.kind.name().to_owned(), chunk];
    words.extend(store.features.iter().cloned());
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dm::fake::Fake;

    #[test]
    fn devices_are_shown_as_text_and_json() {
        let kernel = Fake::new()
            .with(
                "root",
                "holey-snapshot",
                "8:1 8:2 PO 1 2 queue_if_no_space 30",
            )
            .with("swap", "linear", "8:3 0")
            .says(&["2072/20480 24"]);
        let reports = flow::reports(&kernel, &[]).unwrap();
        assert_eq!(
            text(&reports),
            "NAME  DEVICE  TARGET          SIZE    STORE                            STATE\n\
             root  253:0   holey-snapshot  50 KiB  PO, 512 B, queue_if_no_space 30  10.1 % of 10 MiB used, 1 MiB of it data"
        );
        assert_eq!(
            serde_json::to_string(&reports).unwrap(),
            r#"[{"name":"root","device":"253:0","target":"holey-snapshot","role":"snapshot","sectors":100,"state":"ok","allocated_sectors":2072,"total_sectors":20480,"metadata_sectors":24,"percent":10.1,"origin":"8:1","cow":"8:2","store":"PO","chunk_sectors":1,"features":["queue_if_no_space 30"]}]"#
        );
        assert_eq!(text(&[]), "");
    }
}
