//! Ending one exchange that is no longer wanted, from another thread.

use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::wire::Connection;
use crate::wire::connection::CallError;

/// With which an exchange is ended. Flag and socket share a lock: an exchange is either watched
/// before the cut, and ended by it, or does not begin.
#[derive(Debug, Default)]
pub(super) struct Cut(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    is_cut: bool,
    socket: Option<TcpStream>,
}

impl Cut {
    /// Ends the exchange that is under way, and those that would begin from now on.
    pub fn cut(&self) {
        let mut state = self.lock();
        state.is_cut = true;
        if let Some(socket) = state.socket.take() {
            // One that the node has closed already needs no cutting.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Runs `talk`, which a cut ends with an error that is no reason to try again.
    pub fn watch<T>(
        &self,
        connection: &mut Connection,
        talk: impl FnOnce(&mut Connection) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let unwanted = |connection: &Connection| {
            let what = "nothing in time: another copy was here first".to_string();
            Err(CallError::BadReply { address: connection.address().clone(), what })
        };
        {
            let mut state = self.lock();
            if state.is_cut {
                return unwanted(connection);
            }
            // Without a second handle it cannot be cut, and takes as long as it takes.
            state.socket = connection.socket().ok();
        }
        let result = talk(connection);
        let mut state = self.lock();
        state.socket = None;
        // Its connection was shut, perhaps just after the last byte.
        if state.is_cut { unwanted(connection) } else { result }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
