//! Frames: a head of eight bytes (the JSON's length and the payload's, both u32 big-endian), the
//! JSON, the payload. Lengths are checked before anything is allocated for them, and buffers grow
//! only with bytes that arrived.

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{MAX_JSON_BYTES, MAX_PAYLOAD_BYTES};

/// Bytes of a head.
pub const HEAD_BYTES: usize = 8;
/// What is asked of the socket at once, and kept for the whole life of a connection.
const BUFFER_BYTES: usize = 8 * 1024;
/// The first piece of a payload's buffer; each further one doubles it.
const FIRST_PIECE_BYTES: usize = 64 * 1024;
/// The most payload bytes handed on at once, so that they are hashed while the cache has them.
const PIECE_BYTES: usize = 256 * 1024;

/// The lengths of a message's parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub json_bytes: u32,
    pub payload_bytes: u32,
}

impl Head {
    fn parse(bytes: [u8; HEAD_BYTES]) -> Result<Head, FrameError> {
        let [a, b, c, d, e, f, g, h] = bytes;
        let json_bytes = u32::from_be_bytes([a, b, c, d]);
        let payload_bytes = u32::from_be_bytes([e, f, g, h]);
        if json_bytes > MAX_JSON_BYTES || payload_bytes > MAX_PAYLOAD_BYTES {
            return Err(FrameError::TooLarge { json_bytes, payload_bytes });
        }
        Ok(Head { json_bytes, payload_bytes })
    }

    /// How long a message of this size may take on its way: 30 s, and 1 s for each 16 KiB.
    pub fn time_allowed(&self) -> Duration {
        let bytes = u64::from(self.json_bytes) + u64::from(self.payload_bytes);
        Duration::from_secs(30 + bytes / (16 * 1024))
    }
}

/// Why no message could be read or written. The stream is of no use after any of these.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error(
        "a message announces {json_bytes} bytes of JSON and {payload_bytes} of payload; \
         the limits are {MAX_JSON_BYTES} and {MAX_PAYLOAD_BYTES}"
    )]
    TooLarge { json_bytes: u32, payload_bytes: u32 },
    /// The peer closed in the middle of a message.
    #[error("the connection was closed in the middle of a message")]
    CutOff,
    /// No message began in the time given.
    #[error("nothing came in time")]
    Idle,
    /// The message, or the space to write one, did not come in time.
    #[error("the other side did not proceed in time")]
    TimedOut,
    #[error("the connection broke")]
    Io(#[from] io::Error),
}

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

/// A socket read or written under a deadline for the whole message, whatever the single calls do.
struct Deadlined<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
}

impl Deadlined<'_> {
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Deadlined<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(out)
    }
}

impl Write for Deadlined<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn frame_error(error: io::Error) -> FrameError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => FrameError::CutOff,
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => FrameError::TimedOut,
        _ => FrameError::Io(error),
    }
}

/// The reading end of a connection.
#[derive(Debug)]
pub struct FrameReader {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// When the message that is being read must be complete.
    deadline: Instant,
    payload_left: u32,
}

impl Default for FrameReader {
    fn default() -> Self {
        let buffer = vec![0; BUFFER_BYTES];
        FrameReader { buffer, start: 0, end: 0, deadline: Instant::now(), payload_left: 0 }
    }
}

impl FrameReader {
    /// Waits up to `idle` for a message to begin, and reads its head and JSON into `json`. What
    /// the message before left of its payload is passed over first.
    /// `Ok(None)` means that the peer closed between messages.
    pub fn read_message(
        &mut self,
        stream: &TcpStream,
        idle: Duration,
        json: &mut Vec<u8>,
    ) -> Result<Option<Head>, FrameError> {
        self.skip_payload(stream)?;
        if self.start == self.end && !self.wait_for_bytes(stream, idle)? {
            return Ok(None);
        }
        self.deadline = Instant::now() + Duration::from_secs(30);
        let mut head = [0; HEAD_BYTES];
        self.read_exact(stream, &mut head)?;
        let head = Head::parse(head)?;
        self.deadline += head.time_allowed() - Duration::from_secs(30);
        self.payload_left = head.payload_bytes;
        json.clear();
        let total = head.json_bytes as usize;
        while json.len() < total {
            let at = json.len();
            json.resize(total.min(at + at.max(BUFFER_BYTES)), 0);
            self.read_exact(stream, &mut json[at..])?;
        }
        Ok(Some(head))
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
        mut seen: impl FnMut(&[u8]),
    ) -> Result<(), FrameError> {
        buffer.clear();
        let total = self.payload_left as usize;
        while self.payload_left > 0 {
            let room = buffer.room(total);
            let count = self.read_some(stream, room)?;
            seen(&room[..count]);
            buffer.filled += count;
            self.payload_left -= count as u32;
        }
        Ok(())
    }

