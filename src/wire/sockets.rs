//! Connections that were dialled from here, so that another thread can cut those that hang.

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Hello;
use super::connection::{CallError, Connection, Dialing};
use crate::ids::Address;

/// The sockets of one kind of connections.
#[derive(Debug, Default)]
pub struct Sockets(Mutex<Table>);

/// `is_cut` shares the lock of `open` on purpose: a connection is either listed before the cut, and
/// ended by it, or ended as soon as it is listed.
#[derive(Debug, Default)]
struct Table {
    is_cut: bool,
    next: u64,
    open: HashMap<u64, TcpStream>,
}

/// A connection that can be cut for as long as it is about.
#[derive(Debug)]
pub struct Dialled {
    connection: Connection,
    _listed: Listed,
}

#[derive(Debug)]
struct Listed {
    number: u64,
    sockets: Arc<Sockets>,
}

impl Sockets {
    /// Dials and says `hello`.
    pub fn open(
        self: &Arc<Self>,
        address: &Address,
        dialing: &Dialing,
        hello: &Hello,
    ) -> Result<Dialled, CallError> {
        let mut listed = None;
        let list = |stream: &TcpStream| listed = Some(self.list(stream));
        let connection = Connection::open_watched(address, dialing, hello, list)?;
        let listed = listed.expect("a connection was dialled before `hello` was answered on it");
        Ok(Dialled { connection, _listed: listed })
    }

    /// Ends all connections, and all that are dialled from now on.
    pub fn cut(&self) {
        let mut table = self.lock();
        table.is_cut = true;
        table.open.values().for_each(end);
    }

    fn list(self: &Arc<Self>, stream: &TcpStream) -> Listed {
        let mut table = self.lock();
        table.next += 1;
        let number = table.next;
        match stream.try_clone() {
            Ok(_) if table.is_cut => end(stream),
            Ok(handle) => drop(table.open.insert(number, handle)),
            // Without a second handle it cannot be cut, so it had better not be.
            Err(error) => {
                log::warn!("a connection was given up, out of file descriptors error={error}");
                end(stream);
            }
        }
        Listed { number, sockets: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn end(stream: &TcpStream) {
    // One that the peer has closed already needs no cutting.
    let _ = stream.shutdown(Shutdown::Both);
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.sockets.lock().open.remove(&self.number);
    }
}

impl Deref for Dialled {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Dialled {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}
