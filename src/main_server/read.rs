//! `open`, `locate`, `stat` and `list`: where chunks and names are.

use std::collections::HashMap;

use super::Main;
use super::fault::{invalid, path};
use super::nodes::{Reach, claims};
use crate::catalog::{AccountRecord, CatalogError, ChunkRecord, EntryKind, FileInfo};
use crate::clock::WallTime;
use crate::ids::NodeId;
use crate::policy::liveness::State;
use crate::policy::placement::Reason;
use crate::token::Operation;
use crate::wire::to_main::*;
use crate::wire::{Fault, FaultCode, MAX_ITEMS, MAX_JSON_BYTES, Outcome};

/// JSON bytes of a token in a list of copies, with its node and all that stands around it.
const COPY_BYTES: usize = 200;
/// JSON bytes of anything else that is listed: an id, facts of a file, a fault of common length.
const ITEM_BYTES: usize = 260;
/// What is left free of a message, so that an estimate need not be exact.
const MARGIN_BYTES: usize = 64 * 1024;

/// A reply that is being made: what it may still hold, and which nodes it has named.
struct Reply<'a> {
    main: &'a Main,
    expires: WallTime,
    explain: bool,
    room: usize,
    reach: HashMap<NodeId, Option<Reach>>,
    addresses: Addresses,
    turn: usize,
}

impl Main {
    /// Serves `open`.
    pub(super) fn open(&self, account: &AccountRecord, request: Open) -> Result<OpenReply, Fault> {
        let mut reply = Reply::new(self, request.explain);
        let mut files: Vec<Outcome<OpenedFile>> = Vec::new();
        let mut chunks_left = MAX_ITEMS;
        for wanted in request.files.iter() {
            if !files.is_empty() && (chunks_left == 0 || !reply.has_room(ITEM_BYTES)) {
                break;
            }
            let opened = self.open_one(account, wanted, &mut reply, chunks_left);
            let is_cut = opened.as_ref().is_ok_and(|file| !is_whole(file));
            chunks_left -= opened.as_ref().map_or(0, |file| file.chunks.len());
            if let Err(fault) = &opened {
                reply.take(fault.message.len());
            }
            reply.take(ITEM_BYTES);
            files.push(opened.into());
            if is_cut {
                break;
            }
        }
        Ok(OpenReply { nodes: reply.addresses, files: files.into() })
    }

    fn open_one(
        &self,
        account: &AccountRecord,
        wanted: &OpenFile,
        reply: &mut Reply<'_>,
        limit: usize,
    ) -> Result<OpenedFile, Fault> {
        let path = path(&wanted.path)?;
        let info = match self.catalog.look_up(account.id, &path) {
            Ok(entry) => match entry.kind {
                EntryKind::File(info) if wanted.version.is_none_or(|v| v == info.version) => info,
                EntryKind::Directory if wanted.version.is_none() => {
                    let why = format!("{} is a directory", wanted.path);
                    return Err(Fault::new(FaultCode::IsADirectory, why));
                }
                EntryKind::File(_) | EntryKind::Directory => self.earlier(account, wanted)?,
            },
            Err(CatalogError::Refused(_)) if wanted.version.is_some() => {
                self.earlier(account, wanted)?
            }
            Err(error) => return Err(self.fault(error)),
        };
        let limit = limit.min(reply.room / (ITEM_BYTES + COPY_BYTES)).max(1);
        let records = match info.chunk_count.saturating_sub(wanted.from) {
            0 => Vec::new(),
            _ => self
                .catalog
                .manifest(account.id, info.version, wanted.from, limit)
                .map_err(|error| self.fault(error))?,
        };
        let mut chunks = Vec::with_capacity(records.len());
        for record in &records {
            let bytes = reply.bytes_of(record);
            if !chunks.is_empty() && !reply.has_room(bytes) {
                break;
            }
            chunks.push(reply.locate(record));
        }
        self.recent.note(records.iter().map(|record| record.serial), self.clock.now());
        Ok(OpenedFile { file: facts(&info), from: wanted.from, chunks: chunks.into() })
    }

    /// A version that may have been replaced since its reader began.
    fn earlier(&self, account: &AccountRecord, wanted: &OpenFile) -> Result<FileInfo, Fault> {
        let version = wanted.version.expect("only asked for where one is named");
        self.catalog.version(account.id, version).map_err(|error| self.fault(error))
    }

