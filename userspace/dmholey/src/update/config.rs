// SPDX-License-Identifier: GPL-2.0-or-later

//! The file that says which disk is kept up to date, and from where.

use crate::configfile;
use crate::units::parse_size;
use anyhow::Context;
use dmholey_registry::registry;
use dmholey_registry::Address;
use dmholey_update::source::Folder;
use dmholey_update::web;
use dmholey_update::Mirrors;
use dmholey_update::Network;
use dmholey_update::Oci;
use dmholey_update::Source;
use serde::Deserialize;
use std::num::NonZeroU64;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Read if no other file is named.
pub const DEFAULT_PATH: &str = "/etc/dmholey/update.toml";
/// Where the client keeps what it needs, if nothing else is said.
const STATE: &str = "/var/lib/dmholey/update";
/// For how many seconds mirrors are asked again when all have failed.
const PATIENCE: u32 = 60;

/// The file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The disk: a block device or a file.
    pub disk: PathBuf,
    /// The root that is believed without having been signed by anybody.
    pub root: PathBuf,
    /// Where it is published, in the order in which they are asked.
    #[serde(rename = "mirrors")]
    places: Vec<Place>,
    /// Folder for what has to be remembered and for what was fetched.
    #[serde(default = "state")]
    pub state: PathBuf,
    /// For how many seconds mirrors are asked again when all have failed.
    patience: Option<u32>,
    /// A proxy for all web servers.
    proxy: Option<Web>,
    /// File with certificates of web servers.
    certificates: Option<PathBuf>,
    /// Bytes a second at most.
    rate: Option<Rate>,
    /// How far an update goes by itself.
    #[serde(default)]
    pub automatic: Automatic,
}

/// How far an update goes by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Automatic {
    /// It is told that there is one.
    Check,
    /// It is fetched and made ready.
    #[default]
    Pull,
    /// It gets into the disk.
    Apply,
}

/// Where something is published.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
enum Place {
    Web(Url),
    Registry(Address),
    Folder(PathBuf),
}

impl TryFrom<String> for Place {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Self::Folder(text.into()));
        }
        if Address::is_meant(&text) {
            return text.parse().map(Self::Registry);
        }
        let url = Url::parse(&text).ok();
        if let Some(Ok(path)) = url
            .as_ref()
            .filter(|url| url.scheme() == "file")
            .map(Url::to_file_path)
        {
            return Ok(Self::Folder(path));
        }
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let why = || {
            format!("'{text}' is neither an address such as https://example.org/images nor the path of a folder")
        };
        url.map(Self::Web).ok_or_else(why)
    }
}

/// The address of a web server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Web(Url);

impl TryFrom<String> for Web {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match Place::try_from(text.clone()) {
            Ok(Place::Web(url)) => Ok(Self(url)),
            _ => Err(format!("'{text}' is no address such as http://proxy:3128")),
        }
    }
}

/// Bytes a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Rate(NonZeroU64);

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let rate = NonZeroU64::new(parse_size(&text)?);
        rate.map(Self)
            .ok_or_else(|| "nothing can be fetched with 0 bytes a second".to_owned())
    }
}

fn state() -> PathBuf {
    STATE.into()
}

impl Config {
    /// Reads the file at `path`.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let config: Self = configfile::read(path)?;
        let mirrors = || format!("{}: 'mirrors' names nothing", path.display());
        config.places.first().with_context(mirrors)?;
        Ok(config)
    }

    /// How long mirrors are asked again when all have failed.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.patience.unwrap_or(PATIENCE).into())
    }

    /// Where it is published.
    pub fn mirrors(&self) -> anyhow::Result<Mirrors> {
        let is_plain = |url: &Url| url.scheme() == "http";
        let plain = self.proxy.iter().all(|Web(url)| is_plain(url))
            && self.places.iter().all(|place| match place {
                Place::Web(url) => is_plain(url),
                Place::Registry(address) => address.is_plain(),
                Place::Folder(_) => true,
            });
        let options = web::Options {
            plain,
            proxy: self.proxy.clone().map(|Web(url)| url),
            certificates: self.certificates.clone(),
            rate: self.rate.map(|Rate(rate)| rate),
        };
        let network = Network::new(&options)?;
        let sources = self
            .places
            .iter()
            .map(|place| -> anyhow::Result<Arc<dyn Source>> {
                Ok(match place {
                    Place::Folder(path) => Arc::new(Folder(path.clone())),
                    Place::Web(url) => Arc::new(network.server(url.clone())),
                    Place::Registry(address) => {
                        Arc::new(Oci::new(address.clone(), &network, self.registry()?)?)
                    }
                })
            });
        Ok(Mirrors::new(sources.collect::<anyhow::Result<_>>()?))
    }

    /// How to sign in at a registry.
    fn registry(&self) -> anyhow::Result<registry::Options> {
        let read = |path: &PathBuf| {
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(registry::Options {
            proxy: self.proxy.as_ref().map(|Web(url)| url.to_string()),
            certificates: self.certificates.as_ref().map(read).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> anyhow::Result<Config> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::read(file.path())
    }

    const LEAST: &str = "disk = '/dev/vg/root'\nroot = '/etc/dmholey/root.json'\n";

    #[test]
    fn what_is_not_said_has_a_default() {
        let config = read(&format!("{LEAST}mirrors = ['/mnt/images']")).unwrap();
        assert_eq!(config.state, Path::new(STATE));
        assert_eq!(config.automatic, Automatic::Pull);
        assert_eq!(config.patience(), Duration::from_secs(60));
        assert_eq!(config.places, [Place::Folder("/mnt/images".into())]);
    }

    #[test]
    fn everything_can_be_said() {
        let config = read(&format!(
            "{LEAST}mirrors = ['https://a.example/x', 'file:///mnt/y']\nstate = '/s'\npatience = 0\n\
             proxy = 'http://proxy:3128'\ncertificates = '/c.pem'\nrate = '2M'\nautomatic = 'apply'\n"
        ))
        .unwrap();
        assert_eq!(config.places.last(), Some(&Place::Folder("/mnt/y".into())));
        assert_eq!(config.rate.map(|Rate(rate)| rate.get()), Some(2 << 20));
        assert_eq!(config.automatic, Automatic::Apply);
        assert_eq!(config.patience(), Duration::ZERO);
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, part) in [
            ("mirrors = []", "names nothing"),
            ("mirrors = ['images']", "line 3: 'images' is neither"),
            ("mirrors = ['ftp://a/b']", "neither an address"),
            (
                "mirrors = ['/a']\nrate = '0'",
                "line 4: nothing can be fetched",
            ),
            ("mirrors = ['/a']\nrate = 'fast'", "not a size"),
            (
                "mirrors = ['/a']\nproxy = '/a'",
                "no address such as http://proxy",
            ),
            ("mirrors = ['/a']\nautomatic = 'yes'", "unknown variant"),
            ("mirrors = ['/a']\ncolour = 1", "unknown field"),
            ("", "missing field"),
        ] {
            let error = format!("{:#}", read(&format!("{LEAST}{text}")).unwrap_err());
            assert!(error.contains(part), "{text}: {error}");
        }
        let error = Config::read(Path::new("/none")).unwrap_err();
        assert!(format!("{error:#}").contains("cannot read /none"));
    }
}
