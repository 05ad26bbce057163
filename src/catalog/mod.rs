//! The main server's books: accounts, names, versions, chunks, copies, nodes.
//!
//! `Catalog` is the contract; `sqlite` keeps it on disk with group commit, `memory` is the model
//! that the tests hold against it, and `contract` is the suite that both pass. It knows nothing of
//! sockets, tokens or liveness: who is alive comes in as an argument.

pub mod check;
#[cfg(test)]
mod contract;
pub mod memory;
pub mod sqlite;
pub mod types;

pub use memory::MemoryCatalog;
pub use sqlite::SqliteCatalog;
pub use types::*;

use std::time::Instant;

use crate::clock::WallTime;
use crate::ids::{
    AccountId, Address, BooksMark, ChunkId, ClusterId, Incarnation, KeyId, NodeId, RequestId,
    Secret, Serial, Version,
};
use crate::remote_path::RemotePath;

/// The books of one cluster.
///
/// Every operation is whole: it happens in one transaction or not at all. When a method that
/// changes something returns `Ok`, the change is durable, unless the method says *may be answered
/// early*: such a change is visible to every later operation at once and becomes durable together
/// with, and never after, any durable change that follows it. All operations may be repeated.
///
/// Methods block; callers are threads of their own. After a failed sync every call returns
/// `CatalogError::Failed`, and the process must stop.
#[allow(clippy::too_many_arguments)]
pub trait Catalog: Send + Sync {
    /// The cluster's id and its master secret, as drawn when the catalog was made.
    fn identity(&self) -> (ClusterId, Secret);

    /// Enters a start of the main server into the history, ends the one before it at the mark that
    /// the books have then, and moves the number sequence above
    /// every number that any earlier life of this catalog, or of a backup of it, can have given
    /// out: to `(seconds since 2020-01-01 UTC) << 20` of `now` when that is higher. It does not note
    /// the time: nobody has said yet that this clock is right.
    fn begin_incarnation(
        &self,
        incarnation: Incarnation,
        now: WallTime,
    ) -> Result<(), CatalogError>;

    /// True when a main server with this catalog once started under `incarnation`, and its books
    /// came to `mark` before the next start. So it is false for ever for a catalog that was copied
    /// during that start, where somebody saw a later mark of the catalog that it was copied from.
    fn knows_incarnation(
        &self,
        incarnation: &Incarnation,
        mark: BooksMark,
    ) -> Result<bool, CatalogError>;

    /// How far the books are, durably: it rises with each transaction that changed anything but the
    /// time that is noted.
    fn mark(&self) -> BooksMark;

    /// Waits until everything that was answered early is durable.
    fn sync(&self) -> Result<(), CatalogError>;

    /// When a change was last made durable, if any was since this catalog was opened.
    fn last_commit(&self) -> Option<Instant>;

    // Accounts and nodes.

    /// The account that this key opens, by the key's fingerprint.
    fn account_by_key(&self, fingerprint: &[u8; 32])
    -> Result<Option<AccountRecord>, CatalogError>;

    /// Makes an invite, known by its fingerprint, with which `uses` nodes may join before `expires`.
    /// One that was made already stays as it is.
    fn create_invite(
        &self,
        fingerprint: &[u8; 32],
        uses: u32,
        expires: WallTime,
    ) -> Result<(), CatalogError>;

    /// Numbers a new node and takes one use off the invite. `secret` is the fingerprint of the
    /// node's own secret. A repeat with the same invite and the same node secret gets the same
    /// number and takes nothing, even when the invite is used up or has expired since.
    /// Refused: `UnknownInvite` when it was never made, is used up or has expired.
    fn join_node(
        &self,
        invite: &[u8; 32],
        secret: &[u8; 32],
        now: WallTime,
    ) -> Result<NodeId, CatalogError>;

