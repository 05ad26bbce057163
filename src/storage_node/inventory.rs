//! The comparison of what is held here with what the main server's books say: by bucketed digests, and
//! by lists where these differ. After a start of either side, and whenever copies are held of which
//! the main server may not know.

use crate::ids::Serial;
use crate::policy::inventory::{bucket_of, digest, serials_of};
use crate::segments::{Held, Store};
use crate::wire::node_to_main::{
    BUCKET_SERIALS, BucketDigest, Compared, HeldChunk, Holdings, Inventory, InventoryReply,
    MAX_HOLDINGS,
};
use crate::wire::{CallError, Connection, MAX_ITEMS};

use super::confirmer::Confirmer;
use super::shared::Member;

/// Serials stay below this.
const LAST_SERIAL: Serial = Serial((1 << 53) - 1);

/// Compares everything. Afterwards the node's copies count.
pub(super) fn compare(
    connection: &mut Connection,
    member: &Member,
    confirmer: &Confirmer,
) -> Result<(), CallError> {
    let mut from = Some(0);
    while let Some(first) = from {
        let InventoryReply { differ, next } =
            compare_range(connection, &member.store, confirmer, first)?;
        for bucket in differ {
            list_bucket(connection, member, confirmer, bucket)?;
        }
        from = match next {
            Some(next) if next <= first => {
                let what = format!("an inventory from bucket {first} goes on at {next}");
                return Err(CallError::BadReply { address: connection.address().clone(), what });
            }
            next => next,
        };
    }
    connection.call(&Compared {}).map(|_| ())
}

/// Sends the digests of the next buckets. The reply says where to go on, if there is more.
fn compare_range(
    connection: &mut Connection,
    store: &Store,
    confirmer: &Confirmer,
    from: u64,
) -> Result<InventoryReply, CallError> {
    // Nothing is confirmed between the lists' being taken and the answer to them: a copy that is
    // confirmed later is not in these lists, and would be taken for lost.
    let _paused = confirmer.pause();
    let (buckets, is_all) = digests(store, from);
    let to = match buckets.last() {
        Some(last) if !is_all => last.bucket,
        _ => bucket_of(LAST_SERIAL),
    };
    let mut reply = connection.call(&Inventory { from, to, buckets: buckets.into() })?;
    if reply.next.is_none() && to < bucket_of(LAST_SERIAL) {
        reply.next = Some(to + 1);
    }
    Ok(reply)
}

/// Sends what is held in the bucket, until the main server misses nothing that is in the trash.
fn list_bucket(
    connection: &mut Connection,
    member: &Member,
    confirmer: &Confirmer,
    bucket: u64,
) -> Result<(), CallError> {
    // What cannot be brought back is not spoken of again, so that it is lost, and repaired.
    let mut hopeless = Vec::new();
    loop {
        let paused = confirmer.pause();
        let held = holdings(&member.store, bucket, &hopeless);
        let reply = connection.call(&Holdings { bucket, held: held.into() })?;
        drop(paused);
        log::info!(
            "inventory compared bucket={bucket} found={} lost={} unknown={} to_restore={}",
            reply.found,
            reply.lost,
            reply.unknown,
            reply.restore.len()
        );
        if reply.restore.is_empty() {
            return Ok(());
        }
        let is_told_again = reply.restore.iter().any(|serial| hopeless.contains(serial));
        if is_told_again || reply.restore.len() > MAX_HOLDINGS {
            let what = "it wants restored what was not in the trash".to_string();
            return Err(CallError::BadReply { address: connection.address().clone(), what });
        }
        member.restore(&reply.restore);
        // Whatever came of it, each is wanted from the trash once.
        hopeless.extend(reply.restore);
    }
}

fn holdings(store: &Store, bucket: u64, hopeless: &[Serial]) -> Vec<HeldChunk> {
    let (first, last) = serials_of(bucket);
    let listed = |held: Held, trashed| HeldChunk {
        serial: held.serial,
        length: held.length,
        fingerprint: held.fingerprint,
        trashed,
    };
    let trash = store.trash(first..=last, BUCKET_SERIALS as usize);
    let trash = trash.into_iter().filter(|held| !hopeless.contains(&held.serial));
    let mut all: Vec<_> = trash.map(|held| listed(held, true)).collect();
    // Asked for later: what comes back from the trash meanwhile is held then.
    let held: Vec<_> =
        in_bucket(store, bucket).into_iter().map(|held| listed(held, false)).collect();
    all.retain(|trash| held.binary_search_by_key(&trash.serial, |held| held.serial).is_err());
    all.extend(held);
    all.sort_by_key(|held| held.serial);
    all
}

/// The digests of the buckets from `from` on that hold anything, as many as fit into a message, and
/// whether these are all.
fn digests(store: &Store, from: u64) -> (Vec<BucketDigest>, bool) {
    let mut buckets = Vec::new();
    let mut next = serials_of(from).0;
    while buckets.len() < MAX_ITEMS {
        let Some(first) = store.holdings(next..=LAST_SERIAL, 1).pop() else {
            return (buckets, true);
        };
        let bucket = bucket_of(first.serial);
        let held = in_bucket(store, bucket);
        let copies = held.iter().map(|held| (held.serial, held.length, held.fingerprint));
        let digest = digest(copies);
        // A copy that was dropped since leaves a bucket with nothing in it, which goes unsaid.
        if !held.is_empty() {
            buckets.push(BucketDigest { bucket, count: held.len() as u32, digest });
        }
        next = serials_of(bucket + 1).0;
    }
    (buckets, false)
}

fn in_bucket(store: &Store, bucket: u64) -> Vec<Held> {
    let (first, last) = serials_of(bucket);
    store.holdings(first..=last, BUCKET_SERIALS as usize)
}
