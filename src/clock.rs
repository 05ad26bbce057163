//! Time, in two kinds that cannot be mixed up: a monotonic one for liveness and deadlines, and the
//! wall clock for what people see and for expiry by the main server's clock. Both can be driven by
//! a test.

use std::ops::{Add, Sub};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A moment of one process: milliseconds since an arbitrary start, never running backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// The time since `earlier`; zero if that is later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;
    fn add(self, span: Duration) -> Moment {
        Moment(self.0.saturating_add(millis(span)))
    }
}

/// Milliseconds since 1970-01-01 00:00 UTC, by the clock of whoever wrote it down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallTime(pub u64);

impl Add<Duration> for WallTime {
    type Output = WallTime;
    fn add(self, span: Duration) -> WallTime {
        WallTime(self.0.saturating_add(millis(span)))
    }
}

impl Sub<Duration> for WallTime {
    type Output = WallTime;
    fn sub(self, span: Duration) -> WallTime {
        WallTime(self.0.saturating_sub(millis(span)))
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Where a role takes its time from. Clones share it.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System {
        start: Instant,
    },
    Manual {
        monotonic: Arc<AtomicU64>,
        wall: Arc<AtomicU64>,
    },
    /// `ahead` is what the monotonic time lacks of the wall time, wrapping.
    Steady {
        of: Box<Clock>,
        ahead: Arc<AtomicU64>,
    },
}

impl Clock {
    /// The machine's clocks.
    pub fn system() -> Clock {
        Clock(Source::System { start: Instant::now() })
    }

    /// A clock that stands still until a test moves it.
    pub fn manual(wall: WallTime) -> Clock {
        let wall = Arc::new(AtomicU64::new(wall.0));
        Clock(Source::Manual { monotonic: Arc::new(AtomicU64::new(0)), wall })
    }

    /// A clock whose wall time is `wall` now and goes on with this one's monotonic time, whatever
    /// is done to the machine's wall clock.
    pub fn steady(&self, wall: WallTime) -> Clock {
        let ahead = Arc::new(AtomicU64::new(wall.0.wrapping_sub(self.now().0)));
        Clock(Source::Steady { of: Box::new(self.clone()), ahead })
    }

    /// The monotonic time.
    pub fn now(&self) -> Moment {
        match &self.0 {
            Source::Steady { of, .. } => of.now(),
            Source::System { start } => Moment(millis(start.elapsed())),
            Source::Manual { monotonic, .. } => Moment(monotonic.load(Ordering::SeqCst)),
        }
    }

    /// The wall clock's time.
    pub fn wall(&self) -> WallTime {
        match &self.0 {
            Source::System { .. } => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                WallTime(millis(since))
            }
            Source::Manual { wall, .. } => WallTime(wall.load(Ordering::SeqCst)),
            Source::Steady { ahead, .. } => {
                WallTime(self.now().0.wrapping_add(ahead.load(Ordering::SeqCst)))
            }
        }
    }

    /// Lets `span` pass on a manual clock, on both kinds of time.
    ///
    /// Panics on the machine's clocks, which nobody moves.
    pub fn advance(&self, span: Duration) {
        let Source::Manual { monotonic, wall } = &self.0 else { panic!("only a manual clock") };
        monotonic.fetch_add(millis(span), Ordering::SeqCst);
        wall.fetch_add(millis(span), Ordering::SeqCst);
    }

    /// Sets the wall clock of a manual clock, or the wall time from which a steady one goes on: a
    /// jump that the monotonic time does not see.
    ///
    /// Panics on the machine's clocks.
    pub fn set_wall(&self, to: WallTime) {
        match &self.0 {
            Source::Manual { wall, .. } => wall.store(to.0, Ordering::SeqCst),
            Source::Steady { ahead, .. } => {
                ahead.store(to.0.wrapping_sub(self.now().0), Ordering::SeqCst);
            }
            Source::System { .. } => panic!("the machine's clock is not ours to set"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_clock_does_not_see_the_jumps_of_the_one_below_it() {
        let machine = Clock::manual(WallTime(5_000_000));
        machine.advance(Duration::from_secs(7));
        let steady = machine.steady(WallTime(9_000));
        let clone = steady.clone();
        machine.set_wall(WallTime(0));
        machine.advance(Duration::from_secs(1));
        assert_eq!((clone.wall(), clone.now()), (WallTime(10_000), Moment(8_000)));
        steady.set_wall(WallTime(3));
        assert_eq!(clone.wall(), WallTime(3));
        // Even one that is behind its own monotonic time.
        machine.advance(Duration::from_millis(4));
        assert_eq!(clone.wall(), WallTime(7));
    }
}
