//! The model's operations, one by one.

use std::time::Instant;

use super::deleting::Mark;
use super::names::Thing;
use super::{Answer, Chunk, Invite, MemoryCatalog};
use crate::catalog::*;
use crate::clock::WallTime;
use crate::ids::*;
use crate::remote_path::RemotePath;

impl Catalog for MemoryCatalog {
    fn identity(&self) -> (ClusterId, Secret) {
        (self.cluster, self.secret)
    }

    fn begin_incarnation(
        &self,
        incarnation: Incarnation,
        now: WallTime,
    ) -> Result<(), CatalogError> {
        let mut model = self.model();
        let mark = BooksMark(model.mark);
        for (_, last) in model.incarnations.iter_mut().filter(|(one, _)| **one != incarnation) {
            last.get_or_insert(mark);
        }
        model.incarnations.entry(incarnation).or_insert(None);
        model.mark += 1;
        let by_clock = (now.0 / 1000).saturating_sub(1_577_836_800).saturating_mul(1 << 20);
        model.next = model.next.max(by_clock.min(MAX_BELIEVED_SERIAL.0));
        Ok(())
    }

    fn knows_incarnation(
        &self,
        incarnation: &Incarnation,
        mark: BooksMark,
    ) -> Result<bool, CatalogError> {
        let model = self.model();
        let known = model.incarnations.get(incarnation);
        Ok(known.is_some_and(|last| last.is_none_or(|last| last >= mark)))
    }

    fn mark(&self) -> BooksMark {
        BooksMark(self.model().mark)
    }

    fn sync(&self) -> Result<(), CatalogError> {
        Ok(())
    }

    fn last_commit(&self) -> Option<Instant> {
        Some(self.made)
    }

    fn account_by_key(
        &self,
        fingerprint: &[u8; 32],
    ) -> Result<Option<AccountRecord>, CatalogError> {
        Ok(self.model().keys.get(fingerprint).cloned())
    }

    fn create_invite(
        &self,
        fingerprint: &[u8; 32],
        uses: u32,
        expires: WallTime,
    ) -> Result<(), CatalogError> {
        let mut model = self.model();
        model.invites.entry(*fingerprint).or_insert(Invite { uses, expires });
        model.mark += 1;
        Ok(())
    }

    fn join_node(
        &self,
        invite: &[u8; 32],
        secret: &[u8; 32],
        now: WallTime,
    ) -> Result<NodeId, CatalogError> {
        self.change(|model| model.join(*invite, *secret, now))
    }

    fn start_node(&self, node: NodeId, start: &NodeStart) -> Result<(), CatalogError> {
        self.change(|model| model.start_node(node, start))
    }

    fn set_node_key(&self, node: NodeId, key: KeyId) -> Result<(), CatalogError> {
        self.change(|model| {
            let record = model.node(node)?;
            record.key = record.key.max(Some(key));
            Ok(())
        })
    }

    fn adopt_incarnations(
        &self,
        incarnations: &[(Incarnation, BooksMark)],
        _now: WallTime,
    ) -> Result<(), CatalogError> {
        let mut model = self.model();
        for (incarnation, mark) in incarnations {
            let last = model.incarnations.entry(*incarnation).or_insert(Some(*mark));
            *last = last.map(|last| last.max(*mark));
        }
        model.mark += 1;
        Ok(())
    }

    fn note_time(&self, now: WallTime, is_confirmed: bool) -> Result<(), CatalogError> {
        let mut model = self.model();
        if is_confirmed || now > model.latest_time {
            model.latest_time = now;
        }
        Ok(())
    }

    fn latest_time(&self) -> Result<WallTime, CatalogError> {
        Ok(self.model().latest_time)
    }

    fn set_standing(&self, node: NodeId, standing: Standing) -> Result<(), CatalogError> {
        self.change(|model| {
            let record = model.node(node)?;
            if record.standing == Standing::Left && standing != Standing::Left {
                return Err(Refusal::NodeLeft(node));
            }
            record.standing = standing;
            Ok(())
        })
    }

    fn nodes(&self) -> Result<Vec<NodeRecord>, CatalogError> {
        Ok(self.model().nodes.clone())
    }

    fn reserve(
        &self,
        account: AccountId,
        copies: u8,
        lease_until: WallTime,
        chunks: &[(ChunkId, u32)],
    ) -> Result<Vec<Result<ChunkRecord, Refusal>>, CatalogError> {
        let mut model = self.model();
        let mut reserve = |&(id, length)| model.reserve(account, copies, lease_until, id, length);
        Ok(chunks.iter().map(&mut reserve).collect())
    }

    fn confirm_copies(
        &self,
        confirmations: &[Confirmation],
        lease_until: WallTime,
    ) -> Result<Vec<Result<ChunkRecord, Refusal>>, CatalogError> {
        let mut model = self.model();
        Ok(confirmations.iter().map(|said| model.confirm(said, lease_until)).collect())
    }

    fn lose_copies(
        &self,
        node: NodeId,
        serials: &[Serial],
    ) -> Result<Vec<ChunkRecord>, CatalogError> {
        let mut model = self.model();
        Ok(serials.iter().filter_map(|&serial| model.lose(node, serial)).collect())
    }

