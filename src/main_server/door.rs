//! The door for clients: closed before the main server ends, so that nothing is promised to them any
//! more while what was promised is on its way to the nodes.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// `is_closed` shares the lock of `inside` on purpose: a request is either counted before the door is
/// closed, and waited for, or turned away after it.
#[derive(Default)]
pub struct Door {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    inside: usize,
    is_closed: bool,
}

/// A request that is being served.
pub struct Inside<'a>(&'a Door);

impl Door {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a request in; `None` once the door is closed.
    pub fn enter(&self) -> Option<Inside<'_>> {
        let mut state = self.lock();
        if state.is_closed {
            return None;
        }
        state.inside += 1;
        Some(Inside(self))
    }

    /// Lets nobody in any more, and waits until those who are inside have left. `false` when that
    /// takes longer than `patience`.
    pub fn close(&self, patience: Duration) -> bool {
        let mut state = self.lock();
        state.is_closed = true;
        let is_full = |state: &mut State| state.inside > 0;
        let waited = self.changed.wait_timeout_while(state, patience, is_full);
        waited.unwrap_or_else(PoisonError::into_inner).0.inside == 0
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.inside -= 1;
        if state.is_closed {
            self.0.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_door_closes_behind_those_who_are_inside() {
        let door = Door::default();
        let (first, second) = (door.enter(), door.enter());
        assert!(!door.close(Duration::from_millis(1)), "two are inside");
        assert!(door.enter().is_none());
        drop(first);
        std::thread::scope(|scope| {
            let closing = scope.spawn(|| door.close(Duration::from_secs(20)));
            drop(second);
            assert!(closing.join().expect("no panic"));
        });
    }
}
