//! The catalog's operations: which of them write, which read, and on what.

use std::time::Instant;

use super::requests::Request;
use super::writer::Kind;
use super::{
    SqliteCatalog, chunks, commit, condemned, copies, expiry, inventory, names, nodes, removed,
    survey, tree,
};
use crate::catalog::*;
use crate::clock::WallTime;
use crate::ids::*;
use crate::remote_path::RemotePath;

impl Catalog for SqliteCatalog {
    fn identity(&self) -> (ClusterId, Secret) {
        (self.cluster, self.secret)
    }

    fn begin_incarnation(
        &self,
        incarnation: Incarnation,
        now: WallTime,
    ) -> Result<(), CatalogError> {
        self.change("enter a start", move |b| nodes::begin_incarnation(b, incarnation, now))
    }

    fn knows_incarnation(
        &self,
        incarnation: &Incarnation,
        mark: BooksMark,
    ) -> Result<bool, CatalogError> {
        self.read("look up a start", |conn| nodes::knows_incarnation(conn, incarnation, mark))
    }

    fn mark(&self) -> BooksMark {
        BooksMark(self.writer.mark())
    }

    fn sync(&self) -> Result<(), CatalogError> {
        self.change("sync", |_| Ok(()))
    }

    fn last_commit(&self) -> Option<Instant> {
        self.writer.last_commit()
    }

    fn account_by_key(
        &self,
        fingerprint: &[u8; 32],
    ) -> Result<Option<AccountRecord>, CatalogError> {
        self.read("look up a key", |conn| nodes::account_by_key(conn, fingerprint))
    }

    fn create_invite(
        &self,
        fingerprint: &[u8; 32],
        uses: u32,
        expires: WallTime,
    ) -> Result<(), CatalogError> {
        let fingerprint = *fingerprint;
        self.change("enter an invite", move |b| {
            nodes::create_invite(b, &fingerprint, uses, expires)
        })
    }

    fn join_node(
        &self,
        invite: &[u8; 32],
        secret: &[u8; 32],
        now: WallTime,
    ) -> Result<NodeId, CatalogError> {
        let (invite, secret) = (*invite, *secret);
        self.change("enter a node", move |b| nodes::join_node(b, &invite, &secret, now))
    }

    fn start_node(&self, node: NodeId, start: &NodeStart) -> Result<(), CatalogError> {
        let start = start.clone();
        self.change("enter a node's start", move |b| nodes::start_node(b, node, &start))
    }

    fn set_node_key(&self, node: NodeId, key: KeyId) -> Result<(), CatalogError> {
        self.change("enter a node's key", move |b| nodes::set_node_key(b, node, key))
    }

    fn adopt_incarnations(
        &self,
        incarnations: &[(Incarnation, BooksMark)],
        now: WallTime,
    ) -> Result<(), CatalogError> {
        let incarnations = incarnations.to_vec();
        self.change("enter earlier starts", move |b| {
            incarnations.iter().try_for_each(|one| nodes::adopt_incarnation(b, *one, now))
        })
    }

    fn note_time(&self, now: WallTime, is_confirmed: bool) -> Result<(), CatalogError> {
        self.writer
            .submit(Kind::Early, "note the time", move |b| nodes::note_time(b, now, is_confirmed))
    }

    fn latest_time(&self) -> Result<WallTime, CatalogError> {
        self.read_latest("read the time", nodes::latest_time)
    }

    fn set_standing(&self, node: NodeId, standing: Standing) -> Result<(), CatalogError> {
        self.change("enter a node's standing", move |b| nodes::set_standing(b, node, standing))
    }

    fn nodes(&self) -> Result<Vec<NodeRecord>, CatalogError> {
        self.read("list nodes", nodes::nodes)
    }

    fn reserve(
        &self,
        account: AccountId,
        copies: u8,
        lease_until: WallTime,
        chunks: &[(ChunkId, u32)],
    ) -> Result<Vec<Result<ChunkRecord, Refusal>>, CatalogError> {
        let chunks = chunks.to_vec();
        self.writer.submit(Kind::Early, "reserve chunks", move |b| {
            chunks::reserve(b, account, copies, lease_until, &chunks)
        })
    }

    fn confirm_copies(
        &self,
        confirmations: &[Confirmation],
        lease_until: WallTime,
    ) -> Result<Vec<Result<ChunkRecord, Refusal>>, CatalogError> {
        let confirmations = confirmations.to_vec();
        self.writer.submit(Kind::Early, "enter copies", move |b| {
            chunks::confirm_copies(b, &confirmations, lease_until)
        })
    }

    fn lose_copies(
        &self,
        node: NodeId,
        serials: &[Serial],
    ) -> Result<Vec<ChunkRecord>, CatalogError> {
        let serials = serials.to_vec();
        self.change("take copies off", move |b| chunks::lose_copies(b, node, &serials))
    }

