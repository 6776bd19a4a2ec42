// SPDX-License-Identifier: GPL-2.0-or-later

//! Where files are: a registry, a repository in it, and a tag.

use oci_client::Reference;
use std::fmt;
use std::str::FromStr;

/// What begins an address.
const SCHEME: &str = "oci://";
/// The same without TLS, for registries on this machine and in tests.
const PLAIN: &str = "oci+http://";

/// `oci://HOST[:PORT]/NAME[:TAG]`; `oci+http://` without TLS. Without a tag it is `latest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub(crate) reference: Reference,
    pub(crate) plain: bool,
}

impl Address {
    /// Whether a text is meant as such an address, whatever is wrong with it.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(SCHEME) || text.starts_with(PLAIN)
    }

    /// Whether there is no TLS.
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// Where the files are for web clients, with a slash at the end.
    pub fn base(&self) -> String {
        let scheme = if self.plain { "http" } else { "https" };
        let host = self.reference.resolve_registry();
        format!("{scheme}://{host}/v2/{}/", self.reference.repository())
    }

    /// The manifest, below the base.
    pub fn manifest(&self) -> String {
        format!("manifests/{}", self.reference.tag().unwrap_or("latest"))
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = text.strip_prefix(PLAIN);
        let why = |why: &str| {
            format!(
                "'{text}' is no address such as oci://registry.example.org/team/image:tag: {why}"
            )
        };
        let rest = plain
            .or(text.strip_prefix(SCHEME))
            .ok_or_else(|| why("it begins with something else"))?;
        let reference: Reference = rest.parse().map_err(|e| why(&format!("{e}")))?;
        // A name without a registry would be one of Docker's own.
        let host = rest.split('/').next().unwrap_or_default();
        if reference.registry() != host {
            return Err(why("it has no registry"));
        }
        if reference.digest().is_some() {
            return Err(why("what has a digest never changes"));
        }
        Ok(Self {
            reference,
            plain: plain.is_some(),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.plain { PLAIN } else { SCHEME };
        write!(f, "{scheme}{}", self.reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_what_it_says() {
        let address: Address = "oci://registry.example.org/team/image:stable"
            .parse()
            .unwrap();
        assert_eq!(
            address.base(),
            "https://registry.example.org/v2/team/image/"
        );
        assert_eq!(address.manifest(), "manifests/stable");
        assert_eq!(
            address.to_string(),
            "oci://registry.example.org/team/image:stable"
        );
        let address: Address = "oci+http://127.0.0.1:5000/image".parse().unwrap();
        assert_eq!(address.base(), "http://127.0.0.1:5000/v2/image/");
        assert_eq!(address.manifest(), "manifests/latest");
        assert!(address.is_plain());
    }

    #[test]
    fn what_is_wrong_with_an_address_is_said() {
        for (text, why) in [
            ("https://a/b", "begins with something else"),
            ("oci://", "image:tag: "),
            ("oci://image", "has no registry"),
            ("oci://registry.example.org/Image", "image:tag: invalid"),
            (
                "oci://a.example/b@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                "never changes",
            ),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains(why) && error.contains(text), "{error}");
        }
    }
}