    /// Registers a start of a node's directory. `start.previous` are the incarnations that may be
    /// the last registered one (a crash can leave two candidates); the node's first start has none.
    /// Moves the number sequence above `start.highest_serial`, unless that is above
    /// `MAX_BELIEVED_SERIAL`: one wrong word must not use the sequence up.
    /// Refused: `UnknownNode`, `NodeLeft`, `StaleDirectory` when the last registered incarnation is
    /// neither among the previous ones nor the new one.
    fn start_node(&self, node: NodeId, start: &NodeStart) -> Result<(), CatalogError>;

    /// Notes the newest token key that a node has acknowledged. Never goes down.
    /// Refused: `UnknownNode`.
    fn set_node_key(&self, node: NodeId, key: KeyId) -> Result<(), CatalogError>;

    /// Takes the word of a person that main servers with these incarnations were earlier lives of
    /// this one, up to these marks. What is known already is passed over.
    fn adopt_incarnations(
        &self,
        incarnations: &[(Incarnation, BooksMark)],
        now: WallTime,
    ) -> Result<(), CatalogError>;

    /// Notes that it is `now`, so that a later start can tell a clock that jumped. Never goes down
    /// unless `is_confirmed`, by a person. *May be answered early.*
    fn note_time(&self, now: WallTime, is_confirmed: bool) -> Result<(), CatalogError>;

    /// The latest time that `note_time` was given; the beginning of time when it never was. No other
    /// operation notes its time, since that may be by a clock which nobody has confirmed.
    fn latest_time(&self) -> Result<WallTime, CatalogError>;

    /// Changes what was decided about a node. One that has left stays so: from then on it cannot
    /// start, no copy can be confirmed on it, and `strip_node` takes off those that it had.
    /// Refused: `UnknownNode`, `NodeLeft`.
    fn set_standing(&self, node: NodeId, standing: Standing) -> Result<(), CatalogError>;

    /// Every node that ever joined, by number.
    fn nodes(&self) -> Result<Vec<NodeRecord>, CatalogError>;

    // Chunks and copies.

    /// Gives each chunk of an account its record: a new one with a new serial where there is none,
    /// the same one again otherwise, and holds all of them for the account until `lease_until`.
    /// The wanted number of copies of a chunk never goes down by this. In the order asked.
    /// *May be answered early.* Per chunk refused: `LengthDiffers` when it is recorded, with copies
    /// or in some version, at another length (otherwise the new length replaces the old).
    fn reserve(
        &self,
        account: AccountId,
        copies: u8,
        lease_until: WallTime,
        chunks: &[(ChunkId, u32)],
    ) -> Result<Vec<Result<ChunkRecord, Refusal>>, CatalogError>;

    /// Enters copies that are durable on their nodes. A record which the catalog lacks is made
    /// from the confirmation (it was reserved, and the reservation lost in a crash), and held until
    /// `lease_until`; a repeat changes nothing. The wanted number never goes down.
    /// In the order given. *May be answered early.* Per copy refused: `UnknownNode`, `NodeLeft`;
    /// `Superseded` when the account's chunk of that id has another serial, or the serial is not
    /// below the sequence, or belongs to another chunk, or is condemned (on that node, or as a
    /// chunk); `LengthDiffers` as by `reserve`. A copy that was superseded, and of whose serial there
    /// is no chunk, is condemned as `Unreferred`, so that it is deleted.
    fn confirm_copies(
        &self,
        confirmations: &[Confirmation],
        lease_until: WallTime,
    ) -> Result<Vec<Result<ChunkRecord, Refusal>>, CatalogError>;

    /// Takes copies that a node no longer has off the record; those it never had are passed over.
    /// Returns the chunks that lost a copy, as they are now, in the order given.
    fn lose_copies(
        &self,
        node: NodeId,
        serials: &[Serial],
    ) -> Result<Vec<ChunkRecord>, CatalogError>;

    /// The copies that the catalog counts on `node`, with serials in `from..=to`, by serial, at
    /// most `limit`. For the comparison with what the node really holds.
    fn copies_on(
        &self,
        node: NodeId,
        from: Serial,
        to: Serial,
        limit: usize,
    ) -> Result<Vec<Holding>, CatalogError>;

