//! How fast nodes are, as far as one operation has seen: from which of them something is here first.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::NodeId;

/// The pace of nodes of which none is known, seconds a byte: it only has to weigh what is under way.
const UNKNOWN: f64 = 1e-8;
/// A node is slow when it takes this many times as long as the fastest.
const SLOW: f64 = 3.0;
/// How much of the difference to the fastest a node keeps, that is asked nothing, for each fetch that
/// another has ended: so it is tried again some time.
const FORGETTING: f64 = 0.99;
/// What is smaller than this tells of round trips rather than of the pace.
const TELLING_BYTES: u64 = 64 * 1024;

#[derive(Default)]
pub(super) struct Paces {
    nodes: BTreeMap<NodeId, Pace>,
    /// The best that is known of any, seconds a byte.
    best: Option<f64>,
}

#[derive(Default)]
struct Pace {
    /// Seconds a byte, a moving average over fetches; `None` before the first.
    known: Option<f64>,
    bytes_under_way: u64,
}

impl Paces {
    /// A fetch begins. Returns the bytes that are under way from there now, these included.
    pub fn begin(&mut self, node: NodeId, bytes: u64) -> u64 {
        let pace = self.nodes.entry(node).or_default();
        pace.bytes_under_way += bytes;
        pace.bytes_under_way
    }

    /// A fetch has ended, well or not.
    pub fn end(&mut self, node: NodeId, bytes: u64) {
        let pace = self.nodes.entry(node).or_default();
        pace.bytes_under_way = pace.bytes_under_way.saturating_sub(bytes);
    }

    /// `bytes` came from there in this time.
    pub fn learn(&mut self, node: NodeId, bytes: u64, time: Duration) {
        if bytes < TELLING_BYTES {
            return;
        }
        let seen = time.as_secs_f64() / bytes as f64;
        let pace = self.nodes.entry(node).or_default();
        pace.known = Some(pace.known.map_or(seen, |known| (known + seen) / 2.0));
        let known = self.nodes.values().filter_map(|pace| pace.known);
        let Some(best) = known.min_by(f64::total_cmp) else { return };
        self.best = Some(best);
        for (other, pace) in &mut self.nodes {
            if *other != node && pace.bytes_under_way == 0 {
                pace.known = pace.known.map(|known| best + (known - best) * FORGETTING);
            }
        }
    }

    /// `bytes` have not come from there in this time yet.
    pub fn learn_at_least(&mut self, node: NodeId, bytes: u64, time: Duration) {
        if bytes < TELLING_BYTES {
            return;
        }
        let (least, best) = (time.as_secs_f64() / bytes as f64, self.best);
        let pace = self.nodes.entry(node).or_default();
        // What is quicker than anything seen so far says nothing.
        if pace.known.or(best).is_some_and(|known| known < least) {
            pace.known = Some(least);
        }
    }

    /// In how many seconds `bytes` more would be here from this node.
    pub fn expected(&self, node: NodeId, bytes: u64) -> f64 {
        let pace = self.nodes.get(&node);
        let known = pace.and_then(|pace| pace.known).or(self.best).unwrap_or(UNKNOWN);
        (pace.map_or(0, |pace| pace.bytes_under_way) + bytes) as f64 * known
    }

    /// True when others are much faster.
    pub fn is_slow(&self, node: NodeId) -> bool {
        let known = self.nodes.get(&node).and_then(|pace| pace.known);
        known.zip(self.best).is_some_and(|(known, best)| known > SLOW * best)
    }

    /// In what time the fastest node brings `bytes`; `None` when nothing is known of any.
    pub fn best_time(&self, bytes: u64) -> Option<Duration> {
        self.best.map(|best| Duration::from_secs_f64(best * bytes as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const QUICK: NodeId = NodeId(1);
    const SLOW: NodeId = NodeId(2);
    const NEW: NodeId = NodeId(3);

    fn paces() -> Paces {
        let mut paces = Paces::default();
        paces.learn(QUICK, MIB, Duration::from_millis(100));
        paces.learn(SLOW, MIB, Duration::from_secs(1));
        paces
    }

    #[test]
    fn what_is_under_way_and_the_pace_say_when_more_would_be_here() {
        let mut paces = paces();
        let seconds = |paces: &Paces, node| (paces.expected(node, MIB) * 10.0).round() / 10.0;
        assert_eq!([seconds(&paces, QUICK), seconds(&paces, SLOW)], [0.1, 1.0]);
        // Nobody knows better: it may be as quick as the quickest.
        assert_eq!(seconds(&paces, NEW), 0.1);
        assert_eq!(paces.begin(QUICK, 2 * MIB), 2 * MIB);
        assert_eq!(paces.begin(QUICK, MIB), 3 * MIB);
        assert_eq!(seconds(&paces, QUICK), 0.4);
        paces.end(QUICK, 2 * MIB);
        assert_eq!(seconds(&paces, QUICK), 0.2);
        assert!(paces.is_slow(SLOW) && !paces.is_slow(QUICK) && !paces.is_slow(NEW));
    }

    #[test]
    fn what_is_late_is_slow_before_it_is_here() {
        let mut paces = paces();
        paces.learn_at_least(NEW, MIB, Duration::from_millis(50));
        assert!(!paces.is_slow(NEW));
        paces.learn_at_least(NEW, MIB, Duration::from_millis(500));
        assert!(paces.is_slow(NEW));
        // With nothing to compare it with, nothing is known.
        let mut paces = Paces::default();
        paces.learn_at_least(NEW, MIB, Duration::from_secs(5));
        assert_eq!(paces.best_time(MIB), None);
    }

    #[test]
    fn a_slow_node_is_tried_again_some_time() {
        let mut paces = paces();
        for _ in 0..1000 {
            paces.learn(QUICK, MIB, Duration::from_millis(100));
        }
        assert!(!paces.is_slow(SLOW));
    }

    #[test]
    fn small_things_tell_nothing_of_the_pace() {
        let mut paces = Paces::default();
        paces.learn(NEW, 4096, Duration::from_secs(1));
        paces.learn_at_least(NEW, 4096, Duration::from_secs(1));
        assert_eq!(paces.best_time(MIB), None);
    }
}
