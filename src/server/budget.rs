//! Memory that many requests share.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that may be held at once by all requests of a kind. Whoever would exceed it waits.
pub struct Budget {
    left: Mutex<u64>,
    freed: Condvar,
    total: u64,
}

/// Bytes taken from a budget, given back on drop.
pub struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    /// A budget of `total` bytes.
    pub fn new(total: u64) -> Arc<Budget> {
        Arc::new(Budget { left: Mutex::new(total), freed: Condvar::new(), total })
    }

    /// Takes `bytes`, waiting for them for at most `patience`; `None` when they did not come free.
    /// A request larger than the whole budget takes all of it.
    pub fn take(self: &Arc<Self>, bytes: u64, patience: Duration) -> Option<Share> {
        let bytes = bytes.min(self.total);
        let deadline = Instant::now() + patience;
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        while *left < bytes {
            let patience = deadline.saturating_duration_since(Instant::now());
            if patience.is_zero() {
                return None;
            }
            let waited = self.freed.wait_timeout(left, patience);
            left = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *left -= bytes;
        Some(Share { budget: self.clone(), bytes })
    }
}

impl Share {
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
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut left = self.budget.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left += self.bytes;
        self.budget.freed.notify_all();
    }
}
