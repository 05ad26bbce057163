//! What is written and who has it: bookkeeping, without a file or a socket.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::clock::WallTime;
use crate::ids::NodeId;
use crate::wire::node_to_main::{Follow, FollowReply};

/// On how many nodes a change must be before it counts as safe.
const SAFE_COPIES: usize = 2;
/// How long a node that cannot keep the journal, or does not get on with it, is left alone.
const LEFT_ALONE: Duration = Duration::from_secs(600);
/// How long a keeper may take for what it is sent.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a keeper may take for what it is sent before nobody waits for it.
const AT_WORK: Duration = Duration::from_secs(3);
/// The most boundaries that are remembered as not safe; beyond, neighbours are taken together.
const MAX_UNSAFE: usize = 1024;
/// The most bytes of a reply.
pub const MAX_PART_BYTES: u64 = 2 << 20;

/// A generation whose file is written, or was last.
#[derive(Debug, Clone)]
pub struct Written {
    pub generation: u64,
    /// Bytes of its file, all of which may be read.
    pub bytes: u64,
    pub sequence: u64,
    /// Where its snapshot ends, once it does, and with which piece.
    pub snapshot_end: Option<(u64, u64)>,
}

/// A boundary that is not on enough nodes yet.
#[derive(Debug)]
struct Unsafe {
    /// When the oldest change before it was made.
    since: Instant,
    time: WallTime,
    /// In each generation, where its last piece ends, and that piece's number.
    ends: Vec<(u64, u64, u64)>,
}

/// A node that follows, or followed.
#[derive(Debug, Default)]
struct Follower {
    /// By generation, the bytes that are durable there.
    durable: BTreeMap<u64, u64>,
    /// Since when it owes an answer to something that it was sent.
    owes_since: Option<Instant>,
}

/// How far the journal is, here and on the nodes.
#[derive(Debug, Default)]
pub struct Progress {
    /// The oldest first; changes go into all of them.
    written: Vec<Written>,
    followers: BTreeMap<NodeId, Follower>,
    cannot: BTreeMap<NodeId, Instant>,
    not_safe: VecDeque<Unsafe>,
    /// The last boundary that was found on enough nodes.
    safe: Option<(u64, u64, WallTime)>,
    keep_from: u64,
}

impl Progress {
    /// A generation begins with this file. Until its snapshot is on enough nodes, what was changed
    /// since then is not safe.
    pub fn begin(&mut self, generation: u64, bytes: u64, since: Instant, time: WallTime) {
        self.written.push(Written { generation, bytes, sequence: 0, snapshot_end: None });
        if self.written.len() == 1 {
            self.cover(generation);
            self.not_safe.push_back(Unsafe { since, time, ends: vec![(generation, 0, 0)] });
        }
    }

    /// What is in no generation that is still written is in the snapshot of this one.
    fn cover(&mut self, generation: u64) {
        let written = &self.written;
        for entry in &mut self.not_safe {
            entry.ends.retain(|end| written.iter().any(|w| w.generation == end.0));
            if entry.ends.is_empty() {
                entry.ends.push((generation, 0, 0));
            }
        }
    }

    /// The file of a generation has grown up to here.
    pub fn grew(&mut self, generation: u64, bytes: u64, sequence: u64, ends_snapshot: bool) {
        if let Some(written) = self.of(generation) {
            (written.bytes, written.sequence) = (bytes, sequence);
            if ends_snapshot {
                written.snapshot_end = Some((bytes, sequence));
            }
        }
    }

    /// A boundary was written to all generations.
    pub fn bounded(&mut self, since: Instant, time: WallTime) {
        let ends = self.written.iter().map(|w| (w.generation, w.bytes, w.sequence)).collect();
        if self.not_safe.len() >= MAX_UNSAFE
            && let Some(last) = self.not_safe.back_mut()
        {
            (last.time, last.ends) = (time, ends);
        } else {
            self.not_safe.push_back(Unsafe { since, time, ends });
        }
    }

    /// Generations before this one are not written to any more.
    pub fn end_before(&mut self, generation: u64) {
        self.written.retain(|written| written.generation >= generation);
        self.cover(generation);
    }

    /// Nothing is written any more until a generation begins.
    pub fn end_all(&mut self) {
        self.written.clear();
    }

    fn of(&mut self, generation: u64) -> Option<&mut Written> {
        self.written.iter_mut().find(|written| written.generation == generation)
    }