    /// Makes the record agree with what `node` holds (verified by the node) of the serials in
    /// `from..=to`: counts what it holds and the catalog knows, takes off what it does not hold.
    /// What is held under another length or fingerprint than recorded counts as not held, and its
    /// serial as unknown. Copies found have reason 0. What is outside of the range is passed over.
    /// A copy that is condemned on the node does not count again. One whose serial is unknown is
    /// condemned as `Unknown`, due at `unknown_due`; it counts after all when it is confirmed, or
    /// found here with a serial that is known by then, before `condemned_on` has named it. One that
    /// the node does not hold any more is forgotten, unless it was named or another reason condemns
    /// it: then `deleted_copies` alone ends that.
    /// Refused: `UnknownNode`, `NodeLeft`.
    fn reconcile(
        &self,
        node: NodeId,
        from: Serial,
        to: Serial,
        held: &[Holding],
        unknown_due: WallTime,
    ) -> Result<Reconciled, CatalogError>;

    /// The account's own chunks of these ids, in the order asked; `None` for those it never
    /// stored or reserved.
    fn locate(
        &self,
        account: AccountId,
        chunks: &[ChunkId],
    ) -> Result<Vec<Option<ChunkRecord>>, CatalogError>;

    /// Chunks by serial, whoever owns them, in the order asked; those that are gone are left out.
    fn chunks(&self, serials: &[Serial]) -> Result<Vec<ChunkRecord>, CatalogError>;

    /// Chunks that some version refers to (a replaced or removed one too, until it expires) and
    /// that have fewer copies than wanted, with serials above `after`, at most `limit`, by serial.
    fn under_copied(
        &self,
        after: Option<Serial>,
        limit: usize,
    ) -> Result<Vec<ChunkRecord>, CatalogError>;

    /// All chunks by serial, those above `after`, at most `limit`. For the survey: it may miss what
    /// changes meanwhile.
    fn survey(
        &self,
        after: Option<Serial>,
        limit: usize,
    ) -> Result<Vec<SurveyedChunk>, CatalogError>;

    // Deleting. A copy is *condemned*: in one transaction it stops counting and is entered for
    // deletion on its node, and only then, after that is durable, may an order for it go out. A
    // serial that is condemned on a node cannot be confirmed there again.

    /// Condemns copies as `Surplus`, each if, in this very transaction, its chunk has at least
    /// `wanted` further copies on nodes of `live` that are `Member`s, whether or not anything refers
    /// to it, and at least one in any case. Returns for each whether it was. In the order given, so
    /// that one trim is judged after those before it.
    fn trim_copies(
        &self,
        copies: &[(Serial, NodeId)],
        live: &LiveNodes,
    ) -> Result<Vec<bool>, CatalogError>;

    /// Ends versions that were replaced or removed before `before`, the oldest first, and condemns
    /// the chunks to which nothing refers then and whose lease is over at `now`; for what was removed
    /// with `purge`, whether or not a lease holds them: an upload that relied on one is told
    /// `NotStored` at its commit, and stores it again. Looks at no more than about `limit` places of
    /// chunks; `next` is `Some` while there is more to do. A version that is partly ended cannot be
    /// read any more, and its file cannot be brought back.
    fn expire_versions(
        &self,
        before: WallTime,
        now: WallTime,
        limit: usize,
    ) -> Result<Collected, CatalogError>;

    /// Condemns, of the next `limit` chunks with serials above `after`, those to which nothing
    /// refers and whose lease is over at `now`: uploads that came to nothing. `next` is the last one
    /// that was looked at.
    fn collect(
        &self,
        after: Option<Serial>,
        now: WallTime,
        limit: usize,
    ) -> Result<Collected, CatalogError>;

    /// Copies condemned on `node` and due at `now`, with serials above `after`, by serial, at most
    /// `limit`; those condemned as `Unknown` only if `with_unknown`, or if they were named before. All
    /// of them are condemned durably, and no confirmation can take that back any more.
    fn condemned_on(
        &self,
        node: NodeId,
        after: Option<Serial>,
        with_unknown: bool,
        now: WallTime,
        limit: usize,
    ) -> Result<Vec<CondemnedCopy>, CatalogError>;

