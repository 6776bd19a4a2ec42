// SPDX-License-Identifier: GPL-2.0-or-later

//! What a copier's target was asked to keep, and has not kept yet.

use dmholey_cluster::ids::Ballot;
use dmholey_cluster::ids::Range;
use dmholey_cluster::ids::Seq;
use std::collections::HashMap;
use std::collections::HashSet;

/// More than two writers, one after the other, can have unanswered.
pub(super) const MOST: usize = 4 * crate::driver::MOST_REQUESTS;

/// Requests under way in the kernel, by the numbers that they have there.
#[derive(Debug, Default)]
pub(super) struct Keeps {
    next: u64,
    open: HashMap<u64, (Ballot, Seq)>,
    asked: HashSet<(Ballot, Seq)>,
}

impl Keeps {
    /// Numbers for requests, but for those that are under way: a writer repeats what was not answered each time that a
    /// stream begins. `None` if there are more than writers can have.
    pub(super) fn begin(
        &mut self,
        ballot: Ballot,
        requests: &[(Seq, Range)],
    ) -> Option<Vec<(u64, Range)>> {
        let mut numbered = Vec::new();
        for &(seq, range) in requests {
            if !self.asked.insert((ballot, seq)) {
                continue;
            }
            if self.asked.len() > MOST {
                return None;
            }
            self.open.insert(self.next, (ballot, seq));
            numbered.push((self.next, range));
            self.next += 1;
        }
        Some(numbered)
    }

    /// One has been kept.
    pub(super) fn end(&mut self, number: u64) -> Option<(Ballot, Seq)> {
        let request = self.open.remove(&number)?;
        self.asked.remove(&request);
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BALLOT: Ballot = Ballot { number: 1, node: 0 };

    fn requests(seqs: std::ops::Range<u64>) -> Vec<(Seq, Range)> {
        let range = Range { first: 0, len: 1 };
        seqs.map(|seq| (Seq(seq), range)).collect()
    }

    #[test]
    fn what_is_under_way_is_not_asked_again() {
        let mut keeps = Keeps::default();
        assert_eq!(keeps.begin(BALLOT, &requests(0..3)).unwrap().len(), 3);
        let again = keeps.begin(BALLOT, &requests(1..4)).unwrap();
        assert_eq!(again, [(3, Range { first: 0, len: 1 })]);
        // Its answer was lost with a stream: it is asked anew.
        assert_eq!(keeps.end(1), Some((BALLOT, Seq(1))));
        assert_eq!(keeps.end(1), None);
        assert_eq!(keeps.begin(BALLOT, &requests(0..4)).unwrap().len(), 1);
        // Another writer's is another one.
        let next = Ballot { number: 2, node: 1 };
        assert_eq!(keeps.begin(next, &requests(0..2)).unwrap().len(), 2);
    }

    #[test]
    fn a_writer_that_asks_for_ever_is_not_followed_for_ever() {
        let mut keeps = Keeps::default();
        let most = MOST as u64;
        assert!(keeps.begin(BALLOT, &requests(0..most)).is_some());
        assert_eq!(keeps.begin(BALLOT, &requests(0..most)), Some(Vec::new()));
        assert_eq!(keeps.begin(BALLOT, &requests(most..most + 1)), None);
    }
}
