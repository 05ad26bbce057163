//! How fast copies are made: the one limit that a person sets, and how much a node is asked to do at
//! a time, so that it has hands free for its clients.

use std::time::Duration;

use crate::clock::Moment;

/// The most orders that a node has at a time.
pub const MAX_ORDERS: u32 = 256;
/// The most bytes that a node has orders to send at a time.
pub const MAX_ORDER_BYTES: u64 = 64 << 20;
/// A node that is busy with clients still gets this many bytes of orders at a time.
const LEAST_ORDER_BYTES: u64 = 4 << 20;
const LEAST_ORDERS: u32 = 4;
/// How much may be begun at once after a pause, as time at the limit.
const BURST: Duration = Duration::from_secs(1);
/// The time over which a rate is measured.
const MEASURED: Duration = Duration::from_secs(10);

/// What a node has orders to send, and how much it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hands {
    pub orders: u32,
    pub bytes: u64,
    pub max_orders: u32,
    pub max_bytes: u64,
}

impl Hands {
    /// A node with these orders, and so many transfers of clients under way: the more of them, the
    /// less it is asked to do beside.
    pub fn new(orders: u32, bytes: u64, client_transfers: u32) -> Hands {
        let share = client_transfers.saturating_add(1);
        Hands {
            orders,
            bytes,
            max_orders: (MAX_ORDERS / share).max(LEAST_ORDERS),
            max_bytes: (MAX_ORDER_BYTES / u64::from(share)).max(LEAST_ORDER_BYTES),
        }
    }

    /// True when an order of so many bytes can be added. One order always can, however large.
    pub fn can_take(&self, bytes: u64) -> bool {
        let fits = self.bytes.saturating_add(bytes) <= self.max_bytes;
        self.orders == 0 || self.orders < self.max_orders && fits
    }

    /// An order was added.
    pub fn take(&mut self, bytes: u64) {
        self.orders = self.orders.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// A limit in bytes a second, as a bucket that fills at that rate and from which each thing that is
/// begun takes its bytes. What is begun may overdraw it, and is paid for by the pause after it: so
/// a chunk of any length comes through, and the limit holds over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    limit: Option<u64>,
    /// In thousandths of a byte; negative when overdrawn.
    level: i128,
    at: Moment,
}

impl Pace {
    /// A pace of so many bytes a second, or without a limit.
    pub fn new(limit: Option<u64>, now: Moment) -> Pace {
        let mut pace = Pace { limit, level: 0, at: now };
        pace.level = pace.capacity();
        pace
    }

    /// The limit.
    pub fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Goes on at another pace. What is overdrawn stays so.
    pub fn set_limit(&mut self, limit: Option<u64>, now: Moment) {
        self.fill(now);
        self.limit = limit;
        self.level = self.level.min(self.capacity());
    }

    /// When something may be begun: `None` for at once. With a limit of 0 it is asked again in an
    /// hour.
    pub fn wait_until(&mut self, now: Moment) -> Option<Moment> {
        self.fill(now);
        let limit = self.limit?;
        if limit == 0 {
            return Some(now + Duration::from_secs(3600));
        }
        if self.level > 0 {
            return None;
        }
        // Thousandths of a byte, at thousandths of a second.
        let ms = (-self.level) / i128::from(limit) + 1;
        Some(now + Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX)))
    }

    /// So many bytes were begun.
    pub fn take(&mut self, bytes: u64, now: Moment) {
        self.fill(now);
        if self.limit.is_some() {
            self.level -= i128::from(bytes) * 1000;
        }
    }

    fn capacity(&self) -> i128 {
        i128::from(self.limit.unwrap_or(0)) * BURST.as_millis() as i128
    }

    fn fill(&mut self, now: Moment) {
        let ms = now.since(self.at).as_millis() as i128;
        self.at = self.at.max(now);
        let filled = self.level + i128::from(self.limit.unwrap_or(0)) * ms;
        self.level = match self.limit {
            Some(_) => filled.min(self.capacity()),
            None => 0,
        };
    }
}

/// Measures a rate, over the last seconds.
#[derive(Debug, Clone, Copy)]
pub struct Meter {
    /// Bytes a second at `at`; what came since is in `bytes`.
    rate: f64,
    bytes: u64,
    at: Moment,
}

impl Meter {
    /// Nothing has come yet.
    pub fn new(now: Moment) -> Meter {
        Meter { rate: 0.0, bytes: 0, at: now }
    }

    /// So many bytes have come.
    pub fn count(&mut self, bytes: u64, now: Moment) {
        self.turn(now);
        self.bytes += bytes;
    }

    /// Bytes a second of late; 0 when nothing came for long.
    pub fn bytes_per_second(&mut self, now: Moment) -> u64 {
        self.turn(now);
        self.rate as u64
    }

    /// Takes what came into the rate once a second: older seconds weigh less and less.
    fn turn(&mut self, now: Moment) {
        let seconds = now.since(self.at).as_secs_f64();
        if seconds < 1.0 {
            return;
        }
        let kept = (-seconds / MEASURED.as_secs_f64()).exp();
        self.rate = self.rate * kept + self.bytes as f64 / seconds * (1.0 - kept);
        (self.bytes, self.at) = (0, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn over_time_no_more_is_begun_than_the_limit_allows(
            limit in 1u64..1_000_000,
            chunks in prop::collection::vec((1u64..5_000_000, 0u64..500), 1..200),
        ) {
            let mut pace = Pace::new(Some(limit), Moment(0));
            let (mut now, mut begun) = (Moment(0), 0u64);
            for (bytes, idle_ms) in chunks {
                // All that was begun before this one fits into the time that has passed.
                if let Some(at) = pace.wait_until(now) {
                    prop_assert!(at > now);
                    now = at;
                    prop_assert_eq!(pace.wait_until(now), None);
                }
                let allowed = u128::from(limit) * (u128::from(now.0) + 1000);
                prop_assert!(u128::from(begun) * 1000 <= allowed);
                pace.take(bytes, now);
                begun += bytes;
                now = now + Duration::from_millis(idle_ms);
            }
        }
    }

    #[test]
    fn without_a_limit_nothing_waits_and_with_none_at_all_everything_does() {
        let mut pace = Pace::new(None, Moment(0));
        pace.take(u64::MAX, Moment(0));
        assert_eq!(pace.wait_until(Moment(0)), None);
        pace.set_limit(Some(0), Moment(1));
        assert!(pace.wait_until(Moment(1)) > Some(Moment(1)));
    }

    #[test]
    fn a_node_that_serves_clients_is_asked_to_do_less_and_never_nothing() {
        let idle = Hands::new(0, 0, 0);
        assert_eq!((idle.max_orders, idle.max_bytes), (MAX_ORDERS, MAX_ORDER_BYTES));
        let busy = Hands::new(0, 0, 3);
        assert_eq!((busy.max_orders, busy.max_bytes), (MAX_ORDERS / 4, MAX_ORDER_BYTES / 4));
        let mut swamped = Hands::new(0, 0, u32::MAX);
        assert!(swamped.can_take(16 << 20), "a chunk of any length goes alone");
        swamped.take(16 << 20);
        assert!(!swamped.can_take(1));
    }

    #[test]
    fn a_rate_follows_what_comes() {
        let mut meter = Meter::new(Moment(0));
        for second in 1..=60 {
            meter.count(1000, Moment(second * 1000));
        }
        let rate = meter.bytes_per_second(Moment(61_000));
        assert!((990..=1000).contains(&rate), "{rate}");
        assert_eq!(meter.bytes_per_second(Moment(1_000_000)), 0);
    }
}
