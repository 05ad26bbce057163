//! Chunks and copies of the model.

use std::collections::BTreeMap;

use super::deleting::Mark;
use super::{Chunk, Model};
use crate::catalog::{ChunkRecord, Condemned, Confirmation, Copy, Holding, Reconciled, Refusal};
use crate::clock::WallTime;
use crate::ids::{AccountId, ChunkId, NodeId, Serial};

impl Model {
    pub(super) fn locate(&self, account: AccountId, id: &ChunkId) -> Option<&ChunkRecord> {
        let mut records = self.chunks.values().map(|chunk| &chunk.record);
        records.find(|record| record.account == account && record.id == *id)
    }

    pub(super) fn reserve(
        &mut self,
        account: AccountId,
        copies: u8,
        lease_until: WallTime,
        id: ChunkId,
        length: u32,
    ) -> Result<ChunkRecord, Refusal> {
        if let Some(serial) = self.locate(account, &id).map(|record| record.serial) {
            return self.change_chunk(serial, length, |chunk| {
                chunk.record.wanted = chunk.record.wanted.max(copies);
                chunk.lease_until = chunk.lease_until.max(lease_until);
            });
        }
        let serial = Serial(self.draw());
        let record =
            ChunkRecord { serial, account, id, length, wanted: copies, copies: Vec::new() };
        self.chunks.insert(serial, Chunk { record: record.clone(), lease_until });
        Ok(record)
    }

    /// Changes a chunk unless it is settled at another length.
    fn change_chunk(
        &mut self,
        serial: Serial,
        length: u32,
        change: impl FnOnce(&mut Chunk),
    ) -> Result<ChunkRecord, Refusal> {
        let is_referred_to = self.places(serial) > 0;
        let chunk = self.chunks.get_mut(&serial).expect("the caller found it");
        let record = &mut chunk.record;
        if record.length != length {
            if is_referred_to || !record.copies.is_empty() {
                let recorded = record.length;
                return Err(Refusal::LengthDiffers { id: record.id, recorded, asked: length });
            }
            record.length = length;
        }
        change(chunk);
        Ok(chunk.record.clone())
    }

    pub(super) fn confirm(
        &mut self,
        said: &Confirmation,
        lease_until: WallTime,
    ) -> Result<ChunkRecord, Refusal> {
        let Confirmation { account, id, serial, length, wanted, node, reason } = *said;
        self.able_node(node)?;
        let superseded = Refusal::Superseded { id, serial };
        if let Some(mark) = self.condemned.get_mut(&(node, serial)).filter(|mark| mark.is_final()) {
            mark.is_there = true;
            return Err(superseded);
        }
        let is_free = (1..self.next).contains(&serial.0) && !self.chunks.contains_key(&serial);
        match self.locate(account, &id) {
            Some(record) if record.serial == serial => {}
            None if is_free && !self.is_decided(serial) => {
                let record = ChunkRecord { serial, account, id, length, wanted, copies: vec![] };
                self.chunks.insert(serial, Chunk { record, lease_until });
            }
            Some(_) | None => {
                if is_free {
                    let mark = Mark::at_once(Condemned::Unreferred, false);
                    self.condemned.entry((node, serial)).or_insert(mark);
                }
                return Err(superseded);
            }
        }
        let confirmed = self.change_chunk(serial, length, |chunk| {
            chunk.record.wanted = chunk.record.wanted.max(wanted);
            add(&mut chunk.record, Copy { node, reason });
        })?;
        self.condemned.remove(&(node, serial));
        Ok(confirmed)
    }

    pub(super) fn lose(&mut self, node: NodeId, serial: Serial) -> Option<ChunkRecord> {
        let record = &mut self.chunks.get_mut(&serial)?.record;
        let before = record.copies.len();
        record.copies.retain(|copy| copy.node != node);
        (record.copies.len() < before).then(|| record.clone())
    }

    pub(super) fn copies_on(&self, node: NodeId, from: Serial, to: Serial) -> Vec<Holding> {
        let mut holdings = Vec::new();
        for chunk in self.chunks.values() {
            let record = &chunk.record;
            if from <= record.serial && record.serial <= to && is_on(record, node) {
                holdings.push(holding(record));
            }
        }
        holdings
    }

    pub(super) fn reconcile(
        &mut self,
        node: NodeId,
        from: Serial,
        to: Serial,
        held: &[Holding],
        unknown_due: WallTime,
    ) -> Result<Reconciled, Refusal> {
        self.able_node(node)?;
        let in_range = held.iter().filter(|held| from <= held.serial && held.serial <= to);
        let held: BTreeMap<Serial, Holding> = in_range.map(|h| (h.serial, *h)).collect();
        let mut result = Reconciled::default();
        for counted in self.copies_on(node, from, to) {
            if held.get(&counted.serial) != Some(&counted) {
                result.lost.extend(self.lose(node, counted.serial));
            }
        }
        self.condemned.retain(|(on, serial), mark| {
            let is_here = *on == node && (from..=to).contains(serial);
            !is_here || mark.is_final() || held.contains_key(serial)
        });
        for (serial, held) in held {
            let is_final = self.condemned.get(&(node, serial)).is_some_and(Mark::is_final);
            match self.chunks.get_mut(&serial).map(|chunk| &mut chunk.record) {
                Some(record) if holding(record) == held && !is_final => {
                    self.condemned.remove(&(node, serial));
                    if !is_on(record, node) {
                        add(record, Copy { node, reason: 0 });
                        result.found += 1;
                    }
                }
                _ => {
                    let why = Condemned::Unknown;
                    let mark = Mark { why, purge: false, due: unknown_due, is_there: false };
                    let mark = self.condemned.entry((node, serial)).or_insert(mark);
                    mark.is_there = mark.is_final();
                    result.unknown.push(serial);
                }
            }
        }
        Ok(result)
    }
}

fn add(record: &mut ChunkRecord, copy: Copy) {
    if !is_on(record, copy.node) {
        record.copies.push(copy);
        record.copies.sort();
    }
}

pub(super) fn is_on(record: &ChunkRecord, node: NodeId) -> bool {
    record.copies.iter().any(|copy| copy.node == node)
}

fn holding(record: &ChunkRecord) -> Holding {
    let fingerprint = Holding::fingerprint_of(&record.id);
    Holding { serial: record.serial, length: record.length, fingerprint }
}
