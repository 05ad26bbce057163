//! Copies that were asked for and are not confirmed yet. Kept in memory alone: what is forgotten
//! here is at worst asked for twice.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::clock::Moment;
use crate::ids::{NodeId, Serial};

/// How long a copy is waited for before it is asked of another node.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
struct Flight {
    node: NodeId,
    until: Moment,
    /// It was reported as failed, and the node is not asked again for a while.
    has_failed: bool,
}

/// The copies on their way.
#[derive(Debug, Default)]
pub struct UnderWay {
    flights: HashMap<Serial, Vec<Flight>>,
    /// Each entry of `flights`, by the time at which it is of no more use.
    ends: VecDeque<(Moment, Serial)>,
}

/// The nodes that copies of one chunk are on their way to, and those that failed to take one.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Targets {
    pub under_way: Vec<NodeId>,
    pub failed: Vec<NodeId>,
}

impl UnderWay {
    /// A copy of the chunk is on its way to `node`.
    pub fn begin(&mut self, serial: Serial, node: NodeId, now: Moment) {
        self.forget_old(now);
        let until = now + PATIENCE;
        let flights = self.flights.entry(serial).or_default();
        flights.retain(|flight| flight.node != node);
        flights.push(Flight { node, until, has_failed: false });
        self.ends.push_back((until, serial));
    }

    /// The copy is there, or nobody is at it any more.
    pub fn end(&mut self, serial: Serial, node: NodeId) {
        if let Some(flights) = self.flights.get_mut(&serial) {
            flights.retain(|flight| flight.node != node || flight.has_failed);
            if flights.is_empty() {
                self.flights.remove(&serial);
            }
        }
    }

    /// The order for it is over. True when the copy has come.
    pub fn close(&mut self, serial: Serial, node: NodeId) -> bool {
        let flights = self.flights.get(&serial).into_iter().flatten();
        let has_come = flights.clone().all(|flight| flight.node != node);
        self.end(serial, node);
        has_come
    }

    /// The node could not take it.
    pub fn fail(&mut self, serial: Serial, node: NodeId, now: Moment) {
        self.begin(serial, node, now);
        let flights = self.flights.get_mut(&serial).into_iter().flatten();
        flights.filter(|flight| flight.node == node).for_each(|flight| flight.has_failed = true);
    }

    /// The node has started anew: what it failed to take before, it may take now.
    pub fn forgive(&mut self, node: NodeId) {
        self.flights.retain(|_, flights| {
            flights.retain(|flight| flight.node != node || !flight.has_failed);
            !flights.is_empty()
        });
    }

    /// What is known of the chunk's copies.
    pub fn targets(&self, serial: Serial, now: Moment) -> Targets {
        let mut targets = Targets::default();
        for flight in self.flights.get(&serial).into_iter().flatten() {
            if flight.until > now {
                let list = match flight.has_failed {
                    true => &mut targets.failed,
                    false => &mut targets.under_way,
                };
                list.push(flight.node);
            }
        }
        targets
    }

    fn forget_old(&mut self, now: Moment) {
        while let Some(&(until, serial)) = self.ends.front().filter(|(until, _)| *until <= now) {
            self.ends.pop_front();
            if let Some(flights) = self.flights.get_mut(&serial) {
                flights.retain(|flight| flight.until > until);
                if flights.is_empty() {
                    self.flights.remove(&serial);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_under_way_until_it_is_there_or_failed_or_overdue() {
        let (mut under_way, start) = (UnderWay::default(), Moment(0));
        for node in 1..=3 {
            under_way.begin(Serial(7), NodeId(node), start);
        }
        under_way.end(Serial(7), NodeId(1));
        under_way.fail(Serial(7), NodeId(2), start);
        let targets = under_way.targets(Serial(7), start);
        assert_eq!((targets.under_way, targets.failed), (vec![NodeId(3)], vec![NodeId(2)]));
        under_way.forgive(NodeId(2));
        under_way.forgive(NodeId(3));
        let targets = under_way.targets(Serial(7), start);
        assert_eq!((targets.under_way, targets.failed), (vec![NodeId(3)], vec![]));
        assert_eq!(under_way.targets(Serial(7), start + PATIENCE), Targets::default());
    }

    #[test]
    fn what_is_overdue_takes_no_memory() {
        let mut under_way = UnderWay::default();
        for serial in 0..100 {
            under_way.begin(Serial(serial), NodeId(1), Moment(serial));
        }
        under_way.begin(Serial(100), NodeId(1), Moment(1000) + PATIENCE);
        assert_eq!((under_way.flights.len(), under_way.ends.len()), (1, 1));
    }
}