    fn copies_on(
        &self,
        node: NodeId,
        from: Serial,
        to: Serial,
        limit: usize,
    ) -> Result<Vec<Holding>, CatalogError> {
        Ok(self.model().copies_on(node, from, to).into_iter().take(limit).collect())
    }

    fn reconcile(
        &self,
        node: NodeId,
        from: Serial,
        to: Serial,
        held: &[Holding],
        unknown_due: WallTime,
    ) -> Result<Reconciled, CatalogError> {
        self.change(|model| model.reconcile(node, from, to, held, unknown_due))
    }

    fn locate(
        &self,
        account: AccountId,
        chunks: &[ChunkId],
    ) -> Result<Vec<Option<ChunkRecord>>, CatalogError> {
        let model = self.model();
        Ok(chunks.iter().map(|id| model.locate(account, id).cloned()).collect())
    }

    fn chunks(&self, serials: &[Serial]) -> Result<Vec<ChunkRecord>, CatalogError> {
        let model = self.model();
        let found = serials.iter().filter_map(|serial| model.chunks.get(serial));
        Ok(found.map(|chunk| chunk.record.clone()).collect())
    }

    fn under_copied(
        &self,
        after: Option<Serial>,
        limit: usize,
    ) -> Result<Vec<ChunkRecord>, CatalogError> {
        let model = self.model();
        let is_wanting = |chunk: &&Chunk| {
            let record = &chunk.record;
            model.places(record.serial) > 0
                && record.copies.len() < record.wanted.into()
                && Some(record.serial) > after
        };
        let wanting = model.chunks.values().filter(is_wanting);
        Ok(wanting.take(limit).map(|chunk| chunk.record.clone()).collect())
    }

    fn survey(
        &self,
        after: Option<Serial>,
        limit: usize,
    ) -> Result<Vec<SurveyedChunk>, CatalogError> {
        let model = self.model();
        let chunks = model.chunks.values().filter(|chunk| Some(chunk.record.serial) > after);
        let surveyed = chunks.take(limit).map(|chunk| SurveyedChunk {
            record: chunk.record.clone(),
            is_referred: model.places(chunk.record.serial) > 0,
        });
        Ok(surveyed.collect())
    }

    fn trim_copies(
        &self,
        copies: &[(Serial, NodeId)],
        live: &LiveNodes,
    ) -> Result<Vec<bool>, CatalogError> {
        let mut model = self.model();
        Ok(copies.iter().map(|&(serial, node)| model.trim(serial, node, live)).collect())
    }

    fn expire_versions(
        &self,
        before: WallTime,
        now: WallTime,
        limit: usize,
    ) -> Result<Collected, CatalogError> {
        Ok(self.model().expire(before, now, limit))
    }

    fn collect(
        &self,
        after: Option<Serial>,
        now: WallTime,
        limit: usize,
    ) -> Result<Collected, CatalogError> {
        Ok(self.model().collect(after, now, limit))
    }

    fn condemned_on(
        &self,
        node: NodeId,
        after: Option<Serial>,
        with_unknown: bool,
        now: WallTime,
        limit: usize,
    ) -> Result<Vec<CondemnedCopy>, CatalogError> {
        Ok(self.model().condemned_on(node, after, with_unknown, now, limit))
    }

    fn deleted_copies(&self, node: NodeId, serials: &[Serial]) -> Result<(), CatalogError> {
        let mut model = self.model();
        model.condemned.retain(|(on, serial), mark| {
            *on != node || !serials.contains(serial) || !mark.was_named()
        });
        Ok(())
    }

    fn condemned_holders(&self, serials: &[Serial]) -> Result<Vec<(Serial, NodeId)>, CatalogError> {
        let model = self.model();
        let holders = |serial: &Serial| {
            let condemned = model.condemned.keys().filter(|(_, other)| other == serial);
            condemned.map(|(node, serial)| (*serial, *node)).collect::<Vec<_>>()
        };
        Ok(serials.iter().flat_map(holders).collect())
    }

    fn condemned_totals(&self) -> Result<CondemnedTotals, CatalogError> {
        let model = self.model();
        let is_unknown = |mark: &&Mark| !mark.is_final();
        Ok(CondemnedTotals {
            copies: model.condemned.len() as u64,
            unknown: model.condemned.values().filter(is_unknown).count() as u64,
        })
    }

    fn strip_node(
        &self,
        node: NodeId,
        after: Option<Serial>,
        limit: usize,
    ) -> Result<(Vec<ChunkRecord>, Option<Serial>), CatalogError> {
        Ok(self.model().strip(node, after, limit))
    }

    fn stage_part(
        &self,
        account: AccountId,
        upload: RequestId,
        part: u32,
        chunks: &[ChunkId],
        now: WallTime,
    ) -> Result<(), CatalogError> {
        self.change(|model| model.stage(account, upload, part, chunks, now))
    }