    /// The node has deleted these, durably, as `condemned_on` named them last. Those not condemned
    /// there are passed over, and so are those that the node confirmed or held in a comparison since
    /// they were named: they may have come after the others were deleted, and are named again.
    fn deleted_copies(&self, node: NodeId, serials: &[Serial]) -> Result<(), CatalogError>;

    /// The nodes on which copies of these chunks are condemned and not deleted yet: none of them can
    /// take a new copy. In the order asked, each by node.
    fn condemned_holders(&self, serials: &[Serial]) -> Result<Vec<(Serial, NodeId)>, CatalogError>;

    /// How much is condemned and not deleted; may be a moment old.
    fn condemned_totals(&self) -> Result<CondemnedTotals, CatalogError>;

    /// Takes all copies on `node` off the record, and what is condemned there; of the chunks with
    /// serials above `after` at most about `limit` are looked at. The chunks that lost one, by serial
    /// and as they are now, and where to go on.
    fn strip_node(
        &self,
        node: NodeId,
        after: Option<Serial>,
        limit: usize,
    ) -> Result<(Vec<ChunkRecord>, Option<Serial>), CatalogError>;

    // Names. A refusal that says what is missing or in the way names the first such path from the
    // root down. An answer under a request id is kept for `ANSWERS_KEPT`; an operation that was
    // refused changed nothing and is tried anew under the same id. `RequestReused` is refused where
    // the id stands for another account's operation, or for another kind of operation.

    /// Keeps a part of a manifest that is too large for one commit, under the upload's own id.
    /// Parts are numbered from 0; a part sent again replaces the one before it.
    /// It is kept for `PARTS_KEPT`. Refused: `BadManifest` for a part above `MAX_PARTS` or
    /// `MAX_PART_CHUNKS`; `NotStored` with the ids that are not this account's.
    fn stage_part(
        &self,
        account: AccountId,
        upload: RequestId,
        part: u32,
        chunks: &[ChunkId],
        now: WallTime,
    ) -> Result<(), CatalogError>;

    /// Makes new contents of files visible, each on its own: whole or not at all, in the order
    /// given. The content that a file had stays as an earlier version.
    ///
    /// Every chunk must be the account's own and be confirmed on at least `min_copies(copies)`
    /// nodes of `live` that have not left; otherwise `NotStored` with the ids (at most `MAX_NAMED_CHUNKS` of them).
    /// Also refused: `Conflict`, `NotADirectory`, `IsADirectory`, `NotFound` (no such parent),
    /// `BadManifest` (parts missing). Names are judged before chunks.
    /// When at least one file was accepted, the answers are kept under `request` and a repeat gets
    /// them again. Staged parts of accepted files are cleared.
    fn commit_files(
        &self,
        account: AccountId,
        request: RequestId,
        now: WallTime,
        live: &LiveNodes,
        files: &[NewFile],
    ) -> Result<Vec<Result<Committed, Refusal>>, CatalogError>;

    /// Makes a directory; with `parents` also those above it, and one that exists is a success.
    /// Refused: `Exists` (also for a file in its place), `NotFound`, `NotADirectory`.
    fn make_directory(
        &self,
        account: AccountId,
        request: RequestId,
        now: WallTime,
        path: &RemotePath,
        parents: bool,
    ) -> Result<(), CatalogError>;

    /// Renames a file or a directory with all below it. With `replace`, a file in the way is
    /// replaced (its versions are kept as removed ones); a directory never is. To its own name is a
    /// success that changes nothing.
    /// Refused: `NotFound`, `Exists`, `NotADirectory`, `IntoItself`, `IsADirectory` for the root,
    /// `PathTooLong` when a path below would break the limits of paths.
    fn move_entry(
        &self,
        account: AccountId,
        request: RequestId,
        now: WallTime,
        from: &RemotePath,
        to: &RemotePath,
        replace: bool,
    ) -> Result<(), CatalogError>;

