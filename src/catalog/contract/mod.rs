//! What the doc of `Catalog` promises, clause by clause, held against every implementation.

mod chunks;
mod commits;
mod deleting;
mod journal;
mod names;
mod nodes;
mod property;
mod restoring;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;

use crate::catalog::*;
use crate::clock::WallTime;
use crate::ids::*;
use crate::remote_path::RemotePath;

pub(super) const ADMIN_KEY: [u8; 32] = [7; 32];
/// The first account, and one that is not it.
pub(super) const A: AccountId = AccountId(1);
pub(super) const B: AccountId = AccountId(2);
pub(super) const N1: NodeId = NodeId(1);
pub(super) const N2: NodeId = NodeId(2);
pub(super) const N3: NodeId = NodeId(3);
pub(super) const NOW: WallTime = WallTime(1_800_000_000_000);
pub(super) const LATER: WallTime = WallTime(NOW.0 + 3_600_000);

/// A catalog under test, with three nodes that have joined, and the words that tests use.
pub(super) struct Desk {
    pub catalog: Box<dyn Catalog>,
    requests: AtomicU64,
    _dir: Option<TempDir>,
}

/// Runs the test on each implementation in turn.
pub(super) fn on_each(test: impl Fn(&Desk)) {
    println!("on the model:");
    test(&Desk::new(Box::new(MemoryCatalog::new("admin", &ADMIN_KEY)), None));
    println!("on SQLite:");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let catalog = SqliteCatalog::create(dir.path(), "admin", &ADMIN_KEY).expect("a new catalog");
    test(&Desk::new(Box::new(catalog), Some(dir)));
}

impl Desk {
    pub(super) fn new(catalog: Box<dyn Catalog>, dir: Option<TempDir>) -> Desk {
        join_nodes(&*catalog);
        Desk { catalog, requests: AtomicU64::new(0), _dir: dir }
    }

    /// A request id that was not used before.
    pub(super) fn request(&self) -> RequestId {
        request(1000 + self.requests.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn reserve(&self, account: AccountId, id: ChunkId) -> ChunkRecord {
        let answers = self.catalog.reserve(account, 3, LATER, &[(id, LENGTH)]);
        answers.expect("an answer").remove(0).expect("reserved")
    }

    /// Reserves a chunk and confirms it on these nodes.
    pub(super) fn store(&self, account: AccountId, id: ChunkId, nodes: &[NodeId]) -> ChunkRecord {
        let mut record = self.reserve(account, id);
        for node in nodes {
            record = self.confirm(&confirmation(&record, *node)).expect("confirmed");
        }
        record
    }

    pub(super) fn confirm(&self, confirmation: &Confirmation) -> Result<ChunkRecord, Refusal> {
        let answers = self.catalog.confirm_copies(std::slice::from_ref(confirmation), LATER);
        answers.expect("an answer").remove(0)
    }

    pub(super) fn commit(&self, account: AccountId, file: NewFile) -> Result<Committed, Refusal> {
        let answers =
            self.catalog.commit_files(account, self.request(), NOW, &live(&[1, 2, 3]), &[file]);
        answers.expect("an answer").remove(0)
    }

    /// Makes a file of one chunk, on two nodes, with the directories above it.
    pub(super) fn put(&self, path: &str, id: ChunkId) -> Committed {
        self.store(A, id, &[N1, N2]);
        self.commit(A, file(path, &[id])).expect("committed")
    }

    pub(super) fn mkdir(&self, at: &str, parents: bool) -> Result<(), Refusal> {
        refusal(self.catalog.make_directory(A, self.request(), NOW, &path(at), parents))
    }

    pub(super) fn mv(&self, from: &str, to: &str, replace: bool) -> Result<(), Refusal> {
        let (from, to) = (path(from), path(to));
        refusal(self.catalog.move_entry(A, self.request(), NOW, &from, &to, replace))
    }

    pub(super) fn rm(&self, at: &str, recursive: bool) -> Result<u64, Refusal> {
        refusal(self.catalog.remove_entry(
            A,
            self.request(),
            NOW,
            &path(at),
            recursive,
            None,
            false,
        ))
    }

    pub(super) fn entry(&self, at: &str) -> Result<EntryKind, Refusal> {
        refusal(self.catalog.look_up(A, &path(at))).map(|entry| entry.kind)
    }

    pub(super) fn version(&self, at: &str) -> Version {
        match self.entry(at) {
            Ok(EntryKind::File(info)) => info.version,
            other => panic!("{at} is no file but {other:?}"),
        }
    }

    pub(super) fn ls(&self, at: &str) -> Vec<String> {
        let entries = self.catalog.list(A, &path(at), None, 1000).expect("a directory");
        entries.into_iter().map(|entry| entry.name).collect()
    }

    pub(super) fn chunk(&self, serial: Serial) -> ChunkRecord {
        self.catalog.chunks(&[serial]).expect("an answer").remove(0)
    }
}

/// Has three nodes join.
pub(super) fn join_nodes(catalog: &dyn Catalog) {
    catalog.create_invite(&[9; 32], 3, LATER).expect("an invite");
    for node in 1..=3 {
        let joined = catalog.join_node(&[9; 32], &[node; 32], NOW).expect("a node");
        assert_eq!(joined, NodeId(node.into()));
    }
}

pub(super) const LENGTH: u32 = 1000;

pub(super) fn request(number: u64) -> RequestId {
    RequestId::from_bytes(u128::from(number).to_be_bytes())
}

pub(super) fn id(number: u32) -> ChunkId {
    ChunkId::of(HashAlgorithm::Blake3, &number.to_be_bytes())
}

pub(super) fn path(text: &str) -> RemotePath {
    text.parse().expect("a good path")
}

pub(super) fn live(nodes: &[u32]) -> LiveNodes {
    nodes.iter().map(|node| NodeId(*node)).collect::<BTreeSet<_>>()
}

/// A file with anything at its path before, and directories made above it.
pub(super) fn file(at: &str, chunks: &[ChunkId]) -> NewFile {
    NewFile {
        path: path(at),
        manifest: Manifest::Inline(chunks.to_vec()),
        copies: 3,
        mtime_ms: -5,
        executable: true,
        condition: Condition::Any,
        parents: true,
    }
}

pub(super) fn confirmation(record: &ChunkRecord, node: NodeId) -> Confirmation {
    Confirmation {
        account: record.account,
        id: record.id,
        serial: record.serial,
        length: record.length,
        wanted: record.wanted,
        node,
        reason: 4,
    }
}

/// The refusal of a catalog that is well.
pub(super) fn refusal<T>(result: Result<T, CatalogError>) -> Result<T, Refusal> {
    result.map_err(|error| match error {
        CatalogError::Refused(refusal) => refusal,
        other => panic!("the catalog is not well: {other:?}"),
    })
}
