//! Making files visible.

use std::collections::HashSet;
use std::time::Instant;

use super::batch::{FileKey, Input, ToRead};
use super::{Delayed, Event, Put, StoredFile};
use crate::client::ClientError;
use crate::client::patience::pause_before;
use crate::ids::ChunkId;
use crate::wire::to_main::CommittedFile;
use crate::wire::{Fault, FaultCode, MAX_ITEMS, MAX_PART_CHUNKS, Outcome};

/// What the paths of one `commit` may take of its JSON, escapes included.
const PATH_BYTES: usize = 256 * 1024;

pub(super) struct CommitDone {
    files: Vec<FileKey>,
    outcomes: Result<Vec<Outcome<CommittedFile>>, ClientError>,
}

impl Put<'_> {
    /// Commits the files that are ready, unless others are being committed.
    pub(super) fn start_commit(&mut self) {
        if self.is_committing || self.ready.is_empty() {
            return;
        }
        let (mut files, mut entries, mut stages) = (Vec::new(), Vec::new(), Vec::new());
        let (mut chunks, mut bytes) = (0, 0);
        while let Some(file) = self.ready.pop_front() {
            let Some(state) = self.files.get(&file) else { continue };
            let count = state.chunks.len();
            let inline = if count <= MAX_PART_CHUNKS { count } else { 0 };
            let path = state.to.as_str().len() * 2;
            let is_full = files.len() == MAX_ITEMS
                || chunks + inline > MAX_PART_CHUNKS
                || bytes + path > PATH_BYTES;
            if is_full && !files.is_empty() {
                self.ready.push_front(file);
                break;
            }
            (chunks, bytes) = (chunks + inline, bytes + path);
            let (entry, parts) = state.to_commit(self.options);
            files.push(file);
            entries.push(entry);
            stages.extend(parts);
        }
        if files.is_empty() {
            return;
        }
        self.is_committing = true;
        let inner = self.inner.clone();
        self.start(move || {
            let staged = stages.iter().try_for_each(|stage| inner.call(stage).map(drop));
            let outcomes = staged.and_then(|()| inner.commit(entries));
            Event::Committed(CommitDone { files, outcomes })
        });
    }

    pub(super) fn commit_done(&mut self, done: CommitDone) -> Result<(), ClientError> {
        self.is_committing = false;
        for (file, outcome) in done.files.into_iter().zip(done.outcomes?) {
            match outcome {
                Outcome::Ok(committed) => self.file_done(file, &committed),
                Outcome::Fault(fault) => self.file_refused(file, fault),
            }
        }
        Ok(())
    }

    fn file_done(&mut self, file: FileKey, committed: &CommittedFile) {
        self.progressed();
        let Some(state) = self.files.get(&file) else { return };
        let stored = StoredFile {
            version: committed.version,
            size: committed.size,
            sent_bytes: state.sent_bytes,
            under_copied_chunks: committed.under_copied_chunks,
        };
        self.finish(file, Ok(stored));
    }

    fn file_refused(&mut self, file: FileKey, fault: Fault) {
        let Some(state) = self.files.get_mut(&file) else { return };
        let is_doubt = fault.code == FaultCode::NotStored;
        let since = *state.doubted.get_or_insert_with(Instant::now);
        let patience = self.inner.settings.patience.established;
        if !(is_doubt || fault.code == FaultCode::Busy) || since.elapsed() >= patience {
            return self.finish(file, Err(ClientError::Refused(fault)));
        }
        self.observer.waiting(&fault.message);
        state.commits += 1;
        let at = Instant::now() + pause_before(state.commits);
        let missing: HashSet<ChunkId> = fault.chunks.into_iter().collect();
        if state.is_stream() || !is_doubt || missing.is_empty() {
            // A stream cannot be read again, but the nodes that have its chunks may come back.
            self.delayed.push((at, Delayed::Files(vec![file])));
            return;
        }
        let mut again = Vec::new();
        for (index, id) in state.chunks.iter().enumerate() {
            let Some(id) = id.filter(|id| missing.contains(id)) else { continue };
            let input = match &state.path {
                Some(path) => {
                    let offset = index as u64 * state.chunk_bytes as u64;
                    Some(Input::Again(path.clone(), offset, id))
                }
                None => state.input(index),
            };
            let Some(input) = input else { continue };
            again.push(ToRead { file, index, length: state.length_of(index), input });
        }
        state.left += again.len();
        let what = if again.is_empty() { Delayed::Files(vec![file]) } else { Delayed::Read(again) };
        self.delayed.push((at, what));
    }
}
