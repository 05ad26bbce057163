//! How fast copies are made: what was copied of late, over the time that it took.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Moment;

/// How far back "of late" reaches.
const WINDOW: Duration = Duration::from_secs(10);
/// What is added within this is one entry.
const GRAIN: Duration = Duration::from_millis(250);

/// A sum over a sliding window.
#[derive(Debug, Clone, Default)]
pub struct Rate {
    /// With the moment up to which each was added.
    added: VecDeque<(Moment, u64)>,
    /// When the first was added after nothing went on.
    since: Option<Moment>,
}

impl Rate {
    /// So many bytes have been copied now.
    pub fn add(&mut self, bytes: u64, now: Moment) {
        self.forget(now);
        self.since.get_or_insert(now);
        match self.added.back_mut() {
            Some((at, sum)) if now.since(*at) < GRAIN => *sum += bytes,
            Some(_) | None => self.added.push_back((now, bytes)),
        }
    }

    /// Work begins: what is copied from now on took this long at least.
    pub fn begin(&mut self, now: Moment) {
        self.forget(now);
        self.since.get_or_insert(now);
    }

    /// Bytes a second of late.
    pub fn of_late(&mut self, now: Moment) -> u64 {
        self.forget(now);
        let Some(since) = self.since else { return 0 };
        let bytes: u64 = self.added.iter().map(|(_, bytes)| bytes).sum();
        let span = now.since(since).clamp(GRAIN, WINDOW);
        u64::try_from(u128::from(bytes) * 1000 / span.as_millis()).unwrap_or(u64::MAX)
    }

    fn forget(&mut self, now: Moment) {
        while self.added.front().is_some_and(|(at, _)| now.since(*at) >= WINDOW) {
            self.added.pop_front();
        }
        if self.added.is_empty() && self.since.is_some_and(|since| now.since(since) >= WINDOW) {
            self.since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds_and_falls_to_nothing() {
        let (mut rate, start) = (Rate::default(), Moment(0));
        rate.begin(start);
        rate.add(1000, start + Duration::from_secs(1));
        assert_eq!(rate.of_late(start + Duration::from_secs(1)), 1000);
        for second in 2..=60 {
            rate.add(500, start + Duration::from_secs(second));
        }
        assert_eq!(rate.of_late(start + Duration::from_secs(60)), 500);
        assert!(rate.added.len() <= 41);
        assert_eq!(rate.of_late(start + Duration::from_secs(70)), 0);
    }
}
