//! `what_if`: which files would still be read if some nodes were gone.

use std::collections::{BTreeSet, HashMap};

use super::Main;
use super::admin::admins_only;
use super::fault::invalid;
use crate::catalog::{AccountRecord, CatalogError, ChunkRecord, LiveNodes, SeenFile};
use crate::ids::{NodeId, Serial};
use crate::wire::admin::{MAX_NAMED_FILES, WhatIf, WhatIfReply};
use crate::wire::{Fault, FaultCode, MAX_ITEMS, MAX_JSON_BYTES};

/// How many files one page looks at, at most.
const PAGE_FILES: usize = 1024;
/// A page ends with the file in which so many chunks have been looked at.
const PAGE_CHUNKS: u64 = 16_384;
/// About how many bytes the names of either kind take in a reply, at most.
const NAMES_BYTES: usize = MAX_JSON_BYTES as usize / 3;
/// How many chunks are looked at together.
const STEP: usize = 1024;

/// What would become of a chunk, or of a file by its worst chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Safe,
    Unreadable,
    Lost,
}

/// The nodes as they would be.
struct Guess {
    gone: BTreeSet<NodeId>,
    /// Those whose copies would count.
    left: LiveNodes,
}

impl Guess {
    fn fate(&self, record: &ChunkRecord) -> Fate {
        let mut nodes = record.copies.iter().map(|copy| copy.node);
        if nodes.clone().any(|node| self.left.contains(&node)) {
            Fate::Safe
        } else if nodes.any(|node| !self.gone.contains(&node)) {
            Fate::Unreadable
        } else {
            Fate::Lost
        }
    }
}

impl Main {
    /// Serves `what_if`.
    pub(super) fn what_if(
        &self,
        account: &AccountRecord,
        request: WhatIf,
    ) -> Result<WhatIfReply, Fault> {
        admins_only(account, "ask what would become of all files")?;
        let gone = self.nodes_named(&request)?;
        let mut left = self.nodes.live();
        left.retain(|node| !gone.contains(node));
        let mut reply =
            WhatIfReply { nodes: gone.iter().copied().collect(), ..WhatIfReply::default() };
        let guess = Guess { gone, left };
        let page = self.judge_page(&guess, request.after, &mut reply);
        page.map_err(|error| self.fault(error))?;
        Ok(reply)
    }

    /// The nodes that would be gone: those named, and those of the zones named.
    fn nodes_named(&self, request: &WhatIf) -> Result<BTreeSet<NodeId>, Fault> {
        if request.nodes.len() + request.zones.len() > MAX_ITEMS {
            return Err(invalid(format!("more than {MAX_ITEMS} nodes and zones")));
        }
        let table = self.nodes.lock();
        let not_found = |what: String| Fault::new(FaultCode::NotFound, what);
        for node in &request.nodes {
            if !table.nodes.contains_key(node) {
                return Err(not_found(format!("no node {node} has joined this cluster")));
            }
        }
        for zone in &request.zones {
            if table.nodes.values().all(|node| node.zone != *zone || node.has_left()) {
                return Err(not_found(format!("no node is in zone {zone:?}")));
            }
        }
        let in_zones = table.nodes.values().filter(|node| request.zones.contains(&node.zone));
        Ok(in_zones.map(|node| node.id).chain(request.nodes.iter().copied()).collect())
    }

    fn judge_page(
        &self,
        guess: &Guess,
        after: Option<u64>,
        reply: &mut WhatIfReply,
    ) -> Result<(), CatalogError> {
        let files = self.catalog.seen_files(after, PAGE_FILES)?;
        let is_full = files.len() == PAGE_FILES;
        let (mut chunks, count) = (0, files.len());
        for (at, file) in files.into_iter().enumerate() {
            chunks += file.chunk_count;
            let position = file.position;
            match self.judge_file(guess, &file)? {
                Fate::Safe => reply.safe += 1,
                Fate::Unreadable => {
                    reply.unreadable += 1;
                    name(&mut reply.unreadable_files, &file);
                }
                Fate::Lost => {
                    reply.lost += 1;
                    name(&mut reply.lost_files, &file);
                }
            }
            let is_last = at + 1 == count;
            if chunks >= PAGE_CHUNKS && !is_last || is_last && is_full {
                reply.next = Some(position);
                return Ok(());
            }
        }
        Ok(())
    }

    /// The fate of the worst of its chunks.
    fn judge_file(&self, guess: &Guess, file: &SeenFile) -> Result<Fate, CatalogError> {
        let (mut from, mut worst) = (0, Fate::Safe);
        while from < file.chunk_count && worst != Fate::Lost {
            let serials = self.catalog.serials_of(file.version, from, STEP)?;
            if serials.is_empty() {
                // It was replaced or removed, and has expired, while the page was made.
                return Ok(worst);
            }
            from += serials.len() as u64;
            let records = self.catalog.chunks(&serials)?;
            let known: HashMap<Serial, &ChunkRecord> =
                records.iter().map(|record| (record.serial, record)).collect();
            let fates = serials.iter().filter_map(|serial| known.get(serial));
            worst = fates.map(|record| guess.fate(record)).fold(worst, Fate::max);
        }
        Ok(worst)
    }
}

fn name(files: &mut Vec<String>, file: &SeenFile) {
    // Escaped, a name takes at most twice its bytes.
    let taken: usize = files.iter().map(|name| name.len() * 2).sum();
    let path = file.path.to_string();
    if files.len() < MAX_NAMED_FILES && taken + path.len() * 2 <= NAMES_BYTES {
        files.push(path);
    }
}
