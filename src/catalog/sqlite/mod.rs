//! The catalog on disk.
#![allow(unused_variables)]
use crate::catalog::*;
use crate::clock::WallTime;
use crate::ids::*;
use crate::remote_path::RemotePath;
use crossbeam_channel::Receiver;
use std::path::Path;
/// The catalog in an embedded SQLite, with group commit.
pub struct SqliteCatalog {}
impl SqliteCatalog {
    /// Makes a catalog in `dir`, with a first account that is an admin and opens with this key.
    /// Refused: `AlreadyThere`, `Locked`.
    pub fn create(
        dir: &Path,
        first_account: &str,
        key_fingerprint: &[u8; 32],
    ) -> Result<SqliteCatalog, CatalogError> {
        todo!()
    }
    /// Opens the catalog in `dir`. Refused: `Missing`, `Locked`, `Format`, `Damaged`.
    pub fn open(dir: &Path) -> Result<SqliteCatalog, CatalogError> {
        todo!()
    }
    /// Gets the reason, once, when a write or a sync has failed and the process must stop.
    pub fn failures(&self) -> Receiver<String> {
        todo!()
    }
}
impl Catalog for SqliteCatalog {
    fn identity(&self) -> (ClusterId, Secret) {
        todo!()
    }
    fn begin_incarnation(
        &self,
        incarnation: Incarnation,
        now: WallTime,
    ) -> Result<(), CatalogError> {
        todo!()
    }
    fn knows_incarnation(&self, incarnation: &Incarnation) -> Result<bool, CatalogError> {
        todo!()
    }
    fn sync(&self) -> Result<(), CatalogError> {
        todo!()
    }
    fn account_by_key(
        &self,
        fingerprint: &[u8; 32],
    ) -> Result<Option<AccountRecord>, CatalogError> {
        todo!()
    }
    fn create_invite(
        &self,
        fingerprint: &[u8; 32],
        uses: u32,
        expires: WallTime,
    ) -> Result<(), CatalogError> {
        todo!()
    }
    fn join_node(
        &self,
        invite: &[u8; 32],
        secret: &[u8; 32],
        now: WallTime,
    ) -> Result<NodeId, CatalogError> {
        todo!()
    }
    fn start_node(&self, node: NodeId, start: &NodeStart) -> Result<(), CatalogError> {
        todo!()
    }
    fn set_node_key(&self, node: NodeId, key: KeyId) -> Result<(), CatalogError> {
        todo!()
    }
    fn nodes(&self) -> Result<Vec<NodeRecord>, CatalogError> {
        todo!()
    }
    fn reserve(
        &self,
        account: AccountId,
        copies: u8,
        lease_until: WallTime,
        chunks: &[(ChunkId, u32)],
    ) -> Result<Vec<Result<ChunkRecord, Refusal>>, CatalogError> {
        todo!()
    }
    fn confirm_copies(
        &self,
        confirmations: &[Confirmation],
    ) -> Result<Vec<Result<ChunkRecord, Refusal>>, CatalogError> {
        todo!()
    }
    fn lose_copies(
        &self,
        node: NodeId,
        serials: &[Serial],
    ) -> Result<Vec<ChunkRecord>, CatalogError> {
        todo!()
    }
    fn copies_on(
        &self,
        node: NodeId,
        from: Serial,
        to: Serial,
        limit: usize,
    ) -> Result<Vec<Holding>, CatalogError> {
        todo!()
    }
    fn reconcile(
        &self,
        node: NodeId,
        from: Serial,
        to: Serial,
        held: &[Holding],
    ) -> Result<Reconciled, CatalogError> {
        todo!()
    }
    fn locate(
        &self,
        account: AccountId,
        chunks: &[ChunkId],
    ) -> Result<Vec<Option<ChunkRecord>>, CatalogError> {
        todo!()
    }
    fn chunks(&self, serials: &[Serial]) -> Result<Vec<ChunkRecord>, CatalogError> {
        todo!()
    }
    fn under_copied(
        &self,
        after: Option<Serial>,
        limit: usize,
    ) -> Result<Vec<ChunkRecord>, CatalogError> {
        todo!()
    }
    fn stage_part(
        &self,
        account: AccountId,
        upload: RequestId,
        part: u32,
        chunks: &[ChunkId],
        now: WallTime,
    ) -> Result<(), CatalogError> {
        todo!()
    }
    fn commit_files(
        &self,
        account: AccountId,
        request: RequestId,
        now: WallTime,
        live: &LiveNodes,
        files: &[NewFile],
    ) -> Result<Vec<Result<Committed, Refusal>>, CatalogError> {
        todo!()
    }
    fn make_directory(
        &self,
        account: AccountId,
        request: RequestId,
        now: WallTime,
        path: &RemotePath,
        parents: bool,
    ) -> Result<(), CatalogError> {
        todo!()
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
        todo!()
    }
    fn remove_entry(
        &self,
        account: AccountId,
        request: RequestId,
        now: WallTime,
        path: &RemotePath,
        recursive: bool,
        if_version: Option<Version>,
    ) -> Result<u64, CatalogError> {
        todo!()
    }
    fn look_up(&self, account: AccountId, path: &RemotePath) -> Result<Entry, CatalogError> {
        todo!()
    }
    fn list(
        &self,
        account: AccountId,
        path: &RemotePath,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, CatalogError> {
        todo!()
    }
    fn manifest(
        &self,
        account: AccountId,
        version: Version,
        from: u64,
        limit: usize,
    ) -> Result<Vec<ChunkRecord>, CatalogError> {
        todo!()
    }
    fn totals(&self) -> Result<Totals, CatalogError> {
        todo!()
    }
}
