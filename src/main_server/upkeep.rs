//! The one thread of the main server's own: it notes which nodes fall silent, takes back orders
//! that are not done in time, and has missing copies made. It sleeps until one of these is due or
//! it is woken.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Main;
use crate::clock::Moment;
use crate::policy::liveness::State;

/// `stopping` and `woken` share a lock, so that no wake is lost between a look and a wait.
#[derive(Default)]
pub struct Waker {
    state: Mutex<Wake>,
    changed: Condvar,
}

#[derive(Default)]
struct Wake {
    woken: bool,
    stopping: bool,
}

impl Waker {
    /// There is something to do.
    pub fn wake(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).woken = true;
        self.changed.notify_one();
    }

    fn stop(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stopping = true;
        self.changed.notify_one();
    }

    /// Waits until it is woken or `patience` is over. `false` when it is to stop.
    fn wait(&self, patience: Option<Duration>) -> bool {
        let mut wake = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !wake.woken && !wake.stopping {
            // An hour stands for ever: nothing is lost by a look too many.
            let patience = patience.unwrap_or(Duration::from_secs(3600));
            let waited =
                self.changed.wait_timeout_while(wake, patience, |w| !w.woken && !w.stopping);
            wake = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        wake.woken = false;
        !wake.stopping
    }
}

/// The thread. Dropping it stops it.
pub struct Upkeep {
    main: Arc<Main>,
    thread: Option<JoinHandle<()>>,
}

impl Upkeep {
    pub fn start(main: Arc<Main>) -> io::Result<Upkeep> {
        let for_thread = main.clone();
        let run = move || loop {
            let next = for_thread.keep_up();
            let patience = next.map(|at| at.since(for_thread.clock.now()));
            if !for_thread.waker.wait(patience) {
                return;
            }
        };
        let thread = thread::Builder::new().name("upkeep".to_string()).spawn(run)?;
        Ok(Upkeep { main, thread: Some(thread) })
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.main.waker.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the upkeep thread ended in a panic");
        }
    }
}

impl Main {
    /// Does what is due now, and says when something will be due next.
    pub(super) fn keep_up(&self) -> Option<Moment> {
        let now = self.clock.now();
        let (changes, next_change) = self.nodes.note_states(now);
        for (node, was, is) in &changes {
            match is {
                State::Suspect | State::Dead => log::warn!("node {} node={node}", is.name()),
                State::Alive | State::Returning | State::Stopped => {
                    log::info!("node {} node={node} was={}", is.name(), was.name());
                }
            }
        }
        if changes.iter().any(|(.., is)| *is == State::Alive) {
            self.copier.retry_waiting();
        }
        let (overdue, next_overdue) = self.nodes.take_back_orders(now);
        for (node, given) in overdue {
            self.close_order(node, given, now);
        }
        let next_copy = self.copy_what_is_missing();
        [next_change, next_overdue, next_copy].into_iter().flatten().min()
    }
}
