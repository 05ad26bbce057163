//! Asking where the copies of files' chunks are, and queueing them to be read.

use super::reading::Task;
use super::{ChunkKey, ChunkState, Event, FileKey, FileState, VerifiedFile, Verify};
use crate::client::ClientError;
use crate::client::observer::Report;
use crate::remote_path::RemotePath;
use crate::wire::to_main::{FileFacts, LocatedChunk, Open, OpenFile, OpenReply, OpenedFile};
use crate::wire::{Fault, FaultCode, Outcome};

/// No more chunks are asked for while as many copies are waiting.
const ENOUGH_QUEUED: usize = 1024;
/// Files of one `open`, and what their paths may take of its JSON.
const FILES: usize = 128;
const PATH_BYTES: usize = 512 * 1024;
/// What a byte of a path takes of JSON at the worst, as an escape.
const ESCAPED: usize = 6;

pub(super) struct OpenDone {
    asked: Vec<(Asked, OpenFile)>,
    reply: Result<OpenReply, ClientError>,
}

enum Asked {
    /// From its beginning on.
    New(RemotePath, FileFacts),
    /// Further chunks.
    Page(FileKey),
}

impl Verify<'_> {
    /// Asks for the next chunks, or the next files, unless that is being asked.
    pub(super) fn start_open(&mut self) -> Result<(), ClientError> {
        if self.is_opening || self.queued >= ENOUGH_QUEUED {
            return Ok(());
        }
        let mut asked = Vec::new();
        if let Some((file, request)) = self.pages.pop_front() {
            asked.push((Asked::Page(file), request));
        } else {
            let mut bytes = 0;
            while asked.len() < FILES && bytes < PATH_BYTES {
                let next = self.wanted.pop_front().map(Ok).or_else(|| self.listed.next());
                let Some((path, facts)) = next.transpose()? else { break };
                bytes += path.as_str().len() * ESCAPED;
                let version = Some(facts.version);
                let request = OpenFile { path: path.to_string(), version, from: 0 };
                asked.push((Asked::New(path, facts), request));
            }
        }
        if asked.is_empty() {
            return Ok(());
        }
        self.is_opening = true;
        let inner = self.inner.clone();
        self.start(move || {
            let files = asked.iter().map(|(_, request)| request.clone()).collect();
            let reply = inner.call(&Open { files, explain: false });
            Event::Opened(OpenDone { asked, reply })
        });
        Ok(())
    }

    pub(super) fn open_done(&mut self, done: OpenDone) -> Result<(), ClientError> {
        self.is_opening = false;
        let reply = done.reply?;
        if reply.files.is_empty() {
            return Err(ClientError::Unsuitable("the main server left out the answers to an open"));
        }
        self.addresses.extend(reply.nodes);
        let mut outcomes = reply.files.into_vec().into_iter();
        for (asked, request) in done.asked {
            match (asked, outcomes.next()) {
                (Asked::New(path, facts), None) => self.wanted.push_back((path, facts)),
                (Asked::Page(file), None) => self.pages.push_front((file, request)),
                (Asked::New(path, facts), Some(outcome)) => {
                    let key = self.key();
                    let found = VerifiedFile::new(&facts);
                    let (known, unsettled, advanced) = (0, 0, 0);
                    let state = FileState { path, facts, found, known, unsettled, advanced };
                    self.files.insert(key, state);
                    self.opened(key, outcome);
                }
                (Asked::Page(file), Some(outcome)) => self.opened(file, outcome),
            }
        }
        Ok(())
    }

    fn opened(&mut self, file: FileKey, outcome: Outcome<OpenedFile>) {
        match outcome {
            Outcome::Ok(opened) => self.queue_chunks(file, opened),
            Outcome::Fault(fault) => self.not_opened(file, fault),
        }
    }

    /// It was listed, or opened, a moment ago: that it is not found means that it was removed or
    /// replaced, by whoever else uses the store.
    fn not_opened(&mut self, file: FileKey, fault: Fault) {
        match fault.code {
            FaultCode::NotFound => self.gone(file),
            _ => self.finish(file, |_| Report::Failed(ClientError::Refused(fault))),
        }
    }

    pub(super) fn gone(&mut self, file: FileKey) {
        self.finish(file, |_| Report::Skipped("it was removed or replaced meanwhile"));
    }

    fn queue_chunks(&mut self, file: FileKey, opened: OpenedFile) {
        let Some(state) = self.files.get_mut(&file) else { return };
        let is_short = opened.chunks.is_empty() && state.known < state.facts.chunk_count;
        if is_short || opened.from != state.known {
            let error = ClientError::Unsuitable("the main server left out chunks of it");
            return self.finish(file, |_| Report::Failed(error));
        }
        let first = state.known;
        state.known += opened.chunks.len() as u64;
        state.unsettled += opened.chunks.len() as u64;
        if state.known < state.facts.chunk_count {
            let (path, version) = (state.path.to_string(), Some(state.facts.version));
            self.pages.push_back((file, OpenFile { path, version, from: state.known }));
        }
        for (index, chunk) in (first..).zip(opened.chunks.into_vec()) {
            let key = self.key();
            let (asked, unsettled, good) = (Vec::new(), 0, 0);
            let empty = LocatedChunk { copies: Vec::new(), ..chunk.clone() };
            let state = ChunkState { file, index, chunk: empty, asked, unsettled, good };
            self.chunks.insert(key, state);
            self.queue_copies(key, chunk);
        }
        self.finish_if_done(file);
    }

    /// Queues the copies of the chunk that were not asked for yet.
    pub(super) fn queue_copies(&mut self, key: ChunkKey, chunk: LocatedChunk) {
        let Some(state) = self.chunks.get_mut(&key) else { return };
        for place in chunk.copies {
            if state.asked.contains(&place.node) {
                continue;
            }
            state.asked.push(place.node);
            state.unsettled += 1;
            self.queued += 1;
            let task = Task::new(key, chunk.id, chunk.length, place.token);
            self.queues.entry(place.node).or_default().push_back(task);
        }
        if state.unsettled == 0 {
            self.settle(key);
        }
    }
}
