// SPDX-License-Identifier: GPL-2.0-or-later

//! What keeps a disk at the newest published version of its image.

pub mod config;
pub mod disk;
mod place;

pub use config::Config;

use crate::signals;
use dmholey_update::client::Plan;
use dmholey_update::client::TRUST;
use dmholey_update::trust::Known;
use dmholey_update::Client;
use dmholey_update::Mirrors;
use dmholey_update::Trust;

/// A client with all that it needs.
#[derive(Debug)]
pub struct Session {
    /// The disk, and what was done to it.
    pub client: Client,
    /// What is believed of what is published.
    pub trust: Trust,
    /// Where it is published.
    pub mirrors: Mirrors,
}

impl Session {
    /// Opens the client that is described, alone. Nobody is asked anything yet. `tell` is told which mirrors were passed
    /// over, and why.
    pub fn open(config: &Config, tell: fn(&str)) -> anyhow::Result<Self> {
        let client = Client::open(&config.state, &config.disk)?;
        place::expect_elsewhere(&config.state, &config.disk)?;
        Ok(Self {
            client,
            trust: Trust::open(&config.state.join(TRUST), &config.root)?,
            mirrors: config
                .mirrors()?
                .patient(config.patience(), signals::stopped)
                .telling(tell),
        })
    }

    /// Asks what is published, and what it takes to have it.
    pub fn check(&self, to: Option<u64>) -> anyhow::Result<(Known, Plan)> {
        let known = self.trust.ask(&self.mirrors)?;
        let plan = self.client.plan(&known.catalog, to)?;
        Ok((known, plan))
    }
}
