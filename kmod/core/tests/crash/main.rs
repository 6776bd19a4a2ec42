// SPDX-License-Identifier: GPL-2.0

//! Power cuts: whatever is left on the disks, the devices show what they may show.
//!
//! The disks are simulated with a volatile cache; the code that decides what is written when is the
//! core's. After every step power may be cut, the remains are judged by code of their own, and the
//! store is activated again on them, several times in a row.

mod disk;
mod merging;
mod overlay;
mod random;
mod store;
mod view;

use merging::Merging;
use overlay::Overlay;
use random::with_seeds;
use random::Random;
use store::Devices;
use view::View;

/// A store is fresh or whole while it is being made.
#[test]
fn making_a_store() {
    with_seeds(20, |seed| {
        let mut random = Random::new(seed);
        let mut devices = Devices::new(10, 400, &mut random);
        let view = View::new((0..80).map(|at| at + 1));
        devices.format(|devices| {
            for _ in 0..10 {
                assert!(devices.cut(&mut random).judge(&view).is_empty());
            }
        });
        assert_eq!(devices.list(), Some(Vec::new()));
    });
}

/// Judges what a cut leaves: what was listed is there as far as it was durable, in its order.
fn judge(devices: &Devices, overlay: &Overlay) {
    let list = devices.judge(&overlay.view);
    assert!(list.len() >= overlay.durable, "durable entries are lost");
    assert_eq!(list[..], overlay.listed[..list.len()], "not a prefix");
}

/// Copy on write, early acknowledgement, flush and FUA, with many cuts.
#[test]
fn copy_on_write() {
    with_seeds(30, |seed| {
        let mut random = Random::new(seed);
        let origin_chunks = [60, 330, 700][random.below(3)];
        let cow_chunks = [20, 259, 262, 300, 400, 900][random.below(6)];
        let mut devices = Devices::new(origin_chunks, cow_chunks, &mut random);
        devices.format(|_| {});
        let mut stamp = 1 << 32;
        for _ in 0..12 {
            let mut overlay = Overlay::activate(devices, stamp, &mut random);
            for _ in 0..[10, 30, 100, 300][random.below(4)] {
                overlay.step(&mut random);
                if random.one_in(4) {
                    judge(&overlay.devices.cut(&mut random), &overlay);
                }
                if random.one_in(100) {
                    overlay.check_live();
                }
            }
            devices = overlay.devices.cut(&mut random);
            // Most often the power goes when a metadata write is torn.
            for _ in 0..[0, 300, 300][random.below(3)] {
                if !devices.is_tail_zero() {
                    break;
                }
                overlay.step(&mut random);
                devices = overlay.devices.cut(&mut random);
            }
            judge(&devices, &overlay);
            stamp = overlay.stamp();
        }
    });
}

/// Judges what a cut leaves of a merge: only the end of the list may be missing.
fn judge_merge(devices: &Devices, merging: &Merging) {
    let list = devices.judge(&merging.view);
    let (least, most) = merging.may_list();
    assert!(
        (least..=most).contains(&list.len()),
        "{least} <= {} <= {most}",
        list.len()
    );
    assert_eq!(list[..], merging.list()[..list.len()], "not a prefix");
}

/// A merge that is cut off again and again, while the device is written.
#[test]
fn merge() {
    with_seeds(20, |seed| {
        let mut random = Random::new(seed);
        let origin_chunks = [60, 330, 700][random.below(3)];
        let cow_chunks = [262, 300, 400, 900][random.below(4)];
        let mut devices = Devices::new(origin_chunks, cow_chunks, &mut random);
        devices.format(|_| {});
        let mut overlay = Overlay::activate(devices, 1 << 32, &mut random);
        for _ in 0..[300, 3000, 6000][random.below(3)] {
            overlay.step(&mut random);
        }
        devices = overlay.devices.cut(&mut random);
        let mut stamp = overlay.stamp();
        for _ in 0..8 {
            let mut merging = Merging::activate(devices, stamp, &mut random);
            for _ in 0..[30, 100, 1000][random.below(3)] {
                merging.step(false, &mut random);
                if random.one_in(4) {
                    judge_merge(&merging.devices.cut(&mut random), &merging);
                }
                if random.one_in(50) {
                    merging.check_live();
                }
            }
            devices = merging.devices.cut(&mut random);
            judge_merge(&devices, &merging);
            stamp = merging.stamp();
        }
        let mut merging = Merging::activate(devices, stamp, &mut random);
        while !merging.is_done() {
            merging.step(true, &mut random);
        }
        devices = merging.devices.cut(&mut random);
        judge_merge(&devices, &merging);
        assert_eq!(devices.list(), Some(Vec::new()));
        assert!(devices.is_tail_zero(), "area 0 is not empty");
    });
}
