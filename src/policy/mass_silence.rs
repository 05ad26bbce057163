//! When many nodes fall silent together, the fault is more likely the main server's own, or that
//! of its network, than theirs: then it doubts itself, and nothing is repaired on the strength of
//! their silence.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::clock::Moment;
use crate::ids::NodeId;
use crate::policy::liveness::State;

/// Fewer than these are never many.
pub const AT_LEAST: usize = 2;
/// When more than one in so many fall silent together, it may be the beginning of more.
const MANY_MAY_FOLLOW: usize = 10;

/// What a look at the nodes has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The main server doubts itself from now on.
    Began,
    /// Enough nodes are back.
    Ended,
}

/// Whether the main server doubts itself. It does when more than a third of the nodes that counted,
/// and at least two, fell silent within one interval; until no more than a third are missing, or a
/// person says that they are really gone.
///
/// Right after its start nobody was heard yet, so it doubts itself until most of the nodes are
/// there: a main server that comes up on the wrong side of a network split must not start to
/// repair what only it cannot see.
#[derive(Debug, Clone)]
pub struct MassSilence {
    /// Nodes that fell silent and are not back, and when. While there is no doubt, only those of the
    /// last moments.
    fallen: BTreeMap<NodeId, Moment>,
    since: Option<Moment>,
    /// Too many fell silent in the last moments to act on it before it is clear whether it is all.
    hesitates: bool,
}

impl MassSilence {
    /// At the start, with all nodes that should be there.
    pub fn new(expected: impl IntoIterator<Item = NodeId>, now: Moment) -> MassSilence {
        let fallen: BTreeMap<NodeId, Moment> =
            expected.into_iter().map(|node| (node, now)).collect();
        let since = (fallen.len() >= AT_LEAST).then_some(now);
        MassSilence { fallen, since, hesitates: false }
    }

    /// Takes in the nodes whose state changed, with what it was and what it is, and how many count
    /// now. To be called after every look at the states, with all changes of that look together.
    pub fn note(
        &mut self,
        changes: &[(NodeId, State, State)],
        counting: usize,
        interval: Duration,
        now: Moment,
    ) -> Option<Turn> {
        for &(node, was, is) in changes {
            match is {
                State::Suspect | State::Dead if is_there(was) => {
                    self.fallen.insert(node, now);
                }
                // One that is not compared yet does not count, but was heard.
                State::Alive | State::Returning | State::Rejoining | State::Stopped => {
                    self.fallen.remove(&node);
                }
                State::Suspect | State::Dead => {}
            }
        }
        if self.since.is_none() {
            // Nodes that fell silent within one interval were last heard up to one before that, and
            // so are found out within two.
            self.fallen.retain(|_, at| now.since(*at) < interval * 2);
        }
        let turn = self.turn(counting, now);
        let fallen = self.fallen.len();
        self.hesitates = fallen >= AT_LEAST && fallen * MANY_MAY_FOLLOW > counting + fallen;
        turn
    }

    /// A node was struck off: nobody waits for it.
    pub fn forget(&mut self, node: NodeId) {
        self.fallen.remove(&node);
    }

    /// A person said that the nodes are really gone.
    pub fn adopt(&mut self) {
        self.fallen.clear();
        (self.since, self.hesitates) = (None, false);
    }

    /// True while the main server doubts itself: a person should know.
    pub fn is_doubted(&self) -> bool {
        self.since.is_some()
    }

    /// True while nothing is to be done on the strength of silence: there is doubt, or so many fell
    /// silent just now that there soon may be. Nodes behind a cut fall silent one after the other,
    /// as their heartbeats come due; without this, much would be copied before the last of them.
    pub fn is_patient(&self) -> bool {
        self.is_doubted() || self.hesitates
    }

    /// When `note` is to be called again though no state changes, if it is.
    pub fn next_change(&self, interval: Duration) -> Option<Moment> {
        let is_open = self.hesitates && !self.is_doubted();
        self.fallen.values().min().filter(|_| is_open).map(|at| *at + interval * 2)
    }

    /// Since when there is doubt.
    pub fn since(&self) -> Option<Moment> {
        self.since
    }

    /// The nodes that are missed; while there is no doubt, those that fell silent just now.
    pub fn missing(&self) -> BTreeSet<NodeId> {
        self.fallen.keys().copied().collect()
    }

    fn turn(&mut self, counting: usize, now: Moment) -> Option<Turn> {
        let fallen = self.fallen.len();
        let are_many = fallen >= AT_LEAST && fallen * 3 > counting + fallen;
        match (self.since, are_many) {
            (None, true) => {
                self.since = Some(now);
                Some(Turn::Began)
            }
            (Some(_), false) => {
                self.since = None;
                Some(Turn::Ended)
            }
            (None, false) | (Some(_), true) => None,
        }
    }
}