    /// Takes a keeper's word for what it has.
    pub fn heard(&mut self, node: NodeId, follow: &Follow, now: Instant) {
        if follow.failed.is_some() {
            self.cannot.insert(node, now);
        }
        let durable = follow.kept.iter().map(|kept| (kept.generation, kept.bytes)).collect();
        self.followers.insert(node, Follower { durable, owes_since: None });
        self.judge();
    }

    /// Forgets those that are no keepers any more.
    pub fn retain(&mut self, keepers: &[NodeId]) {
        self.followers.retain(|node, _| keepers.contains(node));
    }

    /// A node has started anew: what it could not before, it may be able to do.
    pub fn forgive(&mut self, node: NodeId) {
        self.cannot.remove(&node);
    }

    /// Nodes that said that they cannot keep it, or that have not got on for long.
    pub fn cannot(&mut self, now: Instant) -> BTreeSet<NodeId> {
        for (node, follower) in &self.followers {
            if follower.owes_since.is_some_and(|since| now.duration_since(since) > PATIENCE) {
                self.cannot.entry(*node).or_insert(now);
            }
        }
        self.cannot.retain(|_, since| now.duration_since(*since) < LEFT_ALONE);
        self.cannot.keys().copied().collect()
    }

    /// What a keeper is to be sent next; the second is how many bytes. `None` when it has all.
    pub fn next_part(&mut self, node: NodeId, now: Instant) -> Option<(FollowReply, u64)> {
        let keep_from = self.keep_from;
        let is_rolling = self.written.len() > 1;
        let follower = self.followers.entry(node).or_default();
        for written in &self.written {
            let durable = follower.durable.get(&written.generation).copied().unwrap_or(0);
            // The one that ends soon is of no use to those that lack its beginning.
            let lacks_snapshot = written.snapshot_end.is_none_or(|(end, _)| durable < end);
            let is_last = self.written.last().is_some_and(|w| w.generation == written.generation);
            if is_rolling && !is_last && lacks_snapshot {
                continue;
            }
            let offset = durable.min(written.bytes);
            let bytes = (written.bytes - offset).min(MAX_PART_BYTES);
            if bytes > 0 || durable > written.bytes {
                follower.owes_since.get_or_insert(now);
                let generation = written.generation;
                return Some((FollowReply { generation, offset, keep_from }, bytes));
            }
        }
        None
    }

    /// The answer when there is nothing to send.
    pub fn nothing(&self) -> FollowReply {
        FollowReply { generation: 0, offset: 0, keep_from: self.keep_from }
    }

    /// How many keepers have the whole of a generation up to `bytes`, its snapshot included; and the
    /// last piece of that snapshot.
    fn holders(&self, generation: u64, bytes: u64) -> (usize, u64) {
        let written = self.written.iter().find(|written| written.generation == generation);
        let Some((end, sequence)) = written.and_then(|w| w.snapshot_end) else { return (0, 0) };
        let needed = bytes.max(end);
        let has = |follower: &&Follower| {
            follower.durable.get(&generation).is_some_and(|durable| *durable >= needed)
        };
        (self.followers.values().filter(has).count(), sequence)
    }

    /// Finds what is safe by now.
    fn judge(&mut self) {
        while let Some(first) = self.not_safe.front() {
            // The newest generation is the one that stays.
            let safe = first.ends.iter().rev().find_map(|&(generation, bytes, sequence)| {
                let (holders, snapshot) = self.holders(generation, bytes);
                (holders >= SAFE_COPIES).then_some((generation, sequence.max(snapshot)))
            });
            let Some((generation, sequence)) = safe else { break };
            self.safe = Some((generation, sequence, first.time));
            self.not_safe.pop_front();
        }
    }

    /// The newest generation when its snapshot is on `copies` nodes and older ones can go; the
    /// nodes hear of it.
    pub fn settle(&mut self, copies: usize) -> Option<u64> {
        let last = self.written.last()?;
        let generation = last.generation;
        if generation <= self.keep_from || self.holders(generation, 0).0 < copies {
            return None;
        }
        self.keep_from = generation;
        Some(generation)
    }

    /// True while the newest generation is not on enough nodes to end those before it.
    pub fn is_unsettled(&self) -> bool {
        self.written.last().is_some_and(|last| last.generation > self.keep_from)
    }

    /// Since when there is something that is not safe.
    pub fn unsafe_since(&self) -> Option<Instant> {
        self.not_safe.front().map(|first| first.since)
    }