    /// Serves `locate`.
    pub(super) fn locate(
        &self,
        account: &AccountRecord,
        request: Locate,
    ) -> Result<LocateReply, Fault> {
        let located = self.catalog.locate(account.id, &request.chunks);
        let located = located.map_err(|error| self.fault(error))?;
        let mut reply = Reply::new(self, false);
        let mut chunks: Vec<Outcome<LocatedChunk>> = Vec::new();
        for (id, record) in request.chunks.iter().zip(&located) {
            let bytes = record.as_ref().map_or(ITEM_BYTES, |record| reply.bytes_of(record));
            if !chunks.is_empty() && !reply.has_room(bytes) {
                break;
            }
            chunks.push(match record {
                Some(record) => Outcome::Ok(reply.locate(record)),
                None => {
                    reply.take(ITEM_BYTES);
                    let why = format!("this account never stored chunk {id}");
                    Outcome::Fault(Fault::new(FaultCode::NotFound, why))
                }
            });
        }
        Ok(LocateReply { nodes: reply.addresses, chunks: chunks.into() })
    }

    /// Serves `stat`.
    pub(super) fn stat(&self, account: &AccountRecord, request: Stat) -> Result<StatReply, Fault> {
        let entries = request.paths.iter().map(|text| {
            let found = path(text).and_then(|path| {
                self.catalog.look_up(account.id, &path).map_err(|error| self.fault(error))
            });
            Outcome::from(found.map(entry))
        });
        Ok(StatReply { entries: entries.collect() })
    }

    /// Serves `list`.
    pub(super) fn list(
        &self,
        account: &AccountRecord,
        request: ListDirectory,
    ) -> Result<ListReply, Fault> {
        let limit = match request.limit {
            None => MAX_ITEMS,
            Some(limit @ 1..) if limit as usize <= MAX_ITEMS => limit as usize,
            Some(_) => return Err(invalid(format!("a page has 1 to {MAX_ITEMS} entries"))),
        };
        let path = path(&request.path)?;
        let listed = self.catalog.list(account.id, &path, request.after.as_deref(), limit);
        let listed = listed.map_err(|error| self.fault(error))?;
        let more = listed.len() == limit;
        Ok(ListReply { entries: listed.into_iter().map(entry).collect(), more })
    }
}

impl<'a> Reply<'a> {
    fn new(main: &'a Main, explain: bool) -> Reply<'a> {
        let room = MAX_JSON_BYTES as usize - MARGIN_BYTES;
        let turn = super::draw()[0] as usize;
        let (reach, addresses) = (HashMap::new(), Addresses::new());
        Reply { main, expires: main.nodes.expiry(), explain, room, reach, addresses, turn }
    }

    fn has_room(&self, bytes: usize) -> bool {
        bytes <= self.room
    }

    fn take(&mut self, bytes: usize) {
        self.room = self.room.saturating_sub(bytes);
    }

    fn bytes_of(&self, record: &ChunkRecord) -> usize {
        let reason_bytes = if self.explain { 100 } else { 0 };
        ITEM_BYTES + record.copies.len() * (COPY_BYTES + reason_bytes)
    }

    /// The chunk with its copies, in the order in which to try them: those that count, the ones
    /// with the least to do first; then those that may still be there.
    fn locate(&mut self, record: &ChunkRecord) -> LocatedChunk {
        self.take(self.bytes_of(record));
        self.turn = self.turn.wrapping_add(1);
        let count = record.copies.len();
        let mut copies = Vec::with_capacity(count);
        for at in 0..count {
            let copy = record.copies[(at + self.turn) % count];
            let main = self.main;
            let reach = self.reach.entry(copy.node).or_insert_with(|| main.nodes.reach(copy.node));
            let Some(reach) = reach else { continue };
            let token = reach.mint(claims(Operation::Fetch, record, copy, self.expires));
            let reason = self.explain.then(|| Reason::text(copy.reason).to_string());
            let rank = (order_of(reach.state), reach.transfers / 4);
            if !self.addresses.contains_key(&copy.node) {
                self.room = self.room.saturating_sub(reach.address.as_str().len() + 20);
                self.addresses.insert(copy.node, reach.address.clone());
            }
            copies.push((rank, Place { node: copy.node, token, reason }));
        }
        copies.sort_by_key(|(rank, _)| *rank);
        let copies = copies.into_iter().map(|(_, place)| place).collect();
        LocatedChunk { id: record.id, length: record.length, copies }
    }
}

fn order_of(state: State) -> u8 {
    match state {
        State::Alive => 0,
        State::Returning | State::Rejoining => 1,
        State::Suspect => 2,
        State::Dead => 3,
        State::Stopped => 4,
    }
}

fn is_whole(opened: &OpenedFile) -> bool {
    opened.from + opened.chunks.len() as u64 >= opened.file.chunk_count
}

fn facts(info: &FileInfo) -> FileFacts {
    FileFacts {
        version: info.version,
        size: info.size,
        chunk_count: info.chunk_count,
        copies: info.copies,
        mtime_ms: info.mtime_ms,
        executable: info.executable,
    }
}

fn entry(entry: crate::catalog::Entry) -> Entry {
    let file = match &entry.kind {
        EntryKind::Directory => None,
        EntryKind::File(info) => Some(facts(info)),
    };
    Entry { name: entry.name, file }
}
