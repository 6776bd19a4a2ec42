// SPDX-License-Identifier: GPL-2.0-or-later

//! Where ours is known to differ from stock, and why. `Documentation/compatibility.rst` has the same
//! list for users.

use crate::action::Outcome;
use crate::observe::Limits;
use rustix::io::Errno;

/// A known difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deviation {
    LateMetadata,
    WriteCache,
    FlushOfInvalid,
    MergeEvents,
    HeaderBehindEnd,
    UnalignedDiscard,
    DiscardLimits,
    LastSlot,
}

impl Deviation {
    /// All of them, each with its headline in the page and with what it is about.
    pub(crate) const ALL: [(Self, &'static str, &'static str); 8] = [
        (
            Self::LateMetadata,
            "Metadata in the status",
            "a snapshot acknowledges writes before their exceptions are on the disk, so the metadata that its \
             status counts may lag until the next flush, or for a second",
        ),
        (
            Self::WriteCache,
            "Write cache",
            "a snapshot shows a write cache, for the same reason, even over devices that have none",
        ),
        (
            Self::FlushOfInvalid,
            "Flush of an invalid snapshot",
            "it fails; stock sends it to the COW device, as if what it is to make durable were still there",
        ),
        (
            Self::MergeEvents,
            "Events of a merge",
            "there is one at its end; stock raises none, so that one has to poll",
        ),
        (
            Self::HeaderBehindEnd,
            "Chunk size larger than the COW device",
            "the header is read alone; stock reads a chunk of the size in the table (16 KiB for 0), and fails if \
             the COW device is smaller",
        ),
        (
            Self::UnalignedDiscard,
            "Unaligned discards",
            "a discard zeroes what is in its range; stock takes one of a chunk's length for one of a whole chunk \
             wherever it begins, and zeroes data of the next chunk",
        ),
        (
            Self::DiscardLimits,
            "Discard limits",
            "those of a snapshot with discard_zeroes_cow are in bytes, as they should be; stock puts sectors \
             there, and brings the kernel down with chunks below 256 KiB",
        ),
        (
            Self::LastSlot,
            "The last slot of an area",
            "a store PO whose COW device ends behind the last data chunk of an area is full one chunk earlier; \
             stock becomes invalid when it fills that area",
        ),
    ];

    /// What comes of an action on the stock side and on ours.
    pub(crate) fn outcomes(self) -> Option<[Outcome; 2]> {
        match self {
            Self::FlushOfInvalid => Some([Outcome::Done, Outcome::Failed(Errno::IO)]),
            _ => None,
        }
    }

    /// Whether a limit of a device may have these values on the stock side and on ours.
    fn explains(self, name: &str, stock: &str, ours: &str) -> bool {
        match self {
            Self::WriteCache => {
                name == "write_cache" && stock == "write through" && ours == "write back"
            }
            Self::DiscardLimits => name.starts_with("discard_") && stock != "0" && ours != "0",
            _ => false,
        }
    }
}

/// Whether the limits of two devices with the same part differ in nothing but what is known.
pub(crate) fn alike(stock: &Limits, ours: &Limits) -> bool {
    let known = [Deviation::WriteCache, Deviation::DiscardLimits];
    stock.len() == ours.len()
        && stock.iter().zip(ours).all(|(stock, ours)| {
            let explains = |known: &Deviation| known.explains(stock.0, &stock.1, &ours.1);
            stock == ours || stock.0 == ours.0 && known.iter().any(explains)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_them_all() {
        let page = include_str!("../../../Documentation/compatibility.rst");
        let (_, section) = page
            .split_once("\nDeviations\n")
            .expect("there is a section");
        for (deviation, title, _) in Deviation::ALL {
            let headline = format!("\n{title}\n");
            assert!(
                section.contains(&headline),
                "{deviation:?}: '{title}' is missing"
            );
        }
    }
}