    fn commit_files(
        &self,
        account: AccountId,
        request: RequestId,
        now: WallTime,
        live: &LiveNodes,
        files: &[NewFile],
    ) -> Result<Vec<Result<Committed, Refusal>>, CatalogError> {
        self.change(|model| match model.answered(account, request, now)? {
            Some(Answer::Committed(answers)) => Ok(answers),
            Some(_) => Err(Refusal::RequestReused(request)),
            None => {
                let has_left = |node: &NodeId| {
                    let mut nodes = model.nodes.iter();
                    nodes.any(|known| known.id == *node && known.standing == Standing::Left)
                };
                let live = live.iter().copied().filter(|node| !has_left(node)).collect();
                let mut commit =
                    |file| model.whole(|model| model.commit(account, now, &live, file));
                let answers: Vec<_> = files.iter().map(&mut commit).collect();
                if answers.iter().any(Result::is_ok) {
                    model.keep(account, request, now, Answer::Committed(answers.clone()));
                }
                Ok(answers)
            }
        })
    }

    fn make_directory(
        &self,
        account: AccountId,
        request: RequestId,
        now: WallTime,
        path: &RemotePath,
        parents: bool,
    ) -> Result<(), CatalogError> {
        self.once(
            (account, request, now),
            |model| model.make_directory(account, path, parents),
            |()| Answer::Made,
            |answer| matches!(answer, Answer::Made).then_some(()),
        )
    }

    fn move_entry(
        &self,
        account: AccountId,
        request: RequestId,
        now: WallTime,
        from: &RemotePath,
        to: &RemotePath,
        replace: bool,
    ) -> Result<(), CatalogError> {
        self.once(
            (account, request, now),
            |model| model.move_entry(account, now, from, to, replace),
            |()| Answer::Moved,
            |answer| matches!(answer, Answer::Moved).then_some(()),
        )
    }

    fn remove_entry(
        &self,
        account: AccountId,
        request: RequestId,
        now: WallTime,
        path: &RemotePath,
        recursive: bool,
        if_version: Option<Version>,
        purge: bool,
    ) -> Result<u64, CatalogError> {
        self.once(
            (account, request, now),
            |model| model.remove(account, now, path, recursive, if_version, purge),
            Answer::Removed,
            |answer| if let Answer::Removed(files) = answer { Some(files) } else { None },
        )
    }

    fn removed(
        &self,
        account: AccountId,
        path: &RemotePath,
        after: Option<Version>,
        limit: usize,
    ) -> Result<Vec<RemovedEntry>, CatalogError> {
        Ok(self.model().removed(account, path, after, limit))
    }

    fn undelete(
        &self,
        account: AccountId,
        request: RequestId,
        now: WallTime,
        path: &RemotePath,
        version: Option<Version>,
    ) -> Result<Version, CatalogError> {
        self.once(
            (account, request, now),
            |model| model.undelete(account, path, version),
            Answer::Undeleted,
            |answer| if let Answer::Undeleted(version) = answer { Some(version) } else { None },
        )
    }

    fn set_copies(
        &self,
        account: AccountId,
        request: RequestId,
        now: WallTime,
        path: &RemotePath,
        copies: u8,
        after: Option<u64>,
        limit: usize,
    ) -> Result<CopiesSet, CatalogError> {
        self.once(
            (account, request, now),
            |model| model.set_copies(account, path, copies, after, limit),
            Answer::CopiesSet,
            |answer| if let Answer::CopiesSet(set) = answer { Some(set) } else { None },
        )
    }

    fn seen_files(&self, after: Option<u64>, limit: usize) -> Result<Vec<SeenFile>, CatalogError> {
        Ok(self.model().seen_files(after, limit))
    }

    fn serials_of(
        &self,
        version: Version,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Serial>, CatalogError> {
        let model = self.model();
        let serials = model.versions.get(&version).map_or(&[][..], |found| &found.chunks);
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        Ok(serials.iter().skip(from).take(limit).copied().collect())
    }

    fn look_up(&self, account: AccountId, path: &RemotePath) -> Result<Entry, CatalogError> {
        Ok(self.model().look_up(account, path)?)
    }

    fn list(
        &self,
        account: AccountId,
        path: &RemotePath,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, CatalogError> {
        let mut entries = self.model().list(account, path)?;
        entries.retain(|entry| after.is_none_or(|after| entry.name.as_bytes() > after.as_bytes()));
        entries.truncate(limit);
        Ok(entries)
    }

    fn version(&self, account: AccountId, version: Version) -> Result<FileInfo, CatalogError> {
        Ok(self.model().version(account, version)?)
    }

    fn manifest(
        &self,
        account: AccountId,
        version: Version,
        from: u64,
        limit: usize,
    ) -> Result<Vec<ChunkRecord>, CatalogError> {
        let records = self.model().manifest(account, version)?;
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        Ok(records.into_iter().skip(from).take(limit).collect())
    }

    fn totals(&self) -> Result<Totals, CatalogError> {
        let model = self.model();
        let is_file = |thing: &&Thing| matches!(thing, Thing::File { .. });
        Ok(Totals {
            files: model.tree.values().filter(is_file).count() as u64,
            chunks: model.chunks.len() as u64,
            copies: model.chunks.values().map(|chunk| chunk.record.copies.len() as u64).sum(),
        })
    }
}