fn is_there(was: State) -> bool {
    match was {
        State::Alive | State::Returning | State::Rejoining | State::Stopped => true,
        State::Suspect | State::Dead => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn nodes(numbers: std::ops::RangeInclusive<u32>) -> Vec<NodeId> {
        numbers.map(NodeId).collect()
    }

    fn changes(nodes: &[NodeId], was: State, is: State) -> Vec<(NodeId, State, State)> {
        nodes.iter().map(|&node| (node, was, is)).collect()
    }

    /// Nine nodes, all there.
    fn settled() -> MassSilence {
        let mut silence = MassSilence::new(nodes(1..=9), Moment(0));
        let back = changes(&nodes(1..=9), State::Suspect, State::Alive);
        assert_eq!(silence.note(&back, 9, INTERVAL, Moment(1)), Some(Turn::Ended));
        silence
    }

    #[test]
    fn more_than_a_third_that_fall_silent_together_are_doubted_until_enough_are_back() {
        let mut silence = settled();
        let third = changes(&nodes(1..=3), State::Alive, State::Suspect);
        assert_eq!(silence.note(&third, 6, INTERVAL, Moment(100)), None);
        assert!(silence.is_patient() && !silence.is_doubted(), "more may follow");
        let fourth = changes(&nodes(4..=4), State::Alive, State::Suspect);
        assert_eq!(silence.note(&fourth, 5, INTERVAL, Moment(5000)), Some(Turn::Began));
        // Neither time nor death ends it.
        let dead = changes(&nodes(1..=4), State::Suspect, State::Dead);
        assert_eq!(silence.note(&dead, 5, INTERVAL, Moment(500_000)), None);
        assert_eq!(silence.missing().len(), 4);
        let back = changes(&nodes(2..=2), State::Dead, State::Returning);
        assert_eq!(silence.note(&back, 5, INTERVAL, Moment(500_001)), None);
        let counts = changes(&nodes(2..=2), State::Returning, State::Alive);
        assert_eq!(silence.note(&counts, 6, INTERVAL, Moment(500_002)), Some(Turn::Ended));
        assert!(!silence.is_doubted());
    }

    #[test]
    fn nodes_that_fall_one_after_the_other_are_believed() {
        let mut silence = settled();
        for (node, at) in (1..=5).zip([0, 20, 40, 60, 80]) {
            let fell = changes(&[NodeId(node)], State::Alive, State::Suspect);
            let now = Moment(100 + at * 1000);
            assert_eq!(silence.note(&fell, 9 - node as usize, INTERVAL, now), None);
            assert!(!silence.is_patient());
        }
    }

    #[test]
    fn a_silence_that_does_not_spread_is_acted_on_soon() {
        let mut silence = settled();
        let two = changes(&nodes(1..=2), State::Alive, State::Suspect);
        assert_eq!(silence.note(&two, 7, INTERVAL, Moment(100)), None);
        assert!(silence.is_patient());
        assert_eq!(silence.next_change(INTERVAL), Some(Moment(10_100)));
        assert_eq!(silence.note(&[], 7, INTERVAL, Moment(10_100)), None);
        assert!(!silence.is_patient());
        assert_eq!(silence.next_change(INTERVAL), None);
    }

    #[test]
    fn a_single_node_is_believed_however_few_there_are() {
        let mut silence = MassSilence::new(nodes(1..=1), Moment(0));
        assert!(!silence.is_doubted());
        let fell = changes(&nodes(1..=1), State::Alive, State::Suspect);
        assert_eq!(silence.note(&fell, 0, INTERVAL, Moment(9)), None);
    }

    #[test]
    fn a_main_server_that_has_just_started_doubts_itself_until_most_are_there() {
        let mut silence = MassSilence::new(nodes(1..=9), Moment(0));
        assert!(silence.is_doubted());
        let five = changes(&nodes(1..=5), State::Suspect, State::Alive);
        assert_eq!(silence.note(&five, 5, INTERVAL, Moment(900_000)), None);
        let sixth = changes(&nodes(6..=6), State::Suspect, State::Alive);
        assert_eq!(silence.note(&sixth, 6, INTERVAL, Moment(900_001)), Some(Turn::Ended));
    }

    #[test]
    fn a_person_can_say_that_they_are_gone() {
        let mut silence = settled();
        let fell = changes(&nodes(1..=8), State::Alive, State::Dead);
        assert_eq!(silence.note(&fell, 1, INTERVAL, Moment(100)), Some(Turn::Began));
        silence.adopt();
        assert_eq!(silence.note(&[], 1, INTERVAL, Moment(101)), None);
        assert!(!silence.is_doubted());
    }

    #[test]
    fn nodes_that_stop_by_plan_are_missed_only_when_they_are_overdue() {
        let mut silence = settled();
        let stopped = changes(&nodes(1..=5), State::Alive, State::Stopped);
        assert_eq!(silence.note(&stopped, 4, INTERVAL, Moment(100)), None);
        let overdue = changes(&nodes(1..=5), State::Stopped, State::Dead);
        assert_eq!(silence.note(&overdue, 4, INTERVAL, Moment(600_000)), Some(Turn::Began));
    }
}
