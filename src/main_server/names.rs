//! `stage`, `commit`, `mkdir`, `move` and `remove`: what changes the tree; and `removed`, `undelete`
//! and `copies`: what is decided about it afterwards.

use super::Main;
use super::fault::{bound_named_chunks, check_copies, invalid, path};
use crate::catalog::{
    AccountRecord, Committed, Condition, LiveNodes, MAX_PARTS, Manifest, NewFile, Refusal,
};
use crate::ids::{ChunkId, Version};
use crate::wire::to_main::*;
use crate::wire::{Fault, MAX_ITEMS, MAX_JSON_BYTES, MAX_PART_CHUNKS, Outcome};

/// About how many bytes of JSON the removed files of a page take, at most.
const REMOVED_BYTES: usize = MAX_JSON_BYTES as usize * 3 / 4;
/// About how many bytes one of them takes, beside its path.
const REMOVED_FILE_BYTES: usize = 160;

impl Main {
    /// Serves `stage`.
    pub(super) fn stage(&self, account: &AccountRecord, request: Stage) -> Result<Done, Fault> {
        let Stage { upload, part, chunks } = request;
        let now = self.clock.wall();
        let staged = self.catalog.stage_part(account.id, upload, part, &chunks, now);
        staged.map_err(|error| self.fault(error))?;
        Ok(Done {})
    }

    /// Serves `commit`.
    pub(super) fn commit(
        &self,
        account: &AccountRecord,
        request: Commit,
    ) -> Result<CommitReply, Fault> {
        self.commit_by(account, request, &self.nodes.live())
    }

    /// The same, where these nodes were alive when it began.
    pub(super) fn commit_by(
        &self,
        account: &AccountRecord,
        request: Commit,
        live: &LiveNodes,
    ) -> Result<CommitReply, Fault> {
        let chunks = request.files.iter().filter_map(|file| file.chunks.as_ref());
        if chunks.map(|chunks| chunks.len()).sum::<usize>() > MAX_PART_CHUNKS {
            let why =
                format!("a commit names at most {MAX_PART_CHUNKS} chunks; stage larger files");
            return Err(invalid(why));
        }
        let request_id = request.request_id;
        let files = request.files.into_vec().into_iter().map(new_file);
        let files: Vec<Result<NewFile, Fault>> = files.collect();
        let good: Vec<NewFile> = files.iter().flatten().cloned().collect();
        let now = self.clock.wall();
        let committed = match good.is_empty() {
            true => Vec::new(),
            false => self
                .catalog
                .commit_files(account.id, request_id, now, live, &good)
                .map_err(|error| self.fault(error))?,
        };
        self.copy_what_commits_lack(account, &committed)?;
        // A copy on a node that has gone meanwhile was taken for a live one, and whoever looked at the
        // chunk then may have found that nothing refers to it.
        if !live.is_subset(&self.nodes.live()) {
            self.survey.look_again();
        }
        let mut committed = committed.into_iter();
        let outcome = |file: Result<NewFile, Fault>| {
            file?;
            let committed = committed.next().expect("the catalog answers for each file")?;
            self.accepted(committed)
        };
        let outcomes = files.into_iter().map(outcome).map(Outcome::from);
        let mut outcomes: Vec<Outcome<CommittedFile>> = outcomes.collect();
        bound_named_chunks(&mut outcomes);
        Ok(CommitReply { files: outcomes.into() })
    }

    /// Chunks of which there are copies, but too few for a commit, get the missing ones: a client
    /// that reads a pipe cannot send them again, and can only repeat its commit.
    fn copy_what_commits_lack(
        &self,
        account: &AccountRecord,
        outcomes: &[Result<Committed, Refusal>],
    ) -> Result<(), Fault> {
        let lacking = outcomes.iter().filter_map(|outcome| match outcome {
            Err(Refusal::NotStored { chunks }) => Some(chunks),
            _ => None,
        });
        let lacking: Vec<ChunkId> = lacking.flatten().copied().collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let records = self.catalog.locate(account.id, &lacking).map_err(|e| self.fault(e))?;
        let with_copies = records.iter().flatten().filter(|record| !record.copies.is_empty());
        self.see_to(with_copies.map(|record| record.serial));
        self.wake_upkeep();
        Ok(())
    }

    fn accepted(&self, file: Committed) -> Result<CommittedFile, Fault> {
        let under_copied_chunks = file.under_copied.len() as u64;
        if under_copied_chunks > 0 {
            self.count_committed(&file.under_copied).map_err(|error| self.fault(error))?;
            self.see_to(file.under_copied);
            self.wake_upkeep();
        }
        Ok(CommittedFile { version: file.version, size: file.size, under_copied_chunks })
    }

