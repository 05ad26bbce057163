//! Which bytes are read next, and what becomes of them once they have names.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;

use super::batch::{self, Batch, FileKey, PieceRef, ReadBatch, ReadFailure, StreamPiece, ToRead};
use super::files::{FileState, Source};
use super::{CHUNK_BYTES, Event, OnItsWay, Put};
use crate::client::ClientError;
use crate::client::observer::Report;
use crate::ids::ChunkId;
use crate::wire::MAX_ITEMS;

/// How often a small file that changes under our eyes is looked at anew.
const LOOKS: u32 = 3;

impl Put<'_> {
    /// Starts reading for as long as there are buffers and something to read.
    pub(super) fn start_reads(&mut self) {
        while !self.is_all_read() {
            let Some(buffer) = self.buffers.take() else { return };
            let hash = self.options.hash;
            let to_read = self.next_batch();
            if !to_read.is_empty() {
                self.start(move || Event::Read(batch::read_batch(buffer, to_read, hash)));
            } else if let Some(stream) = self.stream.take() {
                let (file, index) = self.cutting.expect("a stream is cut while it is there");
                self.jobs.start_aside(&self.inner.workers, move || {
                    let at = (file, index);
                    let piece = batch::read_stream(buffer, stream, at, CHUNK_BYTES, hash);
                    Event::Stream(file, piece)
                });
            } else {
                return;
            }
        }
    }

    fn is_all_read(&self) -> bool {
        self.is_exhausted
            && self.looked_at.is_empty()
            && self.cutting.is_none()
            && self.read_again.is_empty()
    }

    /// What goes into the next buffer: one piece of a large file, or as many small ones as fit.
    /// Empty when there is nothing to read, or a stream is next.
    fn next_batch(&mut self) -> Vec<ToRead> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(piece) = self.read_again.front() {
            if batch.len() == MAX_ITEMS || bytes + piece.length > CHUNK_BYTES {
                return batch;
            }
            bytes += piece.length;
            batch.extend(self.read_again.pop_front());
        }
        while batch.len() < MAX_ITEMS {
            if self.cutting.is_some() {
                if batch.is_empty() {
                    batch.extend(self.next_piece());
                }
                return batch;
            }
            let Some(file) = self.looked_at.pop_front().or_else(|| self.look_at_next()) else {
                return batch;
            };
            let Some(state) = self.files.get_mut(&file) else { continue };
            if !state.is_small() {
                self.begin_cutting(file);
                continue;
            }
            if state.chunks.is_empty() {
                state.is_read = true;
                self.ready.push_back(file);
                continue;
            }
            let length = state.length_of(0);
            if bytes + length > CHUNK_BYTES {
                self.looked_at.push_front(file);
                return batch;
            }
            bytes += length;
            let input = state.input(0).expect("a small file is no stream");
            batch.push(ToRead { file, index: 0, length, input });
        }
        batch
    }

    /// The next upload that can be read at all. `None` when there is none, or a stream begins.
    fn look_at_next(&mut self) -> Option<FileKey> {
        while !self.is_exhausted {
            let Some(upload) = self.uploads.next() else {
                self.is_exhausted = true;
                break;
            };
            let key = self.next_key;
            self.next_key += 1;
            match upload.from {
                Source::Stream(stream) => {
                    self.files.insert(key, FileState::new(upload.to, CHUNK_BYTES));
                    self.cutting = Some((key, 0));
                    self.stream = Some(stream);
                    return None;
                }
                Source::Bytes(bytes) => {
                    self.files.insert(key, FileState::of_bytes(bytes, upload.to, CHUNK_BYTES));
                    return Some(key);
                }
                Source::Path(path) => {
                    match FileState::of_path(path.clone(), upload.to.clone(), CHUNK_BYTES) {
                        Ok(state) => {
                            self.files.insert(key, state);
                            return Some(key);
                        }
                        Err(error) => {
                            let to = OsStr::new(upload.to.as_str());
                            self.observer.file(path.as_os_str(), to, Report::Failed(error));
                        }
                    }
                }
            }
        }
        None
    }

    fn begin_cutting(&mut self, file: FileKey) {
        let Some(state) = self.files.get_mut(&file) else { return };
        match state.open() {
            Ok(()) => self.cutting = Some((file, 0)),
            Err(error) => self.finish(file, Err(error)),
        }
    }

    fn next_piece(&mut self) -> Option<ToRead> {
        let (file, index) = self.cutting?;
        let state = self.files.get(&file).expect("a file that is cut is known");
        let input = state.input(index)?;
        let piece = ToRead { file, index, length: state.length_of(index), input };
        self.cutting = (index + 1 < state.chunks.len()).then_some((file, index + 1));
        Some(piece)
    }

    pub(super) fn read_done(&mut self, (batch, failures): ReadBatch) {
        for (file, failure) in failures {
            match failure {
                ReadFailure::Stale => self.look_again(file),
                ReadFailure::Failed(error) => self.finish(file, Err(error)),
            }
        }
        self.name_pieces(batch);
    }

    fn name_pieces(&mut self, batch: Batch) {
        for chunk in PieceRef::all(batch) {
            let piece = chunk.piece();
            let Some(state) = self.files.get_mut(&piece.file) else { continue };
            state.chunks[piece.index] = Some(piece.id);
            if !state.is_read && state.chunks.iter().rev().all(Option::is_some) {
                state.is_read = !state.is_stream();
                if let Err(error) = state.check() {
                    let file = piece.file;
                    self.finish(file, Err(error));
                    continue;
                }
                state.handle = None;
            }
            set_out(&mut self.on_their_way, &mut self.unplaced, chunk);
        }
    }

    /// A small file was written to since it was looked at: the next look may find it at rest.
    fn look_again(&mut self, file: FileKey) {
        let Some(old) = self.files.get(&file) else { return };
        let looks = old.looks + 1;
        let path = old.path.clone().expect("a stream is never stale");
        if looks > LOOKS {
            return self.finish(file, Err(ClientError::Changed));
        }
        match FileState::of_path(path, old.to.clone(), CHUNK_BYTES) {
            Ok(mut new) => {
                new.looks = looks;
                self.files.insert(file, new);
                self.looked_at.push_back(file);
            }
            Err(error) => self.finish(file, Err(error)),
        }
    }

    pub(super) fn stream_done(&mut self, file: FileKey, piece: StreamPiece) {
        let Some(state) = self.files.get_mut(&file) else { return };
        let batch = match piece.batch {
            Ok(batch) => batch,
            Err(source) => {
                let path = state.from().to_path_buf();
                let error = ClientError::Io { doing: "read", path, source };
                return self.finish(file, Err(error));
            }
        };
        if piece.is_last {
            state.is_read = true;
            self.cutting = None;
        } else {
            self.cutting = Some((file, state.chunks.len() + 1));
            self.stream = Some(piece.stream);
        }
        let Some(batch) = batch else {
            if state.is_ready() {
                self.ready.push_back(file);
            }
            return;
        };
        for chunk in PieceRef::all(batch) {
            state.chunks.push(Some(chunk.piece().id));
            state.size += u64::from(chunk.length());
            state.left += 1;
            self.observer.expect(0, u64::from(chunk.length()));
            set_out(&mut self.on_their_way, &mut self.unplaced, chunk);
        }
    }
}

/// Puts a named chunk on its way, unless one with the same bytes is on it already.
fn set_out(
    on_their_way: &mut HashMap<ChunkId, OnItsWay>,
    unplaced: &mut VecDeque<PieceRef>,
    chunk: PieceRef,
) {
    match on_their_way.entry(chunk.piece().id) {
        Entry::Occupied(mut same) => same.get_mut().followers.push(chunk),
        Entry::Vacant(none) => {
            none.insert(OnItsWay::default());
            unplaced.push_back(chunk);
        }
    }
}
