//! One answer, on its way from the thread that gives it to the one that waits for it.
//!
//! A channel would do, but spins with `sched_yield` for a while before it sleeps: with more threads than
//! cores that was a sixth of a node's CPU under small puts.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The two ends of an answer to come.
pub(super) fn pending<T>() -> (Giver<T>, Waiter<T>) {
    let place = Arc::new(Place { state: Mutex::new(State::Open), changed: Condvar::new() });
    (Giver(place.clone()), Waiter(place))
}

/// Gives the answer. Dropped without, it tells the waiter that there will be none.
#[derive(Debug)]
pub(super) struct Giver<T>(Arc<Place<T>>);

/// Waits for the answer.
#[derive(Debug)]
pub(super) struct Waiter<T>(Arc<Place<T>>);

#[derive(Debug)]
struct Place<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
enum State<T> {
    Open,
    Given(T),
    Over,
}

impl<T> Place<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Giver<T> {
    /// Whoever waited may have lost patience, and does not get it then.
    pub fn give(self, answer: T) {
        *self.0.lock() = State::Given(answer);
    }
}

impl<T> Drop for Giver<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if matches!(*state, State::Open) {
            *state = State::Over;
        }
        drop(state);
        self.0.changed.notify_one();
    }
}

impl<T> Waiter<T> {
    /// The answer; `None` if there is none by then, or there will never be one.
    pub fn wait_until(self, deadline: Instant) -> Option<T> {
        let left = deadline.saturating_duration_since(Instant::now());
        let state = self.0.lock();
        let (mut state, _) = self
            .0
            .changed
            .wait_timeout_while(state, left, |state| matches!(state, State::Open))
            .unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, State::Over) {
            State::Given(answer) => Some(answer),
            State::Open | State::Over => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn an_answer_reaches_the_one_who_waits() {
        let (giver, waiter) = pending();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| waiter.wait_until(soon()));
            giver.give(7);
            assert_eq!(waiting.join().expect("no panic"), Some(7));
        });
    }

    #[test]
    fn who_waits_learns_that_there_will_be_no_answer() {
        let (giver, waiter) = pending::<()>();
        drop(giver);
        assert_eq!(waiter.wait_until(soon()), None);
        let (_giver, waiter) = pending::<()>();
        assert_eq!(waiter.wait_until(Instant::now()), None);
    }
}
