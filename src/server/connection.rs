//! The server end of a connection: requests in, answers out, within the limits.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use super::{Share, Slot};
use crate::wire::frame::{self, FrameError, FrameReader, Head, Pace, PayloadBuffer};
use crate::wire::{Fault, FaultCode, Outcome};

/// What ended a wait with an answer held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// What was waited for.
    Bell,
    /// The peer closed its end or sent more, the connection broke, or the server stops.
    Peer,
    /// Nothing: the time is over.
    Timeout,
}

/// The server end of a connection.
pub struct ServerConnection {
    stream: Arc<TcpStream>,
    peer: SocketAddr,
    slot: Slot,
    reader: FrameReader,
    json: Vec<u8>,
    /// What `json` has of the server's budget for large requests.
    json_share: Option<Share>,
    /// A request was read and not answered yet.
    owes_answer: bool,
}

impl ServerConnection {
    pub(super) fn new(stream: Arc<TcpStream>, peer: SocketAddr, slot: Slot) -> ServerConnection {
        let reader = FrameReader::with_pace(slot.shared.limits.pace);
        ServerConnection {
            stream,
            peer,
            slot,
            reader,
            json: Vec::new(),
            json_share: None,
            owes_answer: false,
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Waits for the next request and reads its JSON, which `request_json` then has. `None` when
    /// the connection is over: the peer closed it, was silent for too long, sent what no reader
    /// can keep in step with (it is told), or the server stops.
    ///
    /// Before `take_place`, requests must be as small as a `hello` and come soon.
    pub fn next_request(&mut self) -> Option<Head> {
        loop {
            self.shrink();
            let (head, has_json) = match self.read_request() {
                Ok(read) => read?,
                Err(error) => {
                    self.tell_and_log(error);
                    return None;
                }
            };
            self.owes_answer = true;
            if self.slot.shared.is_stopping() {
                self.reply::<()>(
                    Err(Fault::new(FaultCode::Stopping, "the server is stopping")),
                    &[],
                );
                return None;
            }
            if has_json {
                return Some(head);
            }
            let why = "the server has as many large requests in work as its memory allows";
            if !self.reply::<()>(Err(Fault::new(FaultCode::Busy, why)), &[]) {
                return None;
            }
        }
    }

    /// The next request's head, and whether there was memory for its JSON.
    fn read_request(&mut self) -> Result<Option<(Head, bool)>, FrameError> {
        let limits = &self.slot.shared.limits;
        let (idle, most) = match self.slot.place {
            Some(_) => (limits.idle_timeout, Head::LARGEST),
            None => (limits.hello_timeout, Head::LARGEST_HELLO),
        };
        let Some(head) = self.reader.read_head(&self.stream, idle, most)? else { return Ok(None) };
        let budget = &self.slot.shared.json_budget;
        let (share, mut taken) = (&mut self.json_share, frame::BUFFER_BYTES);
        let may_grow = |bytes: usize| {
            let more = bytes.saturating_sub(taken) as u64;
            taken = taken.max(bytes);
            match (more, &mut *share) {
                (0, _) => true,
                (_, Some(share)) => share.try_grow(more),
                (_, None) => {
                    *share = budget.take(more, Duration::ZERO);
                    share.is_some()
                }
            }
        };
        let has_json = self.reader.read_json(&self.stream, &mut self.json, may_grow)?;
        Ok(Some((head, has_json)))
    }

    /// The JSON of the request that was read last.
    pub fn request_json(&self) -> &[u8] {
        &self.json
    }

    /// Bytes of the request's payload that were not read yet.
    pub fn payload_left(&self) -> u32 {
        self.reader.payload_left()
    }

    /// Reads the request's payload, and shows each piece as it arrives. A payload that is not read
    /// is passed over before the next request. `false` when the connection is over.
    pub fn read_payload(&mut self, buffer: &mut PayloadBuffer, seen: impl FnMut(&[u8])) -> bool {
        match self.reader.read_payload(&self.stream, buffer, seen) {
            Ok(()) => true,
            Err(error) => {
                self.tell_and_log(error);
                false
            }
        }
    }

    /// The same, within a budget: `share` grows as the payload arrives, and `patience` is how long
    /// it waits for that. `None` when the connection is over; `Some(false)` when there was no memory
    /// for the payload, of which the rest is passed over then.
    pub fn read_payload_within(
        &mut self,
        buffer: &mut PayloadBuffer,
        share: &mut Share,
        patience: Duration,
        seen: impl FnMut(&[u8]),
    ) -> Option<bool> {
        let may_hold = |bytes: usize| {
            let more = (bytes as u64).saturating_sub(share.bytes());
            more == 0 || share.grow(more, patience)
        };
        match self.reader.read_payload_if(&self.stream, buffer, seen, may_hold) {
            Ok(true) => Some(true),
            Ok(false) => self.skip_payload().then_some(false),
            Err(error) => {
                self.tell_and_log(error);
                None
            }
        }
    }

    /// Passes over the rest of the request's payload. `false` when the connection is over.
    pub fn skip_payload(&mut self) -> bool {
        self.reader.skip_payload(&self.stream).map_err(|error| self.tell_and_log(error)).is_ok()
    }

    /// Answers. `false` when the connection is over.
    ///
    /// An answer whose JSON is over the limit of a message goes out as the fault `too_large`.
    pub fn reply<T: Serialize>(&mut self, reply: Result<T, Fault>, payload: &[&[u8]]) -> bool {
        self.owes_answer = false;
        let (mut json, mut payload) = (frame::encode(&Outcome::from(reply)), payload);
        if json.len() > Head::LARGEST.json_bytes as usize {
            log::warn!("an answer was too large peer={} json_bytes={}", self.peer, json.len());
            let why = "the answer does not fit into a message; ask for fewer items at once";
            let fault = Outcome::<()>::Fault(Fault::new(FaultCode::TooLarge, why));
            (json, payload) = (frame::encode(&fault), &[]);
        }
        self.write(self.slot.shared.limits.pace, &json, payload)
    }

    fn write(&self, pace: Pace, json: &[u8], payload: &[&[u8]]) -> bool {
        match frame::write_message_within(&self.stream, pace, json, payload) {
            Ok(()) => true,
            Err(error) => {
                log::debug!("no answer could be sent peer={} error={error}", self.peer);
                false
            }
        }
    }

    /// Counts the connection as a node's from now on, or as a client's, for which there are fewer
    /// places. `false` when there is none left: the caller answers `busy` and ends.
    ///
    /// To be called once `hello` is found good. Until then the connection is the first to go when
    /// others need its place, and is held to the limits of a `hello`.
    pub fn take_place(&mut self, is_node: bool) -> bool {
        self.slot.take_place(is_node)
    }

    /// Waits, with the answer held back, until `bell` can be read, something happens on the
    /// connection, or `patience` is over. A peer that dies is noticed at once.
    pub fn wait_for(&self, bell: &impl AsFd, patience: Duration) -> Woken {
        if self.reader.has_buffered() {
            return Woken::Peer;
        }
        let mut awaited =
            [PollFd::new(bell, PollFlags::IN), PollFd::new(&*self.stream, PollFlags::IN)];
        let patience = Timespec::try_from(patience).ok();
        match poll(&mut awaited, patience.as_ref()) {
            Ok(0) => Woken::Timeout,
            Ok(_) if awaited[1].revents().is_empty() => Woken::Bell,
            Ok(_) => Woken::Peer,
            // A signal, say. The caller looks at what there is and waits again.
            Err(_) => Woken::Bell,
        }
    }

    /// Gives back the memory of a large request before the connection idles. `next_request` does
    /// so too; a server that works long on a request does it as soon as the request is parsed.
    pub fn shrink(&mut self) {
        if self.json.capacity() > frame::BUFFER_BYTES {
            self.json = Vec::new();
        }
        self.json_share = None;
    }

    /// An answer waits for nothing; Nagle's algorithm would hold it back for an ACK.
    pub(super) fn set_nodelay(&self) {
        if let Err(error) = self.stream.set_nodelay(true) {
            log::debug!("connection without TCP_NODELAY peer={} error={error}", self.peer);
        }
    }

    /// Answers for a request that ended in a panic, unless it was answered before.
    pub(super) fn admit_panic(&mut self) {
        log::error!("a request ended in a panic; its connection is closed peer={}", self.peer);
        if self.owes_answer {
            let why = "the request failed inside the server; its log says more";
            self.reply::<()>(Err(Fault::new(FaultCode::Internal, why)), &[]);
        }
    }

    /// Ends the connection so that the last answer arrives.
    pub(super) fn say_farewell(&self) {
        frame::say_farewell(&self.stream, self.slot.shared.limits.farewell);
    }

    fn tell_and_log(&mut self, error: FrameError) {
        let code = match &error {
            FrameError::TooLarge { .. } => Some(FaultCode::TooLarge),
            FrameError::TimedOut => Some(FaultCode::Timeout),
            FrameError::CutOff | FrameError::Idle | FrameError::Io(_) => None,
        };
        log::debug!("connection over peer={} error={error}", self.peer);
        if let Some(code) = code {
            let fault = Outcome::<()>::Fault(Fault::new(code, error.to_string()));
            let farewell = self.slot.shared.limits.farewell;
            let pace = Pace { base: farewell, ..Pace::default() };
            self.write(pace, &frame::encode(&fault), &[]);
        }
    }
}
