// SPDX-License-Identifier: GPL-2.0-or-later

//! What every device should show.

use super::cow_name;
use super::Merge;
use super::Model;
use super::Snapshot;
use super::BASE;
use crate::action::Content;
use crate::action::Seen;
use crate::action::Status;
use crate::op::Dev;
use crate::op::COWS;
use crate::view::View;

impl Model {
    /// What every device should show now.
    pub(crate) fn views(&self) -> Vec<Seen> {
        let after = self.is_merging().then(|| self.completed());
        let mut views: Vec<Seen> = (0..COWS)
            .filter_map(|n| {
                Some(self.snapshot_view(n, self.snapshots[n].as_ref()?, after.as_ref()))
            })
            .collect();
        views.extend(self.live_merge().map(|merge| self.merge_view(merge)));
        if let Some(origin) = &self.origin {
            views.push(Seen {
                name: self.name(Dev::Origin),
                content: match origin.suspended {
                    true => Content::Unread,
                    false => Content::Exactly(View::plain(&self.base)),
                },
                status: Status::Words(""),
                table: format!("{{{BASE}}}"),
                suspended: origin.suspended,
                // Deviation::MergeEvents
                counts_events: !origin.was_merge,
            });
        }
        // Whoever reads the origin's device has read its volume.
        if !self.is_usable(Dev::Origin) {
            views.push(self.base_view());
        }
        views
    }

    fn base_view(&self) -> Seen {
        let merging = self.merge.as_ref().filter(|merge| !merge.done);
        let content = match merging.and_then(|merge| self.cows[merge.cow].store()) {
            Some(store) => Content::Between {
                before: View::plain(&self.base),
                after: store.view(&self.base),
            },
            None => Content::Exactly(View::plain(&self.base)),
        };
        Seen {
            name: BASE.to_owned(),
            content,
            status: Status::Words(""),
            table: String::new(),
            suspended: false,
            counts_events: true,
        }
    }

    fn snapshot_view(&self, n: usize, snapshot: &Snapshot, after: Option<&Self>) -> Seen {
        let content = match self.cows[n].store() {
            _ if snapshot.suspended => Content::Unread,
            Some(store) if store.valid => Content::Exactly(store.view(&self.base)),
            _ => Content::Failure,
        };
        let mut status = self.usage(n, after.filter(|_| !self.is_look(n)), snapshot.settled);
        if self.is_look(n) {
            status = may_have_shrunk(status);
        }
        if snapshot.overflowed && self.is_valid(n) {
            status = Status::Words("Overflow");
        }
        Seen {
            name: self.name(Dev::Snapshot(n)),
            content,
            status,
            table: self.store_words(
                n,
                &snapshot.words.kind.to_string(),
                &snapshot.words.features(),
            ),
            suspended: snapshot.suspended,
            counts_events: true,
        }
    }

    fn merge_view(&self, merge: &Merge) -> Seen {
        let content = match self.cows[merge.cow].store() {
            _ if merge.suspended => Content::Unread,
            Some(store) if !merge.done => Content::Exactly(store.view(&self.base)),
            _ => Content::Exactly(View::plain(&self.base)),
        };
        let mut status = self.usage(merge.cow, None, true);
        if !merge.done {
            status = may_have_shrunk(status);
        }
        Seen {
            name: merge.name().to_owned(),
            content,
            status,
            table: self.store_words(merge.cow, &merge.kind.to_string(), ""),
            suspended: merge.suspended,
            // Deviation::MergeEvents
            counts_events: false,
        }
    }

    fn store_words(&self, n: usize, kind: &str, features: &str) -> String {
        let chunk = self.chunk(n).unwrap_or(0);
        format!("{{{BASE}}} {{{}}} {kind} {chunk}{features}", cow_name(n))
    }

    /// The status of a store that may have more exceptions by now, up to what it has in `after`.
    fn usage(&self, n: usize, after: Option<&Self>, settled: bool) -> Status {
        let cow = &self.cows[n];
        match cow.store() {
            Some(store) if store.valid => {
                let now = store.usage();
                let last = after.and_then(|after| after.cows[n].store());
                let last = last.map_or(now, |store| store.usage());
                Status::Usage {
                    allocated: (now.0, last.0),
                    total: cow.sectors,
                    metadata: (now.1, last.1),
                    settled,
                }
            }
            _ => Status::Words("Invalid"),
        }
    }
}

/// Any part of the list may be gone.
fn may_have_shrunk(status: Status) -> Status {
    match status {
        Status::Usage {
            allocated,
            total,
            metadata,
            settled,
        } => Status::Usage {
            allocated: (0, allocated.1),
            total,
            metadata: (0, metadata.1),
            settled,
        },
        other => other,
    }
}