    /// Removes a file, or with `recursive` a directory and all below it. The versions stay, as
    /// removed ones, until they expire; with `purge` they expire now, earlier ones of the file too,
    /// and their chunks are to be deleted at once. Returns how many files were removed.
    /// Refused: `NotFound`, `NotADirectory`, `NotEmpty`, `Conflict` (also for a directory, when a
    /// version was asked for), `IsADirectory` for the root.
    fn remove_entry(
        &self,
        account: AccountId,
        request: RequestId,
        now: WallTime,
        path: &RemotePath,
        recursive: bool,
        if_version: Option<Version>,
        purge: bool,
    ) -> Result<u64, CatalogError>;

    /// Removed files at or below a path, the latest removed first, those before the one with version
    /// `after`, at most `limit`. Nothing comes after one that is not among the removed any more.
    fn removed(
        &self,
        account: AccountId,
        path: &RemotePath,
        after: Option<Version>,
        limit: usize,
    ) -> Result<Vec<RemovedEntry>, CatalogError>;

    /// Brings a removed file back to the path at which it was removed: `version`, or the one removed
    /// last, as it was and with its earlier versions, and the directories above it. Refused:
    /// `NotFound` when it is not among the removed, `NotADirectory`, `Exists`.
    fn undelete(
        &self,
        account: AccountId,
        request: RequestId,
        now: WallTime,
        path: &RemotePath,
        version: Option<Version>,
    ) -> Result<Version, CatalogError>;

    /// Sets how many copies the current version of a file, or of all files below a directory, is to
    /// have, about `limit` places of chunks at a time but whole files, from the file after `after`
    /// on, in the order of paths (from the first when `after` is not there any more). A chunk to
    /// which nothing else refers gets just so many wanted; one that others share never less than it
    /// had.
    /// Refused: `NotFound`, `NotADirectory`.
    fn set_copies(
        &self,
        account: AccountId,
        request: RequestId,
        now: WallTime,
        path: &RemotePath,
        copies: u8,
        after: Option<u64>,
        limit: usize,
    ) -> Result<CopiesSet, CatalogError>;

    /// Every file that can be seen, of all accounts, in the order of their positions, those after
    /// `after`, at most `limit`. It may miss what changes meanwhile.
    fn seen_files(&self, after: Option<u64>, limit: usize) -> Result<Vec<SeenFile>, CatalogError>;

    /// The serials of a version's chunks from index `from` on, at most `limit`, whoever's it is;
    /// empty when it is gone.
    fn serials_of(
        &self,
        version: Version,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Serial>, CatalogError>;

    /// What stands at a path. Refused: `NotFound`, `NotADirectory` (for a component above it).
    fn look_up(&self, account: AccountId, path: &RemotePath) -> Result<Entry, CatalogError>;

    /// The entries of a directory whose names sort after `after`, by the bytes of the name, at
    /// most `limit`. Refused: `NotFound`, `NotADirectory`.
    fn list(
        &self,
        account: AccountId,
        path: &RemotePath,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, CatalogError>;

    /// What is known of a version. A replaced one is known as long as it can be read.
    /// Refused: `NotFound` when the account has no such version that is not removed.
    fn version(&self, account: AccountId, version: Version) -> Result<FileInfo, CatalogError>;

    /// The chunks of a version from index `from` on, at most `limit`, in the order of the file.
    /// A replaced version can still be read, so that a reader who pages through it comes to its end.
    /// Refused: `NotFound` when the account has no such version that is not removed.
    fn manifest(
        &self,
        account: AccountId,
        version: Version,
        from: u64,
        limit: usize,
    ) -> Result<Vec<ChunkRecord>, CatalogError>;

    /// Sums over the whole catalog, for people; may be a moment old.
    fn totals(&self) -> Result<Totals, CatalogError>;
}

/// Used by `NodeStart` and by roles that register themselves.
pub type Zone = String;

/// A start of a node's directory, as the node reports it.
#[derive(Debug, Clone)]
pub struct NodeStart {
    pub previous: Vec<Incarnation>,
    pub incarnation: Incarnation,
    pub address: Address,
    pub zone: Zone,
    pub offered_bytes: u64,
    /// The highest serial in the node's segments, if it has any.
    pub highest_serial: Option<Serial>,
}