    fn copies_on(
        &self,
        node: NodeId,
        from: Serial,
        to: Serial,
        limit: usize,
    ) -> Result<Vec<Holding>, CatalogError> {
        self.scan("list copies", |conn| inventory::copies_on(conn, node, from, to, limit))
    }

    fn reconcile(
        &self,
        node: NodeId,
        from: Serial,
        to: Serial,
        held: &[Holding],
        unknown_due: WallTime,
    ) -> Result<Reconciled, CatalogError> {
        let held = held.to_vec();
        self.change("compare copies", move |b| {
            inventory::reconcile(b, node, from, to, &held, unknown_due)
        })
    }

    fn locate(
        &self,
        account: AccountId,
        chunks: &[ChunkId],
    ) -> Result<Vec<Option<ChunkRecord>>, CatalogError> {
        let chunks = chunks.to_vec();
        self.read_latest("locate chunks", move |conn| chunks::locate(conn, account, &chunks))
    }

    fn chunks(&self, serials: &[Serial]) -> Result<Vec<ChunkRecord>, CatalogError> {
        let serials = serials.to_vec();
        self.read_latest("look up chunks", move |conn| chunks::chunks(conn, &serials))
    }

    fn under_copied(
        &self,
        after: Option<Serial>,
        limit: usize,
    ) -> Result<Vec<ChunkRecord>, CatalogError> {
        self.scan("list chunks to repair", |conn| chunks::under_copied(conn, after, limit))
    }

    fn survey(
        &self,
        after: Option<Serial>,
        limit: usize,
    ) -> Result<Vec<SurveyedChunk>, CatalogError> {
        self.pass("survey chunks", |conn| survey::chunks(conn, after, limit))
    }

    fn trim_copies(
        &self,
        copies: &[(Serial, NodeId)],
        live: &LiveNodes,
    ) -> Result<Vec<bool>, CatalogError> {
        let (copies, live) = (copies.to_vec(), live.clone());
        self.change("trim copies", move |b| condemned::trim_copies(b, &copies, &live))
    }

    fn expire_versions(
        &self,
        before: WallTime,
        now: WallTime,
        limit: usize,
    ) -> Result<Collected, CatalogError> {
        self.change("end versions", move |b| expiry::expire_versions(b, before, now, limit))
    }

    fn collect(
        &self,
        after: Option<Serial>,
        now: WallTime,
        limit: usize,
    ) -> Result<Collected, CatalogError> {
        // Looking keeps a reader busy; the writer judges again what was found.
        let (found, next) = self.scan("look for chunks without a file", |conn| {
            expiry::unreferred(conn, after, now, limit)
        })?;
        let collected = match found.is_empty() {
            true => Collected::default(),
            false => self.change("collect chunks", move |b| expiry::collect(b, &found, now))?,
        };
        Ok(Collected { next, ..collected })
    }

    fn condemned_on(
        &self,
        node: NodeId,
        after: Option<Serial>,
        with_unknown: bool,
        now: WallTime,
        limit: usize,
    ) -> Result<Vec<CondemnedCopy>, CatalogError> {
        // A reader sees only what is durable.
        let due = self.scan("list condemned copies", |conn| {
            condemned::due(conn, node, after, with_unknown, now, limit)
        })?;
        if due.iter().all(|copy| copy.is_named) {
            return Ok(due.into_iter().map(|copy| copy.copy).collect());
        }
        self.change("condemn copies for good", move |b| condemned::make_final(b, node, &due, now))
    }

    fn deleted_copies(&self, node: NodeId, serials: &[Serial]) -> Result<(), CatalogError> {
        let serials = serials.to_vec();
        self.change("forget deleted copies", move |b| {
            serials.iter().try_for_each(|serial| condemned::deleted(b, node, *serial))
        })
    }

    fn condemned_holders(&self, serials: &[Serial]) -> Result<Vec<(Serial, NodeId)>, CatalogError> {
        let serials = serials.to_vec();
        self.read_latest("look up condemned copies", move |conn| condemned::holders(conn, &serials))
    }

    fn condemned_totals(&self) -> Result<CondemnedTotals, CatalogError> {
        self.read("sum up condemned copies", survey::condemned_totals)
    }

    fn strip_node(
        &self,
        node: NodeId,
        after: Option<Serial>,
        limit: usize,
    ) -> Result<(Vec<ChunkRecord>, Option<Serial>), CatalogError> {
        // As `collect`. What is confirmed meanwhile is not on a node that has left.
        let (found, next) = self.scan("look for a node's copies", |conn| {
            inventory::page_of(conn, node, after, limit)
        })?;
        let lost =
            self.change("strip a node", move |b| inventory::strip(b, node, after, next, &found))?;
        Ok((lost, next))
    }