    /// Serves `mkdir`.
    pub(super) fn make_directory(
        &self,
        account: &AccountRecord,
        request: MakeDirectory,
    ) -> Result<Done, Fault> {
        let MakeDirectory { request_id, path: text, parents } = request;
        let (path, now) = (path(&text)?, self.clock.wall());
        let made = self.catalog.make_directory(account.id, request_id, now, &path, parents);
        made.map_err(|error| self.fault(error))?;
        Ok(Done {})
    }

    /// Serves `move`.
    pub(super) fn move_entry(&self, account: &AccountRecord, request: Move) -> Result<Done, Fault> {
        let (from, to, now) = (path(&request.from)?, path(&request.to)?, self.clock.wall());
        let (id, replace) = (request.request_id, request.replace);
        let moved = self.catalog.move_entry(account.id, id, now, &from, &to, replace);
        moved.map_err(|error| self.fault(error))?;
        Ok(Done {})
    }

    /// Serves `remove`.
    pub(super) fn remove(
        &self,
        account: &AccountRecord,
        request: Remove,
    ) -> Result<RemoveReply, Fault> {
        let Remove { request_id, path: text, recursive, if_version, purge } = request;
        let (path, now) = (path(&text)?, self.clock.wall());
        let removed = self
            .catalog
            .remove_entry(account.id, request_id, now, &path, recursive, if_version, purge);
        let files = removed.map_err(|error| self.fault(error))?;
        if purge {
            self.collecting.purged();
        }
        Ok(RemoveReply { files })
    }

    /// Serves `removed`.
    pub(super) fn list_removed(
        &self,
        account: &AccountRecord,
        request: ListRemoved,
    ) -> Result<ListRemovedReply, Fault> {
        let path = path(&request.path)?;
        let removed = self.catalog.removed(account.id, &path, request.after, MAX_ITEMS);
        let mut removed = removed.map_err(|error| self.fault(error))?;
        let mut room = REMOVED_BYTES;
        let fitting = removed.iter().take_while(|entry| {
            // A path takes at most twice its bytes, escaped.
            let bytes = entry.path.as_str().len() * 2 + REMOVED_FILE_BYTES;
            room = room.saturating_sub(bytes);
            room > 0
        });
        let fitting = fitting.count();
        let more = fitting < removed.len() || removed.len() == MAX_ITEMS;
        removed.truncate(fitting);
        let files = removed.into_iter().map(|entry| RemovedFile {
            path: entry.path.to_string(),
            version: entry.info.version,
            size: entry.info.size,
            removed: entry.removed_at,
            expires: entry.removed_at + self.config.keep_removed,
        });
        Ok(ListRemovedReply { files: files.collect(), more })
    }

    /// Serves `undelete`.
    pub(super) fn undelete(
        &self,
        account: &AccountRecord,
        request: Undelete,
    ) -> Result<UndeleteReply, Fault> {
        let Undelete { request_id, path: text, version } = request;
        let (path, now) = (path(&text)?, self.clock.wall());
        let brought = self.catalog.undelete(account.id, request_id, now, &path, version);
        Ok(UndeleteReply { version: brought.map_err(|error| self.fault(error))? })
    }

    /// Serves `copies`: chunks that have too few now, or too many, are judged anew.
    pub(super) fn set_copies(
        &self,
        account: &AccountRecord,
        request: SetCopies,
    ) -> Result<SetCopiesReply, Fault> {
        let SetCopies { request_id, path: text, copies, after } = request;
        check_copies(copies)?;
        let (path, now) = (path(&text)?, self.clock.wall());
        let set = self
            .catalog
            .set_copies(account.id, request_id, now, &path, copies, after, MAX_PART_CHUNKS)
            .map_err(|error| self.fault(error))?;
        if !set.changed.is_empty() {
            self.see_to(set.changed);
            self.wake_upkeep();
        }
        Ok(SetCopiesReply { files: set.files, chunks: set.chunks, kept: set.kept, next: set.next })
    }
}

fn new_file(file: CommitFile) -> Result<NewFile, Fault> {
    let path = path(&file.path)?;
    check_copies(file.copies)?;
    let manifest = match (file.chunks, file.upload, file.parts) {
        (Some(chunks), None, None) => Manifest::Inline(chunks.into_vec()),
        (None, Some(upload), Some(parts @ 1..=MAX_PARTS)) => Manifest::Staged { upload, parts },
        (None, Some(_), Some(parts)) => {
            return Err(invalid(format!("a manifest has 1 to {MAX_PARTS} parts, not {parts}")));
        }
        _ => return Err(invalid("a file has either chunks, or an upload and its parts")),
    };
    let condition = match file.if_version {
        None => Condition::Any,
        Some(Version(0)) => Condition::Absent,
        Some(version) => Condition::Version(version),
    };
    Ok(NewFile {
        path,
        manifest,
        copies: file.copies,
        mtime_ms: file.mtime_ms,
        executable: file.executable,
        condition,
        parents: file.parents,
    })
}
