//! SIGINT and SIGTERM during a bench: what is under way ends, and all of it is removed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::cli::exit::{Exit, Failure};
use crate::cli::signals;
use crate::client::Cancel;

/// Whether the bench is to end, and what has to hear of it.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<Mutex<State>>);

/// Under one lock, so that a client is either there when the signal comes, or hears of it when it
/// is made.
#[derive(Default)]
struct State {
    is_requested: bool,
    client: Option<Cancel>,
}

impl Interrupt {
    /// Listens for the signals from now on.
    pub fn listen() -> Result<Interrupt, Failure> {
        let failed = |error: &std::io::Error| {
            Failure::because(Exit::Failed, "cannot listen for signals", error)
        };
        let requests = signals::stop_requests().map_err(|error| failed(&error))?;
        let interrupt = Interrupt::default();
        let told = interrupt.clone();
        let waiter = thread::Builder::new().name("interrupt".to_string()).spawn(move || {
            if requests.recv().is_ok() {
                let mut state = told.state();
                state.is_requested = true;
                if let Some(client) = state.client.take() {
                    client.cancel();
                }
            }
            // The receiver is kept: a second signal ends the process at once.
            requests
        });
        waiter.map(|_| interrupt).map_err(|error| failed(&error))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this client is the one whose work ends.
    pub fn attach(&self, client: Cancel) {
        let mut state = self.state();
        if state.is_requested {
            client.cancel();
        }
        state.client = Some(client);
    }

    /// True when the bench is to end.
    pub fn is_requested(&self) -> bool {
        self.state().is_requested
    }

    /// Fails when the bench is to end.
    pub fn check(&self) -> Result<(), Failure> {
        match self.is_requested() {
            true => Err(Failure::new(Exit::Interrupted, "interrupted")),
            false => Ok(()),
        }
    }
}
