// SPDX-License-Identifier: GPL-2.0-or-later

//! Drives the kernel's own snapshot targets and ours in lock step, with random operations, and
//! compares both with each other and with a model after each of them.
//!
//! | module | does |
//! | --- | --- |
//! | [`op`], [`script`] | operations and scripts, as data and as text |
//! | [`generate`], [`refusals`] | draw scripts |
//! | [`model`], [`store`], [`view`], [`data`] | know what should come of them |
//! | [`action`] | the steps of an operation, with what each should come to |
//! | [`side`], [`blockio`], [`observe`] | do them on one side, and look at its devices |
//! | [`lockstep`] | runs scripts on both sides |
//! | [`compare`], [`deviations`] | judge |
//! | [`shrink`] | makes a script short that shows a difference |
//! | [`sabotage`] | shows that differences are found |
//! | [`churn`] | makes snapshots by the thousand, and compares nothing |
//!
//! It is meant for a throwaway virtual machine: it makes and removes devices at will.

#![deny(unsafe_code)]

mod action;
mod blockio;
mod campaign;
mod churn;
mod compare;
mod data;
mod deviations;
mod generate;
mod lockstep;
mod model;
mod observe;
mod op;
mod pool;
mod refusals;
mod rng;
mod sabotage;
mod script;
mod shrink;
mod side;
mod store;
mod view;

use clap::Parser;
use sabotage::Sabotage;
use std::path::PathBuf;
use std::process::ExitCode;

/// Compare the stock snapshot targets with ours
///
/// Ends with 0 if no difference was found, 1 if one was found, and 2 if it could not be looked for.
#[derive(Debug, Parser)]
#[command(name = "dmholey-differential", version)]
enum Command {
    /// Run random scripts; the first one that shows a difference is shrunk and printed
    Run {
        /// What the scripts depend on
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Number of the first script
        #[arg(long, default_value_t = 0)]
        first: u64,
        /// Run so many scripts
        #[arg(long, default_value_t = 100)]
        cases: u64,
        /// Run for so many minutes, and not so many scripts
        #[arg(long)]
        minutes: Option<u64>,
        /// Operations of a script
        #[arg(long, default_value_t = 30)]
        ops: usize,
        /// Save the shrunk script here, too
        #[arg(long, value_name = "FILE")]
        save: Option<PathBuf>,
        #[command(flatten)]
        common: Common,
    },
    /// Run a script
    Replay {
        /// The script
        script: PathBuf,
        /// So many times
        #[arg(long, default_value_t = 1)]
        times: u64,
        /// Shrink it if it shows a difference
        #[arg(long)]
        shrink: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Make and remove snapshots, one after the other, with a write to the origin and to each
    Churn {
        /// Device of which they are made, in /dev/mapper
        base: String,
        /// Its origin device, in /dev/mapper
        origin: String,
        /// COW device, in /dev/mapper
        store: String,
        /// So many
        #[arg(long)]
        times: u64,
    },
    /// List the differences that are known and no fault
    Deviations,
    /// Print a script without running it
    Show {
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[arg(long, default_value_t = 0)]
        first: u64,
        #[arg(long, default_value_t = 30)]
        ops: usize,
    },
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Everything may take so many times as long
    #[arg(long, default_value_t = 1)]
    slow: u32,
    /// Make a fault on our side
    #[arg(long, hide = true)]
    sabotage: Option<Sabotage>,
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Run {
            seed,
            first,
            cases,
            minutes,
            ops,
            save,
            common,
        } => {
            let limit = match minutes {
                Some(minutes) => campaign::Limit::Minutes(minutes),
                None => campaign::Limit::Cases(cases),
            };
            campaign::run(seed, first, limit, ops, save.as_deref(), &common)
        }
        Command::Replay {
            script,
            times,
            shrink,
            common,
        } => campaign::replay(&script, times, shrink, &common),
        Command::Churn {
            base,
            origin,
            store,
            times,
        } => churn::run(&base, &origin, &store, times).map(|()| true),
        Command::Deviations => {
            for (_, title, text) in deviations::Deviation::ALL {
                println!("{title}: {text}");
            }
            Ok(true)
        }
        Command::Show { seed, first, ops } => {
            print!("{}", generate::generate(seed, first, ops));
            Ok(true)
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
