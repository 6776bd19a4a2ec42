// SPDX-License-Identifier: GPL-2.0-or-later

//! POSIX ACLs: from the text that archives have to the attribute that the kernel has.

/// The attribute's version.
const VERSION: u32 = 2;
/// An entry's number where there is none.
const NOBODY: u32 = u32::MAX;

/// Reads a text such as `user::rwx,user:1000:r-x,group::r-x,mask::r-x,other::r--`. Names are taken
/// for numbers only if a fourth field tells it.
pub(super) fn from_text(text: &[u8]) -> Result<Vec<u8>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "is no text".to_owned())?;
    let mut entries = Vec::new();
    for line in text
        .split([',', '\n'])
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        let bad = || format!("'{line}' is no entry");
        let mut fields = line.split(':');
        let (tag, who, bits) = match (fields.next(), fields.next(), fields.next()) {
            (Some(tag), Some(who), Some(bits)) => (tag, who, bits),
            // Without the empty field in the middle.
            (Some(tag @ ("mask" | "other")), Some(bits), None) => (tag, "", bits),
            _ => return Err(bad()),
        };
        let tag: u16 = match (tag, who) {
            ("user" | "u", "") => 0x01,
            ("user" | "u", _) => 0x02,
            ("group" | "g", "") => 0x04,
            ("group" | "g", _) => 0x08,
            ("mask" | "m", _) => 0x10,
            ("other" | "o", _) => 0x20,
            _ => return Err(bad()),
        };
        let id = if who.is_empty() {
            NOBODY
        } else {
            let number = who.parse().or_else(|_| fields.next().unwrap_or("").parse());
            number.map_err(|_| {
                format!("'{line}' names somebody without a number; make the archive with numbers (--numeric-owner)")
            })?
        };
        let mut permissions = 0u16;
        for bit in bits.chars() {
            permissions |= match bit {
                'r' => 4,
                'w' => 2,
                'x' => 1,
                '-' => 0,
                _ => return Err(bad()),
            };
        }
        entries.push((tag, id, permissions));
    }
    entries.sort_unstable();
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    Ok(value)
}

/// Gives entries that are about nobody in particular the number that getxattr(2) gives them. libext2fs
/// gives them zero.
pub(crate) fn settle(name: &[u8], value: &mut [u8]) {
    if !name.starts_with(b"system.posix_acl_") {
        return;
    }
    for entry in value.get_mut(4..).unwrap_or_default().chunks_exact_mut(8) {
        if let [tag, _, _, _, id @ ..] = entry {
            // A user or a group by number.
            if *tag != 0x02 && *tag != 0x08 {
                id.copy_from_slice(&NOBODY.to_le_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_attributes() {
        let value = from_text(b"user::rw-,user:7:r--,group::r--,mask::r--,other::---").unwrap();
        let entry = |i: usize| &value[4 + i * 8..12 + i * 8];
        assert_eq!(value.len(), 4 + 5 * 8);
        assert_eq!(entry(0), [1, 0, 6, 0, 255, 255, 255, 255]);
        assert_eq!(entry(1), [2, 0, 4, 0, 7, 0, 0, 0]);
        assert_eq!(
            from_text(b"user:lisa:r--:7").unwrap(),
            from_text(b"user:7:r--").unwrap()
        );
        assert!(from_text(b"user:lisa:r--")
            .unwrap_err()
            .contains("--numeric-owner"));
        assert!(from_text(b"nobody").is_err());
    }
}
