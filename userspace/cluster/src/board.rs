// SPDX-License-Identifier: GPL-2.0-or-later

//! The requests that have not been answered by everybody.
//!
//! A request has a place in a queue, and one bit for each copier that has not answered. Its number tells its place,
//! so an answer costs the same however many there are. Answers come in any order; a place is freed when it and all
//! before it are done.

use crate::ids::NodeId;
use crate::ids::NodeSet;
use crate::ids::Range;
use crate::ids::Seq;
use std::collections::VecDeque;
use std::time::Duration;

#[derive(Debug)]
struct Request {
    range: Range,
    waiting: NodeSet,
    asked: Duration,
}

/// Requests of a writer to its copiers.
#[derive(Debug, Default)]
pub struct Board {
    requests: VecDeque<Request>,
    /// The number of the first of them.
    base: u64,
}

impl Board {
    /// How many places are in use.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether everything is answered.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Notes a request that `waiting`, who are not nobody, have to answer; its number.
    pub fn ask(&mut self, range: Range, waiting: NodeSet, asked: Duration) -> Seq {
        let seq = Seq(self.base + self.requests.len() as u64);
        self.requests.push_back(Request {
            range,
            waiting,
            asked,
        });
        seq
    }

    /// A copier has answered a request. The range if that was the last answer. What is not waited for, such as an
    /// answer that comes again, changes nothing.
    pub fn answered(&mut self, node: NodeId, seq: Seq) -> Option<Range> {
        let at = usize::try_from(seq.0.checked_sub(self.base)?).ok()?;
        let request = self.requests.get_mut(at)?;
        let done = request.waiting.remove(node) && request.waiting.is_empty();
        let range = request.range;
        self.forget_done();
        done.then_some(range)
    }

    /// A copier is gone. The ranges that waited for nobody else.
    pub fn drop_node(&mut self, node: NodeId) -> Vec<Range> {
        let mut done = Vec::new();
        for request in &mut self.requests {
            if request.waiting.remove(node) && request.waiting.is_empty() {
                done.push(request.range);
            }
        }
        self.forget_done();
        done
    }

    /// What a copier has not answered.
    pub fn unanswered(&self, node: NodeId) -> impl Iterator<Item = (Seq, Range)> + '_ {
        (self.base..)
            .zip(&self.requests)
            .filter(move |(_, request)| request.waiting.contains(node))
            .map(|(seq, request)| (Seq(seq), request.range))
    }

    /// When the first of those was asked.
    pub fn waits_since(&self, node: NodeId) -> Option<Duration> {
        let mut requests = self.requests.iter();
        requests
            .find(|request| request.waiting.contains(node))
            .map(|request| request.asked)
    }

    /// Forgets all requests; their numbers are not used again.
    pub fn clear(&mut self) {
        self.base += self.requests.len() as u64;
        self.requests.clear();
    }

    fn forget_done(&mut self) {
        while self
            .requests
            .front()
            .is_some_and(|request| request.waiting.is_empty())
        {
            self.requests.pop_front();
            self.base += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Duration = Duration::ZERO;

    fn node(number: u8) -> NodeId {
        NodeId::new(number).unwrap()
    }

    fn nodes(numbers: &[u8]) -> NodeSet {
        numbers.iter().map(|&number| node(number)).collect()
    }

    fn chunk(first: u64) -> Range {
        Range { first, len: 1 }
    }

    #[test]
    fn the_last_answer_counts_and_places_are_freed_in_order() {
        let mut board = Board::default();
        let first = board.ask(chunk(10), nodes(&[1, 2]), AT);
        let second = board.ask(chunk(20), nodes(&[1, 2]), AT);
        assert_eq!(board.answered(node(1), second), None);
        assert_eq!(board.answered(node(1), second), None);
        assert_eq!(board.answered(node(2), second), Some(chunk(20)));
        assert_eq!(board.answered(node(2), second), None);
        assert_eq!(board.len(), 2);
        assert_eq!(board.answered(node(2), first), None);
        assert_eq!(board.answered(node(1), first), Some(chunk(10)));
        assert!(board.is_empty());
        assert_eq!(board.ask(chunk(30), nodes(&[1]), AT), Seq(2));
    }

    #[test]
    fn who_is_gone_is_not_waited_for() {
        let mut board = Board::default();
        board.ask(chunk(1), nodes(&[1, 2]), AT);
        board.ask(chunk(2), nodes(&[2]), AT);
        board.ask(chunk(3), nodes(&[1]), AT);
        let left: Vec<_> = board.unanswered(node(2)).collect();
        assert_eq!(left, [(Seq(0), chunk(1)), (Seq(1), chunk(2))]);
        assert_eq!(board.drop_node(node(2)), [chunk(2)]);
        assert_eq!(board.drop_node(node(1)), [chunk(1), chunk(3)]);
        assert!(board.is_empty());
    }

    #[test]
    fn the_first_request_tells_since_when() {
        let mut board = Board::default();
        let at = Duration::from_secs;
        let first = board.ask(chunk(1), nodes(&[1]), at(5));
        board.ask(chunk(2), nodes(&[1, 2]), at(6));
        assert_eq!(board.waits_since(node(1)), Some(at(5)));
        assert_eq!(board.waits_since(node(2)), Some(at(6)));
        board.answered(node(1), first);
        assert_eq!(board.waits_since(node(1)), Some(at(6)));
        assert_eq!(board.waits_since(node(3)), None);
    }

    #[test]
    fn numbers_are_not_used_again() {
        let mut board = Board::default();
        let old = board.ask(chunk(1), nodes(&[1]), AT);
        board.clear();
        let new = board.ask(chunk(2), nodes(&[1]), AT);
        assert_eq!(board.answered(node(1), old), None);
        assert_eq!(board.answered(node(1), Seq(99)), None);
        assert_eq!(board.answered(node(1), new), Some(chunk(2)));
    }
}
