// SPDX-License-Identifier: GPL-2.0-or-later

//! What nodes say to each other.
//!
//! A message is encoded by postcard (its wire format is published and stable): a number that says which one, then its
//! fields in the order in which they stand here, integers as variable-length ones. How messages are told apart in a
//! stream is the business of whoever has the stream.

use crate::ids::Attachment;
use crate::ids::Ballot;
use crate::ids::Range;
use crate::ids::Seq;
use serde::Deserialize;
use serde::Serialize;

/// Changes when a message does. Peers with different versions do not talk.
pub const VERSION: u16 = 2;

/// No message is longer than this when encoded, in bytes.
pub const MAX_LEN: usize = 256 << 10;

/// So many requests or answers go into one message at most: each takes up to 25 bytes.
pub const MAX_ITEMS: usize = 8192;

/// A message. New ones are added at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Writer to all: it is there.
    Beat {
        /// Its ballot.
        ballot: Ballot,
    },
    /// Copier to its writer: it is there, and attached.
    Alive {
        /// Its attachment.
        attachment: Attachment,
    },
    /// Copier to a writer: it has an empty overlay and waits to be told that its view is fixed.
    Join {
        /// Its attachment.
        attachment: Attachment,
    },
    /// Writer to copier: the view is what the volume holds now.
    Joined {
        /// The writer's ballot.
        ballot: Ballot,
        /// The attachment that asked.
        attachment: Attachment,
    },
    /// Writer to copier: the attachment is not one that the writer waits for; it must end.
    Evicted {
        /// The writer's ballot.
        ballot: Ballot,
        /// The attachment.
        attachment: Attachment,
    },
    /// Copier to writer: the attachment has ended, nothing is read through it any more.
    Left {
        /// The attachment.
        attachment: Attachment,
    },
    /// Writer to copier: keep what these chunks hold.
    Keep {
        /// The writer's ballot.
        ballot: Ballot,
        /// The attachment that is to keep them.
        attachment: Attachment,
        /// The requests.
        requests: Vec<(Seq, Range)>,
    },
    /// Copier to writer: these requests are fulfilled.
    Kept {
        /// The ballot under which they were made.
        ballot: Ballot,
        /// The attachment that has kept the chunks.
        attachment: Attachment,
        /// The requests.
        seqs: Vec<Seq>,
    },
    /// A node wants to be the writer.
    Claim {
        /// Its ballot.
        ballot: Ballot,
    },
    /// Answer to a claim: not writer, and not claiming with a higher ballot.
    Accept {
        /// The ballot of the claim.
        ballot: Ballot,
        /// The attachment of the node, if its view is fixed.
        attachment: Option<Attachment>,
    },
    /// Answer to a claim, or to a writer: there is a writer or a claim with this ballot that goes before.
    Reject {
        /// The ballot that was refused.
        refused: Ballot,
        /// The ballot that goes before.
        ballot: Ballot,
    },
    /// A claim is not pursued any further, and never will be.
    Abandon {
        /// The ballot of the claim.
        ballot: Ballot,
        /// The highest ballot of a writer that the sender knows: an earlier claim of its own may have succeeded.
        followed: Ballot,
    },
    /// To a claimant whose claim was accepted: does it still pursue it?
    Recall {
        /// The ballot of the claim.
        ballot: Ballot,
    },
    /// Copier to its writer: it wants to start over, and nobody else is to do so at that time.
    Wish {
        /// When it says so, by a clock of its own; the answer has it, too.
        asked: u64,
        /// It was its turn already, and still is.
        begun: bool,
    },
    /// Writer to copier: it is its turn.
    Turn {
        /// The writer's ballot.
        ballot: Ballot,
        /// From the wish that this answers.
        asked: u64,
    },
    /// Copier to writer: it has joined again, or does not want to start over any more.
    Over,
}

/// Why bytes are no message.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Longer than any message.
    #[error("a message of {0} bytes; the longest has {MAX_LEN}")]
    TooLong(usize),
    /// Not one of the messages, or one with a field that cannot be.
    #[error("no message of protocol version {VERSION}: {0}")]
    Malformed(postcard::Error),
    /// There are bytes behind its end.
    #[error("{0} bytes too many behind a message")]
    Trailing(usize),
    /// It has more requests or answers than a message may have.
    #[error("{0} requests in a message; the most is {MAX_ITEMS}")]
    TooMany(usize),
}

