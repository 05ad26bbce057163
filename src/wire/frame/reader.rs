//! The reading half of frames: messages out of a socket, in pieces as they arrive.

use std::io::{self, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::{BUFFER_BYTES, FrameError, HEAD_BYTES, Head, Pace, frame_error};

/// The first piece of a payload's buffer; each further one doubles it.
const FIRST_PIECE_BYTES: usize = 64 * 1024;
/// The most payload bytes handed on at once, so that they are hashed while the cache has them.
const PIECE_BYTES: usize = 256 * 1024;

/// Payload bytes as they came in. Kept from message to message, since its memory is cleared only
/// once; the bytes behind `filled` are leftovers of earlier ones.
#[derive(Debug, Default)]
pub struct PayloadBuffer {
    bytes: Vec<u8>,
    filled: usize,
}

impl PayloadBuffer {
    /// The payload.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Empties it; the memory stays.
    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// Puts bytes behind it that came another way.
    pub fn extend(&mut self, bytes: &[u8]) {
        let end = self.filled + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[self.filled..end].copy_from_slice(bytes);
        self.filled = end;
    }

    /// Memory that it holds on to, in bytes.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Room for more of a payload of `total` bytes: at most as much again as has arrived.
    fn room(&mut self, total: usize) -> &mut [u8] {
        let step = self.filled.max(FIRST_PIECE_BYTES);
        let end = total.min(self.filled + step).max(self.bytes.len().min(total));
        if self.bytes.len() < end {
            self.bytes.reserve_exact(end - self.bytes.len());
            self.bytes.resize(end, 0);
        }
        let end = end.min(self.filled + PIECE_BYTES);
        &mut self.bytes[self.filled..end]
    }
}

/// What is read at once until a read has filled it: an idle connection keeps this.
const FIRST_BUFFER_BYTES: usize = 512;

/// The reading end of a connection.
#[derive(Debug)]
pub struct FrameReader {
    /// Grows to `BUFFER_BYTES` on a connection that has use for it.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    pace: Pace,
    timeout: Timeout,
    /// When the message that is being read must be complete.
    deadline: Instant,
    json_left: u32,
    payload_left: u32,
}

impl Default for FrameReader {
    fn default() -> Self {
        FrameReader::with_pace(Pace::default())
    }
}

impl FrameReader {
    /// A reader that gives messages another time than the protocol's.
    pub fn with_pace(pace: Pace) -> FrameReader {
        FrameReader {
            buffer: vec![0; FIRST_BUFFER_BYTES],
            start: 0,
            end: 0,
            pace,
            timeout: Timeout::default(),
            deadline: Instant::now(),
            json_left: 0,
            payload_left: 0,
        }
    }

    /// Waits up to `idle` for a message to begin, and reads its head and JSON into `json`. What
    /// the message before left of its payload is passed over first.
    /// `Ok(None)` means that the peer closed between messages.
    pub fn read_message(
        &mut self,
        stream: &TcpStream,
        idle: Duration,
        json: &mut Vec<u8>,
    ) -> Result<Option<Head>, FrameError> {
        let head = self.read_head(stream, idle, Head::LARGEST)?;
        if head.is_some() {
            self.read_json(stream, json, |_| true)?;
        }
        Ok(head)
    }

    /// The first half of `read_message`: the head, of a message no larger than `most`.
    pub fn read_head(
        &mut self,
        stream: &TcpStream,
        idle: Duration,
        most: Head,
    ) -> Result<Option<Head>, FrameError> {
        self.skip(stream)?;
        if self.start == self.end && !self.wait_for_bytes(stream, idle)? {
            return Ok(None);
        }
        let begun = Instant::now();
        self.deadline = begun + self.pace.base;
        let mut head = [0; HEAD_BYTES];
        self.read_exact(stream, &mut head)?;
        let head = Head::parse(head).within(most)?;
        self.deadline = begun + self.pace.allows(head);
        (self.json_left, self.payload_left) = (head.json_bytes, head.payload_bytes);
        Ok(Some(head))
    }

    /// The second half of `read_message`: the JSON. Before its memory grows to a new size,
    /// `may_grow` is asked; when it says no, `json` is left empty and `Ok(false)` returned, and the
    /// next message can be read all the same.
    pub fn read_json(
        &mut self,
        stream: &TcpStream,
        json: &mut Vec<u8>,
        mut may_grow: impl FnMut(usize) -> bool,
    ) -> Result<bool, FrameError> {
        json.clear();
        while self.json_left > 0 {
            let at = json.len();
            let end = at + at.max(BUFFER_BYTES).min(self.json_left as usize);
            if end > json.capacity() {
                if !may_grow(end) {
                    *json = Vec::new();
                    return Ok(false);
                }
                json.reserve_exact(end - at);
            }
            json.resize(end, 0);
            self.read_exact(stream, &mut json[at..])?;
            self.json_left -= (end - at) as u32;
        }
        Ok(true)
    }

    /// True when bytes behind the current message's read part have arrived already.
    pub fn has_buffered(&self) -> bool {
        self.start < self.end
    }

    /// Bytes of the current message's payload that were not read yet.
    pub fn payload_left(&self) -> u32 {
        self.payload_left
    }

    /// Reads the rest of the payload into `buffer`, and shows each piece to `seen` as it arrives.
    pub fn read_payload(
        &mut self,
        stream: &TcpStream,
        buffer: &mut PayloadBuffer,
        seen: impl FnMut(&[u8]),
    ) -> Result<(), FrameError> {
        self.read_payload_if(stream, buffer, seen, |_| true).map(|_| ())
    }

    /// The same. Before as many bytes as the argument says are held in all, `may_hold` is asked;
    /// when it says no, `Ok(false)` is returned, and the rest can be passed over.
    pub fn read_payload_if(
        &mut self,
        stream: &TcpStream,
        buffer: &mut PayloadBuffer,
        mut seen: impl FnMut(&[u8]),
        mut may_hold: impl FnMut(usize) -> bool,
    ) -> Result<bool, FrameError> {
        buffer.clear();
        let total = self.payload_left as usize;
        let mut held = 0;
        while self.payload_left > 0 {
            if buffer.filled == held {
                held = total.min(held + held.max(FIRST_PIECE_BYTES));
                if !may_hold(held) {
                    return Ok(false);
                }
            }
            let most = held - buffer.filled;
            let room = buffer.room(total);
            let most = most.min(room.len());
            let room = &mut room[..most];
            let count = self.read_some(stream, room)?;
            seen(&room[..count]);
            buffer.filled += count;
            self.payload_left -= count as u32;
        }
        Ok(true)
    }

    /// Reads past the rest of the payload, so that the next message can be read.
    pub fn skip_payload(&mut self, stream: &TcpStream) -> Result<(), FrameError> {
        while self.payload_left > 0 {
            self.payload_left -= self.pass_over(stream, self.payload_left)?;
        }
        Ok(())
    }

    /// Reads past the rest of the message.
    fn skip(&mut self, stream: &TcpStream) -> Result<(), FrameError> {
        while self.json_left > 0 {
            self.json_left -= self.pass_over(stream, self.json_left)?;
        }
        self.skip_payload(stream)
    }

    /// Reads past at least one and at most `most` bytes, through the reader's own buffer.
    fn pass_over(&mut self, stream: &TcpStream, most: u32) -> Result<u32, FrameError> {
        if self.start == self.end {
            self.fill(stream)?;
        }
        let count = (self.end - self.start).min(most as usize);
        self.start += count;
        Ok(count as u32)
    }

    fn wait_for_bytes(&mut self, stream: &TcpStream, idle: Duration) -> Result<bool, FrameError> {
        self.make_room();
        match self.timeout.read(stream, Instant::now() + idle, &mut self.buffer) {
            Ok(count) => {
                (self.start, self.end) = (0, count);
                Ok(count > 0)
            }
            Err(error) => match frame_error(error) {
                FrameError::TimedOut => Err(FrameError::Idle),
                other => Err(other),
            },
        }
    }

    fn read_exact(&mut self, stream: &TcpStream, out: &mut [u8]) -> Result<(), FrameError> {
        let mut filled = 0;
        while filled < out.len() {
            filled += self.read_some(stream, &mut out[filled..])?;
        }
        Ok(())
    }

    /// At least one byte, from what is buffered or else from the socket; large reads go past the
    /// buffer.
    fn read_some(&mut self, stream: &TcpStream, out: &mut [u8]) -> Result<usize, FrameError> {
        if self.start == self.end {
            if out.len() >= self.buffer.len() {
                return read_before(&mut self.timeout, stream, self.deadline, out);
            }
            self.fill(stream)?;
        }
        let count = out.len().min(self.end - self.start);
        out[..count].copy_from_slice(&self.buffer[self.start..self.start + count]);
        self.start += count;
        Ok(count)
    }

    /// The empty buffer becomes larger when the last read has filled it.
    fn make_room(&mut self) {
        if self.end == self.buffer.len() {
            self.buffer.resize(BUFFER_BYTES, 0);
        }
    }

    /// Reads into the empty buffer.
    fn fill(&mut self, stream: &TcpStream) -> Result<(), FrameError> {
        self.make_room();
        let count = read_before(&mut self.timeout, stream, self.deadline, &mut self.buffer)?;
        (self.start, self.end) = (0, count);
        Ok(())
    }
}

/// At least one byte of the message under way.
fn read_before(
    timeout: &mut Timeout,
    stream: &TcpStream,
    deadline: Instant,
    out: &mut [u8],
) -> Result<usize, FrameError> {
    match timeout.read(stream, deadline, out).map_err(frame_error)? {
        0 => Err(FrameError::CutOff),
        count => Ok(count),
    }
}

/// The timeout that reads of the socket have now. It is changed only where it does not do: most waits
/// are as long as the one before, and a system call each would be a fortieth of a small exchange.
#[derive(Debug, Default)]
pub(super) struct Timeout(Option<Duration>);

impl Timeout {
    /// Reads what is there, or else waits for something until the deadline, or a sixteenth longer.
    pub fn read(
        &mut self,
        stream: &TcpStream,
        deadline: Instant,
        out: &mut [u8],
    ) -> io::Result<usize> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let does = |set: Duration| left / 8 <= set && set <= left + left / 16;
            if !self.0.is_some_and(does) {
                stream.set_read_timeout(Some(left))?;
                self.0 = Some(left);
            }
            match (&mut &*stream).read(out) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Perhaps one that was set for a shorter wait.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }
}
