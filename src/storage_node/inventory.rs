//! The comparison of what is held here with what the main server's books say, after a start of
//! either side: by bucketed digests, and by lists where these differ.

use crate::ids::Serial;
use crate::policy::inventory::{bucket_of, digest, serials_of};
use crate::segments::{Held, Store};
use crate::wire::node_to_main::{
    BUCKET_SERIALS, BucketDigest, Compared, HeldChunk, Holdings, Inventory, InventoryReply,
};
use crate::wire::{CallError, Connection, MAX_ITEMS};

use super::confirmer::Confirmer;

/// Serials stay below this.
const LAST_SERIAL: Serial = Serial((1 << 53) - 1);

/// Compares everything. Afterwards the node's copies count.
pub(super) fn compare(
    connection: &mut Connection,
    store: &Store,
    confirmer: &Confirmer,
) -> Result<(), CallError> {
    let mut from = Some(0);
    while let Some(first) = from {
        let InventoryReply { differ, next } = compare_range(connection, store, confirmer, first)?;
        for bucket in differ {
            list_bucket(connection, store, confirmer, bucket)?;
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

fn list_bucket(
    connection: &mut Connection,
    store: &Store,
    confirmer: &Confirmer,
    bucket: u64,
) -> Result<(), CallError> {
    let _paused = confirmer.pause();
    let held = in_bucket(store, bucket).into_iter().map(|held| HeldChunk {
        serial: held.serial,
        length: held.length,
        fingerprint: held.fingerprint,
        trashed: false,
    });
    let reply = connection.call(&Holdings { bucket, held: held.collect() })?;
    log::info!(
        "inventory compared bucket={bucket} found={} lost={} unknown={}",
        reply.found,
        reply.lost,
        reply.unknown
    );
    Ok(())
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
