//! What is condemned in the model, and what makes it so.

use super::chunks::is_on;
use super::{Chunk, Model};
use crate::catalog::{
    ChunkRecord, Collected, Condemned, CondemnedCopy, LiveNodes, Refusal, Standing,
};
use crate::clock::WallTime;
use crate::ids::{NodeId, Serial};

/// How a copy is condemned.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    pub why: Condemned,
    pub purge: bool,
    /// The beginning of time for an unknown one that was named already.
    pub due: WallTime,
    /// The node said that it is there since it was named last.
    pub is_there: bool,
}

impl Mark {
    pub(super) fn at_once(why: Condemned, purge: bool) -> Mark {
        Mark { why, purge, due: WallTime(0), is_there: false }
    }

    /// It was named, and not said to be there since.
    pub(super) fn was_named(&self) -> bool {
        self.due == WallTime(0) && !self.is_there
    }

    /// No confirmation takes it back.
    pub(super) fn is_final(&self) -> bool {
        self.why != Condemned::Unknown || self.due == WallTime(0)
    }
}

impl Model {
    /// In how many places versions name the chunk.
    pub(super) fn places(&self, serial: Serial) -> usize {
        let named = self.versions.values().flat_map(|version| &version.chunks);
        named.filter(|other| **other == serial).count()
    }

    /// Refuses a node that cannot hold copies.
    pub(super) fn able_node(&mut self, node: NodeId) -> Result<(), Refusal> {
        match self.node(node)?.standing {
            Standing::Left => Err(Refusal::NodeLeft(node)),
            Standing::Member | Standing::Draining => Ok(()),
        }
    }

    /// True when a copy with this serial is condemned for more than being unknown.
    pub(super) fn is_decided(&self, serial: Serial) -> bool {
        let mut marks = self.condemned.iter();
        marks.any(|((_, other), mark)| *other == serial && mark.why != Condemned::Unknown)
    }

    fn condemn_chunk(&mut self, serial: Serial, purge: bool, collected: &mut Collected) {
        let chunk = self.chunks.remove(&serial).expect("the caller found it");
        for copy in chunk.record.copies {
            let mark = Mark::at_once(Condemned::Unreferred, purge);
            self.condemned.insert((copy.node, serial), mark);
            collected.copies += 1;
        }
        collected.chunks += 1;
    }

    pub(super) fn trim(&mut self, serial: Serial, node: NodeId, live: &LiveNodes) -> bool {
        let is_member = |node: NodeId| {
            self.nodes.iter().any(|n| n.id == node && n.standing == Standing::Member)
        };
        let Some(chunk) = self.chunks.get(&serial) else { return false };
        let record = &chunk.record;
        let others = record
            .copies
            .iter()
            .filter(|copy| copy.node != node && live.contains(&copy.node) && is_member(copy.node));
        let needed = record.wanted.max(1);
        if !is_on(record, node) || others.count() < needed.into() {
            return false;
        }
        self.lose(node, serial);
        self.condemned.insert((node, serial), Mark::at_once(Condemned::Surplus, false));
        true
    }

    pub(super) fn expire(&mut self, before: WallTime, now: WallTime, limit: usize) -> Collected {
        let mut collected = Collected::default();
        let mut ended: Vec<_> = self
            .versions
            .iter()
            .filter_map(|(version, facts)| Some((facts.ended_at?, *version)))
            .filter(|(at, _)| *at < before)
            .collect();
        ended.sort();
        let mut looked_at = 0;
        for (at, version) in ended {
            if looked_at >= limit.max(1) {
                collected.next = Some(Serial(version.0));
                break;
            }
            self.removed.remove(&version);
            let serials = self.versions.remove(&version).expect("just listed").chunks;
            looked_at += serials.len().max(1);
            collected.versions += 1;
            let is_purged = at == WallTime(0);
            for serial in serials {
                let is_held = |chunk: &Chunk| {
                    self.places(serial) > 0 || !is_purged && chunk.lease_until > now
                };
                // One that is gone was named twice by the version.
                if self.chunks.get(&serial).is_some_and(|chunk| !is_held(chunk)) {
                    self.condemn_chunk(serial, is_purged, &mut collected);
                }
            }
        }
        collected
    }

    pub(super) fn collect(
        &mut self,
        after: Option<Serial>,
        now: WallTime,
        limit: usize,
    ) -> Collected {
        let mut collected = Collected::default();
        let next: Vec<_> = self.chunks.keys().filter(|serial| Some(**serial) > after).collect();
        let page: Vec<_> = next.into_iter().take(limit.max(1)).copied().collect();
        for serial in &page {
            if self.places(*serial) == 0 && self.chunks[serial].lease_until <= now {
                self.condemn_chunk(*serial, false, &mut collected);
            }
        }
        collected.next = page.last().copied().filter(|_| page.len() == limit.max(1));
        collected
    }

    pub(super) fn condemned_on(
        &mut self,
        node: NodeId,
        after: Option<Serial>,
        with_unknown: bool,
        now: WallTime,
        limit: usize,
    ) -> Vec<CondemnedCopy> {
        let mut copies = Vec::new();
        for ((on, serial), mark) in &mut self.condemned {
            let is_asked = *on == node
                && Some(*serial) > after
                && mark.due <= now
                && (with_unknown || mark.is_final());
            if is_asked && copies.len() < limit {
                let (serial, why, purge) = (*serial, mark.why, mark.purge);
                copies.push(CondemnedCopy { serial, why, purge, is_decided: mark.is_final() });
                (mark.due, mark.is_there) = (WallTime(0), false);
            }
        }
        copies
    }

    pub(super) fn strip(
        &mut self,
        node: NodeId,
        after: Option<Serial>,
        limit: usize,
    ) -> (Vec<ChunkRecord>, Option<Serial>) {
        let above: Vec<_> =
            self.chunks.keys().filter(|serial| Some(**serial) > after).copied().collect();
        let page: Vec<_> = above.into_iter().take(limit.max(1)).collect();
        let next = page.last().copied().filter(|_| page.len() == limit.max(1));
        self.condemned.retain(|(on, serial), _| {
            *on != node || Some(*serial) <= after || next.is_some_and(|next| *serial > next)
        });
        let lost = page.into_iter().filter_map(|serial| self.lose(node, serial)).collect();
        (lost, next)
    }
}
