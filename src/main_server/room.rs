//! A node's room: what it reported, what it confirmed since, and what is promised to chunks on
//! their way to it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::{Moment, WallTime};
use crate::wire::node_to_main::Space;

/// How long a token is good, and so how long room is promised with it.
pub const TOKEN_LIFE: Duration = Duration::from_secs(15 * 60);

/// How long after the last copy was condemned its bytes are expected to go.
const CONDEMNED_FOR: Duration = Duration::from_secs(600);

const MINUTE_MS: u64 = 60_000;

/// The room of one node. A promise is known by the minute in which its token expires, so that all
/// of them take a few words, however many tokens are out.
#[derive(Debug, Clone, Default)]
pub struct Room {
    reported: Space,
    /// Confirmed since the report, which does not count it yet.
    confirmed_bytes: u64,
    promised: BTreeMap<u64, u64>,
    /// Of the used bytes, those that the node is to delete, and when the last of them came.
    condemned: Option<(u64, Moment)>,
}

impl Room {
    /// What the node said of its space.
    pub fn reported(&self) -> Space {
        self.reported
    }

    /// Bytes that are stored, as far as is known.
    pub fn used_bytes(&self) -> u64 {
        self.reported.used_bytes.saturating_add(self.confirmed_bytes)
    }

    /// Bytes that can still be stored, the promised ones included.
    pub fn free_bytes(&self) -> u64 {
        self.reported.free_bytes.saturating_sub(self.confirmed_bytes)
    }

    /// Bytes that are promised. Promises that no token of now can have are those of a wall clock
    /// that jumped, and do not count.
    pub fn promised_bytes(&self, now: WallTime) -> u64 {
        let (first, last) = (now.0 / MINUTE_MS, (now + TOKEN_LIFE).0 / MINUTE_MS);
        self.promised.range(first..=last).map(|(_, bytes)| bytes).sum()
    }

    /// Takes the node's own word, which counts all that was confirmed before.
    /// True when there is more room than before.
    pub fn report(&mut self, space: Space) -> bool {
        let has_grown = space.free_bytes > self.free_bytes();
        let deleted = self.reported.used_bytes.saturating_sub(space.used_bytes);
        if let Some((bytes, _)) = &mut self.condemned {
            *bytes = bytes.saturating_sub(deleted);
        }
        self.reported = space;
        self.confirmed_bytes = 0;
        has_grown
    }

    /// Bytes that the node is to delete, as far as is known: those of long ago are gone, or will not
    /// go soon.
    pub fn condemned_bytes(&self, now: Moment) -> u64 {
        let recent = self.condemned.filter(|(_, at)| now.since(*at) < CONDEMNED_FOR);
        recent.map_or(0, |(bytes, _)| bytes)
    }

    /// So many further bytes are to be deleted.
    pub fn condemn(&mut self, bytes: u64, now: Moment) {
        self.condemned = Some((self.condemned_bytes(now) + bytes, now));
    }

    /// Promises room to the bearer of a token that expires then.
    pub fn promise(&mut self, bytes: u64, expires: WallTime, now: WallTime) {
        let (first, last) = (now.0 / MINUTE_MS, (now + TOKEN_LIFE).0 / MINUTE_MS);
        self.promised.retain(|minute, _| (first..=last).contains(minute));
        *self.promised.entry(expires.0 / MINUTE_MS).or_default() += bytes;
    }

    /// The bytes of such a token are stored.
    pub fn redeem(&mut self, bytes: u64, expires: WallTime) {
        self.confirmed_bytes += bytes;
        if let Some(promised) = self.promised.get_mut(&(expires.0 / MINUTE_MS)) {
            *promised = promised.saturating_sub(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallTime = WallTime(1_700_000_000_000);

    #[test]
    fn a_promise_ends_with_its_confirmation_or_its_token() {
        let mut room = Room::default();
        let space = Space { offered_bytes: 100, free_bytes: 100, ..Space::default() };
        room.report(space);
        room.promise(30, NOW + TOKEN_LIFE, NOW);
        room.promise(20, NOW + TOKEN_LIFE, NOW);
        assert_eq!((room.promised_bytes(NOW), room.free_bytes()), (50, 100));
        room.redeem(30, NOW + TOKEN_LIFE);
        assert_eq!((room.promised_bytes(NOW), room.free_bytes()), (20, 70));
        assert_eq!(room.used_bytes(), 30);
        let later = NOW + TOKEN_LIFE + Duration::from_secs(61);
        assert_eq!(room.promised_bytes(later), 0);
        room.report(Space { used_bytes: 30, free_bytes: 70, ..space });
        assert_eq!((room.used_bytes(), room.free_bytes()), (30, 70));
    }

    #[test]
    fn condemned_bytes_go_as_the_node_reports_them_gone_or_is_waited_for_no_more() {
        let (mut room, now) = (Room::default(), Moment(0));
        room.report(Space { used_bytes: 100, ..Space::default() });
        room.condemn(30, now);
        room.condemn(10, now);
        room.report(Space { used_bytes: 75, ..Space::default() });
        assert_eq!(room.condemned_bytes(now), 15);
        assert_eq!(room.condemned_bytes(now + CONDEMNED_FOR), 0);
    }

    #[test]
    fn a_clock_that_jumps_back_leaves_no_promise_that_never_ends() {
        let mut room = Room::default();
        room.promise(30, NOW + TOKEN_LIFE, NOW);
        assert_eq!(room.promised_bytes(NOW - Duration::from_secs(864_000)), 0);
    }
}
