//! Memory that many requests share.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes that may be held at once by all requests of a kind. Whoever would exceed it waits.
pub struct Budget {
    state: Mutex<State>,
    freed: Condvar,
    total: u64,
}

struct State {
    left: u64,
    /// A share has been allowed to grow beyond the budget.
    is_overdrawn: bool,
    /// Those who wait: without any, nobody is to be told.
    waiting: usize,
}

/// Bytes taken from a budget, given back on drop.
pub struct Share {
    budget: Arc<Budget>,
    bytes: u64,
    /// It is the one that may grow beyond the budget.
    is_overdraft: bool,
}

impl Budget {
    /// A budget of `total` bytes.
    pub fn new(total: u64) -> Arc<Budget> {
        let state = State { left: total, is_overdrawn: false, waiting: 0 };
        Arc::new(Budget { state: Mutex::new(state), freed: Condvar::new(), total })
    }

    /// Takes `bytes`, waiting for them for at most `patience`; `None` when they did not come free.
    /// A request larger than the whole budget takes all of it.
    pub fn take(self: &Arc<Self>, bytes: u64, patience: Duration) -> Option<Share> {
        let bytes = bytes.min(self.total);
        let may_take = |state: &mut State| state.left >= bytes;
        let mut state = self.wait_until(patience, may_take)?;
        state.left -= bytes;
        Some(Share { budget: self.clone(), bytes, is_overdraft: false })
    }

    fn wait_until(
        &self,
        patience: Duration,
        mut is_true: impl FnMut(&mut State) -> bool,
    ) -> Option<MutexGuard<'_, State>> {
        let mut state = self.lock();
        if is_true(&mut state) {
            return Some(state);
        }
        state.waiting += 1;
        let (mut state, _) = self
            .freed
            .wait_timeout_while(state, patience, |state| !is_true(state))
            .unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        is_true(&mut state).then_some(state)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// What it took from the budget.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes `bytes` more from the budget if they are free now.
    pub fn try_grow(&mut self, bytes: u64) -> bool {
        match self.budget.take(bytes, Duration::ZERO) {
            Some(mut more) => {
                self.bytes += std::mem::take(&mut more.bytes);
                true
            }
            None => false,
        }
    }

    /// Takes `bytes` more, waiting for them for at most `patience`. When none are free, one share at
    /// a time grows beyond the budget: shares that all wait for each other's rest would never end.
    pub fn grow(&mut self, bytes: u64, patience: Duration) -> bool {
        if self.is_overdraft {
            return true;
        }
        let may_grow = |state: &mut State| state.left >= bytes || !state.is_overdrawn;
        let Some(mut state) = self.budget.wait_until(patience, may_grow) else { return false };
        if state.left >= bytes {
            state.left -= bytes;
            self.bytes += bytes;
        } else {
            state.is_overdrawn = true;
            self.is_overdraft = true;
        }
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        state.left += self.bytes;
        state.is_overdrawn &= !self.is_overdraft;
        if state.waiting > 0 {
            self.budget.freed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_that_wait_for_each_others_rest_come_to_an_end_one_after_the_other() {
        let budget = Budget::new(100);
        let mut shares = [50, 50].map(|bytes| budget.take(bytes, Duration::ZERO).unwrap());
        assert!(budget.take(1, Duration::ZERO).is_none());
        assert!(shares[0].grow(70, Duration::ZERO) && shares[0].grow(70, Duration::ZERO));
        assert!(!shares[1].grow(70, Duration::ZERO), "one at a time");
        let [first, mut second] = shares;
        drop(first);
        assert!(second.grow(50, Duration::ZERO));
        assert!(budget.take(1, Duration::ZERO).is_none(), "that was within the budget");
        assert!(second.grow(70, Duration::ZERO));
        drop(second);
        assert!(budget.take(100, Duration::ZERO).is_some());
    }
}
