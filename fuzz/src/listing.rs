// SPDX-License-Identifier: GPL-2.0-or-later

//! The manifest of an artifact in a registry, and the address of one.

use dmholey_registry::Address;
use dmholey_registry::Listing;

/// What is read is the same when it is written and read again, and leads nowhere but below its address.
pub fn listing(data: &[u8]) {
    if let Ok(listing) = Listing::parse(data) {
        assert_eq!(Listing::parse(&listing.encode()).as_ref(), Ok(&listing));
        for file in listing.0.values() {
            let digits = file.blob();
            let digits = digits.strip_prefix("blobs/sha256:").unwrap();
            assert!(digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()));
        }
    }
    let Some(address) = std::str::from_utf8(data)
        .ok()
        .and_then(|text| text.parse::<Address>().ok())
    else {
        return;
    };
    assert!(address.base().starts_with("http") && address.base().ends_with('/'));
    assert!(!address.base().contains(".."));
    assert_eq!(
        address.to_string().parse::<Address>().as_ref(),
        Ok(&address)
    );
}
