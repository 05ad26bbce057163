//! The goodbye of a node, and the `add_me` that must not follow it: the main server would take the
//! node for one that is back.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Whether the node says goodbye, and whether it is just being added.
#[derive(Debug, Default)]
pub(super) struct Parting {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_adding: bool,
    is_parting: bool,
}

/// `add_me` is under way until this is dropped.
#[derive(Debug)]
pub(super) struct Adding<'a>(&'a Parting);

impl Drop for Adding<'_> {
    fn drop(&mut self) {
        self.0.lock().is_adding = false;
        self.0.changed.notify_all();
    }
}

impl Parting {
    /// `None` when the node says goodbye, or has done so.
    pub fn begin_adding(&self) -> Option<Adding<'_>> {
        let mut state = self.lock();
        state.is_adding = !state.is_parting;
        state.is_adding.then(|| Adding(self))
    }

    /// From now on no `add_me` begins; waits for the end of one that is under way, for at most
    /// `patience`.
    pub fn begin(&self, patience: Duration) {
        let mut state = self.lock();
        state.is_parting = true;
        let is_adding = |state: &mut State| state.is_adding;
        drop(self.changed.wait_timeout_while(state, patience, is_adding));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn a_goodbye_waits_for_an_add_me_that_is_under_way_and_none_follows_it() {
        let parting = Parting::default();
        let adding = parting.begin_adding().expect("nobody parts");
        thread::scope(|scope| {
            let goodbye = scope.spawn(|| {
                parting.begin(LONG);
                parting.lock().is_adding
            });
            while !parting.lock().is_parting {
                thread::yield_now();
            }
            // One that does not wait is through by now, or as good as.
            (0..1000).for_each(|_| thread::yield_now());
            drop(adding);
            assert!(!goodbye.join().unwrap(), "it would be followed by what is under way");
        });
        assert!(parting.begin_adding().is_none());
        parting.begin(LONG);
    }

    #[test]
    fn a_goodbye_does_not_wait_for_ever() {
        let parting = Parting::default();
        let _adding = parting.begin_adding();
        parting.begin(Duration::from_millis(1));
    }
}
