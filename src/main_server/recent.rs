//! Which chunks were read lately: these are repaired before others that have as many copies.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Moment;
use crate::ids::Serial;

/// How many chunks are remembered, at most twice.
const MOST: usize = 8192;
/// A chunk is remembered for one to two of these.
const SPAN: Duration = Duration::from_secs(600);

/// The chunks that clients asked for lately, in two generations of which the older one is forgotten
/// when the younger one is full or of age.
#[derive(Debug, Default)]
pub struct Recent(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashSet<Serial>,
    old: HashSet<Serial>,
    since: Option<Moment>,
}

impl Recent {
    /// These chunks were asked for.
    pub fn note(&self, serials: impl IntoIterator<Item = Serial>, now: Moment) {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for serial in serials {
            generations.make_room(now);
            generations.young.insert(serial);
        }
    }

    /// Of these chunks, those that were asked for lately.
    pub fn among(&self, serials: impl IntoIterator<Item = Serial>, now: Moment) -> HashSet<Serial> {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        generations.make_room(now);
        let is_recent = |serial: &Serial| {
            generations.young.contains(serial) || generations.old.contains(serial)
        };
        serials.into_iter().filter(is_recent).collect()
    }
}

impl Generations {
    fn make_room(&mut self, now: Moment) {
        let since = *self.since.get_or_insert(now);
        if now.since(since) >= SPAN * 2 {
            self.young.clear();
        }
        if self.young.len() >= MOST || now.since(since) >= SPAN {
            self.old = std::mem::take(&mut self.young);
            self.since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_lately_is_known_for_a_while_and_takes_bounded_memory() {
        let (recent, start) = (Recent::default(), Moment(0));
        let known = |serial, now| !recent.among([Serial(serial)], now).is_empty();
        recent.note([Serial(7)], start);
        assert!(known(7, start) && !known(8, start));
        assert!(known(7, start + SPAN));
        assert!(!known(7, start + SPAN * 2));
        recent.note((0..100_000).map(Serial), start + SPAN * 3);
        assert!(known(99_999, start + SPAN * 3) && !known(0, start + SPAN * 3));
        let generations = recent.0.lock().expect("no panic");
        assert!(generations.young.len() + generations.old.len() <= 2 * MOST);
    }

    #[test]
    fn a_long_silence_leaves_nothing_behind() {
        let recent = Recent::default();
        recent.note([Serial(7)], Moment(0));
        assert!(recent.among([Serial(7)], Moment(0) + SPAN * 5).is_empty());
    }
}
