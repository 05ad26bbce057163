//! Waiting: how long to go on trying, with growing pauses that a stop ends at once.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

use super::ClientError;
use crate::wire::Sockets;

const FIRST_PAUSE: Duration = Duration::from_millis(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long a client goes on trying.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Before the first success: what never worked is more often wrong than late.
    pub first: Duration,
    /// After that, without any progress: servers restart, nodes come back.
    pub established: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { first: Duration::from_secs(2), established: Duration::from_secs(60) }
    }
}

/// Ends everything that a client is doing. Clones share it.
#[derive(Debug, Clone)]
pub struct Cancel {
    /// Dropped by `cancel`, which disconnects the receiver for all who wait on it.
    sender: Arc<Mutex<Option<Sender<Infallible>>>>,
    receiver: Receiver<Infallible>,
    /// Cut by `cancel`, so that no thread goes on waiting for an answer.
    sockets: Arc<Sockets>,
}

impl Default for Cancel {
    fn default() -> Self {
        let (sender, receiver) = bounded(0);
        let sender = Arc::new(Mutex::new(Some(sender)));
        Cancel { sender, receiver, sockets: Arc::default() }
    }
}

impl Cancel {
    /// Operations under way, and all that are begun from now on, end with `Cancelled`.
    pub fn cancel(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.sockets.cut();
    }

    /// Through which all connections are dialled.
    pub(super) fn sockets(&self) -> &Arc<Sockets> {
        &self.sockets
    }

    /// True after `cancel`.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.receiver.try_recv(), Err(TryRecvError::Disconnected))
    }

    /// Becomes ready, as disconnected, at `cancel`.
    pub(super) fn receiver(&self) -> &Receiver<Infallible> {
        &self.receiver
    }

    /// Waits for this long. Fails with `Cancelled` at once when everything is to end.
    pub fn wait(&self, time: Duration) -> Result<(), ClientError> {
        match self.receiver.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(ClientError::Cancelled),
            Ok(never) => match never {},
        }
    }
}

/// The pause before try number `tries` (from 1): growing, and not the same for everybody.
pub(super) fn pause_before(tries: u32) -> Duration {
    let grown = FIRST_PAUSE.saturating_mul(1 << tries.saturating_sub(1).min(10));
    let pause = grown.min(LONGEST_PAUSE);
    let mut random = [0];
    // Without randomness the pause is merely the same for everybody.
    let _ = getrandom::fill(&mut random);
    pause / 2 + pause / 2 * u32::from(random[0]) / 255
}

/// One series of tries.
pub(super) struct Tries {
    deadline: Instant,
    made: u32,
}

impl Tries {
    pub fn new(patience: Duration) -> Tries {
        Tries { deadline: Instant::now() + patience, made: 0 }
    }

    /// Waits before the next try; `false` when the time is over.
    pub fn pause(&mut self, cancel: &Cancel) -> Result<bool, ClientError> {
        self.made += 1;
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        cancel.wait(pause_before(self.made).min(left))?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound() {
        for tries in 1..100 {
            let pause = pause_before(tries);
            assert!(pause >= FIRST_PAUSE / 2 && pause <= LONGEST_PAUSE, "{pause:?}");
        }
        assert!(pause_before(50) >= LONGEST_PAUSE / 2);
    }

    #[test]
    fn a_cancel_ends_a_pause() {
        let cancel = Cancel::default();
        let waiting = cancel.clone();
        let thread = std::thread::spawn(move || waiting.wait(Duration::from_secs(3600)));
        cancel.cancel();
        let ended = thread.join().expect("no panic");
        assert!(matches!(ended, Err(ClientError::Cancelled)));
        assert!(cancel.is_cancelled());
    }
}
