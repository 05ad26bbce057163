//! Asking where the chunks of files are, and queueing them.

use super::fetching::{Place, Task};
use super::landing::{self, Landing};
use super::{Event, FetchedFile, FileKey, FileState, Get, Target};
use crate::client::ClientError;
use crate::client::observer::Report;
use crate::remote_path::RemotePath;
use crate::wire::to_main::{OpenFile, OpenReply, OpenedFile};
use crate::wire::{MAX_ITEMS, Outcome};
use std::ffi::OsStr;
use std::path::Path;

/// No more files are opened while as many chunks are waiting.
const ENOUGH_QUEUED: usize = 1024;
/// What the paths of one `open` may take of its JSON, escapes included.
const PATH_BYTES: usize = 512 * 1024;

/// A file of an `open`.
enum Asked {
    /// From its beginning on.
    New(RemotePath, Target),
    /// Further chunks.
    Page(FileKey, OpenFile),
}

pub(super) struct OpenDone {
    asked: Vec<(Asked, OpenFile)>,
    reply: Result<OpenReply, ClientError>,
}

impl Get<'_> {
    /// Asks for the next chunks, or the next files, unless that is being asked.
    pub(super) fn start_open(&mut self) {
        if self.is_opening || self.waiting.len() >= ENOUGH_QUEUED {
            return;
        }
        let mut asked = Vec::new();
        // A further page is alone in its request, so that its reply is of any use.
        if let Some((file, request)) = self.pages.pop_front() {
            asked.push((Asked::Page(file, request.clone()), request));
        }
        let mut bytes = 0;
        while asked.len() < MAX_ITEMS && !matches!(asked.first(), Some((Asked::Page(..), _))) {
            bytes += self.wanted.front().map_or(0, |(path, ..)| path.as_str().len() * 2);
            if bytes > PATH_BYTES {
                break;
            }
            let Some((path, version, target)) = self.wanted.pop_front() else { break };
            let request = OpenFile { path: path.to_string(), version, from: 0 };
            asked.push((Asked::New(path, target), request));
        }
        if asked.is_empty() {
            return;
        }
        self.is_opening = true;
        let inner = self.inner.clone();
        self.start(move || {
            let files = asked.iter().map(|(_, request)| request.clone()).collect();
            Event::Opened(OpenDone { reply: inner.open(files), asked })
        });
    }

    pub(super) fn open_done(&mut self, done: OpenDone) -> Result<(), ClientError> {
        self.is_opening = false;
        let reply = done.reply?;
        if reply.files.is_empty() {
            return Err(ClientError::Unsuitable("the main server left out the answers to an open"));
        }
        self.addresses.extend(reply.nodes);
        let mut outcomes = reply.files.into_vec().into_iter();
        let mut unanswered = Vec::new();
        for (asked, request) in done.asked {
            match (asked, outcomes.next()) {
                (Asked::New(path, target), None) => {
                    unanswered.push((path, request.version, target));
                }
                (Asked::Page(file, page), None) => self.pages.push_front((file, page)),
                (Asked::New(path, target), Some(Outcome::Ok(opened))) => {
                    self.begin(path, target, opened);
                }
                (Asked::New(path, target), Some(Outcome::Fault(fault))) => {
                    let to = match &target {
                        Target::File(to) => to.as_path(),
                        Target::Stream(_) => Path::new("-"),
                    };
                    let report = Report::Failed(ClientError::Refused(fault));
                    self.observer.file(OsStr::new(path.as_str()), to.as_os_str(), report);
                }
                (Asked::Page(file, _), Some(Outcome::Ok(opened))) => {
                    self.queue_chunks(file, opened);
                }
                (Asked::Page(file, _), Some(Outcome::Fault(fault))) => {
                    self.finish(file, Err(ClientError::Refused(fault)));
                }
            }
        }
        for file in unanswered.into_iter().rev() {
            self.wanted.push_front(file);
        }
        Ok(())
    }

    /// Begins with a file of which the first chunks are known.
    fn begin(&mut self, from: RemotePath, target: Target, opened: OpenedFile) {
        let facts = &opened.file;
        let fetched = FetchedFile { version: facts.version, size: facts.size };
        let landing = match target {
            Target::Stream(range) => Ok(Landing::Stream(range)),
            Target::File(path) => {
                let target = landing::Target::new(path.clone(), facts);
                Landing::prepare(target, facts.chunk_count).map_err(|error| (path, error))
            }
        };
        let to = match landing {
            Ok(landing) => landing,
            Err((path, error)) => {
                let from = OsStr::new(from.as_str());
                return self.observer.file(from, path.as_os_str(), Report::Failed(error));
            }
        };
        let key = self.next_key;
        self.next_key += 1;
        let chunk_count = facts.chunk_count;
        let state = FileState {
            from,
            to,
            fetched,
            chunk_count,
            left: chunk_count,
            known_chunks: 0,
            known_bytes: 0,
        };
        self.files.insert(key, state);
        if chunk_count > 0 {
            return self.queue_chunks(key, opened);
        }
        let state = &self.files[&key];
        let written = match &state.to {
            Landing::Whole(target) => target.write_whole(&[]),
            Landing::Parts(..) | Landing::Stream(_) => Ok(()),
        };
        self.finish(key, written);
    }

    /// Queues chunks that lie in the range wanted, and has the next page asked for.
    fn queue_chunks(&mut self, file: FileKey, opened: OpenedFile) {
        let Some(state) = self.files.get_mut(&file) else { return };
        if opened.chunks.is_empty() || opened.from != state.known_chunks {
            let error = ClientError::Unsuitable("the main server left out chunks of it");
            return self.finish(file, Err(error));
        }
        let mut tasks = Vec::new();
        for chunk in opened.chunks.into_vec() {
            let (index, offset) = (state.known_chunks, state.known_bytes);
            state.known_chunks += 1;
            state.known_bytes += u64::from(chunk.length);
            let bytes = offset..state.known_bytes;
            let place = match &state.to {
                Landing::Whole(target) => Place::Whole(target.clone()),
                Landing::Parts(_, temporary) => Place::Part(temporary.to_path_buf(), offset),
                Landing::Stream(range) => {
                    let start = range.start.clamp(bytes.start, bytes.end) - bytes.start;
                    let end = range.end.clamp(bytes.start, bytes.end) - bytes.start;
                    Place::Stream(start as usize..end as usize)
                }
            };
            if matches!(&place, Place::Stream(range) if range.is_empty()) {
                state.left -= 1;
                // The turn passes over what lies before the range; nothing behind it is fetched.
                if self.turn == index {
                    self.turn += 1;
                }
                continue;
            }
            tasks.push(Task::new(file, index, chunk, place));
        }
        let is_past_range =
            matches!(&state.to, Landing::Stream(range) if range.end <= state.known_bytes);
        let next = state.known_chunks;
        if next < state.chunk_count && !is_past_range {
            let version = Some(state.fetched.version);
            let path = state.from.to_string();
            self.pages.push_back((file, OpenFile { path, version, from: next }));
        } else if is_past_range {
            state.left -= state.chunk_count - next;
        }
        let is_complete = state.left == 0;
        for task in tasks {
            self.queue(task);
        }
        if is_complete {
            self.finish(file, Ok(()));
        }
    }
}
