// SPDX-License-Identifier: GPL-2.0

//! Checks the invariants of an index, for tests.

use super::super::inner::Inner;
use super::super::leaf::Leaf;
use super::super::node::NIL;
use super::super::Directory;
use super::super::Index;
use super::super::IndexWriter;
use super::super::MAX_LEVELS;
use std::collections::BTreeSet;

impl<D: Directory> Index<D> {
    /// Panics if an invariant does not hold.
    pub(in super::super) fn check(&self, writer: &IndexWriter) {
        let mut seen = BTreeSet::new();
        let (mut runs, mut mapped) = (0, 0);
        if self.root() != NIL {
            let root = self.node(self.root()).ok().expect("root");
            assert!(root.level() < MAX_LEVELS);
            assert!(root.level() == 0 || root.count() > 1, "root with one child");
            self.check_node(self.root(), root.level(), 0, u64::MAX, &mut |id, leaf| {
                assert!(seen.insert(id), "node {id} is reachable twice");
                if let Some(leaf) = leaf {
                    runs += leaf.count() as u64;
                    mapped += (0..leaf.count()).map(|at| leaf.run(at).len).sum::<u64>();
                }
            });
        }
        assert_eq!(seen.len() as u32, writer.used_nodes(), "used nodes");
        assert_eq!((runs, mapped), (writer.runs(), self.len()), "counters");
        let mut free = writer.free;
        for _ in 0..writer.freed {
            assert!(seen.insert(free), "node {free} is used or free twice");
            assert!(free < writer.fresh);
            free = self.node(free).ok().expect("free node").next_free();
        }
        assert_eq!(free, NIL);
        assert_eq!(seen.len() as u32, writer.fresh);
    }

    /// Checks a node whose chunks are `from..end`.
    fn check_node(
        &self,
        id: u32,
        level: usize,
        from: u64,
        end: u64,
        visit: &mut dyn FnMut(u32, Option<Leaf<'_>>),
    ) {
        let node = self.node(id).ok().expect("node");
        assert_eq!(node.level(), level);
        assert!(node.count() > 0, "empty node {id}");
        if level == 0 {
            let leaf = Leaf(node);
            visit(id, Some(leaf));
            let mut low = from;
            for run in (0..leaf.count()).map(|at| leaf.run(at)) {
                assert!(run.is_storable(), "{run:?}");
                assert!(run.origin >= low, "{run:?} starts below {low}");
                low = run.end();
            }
            assert!(low <= end, "a run crosses the border {end}");
            return;
        }
        visit(id, None);
        let inner = Inner(node);
        for at in 0..inner.count() {
            let low = if at == 0 { from } else { inner.key(at) };
            let high = if at + 1 < inner.count() {
                inner.key(at + 1)
            } else {
                end
            };
            assert!(
                low >= from && low < high && high <= end,
                "borders {low}, {high}"
            );
            self.check_node(inner.child(at), level - 1, low, high, visit);
        }
    }
}
