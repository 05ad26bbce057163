//! The catalog as a plain model: what the contract says, in the fewest words. It shares no code
//! with the engine on disk, so that a property test can hold the one against the other.

mod chunks;
mod names;
mod nodes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use self::names::{FileVersion, Thing};
use crate::catalog::*;
use crate::clock::WallTime;
use crate::ids::*;
use crate::remote_path::RemotePath;

/// The catalog as a plain model, for tests; nothing of it is durable. Every operation holds its one
/// lock, and takes time in proportion to all that is in it.
pub struct MemoryCatalog {
    cluster: ClusterId,
    secret: Secret,
    model: Mutex<Model>,
}

#[derive(Clone)]
struct Model {
    next: u64,
    keys: BTreeMap<[u8; 32], AccountRecord>,
    incarnations: BTreeSet<Incarnation>,
    invites: BTreeMap<[u8; 32], Invite>,
    /// By number, from 1.
    nodes: Vec<NodeRecord>,
    /// By invite and node secret.
    joined: BTreeMap<([u8; 32], [u8; 32]), NodeId>,
    chunks: BTreeMap<Serial, Chunk>,
    tree: BTreeMap<(AccountId, RemotePath), Thing>,
    versions: BTreeMap<Version, FileVersion>,
    staged: BTreeMap<(AccountId, RequestId, u32), (WallTime, Vec<ChunkId>)>,
    answered: BTreeMap<RequestId, Answered>,
}

#[derive(Clone)]
struct Invite {
    uses: u32,
    expires: WallTime,
}

#[derive(Clone)]
struct Chunk {
    record: ChunkRecord,
    is_referred_to: bool,
}

#[derive(Clone)]
struct Answered {
    account: AccountId,
    at: WallTime,
    answer: Answer,
}

#[derive(Clone)]
enum Answer {
    Made,
    Moved,
    Removed(u64),
    Committed(Vec<Result<Committed, Refusal>>),
}

impl MemoryCatalog {
    /// An empty catalog with a first account that is an admin and opens with this key.
    pub fn new(first_account: &str, key_fingerprint: &[u8; 32]) -> MemoryCatalog {
        let account =
            AccountRecord { id: AccountId(1), name: first_account.to_string(), is_admin: true };
        let model = Model {
            next: 1,
            keys: BTreeMap::from([(*key_fingerprint, account)]),
            incarnations: BTreeSet::new(),
            invites: BTreeMap::new(),
            nodes: Vec::new(),
            joined: BTreeMap::new(),
            chunks: BTreeMap::new(),
            tree: BTreeMap::new(),
            versions: BTreeMap::new(),
            staged: BTreeMap::new(),
            answered: BTreeMap::new(),
        };
        let (cluster, secret) = (ClusterId::random(), Secret::random());
        MemoryCatalog { cluster, secret, model: Mutex::new(model) }
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a change that leaves nothing behind when it is refused.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Model) -> Result<T, Refusal>,
    ) -> Result<T, CatalogError> {
        Ok(self.model().whole(change)?)
    }
}

impl Model {
    fn draw(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    fn whole<T>(
        &mut self,
        change: impl FnOnce(&mut Model) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mut changed = self.clone();
        let answer = change(&mut changed)?;
        *self = changed;
        Ok(answer)
    }

    /// The answer that is kept under a request id, if one is.
    fn answered(
        &self,
        account: AccountId,
        request: RequestId,
        now: WallTime,
    ) -> Result<Option<Answer>, Refusal> {
        match self.answered.get(&request) {
            Some(kept) if now >= kept.at + ANSWERS_KEPT => Ok(None),
            Some(kept) if kept.account != account => Err(Refusal::RequestReused(request)),
            kept => Ok(kept.map(|kept| kept.answer.clone())),
        }
    }

    fn keep(&mut self, account: AccountId, request: RequestId, at: WallTime, answer: Answer) {
        self.answered.insert(request, Answered { account, at, answer });
    }
}

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
        model.incarnations.insert(incarnation);
        let by_clock = (now.0 / 1000).saturating_sub(1_577_836_800).saturating_mul(1 << 20);
        model.next = model.next.max(by_clock.min(MAX_BELIEVED_SERIAL.0));
        Ok(())
    }

    fn knows_incarnation(&self, incarnation: &Incarnation) -> Result<bool, CatalogError> {
        Ok(self.model().incarnations.contains(incarnation))
    }

    fn sync(&self) -> Result<(), CatalogError> {
        Ok(())
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
        self.model().invites.entry(*fingerprint).or_insert(Invite { uses, expires });
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

    fn nodes(&self) -> Result<Vec<NodeRecord>, CatalogError> {
        Ok(self.model().nodes.clone())
    }

    fn reserve(
        &self,
        account: AccountId,
        copies: u8,
        _lease_until: WallTime,
        chunks: &[(ChunkId, u32)],
    ) -> Result<Vec<Result<ChunkRecord, Refusal>>, CatalogError> {
        let mut model = self.model();
        Ok(chunks.iter().map(|&(id, length)| model.reserve(account, copies, id, length)).collect())
    }

    fn confirm_copies(
        &self,
        confirmations: &[Confirmation],
        _lease_until: WallTime,
    ) -> Result<Vec<Result<ChunkRecord, Refusal>>, CatalogError> {
        let mut model = self.model();
        Ok(confirmations.iter().map(|said| model.confirm(said)).collect())
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
        _unknown_due: WallTime,
    ) -> Result<Reconciled, CatalogError> {
        self.change(|model| model.reconcile(node, from, to, held))
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
            chunk.is_referred_to
                && record.copies.len() < record.wanted.into()
                && Some(record.serial) > after
        };
        let wanting = model.chunks.values().filter(is_wanting);
        Ok(wanting.take(limit).map(|chunk| chunk.record.clone()).collect())
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
                let mut commit = |file| model.whole(|model| model.commit(account, now, live, file));
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
        self.change(|model| match model.answered(account, request, now)? {
            Some(Answer::Made) => Ok(()),
            Some(_) => Err(Refusal::RequestReused(request)),
            None => {
                model.make_directory(account, path, parents)?;
                model.keep(account, request, now, Answer::Made);
                Ok(())
            }
        })
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
        self.change(|model| match model.answered(account, request, now)? {
            Some(Answer::Moved) => Ok(()),
            Some(_) => Err(Refusal::RequestReused(request)),
            None => {
                model.move_entry(account, from, to, replace)?;
                model.keep(account, request, now, Answer::Moved);
                Ok(())
            }
        })
    }

    fn remove_entry(
        &self,
        account: AccountId,
        request: RequestId,
        now: WallTime,
        path: &RemotePath,
        recursive: bool,
        if_version: Option<Version>,
        _purge: bool,
    ) -> Result<u64, CatalogError> {
        self.change(|model| match model.answered(account, request, now)? {
            Some(Answer::Removed(count)) => Ok(count),
            Some(_) => Err(Refusal::RequestReused(request)),
            None => {
                let count = model.remove(account, path, recursive, if_version)?;
                model.keep(account, request, now, Answer::Removed(count));
                Ok(count)
            }
        })
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