    /// The last boundary that is on enough nodes: generation, piece, and when it was; zeros when
    /// there is none yet.
    pub fn safe(&self) -> (u64, u64, WallTime) {
        self.safe.unwrap_or((0, 0, WallTime(0)))
    }

    /// The last piece that is written.
    pub fn written(&self) -> (u64, u64) {
        self.written.last().map_or((0, 0), |written| (written.generation, written.sequence))
    }

    /// Of the keepers, those that have all but the newest pieces.
    pub fn near_the_end(&self, keepers: &[NodeId]) -> Vec<NodeId> {
        let has_most = |node: &&NodeId| {
            let Some(follower) = self.followers.get(node) else { return false };
            self.written.iter().any(|written| {
                let durable = follower.durable.get(&written.generation).copied().unwrap_or(0);
                let has_snapshot = written.snapshot_end.is_some_and(|(end, _)| durable >= end);
                has_snapshot && durable + MAX_PART_BYTES >= written.bytes
            })
        };
        keepers.iter().filter(has_most).copied().collect()
    }
}

impl Progress {
    /// True when enough of these have a whole snapshot and get on with what they are sent, so that
    /// waiting for them helps.
    pub fn is_kept_up(&self, keepers: &[NodeId], now: Instant) -> bool {
        let gets_on = |node: &&NodeId| {
            let Some(follower) = self.followers.get(node) else { return false };
            let owes = follower.owes_since.map(|since| now.saturating_duration_since(since));
            let has_snapshot = self.written.iter().any(|written| {
                let durable = follower.durable.get(&written.generation).copied().unwrap_or(0);
                written.snapshot_end.is_some_and(|(end, _)| durable >= end)
            });
            has_snapshot
                && owes.is_none_or(|owes| owes < AT_WORK)
                && !self.cannot.contains_key(node)
        };
        keepers.iter().filter(gets_on).count() >= SAFE_COPIES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::node_to_main::KeptGeneration;

    const NOW: WallTime = WallTime(1_800_000_000_000);

    fn kept(kept: &[(u64, u64)]) -> Follow {
        let kept = kept.iter().map(|&(generation, bytes)| KeptGeneration { generation, bytes });
        Follow { kept: kept.collect(), failed: None }
    }

    /// A generation whose snapshot ends at byte 100 with piece 2.
    fn begun() -> Progress {
        let mut progress = Progress::default();
        progress.begin(1, 88, Instant::now(), NOW);
        progress.grew(1, 100, 2, true);
        progress
    }

    #[test]
    fn a_change_is_safe_once_two_nodes_have_it_with_the_snapshot() {
        let (mut progress, now) = (begun(), Instant::now());
        progress.grew(1, 150, 3, false);
        progress.bounded(now, WallTime(NOW.0 + 1));
        assert_eq!(progress.safe(), (0, 0, WallTime(0)));
        progress.heard(NodeId(1), &kept(&[(1, 150)]), now);
        progress.heard(NodeId(2), &kept(&[(1, 99)]), now);
        assert_eq!(progress.safe(), (0, 0, WallTime(0)), "one lacks the end of the snapshot");
        assert!(progress.unsafe_since().is_some());
        progress.heard(NodeId(2), &kept(&[(1, 149)]), now);
        assert_eq!(progress.safe(), (1, 2, NOW));
        progress.heard(NodeId(3), &kept(&[(1, 150)]), now);
        assert_eq!(progress.safe(), (1, 3, WallTime(NOW.0 + 1)));
        assert_eq!(progress.unsafe_since(), None);
    }

    #[test]
    fn changes_wait_for_keepers_that_get_on_and_for_no_others() {
        let (mut progress, now) = (begun(), Instant::now());
        let keepers = [NodeId(1), NodeId(2)];
        progress.grew(1, 150, 3, false);
        progress.heard(NodeId(1), &kept(&[(1, 100)]), now);
        assert!(!progress.is_kept_up(&keepers, now), "one alone makes nothing safe");
        progress.heard(NodeId(2), &kept(&[(1, 99)]), now);
        assert!(!progress.is_kept_up(&keepers, now), "the other begins");
        progress.heard(NodeId(2), &kept(&[(1, 100)]), now);
        assert!(progress.is_kept_up(&keepers, now));
        assert!(progress.next_part(NodeId(2), now).is_some());
        assert!(progress.is_kept_up(&keepers, now));
        assert!(!progress.is_kept_up(&keepers, now + AT_WORK), "it hangs");
        progress.heard(NodeId(2), &kept(&[(1, 150)]), now);
        assert!(progress.is_kept_up(&keepers, now + AT_WORK));
        let failed = Follow { kept: Vec::new().into(), failed: Some("full".to_string()) };
        progress.heard(NodeId(2), &failed, now);
        assert!(!progress.is_kept_up(&keepers, now));
    }

    #[test]
    fn a_generation_ends_only_when_the_next_one_is_on_enough_nodes() {
        let (mut progress, now) = (begun(), Instant::now());
        for node in [1, 2] {
            progress.heard(NodeId(node), &kept(&[(1, 100)]), now);
        }
        assert_eq!((progress.settle(2), progress.settle(2)), (Some(1), None));
        progress.begin(2, 88, now, NOW);
        progress.grew(1, 120, 3, false);
        progress.grew(2, 108, 1, false);
        progress.bounded(now, NOW);
        // Safe by the old one, while the snapshot of the new one is being written.
        for node in [1, 2] {
            progress.heard(NodeId(node), &kept(&[(1, 120), (2, 108)]), now);
        }
        assert_eq!((progress.safe(), progress.settle(2)), ((1, 3, NOW), None));
        progress.grew(2, 200, 2, true);
        progress.heard(NodeId(1), &kept(&[(1, 120), (2, 200)]), now);
        assert_eq!((progress.settle(2), progress.settle(1)), (None, Some(2)));
        assert_eq!(progress.nothing().keep_from, 2);
    }

    #[test]
    fn what_was_not_safe_in_a_generation_that_ended_is_so_with_the_next_ones_snapshot() {
        let (mut progress, now) = (begun(), Instant::now());
        progress.grew(1, 150, 3, false);
        progress.bounded(now, NOW);
        progress.end_all();
        progress.begin(2, 88, now, NOW);
        for node in [1, 2] {
            progress.heard(NodeId(node), &kept(&[(1, 150), (2, 88)]), now);
        }
        assert!(progress.unsafe_since().is_some());
        progress.grew(2, 90, 1, true);
        for node in [1, 2] {
            progress.heard(NodeId(node), &kept(&[(2, 90)]), now);
        }
        assert_eq!((progress.safe(), progress.unsafe_since()), ((2, 1, NOW), None));
    }

    #[test]
    fn a_keeper_is_sent_what_it_lacks_and_told_to_cut_off_what_is_not_ours() {
        let (mut progress, now) = (begun(), Instant::now());
        let next = |progress: &mut Progress, has: &[(u64, u64)]| {
            progress.heard(NodeId(1), &kept(has), now);
            let (reply, bytes) = progress.next_part(NodeId(1), now)?;
            Some((reply.generation, reply.offset, bytes))
        };
        assert_eq!(next(&mut progress, &[]), Some((1, 0, 100)));
        assert_eq!(next(&mut progress, &[(1, 60)]), Some((1, 60, 40)));
        assert_eq!(next(&mut progress, &[(1, 100)]), None);
        assert_eq!(next(&mut progress, &[(1, 130)]), Some((1, 100, 0)));
        // A new one begins: who lacks the old one's snapshot gets the new one alone.
        progress.begin(2, 88, now, NOW);
        assert_eq!(next(&mut progress, &[(1, 60)]), Some((2, 0, 88)));
        progress.grew(1, 110, 3, false);
        assert_eq!(next(&mut progress, &[(1, 100)]), Some((1, 100, 10)));
    }

    #[test]
    fn a_keeper_that_cannot_or_does_not_get_on_is_left_alone_for_a_while() {
        let (mut progress, now) = (begun(), Instant::now());
        let failed = Follow { failed: Some("no space".to_string()), ..kept(&[]) };
        progress.heard(NodeId(1), &failed, now);
        progress.heard(NodeId(2), &kept(&[]), now);
        assert!(progress.next_part(NodeId(2), now).is_some());
        assert_eq!(progress.cannot(now), BTreeSet::from([NodeId(1)]));
        let later = now + PATIENCE + Duration::from_secs(1);
        assert_eq!(progress.cannot(later), BTreeSet::from([NodeId(1), NodeId(2)]));
        progress.forgive(NodeId(1));
        assert_eq!(progress.cannot(later), BTreeSet::from([NodeId(2)]));
        progress.retain(&[]);
        assert_eq!(progress.cannot(later + LEFT_ALONE), BTreeSet::new());
    }
}
