//! Buffers that are lent to requests, so that an idle connection holds none and a busy node does not
//! ask for (and clear) fresh memory for each chunk.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::wire::frame::PayloadBuffer;

/// Something with memory of its own.
pub(super) trait Buffer: Default {
    /// The memory that it holds on to, in bytes.
    fn held_bytes(&self) -> usize;
}

impl Buffer for PayloadBuffer {
    fn held_bytes(&self) -> usize {
        self.capacity()
    }
}

/// For reading into: its length is what was cleared once, not what the last user put into it.
impl Buffer for Vec<u8> {
    fn held_bytes(&self) -> usize {
        self.capacity()
    }
}

/// Buffers that nobody uses now, of at most so many bytes together.
#[derive(Debug)]
pub(super) struct Pool<B> {
    most_bytes: usize,
    idle: Mutex<Idle<B>>,
}

#[derive(Debug)]
struct Idle<B> {
    buffers: Vec<B>,
    bytes: usize,
    was_used: bool,
}

impl<B: Buffer> Pool<B> {
    /// A pool that keeps at most `most_bytes`.
    pub fn new(most_bytes: usize) -> Arc<Pool<B>> {
        let idle = Idle { buffers: Vec::new(), bytes: 0, was_used: false };
        Arc::new(Pool { most_bytes, idle: Mutex::new(idle) })
    }

    /// The buffer that was used last, or a new one.
    pub fn take(self: &Arc<Self>) -> Lent<B> {
        let mut idle = self.lock();
        idle.was_used = true;
        let buffer = idle.buffers.pop().unwrap_or_default();
        idle.bytes -= buffer.held_bytes();
        Lent { buffer, pool: self.clone() }
    }

    /// Lets the memory go if none was asked for since the last call.
    pub fn trim(&self) {
        let mut idle = self.lock();
        if !std::mem::take(&mut idle.was_used) {
            idle.bytes = 0;
            drop(std::mem::take(&mut idle.buffers));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Idle<B>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A buffer, given back on drop.
#[derive(Debug)]
pub(super) struct Lent<B: Buffer> {
    buffer: B,
    pool: Arc<Pool<B>>,
}

impl<B: Buffer> Deref for Lent<B> {
    type Target = B;
    fn deref(&self) -> &B {
        &self.buffer
    }
}

impl<B: Buffer> DerefMut for Lent<B> {
    fn deref_mut(&mut self) -> &mut B {
        &mut self.buffer
    }
}

impl<B: Buffer> Drop for Lent<B> {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let bytes = buffer.held_bytes();
        let mut idle = self.pool.lock();
        if bytes > 0 && idle.bytes + bytes <= self.pool.most_bytes {
            idle.bytes += bytes;
            idle.buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_keeps_no_more_than_it_may_and_nothing_that_nobody_uses() {
        let pool: Arc<Pool<Vec<u8>>> = Pool::new(100);
        let mut lent = [pool.take(), pool.take(), pool.take()];
        for buffer in &mut lent {
            buffer.reserve_exact(40);
        }
        drop(lent);
        let kept = || {
            let idle = pool.lock();
            (idle.buffers.len(), idle.bytes)
        };
        assert_eq!(kept(), (2, 80));
        pool.trim();
        assert_eq!(kept(), (2, 80), "they were used since the last trim");
        pool.trim();
        assert_eq!(kept(), (0, 0));
    }
}
