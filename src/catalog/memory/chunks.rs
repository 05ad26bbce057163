//! Chunks and copies of the model.

use std::collections::BTreeMap;

use super::{Chunk, Model};
use crate::catalog::{ChunkRecord, Confirmation, Copy, Holding, Reconciled, Refusal};
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
        id: ChunkId,
        length: u32,
    ) -> Result<ChunkRecord, Refusal> {
        if let Some(serial) = self.locate(account, &id).map(|record| record.serial) {
            return self.change_chunk(serial, length, |record| {
                record.wanted = record.wanted.max(copies);
            });
        }
        let serial = Serial(self.draw());
        let record =
            ChunkRecord { serial, account, id, length, wanted: copies, copies: Vec::new() };
        self.chunks.insert(serial, Chunk { record: record.clone(), is_referred_to: false });
        Ok(record)
    }

    /// Changes a chunk unless it is settled at another length.
    fn change_chunk(
        &mut self,
        serial: Serial,
        length: u32,
        change: impl FnOnce(&mut ChunkRecord),
    ) -> Result<ChunkRecord, Refusal> {
        let chunk = self.chunks.get_mut(&serial).expect("the caller found it");
        let record = &mut chunk.record;
        if record.length != length {
            if chunk.is_referred_to || !record.copies.is_empty() {
                let recorded = record.length;
                return Err(Refusal::LengthDiffers { id: record.id, recorded, asked: length });
            }
            record.length = length;
        }
        change(record);
        Ok(record.clone())
    }

    pub(super) fn confirm(&mut self, said: &Confirmation) -> Result<ChunkRecord, Refusal> {
        let Confirmation { account, id, serial, length, wanted, node, reason } = *said;
        if self.nodes.iter().all(|known| known.id != node) {
            return Err(Refusal::UnknownNode(node));
        }
        let superseded = Refusal::Superseded { id, serial };
        match self.locate(account, &id) {
            Some(record) if record.serial == serial => {}
            Some(_) => return Err(superseded),
            None => {
                if serial.0 == 0 || serial.0 >= self.next || self.chunks.contains_key(&serial) {
                    return Err(superseded);
                }
                let record = ChunkRecord { serial, account, id, length, wanted, copies: vec![] };
                self.chunks.insert(serial, Chunk { record, is_referred_to: false });
            }
        }
        self.change_chunk(serial, length, |record| {
            record.wanted = record.wanted.max(wanted);
            add(record, Copy { node, reason });
        })
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
    ) -> Result<Reconciled, Refusal> {
        self.node(node)?;
        let in_range = held.iter().filter(|held| from <= held.serial && held.serial <= to);
        let held: BTreeMap<Serial, Holding> = in_range.map(|h| (h.serial, *h)).collect();
        let mut result = Reconciled::default();
        for counted in self.copies_on(node, from, to) {
            if held.get(&counted.serial) != Some(&counted) {
                result.lost.extend(self.lose(node, counted.serial));
            }
        }
        for (serial, held) in held {
            match self.chunks.get_mut(&serial).map(|chunk| &mut chunk.record) {
                Some(record) if holding(record) == held => {
                    if !is_on(record, node) {
                        add(record, Copy { node, reason: 0 });
                        result.found += 1;
                    }
                }
                _ => result.unknown.push(serial),
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

fn is_on(record: &ChunkRecord, node: NodeId) -> bool {
    record.copies.iter().any(|copy| copy.node == node)
}

fn holding(record: &ChunkRecord) -> Holding {
    let fingerprint = Holding::fingerprint_of(&record.id);
    Holding { serial: record.serial, length: record.length, fingerprint }
}
