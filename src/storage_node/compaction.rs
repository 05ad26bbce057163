//! The thread that frees the space of removed chunks, when the store says that it is worthwhile.

use std::time::Duration;

use crate::causes::with_causes;
use crate::segments::Space;

use super::shared::{Member, Shared};

/// What compaction reads and writes in a second while there is space enough; a part of that while
/// chunks are stored or fetched.
const BYTES_PER_SECOND: u64 = 64 << 20;
const BUSY_PART: u32 = 4;
/// How long the thread waits for a signal of the store before it looks by itself: trash gets old.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
/// How long it waits after the disk would not let it go on.
const TROUBLE_PAUSE: Duration = Duration::from_secs(30);

/// The body of the thread. `Store::wake_compaction` is to follow the node's stop.
pub(super) fn run(shared: &Shared) {
    while let Some(member) = shared.member() {
        let is_due = member.store.wait_for_compaction(LOOK_AGAIN);
        if shared.stops_within(Duration::ZERO) {
            return;
        }
        // What another main server had removed is kept for as long as nobody has decided which of
        // them is right.
        if is_due && shared.is_adopted() && !compact_all(shared, &member) {
            drop(member);
            if shared.stops_within(TROUBLE_PAUSE) {
                return;
            }
        }
    }
}

/// Compacts until nothing more is worthwhile or the node stops. False if that failed.
fn compact_all(shared: &Shared, member: &Member) -> bool {
    loop {
        let space = member.store.space();
        let mut pace = |bytes| {
            let is_over = shared.stops_within(pause(&space, bytes, is_busy(shared)));
            !is_over && shared.is_adopted()
        };
        let done = match member.store.compact_one(&mut pace) {
            Ok(Some(done)) => done,
            Ok(None) => return true,
            Err(error) => {
                log::warn!("compaction waits error={}", with_causes(&error));
                return false;
            }
        };
        shared.report_lost(&done.lost);
        shared.counters.count_compaction(&done);
        log::info!(
            "compacted segment={} copied_bytes={} freed_bytes={}",
            done.segment,
            done.copied_bytes,
            done.freed_bytes
        );
        if shared.stops_within(Duration::ZERO) || !shared.is_adopted() {
            return true;
        }
        if done.freed_bytes == 0 {
            return false;
        }
    }
}

fn is_busy(shared: &Shared) -> bool {
    shared.counters.transfers() > 0
}

/// How long to pause after so many bytes. Where space runs short, chunks may wait for it.
fn pause(space: &Space, bytes: u64, is_busy: bool) -> Duration {
    if space.free < space.offered / 8 {
        return Duration::ZERO;
    }
    let span = Duration::from_secs_f64(bytes as f64 / BYTES_PER_SECOND as f64);
    if is_busy { span * BUSY_PART } else { span }
}