    /// Reads past the rest of the payload, so that the next message can be read.
    pub fn skip_payload(&mut self, stream: &TcpStream) -> Result<(), FrameError> {
        let mut scratch = [0; 4096];
        while self.payload_left > 0 {
            let want = scratch.len().min(self.payload_left as usize);
            let count = self.read_some(stream, &mut scratch[..want])?;
            self.payload_left -= count as u32;
        }
        Ok(())
    }

    fn wait_for_bytes(&mut self, stream: &TcpStream, idle: Duration) -> Result<bool, FrameError> {
        let mut input = Deadlined { stream, deadline: Instant::now() + idle };
        match retry_interrupted(|| input.read(&mut self.buffer)) {
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
        let mut input = Deadlined { stream, deadline: self.deadline };
        if self.start == self.end {
            if out.len() >= self.buffer.len() {
                let count = retry_interrupted(|| input.read(out)).map_err(frame_error)?;
                return if count == 0 { Err(FrameError::CutOff) } else { Ok(count) };
            }
            let count = retry_interrupted(|| input.read(&mut self.buffer)).map_err(frame_error)?;
            if count == 0 {
                return Err(FrameError::CutOff);
            }
            (self.start, self.end) = (0, count);
        }
        let count = out.len().min(self.end - self.start);
        out[..count].copy_from_slice(&self.buffer[self.start..self.start + count]);
        self.start += count;
        Ok(count)
    }
}

fn retry_interrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Writes a message: head, JSON and payload in one vectored call where the socket takes it whole.
///
/// The caller keeps within the limits; the JSON of a reply is bounded by the lists' bounds.
pub fn write_message(stream: &TcpStream, json: &[u8], payload: &[&[u8]]) -> Result<(), FrameError> {
    let json_bytes = u32::try_from(json.len()).unwrap_or(u32::MAX);
    let payload_bytes = payload.iter().map(|part| part.len()).sum::<usize>();
    let payload_bytes = u32::try_from(payload_bytes).unwrap_or(u32::MAX);
    if json_bytes > MAX_JSON_BYTES || payload_bytes > MAX_PAYLOAD_BYTES {
        return Err(FrameError::TooLarge { json_bytes, payload_bytes });
    }
    let mut head = [0; HEAD_BYTES];
    head[..4].copy_from_slice(&json_bytes.to_be_bytes());
    head[4..].copy_from_slice(&payload_bytes.to_be_bytes());
    let mut slices = Vec::with_capacity(2 + payload.len());
    slices.push(IoSlice::new(&head));
    slices.push(IoSlice::new(json));
    slices.extend(payload.iter().map(|part| IoSlice::new(part)));
    let allowed = Head { json_bytes, payload_bytes }.time_allowed();
    let mut output = Deadlined { stream, deadline: Instant::now() + allowed };
    write_all_vectored(&mut output, &mut slices).map_err(frame_error)
}

fn write_all_vectored(output: &mut impl Write, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    // The kernel takes at most 1,024 slices in one call (IOV_MAX, writev(2)).
    const MAX_SLICES: usize = 1024;
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        let now = slices.len().min(MAX_SLICES);
        match output.write_vectored(&slices[..now]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut slices, count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The JSON of a request: an object with one member, named after it.
pub fn encode_request<M: super::Message>(request: &M) -> Vec<u8> {
    struct Envelope<'a, M>(&'a M);
    impl<M: super::Message> Serialize for Envelope<'_, M> {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::SerializeMap;
            let mut map = serializer.serialize_map(Some(1))?;
            map.serialize_entry(M::NAME, self.0)?;
            map.end()
        }
    }
    encode(&Envelope(request))
}

/// The JSON of any message of ours.
pub fn encode(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("messages have text keys and no failing serializers")
}