impl Message {
    /// The message in bytes, behind what is in `bytes`.
    pub fn encode(&self, bytes: Vec<u8>) -> Vec<u8> {
        // Only a serializer that runs out of space fails, and a vector does not.
        postcard::to_extend(self, bytes).unwrap_or_default()
    }

    /// The message that `bytes` hold, and nothing but that.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_LEN {
            return Err(DecodeError::TooLong(bytes.len()));
        }
        let (message, rest): (Self, _) =
            postcard::take_from_bytes(bytes).map_err(DecodeError::Malformed)?;
        if !rest.is_empty() {
            return Err(DecodeError::Trailing(rest.len()));
        }
        let items = match &message {
            Self::Keep { requests, .. } => requests.len(),
            Self::Kept { seqs, .. } => seqs.len(),
            _ => 0,
        };
        if items > MAX_ITEMS {
            return Err(DecodeError::TooMany(items));
        }
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ballot() -> impl Strategy<Value = Ballot> {
        (any::<u64>(), any::<u8>()).prop_map(|(number, node)| Ballot { number, node })
    }

    fn attachment() -> impl Strategy<Value = Attachment> {
        any::<u64>().prop_map(Attachment)
    }

    fn request() -> impl Strategy<Value = (Seq, Range)> {
        (any::<u64>(), any::<u64>(), any::<u32>())
            .prop_map(|(seq, first, len)| (Seq(seq), Range { first, len }))
    }

    fn message() -> impl Strategy<Value = Message> {
        prop_oneof![
            ballot().prop_map(|ballot| Message::Beat { ballot }),
            attachment().prop_map(|attachment| Message::Alive { attachment }),
            (ballot(), attachment())
                .prop_map(|(ballot, attachment)| Message::Joined { ballot, attachment }),
            (
                ballot(),
                attachment(),
                prop::collection::vec(request(), 0..50)
            )
                .prop_map(|(ballot, attachment, requests)| Message::Keep {
                    ballot,
                    attachment,
                    requests
                }),
            (ballot(), prop::option::of(attachment()))
                .prop_map(|(ballot, attachment)| Message::Accept { ballot, attachment }),
            (ballot(), ballot()).prop_map(|(refused, ballot)| Message::Reject { refused, ballot }),
            (any::<u64>(), any::<bool>()).prop_map(|(asked, begun)| Message::Wish { asked, begun }),
            (ballot(), any::<u64>()).prop_map(|(ballot, asked)| Message::Turn { ballot, asked }),
            Just(Message::Over),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(message in message(), cut in any::<prop::sample::Index>()) {
            let bytes = message.encode(Vec::new());
            prop_assert_eq!(Message::decode(&bytes), Ok(message));
            let part = cut.index(bytes.len());
            prop_assert!(Message::decode(&bytes[..part]).is_err());
        }

        #[test]
        fn anything_can_come(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::decode(&bytes);
        }
    }

    #[test]
    fn the_fullest_message_is_short_enough() {
        let most = (
            Seq(u64::MAX),
            Range {
                first: u64::MAX,
                len: u32::MAX,
            },
        );
        let ballot = Ballot {
            number: u64::MAX,
            node: u8::MAX,
        };
        let attachment = Attachment(u64::MAX);
        let full = Message::Keep {
            ballot,
            attachment,
            requests: vec![most; MAX_ITEMS],
        };
        let bytes = full.encode(Vec::new());
        assert!(bytes.len() <= MAX_LEN, "{}", bytes.len());
        assert_eq!(Message::decode(&bytes), Ok(full));
        let more = Message::Kept {
            ballot,
            attachment,
            seqs: vec![Seq(0); MAX_ITEMS + 1],
        };
        let bytes = more.encode(Vec::new());
        assert_eq!(
            Message::decode(&bytes),
            Err(DecodeError::TooMany(MAX_ITEMS + 1))
        );
    }

    /// The bytes as Documentation/cluster-protocol.rst shows them.
    #[test]
    fn the_format_stays() {
        let ballot = Ballot {
            number: 300,
            node: 2,
        };
        let attachment = Attachment(7);
        let requests = vec![(
            Seq(1),
            Range {
                first: 4096,
                len: 8,
            },
        )];
        let keep = Message::Keep {
            ballot,
            attachment,
            requests,
        };
        let bytes = [6, 0xac, 0x02, 2, 7, 1, 1, 0x80, 0x20, 8];
        assert_eq!(keep.encode(Vec::new()), bytes);
        let mut wrong = bytes.to_vec();
        wrong.push(0);
        assert_eq!(Message::decode(&wrong), Err(DecodeError::Trailing(1)));
    }
}