    fn stage_part(
        &self,
        account: AccountId,
        upload: RequestId,
        part: u32,
        chunks: &[ChunkId],
        now: WallTime,
    ) -> Result<(), CatalogError> {
        let chunks = chunks.to_vec();
        self.change("stage a part", move |b| {
            commit::stage_part(b, account, upload, part, &chunks, now)
        })
    }

    fn commit_files(
        &self,
        account: AccountId,
        request: RequestId,
        now: WallTime,
        live: &LiveNodes,
        files: &[NewFile],
    ) -> Result<Vec<Result<Committed, Refusal>>, CatalogError> {
        let (live, files) = (live.clone(), files.to_vec());
        self.request(
            Request { account, id: request, kind: "commit", now },
            move |b| commit::commit_files(b, account, now, &live, &files),
            |answers| answers.iter().any(Result::is_ok),
        )
    }

    fn make_directory(
        &self,
        account: AccountId,
        request: RequestId,
        now: WallTime,
        path: &RemotePath,
        parents: bool,
    ) -> Result<(), CatalogError> {
        let path = path.clone();
        self.request(
            Request { account, id: request, kind: "mkdir", now },
            move |b| tree::make_directory(b, account, &path, parents),
            |()| true,
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
        // A directory can have much below it, which the writer should not have to walk through.
        let extent = match tree::grows(from, to) {
            true => self.read("measure a tree", |conn| tree::extent(conn, account, from))?,
            false => tree::Extent::default(),
        };
        let (from, to) = (from.clone(), to.clone());
        self.request(
            Request { account, id: request, kind: "move", now },
            move |b| tree::move_entry(b, account, now, &from, &to, replace, extent),
            |()| true,
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
        let path = path.clone();
        self.request(
            Request { account, id: request, kind: "remove", now },
            move |b| tree::remove_entry(b, account, now, &path, recursive, if_version, purge),
            |_| true,
        )
    }

    fn removed(
        &self,
        account: AccountId,
        path: &RemotePath,
        after: Option<Version>,
        limit: usize,
    ) -> Result<Vec<RemovedEntry>, CatalogError> {
        self.read("list removed files", |conn| removed::list(conn, account, path, after, limit))
    }

    fn undelete(
        &self,
        account: AccountId,
        request: RequestId,
        now: WallTime,
        path: &RemotePath,
        version: Option<Version>,
    ) -> Result<Version, CatalogError> {
        let path = path.clone();
        self.request(
            Request { account, id: request, kind: "undelete", now },
            move |b| removed::undelete(b, account, &path, version),
            |_| true,
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
        let path = path.clone();
        self.request(
            Request { account, id: request, kind: "copies", now },
            move |b| copies::set_copies(b, account, &path, copies, after, limit),
            |_| true,
        )
    }

    fn seen_files(&self, after: Option<u64>, limit: usize) -> Result<Vec<SeenFile>, CatalogError> {
        self.pass("list all files", |conn| survey::seen_files(conn, after, limit))
    }

    fn serials_of(
        &self,
        version: Version,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Serial>, CatalogError> {
        self.pass("read a manifest", |conn| names::serials_of(conn, version, from, limit))
    }

    fn look_up(&self, account: AccountId, path: &RemotePath) -> Result<Entry, CatalogError> {
        self.read_hot(
            |hot, epoch| hot.name(epoch, account, path),
            || self.read("look a name up", |conn| names::look_up(conn, account, path)),
            |hot, epoch, entry| hot.keep_name(epoch, account, path, entry),
        )
    }

    fn list(
        &self,
        account: AccountId,
        path: &RemotePath,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, CatalogError> {
        self.read("list a directory", |conn| names::list(conn, account, path, after, limit))
    }

    fn version(&self, account: AccountId, version: Version) -> Result<FileInfo, CatalogError> {
        self.read_latest("look up a version", move |conn| {
            names::version_info(conn, account, version)
        })
    }

    fn manifest(
        &self,
        account: AccountId,
        version: Version,
        from: u64,
        limit: usize,
    ) -> Result<Vec<ChunkRecord>, CatalogError> {
        let read = move || {
            self.read_latest("read a manifest", move |conn| {
                names::manifest(conn, account, version, from, limit)
            })
        };
        if from > 0 {
            return read();
        }
        let of = (account, version);
        self.read_hot(
            |hot, epoch| hot.manifest(epoch, of).filter(|chunks| chunks.len() <= limit),
            read,
            |hot, epoch, chunks| {
                // As many as were asked for may not be all.
                if chunks.len() < limit {
                    hot.keep_manifest(epoch, of, chunks);
                }
            },
        )
    }

    fn totals(&self) -> Result<Totals, CatalogError> {
        self.read("sum up", survey::totals)
    }
}
