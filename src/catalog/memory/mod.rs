//! The catalog as a plain model: what the contract says, in the fewest words. It shares no code
//! with the engine on disk, so that a property test can hold the one against the other.

mod chunks;
mod deleting;
mod names;
mod nodes;
mod operations;
mod restoring;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use self::deleting::Mark;
use self::names::{FileVersion, Thing};
use self::restoring::Removed;
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
    made: Instant,
}

#[derive(Clone)]
struct Model {
    next: u64,
    keys: BTreeMap<[u8; 32], AccountRecord>,
    /// How far the books are.
    mark: u64,
    /// Each with the mark to which it came, unless it goes on.
    incarnations: BTreeMap<Incarnation, Option<BooksMark>>,
    latest_time: WallTime,
    invites: BTreeMap<[u8; 32], Invite>,
    /// By number, from 1.
    nodes: Vec<NodeRecord>,
    /// By invite and node secret.
    joined: BTreeMap<([u8; 32], [u8; 32]), NodeId>,
    chunks: BTreeMap<Serial, Chunk>,
    condemned: BTreeMap<(NodeId, Serial), Mark>,
    tree: BTreeMap<(AccountId, RemotePath), Thing>,
    versions: BTreeMap<Version, FileVersion>,
    /// By the version that was the current one.
    removed: BTreeMap<Version, Removed>,
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
    lease_until: WallTime,
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
    Undeleted(Version),
    CopiesSet(CopiesSet),
}

impl MemoryCatalog {
    /// An empty catalog with a first account that is an admin and opens with this key.
    pub fn new(first_account: &str, key_fingerprint: &[u8; 32]) -> MemoryCatalog {
        let account =
            AccountRecord { id: AccountId(1), name: first_account.to_string(), is_admin: true };
        let model = Model {
            next: 1,
            keys: BTreeMap::from([(*key_fingerprint, account)]),
            mark: 0,
            incarnations: BTreeMap::new(),
            latest_time: WallTime(0),
            invites: BTreeMap::new(),
            nodes: Vec::new(),
            joined: BTreeMap::new(),
            chunks: BTreeMap::new(),
            condemned: BTreeMap::new(),
            tree: BTreeMap::new(),
            versions: BTreeMap::new(),
            removed: BTreeMap::new(),
            staged: BTreeMap::new(),
            answered: BTreeMap::new(),
        };
        let (cluster, secret) = (ClusterId::random(), Secret::random());
        MemoryCatalog { cluster, secret, model: Mutex::new(model), made: Instant::now() }
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a change of names, unless it was answered before under this request id; `answer` turns
    /// what was answered then into what is asked now.
    fn once<T: Clone>(
        &self,
        (account, request, now): (AccountId, RequestId, WallTime),
        change: impl FnOnce(&mut Model) -> Result<T, Refusal>,
        keep: impl FnOnce(T) -> Answer,
        answer: impl FnOnce(Answer) -> Option<T>,
    ) -> Result<T, CatalogError> {
        self.change(|model| match model.answered(account, request, now)? {
            Some(kept) => answer(kept).ok_or(Refusal::RequestReused(request)),
            None => {
                let done = change(model)?;
                model.keep(account, request, now, keep(done.clone()));
                Ok(done)
            }
        })
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
        changed.mark += 1;
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
