//! The client end of a connection, for clients and for servers that call others.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::frame::{self, FrameError, FrameReader, PayloadBuffer};
use super::{Fault, Hello, HelloReply, Message, Outcome};
use crate::ids::Address;

/// Why a call brought no good answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("cannot reach {address}")]
    Connect { address: Address, source: io::Error },
    /// Plain text would leave this machine, and nobody said that it may.
    #[error("{0} is not on this machine, and the connection would not be encrypted")]
    NotLoopback(Address),
    #[error("the connection to {address} failed")]
    Broken { address: Address, source: FrameError },
    /// The server closed the connection instead of answering.
    #[error("{0} closed the connection")]
    Closed(Address),
    #[error("{address} answered in a way that the protocol does not know: {what}")]
    BadReply { address: Address, what: String },
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl CallError {
    /// The fault, when the server answered with one.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            CallError::Fault(fault) => Some(fault),
            _ => None,
        }
    }
}

/// How to reach servers.
#[derive(Debug, Clone, Copy)]
pub struct Dialing {
    pub connect_timeout: Duration,
    /// How long a server may think before it answers `hello`, which costs it next to nothing.
    pub hello_timeout: Duration,
    /// How long a server may think before it answers.
    pub answer_timeout: Duration,
    /// Allow connections in plain text to other machines.
    pub insecure_plaintext: bool,
}

impl Default for Dialing {
    fn default() -> Self {
        Dialing {
            connect_timeout: Duration::from_secs(5),
            hello_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(60),
            insecure_plaintext: false,
        }
    }
}

/// An open connection on which `hello` has been answered.
///
/// `call` is one request and its answer. `send` and `receive` can be apart: answers come in the
/// order of the requests. After any error but `Fault` the connection is of no use, and after the
/// faults with which a server ends a connection the next call says so.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    address: Address,
    reader: FrameReader,
    json: Vec<u8>,
    answer_timeout: Duration,
    /// Requests that were sent and have no answer yet.
    unanswered: usize,
    hello: HelloReply,
}

impl Connection {
    /// Dials and says `hello`.
    pub fn open(
        address: &Address,
        dialing: &Dialing,
        hello: &Hello,
    ) -> Result<Connection, CallError> {
        Connection::open_watched(address, dialing, hello, |_| {})
    }

    /// As `open`, and shows the socket before anything is said on it, so that another thread can cut
    /// the connection from then on.
    pub fn open_watched(
        address: &Address,
        dialing: &Dialing,
        hello: &Hello,
        dialled: impl FnOnce(&TcpStream),
    ) -> Result<Connection, CallError> {
        let stream = dial(address, dialing)?;
        dialled(&stream);
        let time = crate::clock::WallTime(0);
        let placeholder = HelloReply {
            version: 0,
            agent: String::new(),
            cluster: None,
            node: None,
            incarnation: None,
            time,
        };
        let mut connection = Connection {
            stream,
            address: address.clone(),
            reader: FrameReader::default(),
            json: Vec::new(),
            answer_timeout: dialing.hello_timeout,
            unanswered: 0,
            hello: placeholder,
        };
        connection.hello = connection.call(hello)?;
        connection.answer_timeout = dialing.answer_timeout;
        Ok(connection)
    }

    /// What the server said of itself.
    pub fn hello(&self) -> &HelloReply {
        &self.hello
    }

    /// The server's address, as it was dialled.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// A second handle to the socket, with which another thread can cut the connection.
    pub fn socket(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }

    /// How long `receive` waits for an answer to begin.
    pub fn set_answer_timeout(&mut self, timeout: Duration) {
        self.answer_timeout = timeout;
    }

    /// Sends a request without a payload and waits for its answer.
    pub fn call<M: Message>(&mut self, request: &M) -> Result<M::Reply, CallError> {
        self.send(request, &[])?;
        self.receive::<M>()
    }

    /// Sends a request; its answer is received later.
    ///
    /// Whoever sends many before it receives must keep their answers small, or both ends can come
    /// to wait for the other to read.
    pub fn send<M: Message>(&mut self, request: &M, payload: &[&[u8]]) -> Result<(), CallError> {
        let json = frame::encode_request(request);
        match frame::write_message(&self.stream, &json, payload) {
            Ok(()) => {
                self.unanswered += 1;
                Ok(())
            }
            Err(source) => Err(self.last_words().unwrap_or_else(|| self.broken(source))),
        }
    }

    /// The fault with which the server may have ended the connection while we wrote.
    fn last_words(&mut self) -> Option<CallError> {
        const PATIENCE: Duration = Duration::from_secs(1);
        if self.unanswered > 0 {
            return None;
        }
        self.reader.read_message(&self.stream, PATIENCE, &mut self.json).ok()??;
        match serde_json::from_slice(&self.json).ok()? {
            Outcome::Fault(fault) => Some(CallError::Fault(fault)),
            Outcome::Ok(serde::de::IgnoredAny) => None,
        }
    }

    /// Receives the answer to the oldest request that has none yet. A payload that comes with it
    /// must be read before the next answer, or is passed over.
    pub fn receive<M: Message>(&mut self) -> Result<M::Reply, CallError> {
        let read = self.reader.read_message(&self.stream, self.answer_timeout, &mut self.json);
        self.unanswered = self.unanswered.saturating_sub(1);
        match read {
            Ok(Some(_)) => {}
            Ok(None) => return Err(CallError::Closed(self.address.clone())),
            Err(source) => return Err(self.broken(source)),
        }
        let outcome: Outcome<M::Reply> = serde_json::from_slice(&self.json).map_err(|error| {
            let what = error.to_string().chars().take(200).collect();
            CallError::BadReply { address: self.address.clone(), what }
        })?;
        Result::from(outcome).map_err(CallError::Fault)
    }

    /// Bytes of the last answer's payload that were not read yet.
    pub fn payload_left(&self) -> u32 {
        self.reader.payload_left()
    }

    /// Reads the payload of the last answer.
    pub fn read_payload(
        &mut self,
        buffer: &mut PayloadBuffer,
        seen: impl FnMut(&[u8]),
    ) -> Result<(), CallError> {
        let read = self.reader.read_payload(&self.stream, buffer, seen);
        read.map_err(|source| self.broken(source))
    }

    fn broken(&self, source: FrameError) -> CallError {
        CallError::Broken { address: self.address.clone(), source }
    }
}

/// Connects to the first of the host's addresses that answers.
fn dial(address: &Address, dialing: &Dialing) -> Result<TcpStream, CallError> {
    let failed = |source| CallError::Connect { address: address.clone(), source };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in address.as_str().to_socket_addrs().map_err(failed)? {
        if !candidate.ip().is_loopback() && !dialing.insecure_plaintext {
            return Err(CallError::NotLoopback(address.clone()));
        }
        match TcpStream::connect_timeout(&candidate, dialing.connect_timeout) {
            // A port of this machine that nobody listens on can be met by our own dialling end.
            Ok(stream) if stream.local_addr().ok() == Some(candidate) => {
                last = io::ErrorKind::ConnectionRefused.into();
            }
            Ok(stream) => {
                // A request waits for its answer; Nagle's algorithm would hold it back for an ACK.
                stream.set_nodelay(true).map_err(failed)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}
