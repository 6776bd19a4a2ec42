// SPDX-License-Identifier: GPL-2.0-or-later

//! Table lines that neither side takes.

use crate::rng::Rng;

/// Lines as `refuse` has them, with `COW` for a COW volume that nothing uses.
const LINES: [&str; 42] = [
    "origin",
    "origin {base} {base}",
    "origin {base} P 8",
    "origin /dev/nowhere",
    "origin 999:999",
    "origin nothing",
    "snapshot",
    "snapshot {base}",
    "snapshot {base} COW",
    "snapshot {base} COW P",
    "snapshot {base} COW X 8",
    "snapshot {base} COW Q 8",
    "snapshot {base} COW PX 8",
    "snapshot {base} COW Persistent 8",
    "snapshot {base} COW 8 P",
    "snapshot {base} COW P 3",
    "snapshot {base} COW P 12",
    "snapshot {base} COW P -8",
    "snapshot {base} COW P eight",
    "snapshot {base} COW P 8k",
    "snapshot {base} COW P 4294967295",
    "snapshot {base} COW P 99999999999",
    "snapshot {base} COW P 8 x",
    "snapshot {base} COW P 8 3",
    "snapshot {base} COW P 8 1",
    "snapshot {base} COW P 8 2 discard_zeroes_cow",
    "snapshot {base} COW P 8 1 nonsense",
    "snapshot {base} COW P 8 1 discard_passdown_origin",
    "snapshot {base} COW P 8 2 discard_zeroes_cow nonsense",
    "snapshot {base} /dev/nowhere P 8",
    "snapshot /dev/nowhere COW P 8",
    "snapshot 999:999 COW P 8",
    "snapshot {base} COW P 8 3 discard_zeroes_cow discard_passdown_origin nonsense",
    "snapshot {base} COW N 0",
    "snapshot {base} COW N 3",
    "snapshot {base} COW Nothing",
    "merge {base} COW N 8",
    "merge",
    "merge {base} COW P",
    "merge {base} COW P 12",
    "merge {base} COW P 8 1 nonsense",
    "merge /dev/nowhere COW P 8",
];

/// One of them.
pub(crate) fn draw(rng: &mut Rng, cow: usize) -> String {
    rng.pick(&LINES).replace("COW", &format!("{{cow{cow}}}"))
}
