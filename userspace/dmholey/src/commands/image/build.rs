// SPDX-License-Identifier: GPL-2.0-or-later

//! `dmholey image build`

use crate::commands::cow::not_an_input;
use crate::exit::refuse;
use crate::exit::Exit;
use crate::output::Output;
use crate::progress::Meter;
use crate::signals;
use crate::units::human;
use crate::units::parse_size;
use clap::Args;
use dmholey_image::tree::Choice;
use dmholey_image::Built;
use dmholey_image::Options;
use dmholey_image::Source;
use serde::Serialize;
use std::path::Path;
use std::path::PathBuf;

/// Arguments of `image build`.
#[derive(Debug, Args)]
pub struct Build {
    /// The image of the version before, clean and not mounted
    #[arg(long, value_name = "OLD")]
    base: Option<PathBuf>,
    /// What is to be in the image: a folder, a tar archive (plain, gzip or zstd; '-' for standard input),
    /// or an OCI image layout as either of them
    #[arg(long, value_name = "TREE")]
    tree: PathBuf,
    /// Where the image goes
    #[arg(short, long, value_name = "NEW")]
    output: PathBuf,
    /// Size of the image: needed without --base; with it, the image may be larger than the base
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size: Option<u64>,
    /// Give everything to this owner and group, as numbers or 'root'
    #[arg(long, value_name = "UID:GID", value_parser = parse_owner)]
    owner: Option<(u32, u32)>,
    /// Of an OCI layout with several images, the one with this name
    #[arg(long, value_name = "NAME", conflicts_with = "plain")]
    image: Option<String>,
    /// Of an OCI layout with several images, the one for this platform, such as linux/arm64
    #[arg(long, value_name = "OS/ARCH", conflicts_with = "plain")]
    platform: Option<String>,
    /// Take an OCI layout for the tree itself
    #[arg(long)]
    plain: bool,
    /// Features of a new file system beside Debian's defaults, as 'mke2fs -O' takes them
    #[arg(long, value_name = "LIST", conflicts_with = "base")]
    features: Option<String>,
    /// Label of a new file system
    #[arg(long, value_name = "TEXT", conflicts_with = "base")]
    label: Option<String>,
    /// UUID of a new file system; without it, one is made from the tree
    #[arg(long, value_name = "UUID", conflicts_with = "base", value_parser = parse_uuid)]
    uuid: Option<Uuid>,
    /// Make all free blocks zero: the whole image compresses better, the difference may be larger
    #[arg(long)]
    zero_free: bool,
    /// Replace what is at NEW
    #[arg(long)]
    force: bool,
}

/// A UUID from the command line.
#[derive(Clone, Copy, Debug)]
struct Uuid([u8; 16]);

fn parse_uuid(text: &str) -> Result<Uuid, String> {
    let uuid = dmholey_image::parse_uuid(text).map(Uuid);
    uuid.ok_or_else(|| format!("'{text}' is no UUID; it has 32 digits from 0 to f"))
}

fn parse_owner(text: &str) -> Result<(u32, u32), String> {
    let number = |text: &str| match text {
        "root" => Ok(0),
        _ => text.parse(),
    };
    let parts = text.split_once(':');
    let owner = parts.and_then(|(user, group)| Some((number(user).ok()?, number(group).ok()?)));
    owner.ok_or_else(|| format!("'{text}' is no owner; write two numbers, such as 0:0"))
}

/// What was made.
#[derive(Debug, Serialize)]
struct Made {
    image: String,
    #[serde(flatten)]
    built: Built,
}

/// Runs the command.
pub fn run(args: &Build, output: Output) -> anyhow::Result<Exit> {
    let inputs = args.base.iter().chain([&args.tree]);
    let inputs: Vec<&Path> = inputs.map(PathBuf::as_path).collect();
    not_an_input(&args.output, &inputs)?;
    signals::install()?;
    let options = Options {
        base: args.base.clone(),
        size: args.size,
        features: args.features.clone(),
        label: args.label.clone(),
        uuid: args.uuid.map(|uuid| uuid.0),
        epoch: epoch()?,
        owner: args.owner,
        choice: Choice {
            name: args.image.clone(),
            platform: args.platform.clone(),
        },
        plain: args.plain,
        zero_free: args.zero_free,
        force: args.force,
    };
    let source = Source::of(&args.tree)?;
    let meter = Meter::new(format!("building {}", args.output.display()), output);
    let built = dmholey_image::build(&source, &args.output, &options, &meter)?;
    drop(meter);
    let made = Made {
        image: args.output.display().to_string(),
        built,
    };
    output.done(&made, text)?;
    Ok(Exit::Ok)
}

/// The time that reproducible builds agree on, if there is one.
fn epoch() -> anyhow::Result<Option<u64>> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else {
        return Ok(None);
    };
    let seconds = text.to_str().and_then(|text| text.parse().ok());
    seconds.map(Some).ok_or_else(|| {
        let text = format!(
            "SOURCE_DATE_EPOCH: {} is no number of seconds",
            text.to_string_lossy()
        );
        refuse(Exit::Usage, text)
    })
}

fn text(made: &Made) -> String {
    let Built { counts, .. } = &made.built;
    let size = |blocks: u64| human(blocks * made.built.block_bytes);
    format!(
        "{}: {} files, of them {} unchanged, {} with other metadata, {} with other content, {} new, {} renamed; \
         {} gone; {} written, {} free",
        made.image,
        counts.files,
        counts.unchanged,
        counts.metadata_changed,
        counts.content_changed,
        counts.added,
        counts.renamed,
        counts.removed,
        size(counts.blocks_written),
        size(made.built.blocks_free),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_numbers_or_root() {
        assert_eq!(parse_owner("root:root"), Ok((0, 0)));
        assert_eq!(parse_owner("1000:100"), Ok((1000, 100)));
        for bad in ["", "1000", "a:b", "-1:0", "4294967296:0"] {
            assert!(
                parse_owner(bad).unwrap_err().contains("such as 0:0"),
                "{bad}"
            );
        }
    }
}
